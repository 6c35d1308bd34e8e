//! Configures addresses and routes of a container's link: shared by all layer 3 delegates.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use weft_host_abi::types::{Dns, Route};

use super::{Addressing, DelegateError, Given};
use crate::plan::{Family, LinkRef, Op, ProbeAddresses, ResultShape, ShapeIp, Side};

/// How to handle duplicate address detection on the container's link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dad {
    /// Disabled: the addresses are unique by construction.
    Off,
    /// The kernel's default; ADD waits for it if IPAM gave an IPv6 gateway.
    Kernel,
    /// Enabled with enhanced detection (RFC 7527); ADD waits as for `Kernel`.
    Enhanced,
}

impl Dad {
    /// The choice of ptp and macvlan. Their stock versions wait for detection, up to seconds. If the ledger makes
    /// addresses unique, there is nothing to detect, so it is disabled instead.
    pub(super) fn for_addresses(addressing: &Addressing) -> Self {
        let has_v6 = addressing.ips.iter().any(|given| given.address.addr().is_ipv6());
        if addressing.unique && has_v6 { Self::Off } else { Self::Kernel }
    }
}

/// The container's link and its configuration.
pub(super) struct Link<'a> {
    /// Its name.
    pub(super) name: &'a str,
    /// Addresses.
    pub(super) ips: &'a [Given],
    /// Routes of the result.
    pub(super) routes: &'a [Route],
    /// Duplicate address detection.
    pub(super) dad: Dad,
    /// Sysctls that announce address changes: `ipv4/conf/*/arp_notify` and the like, without the link.
    pub(super) notify: &'a [(&'static str, &'static str)],
    /// Probe neighbours for the addresses before putting them on the link.
    pub(super) probe: Option<Probe<'a>>,
}

/// How to probe neighbours for addresses.
pub(super) struct Probe<'a> {
    /// How long to wait for an answer, in milliseconds.
    pub(super) wait_ms: u32,
    /// The host's link that must pass packets by then, if the container's link has such a peer.
    pub(super) port: Option<&'a str>,
}

impl Probe<'_> {
    /// Creates a probe through a link without a peer on the host.
    pub(super) fn from_addressing(addressing: &Addressing) -> Option<Self> {
        addressing.probe_ms.map(|wait_ms| Self { wait_ms, port: None })
    }
}

/// `RT_SCOPE_LINK`.
const SCOPE_LINK: u32 = 253;

/// `arp_notify` of a link: the kernel sends a gratuitous ARP when it comes up.
pub(super) const ARP_NOTIFY: (&str, &str) = ("ipv4", "arp_notify");
/// Its counterpart for IPv6.
pub(super) const NDISC_NOTIFY: (&str, &str) = ("ipv6", "ndisc_notify");

impl Link<'_> {
    /// Adds the ops in the stock plugins' order: addresses while the link is down, then up, then routes. With a probe,
    /// the link comes up first, because it must not announce an address that may belong to another host.
    pub(super) fn configure(&self, ops: &mut Vec<Op>) {
        self.add_addresses(ops);
        self.add_routes(ops);
    }

    /// The first part of `configure`: afterwards the link is up and has its addresses.
    pub(super) fn add_addresses(&self, ops: &mut Vec<Op>) {
        let link = || LinkRef::container(self.name);
        match self.dad {
            Dad::Off => ops.push(self.sysctl("ipv6", "accept_dad", "0")),
            Dad::Kernel => {}
            Dad::Enhanced => {
                ops.push(self.sysctl("ipv6", "enhanced_dad", "1"));
                ops.push(self.sysctl("ipv6", "accept_dad", "1"));
            }
        }
        let mut first_v6 = self.ips.iter().position(|given| given.address.addr().is_ipv6());
        if let Some(probe) = &self.probe {
            if first_v6.take().is_some() {
                ops.push(Op::EnableIpv6 { link: self.name.to_owned() });
            }
            ops.push(Op::LinkUp { link: link() });
            ops.extend(probe.port.map(|port| Op::WaitPort { link: port.to_owned() }));
            let addresses = self.ips.iter().map(|given| given.address.addr()).collect();
            let asked = ProbeAddresses { link: self.name.to_owned(), addresses, wait_ms: probe.wait_ms };
            ops.push(Op::ProbeAddresses(asked));
        }
        for (family, key) in self.notify {
            ops.push(self.sysctl(family, key, "1"));
        }
        for (index, given) in self.ips.iter().enumerate() {
            if first_v6 == Some(index) {
                ops.push(Op::EnableIpv6 { link: self.name.to_owned() });
            }
            ops.push(Op::AddAddress { link: link(), address: given.address });
        }
        if self.probe.is_none() {
            ops.push(Op::LinkUp { link: link() });
        }
        if self.dad != Dad::Off && self.first_gateway(Family::V6).is_some() {
            ops.push(Op::WaitAddresses { link: link() });
        }
    }

    /// The second part of `configure`: a route without next hop goes through the first gateway of its family.
    pub(super) fn add_routes(&self, ops: &mut Vec<Op>) {
        for route in self.routes {
            // A route of scope link has no next hop; the kernel refuses one.
            let gateway =
                || self.first_gateway(Family::from_ip(route.dst.addr())).filter(|_| route.scope != Some(SCOPE_LINK));
            let gw = route.gw.or_else(gateway);
            let (link, route) = (LinkRef::container(self.name), Route { gw, ..route.clone() });
            ops.push(Op::AddRoute { link, route, src: None, existing_ok: false });
        }
    }

    fn first_gateway(&self, family: Family) -> Option<IpAddr> {
        self.ips.iter().filter_map(|given| given.gateway).find(|gateway| Family::from_ip(*gateway) == family)
    }

    /// Like the stock plugins, ignores failures: a kernel without IPv6 has no such keys.
    fn sysctl(&self, family: &str, key: &str, value: &str) -> Op {
        Op::Sysctl {
            side: Side::Container,
            key: format!("{family}/conf/{}/{key}", self.name),
            value: value.to_owned(),
            required: false,
        }
    }
}

/// Returns the last op: it announces the addresses to neighbours, so that they drop old entries.
pub(super) fn announce(link: &str, ips: &[Given]) -> Op {
    Op::Announce { link: link.to_owned(), addresses: ips.iter().map(|given| given.address.addr()).collect() }
}

/// Returns the addresses from IPAM; an empty list is an error.
pub(super) fn required(addressing: &Addressing) -> Result<&[Given], DelegateError> {
    if addressing.ips.is_empty() {
        return Err(DelegateError::Addressing("IPAM plugin returned missing IP config".to_owned()));
    }
    Ok(&addressing.ips)
}

/// The result without IPAM.
pub(super) static NONE: Addressing = Addressing {
    ips: Vec::new(),
    routes: Vec::new(),
    dns: Dns { nameservers: Vec::new(), domain: None, search: Vec::new(), options: Vec::new() },
    unique: false,
    probe_ms: None,
};

/// Returns the result of a delegate whose only interface is the container's, with all addresses. As with the stock
/// plugins, `dns` is the configuration's, even if unset; that of IPAM is dropped.
pub(super) fn only_link(name: &str, addressing: &Addressing, dns: Option<&Dns>) -> ResultShape {
    ResultShape {
        interfaces: vec![LinkRef::container(name)],
        ips: shape(&addressing.ips, 0),
        routes: addressing.routes.clone(),
        dns: dns.cloned().unwrap_or_default(),
        ..ResultShape::default()
    }
}

/// The addresses as the result lists them.
pub(super) fn shape(ips: &[Given], interface: usize) -> Vec<ShapeIp> {
    let ip = |given: &Given| ShapeIp { address: given.address, gateway: given.gateway, interface: Some(interface) };
    ips.iter().map(ip).collect()
}

/// Returns the first address after a network's own: the default gateway address.
pub fn first_host(net: IpNet) -> Option<IpAddr> {
    match net.network() {
        IpAddr::V4(base) => u32::from(base).checked_add(1).map(|next| Ipv4Addr::from(next).into()),
        IpAddr::V6(base) => u128::from(base).checked_add(1).map(|next| Ipv6Addr::from(next).into()),
    }
}

/// The default destination of a family.
pub(super) fn default_net(family: Family) -> IpNet {
    match family {
        Family::V4 => IpNet::from(ipnet::Ipv4Net::default()),
        Family::V6 => IpNet::from(ipnet::Ipv6Net::default()),
    }
}

/// An address as a network of its own: /32 or /128.
pub(super) fn single(addr: IpAddr) -> IpNet {
    IpNet::from(addr)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn given(address: &str, gateway: Option<&str>) -> Given {
        Given { address: address.parse().unwrap(), gateway: gateway.map(|text| text.parse().unwrap()) }
    }

    fn ops(ips: &[Given], routes: &[Route], dad: Dad) -> Vec<String> {
        let mut ops = Vec::new();
        Link { name: "eth0", ips, routes, dad, notify: &[ARP_NOTIFY], probe: None }.configure(&mut ops);
        ops.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_route_without_next_hop_takes_the_first_gateway_of_its_family() {
        let ips =
            [given("10.0.0.2/24", None), given("10.0.1.2/24", Some("10.0.1.1")), given("fd00::2/64", Some("fd00::1"))];
        let routes = [
            Route::new("0.0.0.0/0".parse().unwrap(), None),
            Route::new("10.9.0.0/16".parse().unwrap(), Some("10.0.0.9".parse().unwrap())),
            Route::new("::/0".parse().unwrap(), None),
        ];
        assert_eq!(
            ops(&ips, &routes, Dad::Kernel),
            [
                "set net/ipv4/conf/eth0/arp_notify=1 in the container",
                "add address 10.0.0.2/24 to eth0 (in the container)",
                "add address 10.0.1.2/24 to eth0 (in the container)",
                "enable IPv6 on eth0 (in the container)",
                "add address fd00::2/64 to eth0 (in the container)",
                "bring eth0 (in the container) up",
                "wait for duplicate address detection on eth0 (in the container)",
                "add route to 0.0.0.0/0 via 10.0.1.1 on eth0 (in the container)",
                "add route to 10.9.0.0/16 via 10.0.0.9 on eth0 (in the container)",
                "add route to ::/0 via fd00::1 on eth0 (in the container)",
            ]
        );
    }

    #[test]
    fn without_a_gateway_nothing_is_waited_for_and_the_route_is_direct() {
        let routes = [Route::new("fd09::/64".parse().unwrap(), None)];
        let ops = ops(&[given("fd00::2/64", None)], &routes, Dad::Kernel);
        assert!(!ops.iter().any(|op| op.starts_with("wait")), "{ops:?}");
        assert_eq!(ops.last().unwrap(), "add route to fd09::/64 on eth0 (in the container)");
    }

    #[test]
    fn detection_is_off_waited_for_or_enhanced() {
        let ips = [given("fd00::2/64", Some("fd00::1"))];
        let off = ops(&ips, &[], Dad::Off);
        assert_eq!(off[0], "set net/ipv6/conf/eth0/accept_dad=0 in the container");
        assert!(!off.iter().any(|op| op.starts_with("wait")), "{off:?}");
        let enhanced = ops(&ips, &[], Dad::Enhanced);
        assert_eq!(enhanced[0], "set net/ipv6/conf/eth0/enhanced_dad=1 in the container");
        assert_eq!(enhanced[1], "set net/ipv6/conf/eth0/accept_dad=1 in the container");
        assert!(enhanced.iter().any(|op| op.starts_with("wait")), "{enhanced:?}");
    }

    #[test]
    fn neighbours_are_asked_before_the_link_has_an_address() {
        let ips = [given("10.0.0.2/24", None), given("fd00::2/64", None)];
        let mut ops = Vec::new();
        let probe = Some(Probe { wait_ms: 300, port: Some("veth0") });
        Link { name: "eth0", ips: &ips, routes: &[], dad: Dad::Off, notify: &[ARP_NOTIFY], probe }.configure(&mut ops);
        let texts: Vec<String> = ops.iter().map(ToString::to_string).collect();
        assert_eq!(
            texts,
            [
                "set net/ipv6/conf/eth0/accept_dad=0 in the container",
                "enable IPv6 on eth0 (in the container)",
                "bring eth0 (in the container) up",
                "wait for port veth0 to come up",
                "ask the neighbours on eth0 (in the container) who has 10.0.0.2, fd00::2",
                "set net/ipv4/conf/eth0/arp_notify=1 in the container",
                "add address 10.0.0.2/24 to eth0 (in the container)",
                "add address fd00::2/64 to eth0 (in the container)",
            ]
        );
    }

    #[test]
    fn detection_goes_off_only_for_unique_ipv6_addresses() {
        let of = |address: &str, unique| {
            Dad::for_addresses(&Addressing { ips: vec![given(address, None)], unique, ..Addressing::default() })
        };
        assert_eq!(of("fd00::2/64", true), Dad::Off);
        assert_eq!(of("fd00::2/64", false), Dad::Kernel);
        assert_eq!(of("10.0.0.2/24", true), Dad::Kernel);
    }

    #[test]
    fn the_first_host_is_after_the_network_address() {
        let first = |net: &str| first_host(net.parse().unwrap()).map(|addr| addr.to_string());
        assert_eq!(first("10.0.0.130/25").as_deref(), Some("10.0.0.129"));
        assert_eq!(first("fd00::5/64").as_deref(), Some("fd00::1"));
        assert_eq!(first("255.255.255.255/32"), None);
    }
}
