//! `weftctl policy`: from an author's crate to something `weft` can run.

mod check;
mod inspect;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, bail};
use clap::Subcommand;
use serde_json::json;

use crate::output::Output;

// Components of `guest-plugins/`, built by build.rs: (name, component).
include!(concat!(env!("OUT_DIR"), "/shipped.rs"));

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
