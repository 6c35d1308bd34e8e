//! One storm: the state that its parts share, and its phases.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::panic::resume_unwind;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, RwLock};
use std::thread;

use anyhow::{Context, Result, bail};
use weft_bench::call::{Target, Verb, addresses};
use weft_bench::scene::Scene;
use weft_storm::oracle::{Oracle, Slot};
use weft_storm::strike::{Ended, Running, Strike, run};
use weft_storm::tally::{Tally, lock};

use crate::clean::{Host, check, hand_out_pool};
use crate::collector;
use crate::network::{Kind, Network};
use crate::subject::Subject;
use crate::worker::Worker;

/// An attachment that its runtime has abandoned.
#[derive(Debug)]
pub(crate) struct Abandoned {
    pub(crate) target: Target,
    pub(crate) slot: Arc<Slot>,
}

/// The state that the parts of a storm share.
#[derive(Debug)]
pub(crate) struct Storm<'a> {
    pub(crate) scene: &'a Scene,
    pub(crate) subject: Subject,
    pub(crate) network: Network,
    pub(crate) oracle: Oracle,
    pub(crate) tally: Tally,
    /// A runtime runs GC alone: calls take it shared, GC takes it exclusively.
    pub(crate) gate: RwLock<()>,
    /// Containers that are alive according to the runtime.
    pub(crate) living: Mutex<BTreeSet<String>>,
    /// Attachments left for GC.
    pub(crate) abandoned: Mutex<Vec<Abandoned>>,
    /// Attachments that existed, dead or alive, when the storm ended.
    pub(crate) last: Mutex<Vec<Abandoned>>,
    rounds: AtomicUsize,
    /// Number of netns made so far.
    made: AtomicUsize,
    seed: u64,
}

/// How a storm ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// DEL for every attachment that ever existed.
    Del,
    /// One GC with an empty list.
    Gc,
}

// === impl Storm ===

impl<'a> Storm<'a> {
    /// Prepares the host.
    ///
    /// # Errors
    /// If it cannot be prepared.
    pub(crate) fn new(scene: &'a Scene, subject: Subject, kind: Kind, seed: u64) -> Result<Self> {
        let network = Network::new(kind, &subject, scene)?;
        Ok(Self {
            scene,
            subject,
            network,
            oracle: Oracle::default(),
            tally: Tally::default(),
            gate: RwLock::default(),
            living: Mutex::default(),
            abandoned: Mutex::default(),
            last: Mutex::default(),
            rounds: AtomicUsize::new(0),
            made: AtomicUsize::new(0),
            seed,
        })
    }

    /// Runs all phases: calm, storm, DEL, storm, GC, and allocating the whole pool.
    ///
    /// # Errors
    /// If something other than the subject fails.
    pub(crate) fn run(&self, rounds: usize, workers: usize) -> Result<()> {
        let before = self.measure_baseline()?;
        let ends: &[End] = if self.subject.collects { &[End::Del, End::Gc] } else { &[End::Del] };
        for (number, end) in ends.iter().enumerate() {
            self.blow(rounds / ends.len(), workers, number)?;
            let when = match end {
                End::Del => "after DEL of all",
                End::Gc => "after GC of all",
            };
            self.end(*end)?;
            check(self, &before, when)?;
        }
        hand_out_pool(self)?;
        check(self, &before, "after the pool was handed out")?;
        let mut needed = vec!["ADD killed", "DEL killed", "calls stopped"];
        if self.subject.orphans {
            needed.extend(["orphaned ADDs beside DEL", "orphaned ADDs beside GC"]);
        }
        for what in needed {
            if !self.tally.is_enough() && self.tally.counted(what) == 0 {
                bail!("{rounds} rounds without this: {what}; that is no storm");
            }
        }
        Ok(())
    }

    /// Makes one quiet attachment: it shows how long calls take, and the state of a clean host once shared things
    /// exist.
    fn measure_baseline(&self) -> Result<Host> {
        let slot = self.slot()?;
        for number in 0..3 {
            let target = self.target(&format!("calm-{number}"), &slot);
            let result = match self.call(Verb::Add, &target, &slot, &self.network.conf(), None)? {
                Ended::Well(result, _) => result,
                other => bail!("ADD failed before anything was killed: {other:?}"),
            };
            if self.network.kind.has_links() && slot.addresses()? != ips(&result)? {
                bail!("the kernel has {:?} where the result is {result}", slot.addresses()?);
            }
            match self.call(Verb::Del, &target, &slot, &self.network.conf(), None)? {
                Ended::Well(..) => {}
                other => bail!("DEL failed before anything was killed: {other:?}"),
            }
            self.must_be_bare(&target, &slot)?;
        }
        if self.subject.collects {
            collector::collect(self, &BTreeSet::new(), None)?;
        }
        self.discard(&slot)?;
        let host = Host::look()?;
        let left = self.subject.claims_left()?;
        if !left.is_empty() {
            bail!("claims are left before anything was killed: {}", left.join(", "));
        }
        Ok(host)
    }

    /// Runs the storm itself. At its end some attachments live, some are half made, some half deleted.
    fn blow(&self, rounds: usize, workers: usize, number: usize) -> Result<()> {
        self.rounds.store(rounds, Ordering::Relaxed);
        self.oracle.restart();
        thread::scope(|scope| {
            let watcher = scope.spawn(|| self.oracle.watch(&self.tally));
            let seed = |index: usize| self.seed.wrapping_add((number * 1000 + index) as u64);
            let mut threads: Vec<_> = (0..workers)
                .map(|index| scope.spawn(move || Worker::new(self, number, index, seed(index))?.work()))
                .collect();
            if self.subject.collects {
                threads.push(scope.spawn(move || collector::work(self, seed(workers))));
            }
            let outcome =
                threads.into_iter().try_for_each(|thread| thread.join().unwrap_or_else(|panic| resume_unwind(panic)));
            self.oracle.stop();
            watcher.join().unwrap_or_else(|panic| resume_unwind(panic)).and(outcome)
        })?;
        if self.oracle.sweeps() == 0 {
            bail!("the oracle did not look once");
        }
        Ok(())
    }

    /// Deletes what is left.
    fn end(&self, end: End) -> Result<()> {
        let mut left = std::mem::take(&mut *lock(&self.abandoned));
        left.append(&mut lock(&self.last));
        lock(&self.living).clear();
        match end {
            End::Del => {
                for Abandoned { target, slot } in &left {
                    self.oracle.lets_go(&target.container);
                    self.must_call(Verb::Del, target, slot, &self.network.conf())?;
                }
            }
            End::Gc => {
                left.iter().for_each(|abandoned| self.oracle.lets_go(&abandoned.target.container));
                collector::collect(self, &BTreeSet::new(), None)?;
            }
        }
        for Abandoned { target, slot } in &left {
            self.must_be_bare(target, slot)?;
            self.discard(slot)?;
        }
        Ok(())
    }

    /// Makes a new netns, watched from now on.
    pub(crate) fn slot(&self) -> Result<Arc<Slot>> {
        let number = self.made.fetch_add(1, Ordering::Relaxed);
        self.oracle.slot(self.scene.netns(&format!("pod{number}"))?)
    }

    /// Removes a netns, as when a sandbox dies: its path is gone, and the kernel ends it with its last user.
    pub(crate) fn discard(&self, slot: &Arc<Slot>) -> Result<()> {
        self.oracle.forget(slot);
        self.scene.remove_netns(&slot.netns)
    }

    /// Makes a call that is not struck, which must succeed.
    pub(crate) fn must_call(&self, verb: Verb, target: &Target, slot: &Slot, conf: &str) -> Result<Option<String>> {
        match self.call(verb, target, slot, conf, None)? {
            Ended::Well(result, _) => Ok(Some(result)),
            Ended::Badly(text) => {
                self.tally.violation(format!("{} of {} failed: {}", verb.name(), target.container, one_line(&text)));
                Ok(None)
            }
            Ended::Killed => bail!("{} of {} was killed by somebody else", verb.name(), target.container),
        }
    }

    /// Checks that after DEL or GC nothing of an attachment is in its netns.
    pub(crate) fn must_be_bare(&self, target: &Target, slot: &Slot) -> Result<()> {
        let left = slot.addresses()?;
        if !left.is_empty() {
            self.tally.violation(format!("{} is deleted and its netns still has {left:?}", target.container));
        }
        if !self.network.take_away(&target.container)? {
            self.tally.violation(format!("{} is deleted and its device is not back", target.container));
        }
        Ok(())
    }

    /// Makes a call, struck or not.
    pub(crate) fn call(
        &self,
        verb: Verb,
        target: &Target,
        slot: &Slot,
        conf: &str,
        strike: Option<Strike>,
    ) -> Result<Ended> {
        let command = self.subject.plugins.command(self.network.kind.plugin(), verb, target);
        let conf = self.network.conf_of(conf, &target.container)?;
        let ended = run(command, &conf, strike, |start| {
            let _guard = slot.lock_netlink();
            start()
        })?;
        self.count_call(verb, &ended);
        Ok(ended)
    }

    /// Starts an ADD of a runtime that will not wait for it.
    pub(crate) fn start_add(&self, target: &Target, slot: &Slot) -> Result<Running> {
        let command = self.subject.plugins.command(self.network.kind.plugin(), Verb::Add, target);
        let own = self.network.conf();
        let conf = self.network.conf_of(&own, &target.container)?;
        Running::start(command, &conf, |start| {
            let _guard = slot.lock_netlink();
            start()
        })
    }

    /// Calls the network's IPAM plugin.
    pub(crate) fn call_ipam(&self, verb: Verb, target: &Target) -> Result<Ended> {
        let command = self.subject.plugins.command(Kind::Ipam.plugin(), verb, target);
        run(command, &self.network.conf(), None, |start| start())
    }

    /// Counts a call and its duration.
    pub(crate) fn count_call(&self, verb: Verb, ended: &Ended) {
        let how = match ended {
            Ended::Well(_, took) => {
                self.tally.took(verb, *took);
                "done"
            }
            Ended::Badly(_) => "failed",
            Ended::Killed => "killed",
        };
        self.tally.count(&format!("{} {how}", verb.name()));
    }

    pub(crate) fn target(&self, container: &str, slot: &Slot) -> Target {
        Target { container: container.to_owned(), netns: slot.netns.clone(), ifname: "eth0".to_owned() }
    }

    /// Takes one of the remaining rounds.
    pub(crate) fn take_round(&self) -> bool {
        let take = |left: usize| left.checked_sub(1);
        !self.tally.is_enough() && self.rounds.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok()
    }

    /// Returns whether rounds are left.
    pub(crate) fn goes_on(&self) -> bool {
        !self.tally.is_enough() && self.rounds.load(Ordering::Relaxed) > 0
    }
}

/// Returns the addresses of a result.
pub(crate) fn ips(result: &str) -> Result<Vec<IpAddr>> {
    let texts = addresses(result)?;
    texts.iter().map(|text| text.parse().with_context(|| format!("not an address in a result: {text}"))).collect()
}

pub(crate) fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
