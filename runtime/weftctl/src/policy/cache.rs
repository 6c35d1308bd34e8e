//! `weftctl policy ls`, `prune`, `digest` and `add`: the policies on this node, and changes to them.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Context;
use clap::Args;
use serde_json::json;
use weft_core::policy::{self, CompileAsk, Digest, PolicyError, PolicyRef, PolicyRow, PolicyState, PolicyStore};

use crate::output::Output;

#[derive(Debug, Args)]
pub(crate) struct PruneArgs {
    /// Make the whole cache anew: for one that others could write to. Policies are then compiled again.
    #[arg(long)]
    reset: bool,
}

#[derive(Debug, Args)]
pub(crate) struct AddArgs {
    /// The reference: `configmap://NAMESPACE/NAME/KEY@sha256:...`, `oci://...@sha256:...` or `file://...@sha256:...`.
    reference: String,
    /// The component.
    component: PathBuf,
}

/// Digits of a digest that are shown in a table.
const SHORT: usize = "sha256:".len() + 12;

pub(super) fn ls(state: &Path, output: Output) -> anyhow::Result<ExitCode> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).context("the clock is before 1970")?.as_secs();
    let policies = PolicyStore::new(state)?.policies(now)?;
    let rows = policies.iter().map(row).collect();
    output.table(&policies, &["policy", "digest", "size", "state"], rows)?;
    Ok(ExitCode::SUCCESS)
}

fn row(policy: &PolicyRow) -> Vec<String> {
    let digest = policy.digest.as_deref().and_then(|digest| digest.get(..SHORT)).unwrap_or("-").to_owned();
    let state = match &policy.state {
        PolicyState::Ready => "ready".to_owned(),
        PolicyState::NotCompiled { why } => format!("not compiled: {why}"),
        PolicyState::Compiling { seconds, of } => format!("compiling for {seconds} s, at most {of} s"),
        PolicyState::Failed { reason, ago } => format!("failed {ago} s ago: {reason}"),
        PolicyState::Unusable { why } => format!("unusable: {why}"),
    };
    vec![policy.policy.clone(), digest, policy.size.to_string(), state]
}

pub(super) fn prune(args: &PruneArgs, state: &Path, output: Output) -> anyhow::Result<ExitCode> {
    let store = PolicyStore::new(state)?;
    if args.reset {
        store.reset_cache()?;
        output.lines(&json!({ "reset": true }), &["the cache is empty; policies are compiled again".to_owned()])?;
        return Ok(ExitCode::SUCCESS);
    }
    let pruned = store.prune_cache()?;
    output.lines(&pruned, &[format!("removed {} files ({} bytes)", pruned.files, pruned.bytes)])?;
    Ok(ExitCode::SUCCESS)
}

pub(super) fn digest(component: &Path, output: Output) -> anyhow::Result<ExitCode> {
    let digest = Digest::new(&read(component)?).to_string();
    output.lines(&json!({ "digest": digest }), std::slice::from_ref(&digest))?;
    Ok(ExitCode::SUCCESS)
}

pub(super) fn add(args: &AddArgs, state: &Path, output: Output) -> anyhow::Result<ExitCode> {
    let reference = PolicyRef::parse(&args.reference)?;
    let name = reference.to_string();
    let compile = |path: &Path| {
        let ask = CompileAsk { component: path, name: &name, failure: None };
        super::by_hand(state, &ask).map_err(|error| PolicyError::NotCompiled {
            policy: name.clone(),
            path: args.component.clone(),
            reason: error.to_string(),
        })
    };
    let file = policy::add_pinned(state, &reference, &read(&args.component)?, None, &compile)?;
    output.lines(&json!({ "policy": name, "path": file }), &[format!("added {name}: {}", file.display())])?;
    Ok(ExitCode::SUCCESS)
}

fn read(component: &Path) -> anyhow::Result<Vec<u8>> {
    std::fs::read(component).with_context(|| format!("cannot read {}", component.display()))
}
