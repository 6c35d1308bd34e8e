//! Determines which pods start where and when. It only depends on the terms and the seed, never on a policy's
//! decisions, so two policies get the same pods at the same times.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

use weft_host_abi::types::{Node, Pod};

/// Microseconds.
pub(super) type Time = u64;

pub(super) const SECOND: Time = 1_000_000;

/// How long after the end of a StatefulSet's pod its successor starts.
const RETURNS_AFTER: Time = 2 * SECOND;

/// The parameters of a simulation.
#[derive(Debug, Clone)]
pub(super) struct Terms {
    pub(super) nodes: usize,
    pub(super) pods: usize,
    /// How many pods run at the same time, once as many have started.
    pub(super) running: usize,
    /// Mean time from a pod's start to its end.
    pub(super) lifetime: Time,
    /// Pods that start at the same time.
    pub(super) burst: usize,
    /// Time of one answer of the ledger.
    pub(super) latency: Time,
    /// Percentage of pods whose names return.
    pub(super) stateful: u8,
    pub(super) seed: u64,
    /// Labels with their values: nodes get the values in turn.
    pub(super) node_labels: BTreeMap<String, Vec<String>>,
    /// Labels with their values: pods get random values.
    pub(super) pod_labels: BTreeMap<String, Vec<String>>,
}

/// A pod's life.
#[derive(Debug, Clone)]
pub(super) struct Life {
    pub(super) pod: Pod,
    pub(super) container: String,
    /// The index of its node.
    pub(super) node: usize,
    pub(super) start: Time,
    /// `None` if it never ends.
    pub(super) stop: Option<Time>,
    /// Whether a pod with this name ran before.
    pub(super) returns: bool,
}

/// All pods.
#[derive(Debug)]
pub(super) struct Workload {
    pub(super) nodes: Vec<Node>,
    pub(super) lives: Vec<Life>,
    /// When the last pod has started.
    pub(super) end: Time,
    rng: fastrand::Rng,
    terms: Terms,
}

// === impl Workload ===

impl Workload {
    /// Creates the pods that start one after the other while others end.
    pub(super) fn new(terms: &Terms) -> Self {
        let nodes = (0..terms.nodes).map(|place| Node {
            name: format!("node-{place}"),
            labels: terms
                .node_labels
                .iter()
                .filter_map(|(key, values)| Some((key.clone(), values.get(place % values.len().max(1))?.clone())))
                .collect(),
        });
        let mut workload = Self {
            nodes: nodes.collect(),
            lives: Vec::with_capacity(terms.pods),
            end: 0,
            rng: fastrand::Rng::with_seed(terms.seed),
            terms: terms.clone(),
        };
        workload.churn();
        workload
    }

    fn churn(&mut self) {
        let terms = self.terms.clone();
        // In a mean lifetime, as many pods start as run at the same time. The first ones, which fill the pool, start
        // four times as fast.
        let gap = (terms.lifetime * terms.burst as u64 / terms.running.max(1) as u64).max(1);
        let mut returning: BinaryHeap<Reverse<(Time, String)>> = BinaryHeap::new();
        let mut now = 0;
        let mut names = 0;
        while self.lives.len() < terms.pods {
            now += if self.lives.len() < terms.running { self.random_time(gap / 4) } else { self.random_time(gap) };
            for _ in 0..terms.burst.min(terms.pods - self.lives.len()) {
                let stateful = self.rng.u8(0..100) < terms.stateful;
                let back = returning.peek().is_some_and(|Reverse((since, _name))| *since <= now);
                let (name, returns) = if stateful && back {
                    (returning.pop().map(|Reverse((_since, name))| name).unwrap_or_default(), true)
                } else {
                    names += 1;
                    (format!("{}-{names}", if stateful { "db" } else { "web" }), false)
                };
                let mut life = self.random_time(terms.lifetime);
                if self.lives.len() < terms.running {
                    // These are met in the middle of their lives: the rest of a life is as long as the shorter of two.
                    life = life.min(self.random_time(terms.lifetime));
                }
                let stop = now + life.max(SECOND);
                if stateful {
                    returning.push(Reverse((stop + RETURNS_AFTER, name.clone())));
                }
                self.push(name, now, Some(stop), returns);
            }
        }
        self.end = now + SECOND;
        let end = self.end;
        self.lives.iter_mut().filter(|life| life.stop >= Some(end)).for_each(|life| life.stop = None);
    }

    /// Adds one more pod that never ends.
    pub(super) fn one_more(&mut self, now: Time) -> usize {
        self.push(format!("more-{}", self.lives.len()), now, None, false);
        self.lives.len() - 1
    }

    fn push(&mut self, name: String, start: Time, stop: Option<Time>, returns: bool) {
        let number = self.lives.len();
        let mut labels = Vec::new();
        for (key, values) in &self.terms.pod_labels {
            labels.extend(self.rng.choice(values).map(|value| (key.clone(), value.clone())));
        }
        let node = self.rng.usize(0..self.terms.nodes);
        // As in reality, uids and container ids are unrelated to names.
        let uid = format!("{:016x}{number:016x}", self.rng.u64(..));
        let container = format!("{:016x}{number:016x}", self.rng.u64(..));
        let pod = Pod { namespace: "default".to_owned(), name, uid, labels, ..Pod::default() };
        self.lives.push(Life { pod, container, node, start, stop, returns });
    }

    /// Returns a random time with this mean, in whole numbers so that every machine gets the same.
    fn random_time(&mut self, mean: Time) -> Time {
        self.rng.u64(0..=mean.saturating_mul(2))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(in super::super) fn terms() -> Terms {
        Terms {
            nodes: 7,
            pods: 2_000,
            running: 300,
            lifetime: 60 * SECOND,
            burst: 5,
            latency: 5_000,
            stateful: 30,
            seed: 1,
            node_labels: [("rack".to_owned(), vec!["a".to_owned(), "b".to_owned()])].into(),
            pod_labels: [("tier".to_owned(), vec!["gold".to_owned(), "tin".to_owned()])].into(),
        }
    }

    #[test]
    fn the_requested_number_runs_and_no_name_runs_twice() {
        let workload = Workload::new(&terms());
        assert_eq!(workload.lives.len(), 2_000);
        let runs = |at: Time| {
            let alive = |life: &&Life| life.start <= at && life.stop.is_none_or(|stop| stop > at);
            workload.lives.iter().filter(alive).map(|life| life.pod.name.clone()).collect::<Vec<_>>()
        };
        for tenth in 4..=10 {
            let mut names = runs(workload.end / 10 * tenth);
            assert!((200..400).contains(&names.len()), "{} run", names.len());
            let all = names.len();
            names.sort();
            names.dedup();
            assert_eq!(names.len(), all, "a name runs twice");
        }
        assert!(workload.lives.iter().filter(|life| life.returns).count() > 100);
    }

    #[test]
    fn labels_are_dealt_out() {
        let workload = Workload::new(&terms());
        assert_eq!(workload.nodes[2].labels, [("rack".to_owned(), "a".to_owned())]);
        assert_eq!(workload.nodes[3].labels, [("rack".to_owned(), "b".to_owned())]);
        let gold = workload.lives.iter().filter(|life| life.pod.labels[0].1 == "gold").count();
        assert!((800..1_200).contains(&gold), "{gold}");
    }

    #[test]
    fn a_seed_is_a_workload() {
        let uids = |seed| {
            let workload = Workload::new(&Terms { seed, ..terms() });
            workload.lives.into_iter().map(|life| (life.pod.uid, life.node, life.start)).collect::<Vec<_>>()
        };
        assert_eq!(uids(1), uids(1));
        assert_ne!(uids(1), uids(2));
    }
}
