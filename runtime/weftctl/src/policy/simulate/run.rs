//! Runs a simulation: the order of events, and their pods. Time passes only between events; events at the same time run
//! in the order in which they were planned.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::net::IpAddr;

use ipnet::IpNet;
use weft_core::attach::Rules;
use weft_core::conf::Network;
use weft_core::policy::{Ipam, Limits, Loaded};
use weft_host_abi::types::{ClaimInfo, ClaimState, RangeSet, ReleaseRule};

use super::add::{Add, Here, Step};
use super::cluster::{Cluster, NodeLedger};
use super::measure::{Measured, OfSet, Sample, Tally, percent};
use super::sets;
use super::workload::{SECOND, Terms, Time, Workload};

/// How often the course is sampled.
const SAMPLES: Time = 200;

/// After so many consecutive pods without an address, no more are added.
const GIVES_UP: u32 = 100;

/// A pool with more free addresses is not exhausted on purpose.
const MOST_TO_FILL: u64 = 100_000;

/// The subject of the simulation, apart from the terms.
#[derive(Clone, Copy)]
pub(super) struct Subject<'a> {
    pub(super) policy: &'a Loaded<Ipam>,
    pub(super) network: &'a Network,
    pub(super) sets: &'a [RangeSet],
    pub(super) limits: &'a Limits,
    pub(super) rules: &'a Rules,
    /// The network's `ipam` object as text.
    pub(super) config: &'a str,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Start(usize),
    /// The ledger answers the pod's ADD.
    Answer(usize),
    Stop(usize),
    /// Cluster and node forget an address.
    Free(usize, IpAddr),
}

#[derive(Debug)]
enum State {
    Waiting,
    Adding(Box<Add>),
    Running(Vec<IpNet>, ReleaseRule),
    /// Refused, or ended.
    Nowhere,
}

pub(super) struct Simulation<'a> {
    subject: Subject<'a>,
    terms: &'a Terms,
    workload: Workload,
    cluster: Cluster,
    ledgers: Vec<NodeLedger>,
    sizes: Vec<u64>,
    states: Vec<State>,
    /// The addresses of each name's last pod, if names return.
    had: std::collections::HashMap<String, Vec<IpNet>>,
    events: BinaryHeap<Reverse<(Time, u64, Event)>>,
    planned: u64,
    now: Time,
    sampled: Time,
    /// Whether pods are being added until the pool is exhausted.
    filling: bool,
    exhausted: bool,
    tally: Tally,
}

// === impl Simulation ===

impl<'a> Simulation<'a> {
    pub(super) fn new(subject: Subject<'a>, terms: &'a Terms) -> Self {
        let workload = Workload::new(terms);
        let mut simulation = Self {
            subject,
            terms,
            cluster: Cluster::new(subject.sets),
            ledgers: (0..terms.nodes).map(|_| NodeLedger::default()).collect(),
            sizes: subject.sets.iter().map(|set| sets::size(set, subject.sets)).collect(),
            states: workload.lives.iter().map(|_life| State::Waiting).collect(),
            had: std::collections::HashMap::new(),
            events: BinaryHeap::new(),
            planned: 0,
            now: 0,
            sampled: 0,
            filling: false,
            exhausted: false,
            tally: Tally::new(terms.nodes),
            workload,
        };
        let times: Vec<_> = simulation.workload.lives.iter().map(|life| (life.start, life.stop)).collect();
        for (pod, (start, stop)) in times.into_iter().enumerate() {
            simulation.plan(start, Event::Start(pod));
            stop.into_iter().for_each(|stop| simulation.plan(stop, Event::Stop(pod)));
        }
        simulation
    }

    /// Runs the simulation; `passed` is called for each pod with the total number.
    pub(super) fn run(mut self, fill: bool, passed: &dyn Fn(u64)) -> Measured {
        let end = self.workload.end;
        self.run_events(Some(end), passed);
        self.sample_until(end);
        let of_set = |(set, (size, taken)): (&RangeSet, (&u64, &u64))| OfSet {
            name: sets::name(set),
            size: *size,
            taken: *taken,
            taken_when_exhausted: None,
        };
        let counts = self.sizes.iter().zip(self.cluster.taken());
        let mut sets: Vec<OfSet> = self.subject.sets.iter().zip(counts).map(of_set).collect();
        // Finish running ADDs and resting addresses.
        self.run_events(None, passed);
        if fill {
            self.fill(passed);
        }
        let taken = self.cluster.taken();
        if self.exhausted {
            sets.iter_mut().zip(taken).for_each(|(set, taken)| set.taken_when_exhausted = Some(*taken));
        }
        let exhausted_at = self.exhausted.then(|| taken.iter().sum());
        let (name, digest) = (self.subject.policy.name(), self.subject.policy.digest());
        Measured { exhausted_at, ..self.tally.measured(name, digest, sets) }
    }

    /// Runs planned events up to a time.
    fn run_events(&mut self, until: Option<Time>, passed: &dyn Fn(u64)) {
        while let Some(&Reverse((at, _order, event))) = self.events.peek() {
            if until.is_some_and(|until| at > until) {
                return;
            }
            self.events.pop();
            until.into_iter().for_each(|_until| self.sample_until(at));
            self.now = at;
            self.handle_event(event);
            if matches!(event, Event::Start(_)) {
                passed(0);
            }
        }
    }

    /// Adds pods one by one until one is refused because nothing is left.
    fn fill(&mut self, passed: &dyn Fn(u64)) {
        let left = self.sizes.iter().zip(self.cluster.taken()).map(|(size, taken)| size.saturating_sub(*taken)).min();
        let Some(left) = left.filter(|left| *left <= MOST_TO_FILL) else { return };
        passed(left);
        self.filling = true;
        let mut in_vain = 0;
        while in_vain < GIVES_UP && !self.exhausted {
            let pod = self.workload.one_more(self.now);
            self.states.push(State::Waiting);
            self.plan(self.now, Event::Start(pod));
            self.run_events(None, passed);
            in_vain = if matches!(self.states.get(pod), Some(State::Running(..))) { 0 } else { in_vain + 1 };
        }
    }

    fn plan(&mut self, at: Time, event: Event) {
        self.planned += 1;
        self.events.push(Reverse((at, self.planned, event)));
    }

    fn handle_event(&mut self, event: Event) {
        match event {
            Event::Start(pod) => {
                if !self.filling {
                    let node = self.workload.lives[pod].node;
                    self.tally.nodes[node].asked += 1;
                }
                self.step(pod, Box::default(), Add::decide);
            }
            Event::Answer(pod) => {
                if let State::Adding(add) = std::mem::replace(&mut self.states[pod], State::Nowhere) {
                    self.step(pod, add, Add::answer);
                }
            }
            Event::Stop(pod) => self.stop(pod),
            Event::Free(node, address) => {
                self.cluster.delete(address);
                self.ledgers[node].uncount_pending(address);
            }
        }
    }

    fn step(&mut self, pod: usize, mut add: Box<Add>, step: fn(&mut Add, &mut Here<'_>) -> Step) {
        let life = &self.workload.lives[pod];
        let mut here = Here {
            subject: self.subject,
            life,
            node: &self.workload.nodes[life.node],
            sizes: &self.sizes,
            ledger: &mut self.ledgers[life.node],
            cluster: &mut self.cluster,
            tally: &mut self.tally,
            now: self.now,
            filling: self.filling,
        };
        match step(&mut add, &mut here) {
            Step::Answer => {
                self.states[pod] = State::Adding(add);
                self.plan(self.now + self.terms.latency, Event::Answer(pod));
            }
            Step::Granted => {
                let owner = here.attachment().container_id;
                for net in &add.granted {
                    let (ifname, state) = ("eth0".to_owned(), ClaimState::Active);
                    here.ledger.claim(ClaimInfo { address: net.addr(), owner: owner.clone(), ifname, state });
                }
                self.granted(pod, *add);
            }
            Step::Refused(kind, why) => {
                self.states[pod] = State::Nowhere;
                if self.filling {
                    self.exhausted |= kind == "exhausted";
                } else {
                    *self.tally.refused.entry(kind.to_owned()).or_default() += 1;
                    self.tally.why.entry(kind.to_owned()).or_insert(why);
                }
            }
        }
    }

    fn granted(&mut self, pod: usize, add: Add) {
        let life = &self.workload.lives[pod];
        if !self.filling {
            let (claims, node) = (add.granted.len() as u64, &mut self.tally.nodes[life.node]);
            node.granted += 1;
            node.claims += claims;
            node.conflicts += add.conflicts;
            self.tally.claims += claims;
            self.tally.conflicts += add.conflicts;
            self.tally.conflicts_of_pod.push(add.conflicts);
            self.tally.waits.push(self.now - life.start);
            let before = self.had.insert(life.pod.name.clone(), add.granted.clone());
            if let Some(before) = before.filter(|_before| life.returns) {
                self.tally.returned += 1;
                self.tally.returned_to_own += u64::from(before == add.granted);
            }
        }
        let over = life.stop.is_some_and(|stop| stop <= self.now);
        self.states[pod] = State::Running(add.granted, add.release);
        if over {
            self.stop(pod);
        }
    }

    /// DEL. A running ADD ends first.
    fn stop(&mut self, pod: usize) {
        let (addresses, release) = match std::mem::replace(&mut self.states[pod], State::Nowhere) {
            State::Running(addresses, release) => (addresses, release),
            other => {
                self.states[pod] = other;
                return;
            }
        };
        let life = &self.workload.lives[pod];
        let (node, name) = (life.node, life.pod.name.clone());
        for net in &addresses {
            self.ledgers[node].release(net.addr());
            self.cluster.release(net.addr(), self.now);
        }
        let rest = match release {
            ReleaseRule::Keep(_) => return self.cluster.keep_addresses(&name, &addresses),
            ReleaseRule::Free => 0,
            ReleaseRule::Cooldown(seconds) => Time::from(seconds) * SECOND,
        };
        for net in addresses {
            self.ledgers[node].count_pending(net.addr());
            self.plan(self.now + self.terms.latency + rest, Event::Free(node, net.addr()));
        }
    }

    fn sample_until(&mut self, at: Time) {
        let gap = (self.workload.end / SAMPLES).max(1);
        while self.sampled <= at {
            let (mut used, mut size) = (0_u64, 0_u64);
            for (taken, of) in self.cluster.taken().iter().zip(&self.sizes) {
                (used, size) = (used.saturating_add(*taken), size.saturating_add(*of));
            }
            let free = self.subject.sets.iter().map(|set| self.cluster.free(set));
            let sum = |(all, longest): (u64, u64), (free, run): (u64, u64)| {
                (all.saturating_add(free), longest.saturating_add(run))
            };
            let (free, longest) = free.fold((0, 0), sum);
            self.tally.samples.push(Sample {
                at: self.sampled / SECOND,
                used: percent(used, size),
                fragmentation: percent(free.saturating_sub(longest), free),
            });
            self.sampled += gap;
        }
    }
}
