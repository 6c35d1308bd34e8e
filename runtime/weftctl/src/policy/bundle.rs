//! `weftctl policy save` and `load`: policies, their signatures and the lock file in one directory, for sites without a
//! registry.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use weft_agent::artifact::Image;
use weft_agent::registry::{self, Layout};

use super::registry::{Reach, TrustArgs, compile, lock_message};
use crate::output::Output;

#[derive(Debug, Args)]
pub(crate) struct SaveArgs {
    /// The directory: an OCI image layout. It is created if it does not exist.
    directory: PathBuf,
    /// The policies.
    #[arg(required = true)]
    references: Vec<String>,
    #[command(flatten)]
    reach: Reach,
}

#[derive(Debug, Args)]
pub(crate) struct LoadArgs {
    /// The directory that `save` wrote.
    directory: PathBuf,
    /// Allow versions lower than those in this node's lock file.
    #[arg(long)]
    allow_downgrade: bool,
    #[command(flatten)]
    trust: TrustArgs,
}

pub(super) fn save(args: &SaveArgs, output: Output) -> anyhow::Result<ExitCode> {
    // Parse all of them before the first request.
    let images: Vec<_> = args.references.iter().map(|text| Image::parse(text)).collect::<Result<_, _>>()?;
    let mut layout = Layout::create(&args.directory)?;
    let mut saved = Vec::new();
    for image in &images {
        let remote = args.reach.remote(image)?;
        saved.push(registry::wait(registry::save(&remote, image, &mut layout))?);
    }
    let lines: Vec<_> = saved
        .iter()
        .map(|saved| match saved.signatures.len() {
            0 => format!("saved {} (it is not signed)", saved.reference),
            _ => format!("saved {} with its signatures", saved.reference),
        })
        .collect();
    output.lines(&saved, &lines)?;
    Ok(ExitCode::SUCCESS)
}

pub(super) fn load(args: &LoadArgs, state: &Path, output: Output) -> anyhow::Result<ExitCode> {
    let trust = args.trust.read(state)?;
    let layout = Layout::open(&args.directory)?;
    let compile = |name: &str, path: &Path| compile(state, name, path);
    let loading = registry::load(&layout, state, trust.as_ref(), args.allow_downgrade, &compile);
    let loaded = registry::wait(loading)?;
    let lock = weft_core::policy::LockFile::path(state);
    let line = |loaded: &registry::Loaded| match &loaded.lock {
        Some(change) => format!("loaded {}; {}", loaded.reference, lock_message(change, &lock)),
        None => format!("loaded {}", loaded.reference),
    };
    output.lines(&loaded, &loaded.iter().map(line).collect::<Vec<_>>())?;
    Ok(ExitCode::SUCCESS)
}
