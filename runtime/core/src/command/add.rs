//! ADD. Reads like the figure in `lib.rs`: facts, policies, verify, ledger, delegate, netlink, result.
//!
//! Above the claim nothing has a side effect; from the claim on, everything has an inverse, and whichever step fails, those
//! before it are taken back.

use super::call::Call;
use super::decide::Loading;
use super::error::in_full;
use super::stage::{Stage, given};
use super::{CommandError, choose, decide, external, lease, result, steps};
use crate::conf::{IpamKind, SelectConf};
use crate::delegate::Addressing;
use crate::ledger::{ClaimAsk, ClaimError, NodeStore};
use crate::netlink::ApplyError;
use crate::plan::Plan;
use weft_host_abi::types::ReleaseRule;

pub(super) fn run(call: &mut Call<'_>) -> Result<String, CommandError> {
    // The reference finds out when the work is done, and leaves it there.
    call.refuse_own_netns()?;
    let stock = call.network.select.as_ref().is_some_and(SelectConf::is_stock);
    choose::resolve(call)?;
    let added = attach(call);
    // flannel's own words for whatever its delegate says.
    if stock { added.map_err(|cause| CommandError::DelegateAdd { cause: Box::new(cause) }) } else { added }
}

/// ADD with the delegate that there is.
fn attach(call: &mut Call<'_>) -> Result<String, CommandError> {
    if call.network.steps_alone {
        return steps::add(call);
    }
    if call.network.delegate.as_ref().is_some_and(|delegate| !delegate.builtin) {
        return external::add_by_delegate(call);
    }
    // Three things that do not depend on one another: the namespaces and then the policy, and meanwhile the ledger.
    let (loading, load) = Loading::prepare(call).unzip();
    let setting = Stage::set(call, load)?;
    let mut store = call.open_store()?;
    let mut stage = setting.wait()?;
    if lease::is_wanted(call, &stage) {
        return lease::add(call, &mut stage, &mut store);
    }
    let plan = match call.network.ipam.as_ref().map(|ipam| &ipam.kind) {
        _ if stage.ignores_ipam() => claim_nothing(call, &stage, &mut store)?,
        // Asked after its link is made, above.
        Some(IpamKind::Dhcp) => return Err(CommandError::NoPlan),
        Some(IpamKind::External(_)) => external::claim_by_plugin(call, &stage, &mut store)?,
        Some(IpamKind::Shipped(_) | IpamKind::Wasm { .. }) => claim_by_policy(call, &stage, &mut store, loading)?,
        None => claim_nothing(call, &stage, &mut store)?,
    };
    let outcome = apply(call, &mut stage, &mut store, &plan);
    call.context.leave((stage, store));
    outcome
}

/// Policy, verify, ledger: asks again when another process was faster, for a bounded number of times.
fn claim_by_policy(
    call: &mut Call<'_>,
    stage: &Stage,
    store: &mut NodeStore,
    loading: Option<Loading>,
) -> Result<Plan, CommandError> {
    let mut request = decide::gather(call, store)?;
    let policy = Loading::wait(loading, call)?;
    let mut race = decide::Race::default();
    loop {
        let decided = decide::decide(call, &policy, Some(store), request)?;
        let key = call.key();
        let ask = ClaimAsk {
            key: &key,
            scope: &decided.scope,
            identities: &decided.identities,
            wants: &decided.wants,
            release: &decided.release,
            now: decided.now,
        };
        let mut planned = None;
        let outcome = store.claim(&ask, |claimed| -> Result<_, CommandError> {
            let addressing = Addressing {
                ips: given(claimed),
                routes: decided.routes.clone(),
                dns: decided.dns.clone(),
                unique: true,
            };
            let plan = stage.plan(call, Some(&addressing))?;
            let record = Stage::record(call, &plan, Some(decided.trace(claimed)))?;
            planned = Some(plan);
            Ok(record)
        });
        match outcome {
            Ok(_claimed) => {
                call.context.leave(policy);
                return planned.ok_or(CommandError::NoPlan);
            }
            Err(ClaimError::Lost { want }) => {
                race.lost(&policy, &decided, want)?;
                request = decide::gather(call, store)?;
            }
            Err(ClaimError::Exists { addresses, .. }) => return Err(exists(call, &addresses)),
            Err(ClaimError::Record(error)) => return Err(error),
            Err(ClaimError::Ledger(error)) => return Err(error.into()),
        }
    }
}

/// A layer 2 attachment: only the journal entry.
fn claim_nothing(call: &mut Call<'_>, stage: &Stage, store: &mut NodeStore) -> Result<Plan, CommandError> {
    let plan = stage.plan(call, None)?;
    journal(call, store, || Stage::record(call, &plan, None))?;
    Ok(plan)
}

/// Writes a journal entry that claims no address.
pub(super) fn journal(
    call: &Call<'_>,
    store: &mut NodeStore,
    record: impl FnOnce() -> Result<crate::ledger::Record, CommandError>,
) -> Result<(), CommandError> {
    let key = call.key();
    let ask = ClaimAsk {
        key: &key,
        scope: &call.network.name,
        identities: &[],
        wants: &[],
        release: &ReleaseRule::Free,
        now: crate::facts::now()?,
    };
    match store.claim(&ask, |_claimed| record()) {
        Ok(_none) => Ok(()),
        Err(ClaimError::Exists { addresses, .. }) => Err(exists(call, &addresses)),
        Err(ClaimError::Record(error)) => Err(error),
        Err(ClaimError::Ledger(error)) => Err(error.into()),
        Err(ClaimError::Lost { .. }) => Err(CommandError::NoPlan),
    }
}

fn exists(call: &Call<'_>, addresses: &[std::net::IpAddr]) -> CommandError {
    CommandError::Exists { attachment: call.attachment(), address: addresses.first().copied() }
}

/// Netlink, then the result. A failure puts back what was done and gives the claim back; what cannot be put back stays in
/// the journal for DEL or GC.
fn apply(call: &mut Call<'_>, stage: &mut Stage, store: &mut NodeStore, plan: &Plan) -> Result<String, CommandError> {
    let Some(executor) = stage.executor.as_mut() else { return result::render(call, plan, None) };
    let applied = match executor.apply(plan) {
        Ok(applied) => applied,
        Err(ApplyError { op, cause, leftovers, .. }) => {
            let cause = CommandError::Op { op: op.into(), source: cause };
            return Err(give_back(call, store, cause, leftovers.iter().map(|left| in_full(left)).collect()));
        }
    };
    match result::render(call, plan, Some(&applied)) {
        Ok(document) => Ok(document),
        Err(cause) => {
            let leftovers = executor.undo(applied);
            Err(give_back(call, store, cause, leftovers.iter().map(|left| in_full(left)).collect()))
        }
    }
}

/// Takes back claim and journal entry of an ADD that failed, unless something is left that DEL has to know of.
pub(super) fn give_back(
    call: &mut Call<'_>,
    store: &mut NodeStore,
    cause: CommandError,
    mut leftovers: Vec<String>,
) -> CommandError {
    let key = call.key();
    match store.entry(&key) {
        Ok(Some(entry)) => leftovers.extend(external::del_stored(call, &entry)),
        Ok(None) => {}
        Err(error) => leftovers.push(error.to_string()),
    }
    if leftovers.is_empty() {
        let taken_back = crate::facts::now().map_err(CommandError::from).and_then(|now| Ok(store.abandon(&key, now)?));
        leftovers.extend(taken_back.err().map(|error| error.chain()));
    }
    if leftovers.is_empty() { cause } else { CommandError::Leftovers { cause: Box::new(cause), leftovers } }
}
