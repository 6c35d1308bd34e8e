//! One of the storm's workers: it acts as the runtime of one container after another.

use std::panic::resume_unwind;
use std::sync::{Arc, PoisonError};
use std::thread::{self, sleep};
use std::time::Duration;

use anyhow::Result;
use weft_bench::call::{Target, Verb};
use weft_storm::oracle::Slot;
use weft_storm::strike::{Ended, Strike};
use weft_storm::tally::lock;

use crate::collector;
use crate::storm::{Abandoned, Storm, ips, one_line};

/// The most attachments left for GC; together with living ones they must fit into the pool.
const ABANDONED: usize = 16;

/// The longest stop of a call, in milliseconds.
const PAUSE: u64 = 100;

/// The share of attachments whose runtime is restarted during their ADD.
const ORPHANS: f64 = 0.15;

/// The most strikes on one DEL before it runs undisturbed.
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
    /// The ADD was killed.
    Unknown,
    /// It failed although it was not struck: a violation, which is reported.
    No,
}

// === impl Worker ===

impl<'a> Worker<'a> {
    pub(crate) fn new(storm: &'a Storm<'a>, storm_number: usize, index: usize, seed: u64) -> Result<Self> {
        let slot = storm.slot()?;
        let name = format!("s{storm_number}w{index}");
        Ok(Self { storm, name, random: fastrand::Rng::with_seed(seed), slot })
    }

    /// Runs containers until no rounds are left. The last attachment stays as the storm left it.
    pub(crate) fn work(mut self) -> Result<()> {
        let mut number = 0;
        while self.storm.take_round() {
            number += 1;
            let target = self.storm.target(&format!("{}-{number}", self.name), &self.slot);
            self.run_lifecycle(&target)?;
        }
        let target = self.storm.target(&format!("{}-last", self.name), &self.slot);
        self.add(&target)?;
        lock(&self.storm.last).push(Abandoned { target, slot: self.slot });
        Ok(())
    }

    /// Runs one container: ADD, perhaps CHECK, DEL, each perhaps killed.
    fn run_lifecycle(&mut self, target: &Target) -> Result<()> {
        if self.storm.subject.orphans && self.random.f64() < ORPHANS {
            return self.orphan(target);
        }
        match self.add(target)? {
            Added::Yes(result) => self.keep_running(target, &result)?,
            Added::Unknown => {
                let room = lock(&self.storm.abandoned).len() < ABANDONED;
                if self.storm.subject.collects && room && self.random.f64() < 0.3 {
                    let slot = Arc::clone(&self.slot);
                    lock(&self.storm.abandoned).push(Abandoned { target: target.clone(), slot });
                    self.slot = self.storm.slot()?;
                    return Ok(());
                }
            }
            Added::No => {}
        }
        if self.random.f64() < 0.15 {
            // The sandbox dies before DEL.
            self.storm.tally.count("netns gone before DEL");
            self.let_go(target);
            self.storm.discard(&self.slot)?;
            self.delete(target)?;
            // It may have ended with the sandbox.
            self.storm.network.take_away(&target.container)?;
            self.slot = self.storm.slot()?;
            return Ok(());
        }
        self.let_go(target);
        self.delete(target)?;
        self.storm.must_be_bare(target, &self.slot)
    }

    fn add(&mut self, target: &Target) -> Result<Added> {
        let strike = self.choose_strike(Verb::Add);
        // Held to the end of the call, as a runtime delays its GC, and until the runtime has noted that the container
        // lives.
        let _gate = self.storm.gate.read().unwrap_or_else(PoisonError::into_inner);
        match self.storm.call(Verb::Add, target, &self.slot, &self.storm.network.conf(), strike)? {
            Ended::Well(result, _) => {
                self.storm.oracle.record_added(&target.container, &ips(&result)?, &self.storm.tally);
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

    /// The container runs for a while, and keeps its addresses.
    fn keep_running(&mut self, target: &Target, result: &str) -> Result<()> {
        sleep(Duration::from_micros(self.random.u64(0..20_000)));
        if self.random.f64() < 0.2 {
            let _gate = self.storm.gate.read().unwrap_or_else(PoisonError::into_inner);
            let conf = self.storm.network.with_result(result)?;
            self.storm.must_call(Verb::Check, target, &self.slot, &conf)?;
        }
        let (there, given) = (self.slot.addresses()?, ips(result)?);
        if self.storm.network.kind.has_links() && there != given {
            let container = &target.container;
            self.storm.tally.violation(format!("{container} was given {given:?} and its netns has {there:?}"));
        }
        Ok(())
    }

    /// Notes that the runtime no longer considers the container alive.
    fn let_go(&self, target: &Target) {
        // In this order: a GC in between must not release what the oracle still counts as held.
        self.storm.oracle.lets_go(&target.container);
        lock(&self.storm.living).remove(&target.container);
    }

    /// Repeats DEL until one was not struck; now and then calls it once more, which must also succeed.
    fn delete(&mut self, target: &Target) -> Result<()> {
        let conf = self.storm.network.conf();
        for _ in 0..STRIKES {
            let Some(strike) = self.choose_strike(Verb::Del) else { break };
            let _gate = self.storm.gate.read().unwrap_or_else(PoisonError::into_inner);
            if let Ended::Badly(text) = self.storm.call(Verb::Del, target, &self.slot, &conf, Some(strike))? {
                self.storm.tally.violation(format!("DEL of {} failed: {}", target.container, one_line(&text)));
            }
        }
        let again = usize::from(self.random.f64() < 0.1);
        for _ in 0..=again {
            let _gate = self.storm.gate.read().unwrap_or_else(PoisonError::into_inner);
            self.storm.must_call(Verb::Del, target, &self.slot, &conf)?;
        }
        Ok(())
    }

    /// Strikes half of the calls: kills most of them, and stops the others for a while.
    fn choose_strike(&mut self, verb: Verb) -> Option<Strike> {
        if self.random.bool() {
            return None;
        }
        let after = self.storm.tally.strike_time(verb, &mut self.random);
        if self.random.f64() < 0.7 {
            return Some(Strike::Kill(after));
        }
        self.storm.tally.count("calls stopped");
        Some(Strike::Pause(after, self.pause()))
    }

    /// Returns how long a call is stopped: many concurrent calls end meanwhile, and none times out.
    fn pause(&mut self) -> Duration {
        Duration::from_millis(self.random.u64(1..=PAUSE))
    }

    /// Restarts a runtime while its ADD runs: nobody waits for the ADD any longer, and it is deleted, or collected, at
    /// any point. Whichever ends first, the ledger knows every address that is left.
    fn orphan(&mut self, target: &Target) -> Result<()> {
        let by_gc = self.random.f64() < 0.3;
        let after = self.storm.tally.strike_time(Verb::Add, &mut self.random);
        let length = self.pause();
        // It does not delay GC.
        let mut add = self.storm.start_add(target, &self.slot)?;
        let ended = thread::scope(|scope| {
            let adding = scope.spawn(move || {
                add.pause(after, length)?;
                add.end()
            });
            sleep(after);
            let removed = if by_gc { self.collect_beside() } else { self.delete_beside(target) };
            let ended = adding.join().unwrap_or_else(|panic| resume_unwind(panic));
            removed.and(ended)
        })?;
        let what = if by_gc { "orphaned ADDs beside GC" } else { "orphaned ADDs beside DEL" };
        self.storm.tally.count(what);
        let there = self.slot.addresses()?;
        let container = &target.container;
        match &ended {
            Ended::Well(result, _) => {
                if !there.is_empty() && there != ips(result)? {
                    self.storm.tally.violation(format!("{container}, an orphan, was given {result} and has {there:?}"));
                }
                // All of it came after the DEL, or all of it before.
                self.storm.tally.count(if there.is_empty() {
                    "orphans removed after their ADD"
                } else {
                    "orphans that live"
                });
            }
            // Its error says that it was deleted meanwhile: then it has left nothing.
            Ended::Badly(text) if !by_gc && is_removed(text) => {
                self.storm.tally.count("orphans that learned of their DEL");
                if !there.is_empty() {
                    self.storm.tally.violation(format!("{container} was deleted under its ADD and has {there:?}"));
                }
            }
            other => self.storm.tally.violation(format!("the orphaned ADD of {container} ended so: {other:?}")),
        }
        self.let_go(target);
        self.delete(target)?;
        self.storm.must_be_bare(target, &self.slot)
    }

    /// Runs the DEL of the runtime's next process, now and then twice.
    fn delete_beside(&mut self, target: &Target) -> Result<()> {
        let again = usize::from(self.random.f64() < 0.3);
        for _ in 0..=again {
            let _gate = self.storm.gate.read().unwrap_or_else(PoisonError::into_inner);
            self.storm.must_call(Verb::Del, target, &self.slot, &self.storm.network.conf())?;
        }
        Ok(())
    }

    fn collect_beside(&self) -> Result<()> {
        let _gate = self.storm.gate.write().unwrap_or_else(PoisonError::into_inner);
        let living = lock(&self.storm.living).clone();
        collector::collect(self.storm, &living, None)
    }
}

/// Returns whether an ADD failed because it was deleted meanwhile: try again (code 11).
fn is_removed(document: &str) -> bool {
    let code = |value: serde_json::Value| value.get("code").and_then(serde_json::Value::as_u64);
    serde_json::from_str(document).ok().and_then(code) == Some(11)
}
