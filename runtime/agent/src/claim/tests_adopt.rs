//! A claim that exists: who takes it over, and what a late delete finds then.

use weft_host_abi::types::ReleaseRule;

use super::Granted;
use super::backend::memory::{Fault, Memory};
use super::tests::{LATER, Machine, NOW, OTHER, WEB, WEB_AGAIN, one_want};

#[tokio::test]
async fn adopt_write_and_preconditions_save_a_retried_pod_from_a_late_delete() {
    let server = Memory::default();
    let a = Machine::new("a", "m-a", &server);
    a.add(&WEB).await.unwrap();
    a.del(&WEB);
    // The drain's delete is held back; the retry takes over the claim meanwhile.
    server.fail_next(&[Some(Fault::Hold)]);
    assert!(a.try_drain(NOW).await.is_err());
    let nonce = a.add(&WEB_AGAIN).await.unwrap();
    server.release();
    assert_eq!(server.holder(), Some(nonce.clone()), "the delete was for an older version");
    // `nonce`: the old tombstone does not affect the new holder either.
    assert_eq!((a.drain(NOW).await, server.holder()), (0, Some(nonce)));
}

#[tokio::test]
async fn preconditions_save_the_next_owner_of_a_name() {
    let server = Memory::default();
    let (a, b) = (Machine::new("a", "m-a", &server), Machine::new("b", "m-b", &server));
    a.add(&WEB).await.unwrap();
    a.del(&WEB);
    server.fail_next(&[Some(Fault::Hold)]);
    assert!(a.try_drain(NOW).await.is_err());
    a.drain(NOW).await;
    let nonce = b.add(&OTHER).await.unwrap();
    server.release();
    assert_eq!(server.holder(), Some(nonce));
}

#[tokio::test]
async fn adopt_own_leaves_a_pods_claim_on_another_machine() {
    let server = Memory::default();
    let (a, b) = (Machine::new("a", "m-a", &server), Machine::new("b", "m-b", &server));
    let nonce = a.add(&WEB).await.unwrap();
    assert!(b.add(&WEB_AGAIN).await.is_err());
    assert_eq!(server.holder(), Some(nonce));
}

#[tokio::test]
async fn adopt_own_leaves_the_claim_of_another_sandbox_that_is_in_use() {
    let server = Memory::default();
    let a = Machine::new("a", "m-a", &server);
    // Two sandboxes of one pod at once, both wanting the same address.
    let (first, second) =
        (a.intend(&WEB, &one_want(), &ReleaseRule::Free), a.intend(&WEB_AGAIN, &one_want(), &ReleaseRule::Free));
    assert_eq!(a.grant(&first).await.unwrap(), Granted::All);
    assert!(matches!(a.grant(&second).await, Ok(Granted::Lost { .. })), "the other is an intent");
    a.commit(&WEB, &first, &one_want(), &ReleaseRule::Free).unwrap();
    assert!(matches!(a.grant(&second).await, Ok(Granted::Lost { .. })), "the other is an entry");
    // The second ADD fails: the first one keeps its claim.
    a.store.borrow_mut().give_up_intent(&second, NOW).unwrap();
    assert_eq!((a.drain(LATER).await, server.holder()), (0, Some(first)));
    // Once it is deleted, the pod's next sandbox takes the claim over.
    a.del(&WEB);
    let third = a.intend(&WEB_AGAIN, &one_want(), &ReleaseRule::Free);
    assert_eq!(a.grant(&third).await.unwrap(), Granted::All);
    assert_eq!(server.holder(), Some(third));
}
