//! `bridge`: a veth pair with its host end on a bridge, which may be the container's gateway.

mod port;
mod settings;
mod vlan;

use std::net::IpAddr;

use ipnet::IpNet;
use weft_host_abi::types::Route;

use self::settings::Settings;
use super::addressing::{self, ARP_NOTIFY, Dad, Probe};
use super::{Addressing, Delegate, DelegateError, Given, Input, IpamUse};
use crate::cni::{CniResult, Object};
use crate::plan::{Family, ForgetNeighbours, LinkRef, Need, Op, Plan, ResultShape};

/// The `bridge` delegate.
pub(super) struct Bridge;

/// Index of the container's link in the result.
const CONTAINER: usize = 2;

impl Delegate for Bridge {
    fn kind(&self) -> &'static str {
        "bridge"
    }

    fn keys(&self) -> &'static [&'static str] {
        &[
            "bridge",
            "isGateway",
            "isDefaultGateway",
            "forceAddress",
            "ipMasq",
            "ipMasqBackend",
            "mtu",
            "hairpinMode",
            "promiscMode",
            "vlan",
            "vlanTrunk",
            "preserveDefaultVlan",
            "macspoofchk",
            "enabledad",
            "disableContainerInterface",
            "portIsolation",
        ]
    }

    fn ipam(&self) -> IpamUse {
        IpamUse::Optional
    }

    fn no_neighbours(&self) -> Option<&'static str> {
        None
    }

    fn cni_args(&self) -> &'static [&'static str] {
        &["MAC"]
    }

    fn validate(&self, conf: &Object, cni_args: &[(String, String)]) -> Result<(), DelegateError> {
        Settings::read(conf, cni_args).map(|_settings| ())
    }

    fn needs(&self, conf: &Object, _previous: Option<&CniResult>) -> Result<Vec<Need>, DelegateError> {
        let settings = Settings::read(conf, &[])?;
        Ok(vec![Need::Link(LinkRef::host(settings.bridge))])
    }

    fn link_op(&self, ifname: &str) -> Op {
        Op::CreateVeth { container: ifname.to_owned(), host: String::new(), mtu: None, mac: None }
    }

    fn plan(&self, input: &Input<'_>) -> Result<Plan, DelegateError> {
        let settings = Settings::read(input.conf, input.cni_args)?;
        let found = input.observed.links.get(&LinkRef::host(settings.bridge.as_str()));
        if found.is_some_and(|link| link.kind != "bridge") {
            let name = &settings.bridge;
            let text = format!("failed to create bridge {name:?}: {name:?} already exists but is not a bridge");
            return Err(DelegateError::Host(text));
        }
        let (name, host) = (input.attachment.ifname.as_str(), input.fresh_ifname);
        let mut ops = settings.links(input);
        let mut result = ResultShape {
            interfaces: vec![LinkRef::host(settings.bridge.as_str()), LinkRef::host(host), LinkRef::container(name)],
            ..ResultShape::default()
        };
        if let Some(addressing) = input.addressing {
            settings.layer3((name, host, input.beside), addressing, &mut ops, &mut result)?;
        } else if !settings.link_stays_down {
            ops.push(Op::LinkUp { link: LinkRef::container(name) });
        }
        if !settings.link_stays_down {
            ops.push(Op::WaitPort { link: host.to_owned() });
        }
        ops.extend(settings.forget(input.addressing));
        if let Some(addressing) = input.addressing {
            ops.push(addressing::announce(name, &addressing.ips));
        }
        if let Some(dns) = input.dns {
            result.dns.clone_from(dns);
        }
        Ok(Plan { ops, result, ..Plan::default() })
    }
}

impl Settings {
    /// Returns the ops for the bridge, the veth pair, and the port.
    fn links(&self, input: &Input<'_>) -> Vec<Op> {
        let host = input.fresh_ifname.to_owned();
        // A rule that admits only one MAC must know it before the link is made.
        let mac = self.mac.or_else(|| self.spoof_check.then_some(input.fresh_mac));
        let mut ops = vec![
            Op::EnsureBridge {
                name: self.bridge.clone(),
                mtu: self.mtu,
                vlan_filtering: self.vlan_filtering(),
                promisc: self.promisc,
            },
            Op::CreateVeth { container: input.attachment.ifname.clone(), host: host.clone(), mtu: self.mtu, mac },
            Op::BridgePort {
                link: host.clone(),
                bridge: self.bridge.clone(),
                hairpin: self.hairpin,
                isolated: self.isolated,
            },
        ];
        ops.extend(self.port_vlans(&host));
        if let Some(mac) = mac.filter(|_| self.spoof_check) {
            ops.push(Op::MacSpoofCheck { link: host, mac });
        }
        ops
    }

    /// Returns the op to forget what the host may know about the addresses and an explicitly requested MAC. A random
    /// MAC is new to everybody.
    fn forget(&self, addressing: Option<&Addressing>) -> Option<Op> {
        let addresses: Vec<IpAddr> =
            addressing.iter().flat_map(|addressing| &addressing.ips).map(|given| given.address.addr()).collect();
        let mac = self.mac.map(|mac| (self.bridge.clone(), mac));
        if addresses.is_empty() && mac.is_none() {
            return None;
        }
        let link = if self.is_gateway && self.vlan != 0 { self.vlan_gateway() } else { self.bridge.clone() };
        Some(Op::ForgetNeighbours(ForgetNeighbours { link, addresses, mac }))
    }

    /// Adds addresses and routes inside, and the gateway outside.
    fn layer3(
        &self,
        (name, host, beside): (&str, &str, &[IpNet]),
        addressing: &Addressing,
        ops: &mut Vec<Op>,
        result: &mut ResultShape,
    ) -> Result<(), DelegateError> {
        let ips: Vec<Given> = addressing::required(addressing)?.iter().map(|given| self.with_gateway(given)).collect();
        let routes = self.with_default_routes(&ips, &addressing.routes);
        let dad = if self.enhanced_dad { Dad::Enhanced } else { Dad::Off };
        let probe = addressing.probe_ms.map(|wait_ms| Probe { wait_ms, port: Some(host) });
        addressing::Link { name, ips: &ips, routes: &routes, dad, notify: &[ARP_NOTIFY], probe }.configure(ops);
        if self.is_gateway {
            self.gateways(&ips, beside, ops);
            if self.vlan != 0 {
                result.interfaces.push(LinkRef::host(self.vlan_gateway()));
            }
        }
        if self.masquerade {
            ops.extend(ips.iter().map(|given| Op::Masquerade { address: given.address }));
        }
        result.ips = addressing::shape(&ips, CONTAINER);
        result.routes = routes;
        result.dns.clone_from(&addressing.dns);
        Ok(())
    }

    /// Adds a gateway: if IPAM names none, the bridge uses the first address of the network.
    fn with_gateway(&self, given: &Given) -> Given {
        let default = || if self.is_gateway { addressing::first_host(given.address) } else { None };
        Given { address: given.address, gateway: given.gateway.or_else(default) }
    }

    /// Returns the routes of the result: with `isDefaultGateway`, each family without a default route gets one.
    ///
    /// The stock plugin only looks for a default route with a next hop. It therefore adds a second one beside IPAM's
    /// `{"dst": "0.0.0.0/0"}`, which the kernel refuses as identical. That route gets the gateway as its next hop
    /// anyway, so it is sufficient.
    fn with_default_routes(&self, ips: &[Given], routes: &[Route]) -> Vec<Route> {
        let mut routes = routes.to_vec();
        if !self.is_default_gateway {
            return routes;
        }
        for given in ips {
            let dst = addressing::default_net(Family::from_ip(given.address.addr()));
            let plain = Route::new(dst, None);
            if !routes.iter().any(|route| *route == plain || (route.dst == dst && route.gw.is_some())) {
                routes.push(Route::new(dst, given.gateway));
            }
        }
        routes
    }

    /// Adds the gateway addresses to the bridge, or to the VLAN's own link; as in the stock plugin, IPv4 comes first.
    /// Those of the network's other ranges may already exist.
    fn gateways(&self, ips: &[Given], beside: &[IpNet], ops: &mut Vec<Op>) {
        let link = if self.vlan == 0 {
            self.bridge.clone()
        } else {
            ops.push(self.ensure_vlan_gateway());
            self.vlan_gateway()
        };
        for family in [Family::V4, Family::V6] {
            let mut addresses: Vec<IpNet> = Vec::new();
            for given in ips.iter().filter(|given| Family::from_ip(given.address.addr()) == family) {
                let address = given.gateway.and_then(|gateway| IpNet::new(gateway, given.address.prefix_len()).ok());
                if let Some(address) = address.filter(|address| !addresses.contains(address)) {
                    addresses.push(address);
                }
            }
            if addresses.is_empty() {
                continue;
            }
            for address in addresses {
                let beside = beside.iter().copied().filter(|other| *other != address).collect();
                ops.push(Op::EnsureAddress { link: link.clone(), address, force: self.force_address, beside });
            }
            ops.push(Op::PinMac { link: link.clone() });
            ops.push(Op::Forwarding { family });
        }
    }
}
