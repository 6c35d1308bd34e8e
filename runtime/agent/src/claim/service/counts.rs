//! Counts of cluster ledgers, for metrics.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::time::Duration;

use weft_core::ledger::remote::AddressState;
use weft_host_abi::types::ReleaseRule;

use super::Claims;
use crate::claim::now;
use crate::gauges::{number, to_sample};
use crate::probes::{Kind, Metrics};

/// How many pools are counted separately.
const DISTINCT: usize = 200;

/// Counts since the agent started.
#[derive(Debug, Default)]
pub(super) struct Counts {
    /// Creates that others were faster with, by pool.
    lost: RefCell<BTreeMap<String, u64>>,
    /// Requests for the addresses of an ADD, and the time that they took together.
    requests: Cell<(u64, Duration)>,
}

impl Counts {
    pub(super) fn lost(&self, pool: &str, count: u64) {
        let mut lost = self.lost.borrow_mut();
        let is_known = lost.len() < DISTINCT || lost.contains_key(pool);
        // Pools without lost creates appear too, so that an increase is seen from the first one on.
        *lost.entry(if is_known { pool } else { "others" }.to_owned()).or_default() += count;
    }

    pub(super) fn took(&self, took: Duration) {
        let (count, sum) = self.requests.get();
        self.requests.set((count + 1, sum + took));
    }

    /// Adds them to the metrics.
    pub(super) fn metrics(&self, metrics: &mut Metrics) {
        for (pool, count) in self.lost.borrow().iter() {
            let help = "Claims that somebody else was faster with.";
            metrics.add("weft_claim_conflicts_total", Kind::Counter, help, &[("pool", pool)], to_sample(*count));
        }
        let (count, sum) = self.requests.get();
        let help = "Requests of ADDs for addresses of a cluster ledger.";
        metrics.add("weft_claim_duration_seconds_count", Kind::Counter, help, &[], to_sample(count));
        let help = "Time spent in these requests.";
        metrics.add("weft_claim_duration_seconds_sum", Kind::Counter, help, &[], sum.as_secs_f64());
    }
}

impl Claims {
    /// Adds what the store and the cluster ledgers say now to the metrics.
    pub(super) fn metrics(&self, metrics: &mut Metrics) {
        let (waiting, oldest) = self.tombstones();
        let help = "Addresses that a cluster ledger has to be told of: their attachments are gone. Those in a cooldown count too.";
        metrics.add("weft_tombstones", Kind::Gauge, help, &[], number(waiting));
        let help = "How long the oldest of these has waited after its cooldown.";
        metrics.add("weft_tombstone_age_seconds", Kind::Gauge, help, &[], to_sample(oldest));
        let ledgers = self.ledgers.borrow();
        let sum = |count: fn(&super::Progress) -> usize| ledgers.values().map(|of| count(&of.progress.borrow())).sum();
        let help = "Addresses of this node's attachments that somebody else holds in the cluster.";
        metrics.add("weft_ledger_conflicts", Kind::Gauge, help, &[], number(sum(|progress| progress.conflicts.len())));
        let help = "Claims and cells of another store of this machine; they stay until the next boot.";
        metrics.add("weft_ledger_foreign", Kind::Gauge, help, &[], number(sum(|progress| progress.foreign)));
    }

    /// Returns the number of tombstones, and for how many seconds the oldest could have been drained.
    fn tombstones(&self) -> (usize, u64) {
        // If the store cannot be read, the log has the reason.
        let rows = self.store.borrow().remote_rows(AddressState::Tombstone).unwrap_or_default();
        let now = now();
        let mut of_rows = (0, 0);
        for row in &rows {
            for address in row.addresses.iter().filter(|address| address.state == AddressState::Tombstone) {
                of_rows.0 += 1;
                let rest = match row.release {
                    ReleaseRule::Cooldown(seconds) => u64::from(seconds),
                    _ => 0,
                };
                of_rows.1 = of_rows.1.max(now.saturating_sub(address.since).saturating_sub(rest));
            }
        }
        of_rows
    }
}
