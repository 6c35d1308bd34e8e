//! `weftctl policy`: from an author's crate to something `weft` can run.

mod cache;
mod check;
mod compile;
mod inspect;
mod replay;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::Subcommand;
use serde_json::json;
use weft_host_abi::guest_build;

pub(crate) use self::check::check_file;
pub(crate) use self::compile::{by_hand, compile_file, is_compiled};
use crate::output::Output;

/// Components of `guest-plugins/`, built by build.rs: (name, component).
pub(crate) static SHIPPED: &[(&str, &[u8])] = include!(concat!(env!("OUT_DIR"), "/policies.rs"));

#[derive(Debug, Subcommand)]
pub(crate) enum PolicyCommand {
    /// Build a policy crate into a component.
    Build {
        /// The crate's directory.
        #[arg(default_value = ".")]
        dir: PathBuf,
        /// Where to write the component [default: <crate>.wasm in the current directory].
        #[arg(long, short, value_name = "FILE")]
        out: Option<PathBuf>,
    },
    /// Compile a component into the cache, so that the first ADD need not wait.
    Compile(compile::CompileArgs),
    /// Compile a component from standard input to standard output. What `compile` runs.
    #[command(hide = true)]
    CompileWorker(compile::WorkerArgs),
    /// List the policies of this node, and how far each is on the way to code that runs.
    Ls,
    /// Remove compiled code that nobody can use, and what was not used for long.
    Prune(cache::PruneArgs),
    /// Print the digest that a network names a component by.
    Digest {
        /// The component.
        component: PathBuf,
    },
    /// Add a fetched component under the reference that networks name it by, digest included.
    Add(cache::AddArgs),
    /// Run a recorded policy call again, also with another policy, and show the difference.
    Replay(replay::ReplayArgs),
    /// Show what a component is and what it reaches.
    Inspect {
        /// The component, or the name of a shipped policy.
        component: String,
    },
    /// Find what is wrong with a network configuration before a pod meets it.
    Check {
        /// A configuration or a list of plugins, or `-` for stdin.
        conf: PathBuf,
    },
}

pub(crate) fn run(command: &PolicyCommand, state: &Path, output: Output) -> anyhow::Result<ExitCode> {
    match command {
        PolicyCommand::Build { dir, out } => build(dir, out.as_deref(), output),
        PolicyCommand::Compile(args) => compile::run(args, state, output),
        PolicyCommand::CompileWorker(args) => Ok(compile::worker(args)),
        PolicyCommand::Ls => cache::ls(state, output),
        PolicyCommand::Prune(args) => cache::prune(args, state, output),
        PolicyCommand::Digest { component } => cache::digest(component, output),
        PolicyCommand::Add(args) => cache::add(args, state, output),
        PolicyCommand::Replay(args) => replay::run(args, state, output),
        PolicyCommand::Inspect { component } => inspect::run(component, state, output),
        PolicyCommand::Check { conf } => check::run(conf, state, output),
    }
}

/// A crate to a component, in the crate's own target directory.
fn build(dir: &Path, out: Option<&Path>, output: Output) -> anyhow::Result<ExitCode> {
    let manifest = dir.join("Cargo.toml");
    if !manifest.is_file() {
        bail!("{} is no crate: it has no Cargo.toml", dir.display());
    }
    let built = guest_build::build_guests(&manifest, &dir.join("target"))?;
    if out.is_some() && built.len() != 1 {
        bail!("{} builds {} policies; --out names only one file", dir.display(), built.len());
    }
    let mut documents = Vec::new();
    let mut lines = Vec::new();
    for guest in built {
        let path = out.map_or_else(|| PathBuf::from(format!("{}.wasm", guest.name)), Path::to_path_buf);
        fs::write(&path, &guest.component).with_context(|| format!("cannot write {}", path.display()))?;
        lines.push(format!("{} ({} bytes)", path.display(), guest.component.len()));
        documents.push(json!({ "name": guest.name, "path": path, "size": guest.component.len() }));
    }
    output.lines(&documents, &lines)?;
    Ok(ExitCode::SUCCESS)
}

/// What calls need from this program: the compiler is its own, and a person waits for it.
pub(crate) fn context(state: &Path) -> weft_core::attach::Context {
    let own = state.to_owned();
    let compile = Box::new(move |ask: &weft_core::policy::CompileAsk<'_>| by_hand(&own, ask));
    weft_core::attach::Context { compile, ..weft_core::attach::Context::new(state.to_owned()) }
}
