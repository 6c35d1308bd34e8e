//! `weftctl policy compile`: compiles a component into the cache, with a compiler that has limits and no privileges.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use serde_json::json;
use weft_core::policy::compiler::{self, EXIT_TRY_AGAIN};
use weft_core::policy::{Cause, CompileAsk, CompileError, Compiled, PolicyError, PolicyStore, Waiting};

use crate::output::Output;

#[derive(Debug, Args)]
pub(crate) struct CompileArgs {
    /// The component.
    component: PathBuf,
    /// What the policy is called in messages and in `policy ls` [default: the component's path].
    #[arg(long)]
    name: Option<String>,
    /// Do not wait for another compilation; exit with 75 instead. Used by ADD.
    #[arg(long, hide = true)]
    background: bool,
}

#[derive(Debug, Args)]
pub(crate) struct WorkerArgs {
    /// The process that watches this one.
    #[arg(long)]
    parent: i32,
    /// Processor time it may use.
    #[arg(long)]
    cpu_seconds: u64,
    /// Bytes of memory it may use.
    #[arg(long)]
    memory: u64,
}

pub(super) fn run(args: &CompileArgs, state: &Path, output: Output) -> anyhow::Result<ExitCode> {
    let path = std::path::absolute(&args.component)?;
    let name = args.name.clone().unwrap_or_else(|| path.display().to_string());
    let waiting = if args.background { Waiting::Decline } else { Waiting::Wait };
    let compiled = match compile(&name, &path, state, waiting) {
        Err(PolicyError::Compiling { progress, .. }) if args.background => {
            output.print_note(&progress);
            return Ok(ExitCode::from(EXIT_TRY_AGAIN));
        }
        compiled => compiled?,
    };
    let how = if compiled.fresh { "compiled" } else { "was compiled already" };
    let document = json!({ "digest": compiled.digest, "entry": compiled.entry, "fresh": compiled.fresh });
    output.lines(&document, &[format!("{} {how}: {}", compiled.digest, compiled.entry.display())])?;
    Ok(ExitCode::SUCCESS)
}

/// This program, also after its file was replaced by an upgrade.
const OWN: &str = "/proc/self/exe";

/// Runs the compiler's own process.
pub(super) fn worker(args: &WorkerArgs) -> ExitCode {
    match compiler::worker_main(args.parent, args.cpu_seconds, args.memory) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Cause(reason)) => {
            // The parent names the program.
            crate::output::plain_error(&reason);
            ExitCode::FAILURE
        }
    }
}

fn compile(name: &str, component: &Path, state: &Path, waiting: Waiting) -> Result<Compiled, PolicyError> {
    PolicyStore::new(state)?.compile_into_cache(name, component, waiting, &|wasm, bounds| {
        compiler::compile_in_worker(Path::new(OWN), wasm, bounds)
    })
}

/// Compiles what a command needs, and waits for it, because a person does.
pub(crate) fn by_hand(state: &Path, ask: &CompileAsk<'_>) -> Result<(), CompileError> {
    let compiled = compile(ask.name, ask.component, state, Waiting::Wait);
    compiled.map(drop).map_err(|error| CompileError::Failed(format!("{:#}", anyhow::Error::from(error))))
}

/// Compiles a component into the cache.
pub(crate) fn compile_file(component: &Path, state: &Path) -> anyhow::Result<Compiled> {
    Ok(compile(&component.display().to_string(), component, state, Waiting::Wait)?)
}

/// Returns whether the cache has a usable entry for a component.
pub(crate) fn is_compiled(component: &[u8], state: &Path) -> anyhow::Result<bool> {
    Ok(PolicyStore::new(state)?.is_compiled(component)?)
}
