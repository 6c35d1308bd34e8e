//! A ledger refuses to write one object, for example because of another program's admission policy: everything else
//! goes on.

#![allow(clippy::unwrap_used, reason = "tests")]

use tempfile::TempDir;
use weft_core::ledger::remote::{AddressState, CellState, Owner};
use weft_host_abi::types::ReleaseRule;

use super::backend::memory::Memory;
use super::cells::Idle;
use super::object::Sharing;
use super::tests::{Machine, NOW, OTHER, Pod, THIRD, WEB, wants};
use super::{Claimed, Granted, Persistent, claim_name, reassert, rewrite_claims};

const PODS: [(&Pod, &str); 3] = [(&WEB, "10.0.0.1"), (&OTHER, "10.0.0.2"), (&THIRD, "10.0.0.3")];

impl Machine {
    async fn add_three(&self) {
        for (pod, address) in PODS {
            let wants = wants(&[&[&format!("{address}/24")]]);
            let nonce = self.intend(pod, &wants, &ReleaseRule::Free);
            assert_eq!(self.grant(&nonce).await.unwrap(), Granted::All);
            self.commit(pod, &nonce, &wants, &ReleaseRule::Free).unwrap();
        }
    }
}

impl Memory {
    /// Nobody may write the claim on the first pod's address.
    fn refuse_the_first(&self) {
        self.0.borrow_mut().refused = vec![first_claim_name()];
    }

    fn refuse_nothing(&self) {
        self.0.borrow_mut().refused.clear();
    }

    fn names(&self) -> Vec<String> {
        self.0.borrow().claims.keys().cloned().collect()
    }
}

fn first_claim_name() -> String {
    claim_name("default", PODS[0].1.parse().unwrap())
}

#[tokio::test]
async fn a_refused_tombstone_keeps_no_other_one() {
    let server = Memory::default();
    let a = Machine::new("a", "m-a", &server);
    a.add_three().await;
    server.refuse_the_first();
    for (pod, _address) in PODS {
        a.del(pod);
    }
    let drained = a.try_drain(NOW).await.unwrap();
    assert_eq!((drained.left, drained.refused.len(), server.names()), (1, 1, vec![first_claim_name()]));
    assert_eq!(drained.refused[0].what, "giving back 10.0.0.1 of container sandbox-1");
    // It is tried again, and not every second.
    let writes = server.0.borrow().writes;
    for second in 1..=120 {
        assert_eq!(a.drain(NOW + second).await, 1);
    }
    assert_eq!(server.0.borrow().writes - writes, 4);
    server.refuse_nothing();
    assert_eq!((a.drain(NOW + 240).await, server.names()), (0, Vec::new()));
}

#[tokio::test]
async fn a_refused_holder_does_not_prevent_the_sweep_of_others() {
    let server = Memory::default();
    Machine::new("a", "m-a", &server).add_three().await;
    server.refuse_the_first();
    let a = Machine::boot(TempDir::new().unwrap(), ("a", "m-a", "boot-2"), &server);
    let swept = a.sweep().await;
    assert_eq!((swept.removed, swept.refused.len(), server.names()), (2, 1, vec![first_claim_name()]));
}

#[tokio::test]
async fn a_refused_entry_does_not_prevent_others_from_coming_back() {
    let server = Memory::default();
    let a = Machine::new("a", "m-a", &server);
    a.add_three().await;
    server.0.borrow_mut().claims.clear();
    server.refuse_the_first();
    // The agent's start, and every look after a freeze.
    let done = reassert(&server, &a.store, (&a.identity, 0), |_row| true).await.unwrap();
    assert_eq!((done.written, done.refused.len(), done.conflicts.len()), (2, 1, 0));
    assert!(!server.names().contains(&first_claim_name()));
    server.refuse_nothing();
    let done = reassert(&server, &a.store, (&a.identity, 0), |_row| true).await.unwrap();
    assert_eq!((done.written, done.refused.len(), server.names().len()), (1, 0, 3));
}

fn ipam_claim() -> Persistent {
    Persistent { uid: "uid-1".into(), version: "0".into(), ..Persistent::default() }
}

#[tokio::test]
async fn a_refused_status_keeps_no_entry_from_coming_back() {
    let server = Memory::default();
    server.0.borrow_mut().persistent.insert("ns/vm".into(), ipam_claim());
    let a = Machine::new("a", "m-a", &server);
    let (owner, wants) = (Owner::ipam_claim("ns", "vm", "uid-1", WEB.uid), wants(&[&["10.0.0.1/24"]]));
    let nonce = a.intend_for(&WEB, &owner, &wants, &ReleaseRule::Free);
    assert_eq!(a.grant(&nonce).await.unwrap(), Granted::All);
    a.commit(&WEB, &nonce, &wants, &ReleaseRule::Free).unwrap();
    // The restore takes back the status as well.
    server.0.borrow_mut().persistent.insert("ns/vm".into(), ipam_claim());
    server.0.borrow_mut().refused = vec!["ns/vm".into()];
    let done = reassert(&server, &a.store, (&a.identity, 1), |_row| true).await.unwrap();
    assert_eq!(done.refused.len(), 1, "the node does not confirm");
    assert_eq!(done.refused[0].what, "writing the status of IPAMClaim ns/vm again");
}

#[tokio::test]
async fn a_refused_kept_address_keeps_no_other_one() {
    let server = Memory::default();
    for (name, address) in [("vm-1", "10.0.0.1/24"), ("vm-2", "10.0.0.2/24"), ("vm-3", "10.0.0.3/24")] {
        let claimed = Claimed {
            domain: "default".into(),
            cell_size: 0,
            network: "storage".into(),
            sharing: Sharing::Shared,
            rest_seconds: 0,
        };
        let kept = Persistent { uid: name.into(), ips: vec![address.into()], claimed: Some(claimed), ..ipam_claim() };
        server.0.borrow_mut().persistent.insert(format!("ns/{name}"), kept);
    }
    server.refuse_the_first();
    let done = rewrite_claims(&server, 0).await.unwrap();
    assert_eq!((done.written, done.refused.len(), server.names().len()), (2, 1, 2));
}

#[tokio::test]
async fn a_refused_cell_keeps_no_other_one() {
    let server = Memory::default();
    let a = Machine::new("a", "m-a", &server);
    assert!(a.take().await.unwrap() && a.take().await.unwrap());
    let first = server.0.borrow().blocks.keys().next().unwrap().clone();
    // Written again: one is refused.
    server.0.borrow_mut().blocks.clear();
    server.0.borrow_mut().refused = vec![first.clone()];
    let done = a.work().reassert(1, &[]).await.unwrap();
    assert_eq!((done.written, done.refused.len(), server.cells()), (1, 1, 1));
    server.refuse_nothing();
    assert_eq!(a.work().reassert(1, &[]).await.unwrap().written, 1);
    // Given back: the same.
    server.0.borrow_mut().refused = vec![first];
    let cells = a.store.borrow().cells().unwrap();
    for cell in cells {
        assert!(a.store.borrow_mut().return_cell(&cell.nonce, NOW).unwrap());
    }
    let refused = a.work().look_after(&mut Idle::default(), false).await.unwrap();
    assert_eq!((refused.len(), server.cells(), a.states()), (1, 1, vec![CellState::Returning]));
    assert_eq!(a.rows(AddressState::Tombstone), 0);
}
