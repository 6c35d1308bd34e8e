//! Rows of a cluster ledger: an operator's release of an address, strays without a journal entry, and ages while the
//! node's clock is set.

use std::time::Duration;

use super::*;
use crate::ledger::remote::{AddressState, Answer, Clock, IntentAsk, Owner, scope};
use crate::ledger::{ClaimFilter, LedgerError};
use crate::store::Role;

const NOW: u64 = 10_000;

/// An attachment that has addresses of a cluster ledger. Returns its nonce.
fn granted(disk: &mut OnDisk, key: &Key, addresses: &[&str]) -> String {
    let (pool, owner, scope) = (range("10.0.0.2", "10.0.0.9"), Owner::default(), scope("default"));
    let wants: Vec<_> = addresses.iter().map(|address| want(&[ip(address)], &pool)).collect();
    let release = ReleaseRule::Cooldown(60);
    let intent =
        IntentAsk { key, ledger: "{}", domain: "default", owner: &owner, wants: &wants, release: &release, now: NOW };
    let nonce = disk.store.intend::<()>(&intent).unwrap();
    for address in addresses {
        disk.store.note_answer(&nonce, ip(address), Answer::Granted, None).unwrap();
    }
    let claim = ClaimAsk { scope: &scope, now: NOW, ..ask(key, &wants, &release) };
    disk.store.commit_intent(&claim, &nonce, |_| Ok::<_, ()>(Record::default())).unwrap();
    nonce
}

/// An entry of `weft-ipam` under an external delegate: it has nothing but addresses.
fn of_ipam(container: &str) -> Key {
    Key { role: Role::Ipam, ..key(container) }
}

fn release(disk: &mut OnDisk, address: &str) -> Result<bool, LedgerError> {
    disk.store.release_address(&scope("default"), ip(address), (true, NOW))
}

fn states(disk: &OnDisk, nonce: &str) -> Vec<AddressState> {
    let row = disk.store.remote_row(nonce).unwrap().unwrap();
    row.addresses.iter().map(|address| address.state).collect()
}

#[test]
fn an_operators_release_gives_an_address_back_to_the_cluster() {
    let mut disk = OnDisk::new();
    let nonce = granted(&mut disk, &of_ipam("a"), &["10.0.0.2", "10.0.0.3"]);
    assert!(release(&mut disk, "10.0.0.2").unwrap());
    assert_eq!(states(&disk, &nonce), [AddressState::Tombstone, AddressState::Entry]);
    assert_eq!(disk.store.entries(None).unwrap().len(), 1);
    assert_sound(disk.dir.path());
    assert!(release(&mut disk, "10.0.0.3").unwrap());
    assert_eq!(states(&disk, &nonce), [AddressState::Tombstone; 2]);
    assert_eq!(disk.store.remote_row(&nonce).unwrap().unwrap().release, ReleaseRule::Free, "a person frees it");
    assert!(disk.store.entries(None).unwrap().is_empty());
    assert!(disk.store.claims(&ClaimFilter::default()).unwrap().is_empty());
    assert!(matches!(release(&mut disk, "10.0.0.3"), Err(LedgerError::NotClaimed { .. })));
    assert_sound(disk.dir.path());
    // The next attachment gets the same id in the journal.
    let next = granted(&mut disk, &key("b"), &["10.0.0.4"]);
    assert_eq!(states(&disk, &next), [AddressState::Entry]);
    disk.store.release(&key("b"), NOW).unwrap();
    assert_eq!(states(&disk, &next), [AddressState::Tombstone]);
    assert_sound(disk.dir.path());
}

#[test]
fn a_release_in_the_nodes_ledger_releases_nothing_in_the_cluster() {
    let mut disk = OnDisk::new();
    assert!(claim_next(&mut disk, &key("a"), &range("10.0.0.2", "10.0.0.4")).is_some());
    assert!(!disk.store.release_address("s", ip("10.0.0.2"), (true, NOW)).unwrap());
}

#[test]
fn an_address_without_a_journal_entry_is_reported_and_given_back() {
    let mut disk = OnDisk::new();
    let nonce = granted(&mut disk, &key("a"), &["10.0.0.2"]);
    let empty = granted(&mut disk, &key("e"), &["10.0.0.5"]);
    let raw = rusqlite::Connection::open(disk.dir.path().join("weft.db")).unwrap();
    raw.execute_batch("DELETE FROM claims; DELETE FROM runs; UPDATE ranges SET taken = 0; DELETE FROM journal")
        .unwrap();
    raw.execute("DELETE FROM remote_addresses WHERE remote = (SELECT id FROM remote WHERE nonce = ?1)", [&empty])
        .unwrap();
    let problems = disk.store.integrity().unwrap();
    let held =
        "10.0.0.2 in scope \"cluster/default\" is held for container a in the cluster, but no journal entry has it";
    let named = "a row of scope \"cluster/default\" names a journal entry of container e that does not exist";
    assert_eq!(problems, [held, named]);
    disk.store.repair(NOW + 7).unwrap();
    assert_eq!((disk.store.integrity().unwrap(), states(&disk, &nonce)), (Vec::new(), vec![AddressState::Tombstone]));
    // By the caller's clock, as every other time. A row without addresses is nobody's.
    assert_eq!((claimed_since(&disk, &nonce), disk.store.remote_row(&empty).unwrap()), (NOW + 7, None));
    granted(&mut disk, &key("b"), &["10.0.0.4"]);
    assert_sound(disk.dir.path());
}

fn clock(now: u64, uptime: u64) -> Clock {
    Clock { now, uptime: Duration::from_secs(uptime) }
}

fn claimed_since(disk: &OnDisk, nonce: &str) -> u64 {
    disk.store.remote_row(nonce).unwrap().unwrap().addresses[0].since
}

fn created(disk: &OnDisk, nonce: &str) -> u64 {
    disk.store.remote_row(nonce).unwrap().unwrap().created
}

#[test]
fn ages_follow_a_clock_that_is_set() {
    let mut disk = OnDisk::new();
    let nonce = granted(&mut disk, &key("a"), &["10.0.0.2"]);
    assert_eq!(disk.store.follow_clock(None, clock(NOW, 500)).unwrap(), 0);
    // An hour ahead: 5 seconds have passed.
    let last = Some(clock(NOW, 500));
    assert_eq!(disk.store.follow_clock(last, clock(NOW + 3605, 505)).unwrap(), 3600);
    assert_eq!((claimed_since(&disk, &nonce), created(&disk, &nonce)), (NOW + 3600, NOW + 3600));
    // Two hours back, which another process finds out.
    assert_eq!(disk.store.follow_clock(None, clock(NOW + 3610 - 7200, 510)).unwrap(), -7200);
    assert_eq!(claimed_since(&disk, &nonce), NOW - 3600);
    // Only the clock's own pace.
    let last = Some(clock(NOW - 3590, 510));
    assert_eq!(disk.store.follow_clock(last, clock(NOW - 3489, 610)).unwrap(), 0);
    assert_eq!(claimed_since(&disk, &nonce), NOW - 3600);
    assert_sound(disk.dir.path());
}

#[test]
fn no_age_becomes_larger_than_the_time_that_has_passed() {
    let mut disk = OnDisk::new();
    disk.store.follow_clock(None, clock(NOW + 3600, 500)).unwrap();
    // The clock is set back an hour, the row is written by the new clock, and only then somebody looks.
    let nonce = granted(&mut disk, &key("a"), &["10.0.0.2"]);
    assert_eq!(disk.store.follow_clock(Some(clock(NOW + 3600, 500)), clock(NOW + 1, 501)).unwrap(), -3600);
    assert_eq!(claimed_since(&disk, &nonce), NOW);
}

#[test]
fn a_time_to_come_is_now() {
    let mut disk = OnDisk::new();
    let nonce = granted(&mut disk, &key("a"), &["10.0.0.2"]);
    disk.store.note_seen("{}", &crate::ledger::remote::Seen { at: NOW, ..Default::default() }).unwrap();
    // The node boots with an earlier clock: nothing tells by how much it was wrong before.
    assert_eq!(disk.store.follow_clock(None, clock(1000, 7)).unwrap(), 0);
    assert_eq!((claimed_since(&disk, &nonce), created(&disk, &nonce)), (1000, 1000));
    assert_eq!(disk.store.seen("{}").unwrap().unwrap().at, 1000);
    assert_eq!(disk.store.expire_intents(1121, 1121).unwrap(), 0, "it is an entry");
}
