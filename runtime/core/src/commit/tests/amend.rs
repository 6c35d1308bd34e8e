//! Entries that several calls write: the chained steps of an attachment.

use super::*;
use crate::journal::AmendError;
use crate::store::StoreError;

fn steps() -> Key {
    Key { role: Role::Steps, ..key("a") }
}

fn record(plan: &str, shared: &[&str]) -> Record {
    Record {
        plan: plan.to_owned(),
        shared: shared.iter().map(|name| (*name).to_owned()).collect(),
        ..Record::default()
    }
}

#[test]
fn an_entry_is_made_changed_and_removed() {
    let mut disk = OnDisk::new();
    claim_next(&mut disk, &key("a"), &range("10.0.0.1", "10.0.0.9"));
    disk.store
        .amend(&steps(), 5, |before| {
            assert_eq!(before, None);
            Ok::<_, ()>(Some(record("one", &["x"])))
        })
        .unwrap();
    let grow =
        |before: Option<Record>| Ok::<_, ()>(Some(record(&format!("{} two", before.unwrap().plan), &["x", "y"])));
    disk.store.amend(&steps(), 6, grow).unwrap();
    let entry = disk.store.entry(&steps()).unwrap().unwrap();
    assert_eq!((entry.record.plan.as_str(), entry.created), ("one two", 5));
    let names = ["x".to_owned(), "y".to_owned(), "z".to_owned()];
    let held = |disk: &OnDisk| disk.store.shared_elsewhere(&key("a"), &names).unwrap().len();
    assert_eq!(held(&disk), 2, "what the steps share is seen by the attachment's own entry");
    disk.store.amend(&steps(), 7, |_| Ok::<_, ()>(None)).unwrap();
    assert!(disk.store.entry(&steps()).unwrap().is_none());
    assert_eq!(held(&disk), 0);
    assert!(disk.store.entry(&key("a")).unwrap().is_some(), "the attachment's own entry is another");
    assert_sound(disk.dir.path());
}

#[test]
fn an_add_writes_nothing_once_the_attachment_is_removed() {
    let mut disk = OnDisk::new();
    disk.store.amend_unless_removed(&steps(), 5, |_| Ok::<_, ()>(Some(record("one", &["x"])))).unwrap();
    disk.store.mark_removed(&steps(), 6).unwrap();
    let refused = disk.store.amend_unless_removed(&steps(), 7, |_| Ok::<_, ()>(Some(record("two", &["x", "y"]))));
    assert!(matches!(refused, Err(AmendError::Ledger(StoreError::Removed { .. }))), "{refused:?}");
    assert_eq!(disk.store.entry(&steps()).unwrap().unwrap().record, record("one", &["x"]));
    // A DEL does its work despite its own mark.
    disk.store.amend(&steps(), 8, |_| Ok::<_, ()>(None)).unwrap();
    assert!(disk.store.entry(&steps()).unwrap().is_none());
}

#[test]
fn an_error_leaves_the_entry_as_it_was() {
    let mut disk = OnDisk::new();
    disk.store.amend(&steps(), 5, |_| Ok::<_, ()>(Some(record("one", &["x"])))).unwrap();
    let refused = disk.store.amend(&steps(), 6, |_| Err("no"));
    assert!(matches!(refused, Err(AmendError::Change("no"))), "{refused:?}");
    assert_eq!(disk.store.entry(&steps()).unwrap().unwrap().record, record("one", &["x"]));
    assert_sound(disk.dir.path());
}

#[test]
fn an_exclusive_name_is_refused_to_a_second_entry() {
    let mut disk = OnDisk::new();
    let other = Key { role: Role::Steps, ..key("b") };
    let mut hold = |key: &Key, names: &[&str]| disk.store.amend(key, 5, |_| Ok::<_, ()>(Some(record("plan", names))));
    hold(&steps(), &["only port 80/tcp on IPv4/*", "only port 81/tcp on IPv4/192.0.2.1", "masquerade x"]).unwrap();
    // The same entry again, with other ports, another address, and shareable names.
    hold(&steps(), &["only port 80/tcp on IPv4/*", "only port 81/tcp on IPv4/192.0.2.1"]).unwrap();
    hold(&other, &["only port 8/tcp on IPv4/*", "only port 800/tcp on IPv4/*", "only port 80/udp on IPv4/*"]).unwrap();
    hold(&other, &["only port 81/tcp on IPv4/192.0.2.2", "only port 80/tcp on IPv6/*", "masquerade x"]).unwrap();
    for (name, shown) in [
        ("only port 80/tcp on IPv4/*", "port 80/tcp on IPv4"),
        ("only port 80/tcp on IPv4/192.0.2.9", "port 80/tcp on IPv4 address 192.0.2.9"),
        ("only port 81/tcp on IPv4/*", "port 81/tcp on IPv4"),
        ("only port 81/tcp on IPv4/192.0.2.1", "port 81/tcp on IPv4 address 192.0.2.1"),
    ] {
        let Err(AmendError::Ledger(error @ StoreError::Taken { .. })) = hold(&other, &["x", name]) else {
            panic!("{name} was not refused")
        };
        assert_eq!(error.to_string(), format!("{shown} is taken by container \"a\" (eth0 on network \"net\")"));
    }
    // A refusal changes no names.
    assert_eq!(disk.store.entry(&other).unwrap().unwrap().record.shared.len(), 3);
    disk.store.amend(&steps(), 7, |_| Ok::<_, ()>(None)).unwrap();
    disk.store.amend(&other, 8, |_| Ok::<_, ()>(Some(record("plan", &["only port 80/tcp on IPv4/*"])))).unwrap();
    assert_sound(disk.dir.path());
}
