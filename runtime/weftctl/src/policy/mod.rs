//! `weftctl policy`: from an author's crate to something `weft` can run.

mod check;
mod inspect;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::Subcommand;
use serde_json::json;
use weft_core::policy::{Compiled, PolicyStore};
use weft_host_abi::guest_build;

pub(crate) use self::check::check_file;
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
    Compile {
        /// The component.
        component: PathBuf,
    },
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
        PolicyCommand::Compile { component } => compile(component, state, output),
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

fn compile(component: &Path, state: &Path, output: Output) -> anyhow::Result<ExitCode> {
    let compiled = compile_file(component, state)?;
    let how = if compiled.fresh { "compiled" } else { "was compiled already" };
    let document = json!({ "digest": compiled.digest, "entry": compiled.entry, "fresh": compiled.fresh });
    output.lines(&document, &[format!("{} {how}: {}", compiled.digest, compiled.entry.display())])?;
    Ok(ExitCode::SUCCESS)
}

/// Compiles a component into the cache.
pub(crate) fn compile_file(component: &Path, state: &Path) -> anyhow::Result<Compiled> {
    Ok(PolicyStore::new(state)?.compile_into_cache(component)?)
}

/// Whether the cache has a usable entry for a component.
pub(crate) fn is_compiled(component: &[u8], state: &Path) -> anyhow::Result<bool> {
    Ok(PolicyStore::new(state)?.is_compiled(component)?)
}
