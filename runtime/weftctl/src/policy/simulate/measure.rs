//! The counters, and the results computed from them.

use std::collections::BTreeMap;

use serde::Serialize;

use super::cluster::Reuse;
use super::workload::{SECOND, Time};

/// A sample over time.
#[derive(Debug, Clone, Copy, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Sample {
    /// Seconds since the start.
    pub(super) at: u64,
    /// Percentage of all addresses.
    pub(super) used: f64,
    /// Percentage of the free addresses that are not in the longest run.
    pub(super) fragmentation: f64,
}

/// One tenth of a pool's fill level.
#[derive(Debug, Clone, Copy, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Tenth {
    pub(super) claims: u64,
    pub(super) conflicts: u64,
}

#[derive(Debug, Clone, Copy, Default)]
pub(super) struct OfNode {
    pub(super) asked: u64,
    pub(super) granted: u64,
    pub(super) claims: u64,
    pub(super) conflicts: u64,
}

/// A range set after the last pod has started.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct OfSet {
    pub(super) name: String,
    /// Usable addresses: without gateways.
    pub(super) size: u64,
    pub(super) taken: u64,
    /// Taken when the first pod was refused because the pool was exhausted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) taken_when_exhausted: Option<u64>,
}

/// Counters during the run.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) calls: u64,
    pub(super) fuel: u64,
    pub(super) lists: u64,
    pub(super) claims: u64,
    pub(super) conflicts: u64,
    pub(super) conflicts_of_pod: Vec<u64>,
    /// From a pod's start to its addresses.
    pub(super) waits: Vec<Time>,
    pub(super) refused: BTreeMap<String, u64>,
    pub(super) why: BTreeMap<String, String>,
    pub(super) reuses: Vec<Reuse>,
    /// Pods with a returning name, and how many of them got the previous addresses.
    pub(super) returned: u64,
    pub(super) returned_to_own: u64,
    pub(super) nodes: Vec<OfNode>,
    pub(super) tenths: [Tenth; 10],
    pub(super) samples: Vec<Sample>,
}

/// The results of a policy.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Measured {
    pub(super) policy: String,
    pub(super) digest: String,
    pub(super) pods: u64,
    pub(super) granted: u64,
    pub(super) refused: BTreeMap<String, u64>,
    /// The text of the first refusal of each kind.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) why: BTreeMap<String, String>,
    pub(super) claims: u64,
    pub(super) conflicts: u64,
    pub(super) conflicts_per_claim: f64,
    /// Of 100 pods with addresses, 99 had no more conflicts.
    pub(super) conflicts_p99: u64,
    pub(super) calls_per_pod: f64,
    pub(super) fuel_per_call: u64,
    pub(super) lists: u64,
    pub(super) wait_ms: Percentiles,
    pub(super) returned: u64,
    pub(super) returned_to_own: u64,
    /// Percentage of pods with addresses, on the worst node.
    pub(super) worst_node_granted: f64,
    pub(super) worst_node_conflicts_per_claim: f64,
    /// Jain's index of claims per create: 1 if each node needs as many creates as the others.
    pub(super) evenness_of_nodes: f64,
    /// Jain's index of the range sets' fill levels: 1 if all are equally full.
    pub(super) evenness_of_sets: f64,
    pub(super) sets: Vec<OfSet>,
    /// Percentage of the free addresses that are not in the longest run, after the last pod has started.
    pub(super) fragmentation: f64,
    /// How many claims others made before an address was reused.
    pub(super) reuse_claims: Percentiles,
    pub(super) reuse_seconds: Percentiles,
    /// Claims in the cluster when the first pod was refused because the pool was exhausted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) exhausted_at: Option<u64>,
    pub(super) conflicts_by_tenth: [Tenth; 10],
    pub(super) samples: Vec<Sample>,
    #[serde(skip)]
    pub(super) reuses: Vec<u64>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub(super) struct Percentiles {
    pub(super) count: u64,
    pub(super) min: u64,
    pub(super) median: u64,
    pub(super) p99: u64,
    pub(super) max: u64,
}

// === impl Percentiles ===

impl Percentiles {
    fn from_values(values: impl Iterator<Item = u64>) -> Self {
        let mut values: Vec<u64> = values.collect();
        values.sort_unstable();
        let at = |percent: usize| values.get((values.len() * percent / 100).min(values.len().saturating_sub(1)));
        let at = |percent| at(percent).copied().unwrap_or_default();
        Self { count: values.len() as u64, min: at(0), median: at(50), p99: at(99), max: at(100) }
    }
}

// === impl Tally ===

impl Tally {
    pub(super) fn new(nodes: usize) -> Self {
        Self { nodes: vec![OfNode::default(); nodes], ..Self::default() }
    }

    /// Computes the results, given the sets and when the pool was exhausted.
    pub(super) fn measured(mut self, policy: &str, digest: &str, sets: Vec<OfSet>) -> Measured {
        let granted = self.waits.len() as u64;
        let pods: u64 = self.nodes.iter().map(|node| node.asked).sum();
        let asked = || self.nodes.iter().filter(|node| node.asked > 0);
        let used = || asked().filter(|node| node.claims > 0);
        let fold = |values: &mut dyn Iterator<Item = f64>, better: fn(f64, f64) -> f64| values.reduce(better);
        self.reuses.sort_unstable_by_key(|reuse| reuse.claims);
        Measured {
            policy: policy.to_owned(),
            digest: digest.to_owned(),
            pods,
            granted,
            claims: self.claims,
            conflicts: self.conflicts,
            conflicts_per_claim: ratio(self.conflicts, self.claims),
            conflicts_p99: Percentiles::from_values(self.conflicts_of_pod.iter().copied()).p99,
            calls_per_pod: ratio(self.calls, pods),
            fuel_per_call: self.fuel / self.calls.max(1),
            lists: self.lists,
            wait_ms: Percentiles::from_values(self.waits.iter().map(|wait| wait / 1_000)),
            returned: self.returned,
            returned_to_own: self.returned_to_own,
            worst_node_granted: fold(&mut asked().map(|node| percent(node.granted, node.asked)), f64::min)
                .unwrap_or(100.0),
            worst_node_conflicts_per_claim: fold(&mut used().map(|node| ratio(node.conflicts, node.claims)), f64::max)
                .unwrap_or_default(),
            evenness_of_nodes: evenness(used().map(|node| ratio(node.claims, node.claims + node.conflicts))),
            evenness_of_sets: evenness(sets.iter().map(|set| ratio(set.taken, set.size))),
            sets,
            fragmentation: self.samples.last().map_or(0.0, |sample| sample.fragmentation),
            reuse_claims: Percentiles::from_values(self.reuses.iter().map(|reuse| reuse.claims)),
            reuse_seconds: Percentiles::from_values(self.reuses.iter().map(|reuse| reuse.time / SECOND)),
            exhausted_at: None,
            conflicts_by_tenth: self.tenths,
            reuses: self.reuses.iter().map(|reuse| reuse.claims).collect(),
            refused: self.refused,
            why: self.why,
            samples: self.samples,
        }
    }
}

/// Jain's index: 1 if all are equal, 1/n if one has everything.
fn evenness(values: impl Iterator<Item = f64>) -> f64 {
    let (mut count, mut sum, mut squares) = (0.0, 0.0, 0.0);
    for value in values {
        count += 1.0;
        sum += value;
        squares += value * value;
    }
    if squares > 0.0 { rounded(sum * sum / (count * squares), 3) } else { 1.0 }
}

#[expect(clippy::cast_precision_loss, reason = "a ratio that is shown with some digits")]
pub(super) fn ratio(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { rounded(part as f64 / whole as f64, 3) }
}

#[expect(clippy::cast_precision_loss, reason = "a share that is shown with one digit")]
pub(super) fn percent(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { rounded(part as f64 * 100.0 / whole as f64, 1) }
}

fn rounded(value: f64, digits: i32) -> f64 {
    let factor = 10_f64.powi(digits);
    (value * factor).round() / factor
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn evenness_goes_from_all_equal_to_one_has_all() {
        let of = |values: &[f64]| evenness(values.iter().copied());
        assert_eq!(of(&[3.0, 3.0, 3.0, 3.0]), 1.0);
        assert_eq!(of(&[0.0, 8.0, 0.0, 0.0]), 0.25);
        assert_eq!(of(&[]), 1.0);
    }

    #[test]
    fn percentiles_are_values_that_were_there() {
        let of = Percentiles::from_values(1..=200);
        assert_eq!(of, Percentiles { count: 200, min: 1, median: 101, p99: 199, max: 200 });
        assert_eq!(Percentiles::from_values(std::iter::empty()), Percentiles::default());
        assert_eq!(Percentiles::from_values([7].into_iter()).p99, 7);
    }
}
