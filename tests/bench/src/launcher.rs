//! This program as a launcher: started as `weft-bench --launch PROGRAM`, it runs PROGRAM and prints the peak memory of it
//! and its children, in KiB.
//!
//! A process of its own, because the kernel counts what a process had before `exec` as its peak too: started from the
//! benchmark itself, no program could come out smaller than the benchmark.

use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, Result, bail};
use nix::sys::resource::{UsageWho, getrusage};
use weft_bench::call::{Plugins, Target, Verb, run};

const SWITCH: &str = "--launch";

/// Does the launcher's work, if that is what this process was started for.
pub(crate) fn as_launcher() -> Option<Result<ExitCode>> {
    let mut arguments = std::env::args_os().skip(1);
    if arguments.next()? != SWITCH {
        return None;
    }
    let program = arguments.next()?;
    Some(launch(Command::new(program)))
}

fn launch(mut command: Command) -> Result<ExitCode> {
    // stdin goes through; a result would mix with our own output.
    let status = command.stdout(Stdio::null()).status().context("start the program")?;
    println!("{}", getrusage(UsageWho::RUSAGE_CHILDREN).context("ask for its usage")?.max_rss());
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Peak memory of one call of a plugin, in MiB.
///
/// # Errors
/// When the plugin fails.
pub(crate) fn peak_memory(plugins: &Plugins, plugin: &str, verb: Verb, target: &Target, conf: &str) -> Result<f64> {
    let mut command = Command::new(std::env::current_exe().context("find our own binary")?);
    plugins.prepare(&mut command, verb, target);
    command.arg(SWITCH).arg(plugins.dir.join(plugin));
    let outcome = run(command, conf)?;
    if !outcome.status.success() {
        bail!("{} of {plugin} failed under the launcher: {}", verb.name(), outcome.stderr.trim());
    }
    let kib: f64 = outcome.stdout.trim().parse().with_context(|| format!("not a number: {}", outcome.stdout))?;
    Ok(kib / 1024.0)
}
