//! Large pools: an ADD costs the same with 60,000 claims as with 10, whether the pool is contiguous or full of holes.

use std::time::{Duration, Instant};

use super::*;
use crate::journal;
use crate::ledger::{self, Books};
use crate::store::{Stop, StoreError};

/// Claims addresses without a transaction each.
pub(super) fn fill(store: &mut NodeStore, scope: &str, addresses: &[IpAddr]) {
    for (batch, addresses) in addresses.chunks(1000).enumerate() {
        store
            .write::<_, StoreError>("fill", |conn| {
                let mut books = Books::new(conn);
                for (index, address) in addresses.iter().enumerate() {
                    let key = key(&format!("{:064}", batch * 1000 + index));
                    let record = Record { plan: "x".repeat(1500), trace: "y".repeat(500), ..Record::default() };
                    let id = journal::insert(conn, &key, &record, &ReleaseRule::Free, ("boot-1", 1000))?;
                    ledger::put(conn, scope, *address, (id, 0, 1000))?;
                    books.taken(scope, *address)?;
                }
                books.close().map_err(Stop::from)
            })
            .unwrap();
    }
    store.maintain().unwrap();
}

/// So many addresses from the start of a range, every `step`th.
pub(super) fn every(range: &Range, count: usize, step: u128) -> Vec<IpAddr> {
    let nth = |index: usize| match range.first {
        IpAddr::V4(v4) => IpAddr::V4((u32::from(v4) + u32::try_from(index as u128 * step).unwrap()).into()),
        IpAddr::V6(v6) => IpAddr::V6((u128::from(v6) + index as u128 * step).into()),
    };
    (0..count).map(nth).collect()
}

/// What an ADD and a DEL ask of the ledger, each in a connection of its own, as in a process of its own.
pub(super) fn add_and_del(dir: &Path, pool: &Range, id: &str) -> (Duration, Duration) {
    let key = key(id);
    let identities = ["pod:ns/name".to_owned()];
    let start = Instant::now();
    let mut store = NodeStore::open(dir, "boot-1").unwrap();
    store.reap_previous_boots(&|_| false, 1000).unwrap();
    store.purge_expired(1000).unwrap();
    assert_eq!(store.held("s", &identities, id).unwrap(), []);
    let view = store.view("s", 1000).unwrap();
    let from = view.last_claimed(pool).unwrap().map_or(pool.first, |last| last.address);
    let usage = view.usage(pool).unwrap();
    let free = view.next_free(pool, from).unwrap().unwrap();
    assert!(usage.taken < usage.size);
    drop(view);
    let wants = [want(&[free], pool)];
    let record = Record { plan: "x".repeat(1500), trace: "y".repeat(500), ..Record::default() };
    store.claim(&ask(&key, &wants, &ReleaseRule::Free), |_| Ok::<_, ()>(record)).unwrap();
    drop(store);
    let add = start.elapsed();
    let start = Instant::now();
    let mut store = NodeStore::open(dir, "boot-1").unwrap();
    store.entry(&key).unwrap().unwrap();
    store.release(&key, 1000).unwrap().unwrap();
    drop(store);
    (add, start.elapsed())
}

/// Median ADD and DEL of `rounds`: what the disk of a shared machine does to a few of them does not count.
pub(super) fn measure(pool: &Range, count: usize, step: u128, rounds: usize) -> (Duration, Duration) {
    let mut disk = OnDisk::new();
    fill(&mut disk.store, "s", &every(pool, count, step));
    // The store of this process would keep SQLite's index file alive.
    let OnDisk { dir, store } = disk;
    drop(store);
    add_and_del(dir.path(), pool, "warm");
    let (mut adds, mut dels): (Vec<_>, Vec<_>) =
        (0..rounds).map(|round| add_and_del(dir.path(), pool, &format!("c{round}"))).unzip();
    adds.sort();
    dels.sort();
    (adds[rounds / 2], dels[rounds / 2])
}

/// Generous beside the figures (1.0 to 1.2): this is a shared machine, and what it must catch is a scan, which is 50 times.
#[test]
fn an_add_costs_the_same_with_sixty_thousand_claims() {
    for pool in [range("10.0.0.0", "10.3.255.255"), range("2001:db8::1", "2001:db8::ffff:ffff:ffff:ffff")] {
        for step in [1, 3] {
            let times = |count| measure(&pool, count, step, 60);
            let (few, many) = (times(10), times(60_000));
            let limit = |few: Duration| few.mul_f64(1.5) + Duration::from_micros(500);
            assert!(many.0 < limit(few.0) && many.1 < limit(few.1), "{pool:?} every {step}: {few:?} -> {many:?}");
        }
    }
}

#[test]
#[ignore = "prints figures"]
#[expect(clippy::print_stdout, reason = "they are what it is for")]
fn figures() {
    let v4 = range("10.0.0.0", "10.3.255.255");
    let v6 = range("2001:db8::1", "2001:db8::ffff:ffff:ffff:ffff");
    for (name, pool) in [("IPv4", &v4), ("IPv6 /64", &v6)] {
        for (shape, step) in [("contiguous", 1), ("every third", 3)] {
            let few = measure(pool, 10, step, 300);
            let many = measure(pool, 60_000, step, 300);
            let ratio = |many: Duration, few: Duration| many.as_secs_f64() / few.as_secs_f64();
            println!(
                "{name} {shape}: ADD {:?} -> {:?} ({:.2}), DEL {:?} -> {:?} ({:.2})",
                few.0,
                many.0,
                ratio(many.0, few.0),
                few.1,
                many.1,
                ratio(many.1, few.1)
            );
        }
    }
}
