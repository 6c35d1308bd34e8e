//! Rebuilding a store that was lost, from what runs on the node.

use std::fs;
use std::os::unix::fs::symlink;

use rusqlite::Connection;

use super::super::super::Running;
use super::super::*;
use super::{files, node, open, pool};
use crate::journal::Entry;
use crate::ledger::ClaimFilter;
use crate::store::{FILE, StoreError, log_path};

/// Running attachments whose containers have these addresses.
fn running(claims: &[(&str, &str)]) -> Vec<Running> {
    let one = |(owner, address): &(&str, &str)| Running {
        key: key(owner),
        scopes: vec!["s".to_owned()],
        addresses: vec![ip(address)],
        record: Record { netns: "/run/netns/x".into(), ..Record::default() },
    };
    claims.iter().map(one).collect()
}

#[test]
fn a_lost_store_is_rebuilt_from_what_runs() {
    type Lose<'a> = &'a dyn Fn(&Path);
    let ways: [(&str, Lose<'_>); 5] = [
        ("the log is deleted", &|dir| fs::remove_file(log_path(&dir.join(FILE))).unwrap()),
        ("the file is emptied", &|dir| fs::write(dir.join(FILE), "").unwrap()),
        ("the file is garbage", &|dir| fs::write(dir.join(FILE), "no store".repeat(1000)).unwrap()),
        ("the file is deleted", &|dir| fs::remove_file(dir.join(FILE)).unwrap()),
        ("the file is a link", &|dir| {
            fs::remove_file(dir.join(FILE)).unwrap();
            symlink("/dev/null", dir.join(FILE)).unwrap();
        }),
    ];
    for (way, lose) in ways {
        let dir = node();
        lose(dir.path());
        open(dir.path()).expect_err(way);
        let live = running(&[("a", "10.0.0.1"), ("c", "10.0.0.3")]);
        let report = NodeStore::rebuild(dir.path(), "boot-1", 2000, (&live, &|_entry| false)).unwrap();
        assert_eq!((report.entries, report.claims, report.taken.len()), (2, 2, 0), "{way}");
        assert_eq!(report.moved.is_empty(), way == "the log is deleted", "{way}: {:?}", report.moved);
        let mut disk = OnDisk { store: open(dir.path()).unwrap(), dir };
        assert_eq!(claim_next(&mut disk, &key("d"), &pool()), Some(ip("10.0.0.2")), "{way}");
        assert_eq!(claim_next(&mut disk, &key("e"), &pool()), Some(ip("10.0.0.4")), "{way}");
        assert_eq!(disk.store.entry(&key("a")).unwrap().unwrap().record, live[0].record);
        assert_sound(disk.dir.path());
        // A second rebuild changes nothing.
        drop(disk.store);
        let again = NodeStore::rebuild(disk.dir.path(), "boot-1", 2000, (&live, &|_entry| false)).unwrap();
        assert_eq!((again.entries, again.claims, again.moved.len()), (0, 0, 0), "{way}");
        assert_eq!(open(disk.dir.path()).unwrap().entries(None).unwrap().len(), 4);
    }
}

/// A store that cannot be opened now is not lost.
#[test]
fn a_rebuild_moves_no_store_aside_that_may_be_healthy() {
    type Change<'a> = &'a dyn Fn(&Path);
    let ways: [(&str, Change<'_>); 3] = [
        ("of a newer weft", &|dir| {
            let raw = Connection::open(dir.join(FILE)).unwrap();
            raw.pragma_update(None, "user_version", crate::store::VERSION + 1).unwrap();
        }),
        ("a link to it", &|dir| {
            fs::rename(dir.join(FILE), dir.join("elsewhere")).unwrap();
            symlink(dir.join("elsewhere"), dir.join(FILE)).unwrap();
        }),
        ("with a second name", &|dir| fs::hard_link(dir.join(FILE), dir.join("second")).unwrap()),
    ];
    for (way, change) in ways {
        let dir = node();
        open(dir.path()).unwrap().maintain().unwrap();
        change(dir.path());
        let before = files(dir.path());
        let live = running(&[("a", "10.0.0.1")]);
        let error = NodeStore::rebuild(dir.path(), "boot-1", 2000, (&live, &|_entry| false)).expect_err(way);
        assert!(matches!(error, StoreError::Newer { .. } | StoreError::Link { .. }), "{way}: {error:?}");
        let moved = files(dir.path()).into_iter().find(|name| name.contains("lost"));
        assert_eq!(moved, None, "{way}");
        assert!(before.iter().all(|name| files(dir.path()).contains(name)), "{way}");
    }
}

#[test]
fn rebuilding_takes_nothing_from_another_attachment() {
    let dir = node();
    let live = running(&[("z", "10.0.0.1"), ("b", "10.0.0.2")]);
    let report = NodeStore::rebuild(dir.path(), "boot-1", 2000, (&live, &|_entry| false)).unwrap();
    assert_eq!((report.entries, report.claims), (1, 0));
    assert_eq!(report.taken, [("s".to_owned(), ip("10.0.0.1"))]);
    assert_sound(dir.path());
}

#[test]
fn rebuilding_an_older_copy_gives_the_address_of_a_dead_attachment_to_the_living_one() {
    let dir = node();
    let live = running(&[("z", "10.0.0.1")]);
    let is_dead = |entry: &Entry| entry.key == key("a");
    let report = NodeStore::rebuild(dir.path(), "boot-1", 2000, (&live, &is_dead)).unwrap();
    assert_eq!((report.entries, report.claims, report.taken), (1, 1, Vec::new()));
    // The removal of the dead one takes nothing from it.
    let mut store = open(dir.path()).unwrap();
    store.release(&key("a"), 2000).unwrap();
    assert_eq!(store.entry(&key("z")).unwrap().unwrap().claims, [("s".to_owned(), ip("10.0.0.1"))]);
    drop(store);
    assert_sound(dir.path());
}

#[test]
fn an_address_of_an_unknown_scope_is_claimed_in_all() {
    let dir = node();
    let live = Running { scopes: vec!["s".into(), "t".into()], ..running(&[("z", "10.0.0.9")]).remove(0) };
    let report = NodeStore::rebuild(dir.path(), "boot-1", 2000, (&[live], &|_entry| false)).unwrap();
    assert_eq!((report.entries, report.claims), (1, 2));
    let mut store = open(dir.path()).unwrap();
    assert_eq!(store.scopes().unwrap(), ["s", "t"]);
    store.release(&key("z"), 2000).unwrap();
    assert!(store.claims(&ClaimFilter::default()).unwrap().iter().all(|row| row.address != ip("10.0.0.9")));
    drop(store);
    assert_sound(dir.path());
}
