//! Requests that a server executes after their client has gone, although a later one was answered; and ages of
//! tombstones while the node's clock is set.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::time::Duration;

use weft_core::ledger::remote::{AddressState, Clock};
use weft_host_abi::types::ReleaseRule;

use super::backend::memory::{Fault, Memory};
use super::tests::{LATER, Machine, NOW, WEB, WEB_AGAIN, one_want};
use super::{GrantError, Granted, reassert};

/// Longer ago than any request lives.
const OVER: u64 = NOW + 120;

#[tokio::test]
async fn a_create_overtaken_by_a_granted_one_is_awaited() {
    let server = Memory::default();
    let a = Machine::new("a", "m-a", &server);
    server.fail_next(&[Some(Fault::Hold)]);
    a.add(&WEB).await.unwrap();
    assert_eq!(server.0.borrow().creates, 2);
    a.del(&WEB);
    assert_eq!((a.drain(NOW).await, server.holder()), (1, None), "given back, but its tombstone waits");
    server.release();
    assert!(server.holder().is_some());
    assert_eq!((a.drain(NOW + 1).await, server.holder()), (1, None));
    assert_eq!((a.drain(OVER).await, a.rows(AddressState::Tombstone)), (0, 0));
}

#[tokio::test]
async fn a_create_whose_effect_was_found_is_not_awaited() {
    let server = Memory::default();
    let a = Machine::new("a", "m-a", &server);
    server.fail_next(&[Some(Fault::DropAnswer)]);
    a.add(&WEB).await.unwrap();
    a.del(&WEB);
    assert_eq!(a.drain(NOW).await, 0);
}

#[tokio::test]
async fn a_create_of_a_re_assertion_is_waited_for() {
    let server = Memory::default();
    let a = Machine::new("a", "m-a", &server);
    a.add(&WEB).await.unwrap();
    server.0.borrow_mut().claims.clear();
    server.fail_next(&[Some(Fault::Hold)]);
    assert!(reassert(&server, &a.store, (&a.identity, 0), |_row| true).await.is_err());
    a.del(&WEB);
    assert_eq!(a.drain(NOW).await, 1);
    server.release();
    assert_eq!((a.drain(NOW + 1).await, server.holder()), (1, None));
    assert_eq!(a.drain(OVER).await, 0);

    // One that was answered is not.
    a.add(&WEB).await.unwrap();
    server.0.borrow_mut().claims.clear();
    assert_eq!(reassert(&server, &a.store, (&a.identity, 0), |_row| true).await.unwrap().written, 1);
    a.del(&WEB);
    assert_eq!(a.drain(NOW).await, 0);
}

#[tokio::test]
async fn an_adoption_that_was_not_answered_leaves_a_tombstone() {
    let server = Memory::default();
    let a = Machine::new("a", "m-a", &server);
    a.add(&WEB).await.unwrap();
    a.del(&WEB);
    // The create finds the pod's claim, the update is held back, and the next create is refused.
    server.fail_next(&[None, Some(Fault::Hold), Some(Fault::Refuse)]);
    let nonce = a.intend(&WEB_AGAIN, &one_want(), &ReleaseRule::Free);
    assert!(matches!(a.grant(&nonce).await, Err(GrantError::Write(_))));
    a.give_up(&nonce);
    server.release();
    assert_eq!(server.holder(), Some(nonce));
    assert_eq!((a.drain(NOW).await, server.holder()), (1, None));
    assert_eq!((a.drain(OVER).await, a.rows(AddressState::Tombstone)), (0, 0));
}

#[tokio::test]
async fn a_tombstone_that_waits_costs_few_reads() {
    let server = Memory::default();
    let a = Machine::new("a", "m-a", &server);
    server.fail_next(&[Some(Fault::DropRequest); 20]);
    assert!(a.add(&WEB).await.is_err());
    server.fail_next(&[]);
    let before = server.0.borrow().gets;
    for second in 0..=120 {
        a.drain(NOW + second).await;
    }
    // After 0, 1, 5, 30 and 120 seconds.
    assert_eq!((server.0.borrow().gets - before, a.rows(AddressState::Tombstone)), (5, 0));
}

#[tokio::test]
async fn a_clock_that_was_ahead_keeps_no_tombstone() {
    let server = Memory::default();
    let a = Machine::new("a", "m-a", &server);
    let (rest, ahead) = (ReleaseRule::Cooldown(300), NOW + 2_000_000_000);
    let nonce = a.intend(&WEB, &one_want(), &rest);
    assert_eq!(a.grant(&nonce).await.unwrap(), Granted::All);
    a.commit(&WEB, &nonce, &one_want(), &rest).unwrap();
    a.store.borrow_mut().release(&WEB.key(), ahead).unwrap();
    assert_eq!(a.drain(LATER).await, 1);
    let clock = |now| Clock { now, uptime: Duration::from_secs(now) };
    a.store.borrow_mut().follow_clock(None, clock(LATER)).unwrap();
    assert_eq!(a.drain(LATER + 299).await, 1);
    assert_eq!((a.drain(LATER + 300).await, server.holder()), (0, None));
}

#[tokio::test]
async fn a_clock_that_is_set_ahead_ends_no_cooldown() {
    let server = Memory::default();
    let a = Machine::new("a", "m-a", &server);
    let rest = ReleaseRule::Cooldown(300);
    let nonce = a.intend(&WEB, &one_want(), &rest);
    assert_eq!(a.grant(&nonce).await.unwrap(), Granted::All);
    a.commit(&WEB, &nonce, &one_want(), &rest).unwrap();
    a.del(&WEB);
    let clock = |now, uptime| Clock { now, uptime: Duration::from_secs(uptime) };
    a.store.borrow_mut().follow_clock(None, clock(NOW, 50)).unwrap();
    let set = a.store.borrow_mut().follow_clock(Some(clock(NOW, 50)), clock(NOW + 7200, 51)).unwrap();
    assert_eq!(set, 7199);
    assert_eq!(a.drain(NOW + 7200 + 298).await, 1);
    assert_eq!((a.drain(NOW + 7200 + 300).await, server.holder()), (0, None));
}
