//! Host conditions that would make ADD fail, as far as they can be seen beforehand: the delegate's plan for likely
//! addresses of the network, and the state of the host that it would change. Changes nothing; for STATUS and `weftctl
//! policy check`.

use weft_host_abi::types::RangeSet;

use ipnet::IpNet;

use super::call::Call;
use super::error::AttachError;
use super::node::Node;
use super::{record, stage};
use crate::conf::IpamConf;
use crate::delegate::{self, Addressing, Given, Input, IpamUse};
use crate::netlink::Executor;
use crate::plan::{DeviceQuery, FoundDevice, LinkRef, Mac, Need, Observed, Op, Plan, Side, TakeDevice};

/// Returns the error that ADD would return because of the host.
///
/// # Errors
/// `NotReady` with ADD's text.
pub(super) fn of_host(node: &mut Node<'_>, call: &Call) -> Result<(), AttachError> {
    let Some(conf) = call.network.delegate() else { return Ok(()) };
    let Some(delegate) = delegate::find(&conf.kind) else { return Ok(()) };
    let needs = delegate.needs(&conf.conf, None)?;
    let on_host: Vec<Need> = needs.iter().filter(|need| side_of(need) == Side::Host).cloned().collect();
    if on_host.is_empty() {
        return Ok(());
    }
    let executor = &mut Executor::open(None)?;
    let observed = executor.observe(&on_host)?;
    parents(&on_host, &observed)?;
    if on_host.len() < needs.len() || is_away(node, &on_host, &observed)? {
        return Ok(());
    }
    let addressing = call.network.ipam.as_ref().map(likely_addresses);
    let addressing = addressing.filter(|addressing| !addressing.ips.is_empty());
    if addressing.is_none() && delegate.ipam() == IpamUse::Required {
        return Ok(());
    }
    let planned = delegate.plan(&Input {
        conf: &conf.conf,
        attachment: &call.attachment(),
        cni_args: &call.pairs,
        addressing: addressing.as_ref(),
        previous: None,
        observed: &observed,
        dns: None,
        beside: &stage::declared_gateways(call),
        fresh_ifname: "",
        fresh_mac: Mac([0; 6]),
    });
    let not_ready = |error: AttachError| AttachError::NotReady { reason: error.chain() };
    let plan = planned.map_err(|error| not_ready(error.into()))?;
    reachable_gateways(&plan).map_err(|reason| AttachError::NotReady { reason })?;
    executor.preflight(&plan).map_err(|error| not_ready(error.into()))
}

/// Checks that each next hop lies in a network that the link reaches directly; otherwise the kernel refuses the route.
pub(super) fn reachable_gateways(plan: &Plan) -> Result<(), String> {
    let mut reached: Vec<(&LinkRef, IpNet)> = Vec::new();
    for op in &plan.ops {
        match op {
            Op::AddAddress { link, address } => reached.push((link, *address)),
            Op::AddRoute { link, route, .. } => match route.gw {
                None => reached.push((link, route.dst)),
                Some(gateway) if reached.iter().any(|(known, net)| *known == link && net.contains(&gateway)) => {}
                Some(gateway) => {
                    let dst = route.dst;
                    return Err(format!(
                        "the route to {dst} goes through {gateway}, which {link} cannot reach: no address or route has it in its network"
                    ));
                }
            },
            _ => {}
        }
    }
    Ok(())
}

fn side_of(need: &Need) -> Side {
    match need {
        Need::DefaultRouteLink(side) => *side,
        Need::Link(link) | Need::Parent(link) => link.side,
        Need::Device(_) | Need::File(_) | Need::Firewalld => Side::Host,
        Need::Peer(_) => Side::Container,
    }
}

/// Checks that the links exist on which a delegate builds.
fn parents(needs: &[Need], observed: &Observed) -> Result<(), AttachError> {
    for need in needs {
        let missing = match need {
            Need::Parent(link) if !observed.links.contains_key(link) => format!("the link {link} does not exist"),
            Need::DefaultRouteLink(side) if !observed.default_route_links.contains_key(side) => {
                "there is no default route to take the parent link from".to_owned()
            }
            _ => continue,
        };
        return Err(AttachError::NotReady { reason: missing });
    }
    Ok(())
}

/// Returns whether the wanted device is missing because a container has it.
fn is_away(node: &mut Node<'_>, needs: &[Need], observed: &Observed) -> Result<bool, AttachError> {
    let query = needs.iter().find_map(|need| match need {
        Need::Device(query) => Some(query),
        _ => None,
    });
    let Some(query) = query.filter(|_| matches!(observed.device, Some(FoundDevice::Missing(_)))) else {
        return Ok(false);
    };
    for entry in node.store()?.entries(None)? {
        // A damaged entry is reported by its own DEL.
        let Ok(Some(plan)) = record::plan(&entry) else { continue };
        if plan.ops.iter().any(|op| matches!(op, Op::TakeDevice(taken) if may_be(query, taken))) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// A device requested by its bus address cannot be distinguished from others while it is away.
fn may_be(query: &DeviceQuery, taken: &TakeDevice) -> bool {
    match (&query.name, &query.hardware) {
        (Some(name), _) => *name == taken.device,
        (None, Some(hardware)) => {
            let octets: Vec<String> = hardware.iter().map(|octet| format!("{octet:02x}")).collect();
            let mac = taken.mac.map(|mac| mac.to_string());
            [&taken.hardware, &mac].into_iter().flatten().any(|known| *known == octets.join(":"))
        }
        (None, None) => true,
    }
}

/// Returns an address of each range set with its gateway, or the addresses that the configuration names.
fn likely_addresses(ipam: &IpamConf) -> Addressing {
    let of_set = |set: &RangeSet| {
        let range = set.ranges.first()?;
        let address = IpNet::new(range.first, range.subnet.prefix_len()).ok()?;
        Some(Given { address, gateway: range.gateway })
    };
    // A policy with named sets chooses among them.
    let sets = if ipam.range_sets.iter().any(|set| set.name.is_some()) { 1 } else { ipam.range_sets.len() };
    let of_ranges = ipam.range_sets.iter().take(sets).filter_map(of_set);
    let gateway = |net: &IpNet| ipam.gateways.iter().copied().find(|gateway| net.contains(gateway));
    let declared = ipam.declared.iter().map(|net| Given { address: *net, gateway: gateway(net) });
    let ips: Vec<Given> = if ipam.range_sets.is_empty() { declared.collect() } else { of_ranges.collect() };
    Addressing { ips, unique: true, ..Addressing::default() }
}
