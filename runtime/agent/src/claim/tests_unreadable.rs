//! A claim that cannot be read: a newer version, or a person, has written it.

use weft_core::ledger::remote::AddressState;
use weft_host_abi::types::ReleaseRule;

use super::backend::memory::Memory;
use super::backend::{Backend as _, Listing};
use super::tests::{LATER, Machine, NOW, OTHER, THIRD, WEB, address, wants};
use super::{Granted, claim_name, reassert, reclaim};

#[tokio::test]
async fn a_claim_that_cannot_be_read_is_taken_and_hides_no_other() {
    let server = Memory::default();
    let (a, b) = (Machine::new("a", "m-a", &server), Machine::new("b", "m-b", &server));
    a.add(&WEB).await.unwrap();
    server.0.borrow_mut().unreadable.insert(claim_name("default", address()));
    // Another pod gets the next candidate.
    let both = wants(&[&["10.0.0.1/24", "10.0.0.2/24"]]);
    let nonce = b.intend(&OTHER, &both, &ReleaseRule::Free);
    assert_eq!(b.grant(&nonce).await.unwrap(), Granted::All);
    b.commit(&OTHER, &nonce, &both, &ReleaseRule::Free).unwrap();
    let lost = b.intend(&THIRD, &wants(&[&["10.0.0.1/24"]]), &ReleaseRule::Free);
    let Granted::Lost { taken, .. } = b.grant(&lost).await.unwrap() else { panic!("it was granted") };
    assert_eq!(taken[0].1, "default-0a000001, which cannot be read");
    b.give_up(&lost);
    // Its own node writes nothing over it, and cannot confirm.
    let done = reassert(&server, &a.store, (&a.identity, 0), |_row| true).await.unwrap();
    assert_eq!((done.written, done.conflicts.len(), done.refused.len()), (0, 0, 1), "{done:?}");

    // Sweep and reclaim do the rest of their work.
    assert_eq!(server.list(Listing::All).await.unwrap().len(), 1);
    b.store.borrow_mut().give_up_intent(&nonce, NOW).unwrap();
    server.change_node("b", |node| node.fenced_machines.push("m-b".into())).await.unwrap();
    assert_eq!((a.sweep().await.removed, reclaim(&server).await.unwrap()), (0, 1));
    // Its tombstone waits until it can be read again.
    a.store.borrow_mut().forget_versions().unwrap();
    a.del(&WEB);
    let drained = a.try_drain(NOW).await.unwrap();
    assert_eq!((drained.left, drained.refused[0].why.as_str()), (1, "its claim cannot be read"));
    server.0.borrow_mut().unreadable.clear();
    assert_eq!((a.drain(LATER).await, a.rows(AddressState::Tombstone), server.holder()), (0, 0, None));
}
