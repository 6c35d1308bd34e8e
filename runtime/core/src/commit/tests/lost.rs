//! A store that lost data: every kind of loss is detected before an address is handed out again.

mod rebuild;

use std::fs;
use std::os::unix::fs::symlink;

use rusqlite::Connection;

use super::*;
use crate::store::{FILE, StoreError, log_path};

fn pool() -> Range {
    range("10.0.0.1", "10.0.0.254")
}

/// A state directory of a node with three attachments, all in the log.
fn node() -> tempfile::TempDir {
    let OnDisk { dir, store } = OnDisk::new();
    let mut disk = OnDisk { dir, store };
    for owner in ["a", "b", "c"] {
        claim_next(&mut disk, &key(owner), &pool()).unwrap();
    }
    disk.dir
}

fn open(dir: &Path) -> Result<NodeStore, StoreError> {
    NodeStore::open(dir, "boot-1")
}

fn files(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn a_fresh_store_has_its_tables_in_the_file_itself() {
    let OnDisk { dir, store } = OnDisk::new();
    drop(store);
    let copy = scratch();
    fs::copy(dir.path().join(FILE), copy.path().join(FILE)).unwrap();
    assert_sound(copy.path());
}

#[test]
fn every_way_of_losing_claims_is_noticed() {
    type Lose<'a> = &'a dyn Fn(&Path);
    let log = |dir: &Path| log_path(&dir.join(FILE));
    let cut = |path: &Path, to: u64| fs::OpenOptions::new().write(true).open(path).unwrap().set_len(to).unwrap();
    let length = |path: &Path| fs::metadata(path).unwrap().len();
    let zero = |path: &Path| fs::write(path, vec![0; usize::try_from(length(path)).unwrap()]).unwrap();
    let ways: [(&str, Lose<'_>); 12] = [
        ("the log is deleted", &|dir| fs::remove_file(log(dir)).unwrap()),
        ("the log and its index are deleted", &|dir| {
            fs::remove_file(log(dir)).unwrap();
            fs::remove_file(dir.join("weft.db-shm")).unwrap();
        }),
        ("the log is zeroed", &|dir| zero(&log(dir))),
        ("the log is emptied", &|dir| cut(&log(dir), 0)),
        ("the log is cut in half", &|dir| cut(&log(dir), length(&log(dir)) / 2)),
        ("the last page of the log is cut off", &|dir| cut(&log(dir), length(&log(dir)) - 100)),
        ("the file is emptied", &|dir| cut(&dir.join(FILE), 0)),
        ("the file is emptied and the log deleted", &|dir| {
            cut(&dir.join(FILE), 0);
            fs::remove_file(log(dir)).unwrap();
        }),
        ("the file is deleted", &|dir| fs::remove_file(dir.join(FILE)).unwrap()),
        ("all three files are deleted", &|dir| {
            for name in files(dir).iter().filter(|name| name.starts_with(FILE)) {
                fs::remove_file(dir.join(name)).unwrap();
            }
        }),
        ("an empty store is put in its place", &|dir| {
            let other = OnDisk::new();
            fs::remove_file(log(dir)).unwrap();
            fs::remove_file(dir.join("weft.db-shm")).unwrap();
            fs::copy(other.store.path(), dir.join(FILE)).unwrap();
        }),
        ("the marker is deleted", &|dir| fs::remove_file(dir.join("ledger.mark")).unwrap()),
    ];
    for (way, lose) in ways {
        let dir = node();
        lose(dir.path());
        let before = files(dir.path());
        let error = NodeStore::check_loss(dir.path(), "boot-1", &|| Ok(())).expect_err(way);
        assert!(matches!(error, StoreError::Lost { .. }), "{way}, only checked: {error:?}");
        let error = open(dir.path()).expect_err(way);
        assert!(matches!(error, StoreError::Lost { .. }), "{way}: {error:?}");
        assert!(error.to_string().contains("weftctl ledger rebuild"), "{error}");
        let error = open(dir.path()).expect_err(way);
        assert!(matches!(error, StoreError::Lost { .. }), "{way}, the second time: {error:?}");
        assert!(before.iter().all(|name| files(dir.path()).contains(name)), "{way}: nothing is deleted");
        // All users of the addresses ended with the boot.
        if way.starts_with("the log") || way.starts_with("the marker") {
            NodeStore::open(dir.path(), "boot-2").unwrap();
        }
    }
}

#[test]
fn a_damaged_file_is_an_error_before_any_address_is_handed_out() {
    let cut = |path: &Path, part: u64| {
        let length = fs::metadata(path).unwrap().len();
        fs::OpenOptions::new().write(true).open(path).unwrap().set_len(length / part).unwrap();
    };
    for part in [2, 3, 10] {
        let dir = node();
        fs::remove_file(log_path(&dir.path().join(FILE))).unwrap();
        cut(&dir.path().join(FILE), part);
        open(dir.path()).expect_err("cut and without its log");
    }
    let dir = node();
    let length = fs::metadata(dir.path().join(FILE)).unwrap().len();
    fs::remove_file(log_path(&dir.path().join(FILE))).unwrap();
    fs::write(dir.path().join(FILE), vec![0; usize::try_from(length).unwrap()]).unwrap();
    open(dir.path()).expect_err("zeroed");
}

#[test]
fn a_link_is_no_store() {
    let (dir, elsewhere) = (node(), scratch());
    let path = dir.path().join(FILE);
    fs::hard_link(&path, dir.path().join("second-name")).unwrap();
    assert!(matches!(open(dir.path()), Err(StoreError::Link { .. })));
    fs::remove_file(dir.path().join("second-name")).unwrap();
    open(dir.path()).unwrap();

    fs::copy(&path, elsewhere.path().join(FILE)).unwrap();
    fs::remove_file(&path).unwrap();
    symlink(elsewhere.path().join(FILE), &path).unwrap();
    assert!(matches!(open(dir.path()), Err(StoreError::Link { .. })));
    assert!(matches!(NodeStore::open_read_only(dir.path()), Err(StoreError::Link { .. })));

    // Moving the whole directory is allowed.
    let (dir, place) = (node(), scratch());
    symlink(dir.path(), place.path().join("state")).unwrap();
    assert_eq!(open(&place.path().join("state")).unwrap().entries(None).unwrap().len(), 3);
}

#[test]
fn clean_reboots_are_not_reported_as_loss() {
    // Another program wrote the log back and deleted it, as SQLite does when the last process closes the file.
    let dir = node();
    let raw = Connection::open(dir.path().join(FILE)).unwrap();
    raw.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_row| Ok(())).unwrap();
    raw.close().unwrap();
    assert!(!log_path(&dir.path().join(FILE)).exists());
    assert_eq!(open(dir.path()).unwrap().entries(None).unwrap().len(), 3);

    // An older weft wrote it without counting.
    let dir = node();
    let raw = Connection::open(dir.path().join(FILE)).unwrap();
    raw.execute("DELETE FROM meta WHERE key = 'claimed'", []).unwrap();
    fs::remove_file(dir.path().join("ledger.mark")).unwrap();
    assert_eq!(open(dir.path()).unwrap().entries(None).unwrap().len(), 3);

    // A lost release in the log only leaves its address taken.
    let dir = node();
    let mut store = open(dir.path()).unwrap();
    store.maintain().unwrap();
    store.release(&key("a"), 1000).unwrap().unwrap();
    drop(store);
    fs::remove_file(log_path(&dir.path().join(FILE))).unwrap();
    assert_eq!(open(dir.path()).unwrap().entries(None).unwrap().len(), 3);
}

#[test]
fn a_process_that_dies_between_commit_and_mark_is_no_loss() {
    let dir = node();
    let mark = fs::read(dir.path().join("ledger.mark")).unwrap();
    let mut disk = OnDisk { store: open(dir.path()).unwrap(), dir };
    claim_next(&mut disk, &key("d"), &pool()).unwrap();
    fs::write(disk.dir.path().join("ledger.mark"), mark).unwrap();
    let mut disk = OnDisk { store: open(disk.dir.path()).unwrap(), dir: disk.dir };
    assert_eq!(disk.store.entries(None).unwrap().len(), 4);
    claim_next(&mut disk, &key("e"), &pool()).unwrap();
    open(disk.dir.path()).unwrap();
}

#[test]
fn no_new_store_is_made_while_attachments_of_an_older_one_exist() {
    let dir = scratch();
    let state = dir.path().join("state");
    let refuse = || Err("the link veth0 is weft's".to_owned());
    let error = NodeStore::open_unless(&state, "boot-1", &refuse).unwrap_err();
    assert!(matches!(&error, StoreError::Lost { what, .. } if what.contains("veth0")), "{error:?}");
    assert!(!state.join(FILE).exists());
    drop(open(&state).unwrap());
    NodeStore::open_unless(&state, "boot-1", &refuse).expect("it is asked for a new store only");
}

/// The file of a node that never wrote its log back has nothing in it: every claim is in the log.
#[test]
fn a_store_that_lost_its_log_and_its_marker_is_refused_where_the_node_has_attachments() {
    let refuse = || Err("the link veth0 is weft's".to_owned());
    let lose = |dir: &Path| {
        fs::remove_file(log_path(&dir.join(FILE))).unwrap();
        fs::remove_file(dir.join("ledger.mark")).unwrap();
    };
    let dir = node();
    lose(dir.path());
    for _try in 0..2 {
        let error = NodeStore::check_loss(dir.path(), "boot-1", &refuse).unwrap_err();
        assert!(matches!(&error, StoreError::Lost { .. }), "{error:?}");
        let error = NodeStore::open_unless(dir.path(), "boot-1", &refuse).unwrap_err();
        assert!(matches!(&error, StoreError::Lost { what, .. } if what.contains("veth0")), "{error:?}");
    }
    drop(open(dir.path()).unwrap());
    NodeStore::open_unless(dir.path(), "boot-1", &refuse).expect("it was accepted as a new one");

    // Claims that were written back are in the file.
    let dir = node();
    open(dir.path()).unwrap().maintain().unwrap();
    lose(dir.path());
    assert!(matches!(open(dir.path()), Err(StoreError::Lost { .. })), "nobody is asked");
    // Another boot began since.
    let dir = node();
    lose(dir.path());
    NodeStore::open_unless(dir.path(), "boot-2", &refuse).unwrap();
}

#[test]
fn a_fresh_store_that_others_open_at_once_is_not_reported_as_lost() {
    let dir = scratch();
    let asked = std::sync::atomic::AtomicUsize::new(0);
    let count = || {
        asked.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        Ok(())
    };
    drop(NodeStore::open_unless(dir.path(), "boot-1", &count).unwrap());
    assert_eq!(asked.load(std::sync::atomic::Ordering::Relaxed), 1, "the look is expensive");
    // The first process has renamed the file, and has not written the marker yet: by the time the second one has
    // looked, the first has claimed and made a link.
    fs::remove_file(dir.path().join("ledger.mark")).unwrap();
    let claims_meanwhile = || {
        let mut disk = OnDisk { store: open(dir.path()).unwrap(), dir: scratch() };
        claim_next(&mut disk, &key("a"), &pool()).unwrap();
        Err("the link veth0 is weft's".to_owned())
    };
    NodeStore::open_unless(dir.path(), "boot-1", &claims_meanwhile).unwrap();
}

/// While the node is looked at, another process makes the store and attaches something: that is what the look finds.
#[test]
fn a_store_that_another_process_makes_meanwhile_is_not_reported_as_lost() {
    let dir = scratch();
    let other = || {
        let mut disk = OnDisk { dir: scratch(), store: open(dir.path()).unwrap() };
        claim_next(&mut disk, &key("a"), &pool()).unwrap();
        Err("a link belongs to an attachment".to_owned())
    };
    NodeStore::open_unless(dir.path(), "boot-1", &other).unwrap();
    let files: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.iter().filter(|path| path.is_file()).for_each(|path| fs::remove_file(path).unwrap());
    NodeStore::check_loss(dir.path(), "boot-1", &other).unwrap();
}

#[test]
fn a_store_that_was_lost_before_the_boot_is_reported() {
    let dir = node();
    assert!(!open(dir.path()).unwrap().replaces_a_lost_one());
    for name in files(dir.path()).iter().filter(|name| name.starts_with(FILE)) {
        fs::remove_file(dir.path().join(name)).unwrap();
    }
    let store = NodeStore::open(dir.path(), "boot-2").unwrap();
    assert!(store.replaces_a_lost_one());
    drop(store);
    assert!(!NodeStore::open(dir.path(), "boot-2").unwrap().replaces_a_lost_one(), "told once");
    assert!(!NodeStore::open(scratch().path(), "boot-1").unwrap().replaces_a_lost_one());
}

#[test]
fn a_store_that_was_moved_aside_is_noticed() {
    let dir = node();
    let store = open(dir.path()).unwrap();
    assert!(store.is_in_place());
    let (from, to) = (dir.path().join(FILE), dir.path().join("weft.db.lost-1"));
    fs::rename(&from, &to).unwrap();
    assert!(!store.is_in_place());
    fs::copy(&to, &from).unwrap();
    assert!(!store.is_in_place());
}

#[test]
fn leftovers_of_a_process_that_died_making_the_store_are_no_store() {
    let dir = scratch();
    fs::write(dir.path().join("weft.db.new"), b"half of a store").unwrap();
    fs::write(dir.path().join("weft.db.new-journal"), b"x").unwrap();
    drop(open(dir.path()).unwrap());
    assert_sound(dir.path());
    assert_eq!(files(dir.path()).iter().filter(|name| name.contains(".new")).count(), 0);
}
