//! STATUS: would an ADD work now? Code 50 with the reason when it would not.

use std::time::{Duration, Instant};

use weft_host_abi::types::{LedgerView, Problem, RangeSet};

use super::call::Call;
use super::error::AttachError;
use super::fallback::Standing;
use super::node::Node;
use super::{choose, cluster_agent, external, ipam_keys, lease, pool, preflight, restart, steps};
use crate::conf::{IpamKind, Persona};
use crate::delegate;
use crate::store::NodeStore;

/// How long STATUS waits for everything together: runtimes ask every few seconds, and hold locks meanwhile. With the rest
/// of the process it must answer within a second, whatever hangs.
pub const STATUS_LIMIT: Duration = Duration::from_millis(850);

/// Checks whether an ADD would work now.
///
/// # Errors
/// Why it would fail.
pub fn status(node: &mut Node<'_>, call: &Call) -> Result<(), AttachError> {
    let call = &call.clone().with_due_time(Instant::now() + STATUS_LIMIT);
    match choose::status(node, call)? {
        Some(call) => of_network(node, &call),
        None => Ok(()),
    }
}

fn of_network(node: &mut Node<'_>, call: &Call) -> Result<(), AttachError> {
    if let Some(conf) = call.network.delegate().cloned() {
        match delegate::find(&conf.kind) {
            Some(delegate) => {
                delegate.validate(&conf.conf, &call.pairs)?;
                preflight::of_host(node, call)?;
            }
            // flannel's plugin does not call its delegate.
            None if call.persona == Persona::Flannel => {}
            None => external::status(call, &conf.kind, &conf.conf)?,
        }
    }
    steps::validate(call)?;
    let Some(ipam) = call.network.ipam.clone() else { return Ok(()) };
    if let IpamKind::External(kind) = &ipam.kind {
        let conf = call.conf.clone();
        return external::status(call, kind, &conf);
    }
    if ipam.kind == IpamKind::Dhcp {
        return lease::status(call);
    }
    cluster_agent::status(call)?;
    let policy = Standing::load(node, call).map_err(|error| AttachError::NotReady { reason: error.chain() })?;
    let problems = problems(call, &policy)?;
    if !problems.is_empty() {
        return Err(AttachError::PolicyConf { policy: policy.name().to_owned(), problems });
    }
    if let Some(file) = &ipam.resolv_conf {
        crate::facts::resolver(file)?;
    }
    crate::facts::node(&node.context.state_dir)?;
    if restart::is_due(node)? {
        // The next ADD removes attachments that ended with the host's namespace, which may take long. Until then their
        // addresses count as taken.
        return Ok(());
    }
    let now = crate::facts::now()?;
    let left = call.time_left(STATUS_LIMIT);
    let store = node.store()?;
    if store.has_expired(now)? {
        // If others are writing, the next call does it.
        store.with_patience(left, |store| store.purge_expired(now)).ok();
    }
    check_room(store, &ipam.scope, &ipam.range_sets, now)
}

/// Returns what is wrong with `ipam`. It is written for the network's own policy, so a fallback is not asked.
fn problems(call: &Call, policy: &Standing<'_>) -> Result<Vec<Problem>, AttachError> {
    if policy.is_fallback() {
        return Ok(Vec::new());
    }
    let loaded = policy.loaded();
    if pool::is_open(call) {
        return Ok(ipam_keys::unknown_problems(call, loaded));
    }
    match ipam_keys::ipam_problems(call.persona, &call.network, loaded) {
        Ok(problems) => Ok(problems),
        Err(error) if policy.may_be_replaced(&error) => Ok(Vec::new()),
        Err(error) => Err(error.into()),
    }
}

/// Checks that each declared set has a free address. With named sets a policy chooses among them, so one with room is
/// enough.
fn check_room(store: &NodeStore, scope: &str, sets: &[RangeSet], now: u64) -> Result<(), AttachError> {
    let view = store.view(scope, now)?;
    let mut full = Vec::new();
    for set in sets {
        let mut free = false;
        for range in &set.ranges {
            let usage = view.usage(range).map_err(|text| AttachError::NotReady { reason: text })?;
            let gateway = u64::from(range.gateway.is_some_and(|gateway| range.contains(gateway)));
            free |= usage.taken + gateway < usage.size;
        }
        if !free {
            full.push(set);
        }
    }
    let any_named = sets.iter().any(|set| set.name.is_some());
    let blocked = if any_named { !sets.is_empty() && full.len() == sets.len() } else { !full.is_empty() };
    match full.first() {
        Some(set) if blocked => {
            let ranges = set.ranges.iter().map(|range| format!("{}-{}", range.first, range.last)).collect::<Vec<_>>();
            Err(AttachError::NotReady {
                reason: format!("no IP addresses available in range set: {}", ranges.join(",")),
            })
        }
        _ => Ok(()),
    }
}
