//! `doubt`: a ledger in memory is restored from a backup without a freeze.

#![allow(clippy::unwrap_used, reason = "tests")]

use weft_core::commit::ClaimError;
use weft_core::ledger::remote::AddressState;
use weft_host_abi::types::ReleaseRule;

use super::backend::memory::{Memory, Server};
use super::backend::{Backend, WriteError};
use super::tests::{LATER, Machine, NOW, OTHER, THIRD, WEB, one_want, wants};
use super::{GrantError, Granted, LedgerState, drop_intents, reassert, resolve_doubt};

impl Memory {
    fn backup(&self) -> Server {
        self.0.borrow().clone()
    }

    fn take_back(&self, backup: &Server) {
        *self.0.borrow_mut() = backup.clone();
    }

    fn epoch(&self) -> (u64, bool) {
        let state = self.0.borrow().state;
        (state.epoch, state.frozen)
    }
}

impl Machine {
    /// Does what the agent does every few seconds.
    async fn look(&self) {
        self.server.state().await.unwrap();
    }

    fn is_in_doubt(&self) -> bool {
        self.server.history().doubt().is_some()
    }

    async fn resolve_doubt(&self, known: u64) -> LedgerState {
        resolve_doubt(&self.server, &self.store, known, NOW).await.unwrap()
    }

    async fn reassert(&self, epoch: u64) -> super::Reasserted {
        reassert(&self.server, &self.store, (&self.identity, epoch), |_row| true).await.unwrap()
    }
}

fn machines(server: &Memory) -> (Machine, Machine) {
    (Machine::new("a", "m-a", server), Machine::new("b", "m-b", server))
}

/// A claim is lost, and the other node asks first.
#[tokio::test]
async fn doubt_keeps_a_lost_claim_from_being_given_out_again() {
    for bump in [0, 1_000_000_000] {
        let server = Memory::default();
        let (a, b) = machines(&server);
        let backup = server.backup();
        let nonce = a.add(&WEB).await.unwrap();
        // Writes of other clients.
        server.0.borrow_mut().version += 50;
        a.look().await;
        b.look().await;
        server.take_back(&backup);
        server.0.borrow_mut().version += bump;

        // The create itself reveals it, without a previous read. Its answer is not used.
        assert!(matches!(b.add(&OTHER).await, Err(GrantError::Doubt(_))), "bump {bump}");
        assert_eq!(b.resolve_doubt(0).await, LedgerState { epoch: 1, frozen: true });
        assert!(!b.is_in_doubt());
        assert!(matches!(b.add(&OTHER).await, Err(GrantError::Write(WriteError::Frozen))));
        assert_eq!((b.drain(LATER).await, server.holder()), (0, None));

        // The other node detects it in its next round, joins the freeze, and writes its
        // claim again.
        a.look().await;
        assert!(a.is_in_doubt(), "bump {bump}");
        assert_eq!(a.resolve_doubt(0).await.epoch, 1);
        let done = a.reassert(1).await;
        assert_eq!((done.written, done.conflicts.len(), server.holder()), (1, 0, Some(nonce)));
        let thawed = LedgerState { epoch: 1, frozen: false };
        server.set_state(LedgerState { epoch: 1, frozen: true }, thawed).await.unwrap();
        assert!(matches!(b.add(&OTHER).await, Err(GrantError::Deadline(text)) if text == "lost"));
    }
}

#[tokio::test]
async fn drop_intents_ends_what_was_granted_before_the_restore() {
    let server = Memory::default();
    let (a, _b) = machines(&server);
    let backup = server.backup();
    let nonce = a.intend(&WEB, &one_want(), &ReleaseRule::Free);
    assert_eq!(a.grant(&nonce).await.unwrap(), Granted::All);
    server.take_back(&backup);
    a.look().await;
    a.resolve_doubt(0).await;
    let committed = a.commit(&WEB, &nonce, &one_want(), &ReleaseRule::Free);
    assert!(matches!(committed, Err(ClaimError::Withdrawn)));
    assert_eq!(a.rows(AddressState::Entry), 0);
}

#[tokio::test]
async fn del_works_in_doubt_and_while_frozen() {
    let server = Memory::default();
    let (a, b) = machines(&server);
    a.add(&WEB).await.unwrap();
    let backup = server.backup();
    b.look().await;
    a.look().await;
    a.del(&WEB);
    assert_eq!((a.drain(LATER).await, server.holder()), (0, None));
    server.0.borrow_mut().version += 10;
    a.look().await;
    server.take_back(&backup);
    a.look().await;
    assert!(a.is_in_doubt());
    a.resolve_doubt(0).await;
    // A claim that was given back exists again; the sweep finds it.
    assert!(server.holder().is_some());
    let swept = super::reverse_sweep(&a.server, &a.store, &a.identity).await.unwrap();
    assert_eq!((swept.removed, server.holder()), (1, None));
}

/// The backup may be from a freeze that every node had confirmed.
#[tokio::test]
async fn a_freeze_of_a_known_epoch_is_not_joined() {
    let state = |epoch, frozen| LedgerState { epoch, frozen };
    for (found, known, expected) in [
        (state(0, false), 0, 1),
        (state(4, false), 3, 5),
        (state(4, true), 3, 4),
        (state(4, true), 4, 5),
        (state(4, true), 7, 8),
        (state(4, false), 7, 8),
    ] {
        let server = Memory::default();
        let (a, _b) = machines(&server);
        server.0.borrow_mut().state = found;
        assert_eq!(a.resolve_doubt(known).await, state(expected, true), "{found:?}, {known} known");
    }
}

/// A node that has not seen the lost writes cannot detect the restore: the node that has
/// seen them freezes the ledger.
#[tokio::test]
async fn an_absent_agent_detects_a_freeze_by_its_epoch() {
    let server = Memory::default();
    let (a, b) = machines(&server);
    let backup = server.backup();
    let nonce = a.add(&WEB).await.unwrap();
    server.take_back(&backup);
    a.look().await;
    a.resolve_doubt(0).await;
    assert!(matches!(b.add(&OTHER).await, Err(GrantError::Write(WriteError::Frozen))));
    assert!(!b.is_in_doubt());
    a.reassert(1).await;
    assert_eq!((server.holder(), server.epoch()), (Some(nonce), (1, true)));
}

#[tokio::test]
async fn seen_history_survives_a_restart() {
    let server = Memory::default();
    let (a, b) = machines(&server);
    let backup = server.backup();
    a.add(&WEB).await.unwrap();
    b.look().await;
    let seen = b.server.history().observe_epoch(3);
    b.store.borrow_mut().note_seen("{}", &seen).unwrap();
    server.take_back(&backup);
    // Its successor only has the store.
    let successor = Machine { server: server.clone(), ..b };
    successor.server.history().resume(successor.store.borrow().seen("{}").unwrap(), NOW);
    assert_eq!(successor.server.history().epoch(), 3);
    assert!(matches!(successor.add(&THIRD).await, Err(GrantError::Doubt(_))));
}

#[tokio::test]
async fn a_frozen_ledger_grants_nothing_and_takes_re_assertions() {
    let server = Memory::default();
    let (a, b) = (Machine::new("a", "m-a", &server), Machine::new("b", "m-b", &server));
    let nonce = a.add(&WEB).await.unwrap();
    let hanging = a.intend(&OTHER, &wants(&[&["10.0.0.7/24"]]), &ReleaseRule::Free);
    // A restore returns to the time before the claim.
    let frozen = LedgerState { epoch: 1, frozen: true };
    server.set_state(LedgerState::default(), frozen).await.unwrap();
    server.0.borrow_mut().claims.clear();
    assert!(matches!(b.add(&OTHER).await, Err(GrantError::Write(WriteError::Frozen))));

    assert_eq!(drop_intents(&a.store, NOW).unwrap(), 1);
    assert!(matches!(a.grant(&hanging).await, Err(GrantError::Withdrawn)));
    let done = reassert(&server, &a.store, (&a.identity, 1), |_row| true).await.unwrap();
    assert_eq!((done.written, done.conflicts.len(), server.holder()), (1, 0, Some(nonce)));
    server.set_state(frozen, LedgerState { epoch: 1, frozen: false }).await.unwrap();
    assert!(b.add(&OTHER).await.is_err(), "the address is taken again");
}

#[tokio::test]
async fn entries_are_asserted_in_their_own_ledger_alone() {
    let (server, other) = (Memory::default(), Memory::default());
    let a = Machine::new("a", "m-a", &server);
    a.add(&WEB).await.unwrap();
    let done = reassert(&other, &a.store, (&a.identity, 1), |row| row.ledger == "another").await.unwrap();
    assert_eq!((done.written, done.conflicts.len(), other.holder()), (0, 0, None));
}

#[tokio::test]
async fn confirm_strict_reports_an_address_that_somebody_else_has() {
    let server = Memory::default();
    let (a, b) = (Machine::new("a", "m-a", &server), Machine::new("b", "m-b", &server));
    a.add(&WEB).await.unwrap();
    server.0.borrow_mut().claims.clear();
    b.add(&OTHER).await.unwrap();
    let done = reassert(&server, &a.store, (&a.identity, 1), |_row| true).await.unwrap();
    assert_eq!(done.conflicts[0].holder, "pod ns/other on node b");
    assert_eq!(done.written, 0);
}
