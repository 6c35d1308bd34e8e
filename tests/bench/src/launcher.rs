//! This program as a launcher: started as `weft-bench --launch PROGRAM`, it runs PROGRAM and prints the peak memory of it
//! and its children, in KiB.
//!
//! A separate process, because the kernel includes a process' memory before `exec` in its peak: started from the
//! benchmark itself, no program could have a lower peak than the benchmark.

use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, Result, bail};
use nix::sys::resource::{UsageWho, getrusage};
use weft_bench::call::{Plugins, Target, Verb, run};

const SWITCH: &str = "--launch";

/// Acts as the launcher if this process was started as one.
pub(crate) fn as_launcher() -> Option<Result<ExitCode>> {
    let mut arguments = std::env::args_os().skip(1);
    if arguments.next()? != SWITCH {
        return None;
    }
    let program = arguments.next()?;
    Some(launch(Command::new(program)))
}

fn launch(mut command: Command) -> Result<ExitCode> {
    // stdin is passed on; a result would mix with this program's output.
    let status = command.stdout(Stdio::null()).status().context("start the program")?;
    println!("{}", getrusage(UsageWho::RUSAGE_CHILDREN).context("ask for its usage")?.max_rss());
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Returns the peak memory of one call of a plugin, in MiB.
///
/// # Errors
/// If the plugin fails.
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
