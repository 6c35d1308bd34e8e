//! Tests of the ledger: one suite for the store and an in-memory model of it, random histories that compare the two, many
//! processes, crashes, damaged files, and figures.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod amend;
mod conflict;
mod host_local;
mod lost;
mod model;
mod processes;
mod random;
mod remote;
mod size;
mod store;
mod suite;

use std::net::IpAddr;
use std::path::Path;

use ipnet::IpNet;
use weft_host_abi::types::{Attachment, ClaimInfo, LedgerView, Range, ReleaseRule, Usage};

use super::ClaimError;
use crate::journal::{Entry, Record};
use crate::ledger::{ClaimAsk, Claimed, Want};
use crate::store::{Key, NodeStore, Role};

/// What the suite needs from an implementation.
pub(super) trait Subject {
    fn claim(&mut self, ask: &ClaimAsk<'_>, record: Record) -> Result<Vec<Claimed>, Refused>;
    fn release(&mut self, key: &Key, now: u64) -> Option<(Vec<(String, IpAddr)>, ReleaseRule)>;
    fn release_address(&mut self, scope: &str, address: IpAddr, force: bool) -> bool;
    fn purge_expired(&mut self, now: u64) -> u64;
    fn reboot(&mut self, boot_id: &str, now: u64) -> Vec<Key>;
    fn held(&self, scope: &str, identities: &[String], container_id: &str) -> Vec<ClaimInfo>;
    fn entry(&self, key: &Key) -> Option<Entry>;
    fn shared_elsewhere(&self, key: &Key, shared: &[String]) -> Vec<String>;
    fn view(&self, scope: &str, now: u64) -> Box<dyn LedgerView>;
}

/// `ClaimError` without what differs between implementations.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Refused {
    Lost(usize),
    Exists(Vec<IpAddr>),
}

/// A directory in memory if possible: these tests do not depend on the disk, and flushes would take most of their time.
pub(super) fn scratch() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { tempfile::tempdir_in(memory).unwrap() } else { tempfile::tempdir().unwrap() }
}

/// The store, in a directory of its own.
pub(super) struct OnDisk {
    pub(super) dir: tempfile::TempDir,
    pub(super) store: NodeStore,
}

impl OnDisk {
    pub(super) fn new() -> Self {
        let dir = scratch();
        let store = NodeStore::open(dir.path(), "boot-1").unwrap();
        Self { dir, store }
    }
}

impl Subject for OnDisk {
    fn claim(&mut self, ask: &ClaimAsk<'_>, record: Record) -> Result<Vec<Claimed>, Refused> {
        self.store.claim(ask, |_claimed| Ok::<_, std::convert::Infallible>(record)).map_err(|error| match error {
            ClaimError::Lost { want } => Refused::Lost(want),
            ClaimError::Exists { addresses, .. } => Refused::Exists(addresses),
            other => panic!("{other:?}"),
        })
    }

    fn release(&mut self, key: &Key, now: u64) -> Option<(Vec<(String, IpAddr)>, ReleaseRule)> {
        self.store.release(key, now).unwrap().map(|released| (released.claims, released.rule))
    }

    fn release_address(&mut self, scope: &str, address: IpAddr, force: bool) -> bool {
        self.store.release_address(scope, address, (force, 1000)).is_ok()
    }

    fn purge_expired(&mut self, now: u64) -> u64 {
        let any = self.store.has_expired(now).unwrap();
        let purged = self.store.purge_expired(now).unwrap();
        assert_eq!(any, purged > 0);
        purged
    }

    fn reboot(&mut self, boot_id: &str, now: u64) -> Vec<Key> {
        self.store = NodeStore::open(self.dir.path(), boot_id).unwrap();
        let reaped = self.store.reap_previous_boots(&|entry| !entry.record.externals.is_empty(), now).unwrap();
        assert_eq!(self.store.reap_previous_boots(&|_| false, now).unwrap(), []);
        let mut keys: Vec<Key> = reaped.into_iter().map(|entry| entry.key).collect();
        keys.sort();
        keys
    }

    fn held(&self, scope: &str, identities: &[String], container_id: &str) -> Vec<ClaimInfo> {
        self.store.held(scope, identities, container_id).unwrap()
    }

    fn entry(&self, key: &Key) -> Option<Entry> {
        self.store.entry(key).unwrap()
    }

    fn shared_elsewhere(&self, key: &Key, shared: &[String]) -> Vec<String> {
        self.store.shared_elsewhere(key, shared).unwrap().into_iter().collect()
    }

    fn view(&self, scope: &str, now: u64) -> Box<dyn LedgerView> {
        Box::new(self.store.view(scope, now).unwrap())
    }
}

pub(super) fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// An address with its family's full length.
pub(super) fn host(address: IpAddr) -> IpNet {
    IpNet::from(address)
}

pub(super) fn range(first: &str, last: &str) -> Range {
    Range { subnet: host(ip(first)), first: ip(first), last: ip(last), gateway: None }
}

pub(super) fn key(container_id: &str) -> Key {
    Key {
        attachment: Attachment { network: "net".into(), container_id: container_id.into(), ifname: "eth0".into() },
        role: Role::Attachment,
    }
}

/// A want of one of these addresses out of a range.
pub(super) fn want(addresses: &[IpAddr], range: &Range) -> Want {
    let candidates = addresses.iter().map(|address| (host(*address), Some(range.clone()))).collect();
    Want { candidates, gateway: None }
}

pub(super) fn ask<'a>(key: &'a Key, wants: &'a [Want], release: &'a ReleaseRule) -> ClaimAsk<'a> {
    ClaimAsk { key, scope: "s", identities: &[], wants, release, now: 1000 }
}

/// Claims the next free address of a range, as a policy would.
pub(super) fn claim_next(subject: &mut dyn Subject, key: &Key, range: &Range) -> Option<IpAddr> {
    let free = subject.view("s", 1000).next_free(range, range.first).unwrap()?;
    let wants = [want(&[free], range)];
    let claimed = subject.claim(&ask(key, &wants, &ReleaseRule::Free), Record::default()).unwrap();
    Some(claimed[0].address.addr())
}

/// Asserts that the store is consistent.
pub(super) fn assert_sound(dir: &Path) {
    let store = NodeStore::open_read_only(dir).unwrap().expect("a store");
    assert_eq!(store.integrity().unwrap(), Vec::<String>::new());
}

pub(super) fn usage(size: u64, taken: u64) -> Usage {
    Usage { size, taken }
}
