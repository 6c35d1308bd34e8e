//! What happened: counters and violations.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use weft_bench::call::Verb;

/// Beyond this many violations the storm stops: it has shown what it can.
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

    /// How often something was counted.
    pub fn counted(&self, what: &str) -> u64 {
        lock(&self.counts).get(what).copied().unwrap_or_default()
    }

    /// Something that must not be.
    pub fn violation(&self, text: String) {
        lock(&self.violations).push(text);
    }

    /// Whether to stop early.
    pub fn enough(&self) -> bool {
        lock(&self.violations).len() >= ENOUGH
    }

    /// A call of this verb took so long. What a strike is aimed over follows the load.
    pub fn took(&self, verb: Verb, time: Duration) {
        self.typical(verb).add(time);
    }

    /// An instant to strike at: anywhere in a usual call, or a little behind it.
    pub fn strike(&self, verb: Verb, random: &mut fastrand::Rng) -> Duration {
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

    /// Every violation so far.
    pub fn violations(&self) -> Vec<String> {
        lock(&self.violations).clone()
    }

    /// Everything, a line each: counts, durations, violations.
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
        // An eighth of the new: a single slow call does not move the aim much. Two threads may lose one of their updates,
        // which a mean can do without.
        self.0.store(if old == 0 { new } else { old - old / 8 + new / 8 }, Ordering::Relaxed);
    }

    fn get(&self) -> Duration {
        Duration::from_micros(self.0.load(Ordering::Relaxed))
    }
}

/// A lock whose holder panicked still holds what it held.
pub fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
