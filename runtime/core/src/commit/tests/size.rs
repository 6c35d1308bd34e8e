//! Large pools: an ADD costs the same with 60,000 claims as with 10, whether the pool is contiguous or full of holes.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::*;
use crate::journal;
use crate::ledger::{self, Books};
use crate::store::{Stop, StoreError};

/// Claims addresses without a transaction for each.
pub(super) fn fill(store: &mut NodeStore, scope: &str, addresses: &[IpAddr]) {
    for (batch, addresses) in addresses.chunks(1000).enumerate() {
        store
            .write::<_, StoreError>("fill", |conn| {
                let mut books = Books::new(conn);
                for (index, address) in addresses.iter().enumerate() {
                    let key = key(&format!("{:064}", batch * 1000 + index));
                    let record = Record { plan: "x".repeat(1500), trace: "y".repeat(500), ..Record::default() };
                    let id = journal::insert(conn, &key, &record, &ReleaseRule::Free, ("boot-1", 1000))?;
                    ledger::write_claim(conn, scope, *address, (id, 0, 1000))?;
                    books.taken(scope, *address)?;
                }
                books.close().map_err(Stop::from)
            })
            .unwrap();
    }
    store.maintain().unwrap();
}

/// Returns so many addresses from the start of a range, every `step`th.
pub(super) fn every_nth_address(range: &Range, count: usize, step: u128) -> Vec<IpAddr> {
    let nth = |index: usize| match range.first {
        IpAddr::V4(v4) => IpAddr::V4((u32::from(v4) + u32::try_from(index as u128 * step).unwrap()).into()),
        IpAddr::V6(v6) => IpAddr::V6((u128::from(v6) + index as u128 * step).into()),
    };
    (0..count).map(nth).collect()
}

/// The cost of an operation.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cost {
    /// Steps of SQLite's virtual machine: one for each row visited, and some for each statement. They do not depend on
    /// the machine, and a scan takes one for each claim.
    pub(super) turns: u64,
    /// The duration, including the opening of the store.
    pub(super) time: Duration,
}

/// Counts the steps of the store's connection from here on.
fn count_turns(store: &NodeStore) -> Arc<AtomicU64> {
    let turns = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&turns);
    let count = move || {
        counted.fetch_add(1, Ordering::Relaxed);
        false
    };
    store.lock().conn.progress_handler(1, Some(count)).unwrap();
    turns
}

/// Does what an ADD and a DEL do in the ledger, each on its own connection, as in separate processes.
fn add_and_del(dir: &Path, pool: &Range, id: &str) -> (Cost, Cost) {
    let key = key(id);
    let identities = ["pod:ns/name".to_owned()];
    let start = Instant::now();
    let mut store = NodeStore::open(dir, "boot-1").unwrap();
    let turns = count_turns(&store);
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
    let add = Cost { turns: turns.load(Ordering::Relaxed), time: start.elapsed() };
    let start = Instant::now();
    let mut store = NodeStore::open(dir, "boot-1").unwrap();
    let turns = count_turns(&store);
    store.entry(&key).unwrap().unwrap();
    store.release(&key, 1000).unwrap().unwrap();
    drop(store);
    (add, Cost { turns: turns.load(Ordering::Relaxed), time: start.elapsed() })
}

/// Measures ADD and DEL with so many claims: returns the median time of `rounds`, and the largest number of steps.
fn measure(pool: &Range, count: usize, step: u128, rounds: usize) -> (Cost, Cost) {
    let mut disk = OnDisk::new();
    fill(&mut disk.store, "s", &every_nth_address(pool, count, step));
    // An open store in this process would keep SQLite's index file alive.
    let OnDisk { dir, store } = disk;
    drop(store);
    add_and_del(dir.path(), pool, "warm");
    let (adds, dels): (Vec<_>, Vec<_>) =
        (0..rounds).map(|round| add_and_del(dir.path(), pool, &format!("c{round}"))).unzip();
    let sum_up = |mut costs: Vec<Cost>| {
        costs.sort_by_key(|cost| cost.time);
        Cost { turns: costs.iter().map(|cost| cost.turns).max().unwrap_or(0), time: costs[rounds / 2].time }
    };
    (sum_up(adds), sum_up(dels))
}

#[test]
fn an_add_costs_the_same_with_sixty_thousand_claims() {
    for pool in [range("10.0.0.0", "10.3.255.255"), range("2001:db8::1", "2001:db8::ffff:ffff:ffff:ffff")] {
        for step in [1, 3] {
            let costs = |count| measure(&pool, count, step, 4);
            let (few, many) = (costs(10), costs(60_000));
            for (few, many) in [(few.0, many.0), (few.1, many.1)] {
                assert!(few.turns > 0, "nothing was counted");
                assert!(many.turns <= few.turns + few.turns / 10, "{pool:?} every {step}: {few:?} -> {many:?}");
            }
        }
    }
}

/// Shows how the test above would detect a scan.
#[test]
fn a_scan_takes_a_turn_for_each_claim() {
    let pool = range("10.0.0.0", "10.3.255.255");
    let mut disk = OnDisk::new();
    fill(&mut disk.store, "s", &every_nth_address(&pool, 2000, 1));
    let turns = count_turns(&disk.store);
    let scan = "SELECT max(slot + since) FROM claims";
    let found = disk.store.read("scan", |conn| Ok(conn.query_row(scan, [], |row| row.get::<_, i64>(0))?));
    assert_eq!(found.unwrap(), 1000);
    assert!(turns.load(Ordering::Relaxed) >= 2000, "{turns:?}");
}

#[test]
#[ignore = "prints figures"]
#[expect(clippy::print_stdout, reason = "they are what it is for")]
fn store_size_per_claim() {
    let v4 = range("10.0.0.0", "10.3.255.255");
    let v6 = range("2001:db8::1", "2001:db8::ffff:ffff:ffff:ffff");
    for (name, pool) in [("IPv4", &v4), ("IPv6 /64", &v6)] {
        for (shape, step) in [("contiguous", 1), ("every third", 3)] {
            let few = measure(pool, 10, step, 300);
            let many = measure(pool, 60_000, step, 300);
            for (verb, few, many) in [("ADD", few.0, many.0), ("DEL", few.1, many.1)] {
                let ratio = many.time.as_secs_f64() / few.time.as_secs_f64();
                println!(
                    "{name} {shape}: {verb} {:?} -> {:?} ({ratio:.2}), turns {} -> {}",
                    few.time, many.time, few.turns, many.turns
                );
            }
        }
    }
}
