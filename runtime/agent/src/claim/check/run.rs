//! The check as a command: connects to the ledger, identifies this node, checks, repairs, and checks again.

use std::cell::RefCell;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use serde::Serialize;
use tokio::runtime::Builder;
use weft_core::store::NodeStore;

use super::cells::{look_at_cells, repair_cells};
use super::{Finding, Kind, Local, look, repair};
use crate::claim::any::AnyBackend;
use crate::claim::backend::{Backend, Cells as _, Listing};
use crate::claim::block::{Block, CELL};
use crate::claim::machine_id;
use crate::claim::object::{Claim, Identity, LedgerNode};
use crate::claim::operate::{Reach, backend_of, ledger_text};
use crate::claim::unreadable::split_claim_name;

/// What to check, and whether to repair it.
#[derive(Debug, Clone)]
pub struct CheckOptions {
    /// The directory of this node's state.
    pub state_dir: PathBuf,
    /// Whether to repair problems.
    pub repair: bool,
}

/// The result of a check.
#[derive(Debug, Clone, Serialize)]
pub struct Checked {
    /// How many claims were checked.
    pub claims: usize,
    /// How many cells were checked.
    pub cells: usize,
    /// The node whose store, journal and links were checked too.
    pub node: Option<String>,
    /// Problems that were repaired.
    pub repaired: Vec<Finding>,
    /// Remaining problems.
    pub left: Vec<Finding>,
}

/// Checks a cluster ledger; on a node that uses it, checks that node too.
///
/// # Errors
/// The ledger, or the node's store, cannot be reached.
pub fn check(reach: &Reach, options: &CheckOptions) -> anyhow::Result<Checked> {
    let runtime = Builder::new_current_thread().enable_all().build().context("cannot start the event loop")?;
    runtime.block_on(async {
        let ledger = ledger_text(reach)?;
        let backend = backend_of(&ledger, reach.kubeconfig.as_deref()).await?;
        let local = local(&backend, ledger, options).await?;
        let (looked_at, found) = check_once(&backend, local.as_ref()).await?;
        let count = |(claims, blocks): &LookedAt| (claims.len(), blocks.len());
        let (claims, cells) = count(&looked_at);
        let node = local.as_ref().map(|local| local.identity.node.clone());
        if !options.repair || !found.iter().any(|finding| finding.kind.is_repairable()) {
            return Ok(Checked { claims, cells, node, repaired: Vec::new(), left: found });
        }
        repair(&backend, local.as_ref(), &looked_at.0).await?;
        if let Some(local) = &local {
            repair_cells(&backend, local, &looked_at.1).await?;
        }
        let (looked_at, left) = check_once(&backend, local.as_ref()).await?;
        let (claims, cells) = count(&looked_at);
        let repaired = found.into_iter().filter(|finding| !left.contains(finding)).collect();
        Ok(Checked { claims, cells, node, repaired, left })
    })
}

/// Claims and cells.
type LookedAt = (Vec<Claim>, Vec<Block>);

/// Lists claims first, then what they are compared with, so that new claims are not reported.
async fn check_once(backend: &AnyBackend, local: Option<&Local>) -> anyhow::Result<(LookedAt, Vec<Finding>)> {
    let blocks = backend.blocks(Listing::All).await?;
    let claims = backend.list(Listing::All).await?;
    let pods = match backend {
        AnyBackend::Kubernetes(backend) => Some(backend.pod_uids().await?),
        AnyBackend::Etcd(_) => None,
    };
    let unreadable = backend.unreadable().into_iter().map(|(name, why)| unreadable(&name, &why));
    let mut found: Vec<Finding> = unreadable.collect();
    found.extend(look(backend, local, pods.as_ref(), &claims).await?);
    found.extend(look_at_cells(backend, local, (&blocks, &claims)).await?);
    Ok(((claims, blocks), found))
}

fn unreadable(name: &str, why: &str) -> Finding {
    let (domain, address) = split_claim_name(name.strip_suffix(CELL).unwrap_or(name));
    let what = format!("{name} cannot be read: {why}");
    let remedy = "correct it, or delete it if no pod has the address";
    Finding { kind: Kind::Unreadable, address, domain, what, remedy: remedy.to_owned() }
}

/// Returns this node if it uses the ledger: its agent has recorded its identity.
async fn local(backend: &AnyBackend, ledger: String, options: &CheckOptions) -> anyhow::Result<Option<Local>> {
    let Some(mut store) = open(&options.state_dir, options.repair)? else { return Ok(None) };
    // A store without an id has never used a cluster ledger.
    let Ok(store_id) = store.store_id() else { return Ok(None) };
    let machine = machine_id().context("this machine has no id")?;
    let Some(node) = this_node(backend.nodes().await?, &machine) else { return Ok(None) };
    let identity = Identity { node: node.node, machine, store_id, boot_id: weft_core::netlink::boot_id()? };
    Ok(Some(Local { store: RefCell::new(store), identity, ledger }))
}

/// Returns the record of this machine. A rebuilt store has a new id, which the agent records a moment later.
fn this_node(nodes: Vec<LedgerNode>, machine: &str) -> Option<LedgerNode> {
    nodes.into_iter().find(|node| node.machine(machine).is_some())
}

/// Opens the existing store; only a repair may write to it.
fn open(state_dir: &Path, writable: bool) -> anyhow::Result<Option<NodeStore>> {
    let store = NodeStore::open_read_only(state_dir)?;
    if store.is_none() || !writable {
        return Ok(store);
    }
    let boot_id = weft_core::netlink::boot_id()?;
    Ok(Some(NodeStore::open_unless(state_dir, &boot_id, &weft_core::attach::no_attachments)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::claim::object::OtherMachine;

    #[test]
    fn a_node_is_known_by_its_machine() {
        let other = OtherMachine { machine: "m-2".into(), ..OtherMachine::default() };
        let record = |node: &str, machine: &str, others| LedgerNode {
            node: node.into(),
            machine: machine.into(),
            // Of the store before it was rebuilt.
            store_id: "old".into(),
            others,
            ..LedgerNode::default()
        };
        let nodes = vec![record("a", "m-1", Vec::new()), record("b", "m-3", vec![other])];
        for (machine, node) in [("m-1", Some("a")), ("m-2", Some("b")), ("m-3", Some("b")), ("m-4", None), ("", None)] {
            assert_eq!(this_node(nodes.clone(), machine).map(|node| node.node).as_deref(), node, "{machine}");
        }
    }
}
