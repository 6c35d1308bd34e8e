//! `weftctl policy watch`: builds and tests a project again whenever one of its files changes.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use clap::Args;

use super::granted::GrantArgs;
use super::{built, cases};
use crate::output::Output;

/// How often to check the files.
const EVERY: Duration = Duration::from_millis(300);

/// Output of builds, and directories without sources.
const OTHERS: [&str; 6] = ["build", "target", "node_modules", ".venv", ".git", "__pycache__"];

#[derive(Debug, Args)]
pub(crate) struct WatchArgs {
    /// The project's directory.
    #[arg(default_value = ".")]
    dir: PathBuf,
    #[command(flatten)]
    grants: GrantArgs,
}

/// Runs until it is interrupted.
pub(super) fn run(args: &WatchArgs, state: &Path, output: Output) -> anyhow::Result<ExitCode> {
    let mut seen = None;
    loop {
        let now = stamps(&args.dir)?;
        if seen.as_ref() != Some(&now) {
            if seen.is_some() {
                output.print_note("a file changed");
            }
            // The next change will fix a mistake in the source.
            if let Err(error) = round(args, state, output) {
                output.error(&error);
            }
            output.print_note("waiting for changes; end with Ctrl-C");
            seen = Some(now);
        }
        std::thread::sleep(EVERY);
    }
}

/// Builds and tests once.
fn round(args: &WatchArgs, state: &Path, output: Output) -> anyhow::Result<()> {
    let grants = args.grants.resolve(&args.dir, built::network(&args.dir)?.as_ref());
    let tested = built::tested(&args.dir, None, grants, state)?;
    cases::passes(&args.dir, &tested, output).map(drop)
}

type Stamps = BTreeMap<PathBuf, (u64, Option<SystemTime>)>;

/// Returns size and time of every source file. A file that disappears is a change, too.
fn stamps(dir: &Path) -> anyhow::Result<Stamps> {
    let mut stamps = Stamps::new();
    for entry in fs::read_dir(dir)?.flatten() {
        let (path, name) = (entry.path(), entry.file_name());
        let Ok(kind) = entry.file_type() else { continue };
        let source = path.extension().is_none_or(|extension| extension != "wasm") && name != "Cargo.lock";
        if kind.is_dir() && !OTHERS.iter().any(|other| name == *other) {
            stamps.extend(stamps_of_child(&path));
        } else if kind.is_file() && source {
            let meta = entry.metadata().ok();
            let stamp = meta.map_or((0, None), |meta| (meta.len(), meta.modified().ok()));
            stamps.insert(path, stamp);
        }
    }
    Ok(stamps)
}

fn stamps_of_child(dir: &Path) -> Stamps {
    stamps(dir).unwrap_or_default()
}
