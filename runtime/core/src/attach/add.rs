//! ADD. Reads like the figure in `lib.rs`: choose, facts, policy, verify, ledger, delegate, netlink, result.
//!
//! Above the claim nothing has a side effect; from the claim on, everything has an inverse (`finish`).

use super::call::Call;
use super::claim::Planned;
use super::error::AttachError;
use super::finish::{self, Work, Written};
use super::lock::Lock;
use super::node::Node;
use super::policies::Loading;
use super::stage::Stage;
use super::{
    blocks, chained, choose, claim, cluster, conflict, entry, external_add, failures, homecoming, lease_add, pool,
    remove, restart, supersede, takeover,
};
use crate::cni::CniResult;
use crate::conf::{IpamKind, LedgerKind, SelectConf};

/// Makes an attachment. A failure is kept for `weftctl explain`.
///
/// # Errors
/// See [`AttachError`]. The node is as it was, unless the error says what is left; DEL removes that.
pub fn add(node: &mut Node<'_>, call: &Call) -> Result<CniResult, AttachError> {
    node.log.attempt = None;
    let before = node.watched.len();
    let added = add_unrecorded(node, call);
    if let Err(error) = &added {
        let attempt = node.log.attempt.clone().filter(|_attempt| node.watched.len() > before);
        let record = failures::keep(node, call, error);
        for watched in node.watched.iter_mut().skip(before) {
            watched.failed(attempt.as_ref(), error.to_string(), record.clone());
        }
    }
    added
}

fn add_unrecorded(node: &mut Node<'_>, call: &Call) -> Result<CniResult, AttachError> {
    // The reference finds out when the work is done, and leaves it there.
    call.refuse_own_netns()?;
    let stock = call.network.select().is_some_and(SelectConf::is_stock);
    let call = pool::resolve(choose::resolve(node, call)?)?;
    let lock = Lock::for_add(&node.context.state_dir, &call.key())?;
    let mut added = conflict::around(node, &call, attach);
    // Nothing of it is left, so it can be tried again; each time there is one dead attachment less.
    while let Err(refusal) = &added
        && takeover::remove_dead_holder(node, &call, refusal)
    {
        added = conflict::around(node, &call, attach);
    }
    // Before the lock goes: as soon as it has, another process may remove what is marked, and the mark.
    let marked = remove::is_marked(node, &call).is_ok_and(|marked| marked);
    drop(lock);
    // A DEL from now on finds no ADD at work, and one before has left its mark.
    let added = remove::if_marked(node, &call, marked).and(added);
    // flannel's own words for an error of its delegate.
    if stock { added.map_err(|cause| AttachError::DelegateAdd { cause: Box::new(cause) }) } else { added }
}

/// ADD with the delegate that there is.
fn attach(node: &mut Node<'_>, call: &Call) -> Result<CniResult, AttachError> {
    if call.network.is_chained() {
        return chained::add(node, call);
    }
    if call.network.external_delegate().is_some() {
        restart::remove_what_ended(node, call)?;
        supersede::earlier_tries(node, call)?;
        return external_add::by_delegate(node, call);
    }
    // Three things that do not depend on one another: the namespaces and then the policy, and meanwhile the ledger.
    let (loading, load) = Loading::prepare(node, call).unzip();
    let setting = Stage::set(node.context, call, load)?;
    restart::remove_what_ended(node, call)?;
    supersede::earlier_tries(node, call)?;
    let (mut stage, mut executor) = setting.wait()?;
    if let Some(name) = stage.missing_device()
        && homecoming::restore_device(node, &name)?
    {
        (stage, executor) = Stage::set(node.context, call, None)?.wait()?;
    }

    let ipam = call.network.ipam.as_ref().filter(|_ipam| !stage.ignores_ipam());
    let planned = match ipam.map(|ipam| &ipam.kind) {
        // The link comes first, and the addresses through it.
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
                // As often as the container has interfaces on the network.
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
