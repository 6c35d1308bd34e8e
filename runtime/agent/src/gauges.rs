//! The agent's metrics, collected on request.

use std::collections::BTreeMap;
use std::rc::Rc;

use weft_core::agent::counters;
use weft_core::agent::policy::PolicyState;

use crate::claim::ClaimDoor;
use crate::cluster::Cluster;
use crate::health::Health;
use crate::keep::{Filters, Keeper};
use crate::policies::Policies;
use crate::probes::{Kind, Metrics};
use crate::status::Statuses;
use crate::sweep::Sweep;

/// The sources of metrics.
pub(crate) struct Sources {
    pub(crate) health: Rc<Health>,
    pub(crate) cluster: Option<Rc<Cluster>>,
    pub(crate) statuses: Option<Rc<Statuses>>,
    pub(crate) policies: Rc<Policies>,
    pub(crate) claims: Rc<ClaimDoor>,
    pub(crate) sweep: Option<Rc<Sweep>>,
    pub(crate) keeper: Rc<Keeper>,
    pub(crate) filters: Rc<Filters>,
    pub(crate) counters: Rc<counters::Totals>,
}

impl Sources {
    pub(crate) fn collect(&self) -> Metrics {
        let mut metrics = Metrics::default();
        metrics.add(
            "weft_build_info",
            Kind::Gauge,
            "The agent's version.",
            &[("version", env!("CARGO_PKG_VERSION"))],
            1.0,
        );
        let faults = number(self.health.faults().len());
        metrics.add("weft_ready_faults", Kind::Gauge, "What keeps this node from being ready.", &[], faults);
        if let Some(cluster) = &self.cluster {
            let (pods, nads, namespaces) = cluster.sizes();
            for (kind, count) in [("pods", pods), ("networks", nads), ("namespaces", namespaces)] {
                let help = "Objects of the API server that the agent keeps a copy of.";
                metrics.add("weft_agent_objects", Kind::Gauge, help, &[("kind", kind)], number(count));
            }
        }
        if let Some(statuses) = &self.statuses {
            let help = "Network statuses of pods that wait to be written.";
            metrics.add("weft_statuses_waiting", Kind::Gauge, help, &[], number(statuses.pending_count()));
        }
        if let Some(sweep) = &self.sweep {
            let swept = sweep.swept();
            let help = "Attachments that look abandoned.";
            metrics.add("weft_gc_candidates", Kind::Gauge, help, &[], number(swept.candidates));
            for (reason, count) in &swept.removed {
                let help = "Attachments that the sweep removed.";
                metrics.add("weft_gc_reclaimed_total", Kind::Counter, help, &[("reason", reason)], to_sample(*count));
            }
            let help = "Pods that run without the networks they ask for.";
            metrics.add("weft_pods_missing_networks", Kind::Gauge, help, &[], number(swept.missing));
            metrics.add("weft_gc_failures_total", Kind::Counter, "Removals that failed.", &[], to_sample(swept.failed));
            let help =
                "Abandoned attachments that stay, because their plugins cannot be called from the agent's container.";
            metrics.add("weft_gc_out_of_reach", Kind::Gauge, help, &[], number(swept.out_of_reach));
        }
        for row in self.policies.rows() {
            let digest = row.reference.rsplit_once('@').map_or("", |(_place, digest)| digest);
            let state = match row.state {
                PolicyState::Fetching => "fetching",
                PolicyState::Ready => "ready",
                PolicyState::Failed { .. } => "failed",
            };
            for network in &row.networks {
                let labels = [("network", network.as_str()), ("digest", digest), ("state", state)];
                let help = "Policies that networks name by digest.";
                metrics.add("weft_policy_digest_info", Kind::Gauge, help, &labels, 1.0);
            }
        }
        self.claims.metrics(&mut metrics);
        self.kept_in_place(&mut metrics);
        self.counted(&mut metrics);
        decided(&self.counters, &mut metrics);
        metrics
    }

    /// Adds the counts of CNI calls.
    fn counted(&self, metrics: &mut Metrics) {
        for ((verb, network, code), count) in self.counters.requests() {
            let labels = [("verb", verb.as_str()), ("network", network.as_str()), ("code", code.as_str())];
            let help = "CNI calls by their outcome; code 0 is success.";
            metrics.add("weft_cni_requests_total", Kind::Counter, help, &labels, to_sample(count));
        }
        let counts: BTreeMap<String, (u64, f64)> = self.counters.durations().into_iter().collect();
        for ((verb, phase), seconds) in self.counters.phases() {
            let labels = [("verb", verb.as_str()), ("phase", phase)];
            let help = "Time spent in CNI calls. The phases of a verb add up to the whole.";
            metrics.add("weft_cni_duration_seconds_sum", Kind::Counter, help, &labels, seconds);
            let count = counts.get(&verb).map_or(0, |(count, _seconds)| *count);
            metrics.add("weft_cni_duration_seconds_count", Kind::Counter, "CNI calls.", &labels, to_sample(count));
        }
        for (network, count) in self.counters.conflicts() {
            let help = "Addresses found in use by another host on the wire.";
            metrics.add(
                "weft_address_conflicts_total",
                Kind::Counter,
                help,
                &[("network", &network)],
                to_sample(count),
            );
        }
    }

    /// Adds files and the packet filter.
    fn kept_in_place(&self, metrics: &mut Metrics) {
        let kept = self.keeper.counts();
        let help = "Files put back that another program had changed.";
        metrics.add("weft_files_restored_total", Kind::Counter, help, &[], to_sample(kept.restored));
        let filters = self.filters.counts();
        let help = "Number of packet filter checks of live attachments.";
        metrics.add("weft_filter_looks_total", Kind::Counter, help, &[], to_sample(filters.looks));
        let help = "Attachments whose part of the packet filter was put back after somebody had removed it.";
        metrics.add("weft_filters_restored_total", Kind::Counter, help, &[], to_sample(filters.restored));
        let help = "Attachments whose part of the packet filter could not be looked at or put back at the last look.";
        metrics.add("weft_filters_broken", Kind::Gauge, help, &[], number(filters.broken));
    }
}

/// Adds the decisions of policies.
fn decided(counters: &counters::Totals, metrics: &mut Metrics) {
    for ((network, policy), (count, fuel)) in counters.fuel() {
        let labels = [("network", network.as_str()), ("policy", policy.as_str())];
        metrics.add("weft_policy_fuel_sum", Kind::Counter, "Fuel that decisions used.", &labels, to_sample(fuel));
        metrics.add("weft_policy_fuel_count", Kind::Counter, "Decisions.", &labels, to_sample(count));
    }
    for ((network, reason), count) in counters.fallbacks() {
        let help = "ADDs for which a network's fallback decided; reason says whose fault it is.";
        let labels = [("network", network.as_str()), ("reason", reason.as_str())];
        metrics.add("weft_policy_fallback_total", Kind::Counter, help, &labels, to_sample(count));
    }
    for ([network, policy, part, answer], count) in counters.policies() {
        let labels = [("network", network.as_str()), ("policy", policy.as_str())];
        if part == "compared" {
            let labels = [labels[0], labels[1], ("result", answer.as_str())];
            let help = "Decisions of a monitored policy, compared with those that counted.";
            metrics.add("weft_policy_compared_total", Kind::Counter, help, &labels, to_sample(count));
        } else {
            let labels = [labels[0], labels[1], ("part", part.as_str()), ("outcome", answer.as_str())];
            let help = "Answers of policies; part is active for those that count, or monitor.";
            metrics.add("weft_policy_decisions_total", Kind::Counter, help, &labels, to_sample(count));
        }
    }
}

/// Converts a count to a sample.
pub(crate) fn number(count: usize) -> f64 {
    to_sample(u64::try_from(count).unwrap_or(u64::MAX))
}

/// Converts a large count to a sample.
#[expect(clippy::cast_precision_loss, reason = "Prometheus' numbers are floats")]
pub(crate) fn to_sample(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn a_monitored_network_has_the_documented_metrics() {
        let dir = tempfile::tempdir().unwrap();
        let collector = counters::Collector::open(dir.path()).unwrap();
        let mut counts = counters::Counts::default();
        for (policy, part, answer) in
            [("low", "active", "decided"), ("high", "monitor", "denied"), ("high", "compared", "different")]
        {
            counts.policy("net", policy, part, answer);
        }
        counts.write(dir.path());
        let totals = counters::Totals::default();
        // A file is read at the collection after the one that takes it.
        collector.collect(&totals).unwrap();
        collector.collect(&totals).unwrap();
        let mut metrics = Metrics::default();
        decided(&totals, &mut metrics);
        let text = metrics.render();
        let samples: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
        for sample in [
            r#"weft_policy_compared_total{network="net",policy="high",result="different"} 1"#,
            r#"weft_policy_decisions_total{network="net",policy="high",part="monitor",outcome="denied"} 1"#,
            r#"weft_policy_decisions_total{network="net",policy="low",part="active",outcome="decided"} 1"#,
        ] {
            assert!(samples.contains(&sample), "no {sample} in {text}");
        }
        assert_eq!(samples.len(), 3, "{text}");
    }
}
