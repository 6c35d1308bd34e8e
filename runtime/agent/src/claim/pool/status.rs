//! The status of AddressPools, which the controller writes.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use weft_core::conf::pool_sets;
use weft_core::ledger::remote::{Runs, Span};
use weft_host_abi::types::{Range, RangeSet};

use super::count::Usage;
use super::{Pool, PoolRange};
use crate::claim::DrainError;
use crate::claim::backend::kubernetes::Kubernetes;
use crate::claim::backend::{Backend as _, Cells as _, Listing, WriteError};

/// All addresses.
const EVERYTHING: [Span; 2] = [
    (IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V4(Ipv4Addr::BROADCAST)),
    (IpAddr::V6(Ipv6Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::from_bits(u128::MAX))),
];

/// The controller's counts.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PoolStatus {
    /// `Claims`, or `Blocks` in block mode.
    pub mode: String,
    /// Usable addresses.
    pub capacity: i64,
    /// How many of these are taken.
    pub used: i64,
    /// How many of these are free.
    pub free: i64,
    /// The percentage of taken addresses.
    pub used_percent: i64,
    /// The `generation` that was counted.
    pub observed_generation: i64,
    /// The declared ranges, with their taken addresses. The object's rules protect ranges in use.
    pub ranges: Vec<RangeStatus>,
    /// `Ready`, `Exhausted`, `Overlapping`.
    pub conditions: Vec<Condition>,
}

/// The taken addresses of one declared range, including excluded ones.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RangeStatus {
    subnet: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    range_start: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    range_end: Option<String>,
    used: i64,
}

/// Taken and free addresses of a pool, for metrics.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::claim) struct PoolCount {
    pub(in crate::claim) name: String,
    pub(in crate::claim) used: i64,
    pub(in crate::claim) free: i64,
}

/// Counts every pool, and writes changes.
///
/// # Errors
/// The ledger cannot be read or written.
pub(in crate::claim) async fn count_pools(backend: &Kubernetes) -> Result<Vec<PoolCount>, DrainError> {
    let mut counts = Vec::new();
    let pools = backend.pools().await?;
    let cells = backend.blocks(Listing::All).await?;
    let mut domains = BTreeMap::<&str, Runs>::new();
    for pool in &pools {
        let domain = pool.spec.domain.as_str();
        if !domains.contains_key(domain) {
            let mut taken = backend.taken(domain, &EVERYTHING).await?;
            // Only a machine knows the free addresses in its cells: for others, none of them is free.
            for cell in cells.iter().filter(|cell| cell.spec.domain == domain && !cell.spec.shared) {
                taken.insert_run(cell.spec.first, cell.spec.last_address());
            }
            domains.insert(domain, taken);
        }
    }
    for pool in &pools {
        let taken = domains.get(pool.spec.domain.as_str()).cloned().unwrap_or_default();
        let now = Timestamp::now();
        let status = status(pool, &pools, &taken, now);
        counts.push(PoolCount { name: pool.name.clone(), used: status.used, free: status.free });
        if status == pool.status {
            continue;
        }
        match backend.set_pool_status(pool, &status).await {
            Ok(()) => {
                if let Some(text) = newly_exhausted(&pool.status, &status) {
                    backend.tell_of_pool(pool, ("PoolExhausted", text), now).await;
                }
            }
            // Somebody has changed the pool meanwhile: the next round counts it.
            Err(WriteError::Conflict) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(counts)
}

/// Returns the message of the condition `Exhausted`, if it has just become true.
fn newly_exhausted<'a>(before: &PoolStatus, after: &'a PoolStatus) -> Option<&'a str> {
    fn exhausted_condition(status: &PoolStatus) -> Option<&Condition> {
        status.conditions.iter().find(|condition| condition.type_ == "Exhausted" && condition.status == "True")
    }
    exhausted_condition(after).filter(|_full| exhausted_condition(before).is_none()).map(|full| full.message.as_str())
}

/// Returns the status of a pool.
fn status(pool: &Pool, all: &[Pool], taken: &Runs, now: Timestamp) -> PoolStatus {
    let (sets, problem) = match pool.spec.sets() {
        Ok(sets) => (sets, None),
        Err(error) => (Vec::new(), Some(error.to_string())),
    };
    let usage = Usage::count(&sets, taken);
    let clash = all.iter().find(|other| other.name != pool.name && clashes(pool, &sets, other));
    let wrong = problem.is_some();
    let conditions = [
        ("Ready", !wrong, if wrong { "InvalidRanges" } else { "RangesUsable" }, problem.unwrap_or_default()),
        match usage.free == 0 && !wrong {
            true => ("Exhausted", true, "NoFreeAddress", format!("all {} addresses are taken", usage.capacity)),
            false => ("Exhausted", false, "FreeAddresses", String::new()),
        },
        match clash {
            Some(other) => (
                "Overlapping",
                true,
                "SameAddresses",
                format!("pool {} has addresses of it too: both count them, and nothing is given out twice", other.name),
            ),
            None => ("Overlapping", false, "OwnAddresses", String::new()),
        },
    ];
    let condition = |(kind, holds, reason, message): (&str, bool, &str, String)| {
        let status = if holds { "True" } else { "False" };
        let before = pool.status.conditions.iter().find(|before| before.type_ == kind && before.status == status);
        Condition {
            type_: kind.to_owned(),
            status: status.to_owned(),
            reason: reason.to_owned(),
            message,
            observed_generation: Some(pool.generation),
            last_transition_time: before.map_or(Time(now), |before| before.last_transition_time.clone()),
        }
    };
    PoolStatus {
        mode: if pool.spec.blocks.is_some() { "Blocks" } else { "Claims" }.to_owned(),
        capacity: signed(usage.capacity),
        used: signed(usage.taken),
        free: signed(usage.free),
        used_percent: signed(usage.percent()),
        observed_generation: pool.generation,
        ranges: pool.spec.ranges.iter().map(|range| of_range(range, taken)).collect(),
        conditions: conditions.into_iter().map(condition).collect(),
    }
}

fn of_range(range: &PoolRange, taken: &Runs) -> RangeStatus {
    let value: Value = range.to_value();
    let sets = pool_sets(&[value], &[]).unwrap_or_default();
    let within = |range: &Range| taken.count_in(range);
    let used: u64 = sets.iter().flat_map(|set| &set.ranges).map(within).sum();
    RangeStatus {
        subnet: range.subnet.clone(),
        range_start: range.range_start.clone(),
        range_end: range.range_end.clone(),
        used: i64::try_from(used).unwrap_or(i64::MAX),
    }
}

fn clashes(pool: &Pool, sets: &[RangeSet], other: &Pool) -> bool {
    let others = other.spec.sets().unwrap_or_default();
    let ranges = |sets: &[RangeSet]| sets.iter().flat_map(|set| set.ranges.clone()).collect::<Vec<_>>();
    let (own, others) = (ranges(sets), ranges(&others));
    pool.spec.domain == other.spec.domain
        && own.iter().any(|one| others.iter().any(|two| one.contains(two.first) || two.contains(one.first)))
}

fn signed(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::claim::pool::PoolSpec;

    fn pool(name: &str, subnet: &str) -> Pool {
        let range = PoolRange { subnet: subnet.to_owned(), ..PoolRange::default() };
        let spec = PoolSpec { domain: "default".to_owned(), ranges: vec![range], ..PoolSpec::default() };
        Pool { name: name.to_owned(), generation: 3, spec, ..Pool::default() }
    }

    fn condition_of(status: &PoolStatus, kind: &str) -> (String, String) {
        let found = status.conditions.iter().find(|condition| condition.type_ == kind).unwrap();
        (found.status.clone(), found.reason.clone())
    }

    #[test]
    fn a_pool_that_is_full_or_wrong_or_shared_says_so() {
        let taken: Runs = (2..=6).map(|last| IpAddr::from([10, 0, 0, last])).collect();
        let (full, twin, wrong) = (pool("full", "10.0.0.0/29"), pool("twin", "10.0.0.0/24"), pool("wrong", "x"));
        let all = [full.clone(), twin.clone(), wrong.clone()];
        let now = Timestamp::now();
        let of_full = status(&full, &all, &taken, now);
        assert_eq!((of_full.used, of_full.free, of_full.used_percent, of_full.ranges[0].used), (5, 0, 100, 5));
        assert_eq!(condition_of(&of_full, "Exhausted"), ("True".to_owned(), "NoFreeAddress".to_owned()));
        assert_eq!(condition_of(&of_full, "Overlapping").0, "True");
        let of_wrong = status(&wrong, &all, &taken, now);
        assert_eq!(condition_of(&of_wrong, "Ready"), ("False".to_owned(), "InvalidRanges".to_owned()));
        assert_eq!((condition_of(&of_wrong, "Exhausted").0.as_str(), of_wrong.capacity), ("False", 0));
        assert_eq!(condition_of(&status(&twin, std::slice::from_ref(&twin), &taken, now), "Overlapping").0, "False");
    }

    #[test]
    fn a_condition_keeps_the_time_of_its_change() {
        let (before, later) = (Timestamp::UNIX_EPOCH, Timestamp::now());
        let mut one = pool("one", "10.0.0.0/29");
        one.status = status(&one, &[], &Runs::default(), before);
        assert_eq!(status(&one, &[], &Runs::default(), later), one.status);
        let full = (2..=6).map(|last| IpAddr::from([10, 0, 0, last])).collect();
        let changed = status(&one, &[], &full, later);
        let time = |kind: &str| {
            changed.conditions.iter().find(|condition| condition.type_ == kind).unwrap().last_transition_time.0
        };
        assert_eq!((time("Ready"), time("Exhausted")), (before, later));
        // An event is sent once.
        assert_eq!(newly_exhausted(&one.status, &changed), Some("all 5 addresses are taken"));
        assert_eq!((newly_exhausted(&changed, &changed), newly_exhausted(&changed, &one.status)), (None, None));
    }
}
