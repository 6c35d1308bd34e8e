//! One of the storm's workers: it plays the runtime of one container after the other.

use std::sync::{Arc, PoisonError};
use std::thread::sleep;
use std::time::Duration;

use anyhow::Result;
use weft_bench::call::{Target, Verb};

use crate::oracle::Slot;
use crate::storm::{Abandoned, Storm, ips, one_line};
use crate::strike::Ended;
use crate::tally::lock;

/// Attachments left for GC at most; with those that live they must fit the pool.
const ABANDONED: usize = 16;

/// Strikes that one DEL may get before it is let through.
const STRIKES: usize = 3;

pub(crate) struct Worker<'a> {
    storm: &'a Storm<'a>,
    name: String,
    random: fastrand::Rng,
    slot: Arc<Slot>,
}

/// What a runtime knows after its ADD.
enum Added {
    /// The result.
    Yes(String),
    /// It was killed.
    Unknown,
    /// It failed although it was let live: a violation, and reported as one.
    No,
}

// === impl Worker ===

impl<'a> Worker<'a> {
    pub(crate) fn new(storm: &'a Storm<'a>, storm_number: usize, index: usize, seed: u64) -> Result<Self> {
        let slot = storm.oracle.slot(storm.scene)?;
        let name = format!("s{storm_number}w{index}");
        Ok(Self { storm, name, random: fastrand::Rng::with_seed(seed), slot })
    }

    /// Lives, until the rounds are used up. The last attachment stays as the storm left it.
    pub(crate) fn work(mut self) -> Result<()> {
        let mut number = 0;
        while self.storm.take_round() {
            number += 1;
            let target = self.storm.target(&format!("{}-{number}", self.name), &self.slot);
            self.life(&target)?;
        }
        let target = self.storm.target(&format!("{}-last", self.name), &self.slot);
        self.add(&target)?;
        lock(&self.storm.last).push(Abandoned { target, slot: self.slot });
        Ok(())
    }

    /// One container: ADD, perhaps CHECK, DEL, each perhaps killed.
    fn life(&mut self, target: &Target) -> Result<()> {
        match self.add(target)? {
            Added::Yes(result) => self.live(target, &result)?,
            Added::Unknown => {
                let room = lock(&self.storm.abandoned).len() < ABANDONED;
                if self.storm.subject.collects && room && self.random.f64() < 0.3 {
                    let slot = Arc::clone(&self.slot);
                    lock(&self.storm.abandoned).push(Abandoned { target: target.clone(), slot });
                    self.slot = self.storm.oracle.slot(self.storm.scene)?;
                    return Ok(());
                }
            }
            Added::No => {}
        }
        if self.random.f64() < 0.15 {
            // The sandbox dies before DEL.
            self.storm.tally.count("netns gone before DEL");
            self.let_go(target);
            self.storm.oracle.discard(self.storm.scene, &self.slot)?;
            self.delete(target)?;
            // It may have ended with the sandbox.
            self.storm.network.take_away(&target.container)?;
            self.slot = self.storm.oracle.slot(self.storm.scene)?;
            return Ok(());
        }
        self.let_go(target);
        self.delete(target)?;
        self.storm.must_be_bare(target, &self.slot)
    }

    fn add(&mut self, target: &Target) -> Result<Added> {
        let strike = self.strike(Verb::Add);
        // Held to the end of the call, as a runtime holds off its GC; and until the runtime has noted that it lives.
        let _gate = self.storm.gate.read().unwrap_or_else(PoisonError::into_inner);
        match self.storm.call(Verb::Add, target, &self.slot, &self.storm.network.conf(), strike)? {
            Ended::Well(result, _) => {
                self.storm.oracle.holds(&target.container, &ips(&result)?, &self.storm.tally);
                lock(&self.storm.living).insert(target.container.clone());
                Ok(Added::Yes(result))
            }
            Ended::Killed => {
                if !self.slot.addresses()?.is_empty() {
                    self.storm.tally.count("ADD killed with the address on the link");
                }
                Ok(Added::Unknown)
            }
            Ended::Badly(text) => {
                self.storm.tally.violation(format!("ADD of {} failed: {}", target.container, one_line(&text)));
                Ok(Added::No)
            }
        }
    }

    /// The container runs for a while, and keeps what it was given.
    fn live(&mut self, target: &Target, result: &str) -> Result<()> {
        sleep(Duration::from_micros(self.random.u64(0..20_000)));
        if self.random.f64() < 0.2 {
            let _gate = self.storm.gate.read().unwrap_or_else(PoisonError::into_inner);
            let conf = self.storm.network.with_result(result)?;
            self.storm.must(Verb::Check, target, &self.slot, &conf)?;
        }
        let (there, given) = (self.slot.addresses()?, ips(result)?);
        if self.storm.network.kind.has_links() && there != given {
            let container = &target.container;
            self.storm.tally.violation(format!("{container} was given {given:?} and its netns has {there:?}"));
        }
        Ok(())
    }

    /// From here on the runtime no longer believes that the container lives.
    fn let_go(&self, target: &Target) {
        // In this order: a GC in between must not free what the oracle still counts as held.
        self.storm.oracle.lets_go(&target.container);
        lock(&self.storm.living).remove(&target.container);
    }

    /// DEL until one was let live; now and then one more, which must be fine too.
    fn delete(&mut self, target: &Target) -> Result<()> {
        let conf = self.storm.network.conf();
        for _ in 0..STRIKES {
            let Some(strike) = self.strike(Verb::Del) else { break };
            let _gate = self.storm.gate.read().unwrap_or_else(PoisonError::into_inner);
            if let Ended::Badly(text) = self.storm.call(Verb::Del, target, &self.slot, &conf, Some(strike))? {
                self.storm.tally.violation(format!("DEL of {} failed: {}", target.container, one_line(&text)));
            }
        }
        let again = usize::from(self.random.f64() < 0.1);
        for _ in 0..=again {
            let _gate = self.storm.gate.read().unwrap_or_else(PoisonError::into_inner);
            self.storm.must(Verb::Del, target, &self.slot, &conf)?;
        }
        Ok(())
    }

    /// Half of the calls are struck.
    fn strike(&mut self, verb: Verb) -> Option<Duration> {
        self.random.bool().then(|| self.storm.tally.strike(verb, &mut self.random))
    }
}
