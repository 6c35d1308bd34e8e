//! The opt-in of a pool (`reclaimDeletedNodes`): a Node that is gone counts as a fence for what was drawn from the pool.
//! That is right where a Node is deleted only after its machine has ended, as by the node controllers of clouds.
//!
//! Invariant: a Node is gone if it was in no list for the whole grace by this process's own clock, and in no live read
//! after the claim was read. A pod that the API server still has keeps its claim.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use super::backend::{Backend, Listing};
use super::drain::{DrainError, remove};
use super::object::Claim;
use super::round::Round;

/// Since when Nodes have been gone, as observed by this process.
#[derive(Debug, Default)]
pub struct Missing(BTreeMap<String, Instant>);

impl Missing {
    /// Takes the result of a look. Returns the nodes that have been gone for the grace, in at least two looks.
    fn look(&mut self, missing: Vec<String>, now: Instant, grace: Duration) -> Vec<String> {
        let before = std::mem::take(&mut self.0);
        self.0 = missing.iter().map(|node| (node.clone(), before.get(node).copied().unwrap_or(now))).collect();
        let is_due =
            |node: &String| before.get(node).is_some_and(|since| now.saturating_duration_since(*since) >= grace);
        missing.into_iter().filter(is_due).collect()
    }
}

/// Gives back what nodes that are gone held of these pools. Returns the number of claims and cells.
///
/// # Errors
/// The ledger cannot be read or written.
pub async fn reclaim_deleted<B: Backend>(
    backend: &B,
    pools: &BTreeSet<String>,
    missing: &mut Missing,
    (now, grace): (Instant, Duration),
) -> Result<usize, DrainError> {
    if pools.is_empty() {
        *missing = Missing::default();
        return Ok(0);
    }
    let mut round = Round::default();
    for node in missing.look(backend.missing_nodes().await?, now, grace) {
        let claims = backend.list(Listing::Node(&node)).await?.into_iter();
        for claim in claims.filter(|claim| pools.contains(&claim.spec.pool)) {
            if !backend.is_missing(&node).await? {
                break;
            }
            let dead = dead(backend, &claim, &node).await?;
            if !dead.is_empty() {
                let rest = claim.spec.without_holders(|holder| dead.contains(&holder.nonce));
                round.count(remove(backend, &rest, &claim.versions).await.map(|()| dead.len()))?;
            }
        }
        let blocks = backend.blocks(Listing::Node(&node)).await?.into_iter();
        for block in blocks.filter(|block| pools.contains(&block.spec.pool)) {
            if !backend.is_missing(&node).await? {
                break;
            }
            // A conflict: the machine has confirmed it meanwhile.
            round.count(backend.delete_block(&block.spec.name(), &block.versions).await.map(|()| 1))?;
        }
    }
    round.end()
}

/// Returns the nonces of a claim's holders on a node whose pods are gone.
async fn dead<B: Backend>(backend: &B, claim: &Claim, node: &str) -> Result<Vec<String>, DrainError> {
    let owner = &claim.spec.owner.owner;
    if owner.kind == "Pod" && backend.pod_exists(&owner.namespace, &owner.name, &owner.uid).await? {
        return Ok(Vec::new());
    }
    let own = claim.spec.holders.iter().filter(|holder| holder.node == node);
    Ok(own.map(|holder| holder.nonce.clone()).collect())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use weft_host_abi::types::ReleaseRule;

    use super::super::backend::memory::Memory;
    use super::super::tests::{Machine, OTHER, WEB, one_want, wants};
    use super::super::{Granted, reclaim};
    use super::*;

    const GRACE: Duration = Duration::from_secs(300);

    async fn add_from(machine: &Machine, pool: &str) {
        let soon = tokio::time::Instant::now() + Duration::from_millis(300);
        let (pod, wants) = if pool.is_empty() { (OTHER, wants(&[&["10.0.0.2/24"]])) } else { (WEB, one_want()) };
        let nonce = machine.intend(&pod, &wants, &ReleaseRule::Free);
        assert_eq!(machine.grant_from(pool, soon, &nonce).await.0.unwrap(), Granted::All);
        machine.commit(&pod, &nonce, &wants, &ReleaseRule::Free).unwrap();
    }

    #[tokio::test]
    async fn fence_by_a_deleted_node_is_a_pools_own_choice() {
        let server = Memory::default();
        let a = Machine::new("a", "m-a", &server);
        a.write_record().await;
        add_from(&a, "cloud").await;
        add_from(&a, "").await;
        let (pools, start) = (BTreeSet::from(["cloud".to_owned()]), Instant::now());
        let mut missing = Missing::default();
        let mut round = async |after: u64, pools: &BTreeSet<String>| {
            reclaim_deleted(&server, pools, &mut missing, (start + Duration::from_secs(after), GRACE)).await.unwrap()
        };
        assert_eq!(round(0, &pools).await, 0, "the Node is there");
        server.0.borrow_mut().missing = vec!["a".into()];
        assert_eq!((round(10, &pools).await, round(309, &pools).await), (0, 0), "it may only be registered again");
        server.0.borrow_mut().missing.clear();
        assert_eq!(round(320, &pools).await, 0);
        server.0.borrow_mut().missing = vec!["a".into()];
        assert_eq!(round(330, &pools).await, 0, "the time begins again");
        // The pod is still there.
        server.0.borrow_mut().pods = vec!["web".into()];
        assert_eq!(round(630, &pools).await, 0);
        server.0.borrow_mut().pods.clear();
        assert_eq!((round(640, &BTreeSet::new()).await, server.0.borrow().claims.len()), (0, 2), "no pool wants it");
        assert_eq!((round(650, &pools).await, round(950, &pools).await), (0, 1));
        // What is of no such pool stays until a person or a taint fences the machine.
        assert_eq!((reclaim(&server).await.unwrap(), server.0.borrow().claims.len(), server.holder()), (0, 1, None));
    }
}
