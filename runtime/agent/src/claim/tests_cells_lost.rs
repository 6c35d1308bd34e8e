//! Cells that the ledger has lost, or given to somebody else: by a restore, a fence, or by hand.

use tokio::time::Instant;
use weft_core::ledger::remote::CellState;
use weft_host_abi::types::ReleaseRule;

use super::backend::memory::Memory;
use super::backend::{Backend as _, WriteError};
use super::cells::{CellError, Idle};
use super::reclaim;
use super::tests::{Machine, NOW, OTHER, THIRD, WEB};
use super::tests_cells::{SIZE, cell_want};

#[tokio::test]
async fn reassert_brings_a_cell_back_behind_a_freeze() {
    let server = Memory::default();
    let (a, b) = (Machine::new("a", "m-a", &server), Machine::new("b", "m-b", &server));
    a.take().await.unwrap();
    a.allocate(&WEB, &ReleaseRule::Free).unwrap();
    let held = a.owned();
    // The backup is older than the cell, and the domain.
    server.0.borrow_mut().blocks.clear();
    server.0.borrow_mut().domains.clear();
    server.freeze(1, true);
    b.store.borrow_mut().note_domain("{}", "default", SIZE).unwrap();
    let refused = b.work().take(&cell_want(), &[], Instant::now()).await;
    assert!(matches!(refused, Err(CellError::Write(WriteError::Frozen))) && b.states().is_empty());

    a.store.borrow_mut().suspend_cells("{}", NOW).unwrap();
    assert_eq!(a.reassert_cells(1).await, (2, 0));
    assert_eq!((server.cells(), server.0.borrow().domains.len()), (1, 1));
    // Nothing is allocated from it before the thaw, and its attachments may be removed.
    assert!(a.allocate(&OTHER, &ReleaseRule::Free).is_err());
    a.work().look_after(&mut Idle::default(), true).await.unwrap();
    assert_eq!(a.states(), [CellState::Unconfirmed]);
    server.freeze(1, false);
    a.look_after(&mut Idle::default()).await;
    assert_eq!(a.owned(), held);
    a.allocate(&OTHER, &ReleaseRule::Free).unwrap();
    assert!(b.take().await.unwrap());
    assert_ne!(b.owned(), held);
}

#[tokio::test]
async fn confirm_strict_reports_a_cell_that_somebody_else_has() {
    let server = Memory::default();
    let (a, b) = (Machine::new("a", "m-a", &server), Machine::new("b", "m-b", &server));
    a.take().await.unwrap();
    let address = a.allocate(&WEB, &ReleaseRule::Free).unwrap();
    server.0.borrow_mut().blocks.clear();
    assert!(b.take().await.unwrap() && b.take().await.unwrap());
    let super::Reasserted { written, conflicts, .. } = a.work().reassert(1, &[]).await.unwrap();
    assert_eq!((written, conflicts.len(), conflicts[0].address), (0, 1, address));
    assert!(conflicts[0].holder.contains("node b"), "{conflicts:?}");
    // Nothing more is allocated from it; when its attachment is gone, the cell is forgotten.
    assert!(a.allocate(&OTHER, &ReleaseRule::Free).is_err());
    a.del(&WEB);
    a.look_after(&mut Idle::default()).await;
    assert_eq!((a.states(), server.cells()), (Vec::new(), 2));
}

#[tokio::test]
async fn doubt_a_cell_from_another_history_is_not_used() {
    let server = Memory::default();
    let machine = Machine::new("a", "m-a", &server);
    machine.server.state().await.unwrap();
    machine.take().await.unwrap();
    server.0.borrow_mut().version = 0;
    server.0.borrow_mut().blocks.clear();
    let taken = machine.take().await;
    assert!(matches!(taken, Err(CellError::Doubt(_))), "{taken:?}");
    assert_eq!(machine.owned().len(), 1);
}

/// Kubernetes asks a person to remove the taint once the node has recovered, so it is there after the boot.
#[tokio::test]
async fn fence_by_a_taint_that_outlives_the_boot_takes_no_cell() {
    let server = Memory::default();
    let a = Machine::new("a", "m-a", &server);
    a.write_record().await;
    a.take().await.unwrap();
    server.0.borrow_mut().tainted.push("a".into());
    assert_eq!(reclaim(&server).await.unwrap(), 1, "the machine is dead");
    let a = a.reboot("boot-2");
    a.write_record().await;
    a.look_after(&mut Idle::default()).await;
    a.take().await.unwrap();
    a.allocate(&WEB, &ReleaseRule::Free).unwrap();
    assert_eq!(reclaim(&server).await.unwrap(), 0, "it is living");
    let b = Machine::new("b", "m-b", &server);
    while b.take().await.unwrap() {}
    assert!(!b.owned().iter().any(|span| a.owned().contains(span)));
}

#[tokio::test]
async fn a_cell_that_was_taken_away_gives_nothing_out() {
    let server = Memory::default();
    let a = Machine::new("a", "m-a", &server);
    a.take().await.unwrap();
    a.allocate(&WEB, &ReleaseRule::Free).unwrap();
    assert!(a.work().compare().await.unwrap().is_empty());
    let take_away = |server: &Memory| server.0.borrow_mut().blocks.clear();
    // Nobody has it: it is written again, and confirmed.
    take_away(&server);
    assert_eq!(a.work().compare().await.unwrap().len(), 1);
    assert_eq!((a.states(), a.owned()), (vec![CellState::Unconfirmed], Vec::new()));
    assert!(a.allocate(&OTHER, &ReleaseRule::Free).is_err());
    assert_eq!(a.reassert_cells(0).await, (1, 0));
    a.look_after(&mut Idle::default()).await;
    let address = a.allocate(&OTHER, &ReleaseRule::Free).unwrap();
    assert_eq!((a.states(), server.cells()), (vec![CellState::Owned], 1));
    // Another machine has it: a person has to decide.
    take_away(&server);
    let b = Machine::new("b", "m-b", &server);
    while b.take().await.unwrap() {}
    assert_eq!(a.work().compare().await.unwrap().len(), 1);
    assert_eq!(a.reassert_cells(0).await, (0, 2));
    a.look_after(&mut Idle::default()).await;
    assert!(a.allocate(&THIRD, &ReleaseRule::Free).is_err());
    a.del(&WEB);
    a.del(&OTHER);
    a.look_after(&mut Idle::default()).await;
    assert!(a.states().is_empty() && b.owned().iter().any(|(first, last)| (*first..=*last).contains(&address)));
}

#[tokio::test]
async fn machine_id_a_copy_of_the_disk_in_another_machine_confirms_nothing() {
    let server = Memory::default();
    let mut a = Machine::new("a", "m-a", &server);
    a.take().await.unwrap();
    a.identity.machine = "m-z".into();
    let clone = a.reboot("boot-2");
    clone.look_after(&mut Idle::default()).await;
    assert_eq!((clone.states(), server.cells()), (Vec::new(), 1));
}

#[tokio::test]
async fn store_id_keeps_the_cells_of_a_store_that_was_moved_away() {
    let server = Memory::default();
    let old = Machine::new("a", "m-a", &server);
    old.take().await.unwrap();
    let new = Machine::new("a", "m-a", &server);
    let swept = new.work().sweep().await.unwrap();
    assert_eq!((swept.foreign, swept.removed, server.cells()), (1, 0, 1));
    // The next boot ends this.
    let new = new.reboot("boot-2");
    assert_eq!(new.work().sweep().await.unwrap().removed, 1);
    // Another machine of that name changes nothing.
    let gone = old.cell().nonce;
    old.store.borrow_mut().forget_cell(&gone).unwrap();
    old.take().await.unwrap();
    let other = Machine::new("a", "m-z", &server).reboot("boot-2");
    assert_eq!((other.work().sweep().await.unwrap().removed, server.cells()), (0, 1));
}
