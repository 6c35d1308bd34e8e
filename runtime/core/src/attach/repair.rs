//! Putting back what others took out of the packet filter. A `flush ruleset` (firewalld's reload, Debian's `nftables.service`)
//! leaves living pods without host ports, masquerading and MAC checks; the journal still says what each had.
//!
//! Only living attachments are looked at: the elements of a dead one would lead to the next pod that gets its address.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::error::AttachError;
use super::node::Node;
use super::{liveness, sharing};
use crate::journal::Entry;
use crate::netlink::Executor;
use crate::plan::Plan;
use crate::store::{Key, NodeStore};
use weft_host_abi::types::Attachment;

/// An attachment of which elements or rules of the packet filter are missing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LostFilters {
    /// Its network.
    pub network: String,
    /// Its container.
    #[serde(rename = "containerID")]
    pub container_id: String,
    /// Its interface.
    pub ifname: String,
    /// What is missing, as `weftctl plan` would say it.
    pub missing: Vec<String>,
    /// Why it could not be put back; `None` where it was, or where this was only a look.
    pub problem: Option<String>,
}

/// What a look at the packet filter found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Repair {
    /// Living attachments that were looked at.
    pub attachments: usize,
    /// Those that lost something.
    pub lost: Vec<LostFilters>,
    /// Journal entries that could not be looked at, and why.
    pub unreadable: Vec<String>,
}

/// The plans of the living attachments.
#[derive(Default)]
struct Living {
    plans: Vec<(Key, Plan)>,
    unreadable: Vec<String>,
}

/// A plan of which something is missing.
struct Broken {
    /// Its attachment's place in `Repair::lost`.
    place: usize,
    key: Key,
    plan: Plan,
}

/// What living attachments have lost of the packet filter. Changes nothing.
///
/// # Errors
/// The journal cannot be read, or the kernel or firewalld refuses to show what is there.
pub fn lost_filters(store: &NodeStore) -> Result<Repair, AttachError> {
    let mut host = Executor::open(None)?;
    let living = living(&host, store)?;
    look(&mut host, living).map(|(repair, _plans)| repair)
}

/// Puts back what living attachments have lost of the packet filter.
///
/// # Errors
/// As [`lost_filters`]. What cannot be put back is in the answer.
pub fn repair(node: &mut Node<'_>) -> Result<Repair, AttachError> {
    let mut host = Executor::open(None)?;
    host.share_in(&node.context.state_dir);
    let living = living(&host, node.store()?)?;
    let (mut repair, broken) = look(&mut host, living)?;
    for Broken { place, key, plan } in &broken {
        let restored = host.restore_filters(plan).map_err(AttachError::from);
        if let (Err(error), Some(lost)) = (restored, repair.lost.get_mut(*place)) {
            lost.problem = Some(error.chain());
        }
        // A DEL may have been faster: what it removed must not come back.
        let store = node.store()?;
        if store.entry(key)?.is_none() {
            let nothing = BTreeSet::new();
            let mut decide =
                |names: &[String]| sharing::decide(store, key, &nothing, names).map_err(|error| error.chain());
            host.teardown_filters(plan, &mut decide)?;
        }
    }
    Ok(repair)
}

fn living(host: &Executor, store: &NodeStore) -> Result<Living, AttachError> {
    let mut living = Living::default();
    for entry in store.entries(None)? {
        match living_plans(host, &entry) {
            Ok(plans) => living.plans.extend(plans.into_iter().map(|plan| (entry.key.clone(), plan))),
            Err(error) => {
                living.unreadable.push(format!("container {}: {}", entry.key.attachment.container_id, error.chain()));
            }
        }
    }
    Ok(living)
}

fn living_plans(host: &Executor, entry: &Entry) -> Result<Vec<Plan>, AttachError> {
    let mut alive = Vec::new();
    for plan in liveness::plans(entry)? {
        if liveness::is_alive(host, &plan)? {
            alive.push(plan.1);
        }
    }
    Ok(alive)
}

/// What is missing, and the plans that miss something.
fn look(host: &mut Executor, living: Living) -> Result<(Repair, Vec<Broken>), AttachError> {
    let Living { plans, unreadable } = living;
    let (keys, plans): (Vec<Key>, Vec<Plan>) = plans.into_iter().unzip();
    let missing = host.lost_filters(&plans)?;
    let names = |key: &Key| {
        let Attachment { network, container_id, ifname } = key.attachment.clone();
        (network, container_id, ifname)
    };
    let attachments: BTreeSet<_> = keys.iter().map(names).collect();
    let mut repair = Repair { attachments: attachments.len(), lost: Vec::new(), unreadable };
    let mut places = BTreeMap::new();
    let mut broken = Vec::new();
    for ((key, plan), missing) in keys.into_iter().zip(plans).zip(missing).filter(|(_, missing)| !missing.is_empty()) {
        let place = *places.entry(names(&key)).or_insert_with(|| {
            let (network, container_id, ifname) = names(&key);
            repair.lost.push(LostFilters { network, container_id, ifname, missing: Vec::new(), problem: None });
            repair.lost.len() - 1
        });
        if let Some(lost) = repair.lost.get_mut(place) {
            lost.missing.extend(missing.iter().filter_map(|at| plan.ops.get(*at)).map(ToString::to_string));
        }
        broken.push(Broken { place, key, plan });
    }
    Ok((repair, broken))
}
