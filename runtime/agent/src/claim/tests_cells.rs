//! Tests block mode with a ledger in memory that loses, delays and duplicates requests. Each test names the rule that
//! it would break.

use std::net::IpAddr;
use std::time::Duration;

use tokio::time::Instant;
use weft_core::agent::claim::CellWant;
use weft_core::commit::ClaimError;
use weft_core::journal::Record;
use weft_core::ledger::ClaimAsk;
use weft_core::ledger::remote::{Cell, CellState, scope};
use weft_host_abi::types::ReleaseRule;

use super::backend::memory::{Fault, Memory};
use super::backend::{Backend as _, Cells as _, Listing};
use super::block::{BlockSpec, block_name, cell_of};
use super::cells::{CellError, CellWork, Idle, Sharing, Verdict, judge_cells, read_or_create_domain};
use super::sweep::entries;
use super::tests::{LATER, Machine, NOW, OTHER, Pod, THIRD, WEB, wants};
use super::{LedgerState, reclaim};

pub(super) const SIZE: u32 = 8;

/// Two cells.
const SPAN: (&str, &str) = ("10.0.0.0", "10.0.0.15");

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

pub(super) fn short_deadline() -> Instant {
    Instant::now() + Duration::from_millis(500)
}

pub(super) fn cell_want() -> CellWant {
    CellWant {
        ledger: "{}".into(),
        domain: "default".into(),
        size: SIZE,
        pool: "blue".into(),
        shared: false,
        spans: vec![(address(SPAN.0), address(SPAN.1))],
    }
}

impl Machine {
    pub(super) fn work(&self) -> CellWork<'_, Memory> {
        CellWork { backend: &self.server, store: &self.store, identity: &self.identity, ledger: "{}" }
    }

    pub(super) async fn take(&self) -> Result<bool, CellError> {
        let known: Vec<IpAddr> = self.owned().into_iter().map(|(first, _last)| first).collect();
        read_or_create_domain(&self.server, &self.store, ("{}", "default"), (SIZE, short_deadline())).await?;
        self.work().take(&cell_want(), &known, short_deadline()).await
    }

    pub(super) fn owned(&self) -> Vec<(IpAddr, IpAddr)> {
        self.store.borrow().owned_cells("{}", "default").unwrap()
    }

    /// Takes a cell, and calls `before` when its row is on disk and its request is not sent yet.
    pub(super) async fn take_with(&self, before: impl FnOnce()) {
        read_or_create_domain(&self.server, &self.store, ("{}", "default"), (SIZE, short_deadline())).await.unwrap();
        let span = (address(SPAN.0), address("10.0.0.7"));
        let cell = self.store.borrow_mut().begin_taking(("{}", "default", "blue"), span, NOW).unwrap();
        before();
        let versions = self.server.create_block(&BlockSpec::new(&cell, SIZE, &self.identity), None).await.unwrap();
        assert!(self.store.borrow_mut().own_cell(&cell.nonce, &versions, NOW).unwrap());
    }

    pub(super) fn cell(&self) -> Cell {
        self.store.borrow().cells().unwrap().remove(0)
    }

    pub(super) fn states(&self) -> Vec<CellState> {
        self.store.borrow().cells().unwrap().into_iter().map(|cell| cell.state).collect()
    }

    /// An ADD inside cells: every address of both cells is a candidate.
    pub(super) fn allocate(&self, pod: &Pod, release: &ReleaseRule) -> Result<IpAddr, ClaimError<String>> {
        let all: Vec<String> = (0..16).map(|last| format!("10.0.0.{last}/24")).collect();
        let wants = wants(&[&all.iter().map(String::as_str).collect::<Vec<_>>()]);
        let (key, scope) = (pod.key(), scope("default"));
        let ask = ClaimAsk { key: &key, scope: &scope, identities: &[], wants: &wants, release, now: NOW };
        let record = |_: &[_]| Ok(Record::default());
        let claimed = self.store.borrow_mut().claim_inside(&ask, ("{}", "default"), record)?;
        Ok(claimed[0].address.addr())
    }

    pub(super) async fn look_after(&self, idle: &mut Idle) {
        self.work().look_after(idle, false).await.unwrap();
    }

    /// Reboots the machine and does what its agent and the first ADD do then.
    pub(super) fn reboot(self, boot: &str) -> Self {
        let Self { _dir, identity, server, .. } = self;
        let machine = Self::boot(_dir, (&identity.node, &identity.machine, boot), &server);
        machine.store.borrow_mut().resume_cells(LATER).unwrap();
        machine.store.borrow_mut().reap_previous_boots(&|_entry| false, LATER).unwrap();
        machine
    }

    pub(super) async fn reassert_cells(&self, epoch: u64) -> (usize, usize) {
        let done = self.work().reassert(epoch, &entries(&self.store).unwrap()).await.unwrap();
        (done.written, done.conflicts.len())
    }
}

impl Memory {
    pub(super) fn cells(&self) -> usize {
        self.0.borrow().blocks.len()
    }

    pub(super) fn freeze(&self, epoch: u64, frozen: bool) {
        self.0.borrow_mut().state = LedgerState { epoch, frozen };
    }
}

#[tokio::test]
async fn a_cell_costs_one_write_and_its_addresses_cost_none() {
    let server = Memory::default();
    let machine = Machine::new("a", "m-a", &server);
    assert!(machine.allocate(&WEB, &ReleaseRule::Free).is_err());
    assert!(machine.take().await.unwrap());
    assert_eq!(server.0.borrow().writes, 1);
    server.0.borrow_mut().away = true;
    let addresses = [WEB, OTHER, THIRD].map(|pod| machine.allocate(&pod, &ReleaseRule::Free).unwrap());
    machine.del(&WEB);
    assert_eq!(machine.allocate(&WEB, &ReleaseRule::Free).unwrap(), addresses[0]);
    assert_eq!(server.0.borrow().writes, 1);
    // Another ADD that saw no room finds the cell that was taken meanwhile.
    let known = machine.work().take(&cell_want(), &[], Instant::now()).await;
    assert!(known.unwrap() && machine.owned().len() == 1);
}

/// A domain may have half a million claims.
#[tokio::test]
async fn no_list_of_complete_claims_is_needed() {
    let server = Memory::default();
    let (a, b) = (Machine::new("a", "m-a", &server), Machine::new("b", "m-b", &server));
    read_or_create_domain(&server, &a.store, ("{}", "default"), (SIZE, short_deadline())).await.unwrap();
    let wanted = CellWant { shared: true, ..cell_want() };
    let first = a.work().shared_cells(&wanted, &[]).await.unwrap().unwrap();
    assert_eq!(first.taken.iter().count(), 0);
    a.add(&WEB).await.unwrap();
    let again = b.work().shared_cells(&wanted, &[]).await.unwrap().unwrap();
    assert_eq!(again.taken.iter().collect::<Vec<_>>(), [(address("10.0.0.1"), address("10.0.0.1"))]);
    // A domain with claims and without a record.
    server.0.borrow_mut().domains.clear();
    assert!(matches!(
        read_or_create_domain(&server, &b.store, ("{}", "default"), (SIZE, short_deadline())).await,
        Err(CellError::Domain(_))
    ));
    assert_eq!((server.0.borrow().whole_lists, server.0.borrow().name_lists), (0, 2));
}

#[tokio::test]
async fn a_cell_has_one_machine() {
    let server = Memory::default();
    let (a, b) = (Machine::new("a", "m-a", &server), Machine::new("b", "m-b", &server));
    assert!(a.take().await.unwrap() && b.take().await.unwrap());
    assert_ne!(a.owned(), b.owned());
    // None is left, and the attempt leaves no row behind.
    assert!(!a.take().await.unwrap() && !b.take().await.unwrap());
    assert_eq!((a.states(), b.states(), server.cells()), (vec![CellState::Owned], vec![CellState::Owned], 2));
}

#[tokio::test]
async fn intent_first_a_lost_answer_is_found_out_by_a_read() {
    let server = Memory::default();
    let machine = Machine::new("a", "m-a", &server);
    server.fail_next(&[Some(Fault::DropAnswer)]);
    assert!(machine.take().await.unwrap());
    assert_eq!((machine.states(), server.cells()), (vec![CellState::Owned], 1));
}

#[tokio::test]
async fn intent_first_and_reverse_sweep_find_a_late_create() {
    let server = Memory::default();
    let machine = Machine::new("a", "m-a", &server);
    server.fail_next(&[Some(Fault::Hold), Some(Fault::Hold), Some(Fault::Hold), Some(Fault::Hold)]);
    assert!(matches!(machine.take().await, Err(CellError::Deadline(_))));
    server.fail_next(&[]);
    // The row is checked as long as a server may still execute the request.
    let mut idle = Idle::default();
    machine.look_after(&mut idle).await;
    assert_eq!(machine.states(), [CellState::Returning]);
    server.release();
    assert_eq!(server.cells(), 1);
    machine.look_after(&mut idle).await;
    assert_eq!(server.cells(), 0);

    // An even later cell has a nonce that the store does not know.
    let first = machine.cell().nonce;
    machine.store.borrow_mut().forget_cell(&first).unwrap();
    machine.take().await.unwrap();
    let gone = machine.cell().nonce;
    machine.store.borrow_mut().forget_cell(&gone).unwrap();
    let swept = machine.work().sweep().await.unwrap();
    assert_eq!((swept.removed, server.cells()), (1, 0));
}

#[tokio::test]
async fn list_first_keeps_a_cell_that_was_taken_meanwhile() {
    let server = Memory::default();
    let machine = Machine::new("a", "m-a", &server);
    let before = server.blocks(Listing::Node("a")).await.unwrap();
    machine.take().await.unwrap();
    judge_cells(&machine.work(), &before).await.unwrap();
    assert_eq!(server.cells(), 1);
}

#[tokio::test]
async fn empty_cells_are_given_back_and_the_last_one_much_later() {
    let server = Memory::default();
    let machine = Machine::new("a", "m-a", &server);
    let mut idle = Idle::default();
    machine.take().await.unwrap();
    machine.allocate(&WEB, &ReleaseRule::Free).unwrap();
    machine.take().await.unwrap();
    assert_eq!(server.cells(), 2);
    for _hour in 0..3 {
        machine.look_after(&mut idle).await;
        idle.age(Duration::from_secs(590));
    }
    // `empty`: the cell with an attachment is kept; the other one has been the last empty one for long enough.
    machine.look_after(&mut idle).await;
    assert_eq!((server.cells(), machine.owned().len()), (1, 1));
    let cell = machine.cell();
    assert!(!machine.store.borrow_mut().return_cell(&cell.nonce, NOW).unwrap());

    // A pod that ends and a new pod cause no taking and giving back.
    machine.del(&WEB);
    machine.look_after(&mut idle).await;
    idle.age(Duration::from_secs(300));
    machine.look_after(&mut idle).await;
    let writes = server.0.borrow().writes;
    machine.allocate(&OTHER, &ReleaseRule::Free).unwrap();
    machine.look_after(&mut idle).await;
    assert_eq!((server.0.borrow().writes, server.cells()), (writes, 1));

    // Of two empty cells, one is given back soon.
    machine.take().await.unwrap();
    machine.del(&OTHER);
    machine.look_after(&mut idle).await;
    idle.age(Duration::from_secs(11));
    machine.look_after(&mut idle).await;
    assert_eq!(server.cells(), 1);
    // `no_unreturn`.
    idle.age(Duration::from_secs(700));
    machine.work().look_after(&mut idle, true).await.unwrap();
    assert_eq!((server.cells(), machine.states()), (0, Vec::new()));
}

#[tokio::test]
async fn a_cooldown_inside_keeps_the_cell() {
    let server = Memory::default();
    let machine = Machine::new("a", "m-a", &server);
    machine.take().await.unwrap();
    let held = machine.allocate(&WEB, &ReleaseRule::Cooldown(60)).unwrap();
    machine.del(&WEB);
    assert_ne!(machine.allocate(&OTHER, &ReleaseRule::Free).unwrap(), held);
    machine.del(&OTHER);
    let nonce = machine.cell().nonce;
    assert!(!machine.store.borrow_mut().return_cell(&nonce, NOW).unwrap());
    machine.store.borrow_mut().purge_expired(NOW + 61).unwrap();
    assert!(machine.store.borrow_mut().return_cell(&nonce, NOW).unwrap());
    // `no_unreturn`.
    let versions = machine.cell().versions.unwrap();
    assert!(!machine.store.borrow_mut().own_cell(&nonce, &versions, NOW).unwrap());
    assert!(machine.allocate(&OTHER, &ReleaseRule::Free).is_err());
}

#[tokio::test]
async fn confirm_write_saves_a_cell_from_a_late_delete_of_the_controller() {
    let server = Memory::default();
    let machine = Machine::new("a", "m-a", &server);
    machine.take().await.unwrap();
    machine.allocate(&WEB, &ReleaseRule::Free).unwrap();
    // Only a fence frees a cell.
    assert_eq!(reclaim(&server).await.unwrap(), 0);
    server.change_node("a", |node| node.fenced_machines.push("m-a".into())).await.unwrap();
    server.fail_next(&[Some(Fault::Hold)]);
    assert!(reclaim(&server).await.is_err());

    let machine = machine.reboot("boot-2");
    // Cells of an earlier boot are not used.
    assert_eq!((machine.states(), machine.owned()), (vec![CellState::Unconfirmed], Vec::new()));
    assert!(machine.allocate(&OTHER, &ReleaseRule::Free).is_err());
    machine.look_after(&mut Idle::default()).await;
    machine.allocate(&OTHER, &ReleaseRule::Free).unwrap();
    server.release();
    assert_eq!(server.cells(), 1);
    let confirmed = server.blocks(Listing::All).await.unwrap().remove(0).spec.holder.unwrap();
    assert_eq!((confirmed.boot_id.as_str(), confirmed.confirmed), ("boot-2", 1));

    // A later fence frees it.
    assert_eq!(reclaim(&server).await.unwrap(), 1);
    assert_eq!(server.cells(), 0);
}

#[tokio::test]
async fn a_store_that_was_rolled_back_loses_the_cell_that_it_gave_back() {
    let server = Memory::default();
    let (a, b) = (Machine::new("a", "m-a", &server), Machine::new("b", "m-b", &server));
    a.take().await.unwrap();
    let copy = a.cell();
    // It gives it back, and another machine takes both.
    let versions = server.block(&block_name("default", copy.first)).await.unwrap().unwrap().versions;
    server.delete_block(&block_name("default", copy.first), &versions).await.unwrap();
    assert!(b.take().await.unwrap() && b.take().await.unwrap());
    // Its disk does not know that.
    let a = a.reboot("boot-2");
    assert_eq!(a.cell().nonce, copy.nonce);
    a.look_after(&mut Idle::default()).await;
    assert_eq!((a.states(), server.cells()), (Vec::new(), 2));
    assert!(a.allocate(&WEB, &ReleaseRule::Free).is_err() && !a.take().await.unwrap());
}

#[tokio::test]
async fn requested_addresses_come_from_shared_cells() {
    let server = Memory::default();
    let (a, b) = (Machine::new("a", "m-a", &server), Machine::new("b", "m-b", &server));
    a.take().await.unwrap();
    let known = Default::default();
    let sharing = Sharing { size: SIZE, known: &known };
    let (first, _last) = a.owned()[0];
    let other = if first == address("10.0.0.0") { address("10.0.0.9") } else { address("10.0.0.1") };
    let of_machine = sharing.ensure(&b.server, ("default", first), None).await.unwrap();
    assert!(
        matches!(&of_machine, Verdict::Others(by) if by.contains("node a") && by.contains("cell")),
        "{of_machine:?}"
    );
    for _again in 0..2 {
        assert_eq!(sharing.ensure(&b.server, ("default", other), None).await.unwrap(), Verdict::Shared);
    }
    let shared = server.block(&block_name("default", cell_of(other, SIZE))).await.unwrap().unwrap();
    assert!(shared.spec.shared && shared.spec.holder.is_none());
    // No machine gets it.
    assert!(!b.take().await.unwrap() && !a.take().await.unwrap());
    let cells = b.work().shared_cells(&CellWant { shared: true, ..cell_want() }, &[]).await.unwrap().unwrap();
    assert_eq!(cells.cells, [(shared.spec.first, shared.spec.last_address())]);
    // The caller knows that all of it is useless, and no other cell is left.
    assert!(b.work().shared_cells(&cell_want(), &[shared.spec.first]).await.unwrap().is_none());
}

#[tokio::test]
async fn a_domain_is_what_its_first_user_says() {
    let server = Memory::default();
    let machine = Machine::new("a", "m-a", &server);
    let size = |domain: &'static str, wanted| {
        read_or_create_domain(&server, &machine.store, ("{}", domain), (wanted, short_deadline()))
    };
    assert_eq!(
        (size("cells", 16).await.unwrap(), size("cells", 32).await.unwrap(), size("cells", 0).await.unwrap()),
        (16, 16, 16)
    );
    assert_eq!((size("plain", 0).await.unwrap(), size("plain", 16).await.unwrap()), (0, 0));
    // Claims from before domains existed lie in no cell.
    machine.add(&WEB).await.unwrap();
    assert!(matches!(size("default", 16).await, Err(CellError::Domain(_))));
    assert_eq!(size("default", 0).await.unwrap(), 0);
}

/// A request of an ADD is dropped when its time is over. Nobody else finishes what it took.
#[tokio::test]
async fn a_take_that_is_dropped_is_given_back() {
    let server = Memory::default();
    let machine = Machine::new("a", "m-a", &server);
    server.fail_next(&[Some(Fault::Hold)]);
    assert!(tokio::time::timeout(Duration::from_millis(20), machine.take()).await.is_err());
    assert_eq!(machine.states(), [CellState::Taking]);
    let mut idle = Idle::default();
    machine.look_after(&mut idle).await;
    assert_eq!(machine.states(), [CellState::Returning]);
    // The create comes late.
    server.release();
    assert_eq!(server.0.borrow().blocks.len(), 1);
    machine.look_after(&mut idle).await;
    assert!(server.0.borrow().blocks.is_empty() && machine.owned().is_empty());
    assert!(machine.take().await.unwrap());
}
