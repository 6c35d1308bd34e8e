//! Tests `weftctl ledger rebuild` of an older copy of the store in the same boot: what the copy does not know may be
//! alive.

use std::path::{Path, PathBuf};

use weft_core::commit::Running;
use weft_core::journal::Record;
use weft_core::ledger::remote::{AddressState, CellState, scope};
use weft_core::store::NodeStore;
use weft_host_abi::types::ReleaseRule;

use super::backend::memory::Memory;
use super::cells::Idle;
use super::tests::{LATER, Machine, NOW, OTHER, Pod, WEB, WEB_AGAIN, address, one_want};
use super::{reassert, reverse_sweep};

type Copied = Vec<(PathBuf, Option<Vec<u8>>)>;

fn files(dir: &Path) -> [PathBuf; 3] {
    ["weft.db", "weft.db-wal", "weft.db-shm"].map(|name| dir.join(name))
}

impl Machine {
    fn copy(&self) -> Copied {
        self.store.borrow_mut().maintain().unwrap();
        let content = |path: PathBuf| (path.clone(), std::fs::read(path).ok());
        files(self._dir.path()).into_iter().map(content).collect()
    }

    /// The copy is put back, and rebuilt with the pod that runs.
    fn rebuilt(self, copy: &Copied, pod: &Pod, address: std::net::IpAddr) -> Self {
        let Self { _dir: dir, store, identity, server, .. } = self;
        drop(store);
        for (path, content) in copy {
            match content {
                Some(bytes) => std::fs::write(path, bytes).unwrap(),
                None => drop(std::fs::remove_file(path)),
            }
        }
        NodeStore::open(dir.path(), "boot-1").expect_err("the store has lost something");
        let (key, scopes) = (pod.key(), vec![scope("default")]);
        let running = Running { key, scopes, addresses: vec![address], record: Record::default() };
        let is_dead = |entry: &weft_core::journal::Entry| entry.key != pod.key();
        NodeStore::rebuild(dir.path(), "boot-1", NOW, (&[running], &is_dead)).unwrap();
        let rebuilt = Self::boot(dir, ("a", "m-a", "boot-1"), &server);
        assert_ne!(rebuilt.identity.store_id, identity.store_id);
        rebuilt.store.borrow_mut().resume_cells(NOW).unwrap();
        rebuilt
    }

    /// Everything that the agent does by itself.
    async fn work_for_a_while(&self) {
        reassert(&self.server, &self.store, (&self.identity, 0), |_row| true).await.unwrap();
        self.work().reassert(0, &[]).await.unwrap();
        self.store.borrow_mut().expire_intents(LATER, LATER).unwrap();
        self.drain(LATER).await;
        self.work().look_after(&mut Idle::default(), false).await.unwrap();
        reverse_sweep(&self.server, &self.store, &self.identity).await.unwrap();
        self.work().sweep().await.unwrap();
    }
}

#[tokio::test]
async fn store_id_keeps_a_claim_that_a_rebuilt_copy_does_not_know() {
    let server = Memory::default();
    let a = Machine::new("a", "m-a", &server);
    let copy = a.copy();
    let nonce = a.add(&WEB).await.unwrap();
    let a = a.rebuilt(&copy, &WEB, address());
    a.work_for_a_while().await;
    assert_eq!(server.holder(), Some(nonce));
    assert!(Machine::new("b", "m-b", &server).add(&OTHER).await.is_err());
}

#[tokio::test]
async fn store_id_keeps_a_claim_that_a_rebuilt_copy_takes_for_an_intent() {
    let server = Memory::default();
    let a = Machine::new("a", "m-a", &server);
    let nonce = a.intend(&WEB, &one_want(), &ReleaseRule::Free);
    a.grant(&nonce).await.unwrap();
    let copy = a.copy();
    a.commit(&WEB, &nonce, &one_want(), &ReleaseRule::Free).unwrap();
    let a = a.rebuilt(&copy, &WEB, address());
    a.work_for_a_while().await;
    assert_eq!(server.holder(), Some(nonce));
}

#[tokio::test]
async fn store_id_keeps_the_claim_of_the_next_sandbox() {
    let server = Memory::default();
    let a = Machine::new("a", "m-a", &server);
    a.add(&WEB).await.unwrap();
    let copy = a.copy();
    // The pod's next sandbox takes the claim over.
    a.del(&WEB);
    let nonce = a.add(&WEB_AGAIN).await.unwrap();
    a.drain(LATER).await;
    let a = a.rebuilt(&copy, &WEB_AGAIN, address());
    a.work_for_a_while().await;
    // The copy still has the first sandbox. Nothing is taken for it, and its removal takes nothing away.
    a.del(&WEB);
    a.work_for_a_while().await;
    assert_eq!(server.holder(), Some(nonce));
    assert_eq!(a.rows(AddressState::Tombstone), 0);
}

#[tokio::test]
async fn store_id_keeps_a_cell_that_a_rebuilt_copy_does_not_know() {
    let server = Memory::default();
    let a = Machine::new("a", "m-a", &server);
    let copy = a.copy();
    a.take().await.unwrap();
    let address = a.allocate(&WEB, &ReleaseRule::Free).unwrap();
    let a = a.rebuilt(&copy, &WEB, address);
    a.work_for_a_while().await;
    assert_eq!((a.states(), server.cells()), (Vec::new(), 1));
}

#[tokio::test]
async fn confirm_write_comes_before_a_rebuilt_copy_uses_its_cells() {
    let server = Memory::default();
    let a = Machine::new("a", "m-a", &server);
    a.take().await.unwrap();
    let copy = a.copy();
    let first = a.allocate(&WEB, &ReleaseRule::Free).unwrap();
    let a = a.rebuilt(&copy, &WEB, first);
    assert_eq!((a.states(), a.owned()), (vec![CellState::Unconfirmed], Vec::new()));
    assert!(a.allocate(&OTHER, &ReleaseRule::Free).is_err());
    a.work_for_a_while().await;
    assert_ne!(a.allocate(&OTHER, &ReleaseRule::Free).unwrap(), first);
    assert_eq!((a.states(), server.cells()), (vec![CellState::Owned], 1));
}

#[tokio::test]
async fn intent_first_a_cell_that_a_rebuilt_copy_is_taking_is_not_given_back() {
    let server = Memory::default();
    let a = Machine::new("a", "m-a", &server);
    let copy = std::cell::RefCell::new(Copied::default());
    a.take_with(|| *copy.borrow_mut() = a.copy()).await;
    let first = a.allocate(&WEB, &ReleaseRule::Free).unwrap();
    let a = a.rebuilt(&copy.take(), &WEB, first);
    a.work_for_a_while().await;
    assert_eq!((a.states(), server.cells()), (vec![CellState::Owned], 1));
    assert_ne!(a.allocate(&OTHER, &ReleaseRule::Free).unwrap(), first);
}
