//! `ptp`: a veth pair without a bridge. The container reaches everything, including its own subnet, through the gateway
//! address, which every host end carries.

use std::collections::BTreeSet;
use std::net::IpAddr;

use weft_host_abi::types::Route;

use super::addressing::{self, Dad, single};
use super::{Delegate, DelegateError, Given, Input, IpamUse};
use crate::cni::{CniResult, Object};
use crate::keys;
use crate::plan::{Family, LinkRef, Need, Op, Plan, ResultShape, Side};

/// Kernel scope of a route to a destination on the link.
const SCOPE_LINK: u32 = 253;
/// Kernel scope of a route to a destination on this host.
const SCOPE_HOST: u32 = 254;

/// The `ptp` delegate.
pub(super) struct Ptp;

/// An address with its gateway, which ptp requires.
struct Routed {
    given: Given,
    gateway: IpAddr,
}

impl Delegate for Ptp {
    fn kind(&self) -> &'static str {
        "ptp"
    }

    fn keys(&self) -> &'static [&'static str] {
        &["ipMasq", "ipMasqBackend", "mtu"]
    }

    fn ipam(&self) -> IpamUse {
        IpamUse::Required
    }

    fn no_neighbours(&self) -> Option<&'static str> {
        Some("a ptp link connects only to its host")
    }

    fn cni_args(&self) -> &'static [&'static str] {
        &[]
    }

    fn validate(&self, conf: &Object, _cni_args: &[(String, String)]) -> Result<(), DelegateError> {
        keys::masquerade(conf)?;
        keys::mtu(conf)?;
        Ok(())
    }

    fn needs(&self, _conf: &Object, _previous: Option<&CniResult>) -> Result<Vec<Need>, DelegateError> {
        Ok(Vec::new())
    }

    fn link_op(&self, ifname: &str) -> Op {
        Op::CreateVeth { container: ifname.to_owned(), host: String::new(), mtu: None, mac: None }
    }

    fn plan(&self, input: &Input<'_>) -> Result<Plan, DelegateError> {
        let masquerade = keys::masquerade(input.conf)?;
        let mtu = keys::mtu(input.conf)?;
        let addressing = input.addressing.ok_or_else(|| DelegateError::Conf("no plugin name provided".to_owned()))?;
        let ips = addressing::required(addressing)?;
        let routed = ips.iter().map(routed).collect::<Result<Vec<_>, _>>()?;
        let (name, host) = (input.attachment.ifname.as_str(), input.fresh_ifname);

        let mut ops = Vec::new();
        let mut families = BTreeSet::new();
        for given in ips {
            let is_v4 = given.address.addr().is_ipv4();
            if families.insert(is_v4) {
                ops.push(Op::Forwarding { family: if is_v4 { Family::V4 } else { Family::V6 } });
            }
        }
        ops.push(Op::CreateVeth { container: name.to_owned(), host: host.to_owned(), mtu, mac: None });
        let dad = Dad::for_addresses(addressing);
        let link = addressing::Link { name, ips, routes: &addressing.routes, dad, notify: &[], probe: None };
        link.add_addresses(&mut ops);
        // Even with detection off, the kernel processes an address on a work queue, and meanwhile refuses a route with
        // this tentative IPv6 source address. With detection on, ADD has already waited: every address has a gateway
        // here.
        if dad == Dad::Off {
            ops.push(Op::WaitAddresses { link: LinkRef::container(name) });
        }
        // The stock plugin adds the result's routes first, over the connected route that it then deletes. This order
        // has the same outcome, and also works for an address that is a network of its own (/32), which has no
        // connected route.
        container_routes(name, &routed, &mut ops);
        link.add_routes(&mut ops);
        if dad == Dad::Off {
            ops.push(no_detection(host));
        }
        host_end(host, &routed, &mut ops);
        if masquerade {
            ops.extend(ips.iter().map(|given| Op::Masquerade { address: given.address }));
        }
        ops.push(addressing::announce(name, ips));

        let result = ResultShape {
            interfaces: vec![LinkRef::host(host), LinkRef::container(name)],
            ips: addressing::shape(ips, 1),
            routes: addressing.routes.clone(),
            dns: input.dns.unwrap_or(&addressing.dns).clone(),
            ..ResultShape::default()
        };
        Ok(Plan { ops, result, ..Plan::default() })
    }
}

fn routed(given: &Given) -> Result<Routed, DelegateError> {
    let text = || format!("ptp needs a gateway for {}, but IPAM gave none", given.address);
    let gateway = given.gateway.ok_or_else(|| DelegateError::Addressing(text()))?;
    if Family::from_ip(gateway) != Family::from_ip(given.address.addr()) {
        let text = format!("gateway {gateway} is of another family than its address {}", given.address);
        return Err(DelegateError::Addressing(text));
    }
    Ok(Routed { given: given.clone(), gateway })
}

/// Inside: routes what the kernel considers on-link through the gateway instead.
///
/// Addresses may share a subnet or a gateway; each destination is routed once.
fn container_routes(name: &str, routed: &[Routed], ops: &mut Vec<Op>) {
    let mut subnets = BTreeSet::new();
    let mut gateways = BTreeSet::new();
    let link = || LinkRef::container(name);
    for Routed { given, gateway } in routed {
        let (subnet, src) = (given.address.trunc(), Some(given.address.addr()));
        let has_subnet = subnet.prefix_len() < subnet.max_prefix_len() && subnets.insert(subnet);
        if has_subnet {
            ops.push(Op::DropConnectedRoute { link: link(), dst: subnet });
        }
        if gateways.insert(*gateway) {
            let route = Route { scope: Some(SCOPE_LINK), ..Route::new(single(*gateway), None) };
            ops.push(Op::AddRoute { link: link(), route, src, existing_ok: false });
        }
        if has_subnet {
            let route = Route::new(subnet, Some(*gateway));
            ops.push(Op::AddRoute { link: link(), route, src, existing_ok: false });
        }
    }
}

/// Disables detection: the host end has no other neighbour either. With detection on, the host would at first not
/// answer for the gateway, and the stock plugin's ADD returns during that time.
fn no_detection(host: &str) -> Op {
    Op::Sysctl { side: Side::Host, key: format!("ipv6/conf/{host}/accept_dad"), value: "0".to_owned(), required: false }
}

/// Outside: the host end carries the gateways, and each address is routed to it.
fn host_end(host: &str, routed: &[Routed], ops: &mut Vec<Op>) {
    let mut gateways = BTreeSet::new();
    let link = || LinkRef::host(host);
    for Routed { given, gateway } in routed {
        if gateways.insert(*gateway) {
            ops.push(Op::AddAddress { link: link(), address: single(*gateway) });
        }
        let route = Route { scope: Some(SCOPE_HOST), ..Route::new(single(given.address.addr()), None) };
        ops.push(Op::AddRoute { link: link(), route, src: None, existing_ok: true });
    }
}
