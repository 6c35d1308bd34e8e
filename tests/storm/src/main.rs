//! The crash storm: many processes run ADD, DEL, CHECK and GC on one network; each may be killed (SIGKILL) or stopped
//! for a while (SIGSTOP, SIGCONT) at a random instant, and an oracle that shares no code with the tested plugin
//! watches. Some ADDs are orphans: their runtime was restarted, and its next process deletes or collects them while
//! they run.
//!
//! For any instant of any kill: no address is ever on two containers; an attachment exists until it is deleted; every
//! call that is not struck succeeds; and after the final DELs, or GC, the host is as clean as before, with every
//! address of the pool free.
//!
//! `weft-storm --kind bridge --subject weft --rounds 10000`

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command line tool")]

mod clean;
mod collector;
mod devices;
mod network;
mod storm;
mod subject;
mod worker;

use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Parser;
use weft_bench::scene::Scene;

use crate::network::Kind;
use crate::storm::Storm;
use crate::subject::{Bug, Subject, SubjectName};

/// Kills and stops CNI calls at random instants and watches the results.
#[derive(Debug, Parser)]
#[command(name = "weft-storm", version)]
struct Arguments {
    /// The kind of network.
    #[arg(long, value_enum)]
    kind: Kind,
    /// The plugins to test.
    #[arg(long, value_enum, default_value = "weft")]
    subject: SubjectName,
    /// With `--subject fake`: its bug.
    #[arg(long, value_enum)]
    bug: Option<Bug>,
    /// Number of attachments.
    #[arg(long, default_value_t = 400)]
    rounds: usize,
    /// Number of concurrent calls.
    #[arg(long, default_value_t = 8)]
    workers: usize,
    /// The seed of the random choices. The same seed makes the same choices; the interleaving of the processes still
    /// varies.
    #[arg(long)]
    seed: Option<u64>,
}

fn main() -> Result<ExitCode> {
    let arguments = Arguments::parse();
    let subject = Subject::find(arguments.subject, arguments.bug)?;
    let scene = Scene::enter()?;
    // Children of a killed plugin become ours, so that we can wait for them.
    nix::sys::prctl::set_child_subreaper(true).context("become the reaper of orphans")?;
    let subject = subject.install(&scene)?;
    let seed = arguments.seed.unwrap_or_else(|| fastrand::u64(..));
    println!(
        "{} {:?}, {} rounds, {} workers, seed {seed}",
        subject.label, arguments.kind, arguments.rounds, arguments.workers
    );
    let storm = Storm::new(&scene, subject, arguments.kind, seed)?;
    storm.run(arguments.rounds, arguments.workers)?;
    storm.tally.report().iter().for_each(|line| println!("{line}"));
    Ok(if storm.tally.violations().is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
