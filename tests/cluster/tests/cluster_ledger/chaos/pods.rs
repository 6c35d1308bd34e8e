//! Runtimes: each starts and ends pods on its node, one after the other, and its calls may be killed or stopped at any
//! instant.

use std::net::IpAddr;
use std::panic::resume_unwind;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::{self, sleep};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use fastrand::Rng;
use serde_json::Value;
use weft_bench::call::{Verb, addresses};
use weft_kit::netns::NetNs;
use weft_storm::oracle::Slot;
use weft_storm::strike::{Ended, Running, Strike, run};
use weft_storm::tally::lock;

use super::{Chaos, Fault, KEPT_PODS, keeper, stock_plugins};

/// The longest stop of a call, in milliseconds.
const PAUSE: u64 = 1500;
/// How many sandboxes a pod gets before its runtime gives up.
const SANDBOXES: usize = 6;

/// A sandbox of a pod. The oracle watches its namespace while it exists.
pub(super) struct Sandbox {
    container: String,
    uid: String,
    conf: Value,
    node: usize,
    netns: NetNs,
    pub(super) slot: Arc<Slot>,
}

/// One runtime.
pub(super) struct Life<'a, 'c> {
    chaos: &'a Chaos<'c>,
    index: usize,
    random: Rng,
    made: usize,
}

/// What a runtime knows after an ADD.
enum Added {
    Yes(Vec<IpAddr>),
    /// It failed, or was killed.
    No,
}

impl<'a, 'c> Life<'a, 'c> {
    pub(super) fn new(chaos: &'a Chaos<'c>, index: usize, random: Rng) -> Self {
        Self { chaos, index, random, made: 0 }
    }

    /// Starts and ends pods until the troubles are over.
    pub(super) fn run_pods(mut self) -> Result<()> {
        let mut number = 0;
        while self.chaos.goes_on() {
            number += 1;
            self.chaos.begun.fetch_add(1, Ordering::Relaxed);
            self.pod(&format!("pod-{}-{number}", self.index))?;
        }
        Ok(())
    }

    /// Runs one pod: sandboxes until one has its address, some time with it, and the end of all of them.
    fn pod(&mut self, uid: &str) -> Result<()> {
        let node = self.index % self.chaos.nodes.len();
        let mut conf = self.choose(&self.chaos.confs[node]).clone();
        if let Some(name) = conf.pointer_mut("/args/cni/ipam-claim-reference") {
            // Only pods of this runtime have it, one after the other.
            *name = keeper(self.index).into();
            self.chaos.tally.count(KEPT_PODS);
        }
        let mut old = Vec::new();
        let mut up = None;
        for _ in 0..SANDBOXES {
            let sandbox = self.sandbox(uid, node, &conf)?;
            if self.is_weft() && self.random.f64() < 0.12 {
                self.orphan(&sandbox)?;
                self.discard(sandbox);
                continue;
            }
            if let Added::Yes(given) = self.add(&sandbox)? {
                // Occasionally a sandbox dies, and the pod immediately gets another one.
                if self.is_weft() && self.random.f64() < 0.1 {
                    self.chaos.tally.count("sandboxes replaced");
                    self.chaos.oracle.lets_go(&sandbox.container);
                    old.push(sandbox);
                    continue;
                }
                up = Some((sandbox, given));
                break;
            }
            // Some runtimes delete a sandbox before they make the next one, some afterwards.
            if self.random.bool() {
                self.delete(&sandbox)?;
                self.discard(sandbox);
            } else {
                old.push(sandbox);
            }
            if !self.chaos.goes_on() {
                break;
            }
            sleep(Duration::from_millis(self.random.u64(0..200)));
        }
        if let Some((sandbox, given)) = up {
            sleep(Duration::from_millis(self.random.u64(0..600)));
            self.has_still(&sandbox, &given)?;
            old.push(sandbox);
        }
        // Some pods are left running for the quiet phase.
        let stays = !self.chaos.goes_on() && self.random.bool();
        for sandbox in old {
            if stays {
                lock(&self.chaos.left).push(sandbox);
            } else {
                self.delete(&sandbox)?;
                self.discard(sandbox);
            }
        }
        Ok(())
    }

    fn sandbox(&mut self, uid: &str, node: usize, conf: &Value) -> Result<Sandbox> {
        self.made += 1;
        let netns = NetNs::new("pod")?;
        let slot = self.chaos.oracle.slot(netns.path().to_owned())?;
        let container = format!("sandbox-{}-{}", self.index, self.made);
        Ok(Sandbox { container, uid: uid.to_owned(), conf: conf.clone(), node, netns, slot })
    }

    fn discard(&self, sandbox: Sandbox) {
        self.chaos.oracle.forget(&sandbox.slot);
    }

    fn add(&mut self, sandbox: &Sandbox) -> Result<Added> {
        let strike = self.choose_strike(Verb::Add);
        match self.chaos.call(Verb::Add, sandbox, strike)? {
            Ended::Well(result, _) => {
                let given = ips(&result)?;
                self.chaos.oracle.record_added(&sandbox.container, &given, &self.chaos.tally);
                Ok(Added::Yes(given))
            }
            Ended::Killed => Ok(Added::No),
            Ended::Badly(text) => {
                self.chaos.tally.count(&format!("ADD failed: {}", reason(&text)));
                Ok(Added::No)
            }
        }
    }

    /// A running pod keeps its addresses.
    fn has_still(&self, sandbox: &Sandbox, given: &[IpAddr]) -> Result<()> {
        let there = sandbox.slot.addresses()?;
        if there != given {
            let container = &sandbox.container;
            self.chaos.tally.violation(format!("kernel: {container} was given {given:?} and has {there:?}"));
        }
        Ok(())
    }

    /// Runs DELs, some of which are struck, and a last one that may complete.
    fn delete(&mut self, sandbox: &Sandbox) -> Result<()> {
        while let Some(strike) = self.choose_strike(Verb::Del) {
            self.chaos.oracle.lets_go(&sandbox.container);
            if let Ended::Badly(text) = self.chaos.call(Verb::Del, sandbox, Some(strike))? {
                self.chaos.failed_del(sandbox, &text);
            }
        }
        self.chaos.delete(sandbox)
    }

    /// Stops an ADD while its sandbox is deleted and the pod gets another one. Whatever it does when it continues: the
    /// other sandbox keeps its addresses, and a last DEL leaves nothing.
    fn orphan(&mut self, sandbox: &Sandbox) -> Result<()> {
        self.chaos.tally.count("ADDs beside a DEL");
        let after = self.chaos.tally.strike_time(Verb::Add, &mut self.random);
        let length = Duration::from_millis(self.random.u64(1..=PAUSE));
        let mut add = self.chaos.start(Verb::Add, sandbox)?;
        let next = self.sandbox(&sandbox.uid, sandbox.node, &sandbox.conf)?;
        let ended = thread::scope(|scope| -> Result<Ended> {
            let adding = scope.spawn(move || {
                add.pause(after, length)?;
                add.end()
            });
            sleep(after);
            let beside = self.replace_sandbox(sandbox, &next);
            let ended = adding.join().unwrap_or_else(|panic| resume_unwind(panic));
            beside.and(ended)
        })?;
        if let Ended::Killed = ended {
            bail!("the ADD of {} was killed by somebody else", sandbox.container);
        }
        self.delete(sandbox)?;
        self.delete(&next)?;
        self.discard(next);
        Ok(())
    }

    fn replace_sandbox(&mut self, sandbox: &Sandbox, next: &Sandbox) -> Result<()> {
        self.chaos.must_del(sandbox)?;
        if let Added::Yes(given) = self.add(next)? {
            sleep(Duration::from_millis(self.random.u64(0..PAUSE)));
            self.has_still(next, &given)?;
        }
        Ok(())
    }

    /// Four of ten calls are struck: most of those are killed, the others stopped for a while.
    fn choose_strike(&mut self, verb: Verb) -> Option<Strike> {
        if !self.is_weft() || self.random.f64() < 0.6 {
            return None;
        }
        let after = self.chaos.tally.strike_time(verb, &mut self.random);
        if self.random.f64() < 0.7 {
            return Some(Strike::Kill(after));
        }
        self.chaos.tally.count("calls stopped");
        Some(Strike::Pause(after, Duration::from_millis(self.random.u64(1..=PAUSE))))
    }

    /// Debian's plugins cannot handle strikes.
    fn is_weft(&self) -> bool {
        self.chaos.plan.fault != Some(Fault::Stock)
    }

    fn choose<'b, T>(&mut self, from: &'b [T]) -> &'b T {
        &from[self.random.usize(..from.len())]
    }
}

impl Chaos<'_> {
    /// Runs DEL of a sandbox that may complete; afterwards its namespace is empty.
    pub(super) fn delete(&self, sandbox: &Sandbox) -> Result<()> {
        self.must_del(sandbox)?;
        let left = sandbox.slot.addresses()?;
        if !left.is_empty() {
            self.tally.violation(format!("kernel: {} is deleted and still has {left:?}", sandbox.container));
        }
        Ok(())
    }

    fn must_del(&self, sandbox: &Sandbox) -> Result<()> {
        self.oracle.lets_go(&sandbox.container);
        match self.call(Verb::Del, sandbox, None)? {
            Ended::Well(..) => Ok(()),
            Ended::Badly(text) => {
                self.failed_del(sandbox, &text);
                Ok(())
            }
            Ended::Killed => bail!("DEL of {} was killed by somebody else", sandbox.container),
        }
    }

    fn failed_del(&self, sandbox: &Sandbox, text: &str) {
        self.tally.violation(format!("DEL of {} failed: {}", sandbox.container, reason(text)));
    }

    fn call(&self, verb: Verb, sandbox: &Sandbox, strike: Option<Strike>) -> Result<Ended> {
        let ended = run(self.command(verb, sandbox)?, &sandbox.conf.to_string(), strike, |start| {
            let _guard = sandbox.slot.lock_netlink();
            start()
        })?;
        let how = match &ended {
            Ended::Well(_, took) => {
                self.tally.took(verb, *took);
                "done"
            }
            Ended::Badly(_) => "failed",
            Ended::Killed => "killed",
        };
        self.tally.count(&format!("{} {how}", verb.name()));
        Ok(ended)
    }

    fn start(&self, verb: Verb, sandbox: &Sandbox) -> Result<Running> {
        Running::start(self.command(verb, sandbox)?, &sandbox.conf.to_string(), |start| {
            let _guard = sandbox.slot.lock_netlink();
            start()
        })
    }

    fn command(&self, verb: Verb, sandbox: &Sandbox) -> Result<Command> {
        let caller = &self.callers[sandbox.node];
        let name = sandbox.conf["type"].as_str().context("a type")?;
        let mut call =
            caller.call(verb.name(), (&sandbox.container, &sandbox.uid), sandbox.netns.path(), &sandbox.conf);
        let bin: PathBuf = match self.plan.fault {
            Some(Fault::Stock) => stock_plugins()?,
            _ => caller.bin.clone(),
        };
        call.path = Some(bin.display().to_string());
        let mut command = call.command(&bin.join(name));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        caller.place.apply(&mut command);
        Ok(command)
    }
}

fn ips(result: &str) -> Result<Vec<IpAddr>> {
    addresses(result)?.iter().map(|text| text.parse().with_context(|| text.clone())).collect()
}

/// Returns code and text of a failed call, without parts that vary.
fn reason(text: &str) -> String {
    let error: Value = serde_json::from_str(text).unwrap_or_default();
    let Some(code) = error["code"].as_u64() else { return text.split_whitespace().collect::<Vec<_>>().join(" ") };
    let words =
        format!("{} {}", error["msg"].as_str().unwrap_or_default(), error["details"].as_str().unwrap_or_default());
    let words = words.split_whitespace().filter(|word| !word.chars().any(|letter| letter.is_ascii_digit()));
    format!("code {code}: {}", words.collect::<Vec<_>>().join(" "))
}
