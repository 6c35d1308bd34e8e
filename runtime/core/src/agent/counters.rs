//! Counters of one-shot processes: each call appends a few lines to a file that the agent made, and the agent sums them
//! up.
//!
//! On a node without an agent the file does not exist, and a call writes nothing. All lines of a call are one write, so
//! a count in the middle of an ADD costs no system call. A short write with `O_APPEND` is atomic; a lost line is merely a
//! lost count.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::phases::{self, Phase};

/// The file in the state directory.
const FILE: &str = "counters";
/// The name under which the agent reads a full file.
const TAKEN: &str = "counters.taken";
/// Maximum size: a larger file means that the agent has ended and nobody reads it.
const LARGEST: u64 = 1 << 20;
/// The phase of the time that belongs to no other.
const OTHER: &str = "other";
/// Maximum number of outcomes that are counted separately.
const DISTINCT: usize = 2_000;

/// Verb, network, code.
pub type Outcome = (String, String, String);

/// The counts of a process that are not written yet.
#[derive(Debug, Default)]
pub struct Counts(String);

/// The first word of a line about a policy, where others have a verb.
const POLICY: &str = "policy";
/// The first word of a line about a fallback.
const FALLBACK: &str = "fallback";
/// The first word of a line about addresses in use.
const CONFLICT: &str = "conflict";

// === impl Counts ===

impl Counts {
    /// Counts one call.
    pub fn call(&mut self, verb: &str, network: &str, code: u32, took: Duration) {
        self.call_with_phases((verb, network, code), took, phases::taken());
    }

    fn call_with_phases(&mut self, (verb, network, code): (&str, &str, u32), took: Duration, phases: [Duration; 4]) {
        let phases: String = phases.iter().map(|took| format!("\t{}", took.as_micros())).collect();
        self.line(&format!("{verb}\t{}\t{code}\t{}{phases}", short_name(network), took.as_micros()));
    }

    /// Counts one decision of a policy that counts, with its fuel. The outcome is one word.
    pub fn decision(&mut self, network: &str, policy: &str, outcome: &'static str, fuel: u64) {
        self.line_of_policy(network, policy, &format!("active\t{outcome}\t{fuel}"));
    }

    /// Counts an ADD for which the fallback decided, with the reason as one word.
    pub fn fallback(&mut self, network: &str, reason: &'static str) {
        self.line(&format!("{FALLBACK}\t{}\t{reason}", short_name(network)));
    }

    /// Counts one answer of a policy in a network with a monitor: its part (`active`, `monitor`, or `compared` for their
    /// comparison) and the answer as one word.
    pub fn policy(&mut self, network: &str, policy: &str, part: &'static str, answer: &'static str) {
        self.line_of_policy(network, policy, &format!("{part}\t{answer}"));
    }

    /// Counts addresses that somebody on the wire used.
    pub fn conflicts(&mut self, network: &str, count: usize) {
        self.line(&format!("{CONFLICT}\t{}\t{count}", short_name(network)));
    }

    fn line_of_policy(&mut self, network: &str, policy: &str, rest: &str) {
        let plain = |text: &str| text.chars().filter(|c| !c.is_control()).take(256).collect::<String>();
        self.line(&format!("{POLICY}\t{}\t{}\t{rest}", plain(network), plain(policy)));
    }

    fn line(&mut self, line: &str) {
        self.0.push_str(line);
        self.0.push('\n');
    }

    /// Writes the counts so far with one write, if an agent collects counts. Fails silently: a call must not fail
    /// because of its counts.
    pub fn write(&mut self, state: &Path) {
        let lines = std::mem::take(&mut self.0);
        if lines.is_empty() {
            return;
        }
        let Ok(mut file) = OpenOptions::new().append(true).open(state.join(FILE)) else { return };
        if file.metadata().is_ok_and(|meta| meta.len() <= LARGEST) {
            file.write_all(lines.as_bytes()).ok();
        }
    }
}

fn short_name(network: &str) -> String {
    network.chars().filter(|c| !c.is_control()).take(64).collect()
}

/// Network, policy, part, answer.
pub type PolicyAnswer = [String; 4];

/// The counts since the agent started.
#[derive(Debug, Default)]
pub struct Totals {
    requests: RefCell<BTreeMap<Outcome, u64>>,
    durations: RefCell<BTreeMap<String, (u64, f64)>>,
    /// Seconds by verb and phase.
    phases: RefCell<BTreeMap<(String, &'static str), f64>>,
    policies: RefCell<BTreeMap<PolicyAnswer, u64>>,
    /// Decisions and fuel by network and policy.
    fuel: RefCell<BTreeMap<(String, String), (u64, u64)>>,
    /// ADDs by network and reason.
    fallbacks: RefCell<BTreeMap<(String, String), u64>>,
    conflicts: RefCell<BTreeMap<String, u64>>,
}

/// The agent's side: collects the counts of calls.
#[derive(Debug)]
pub struct Collector {
    file: PathBuf,
    taken: PathBuf,
}

// === impl Collector ===

impl Collector {
    /// Creates the file, so that calls begin to count.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn open(state: &Path) -> io::Result<Self> {
        let collector = Self { file: state.join(FILE), taken: state.join(TAKEN) };
        collector.make()?;
        Ok(collector)
    }

    fn make(&self) -> io::Result<()> {
        OpenOptions::new().create(true).append(true).mode(crate::private::FILE).open(&self.file).map(drop)
    }

    /// Adds the counts since the last collection. A call that opened the file before it was renamed may be counted next
    /// time or not at all.
    ///
    /// # Errors
    /// The files cannot be read or written.
    pub fn collect(&self, totals: &Totals) -> io::Result<()> {
        // The file of the last collection is complete by now.
        match fs::read_to_string(&self.taken) {
            Ok(text) => {
                text.lines().for_each(|line| totals.add(line));
                fs::remove_file(&self.taken)?;
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        if fs::metadata(&self.file).is_ok_and(|meta| meta.len() > 0) {
            fs::rename(&self.file, &self.taken)?;
        }
        self.make()
    }
}

// === impl Totals ===

impl Totals {
    fn add(&self, line: &str) {
        if let Some(answer) = line.strip_prefix(POLICY).and_then(|rest| rest.strip_prefix('\t')) {
            self.add_policy(answer);
            return;
        }
        if let Some(fallback) = line.strip_prefix(FALLBACK).and_then(|rest| rest.strip_prefix('\t')) {
            self.add_fallback(fallback);
            return;
        }
        if let Some(conflict) = line.strip_prefix(CONFLICT).and_then(|rest| rest.strip_prefix('\t')) {
            self.add_conflict(conflict);
            return;
        }
        let mut parts = line.split('\t');
        let (Some(verb), Some(network), Some(code), Some(micros)) =
            (parts.next(), parts.next(), parts.next(), parts.next().and_then(|text| text.parse::<u32>().ok()))
        else {
            return;
        };
        let mut requests = self.requests.borrow_mut();
        let mut outcome = (verb.to_owned(), network.to_owned(), code.to_owned());
        if requests.len() >= DISTINCT && !requests.contains_key(&outcome) {
            outcome.1 = "others".to_owned();
        }
        *requests.entry(outcome).or_default() += 1;
        let mut durations = self.durations.borrow_mut();
        let (count, seconds) = durations.entry(verb.to_owned()).or_default();
        *count += 1;
        *seconds += f64::from(micros) / 1e6;
        drop(durations);
        // An older weft does not say them.
        let phases = parts.map(|text| text.parse::<u32>().unwrap_or_default());
        self.add_phases(verb, micros, phases);
    }

    /// Adds the phases of a call. The rest of its time is `other`, so that the phases add up to the whole.
    fn add_phases(&self, verb: &str, whole: u32, phases: impl Iterator<Item = u32>) {
        let mut sums = self.phases.borrow_mut();
        let mut other = whole;
        for (phase, micros) in Phase::ALL.into_iter().zip(phases) {
            // Threads may have worked at the same time.
            let micros = micros.min(other);
            other -= micros;
            *sums.entry((verb.to_owned(), phase.name())).or_default() += f64::from(micros) / 1e6;
        }
        *sums.entry((verb.to_owned(), OTHER)).or_default() += f64::from(other) / 1e6;
    }

    fn add_fallback(&self, line: &str) {
        let Some((network, reason)) = line.split_once('\t') else { return };
        let key = (network.to_owned(), reason.to_owned());
        let mut fallbacks = self.fallbacks.borrow_mut();
        if fallbacks.len() < DISTINCT || fallbacks.contains_key(&key) {
            *fallbacks.entry(key).or_default() += 1;
        }
    }

    fn add_policy(&self, line: &str) {
        let mut parts: Vec<String> = line.split('\t').map(ToOwned::to_owned).collect();
        let fuel = if parts.len() > 4 { parts.pop().and_then(|text| text.parse::<u64>().ok()) } else { None };
        if let (Some(fuel), [network, policy, ..]) = (fuel, parts.as_slice()) {
            let key = (network.clone(), policy.clone());
            let mut sums = self.fuel.borrow_mut();
            if sums.len() < DISTINCT || sums.contains_key(&key) {
                let (count, sum) = sums.entry(key).or_default();
                *count += 1;
                *sum = sum.saturating_add(fuel);
            }
        }
        let Ok(answer) = PolicyAnswer::try_from(parts) else { return };
        let mut policies = self.policies.borrow_mut();
        if policies.len() < DISTINCT || policies.contains_key(&answer) {
            *policies.entry(answer).or_default() += 1;
        }
    }

    fn add_conflict(&self, line: &str) {
        let Some((network, count)) = line.split_once('\t') else { return };
        let Ok(count) = count.parse::<u32>() else { return };
        let mut conflicts = self.conflicts.borrow_mut();
        if conflicts.len() < DISTINCT || conflicts.contains_key(network) {
            *conflicts.entry(network.to_owned()).or_default() += u64::from(count);
        }
    }

    /// Returns how many addresses somebody on the wire used, by network.
    #[must_use]
    pub fn conflicts(&self) -> Vec<(String, u64)> {
        self.conflicts.borrow().iter().map(|(network, count)| (network.clone(), *count)).collect()
    }

    /// Returns the seconds spent, by verb and phase.
    #[must_use]
    pub fn phases(&self) -> Vec<((String, &'static str), f64)> {
        self.phases.borrow().iter().map(|(phase, seconds)| (phase.clone(), *seconds)).collect()
    }

    /// Returns decisions and their fuel, by network and policy.
    #[must_use]
    pub fn fuel(&self) -> Vec<((String, String), (u64, u64))> {
        self.fuel.borrow().iter().map(|(policy, sums)| (policy.clone(), *sums)).collect()
    }

    /// Returns ADDs for which a fallback decided, by network and reason.
    #[must_use]
    pub fn fallbacks(&self) -> Vec<((String, String), u64)> {
        self.fallbacks.borrow().iter().map(|(reason, count)| (reason.clone(), *count)).collect()
    }

    /// Returns the answers of policies.
    #[must_use]
    pub fn policies(&self) -> Vec<(PolicyAnswer, u64)> {
        self.policies.borrow().iter().map(|(answer, count)| (answer.clone(), *count)).collect()
    }

    /// Returns the calls by verb, network and code.
    #[must_use]
    pub fn requests(&self) -> Vec<(Outcome, u64)> {
        self.requests.borrow().iter().map(|(outcome, count)| (outcome.clone(), *count)).collect()
    }

    /// Returns the number of calls and the seconds spent, by verb.
    #[must_use]
    pub fn durations(&self) -> Vec<(String, (u64, f64))> {
        self.durations.borrow().iter().map(|(verb, sum)| (verb.clone(), *sum)).collect()
    }
}

#[cfg(test)]
mod tests;
