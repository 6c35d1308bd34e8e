//! Tests addresses in use on the wire, with a ledger in memory.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::time::{Duration, Instant};

use weft_core::ledger::CONFLICT_SECONDS;
use weft_core::ledger::remote::AddressState;
use weft_host_abi::types::ReleaseRule;

use super::backend::memory::Memory;
use super::backend::{Backend, Listing};
use super::tests::{Machine, NOW, OTHER, Pod, WEB, WEB_AGAIN, address, one_want};
use super::{Claim, ClaimState, Granted, Rests, collect_conflicts, reassert, reclaim, reverse_sweep};

const BY: &str = "02:00:00:00:00:09";

impl Machine {
    /// Runs an ADD that finds another host answering, up to the removal of its links.
    fn finds_in_use(&self, pod: &Pod) {
        self.store.borrow_mut().abandon(&pod.key(), &[(address(), BY.to_owned())], NOW).unwrap();
    }
}

async fn only_claim(server: &Memory) -> Claim {
    let mut all = server.list(Listing::All).await.unwrap();
    assert_eq!(all.len(), 1, "{all:?}");
    all.remove(0)
}

#[tokio::test]
async fn an_address_in_use_is_marked_and_nobody_gets_it() {
    let server = Memory::default();
    let (a, b) = (Machine::new("a", "m-a", &server), Machine::new("b", "m-b", &server));
    a.add(&WEB).await.unwrap();
    a.finds_in_use(&WEB);
    // Until it is marked, its nonce holds it.
    let lost = b.intend(&OTHER, &one_want(), &ReleaseRule::Free);
    assert!(matches!(b.grant(&lost).await.unwrap(), Granted::Lost { .. }));
    b.give_up(&lost);
    assert_eq!((a.drain(NOW).await, a.rows(AddressState::Tombstone)), (0, 0));
    let marked = only_claim(&server).await;
    assert_eq!((marked.spec.state, marked.spec.holders.len()), (ClaimState::Conflict, 0));
    assert_eq!(marked.spec.in_use_by.as_deref(), Some(BY));

    // Neither its owner's next try nor another pod gets it.
    for (machine, pod) in [(&a, &WEB_AGAIN), (&b, &OTHER)] {
        let lost = machine.intend(pod, &one_want(), &ReleaseRule::Free);
        let Granted::Lost { taken, .. } = machine.grant(&lost).await.unwrap() else { panic!("granted to {}", pod.uid) };
        assert_eq!(taken, [(address(), format!("{BY}, which answers for it on the wire"))]);
        machine.give_up(&lost);
    }
    // The sweep does not remove it either.
    reverse_sweep(&server, &a.store, &a.identity).await.unwrap();
    reclaim(&server).await.unwrap();
    reassert(&server, &a.store, (&a.identity, 0), |_row| true).await.unwrap();
    assert_eq!(only_claim(&server).await.versions, marked.versions);
}

#[tokio::test]
async fn a_mark_ends_after_its_time_by_the_collectors_clock() {
    let server = Memory::default();
    let a = Machine::new("a", "m-a", &server);
    a.add(&WEB).await.unwrap();
    a.finds_in_use(&WEB);
    a.drain(NOW).await;
    let (mut marks, began) = (Rests::default(), Instant::now());
    let nearly = began + Duration::from_secs(CONFLICT_SECONDS - 1);
    assert_eq!(collect_conflicts(&server, &mut marks, began).await.unwrap(), 0);
    assert_eq!(collect_conflicts(&server, &mut marks, nearly).await.unwrap(), 0);
    // Another collector starts over.
    assert_eq!(collect_conflicts(&server, &mut Rests::default(), nearly + Duration::from_secs(9)).await.unwrap(), 0);
    assert_eq!(collect_conflicts(&server, &mut marks, began + Duration::from_secs(CONFLICT_SECONDS)).await.unwrap(), 1);
    a.add(&WEB).await.unwrap();
}

/// The address was claimed again before it is marked: only our own nonce is marked.
#[tokio::test]
async fn nonce_keeps_the_next_owner_from_being_marked() {
    let server = Memory::default();
    let (a, b) = (Machine::new("a", "m-a", &server), Machine::new("b", "m-b", &server));
    a.add(&WEB).await.unwrap();
    a.finds_in_use(&WEB);
    server.0.borrow_mut().claims.clear();
    let nonce = b.add(&OTHER).await.unwrap();
    assert_eq!((a.drain(NOW).await, server.holder()), (0, Some(nonce)));
    assert_eq!(only_claim(&server).await.spec.state, ClaimState::Active);
}

/// The ledger is restored to a state with the mark, and the address is on a link by now.
#[tokio::test]
async fn holderless_yields_a_mark_to_a_link_that_is_up() {
    let server = Memory::default();
    let (a, b) = (Machine::new("a", "m-a", &server), Machine::new("b", "m-b", &server));
    a.add(&WEB).await.unwrap();
    a.finds_in_use(&WEB);
    a.drain(NOW).await;
    let marked = only_claim(&server).await;
    for (machine, pod) in [(&a, &WEB), (&b, &OTHER)] {
        server.0.borrow_mut().claims.clear();
        let nonce = machine.add(pod).await.unwrap();
        server.0.borrow_mut().claims.insert(marked.spec.name(), marked.clone());
        let done = reassert(&server, &machine.store, (&machine.identity, 0), |_row| true).await.unwrap();
        assert_eq!((done.written, done.conflicts.len(), server.holder()), (1, 0, Some(nonce)));
        let again = only_claim(&server).await.spec;
        assert_eq!((again.state, again.in_use_by), (ClaimState::Active, None));
        machine.del(pod);
        machine.drain(NOW).await;
    }
}
