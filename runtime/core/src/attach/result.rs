//! Makes the result of ADD from a plan and the state of the kernel.

use std::collections::BTreeMap;

use super::call::Call;
use super::error::AttachError;
use crate::cni::{CniResult, Interface, Ip};
use crate::netlink::Applied;
use crate::plan::{LinkInfo, LinkRef, Plan, Side};

/// Fails before anything changes if the result cannot be expressed in the configuration's CNI version.
pub(super) fn preflight(call: &Call, plan: &Plan) -> Result<(), AttachError> {
    // Loopback's addresses are only known once `lo` is up; it always has 127.0.0.1, which every version can express.
    if plan.result.observed_addresses || prints_previous(call) {
        return Ok(());
    }
    Ok(shape(call, plan, &BTreeMap::new()).check_version(call.network.version)?)
}

/// Returns the result of an applied plan.
pub(super) fn of_plan(call: &Call, plan: &Plan, applied: &Applied) -> Result<CniResult, AttachError> {
    if prints_previous(call)
        && let Some(previous) = call.previous()?
    {
        return Ok(previous);
    }
    Ok(shape(call, plan, &applied.links))
}

/// Loopback in a chain prints the previous result.
fn prints_previous(call: &Call) -> bool {
    call.network.prev_result.is_some() && call.is_loopback()
}

fn shape(call: &Call, plan: &Plan, links: &BTreeMap<LinkRef, LinkInfo>) -> CniResult {
    let shape = &plan.result;
    let interfaces = shape
        .interfaces
        .iter()
        .map(|link| Interface {
            name: link.name.clone(),
            mac: links.get(link).and_then(|info| info.mac).map(|mac| mac.to_string()),
            sandbox: (link.side == Side::Container).then(|| call.env.netns.clone()),
            ..Interface::default()
        })
        .collect();
    let mut ips: Vec<Ip> =
        shape.ips.iter().map(|ip| Ip { address: ip.address, gateway: ip.gateway, interface: ip.interface }).collect();
    if shape.observed_addresses
        && let Some(info) = shape.interfaces.first().and_then(|link| links.get(link))
    {
        for family_is_v4 in [true, false] {
            let first = info.addresses.iter().find(|address| address.addr().is_ipv4() == family_is_v4);
            ips.extend(first.map(|&address| Ip { address, gateway: None, interface: Some(0) }));
        }
    }
    CniResult { interfaces, ips, routes: shape.routes.clone(), dns: shape.dns.clone() }
}
