//! Tests a store that is replaced, or that cannot be opened, and a wrong name of the node.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use tokio::task::LocalSet;
use weft_core::store::NodeStore;

use super::*;

fn claimant(gate: Gate) -> Claimant {
    Claimant { node: Some("n".to_owned()), machine: Some("m".to_owned()), kubernetes: None, gate, events: None }
}

/// Runs a test with the service of a state directory.
fn with_door<T>(state: &Path, gate: Gate, test: impl AsyncFnOnce(Rc<ClaimDoor>) -> T) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    LocalSet::new().block_on(&runtime, async { test(ClaimDoor::start(state, claimant(gate), Log)).await })
}

fn grant() -> ClaimRequest {
    ClaimRequest::Grant { nonce: "a".to_owned(), cell_size: 0, pool: String::new() }
}

fn id(door: &ClaimDoor) -> String {
    door.claims().map_err(|refusal| refusal.message).unwrap().identity.store_id.clone()
}

#[test]
fn a_rebuilt_store_is_opened_again() {
    let dir = tempfile::tempdir().unwrap();
    let boot = weft_core::netlink::boot_id().unwrap();
    with_door(dir.path(), Rc::new(|| None), async |door| {
        let first = id(&door);
        let claims = door.claims().unwrap();
        assert!(Rc::ptr_eq(&claims, &door.claims().unwrap()), "it was opened twice");
        // In the same file.
        NodeStore::rebuild(dir.path(), &boot, 1, (&[], &|_entry| false)).unwrap();
        let second = id(&door);
        assert_ne!(second, first);
        assert!(!Rc::ptr_eq(&claims, &door.claims().unwrap()));
        drop(claims);
        // In a new file.
        for name in ["weft.db", "weft.db-wal", "weft.db-shm"] {
            drop(fs::rename(dir.path().join(name), dir.path().join(format!("old-{name}"))));
        }
        NodeStore::rebuild(dir.path(), &boot, 1, (&[], &|_entry| false)).unwrap();
        let third = id(&door);
        assert!(third != second && third != first, "{first} {second} {third}");
        // Its own background work belongs to the store that is open.
        let of_store = NodeStore::open(dir.path(), &boot).unwrap().store_id().unwrap();
        assert_eq!(of_store, third);
    });
}

/// A counter that falls back to zero looks like a restart of the agent.
#[test]
fn counters_go_on_when_the_store_is_opened_again() {
    let dir = tempfile::tempdir().unwrap();
    let boot = weft_core::netlink::boot_id().unwrap();
    with_door(dir.path(), Rc::new(|| None), async |door| {
        let has = |line: &str| {
            let mut metrics = Metrics::default();
            door.metrics(&mut metrics);
            let text = metrics.render();
            assert!(text.lines().any(|found| found == line), "{line} is not in {text}");
        };
        let lost = |count| door.claims().map_err(|refusal| refusal.message).unwrap().reports.counts.lost("p", count);
        door.handle(grant(), Deadline::after(None)).await.unwrap_err();
        lost(2);
        has("weft_claim_duration_seconds_count 1");
        has("weft_claim_conflicts_total{pool=\"p\"} 2");
        has("weft_tombstones 0");
        let first = id(&door);
        NodeStore::rebuild(dir.path(), &boot, 1, (&[], &|_entry| false)).unwrap();
        assert_ne!(id(&door), first);
        has("weft_claim_duration_seconds_count 1");
        door.handle(grant(), Deadline::after(None)).await.unwrap_err();
        lost(1);
        has("weft_claim_duration_seconds_count 2");
        has("weft_claim_conflicts_total{pool=\"p\"} 3");
        has("weft_tombstones 0");
    });
}

#[test]
fn a_store_that_cannot_be_opened_is_tried_again() {
    let dir = tempfile::tempdir().unwrap();
    let (file, link) = (dir.path().join("elsewhere"), dir.path().join("weft.db"));
    fs::write(&file, "not a store").unwrap();
    std::os::unix::fs::symlink(&file, &link).unwrap();
    with_door(dir.path(), Rc::new(|| None), async |door| {
        let refusal = door.claims().map(drop).unwrap_err();
        assert_eq!(refusal.fault, Fault::Unavailable);
        assert!(refusal.message.contains("weft.db"), "{}", refusal.message);
        fs::remove_file(&link).unwrap();
        let end = Instant::now() + Duration::from_secs(60);
        while door.claims().is_err() {
            assert!(Instant::now() < end, "it was not tried again");
            sleep(Duration::from_millis(50)).await;
        }
    });
}

#[test]
fn nothing_is_claimed_under_a_wrong_name() {
    let dir = tempfile::tempdir().unwrap();
    with_door(dir.path(), Rc::new(|| Some("this machine is node z".to_owned())), async |door| {
        let request = grant();
        let refusal = door.handle(request, Deadline::after(None)).await.unwrap_err();
        assert!(refusal.message.contains("node z"), "{}", refusal.message);
    });
}
