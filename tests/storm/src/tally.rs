//! Counters and violations.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use weft_bench::call::Verb;

/// After this many violations the storm stops.
const ENOUGH: usize = 20;

/// Counters and violations of a storm.
#[derive(Debug, Default)]
pub struct Tally {
    counts: Mutex<BTreeMap<String, u64>>,
    violations: Mutex<Vec<String>>,
    durations: [Typical; 4],
}

/// A running mean in microseconds.
#[derive(Debug, Default)]
struct Typical(AtomicU64);

// === impl Tally ===

impl Tally {
    /// Counts something.
    pub fn count(&self, what: &str) {
        *lock(&self.counts).entry(what.to_owned()).or_default() += 1;
    }

    /// Returns how often something was counted.
    pub fn counted(&self, what: &str) -> u64 {
        lock(&self.counts).get(what).copied().unwrap_or_default()
    }

    /// Records a violation.
    pub fn violation(&self, text: String) {
        lock(&self.violations).push(text);
    }

    /// Returns whether to stop early.
    pub fn is_enough(&self) -> bool {
        lock(&self.violations).len() >= ENOUGH
    }

    /// Records how long a call of this verb took. Strikes follow the load.
    pub fn took(&self, verb: Verb, time: Duration) {
        self.typical(verb).add(time);
    }

    /// Returns an instant to strike: anywhere in a usual call, or a little after it.
    pub fn strike_time(&self, verb: Verb, random: &mut fastrand::Rng) -> Duration {
        self.typical(verb).get().mul_f64(random.f64() * 1.2)
    }

    fn typical(&self, verb: Verb) -> &Typical {
        let [add, del, check, gc] = &self.durations;
        match verb {
            Verb::Add => add,
            Verb::Del => del,
            Verb::Check => check,
            // STATUS changes nothing, and is not struck.
            Verb::Gc | Verb::Status => gc,
        }
    }

    /// Returns all violations so far.
    pub fn violations(&self) -> Vec<String> {
        lock(&self.violations).clone()
    }

    /// Returns counts, durations and violations, one line each.
    pub fn report(&self) -> Vec<String> {
        let mut lines: Vec<String> =
            lock(&self.counts).iter().map(|(what, count)| format!("{count:8} {what}")).collect();
        for verb in [Verb::Add, Verb::Del, Verb::Gc] {
            let typical = self.typical(verb).get();
            if !typical.is_zero() {
                lines.push(format!("{:5.1} ms a usual {}", typical.as_secs_f64() * 1000.0, verb.name()));
            }
        }
        let violations = self.violations();
        lines.extend(violations.iter().map(|text| format!("VIOLATION {text}")));
        lines.push(format!("{} violations", violations.len()));
        lines
    }
}

// === impl Typical ===

impl Typical {
    fn add(&self, time: Duration) {
        let new = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        let old = self.0.load(Ordering::Relaxed);
        // A new value counts one eighth: a single slow call does not change the mean much. Two threads may lose one of
        // their updates, which is acceptable for a mean.
        self.0.store(if old == 0 { new } else { old - old / 8 + new / 8 }, Ordering::Relaxed);
    }

    fn get(&self) -> Duration {
        Duration::from_micros(self.0.load(Ordering::Relaxed))
    }
}

/// Locks a mutex. A lock whose holder panicked still has valid contents.
pub fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
