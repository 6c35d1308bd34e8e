//! CHECK: does everything that ADD made still exist? Compares the journal's plan with what netlink shows, and
//! prevResult with both.

use std::path::Path;

use super::call::Call;
use super::error::AttachError;
use super::node::Node;
use super::{chain, chained, external, lease, record};
use crate::cni::CniResult;
use crate::conf::IpamKind;
use crate::journal::Entry;
use crate::plan::Plan;
use crate::store::Role;

/// Compares an attachment with what its ADD made.
///
/// # Errors
/// The differences, or that the attachment is unknown.
pub fn check(node: &mut Node<'_>, call: &Call) -> Result<(), AttachError> {
    if call.network.is_chained() {
        return chained::check(node, call);
    }
    let entry = node.store()?.entry(&call.key())?;
    if call.key().role == Role::Ipam {
        return check_ipam(call, entry.as_ref());
    }
    let Some(previous) = call.previous()? else { return Err(no_previous(call, entry.is_some())) };
    let Some(entry) = entry else { return Err(AttachError::UnknownAttachment(call.attachment())) };
    external::check_stored(call, &entry)?;
    let Some(plan) = record::plan(&entry)? else { return Ok(()) };
    lease::check(&entry.key.attachment, &plan)?;
    let mut differences = compare(call, &plan, &previous);
    let since = chain::changes_by_steps(node.store()?, &call.attachment())?;
    let found = node.compare_in(Path::new(&call.env.netns), |executor| Ok(executor.check_since(&plan, &since)?))?;
    differences.extend(found.iter().map(ToString::to_string));
    if differences.is_empty() { Ok(()) } else { Err(AttachError::Differs { differences }) }
}

/// Returns the error of a CHECK without prevResult. A runtime has no result of an attachment that was never added, so this
/// is said first, unless a stock plugin says something else.
fn no_previous(call: &Call, is_known: bool) -> AttachError {
    match is_known {
        _ if call.persona.is_stock() => AttachError::PrevResultMissing,
        true => AttachError::NoPrevResult,
        false => AttachError::UnknownAttachment(call.attachment()),
    }
}

/// The stock plugins' comparison of prevResult with the call, and of prevResult with what ADD returned.
fn compare(call: &Call, plan: &Plan, previous: &CniResult) -> Vec<String> {
    let mut differences = Vec::new();
    let netns = &call.env.netns;
    if !plan.result.interfaces.is_empty() && !plan.result.observed_addresses {
        let ours =
            previous.interfaces.iter().any(|link| link.name == call.env.ifname && link.sandbox.as_ref() == Some(netns));
        // Results before 0.3.0 have no interfaces to compare.
        if !ours && !previous.interfaces.is_empty() {
            differences.push(format!("Sandbox in prevResult  doesn't match configured netns: {netns}"));
        }
    }
    for ip in &plan.result.ips {
        if !previous.ips.iter().any(|other| other.address == ip.address) {
            differences.push(format!("prevResult lacks the address {} that ADD returned", ip.address));
        }
    }
    differences
}

fn check_ipam(call: &Call, entry: Option<&Entry>) -> Result<(), AttachError> {
    if call.network.ipam.as_ref().is_some_and(|ipam| ipam.kind == IpamKind::Dhcp) {
        let Some(entry) = entry else { return Err(AttachError::UnknownAttachment(call.attachment())) };
        return match record::plan(entry)? {
            Some(plan) => lease::check(&entry.key.attachment, &plan),
            None => Ok(()),
        };
    }
    let Some(entry) = entry else { return Err(AttachError::NoClaim { container_id: call.env.container_id.clone() }) };
    // The addresses only matter if the runtime says which ones it knows.
    let Some(previous) = call.previous()? else { return Ok(()) };
    let differences: Vec<String> = entry
        .claims
        .iter()
        .filter(|(_, address)| !previous.ips.iter().any(|ip| ip.address.addr() == *address))
        .map(|(_, address)| {
            format!("prevResult lacks {address}, which is claimed for container {}", call.env.container_id)
        })
        .collect();
    if differences.is_empty() { Ok(()) } else { Err(AttachError::Differs { differences }) }
}
