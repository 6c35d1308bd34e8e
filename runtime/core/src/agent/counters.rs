//! Counters of one-shot processes: each call appends one line to a file that the agent made, and the agent sums them
//! up.
//!
//! On a node without an agent the file does not exist, and a call writes nothing. A write of one short line with
//! `O_APPEND` is atomic; a lost line is merely a lost count.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The file in the state directory.
const FILE: &str = "counters";
/// The name under which the agent reads a full file.
const TAKEN: &str = "counters.taken";
/// Maximum size: a larger file means that the agent has ended and nobody reads it.
const LARGEST: u64 = 1 << 20;
/// Maximum number of outcomes that are counted separately.
const DISTINCT: usize = 2_000;

/// Verb, network, code.
pub type Outcome = (String, String, String);

/// Counts one call, if an agent collects counts. Fails silently: a call must not fail because of its count.
pub fn count(state: &Path, verb: &str, network: &str, code: u32, took: Duration) {
    let name: String = network.chars().filter(|c| !c.is_control()).take(64).collect();
    append(state, &format!("{verb}\t{name}\t{code}\t{}\n", took.as_micros()));
}

/// Counts one answer of a policy in a network with a monitor: its part (`active`, `monitor`, or `compared` for their
/// comparison) and the answer as one word. Fails silently too.
pub fn count_policy(state: &Path, network: &str, policy: &str, part: &'static str, answer: &'static str) {
    let plain = |text: &str| text.chars().filter(|c| !c.is_control()).take(256).collect::<String>();
    append(state, &format!("{POLICY}\t{}\t{}\t{part}\t{answer}\n", plain(network), plain(policy)));
}

/// Counts addresses that somebody on the wire used. Fails silently too.
pub fn count_conflicts(state: &Path, network: &str, count: usize) {
    let name: String = network.chars().filter(|c| !c.is_control()).take(64).collect();
    append(state, &format!("{CONFLICT}\t{name}\t{count}\n"));
}

/// The first word of a line about a policy, where others have a verb.
const POLICY: &str = "policy";
/// The first word of a line about addresses in use.
const CONFLICT: &str = "conflict";

fn append(state: &Path, line: &str) {
    let Ok(mut file) = OpenOptions::new().append(true).open(state.join(FILE)) else { return };
    if file.metadata().is_ok_and(|meta| meta.len() > LARGEST) {
        return;
    }
    file.write_all(line.as_bytes()).ok();
}

/// Network, policy, part, answer.
pub type PolicyAnswer = [String; 4];

/// The counts since the agent started.
#[derive(Debug, Default)]
pub struct Totals {
    requests: RefCell<BTreeMap<Outcome, u64>>,
    durations: RefCell<BTreeMap<String, (u64, f64)>>,
    policies: RefCell<BTreeMap<PolicyAnswer, u64>>,
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
    }

    fn add_policy(&self, line: &str) {
        let parts: Vec<String> = line.split('\t').map(ToOwned::to_owned).collect();
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

    /// Returns the answers of policies in networks with a monitor.
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
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn counts_of_processes_add_up_once() {
        let dir = tempfile::tempdir().unwrap();
        let took = Duration::from_millis(250);
        // Without an agent, there is no file.
        count(dir.path(), "ADD", "net", 0, took);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        let collector = Collector::open(dir.path()).unwrap();
        let totals = Totals::default();
        count(dir.path(), "ADD", "net", 0, took);
        count(dir.path(), "ADD", "net", 0, took);
        count(dir.path(), "DEL", "a\tb\nc", 11, took);
        count_policy(dir.path(), "net", "file:///a\tb", "monitor", "denied");
        count_conflicts(dir.path(), "n\te\tt", 2);
        count_conflicts(dir.path(), "net", 1);
        collector.collect(&totals).unwrap();
        count(dir.path(), "ADD", "net", 0, took);
        for _ in 0..3 {
            collector.collect(&totals).unwrap();
        }
        let of = |verb: &str, network: &str, code: &str| (verb.to_owned(), network.to_owned(), code.to_owned());
        assert_eq!(totals.requests(), [(of("ADD", "net", "0"), 3), (of("DEL", "abc", "11"), 1)]);
        let answer = ["net", "file:///ab", "monitor", "denied"].map(str::to_owned);
        assert_eq!(totals.policies(), [(answer, 1)]);
        assert_eq!(totals.conflicts(), [("net".to_owned(), 3)]);
        assert_eq!(totals.durations()[0], ("ADD".to_owned(), (3, 0.75)));
    }

    #[test]
    fn the_file_is_bounded_and_so_are_the_outcomes() {
        let dir = tempfile::tempdir().unwrap();
        let collector = Collector::open(dir.path()).unwrap();
        fs::write(dir.path().join(FILE), vec![b'x'; usize::try_from(LARGEST).unwrap() + 1]).unwrap();
        count(dir.path(), "ADD", "net", 0, Duration::ZERO);
        assert_eq!(fs::metadata(dir.path().join(FILE)).unwrap().len(), LARGEST + 1);
        let totals = Totals::default();
        collector.collect(&totals).unwrap();
        collector.collect(&totals).unwrap();
        assert!(totals.requests().is_empty());
        for index in 0..DISTINCT * 2 {
            totals.add(&format!("ADD\tn{index}\t0\t1"));
        }
        assert_eq!(totals.requests().len(), DISTINCT + 1);
    }
}
