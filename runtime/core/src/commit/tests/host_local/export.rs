//! Exports to host-local's directory.

use std::fs;
use std::path::PathBuf;

use super::super::*;
use super::{BLUE, export, import, ipam, network, scope_of, tree};
use crate::ledger::{HostLocalExport, LedgerError, SkipReason};

#[test]
fn exporting_never_overwrites_another_container() {
    let (from, to) = (scratch(), scratch());
    network(from.path(), "blue", BLUE);
    let mut disk = OnDisk::new();
    import(&mut disk.store, from.path()).unwrap();
    let dir = network(to.path(), "blue", &[("10.1.0.3", "other\r\neth0"), ("last_reserved_ip.0", "10.1.0.200")]);
    let error = export(&disk.store, to.path(), None).unwrap_err();
    assert!(matches!(&error, LedgerError::HostLocal { path, .. } if path.ends_with("blue/10.1.0.3")), "{error:?}");
    assert_eq!(tree(&dir).len(), 3, "nothing but the lock was added");
    fs::remove_file(dir.join("10.1.0.3")).unwrap();
    fs::write(dir.join("10.1.0.77"), "other\r\neth0").unwrap();
    export(&disk.store, to.path(), None).unwrap();
    assert_eq!(fs::read_to_string(dir.join("last_reserved_ip.0")).unwrap(), "10.1.0.7");
    assert!(dir.join("10.1.0.77").exists(), "what is only there stays");
}

#[test]
fn what_host_local_cannot_store_is_reported() {
    let to = scratch();
    let mut disk = OnDisk::new();
    let addresses = ["10.0.0.1", "10.0.0.2", "10.0.0.3", "::ffff:10.0.0.4"];
    let rules = [ReleaseRule::Free, ReleaseRule::Cooldown(60), ReleaseRule::Keep("pod:ns/x".into()), ReleaseRule::Free];
    for (address, rule) in addresses.iter().zip(&rules) {
        let pool = range(address, address);
        disk.claim(&ask(&key(address), &[want(&[ip(address)], &pool)], rule), Record::default()).unwrap();
    }
    disk.release(&key("10.0.0.2"), 1000);
    disk.release(&key("10.0.0.3"), 1000);
    let report = export(&disk.store, to.path(), Some(&["net".to_owned()])).unwrap();
    let left: Vec<IpAddr> = report.networks[0].left_out.iter().map(|left| left.address).collect();
    assert_eq!(left, [ip("10.0.0.2"), ip("10.0.0.3"), ip("::ffff:10.0.0.4")]);
    let names: Vec<_> = tree(&to.path().join("net")).into_keys().collect();
    assert_eq!(names, [PathBuf::from("10.0.0.1"), PathBuf::from("lock")]);
}

#[test]
fn stale_files_are_not_imported_and_are_deleted_by_an_export() {
    let from = scratch();
    let dir = network(from.path(), "blue", &[("10.1.0.2", "live\r\neth0"), ("10.1.0.3", "gone\r\neth0"), ("lock", "")]);
    let mut disk = OnDisk::new();
    let report = import(&mut disk.store, from.path()).unwrap();
    assert_eq!(report.networks[0].imported, 1);
    let skipped: Vec<_> = report.networks[0].skipped.iter().map(|file| &file.reason).collect();
    assert_eq!(skipped, [&SkipReason::Stale]);
    let report = export(&disk.store, from.path(), None).unwrap();
    assert_eq!((report.networks[0].unchanged, report.networks[0].removed), (1, 1));
    assert!(dir.join("10.1.0.2").exists() && !dir.join("10.1.0.3").exists());
    assert_sound(disk.dir.path());
}

#[test]
fn an_export_reports_what_happened_to_imported_claims() {
    let from = scratch();
    let dir = network(from.path(), "blue", &[("10.1.0.2", "id1\r\neth0"), ("10.1.0.3", "id2\r\neth0"), ("lock", "")]);
    let mut disk = OnDisk::new();
    import(&mut disk.store, from.path()).unwrap();
    // Both are released by weft, and one address is given to another container.
    for id in ["id1", "id2"] {
        disk.store.release(&ipam("blue", id, "eth0"), 1000).unwrap().unwrap();
    }
    let (scope, new) = (scope_of("blue"), ipam("blue", "new", "eth0"));
    let wants = [want(&[ip("10.1.0.2")], &range("10.1.0.1", "10.1.0.254"))];
    disk.claim(&ClaimAsk { scope: &scope, ..ask(&new, &wants, &ReleaseRule::Free) }, Record::default()).unwrap();
    // A file that host-local made since then is left alone.
    fs::write(dir.join("10.1.0.9"), "stock\r\neth0").unwrap();
    let report = export(&disk.store, from.path(), None).unwrap();
    assert_eq!(
        (report.networks[0].written, report.networks[0].removed),
        (2, 1),
        "the address, and the last one given out"
    );
    assert_eq!(fs::read_to_string(dir.join("10.1.0.2")).unwrap(), "new\r\neth0");
    assert!(!dir.join("10.1.0.3").exists());
    assert!(dir.join("10.1.0.9").exists());
}

#[test]
fn scopes_of_one_network_go_to_their_own_directories() {
    let top = scratch();
    let mut disk = OnDisk::new();
    for (scope, id, address) in [("net", "a", "10.1.0.2"), ("net@/data/x", "b", "10.1.0.2")] {
        let key = ipam("net", id, "eth0");
        let wants = [want(&[ip(address)], &range("10.1.0.1", "10.1.0.254"))];
        disk.claim(&ClaimAsk { scope, ..ask(&key, &wants, &ReleaseRule::Free) }, Record::default()).unwrap();
    }
    let dir_of = |network: &str, scope: &str| top.path().join(scope.replace(['@', '/'], "_")).join(network);
    let ask = HostLocalExport { dir_of: &dir_of, networks: None, scope_of: &str::to_owned, is_gone: &|_, _| false };
    let report = disk.store.export_host_local(&ask).unwrap();
    assert_eq!(report.networks.len(), 2);
    assert_eq!(fs::read_to_string(top.path().join("net/net/10.1.0.2")).unwrap(), "a\r\neth0");
    assert_eq!(fs::read_to_string(top.path().join("net__data_x/net/10.1.0.2")).unwrap(), "b\r\neth0");
}
