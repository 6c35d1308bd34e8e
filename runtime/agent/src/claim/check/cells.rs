//! Checks block mode: cells against their machines, the claims inside, and this node's store.

use std::collections::BTreeMap;

use weft_core::ledger::remote::{Cell, CellState};

use super::{Finding, Kind, Local};
use crate::claim::DrainError;
use crate::claim::backend::{Backend, Fence};
use crate::claim::block::Block;
use crate::claim::cells::{CellWork, judge_cells};
use crate::claim::object::{Claim, LedgerNode};
use crate::claim::sweep::entries;

/// Returns all problems of cells, without changing anything.
pub(super) async fn look_at_cells<B: Backend>(
    backend: &B,
    local: Option<&Local>,
    (blocks, claims): (&[Block], &[Claim]),
) -> Result<Vec<Finding>, DrainError> {
    let mut found = Vec::new();
    if blocks.is_empty() && local.is_none() {
        return Ok(found);
    }
    let nodes = backend.nodes().await?;
    for block in blocks {
        of_holder(backend, block, &nodes, &mut found).await?;
        of_claims(block, claims, &mut found);
    }
    if let Some(local) = local {
        of_node(local, blocks, &mut found)?;
    }
    Ok(found)
}

fn finding(block: &Block, kind: Kind, what: String, remedy: &str) -> Finding {
    let (address, domain) = (block.spec.first, block.spec.domain.clone());
    Finding {
        kind,
        address,
        domain,
        what: format!("cell {}: {what}", block.spec.addresses()),
        remedy: remedy.to_owned(),
    }
}

async fn of_holder<B: Backend>(
    backend: &B,
    block: &Block,
    nodes: &[LedgerNode],
    found: &mut Vec<Finding>,
) -> Result<(), DrainError> {
    let Some(holder) = &block.spec.holder else { return Ok(()) };
    let speaks = nodes.iter().any(|node| node.node == holder.node && node.machine == holder.machine);
    if backend.fence(&holder.node, (&holder.machine, &holder.boot_id)).await? == Fence::Fenced {
        let what = format!("machine {} of node {} has it and is fenced", holder.machine, holder.node);
        found.push(finding(block, Kind::Fenced, what, "give it back: --repair, or the controller"));
    } else if !speaks {
        let what = format!("machine {} of node {} has it, and does not speak for it", holder.machine, holder.node);
        let remedy = "start its agent again; if that machine is dead: weftctl ledger fence NODE --machine ID";
        found.push(finding(block, Kind::OtherMachine, what, remedy));
    }
    Ok(())
}

/// Reports claims on addresses that a machine allocates by itself.
fn of_claims(block: &Block, claims: &[Claim], found: &mut Vec<Finding>) {
    let (first, last) = (block.spec.first, block.spec.last_address());
    let is_inside = |claim: &&Claim| {
        let address = claim.spec.address;
        claim.spec.domain == block.spec.domain
            && address.is_ipv4() == first.is_ipv4()
            && (first..=last).contains(&address)
    };
    for claim in claims.iter().filter(is_inside).filter(|_claim| !block.spec.shared) {
        let what = format!("{} is claimed by itself, and is the machine's to give out too", claim.spec.address);
        let remedy = "delete the pod that has it, here or there; nothing that weft does makes such a claim";
        found.push(finding(block, Kind::InCell, what, remedy));
    }
}

/// Uses `reverse_sweep`'s order: the cells were listed before the store is read.
fn of_node(local: &Local, blocks: &[Block], found: &mut Vec<Finding>) -> Result<(), DrainError> {
    let Local { store, identity, .. } = local;
    let store = store.borrow();
    let own: Vec<Cell> = store.cells()?.into_iter().filter(|cell| local.is_ledger(&cell.ledger)).collect();
    for block in blocks {
        let Some(holder) = block.spec.holder.as_ref().filter(|holder| holder.machine == identity.machine) else {
            continue;
        };
        let is_over = holder.store_id == identity.store_id || holder.boot_id != identity.boot_id;
        if is_over && !own.iter().any(|cell| cell.nonce == holder.nonce) {
            let what = "this machine has it, and its store knows nothing of that".to_owned();
            found.push(finding(block, Kind::NoRow, what, "give it back: --repair, or the agent's sweep"));
        }
    }
    let known: BTreeMap<_, &Block> =
        blocks.iter().map(|block| ((block.spec.domain.as_str(), block.spec.first), block)).collect();
    for cell in own.iter().filter(|cell| matches!(cell.state, CellState::Owned | CellState::Unconfirmed)) {
        let inside = store.inside(cell, &identity.boot_id)?;
        let is_used = cell.state == CellState::Owned || !inside.is_empty();
        let (kind, what, remedy) = match known.get(&(cell.domain.as_str(), cell.first)) {
            Some(block) if block.spec.is_held_by(&cell.nonce, identity) => continue,
            _ if !is_used || !store.cells()?.iter().any(|now| now.nonce == cell.nonce) => continue,
            Some(block) => {
                let what = format!(
                    "{} attachments of this node are inside, and it belongs to {}",
                    inside.len(),
                    block.spec.describe()
                );
                (Kind::Others, what, "two pods may have one address: delete those of this node")
            }
            None => {
                let what =
                    format!("this node gives it out, with {} attachments inside, without an object", inside.len());
                (Kind::NoClaim, what, "take it again: --repair, or a restart of the agent")
            }
        };
        let (address, domain) = (cell.first, cell.domain.clone());
        let what = format!("cell {}-{}: {what}", cell.first, cell.last);
        found.push(Finding { kind, address, domain, what, remedy: remedy.to_owned() });
    }
    Ok(())
}

/// Repairs what can be repaired.
pub(super) async fn repair_cells<B: Backend>(backend: &B, local: &Local, blocks: &[Block]) -> Result<(), DrainError> {
    let Local { store, identity, .. } = local;
    let ledgers = store.borrow().remote_ledgers(0)?;
    let epoch = backend.state().await?.epoch;
    for ledger in ledgers.iter().filter(|ledger| local.is_ledger(ledger)) {
        let work = CellWork { backend, store, identity, ledger };
        judge_cells(&work, blocks).await?;
        work.reassert(epoch, &entries(store)?).await?;
    }
    Ok(())
}
