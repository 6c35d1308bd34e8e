//! Two machines of one node's name: what a fence and a thaw mean then (`machine_id`).

#![allow(clippy::unwrap_used, reason = "tests")]

use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::LedgerState;
use super::backend::Backend;
use super::backend::memory::Memory;
use super::operate::{fence, thaw};
use super::record::{WrittenRecord, look_again, write_record};
use super::tests::{Machine, WEB};

/// A machine with a pod, and another one that has got its name.
async fn machines_of_one_name(server: &Memory) -> (Machine, Machine) {
    let a = Machine::new("a", "m-1", server);
    a.write_record().await;
    a.add(&WEB).await.unwrap();
    let twin = Machine::boot(TempDir::new().unwrap(), ("a", "m-2", "boot-9"), server);
    twin.write_record().await;
    (a, twin)
}

async fn written_record(machine: &Machine, confirmed: Option<u64>) -> WrittenRecord {
    write_record(&machine.server, &machine.identity, confirmed).await.unwrap()
}

async fn refused(server: &Memory) -> String {
    thaw(server, false, Duration::ZERO).await.unwrap_err().to_string()
}

impl Memory {
    fn frozen_in(&self, epoch: u64) {
        self.0.borrow_mut().state = LedgerState { epoch, frozen: true };
    }
}

#[tokio::test]
async fn fence_of_a_name_with_two_machines_wants_the_machine() {
    let server = Memory::default();
    let (_a, twin) = machines_of_one_name(&server).await;
    let error = fence(&server, "a", None).await.unwrap_err().to_string();
    assert!(
        error.contains("m-1 (1 claims, 0 cells)") && error.contains("m-2 (0 claims, 0 cells, registered last)"),
        "{error}"
    );
    assert!(server.node("a").await.unwrap().unwrap().fenced_machines.is_empty() && server.holder().is_some());
    // Also if only its claim tells of the first machine.
    server.change_node("a", |node| node.others.clear()).await.unwrap();
    assert!(fence(&server, "a", None).await.is_err());
    fence(&server, "a", Some("m-1")).await.unwrap();
    assert_eq!(server.holder(), None);
    assert!(!look_again(&server, &twin.identity, false).await.unwrap().is_fenced);
    // Now the name means the one that is left.
    let said = fence(&server, "a", None).await.unwrap();
    assert_eq!(said[0], "machine m-2 of node a is fenced");
    assert!(look_again(&server, &twin.identity, false).await.unwrap().is_fenced);
}

#[tokio::test]
async fn fence_of_a_name_with_one_machine_needs_no_more() {
    let server = Memory::default();
    let a = Machine::new("a", "m-1", &server);
    a.write_record().await;
    a.add(&WEB).await.unwrap();
    fence(&server, "a", None).await.unwrap();
    assert_eq!(server.holder(), None);
    fence(&server, "a", None).await.unwrap();
    assert!(fence(&server, "b", None).await.is_err(), "nobody has this name");
}

/// Only a boot proves that the fenced pods are gone.
#[tokio::test]
async fn fence_ends_with_a_boot_and_not_with_the_return_of_a_machine() {
    let server = Memory::default();
    let (a, _twin) = machines_of_one_name(&server).await;
    fence(&server, "a", Some("m-1")).await.unwrap();
    assert!(
        written_record(&a, None).await.is_fenced && look_again(&server, &a.identity, false).await.unwrap().is_fenced
    );
    let a = Machine::boot(TempDir::new().unwrap(), ("a", "m-1", "boot-2"), &server);
    assert!(!written_record(&a, None).await.is_fenced);
    assert!(server.node("a").await.unwrap().unwrap().fenced_machines.is_empty());
}

#[tokio::test]
async fn thaw_waits_for_every_machine_of_a_name() {
    let server = Memory::default();
    let (a, twin) = machines_of_one_name(&server).await;
    server.frozen_in(1);
    written_record(&twin, Some(1)).await;
    let error = refused(&server).await;
    assert!(error.starts_with("machine m-1, which was node a before, has not confirmed epoch 1;"), "{error}");
    // It comes back and confirms: now both have.
    written_record(&a, Some(1)).await;
    thaw(&server, false, Duration::ZERO).await.unwrap();
    // In the next freeze, the confirmation of one machine does not count for the other.
    server.frozen_in(2);
    written_record(&a, Some(2)).await;
    assert!(refused(&server).await.starts_with("machine m-2, which was node a before,"));
    fence(&server, "a", Some("m-2")).await.unwrap();
    thaw(&server, false, Duration::ZERO).await.unwrap();
}

#[tokio::test]
async fn machines_that_hold_nothing_are_forgotten_at_last() {
    let server = Memory::default();
    let _first = machines_of_one_name(&server).await;
    for number in 3..30 {
        let next = Machine::boot(TempDir::new().unwrap(), ("a", &format!("m-{number}"), "boot"), &server);
        next.write_record().await;
    }
    let others = server.node("a").await.unwrap().unwrap().others;
    assert!(others.len() <= 10 && others.iter().any(|other| other.machine == "m-1"), "{others:?}");
}

#[tokio::test]
async fn thaw_waits_for_agents_that_the_ledger_does_not_know() {
    let server = Memory::default();
    server.0.borrow_mut().agents = vec!["a".into(), "b".into()];
    let a = Machine::new("a", "m-1", &server);
    server.frozen_in(1);
    written_record(&a, Some(1)).await;
    assert!(refused(&server).await.starts_with("node b has an agent, and has not confirmed epoch 1;"));
    written_record(&Machine::new("b", "m-2", &server), Some(1)).await;
    thaw(&server, false, Duration::ZERO).await.unwrap();
}

#[tokio::test]
async fn thaw_looks_at_the_freeze_for_a_while() {
    let server = Memory::default();
    let a = Machine::new("a", "m-1", &server);
    server.frozen_in(1);
    written_record(&a, Some(1)).await;
    let (wait, began) = (Duration::from_millis(300), Instant::now());
    let late = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        Machine::new("b", "m-2", &server).write_record().await;
    };
    let (thawed, ()) = tokio::join!(thaw(&server, false, wait), late);
    assert!(thawed.unwrap_err().to_string().starts_with("node b has not confirmed epoch 1;"));
    assert!(began.elapsed() >= wait);
    thaw(&server, true, Duration::from_secs(1000)).await.unwrap();
}
