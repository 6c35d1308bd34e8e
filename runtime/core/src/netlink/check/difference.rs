//! Differences that CHECK can find, and their texts.

use std::fmt;

use ipnet::IpNet;
use weft_host_abi::types::Route;

use super::{ChildDifference, StepDifference};
use crate::plan::{Family, LinkRef, Mac};

/// A difference from the plan. Displayed in the reference plugins' words.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Difference {
    /// The bridge is gone.
    NoBridge {
        /// Its name.
        name: String,
    },
    /// The bridge is now a link of another kind.
    NotABridge {
        /// Its name.
        name: String,
    },
    /// The bridge's promiscuous mode was switched off.
    Promisc {
        /// Its name.
        name: String,
    },
    /// The container's link is gone or was replaced.
    NoContainerLink {
        /// Its name.
        name: String,
    },
    /// The host's end is gone or is not a veth.
    NoHostLink {
        /// Its name.
        name: String,
        /// The bridge of which it should be a port, if any.
        bridge: Option<String>,
    },
    /// The two ends are not ends of one pair.
    NotPeers {
        /// Container end.
        container: String,
        /// Host end.
        host: String,
    },
    /// The link has another MAC.
    Mac {
        /// The link.
        link: LinkRef,
        /// Its MAC according to the plan.
        want: Mac,
        /// Its actual MAC.
        have: Option<Mac>,
    },
    /// The host's end is not a port of the bridge.
    NotAPort {
        /// The link.
        link: String,
        /// The bridge.
        bridge: String,
    },
    /// The port's hairpin or isolation flag was changed.
    PortFlags {
        /// The port.
        link: String,
    },
    /// The port's VLANs were changed.
    Vlans {
        /// The port.
        link: String,
    },
    /// A link is missing.
    NoLink {
        /// The link.
        link: LinkRef,
    },
    /// A link is down.
    Down {
        /// The link.
        link: LinkRef,
    },
    /// An address is missing.
    Address {
        /// The address.
        address: IpNet,
        /// The link.
        link: LinkRef,
    },
    /// No route leads to the network of an address.
    NoGatewayRoute {
        /// The network.
        network: IpNet,
    },
    /// A route is missing.
    Route {
        /// The route.
        route: Route,
    },
    /// Forwarding is off.
    Forwarding {
        /// The family.
        family: Family,
    },
    /// A child of another link differs.
    Child(ChildDifference),
    /// A sysctl that the host depends on has another value.
    Sysctl {
        /// Its path below `/proc/sys/net`.
        key: String,
        /// The value it should have.
        want: String,
    },
    /// An address is not a source of a firewalld zone.
    NoSource {
        /// The address.
        address: std::net::IpAddr,
        /// The zone.
        zone: String,
    },
    /// Elements of nftables sets are missing.
    Elements {
        /// Their purpose.
        op: String,
    },
    /// A change of a step is missing.
    Step(StepDifference),
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoBridge { name } => write!(f, "CNI created bridge {name} in host namespace was not found"),
            Self::NotABridge { name } => write!(f, "{name:?} already exists but is not a bridge"),
            Self::Promisc { name } => write!(f, "bridge interface {name} is no longer in promiscuous mode"),
            Self::NoContainerLink { name } => write!(f, "CNI created interface in container {name} not found"),
            Self::NoHostLink { bridge: Some(bridge), .. } => {
                write!(f, "CNI veth created for bridge {bridge} was not found")
            }
            Self::NoHostLink { name, bridge: None } => write!(f, "CNI veth {name} in host namespace was not found"),
            Self::NotPeers { container, host } => {
                write!(f, "container veth {container} and host veth {host} are not ends of one pair")
            }
            Self::Mac { link, want, have: Some(have) } => {
                write!(f, "interface {link} has MAC address {have}, not the configured {want}")
            }
            Self::Mac { link, want, have: None } => {
                write!(f, "interface {link} has no MAC address, not the configured {want}")
            }
            Self::NotAPort { link, bridge } => write!(f, "veth {link} is not a port of bridge {bridge}"),
            Self::PortFlags { link } => write!(f, "the hairpin or isolation flag of bridge port {link} was changed"),
            Self::Vlans { link } => write!(f, "the VLANs of bridge port {link} were changed"),
            Self::NoLink { link } => write!(f, "interface {link} not found"),
            Self::Down { link } if link.name == "lo" => write!(f, "loopback interface is down"),
            Self::Down { link } => write!(f, "interface {link} is down"),
            Self::Address { address, link } => {
                write!(f, "Failed to match addr {address} on interface {}", link.name)
            }
            Self::NoGatewayRoute { network } => write!(f, "Failed to find Gateway for {network}"),
            Self::Route { route } => {
                write!(f, "Expected Route {{Dst:{}", route.dst)?;
                if let Some(gw) = route.gw {
                    write!(f, " GW:{gw}")?;
                }
                write!(f, "}} not found in routing table")
            }
            Self::Forwarding { family: Family::V4 } => write!(f, "IPv4 forwarding is off"),
            Self::Forwarding { family: Family::V6 } => write!(f, "IPv6 forwarding is off"),
            Self::Child(difference) => difference.fmt(f),
            Self::Step(difference) => difference.fmt(f),
            Self::Sysctl { key, want } => write!(f, "net/{key} is not {want}"),
            Self::NoSource { address, zone } => write!(f, "failed to find the address {address} in {zone} zone"),
            Self::Elements { op } => write!(f, "nftables elements are missing: {op}"),
        }
    }
}
