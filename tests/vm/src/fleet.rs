//! The runs, spread over several machines that run in parallel.
//!
//! Slow cases (those that are rolled back) have machines of their own, so that the others do not wait for them. A run
//! that a machine did not record gets one more machine; recorded runs count in any case.

use std::fs;
use std::path::Path;
use std::sync::Mutex;
use std::thread;

use anyhow::{Context, Result};

use crate::case::{Run, Task, Transcript};
use crate::kernel::Kernel;
use crate::machine::{self, Parts, Recorded};

/// The fewest runs that are worth the boot of a machine.
const FEWEST: usize = 6;

/// What all machines recorded.
#[derive(Debug, Default)]
pub struct Outcome {
    /// One for each completed run.
    pub transcripts: Vec<Transcript>,
    /// Why the other runs did not complete, as far as known.
    pub failures: Vec<String>,
}

/// Runs everything.
///
/// # Errors
/// If no machine can be started.
pub fn run(kernel: &Kernel, parts: &Parts, runs: &[Run], dir: &Path) -> Result<Outcome> {
    let beside = thread::available_parallelism().map_or(1, usize::from);
    let first = spread(runs, beside);
    let mut outcome = boot_all(kernel, parts, first, beside, dir)?;
    let missing: Vec<Run> = runs.iter().filter(|run| !is_recorded(&outcome, run)).cloned().collect();
    if !missing.is_empty() {
        // One machine each: a run that stopped its machine must not affect others again.
        let again = missing.into_iter().map(|run| vec![run]).collect();
        let more = boot_all(kernel, parts, again, beside, dir)?;
        outcome.transcripts.extend(more.transcripts);
        outcome.failures.extend(more.failures);
    }
    Ok(outcome)
}

fn is_recorded(outcome: &Outcome, run: &Run) -> bool {
    outcome.transcripts.iter().any(|one| one.name == run.name && one.subject == run.subject)
}

/// Returns the runs of each machine, slow ones first.
fn spread(runs: &[Run], beside: usize) -> Vec<Vec<Run>> {
    let (slow, quick): (Vec<Run>, Vec<Run>) = runs.iter().cloned().partition(|run| run.case.rollback);
    let mut machines = distribute(slow, beside);
    let worth = (quick.len() / FEWEST).clamp(1, beside);
    machines.extend(distribute(quick, worth));
    machines
}

/// Distributes runs over at most this many machines.
fn distribute(runs: Vec<Run>, machines: usize) -> Vec<Vec<Run>> {
    let mut dealt = vec![Vec::new(); machines.max(1)];
    for (place, run) in runs.into_iter().enumerate() {
        let machine = place % dealt.len();
        dealt[machine].push(run);
    }
    dealt.retain(|runs: &Vec<Run>| !runs.is_empty());
    dealt
}

/// Boots the machines, `beside` at a time.
fn boot_all(kernel: &Kernel, parts: &Parts, machines: Vec<Vec<Run>>, beside: usize, dir: &Path) -> Result<Outcome> {
    let waiting = Mutex::new(machines.into_iter().enumerate().collect::<Vec<_>>());
    let recorded = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..beside {
            scope.spawn(|| {
                loop {
                    let next = waiting.lock().map(|mut waiting| (!waiting.is_empty()).then(|| waiting.remove(0)));
                    let Ok(Some((number, runs))) = next else { return };
                    let result = boot_one(kernel, parts, runs, &dir.join(format!("machine-{number}")));
                    if let Ok(mut recorded) = recorded.lock() {
                        recorded.push(result);
                    }
                }
            });
        }
    });
    let mut outcome = Outcome::default();
    for result in recorded.into_inner().unwrap_or_default() {
        let Recorded { transcripts, missing } = result?;
        outcome.transcripts.extend(transcripts);
        outcome.failures.extend(missing);
    }
    Ok(outcome)
}

fn boot_one(kernel: &Kernel, parts: &Parts, runs: Vec<Run>, dir: &Path) -> Result<Recorded> {
    fs::create_dir_all(dir).with_context(|| format!("create {}", dir.display()))?;
    machine::run(kernel, parts, Task { modules: Vec::new(), prepare: Vec::new(), runs }, dir)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::case::{Case, Subject};

    fn run(name: &str, rollback: bool) -> Run {
        let case = serde_json::json!({ "about": "", "attach": [], "rollback": rollback });
        let case: Case = serde_json::from_value(case).unwrap();
        Run { name: name.to_owned(), subject: Subject::Weft, case }
    }

    #[test]
    fn slow_cases_have_machines_of_their_own() {
        let mut runs: Vec<Run> = (0..20).map(|number| run(&format!("quick{number}"), false)).collect();
        runs.extend((0..3).map(|number| run(&format!("slow{number}"), true)));
        let machines = spread(&runs, 2);
        assert_eq!(machines.iter().map(Vec::len).collect::<Vec<_>>(), [2, 1, 10, 10]);
        assert!(machines.iter().all(|runs| runs.iter().all(|run| run.case.rollback == runs[0].case.rollback)));
    }

    #[test]
    fn few_runs_share_a_machine() {
        let runs: Vec<Run> = (0..5).map(|number| run(&format!("quick{number}"), false)).collect();
        assert_eq!(spread(&runs, 2).len(), 1);
    }
}
