//! GC in the storm: now and then everything stops, and one GC, perhaps killed and repeated, removes abandoned
//! attachments.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::PoisonError;
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Result, bail};
use weft_bench::call::{Target, Verb};
use weft_storm::strike::{Ended, Strike, run};
use weft_storm::tally::lock;

use crate::storm::{Storm, one_line};

/// Runs GC while the storm continues.
///
/// # Errors
/// If something other than the subject fails.
pub(crate) fn work(storm: &Storm<'_>, seed: u64) -> Result<()> {
    let mut random = fastrand::Rng::with_seed(seed);
    while storm.goes_on() {
        sleep(Duration::from_millis(random.u64(50..400)));
        // A runtime runs GC alone.
        let _gate = storm.gate.write().unwrap_or_else(PoisonError::into_inner);
        let living = lock(&storm.living).clone();
        let left = std::mem::take(&mut *lock(&storm.abandoned));
        if random.bool() {
            collect(storm, &living, Some(Strike::Kill(storm.tally.strike_time(Verb::Gc, &mut random))))?;
        }
        collect(storm, &living, None)?;
        for abandoned in &left {
            storm.must_be_bare(&abandoned.target, &abandoned.slot)?;
            storm.tally.count("abandoned attachments collected");
            storm.discard(&abandoned.slot)?;
        }
    }
    Ok(())
}

/// Runs one GC.
///
/// # Errors
/// If it cannot be called.
pub(crate) fn collect(storm: &Storm<'_>, living: &BTreeSet<String>, strike: Option<Strike>) -> Result<()> {
    // A GC has no container; the variables are set because some plugins require them.
    let target = Target { container: "gc".to_owned(), netns: PathBuf::new(), ifname: "eth0".to_owned() };
    let command = storm.subject.plugins.command(storm.network.kind.plugin(), Verb::Gc, &target);
    let living: Vec<String> = living.iter().cloned().collect();
    let ended = run(command, &storm.network.with_valid(&living), strike, |start| start())?;
    storm.count_call(Verb::Gc, &ended);
    match ended {
        Ended::Badly(text) => storm.tally.violation(format!("GC failed: {}", one_line(&text))),
        Ended::Killed if strike.is_none() => bail!("GC was killed by somebody else"),
        Ended::Killed | Ended::Well(..) => {}
    }
    Ok(())
}
