//! ADD. Follows the figure in `lib.rs`: choose, facts, policy, verify, ledger, delegate, netlink, result.
//!
//! Nothing before the claim has a side effect; everything from the claim on has an inverse (`finish`).

use super::call::Call;
use super::claim::Planned;
use super::error::AttachError;
use super::finish::{self, Work, Written};
use super::lock::Lock;
use super::node::Node;
use super::policies::Loading;
use super::stage::Stage;
use super::{
    blocks, chained, choose, claim, cluster, conflict, entry, external_add, failures, lease_add, pool, remove, restart,
    returned_devices, supersede, takeover,
};
use crate::cni::CniResult;
use crate::conf::{IpamKind, LedgerKind, SelectConf};

/// Makes an attachment. Records a failure for `weftctl explain`.
///
/// # Errors
/// See [`AttachError`]. The node is as it was before, unless the error lists leftovers; DEL removes those.
pub fn add(node: &mut Node<'_>, call: &Call) -> Result<CniResult, AttachError> {
    node.log.attempt = None;
    let before = node.watched.len();
    let added = add_unrecorded(node, call);
    if let Err(error) = &added {
        let attempt = node.log.attempt.clone().filter(|_attempt| node.watched.len() > before);
        count_refusal(node, call, error);
        let record = failures::keep(node, call, error);
        if let Some(notice) = failures::notice_of(call, error) {
            node.log.add_notice(notice);
        }
        for watched in node.watched.iter_mut().skip(before) {
            watched.failed(attempt.as_ref(), error.to_string(), record.clone());
        }
    }
    added
}

/// Counts the decision of a policy that led to no attachment.
fn count_refusal(node: &mut Node<'_>, call: &Call, error: &AttachError) {
    let outcome = match error {
        AttachError::Denied { .. } => "denied",
        AttachError::Policy(_) => "failed",
        _ => return,
    };
    let log = &mut node.log;
    if let Some(attempt) = &log.attempt {
        log.counts.decision(&call.network.name, &attempt.policy, outcome, attempt.fuel);
    }
}

fn add_unrecorded(node: &mut Node<'_>, call: &Call) -> Result<CniResult, AttachError> {
    // The reference implementation detects this after the work is done, and leaves the result in place.
    call.refuse_own_netns()?;
    let stock = call.network.select().is_some_and(SelectConf::is_stock);
    let call = pool::resolve(choose::resolve(node, call)?)?;
    let lock = Lock::for_add(&node.context.state_dir, &call.key())?;
    node.leave_moved_store();
    let mut added = conflict::retry_on_conflict(node, &call, attach);
    // The attempt left nothing behind, so it can be repeated. Each round removes one dead attachment.
    while let Err(refusal) = &added
        && takeover::remove_dead_holder(node, &call, refusal)
    {
        added = conflict::retry_on_conflict(node, &call, attach);
    }
    // Read this while the lock is still held: afterwards another process may remove the marked attachment and its mark.
    let marked = remove::is_marked(node, &call).is_ok_and(|marked| marked);
    drop(lock);
    // A later DEL finds no ADD at work, and an earlier one has left its mark.
    let added = remove::if_marked(node, &call, marked).and(added);
    // flannel's own wording for an error of its delegate.
    if stock { added.map_err(|cause| AttachError::DelegateAdd { cause: Box::new(cause) }) } else { added }
}

/// Runs ADD with the delegate that the configuration names or the policy chose.
fn attach(node: &mut Node<'_>, call: &Call) -> Result<CniResult, AttachError> {
    if call.network.is_chained() {
        return chained::add(node, call);
    }
    if call.network.external_delegate().is_some() {
        restart::remove_what_ended(node, call)?;
        supersede::remove_earlier_sandboxes(node, call)?;
        return external_add::by_delegate(node, call);
    }
    // Three independent things: the namespaces and then the policy, in parallel with the ledger.
    let (loading, load) = Loading::prepare(node, call).unzip();
    let setting = Stage::set(node.context, call, load)?;
    restart::remove_what_ended(node, call)?;
    supersede::remove_earlier_sandboxes(node, call)?;
    let (mut stage, mut executor) = setting.wait()?;
    if let Some(name) = stage.missing_device()
        && returned_devices::restore_device(node, &name)?
    {
        (stage, executor) = Stage::set(node.context, call, None)?.wait()?;
    }

    let ipam = call.network.ipam.as_ref().filter(|_ipam| !stage.ignores_ipam());
    let planned = match ipam.map(|ipam| &ipam.kind) {
        // The link is made first, because the addresses are requested through it.
        Some(IpamKind::Dhcp) => return lease_add::add(node, call, &stage, executor),
        Some(IpamKind::External(plugin)) => return external_add::by_ipam(node, call, (stage, executor), plugin),
        Some(IpamKind::Shipped(_) | IpamKind::Wasm { .. }) => match &call.network.terms.ledger {
            LedgerKind::Node => claim::by_policy(node, call, &stage, loading)?,
            LedgerKind::Cluster(conf) => match conf.blocks {
                Some(blocks) => blocks::by_policy(node, call, &stage, (loading, conf, blocks))?,
                None => cluster::by_policy(node, call, &stage, (loading, conf))?,
            },
        },
        None => {
            let plan = stage.plan(call, None)?;
            let record = entry::record(call, &plan, None)?;
            if call.is_loopback() && node.store()?.entry(&call.key())?.is_some() {
                // Once per interface that the container has on the network.
                node.store()?.update_record(&call.key(), &record)?;
                return finish::apply(node, call, Work::new(executor, Written::Nothing), &plan);
            }
            entry::write(call, node.store()?, record)?;
            Planned { plan, irreplaceable: Vec::new() }
        }
    };
    let work = Work::new(executor, Written::Entry).with_irreplaceable(planned.irreplaceable);
    finish::apply(node, call, work, &planned.plan)
}
