//! Whose holders may be removed: by the sweep, after a boot, and behind a fence.

use tempfile::TempDir;

use super::backend::memory::Memory;
use super::backend::{Backend as _, Listing};
use super::reclaim;
use super::record::look_again;
use super::sweep::judge;
use super::tests::{Machine, NOW, WEB};

#[tokio::test]
async fn list_first_keeps_the_claim_of_an_add_in_between() {
    let server = Memory::default();
    let a = Machine::new("a", "m-a", &server);
    // The list is taken before the ADD, and after it: in both cases the claim survives, because the store is read after
    // the list.
    let before = server.list(Listing::Node("a")).await.unwrap();
    let nonce = a.add(&WEB).await.unwrap();
    let after = server.list(Listing::Node("a")).await.unwrap();
    for listed in [before, after] {
        assert_eq!(judge(&server, &a.store, &a.identity, &listed).await.unwrap().removed, 0);
    }
    assert_eq!(server.holder(), Some(nonce));
}

#[tokio::test]
async fn store_id_keeps_the_claims_of_a_store_that_was_moved_away() {
    let server = Memory::default();
    let a = Machine::new("a", "m-a", &server);
    let nonce = a.add(&WEB).await.unwrap();
    let fresh = Machine::new("a", "m-a", &server);
    let swept = fresh.sweep().await;
    assert_eq!((swept.removed, swept.foreign, server.holder()), (0, 1, Some(nonce)));
    // After a boot nothing of that store can be alive.
    let rebooted = Machine::boot(TempDir::new().unwrap(), ("a", "m-a", "boot-2"), &server);
    assert_eq!((rebooted.sweep().await.removed, server.holder()), (1, None));
}

#[tokio::test]
async fn machine_id_keeps_the_claims_of_another_machine_of_the_same_name() {
    let server = Memory::default();
    let a = Machine::new("a", "m-a", &server);
    let nonce = a.add(&WEB).await.unwrap();
    let twin = Machine::boot(TempDir::new().unwrap(), ("a", "m-twin", "boot-9"), &server);
    assert_eq!((twin.sweep().await.removed, server.holder()), (0, Some(nonce)));
}

#[tokio::test]
async fn rows_of_an_older_boot_are_given_back() {
    let server = Memory::default();
    let a = Machine::new("a", "m-a", &server);
    a.add(&WEB).await.unwrap();
    let Machine { _dir: dir, store, .. } = a;
    drop(store);
    let a = Machine::boot(dir, ("a", "m-a", "boot-2"), &server);
    assert_eq!(a.store.borrow_mut().release_older_boots(&|_entry| false, NOW).unwrap(), 1);
    assert_eq!((a.drain(NOW).await, server.holder()), (0, None));
}

/// In some containers `/proc` shows another boot id than on the node.
#[tokio::test]
async fn rows_of_another_boot_id_are_kept_while_their_namespace_is_there() {
    let server = Memory::default();
    let a = Machine::new("a", "m-a", &server);
    let nonce = a.add(&WEB).await.unwrap();
    let Machine { _dir: dir, store, .. } = a;
    drop(store);
    let a = Machine::boot(dir, ("a", "m-a", "boot-2"), &server);
    let is_web = |entry: &weft_core::journal::Entry| entry.key == WEB.key();
    assert_eq!(a.store.borrow_mut().release_older_boots(&is_web, NOW).unwrap(), 0);
    assert_eq!((a.drain(NOW).await, a.sweep().await.removed, server.holder()), (0, 0, Some(nonce)));
    // Its DEL gives it back.
    a.del(&WEB);
    assert_eq!((a.drain(NOW).await, server.holder()), (0, None));
}

#[tokio::test]
async fn fence_alone_frees_what_a_dead_machine_held() {
    let server = Memory::default();
    let a = Machine::new("a", "m-a", &server);
    a.add(&WEB).await.unwrap();
    // The pod is gone, and the node does not answer: that proves nothing.
    assert_eq!(reclaim(&server).await.unwrap(), 0);
    // Another machine of that name is fenced.
    server.change_node("a", |node| node.fenced_machines = vec!["m-other".into()]).await.unwrap();
    assert_eq!(reclaim(&server).await.unwrap(), 0);
    server.change_node("a", |node| node.fenced_machines.push("m-a".into())).await.unwrap();
    server.0.borrow_mut().pods.push("web".into());
    assert_eq!(reclaim(&server).await.unwrap(), 0, "the pod is still there: the fence is wrong");
    server.0.borrow_mut().pods.clear();
    assert_eq!((reclaim(&server).await.unwrap(), server.holder()), (1, None));
}

#[tokio::test]
async fn fence_by_a_taint_ends_with_the_boot() {
    let server = Memory::default();
    let a = Machine::new("a", "m-a", &server);
    assert!(!a.write_record().await);
    a.add(&WEB).await.unwrap();
    server.0.borrow_mut().tainted.push("a".into());
    assert_eq!((reclaim(&server).await.unwrap(), server.holder()), (1, None), "the machine is dead");
    // It boots, and nobody removes the taint. It is not ready, for example because it is cut off.
    let a = Machine::boot(TempDir::new().unwrap(), ("a", "m-a", "boot-2"), &server);
    assert!(a.write_record().await);
    let nonce = a.add(&WEB).await.unwrap();
    assert_eq!((reclaim(&server).await.unwrap(), server.holder()), (0, Some(nonce.clone())));
    assert!(
        a.write_record().await && look_again(&server, &a.identity, true).await.unwrap().outlives_taint,
        "a restart of the agent"
    );
    // Once the taint was removed, a new one refers to this boot.
    server.0.borrow_mut().tainted.clear();
    assert!(!look_again(&server, &a.identity, true).await.unwrap().outlives_taint);
    server.0.borrow_mut().tainted.push("a".into());
    assert_eq!((reclaim(&server).await.unwrap(), server.holder()), (1, None));
}
