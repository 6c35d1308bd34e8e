//! `weftctl policy ls`, `prune`, `digest` and `add`: list and change the policies on this node.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context;
use clap::Args;
use serde_json::json;
use weft_core::agent::policy::{Policy as AgentPolicy, PolicyRequest, PolicyState as Wanted};
use weft_core::agent::{SOCKET, ask};
use weft_core::policy::{
    self, Artifact, CompileAsk, Digest, PolicyError, PolicyRef, PolicyRow, PolicyState, PolicyStore,
};

use crate::output::Output;

#[derive(Debug, Args)]
pub(crate) struct PruneArgs {
    /// Recreate the cache if other users could write to it. Policies are compiled again.
    #[arg(long)]
    reset: bool,
}

#[derive(Debug, Args)]
pub(crate) struct LsArgs {
    /// A repository, as in REGISTRY/REPOSITORY: list its tags [default: what is on this node].
    #[cfg(feature = "agent")]
    repository: Option<String>,
    /// The agent's socket: a running agent says what networks name and is not here.
    #[arg(long, value_name = "PATH", default_value = SOCKET)]
    agent_socket: PathBuf,
    #[cfg(feature = "agent")]
    #[command(flatten)]
    reach: super::registry::Reach,
}

#[derive(Debug, Args)]
pub(crate) struct DigestArgs {
    /// The component; or a policy in a registry, as in REGISTRY/REPOSITORY:TAG.
    policy: PathBuf,
    #[cfg(feature = "agent")]
    #[command(flatten)]
    reach: super::registry::Reach,
}

#[derive(Debug, Args)]
pub(crate) struct AddArgs {
    /// The reference: `configmap://NAMESPACE/NAME/KEY@sha256:...` or `file://...@sha256:...`.
    reference: String,
    /// The component.
    component: PathBuf,
}

/// How long to wait for the agent's list, which it has in memory.
const LIMIT: Duration = Duration::from_secs(2);

/// How many digits of a digest a table shows.
const SHORT: usize = "sha256:".len() + 12;

pub(super) fn ls(args: &LsArgs, state: &Path, output: Output) -> anyhow::Result<ExitCode> {
    #[cfg(feature = "agent")]
    if let Some(repository) = &args.repository {
        return super::registry::ls(repository, &args.reach, output);
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).context("the clock is before 1970")?.as_secs();
    let mut policies = PolicyStore::new(state)?.policies(now)?;
    add_wanted(&mut policies, wanted(&args.agent_socket));
    let rows = policies.iter().map(row).collect();
    output.table(&policies, &["policy", "digest", "size", "state"], rows)?;
    Ok(ExitCode::SUCCESS)
}

/// Returns what networks name and a running agent has not fetched, or nothing without an agent.
fn wanted(socket: &Path) -> Vec<PolicyRow> {
    let reply = ask::<AgentPolicy>(socket, &PolicyRequest {}, Some(LIMIT));
    let rows = reply.map(|reply| reply.policies).unwrap_or_default().into_iter();
    rows.filter_map(|row| {
        let state = match row.state {
            Wanted::Ready => return None,
            Wanted::Fetching => PolicyState::Fetching,
            Wanted::Failed { reason } => PolicyState::Missing { why: reason },
        };
        Some(PolicyRow::without_component(row.reference, state))
    })
    .collect()
}

/// Adds them to the policies of the node. The agent tries withdrawn ones again; why they were withdrawn says more.
fn add_wanted(policies: &mut Vec<PolicyRow>, wanted: Vec<PolicyRow>) {
    for row in wanted {
        match policies.iter_mut().find(|known| known.policy == row.policy) {
            None => policies.push(row),
            Some(known) if matches!(known.state, PolicyState::Missing { .. }) => *known = row,
            Some(_known) => {}
        }
    }
}

fn row(policy: &PolicyRow) -> Vec<String> {
    let digest = policy.digest.as_deref().and_then(|digest| digest.get(..SHORT)).unwrap_or("-").to_owned();
    let state = match &policy.state {
        PolicyState::Ready => "ready".to_owned(),
        PolicyState::NotCompiled { why } => format!("not compiled: {why}"),
        PolicyState::Compiling { seconds, of } => format!("compiling for {seconds} s, at most {of} s"),
        PolicyState::Failed { reason, ago } => format!("failed {ago} s ago: {reason}"),
        PolicyState::Unusable { why } => format!("unusable: {why}"),
        PolicyState::Withdrawn { why } => format!("withdrawn: {why}"),
        PolicyState::Missing { why } => format!("missing: {why}"),
        PolicyState::Fetching => "the agent fetches it".to_owned(),
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

pub(super) fn digest(args: &DigestArgs, output: Output) -> anyhow::Result<ExitCode> {
    let component = &args.policy;
    #[cfg(feature = "agent")]
    if let Some(reference) = component.to_str().filter(|text| !component.exists() && is_reference(text)) {
        return super::registry::digest(reference, &args.reach, output);
    }
    let digest = Digest::new(&read(component)?).to_string();
    output.lines(&json!({ "digest": digest }), std::slice::from_ref(&digest))?;
    Ok(ExitCode::SUCCESS)
}

pub(super) fn add(args: &AddArgs, state: &Path, output: Output) -> anyhow::Result<ExitCode> {
    let reference = PolicyRef::parse(&args.reference)?;
    let name = reference.to_string();
    if matches!(reference, PolicyRef::Pinned { artifact: Artifact::Manifest, .. } | PolicyRef::Tagged(_)) {
        // A file contains neither the manifest of the digest nor its signatures.
        anyhow::bail!(
            "{name} is in a registry: `weftctl policy pull` fetches it, and `load` takes it from a directory"
        );
    }
    let compile = |path: &Path| {
        let ask = CompileAsk::new(path, &name);
        super::by_hand(state, &ask).map_err(|error| PolicyError::NotCompiled {
            policy: name.clone(),
            path: args.component.clone(),
            reason: error.to_string(),
        })
    };
    let file = policy::add_pinned(state, &reference, &read(&args.component)?, None, &compile)?;
    policy::keep_pinned(state, &reference)?;
    output.lines(&json!({ "policy": name, "path": file }), &[format!("added {name}: {}", file.display())])?;
    Ok(ExitCode::SUCCESS)
}

/// Returns whether a text names something in a registry rather than a missing file.
#[cfg(feature = "agent")]
pub(super) fn is_reference(text: &str) -> bool {
    use weft_agent::artifact::Image;
    Image::has_scheme(text) || (!text.starts_with(['.', '/']) && Image::parse(text).is_ok())
}

fn read(component: &Path) -> anyhow::Result<Vec<u8>> {
    std::fs::read(component).with_context(|| format!("cannot read {}", component.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_policy_that_the_agent_lacks_is_listed_once() {
        let withdrawn = || PolicyState::Withdrawn { why: "revoked".to_owned() };
        let missing = |why: &str| PolicyState::Missing { why: why.to_owned() };
        let row = |name: &str, state| PolicyRow::without_component(name.to_owned(), state);
        let mut policies = vec![row("one", withdrawn()), row("two", missing("it is not in use"))];
        let wanted =
            vec![row("one", missing("again")), row("two", missing("no registry")), row("three", PolicyState::Fetching)];
        add_wanted(&mut policies, wanted);
        let wanted = [row("one", withdrawn()), row("two", missing("no registry")), row("three", PolicyState::Fetching)];
        assert_eq!(policies, wanted);
    }
}
