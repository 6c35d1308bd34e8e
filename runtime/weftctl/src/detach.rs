//! `weftctl gc` and `detach`: remove attachments manually, like a runtime's DEL.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::ExitCode;

use anyhow::bail;
use clap::Args;
use serde_json::json;
use weft_core::attach::{self, Call, Context, NetnsState, Node, netns_state};
use weft_core::journal::Entry;
use weft_core::netlink;
use weft_core::pod::remove_pod;
use weft_core::store::{NodeStore, Role};
use weft_host_abi::types::Attachment;

use crate::output::Output;

#[derive(Debug, Args)]
pub(crate) struct GcArgs {
    /// Show what would be removed, change nothing.
    #[arg(long)]
    dry_run: bool,
}

#[derive(Debug, Args)]
pub(crate) struct DetachArgs {
    /// Container id, or a unique prefix of it.
    container: String,
    /// Only this interface.
    #[arg(long, value_name = "NAME")]
    ifname: Option<String>,
    /// Only this network.
    #[arg(long, value_name = "NAME")]
    network: Option<String>,
    /// Remove attachments even if the container's network namespace still exists.
    #[arg(long)]
    force: bool,
    /// Show what would be removed, change nothing.
    #[arg(long)]
    dry_run: bool,
}

/// Removes all attachments whose namespace is gone.
pub(crate) fn gc(args: &GcArgs, state: &Path, output: Output) -> anyhow::Result<ExitCode> {
    let entries = entries(state)?;
    let with = |wanted: NetnsState| {
        entries.iter().filter(move |entry| netns_state(entry) == wanted).map(|entry| entry.key.attachment.clone())
    };
    // An attachment may have several entries, and one of them may know more than the others.
    let alive: BTreeSet<Attachment> = with(NetnsState::There).collect();
    let dead: BTreeSet<Attachment> = with(NetnsState::Gone).filter(|attachment| !alive.contains(attachment)).collect();
    let in_use: BTreeSet<&str> = alive.iter().map(|attachment| attachment.container_id.as_str()).collect();
    let targets = targets(&entries, |entry| {
        let attachment = &entry.key.attachment;
        dead.contains(attachment) && (entry.key.role != Role::Pod || !in_use.contains(attachment.container_id.as_str()))
    });
    remove(&targets, args.dry_run, state, output)
}

/// What to remove.
enum Target {
    /// A pod of `weft-pod`: all its networks, and what other vendors' plugins hold.
    Pod(Box<Entry>),
    Attachment(Attachment),
}

/// Returns what the chosen entries stand for. Pods come first, because only their entries know the order of their
/// networks and the plugins of other vendors.
fn targets(entries: &[Entry], is_chosen: impl Fn(&Entry) -> bool) -> Vec<Target> {
    let (pods, others): (Vec<&Entry>, Vec<&Entry>) =
        entries.iter().filter(|entry| is_chosen(entry)).partition(|entry| entry.key.role == Role::Pod);
    let attachments: BTreeSet<&Attachment> = others.iter().map(|entry| &entry.key.attachment).collect();
    let pods = pods.into_iter().map(|entry| Target::Pod(Box::new(entry.clone())));
    pods.chain(attachments.into_iter().cloned().map(Target::Attachment)).collect()
}

pub(crate) fn detach(args: &DetachArgs, state: &Path, output: Output) -> anyhow::Result<ExitCode> {
    let mut entries = entries(state)?;
    entries.retain(|entry| {
        let Attachment { network, container_id, ifname } = &entry.key.attachment;
        // The entry of a pod stands for all its interfaces.
        let is_ifname = |wanted: &String| wanted == ifname && entry.key.role != Role::Pod;
        container_id.starts_with(&args.container)
            && args.ifname.as_ref().is_none_or(is_ifname)
            && args.network.as_ref().is_none_or(|wanted| wanted == network)
    });
    let containers: BTreeSet<&str> = entries.iter().map(|entry| entry.key.attachment.container_id.as_str()).collect();
    match containers.len() {
        0 => bail!("no attachment matches {:?}; `weftctl ps --wide` lists all attachments", args.container),
        1 => {}
        count => bail!("{count} container ids begin with {:?}; write more of the id", args.container),
    }
    if let Some(entry) = entries.iter().find(|entry| netns_state(entry) == NetnsState::There)
        && !args.force
        && !args.dry_run
    {
        bail!(
            "the namespace {} of container {} exists; stop the container, or use --force to remove its attachments anyway",
            entry.record.netns,
            entry.key.attachment.container_id
        );
    }
    if let Some(entry) = entries.iter().find(|entry| netlink::is_path_of_other_pids(Path::new(&entry.record.netns))) {
        bail!(
            "the namespace {} of container {} belongs to a process of another PID namespace, so its links cannot be removed from here; run this on the node, or in a pod with hostPID",
            entry.record.netns,
            entry.key.attachment.container_id
        );
    }
    remove(&targets(&entries, |_entry| true), args.dry_run, state, output)
}

fn entries(state: &Path) -> anyhow::Result<Vec<Entry>> {
    match NodeStore::open_read_only(state)? {
        Some(store) => Ok(store.entries(None)?),
        None => Ok(Vec::new()),
    }
}

/// Runs DEL of each; reports failures and continues.
fn remove(targets: &[Target], dry_run: bool, state: &Path, output: Output) -> anyhow::Result<ExitCode> {
    let (mut lines, mut documents, mut failed) = (Vec::new(), Vec::new(), 0_usize);
    let context = Context::new(state.to_owned());
    let mut node = Node::new(&context);
    for target in targets {
        let outcome = if dry_run { Ok(()) } else { del(&mut node, &context, target) };
        let state = match &outcome {
            Ok(()) if dry_run => "would be removed".to_owned(),
            Ok(()) => "removed".to_owned(),
            Err(error) => format!("not removed: {error:#}"),
        };
        failed += usize::from(outcome.is_err());
        let (attachment, is_pod) = match target {
            Target::Pod(entry) => (&entry.key.attachment, true),
            Target::Attachment(attachment) => (attachment, false),
        };
        let Attachment { network, container_id, ifname } = attachment;
        let what = if is_pod { "all networks of the pod" } else { ifname.as_str() };
        lines.push(format!("{what} of container {container_id} on {network}: {state}"));
        documents.push(json!({ "network": network, "containerID": container_id, "ifname": ifname, "pod": is_pod,
                               "removed": outcome.is_ok() && !dry_run, "error": outcome.err().map(|error| format!("{error:#}")) }));
    }
    if lines.is_empty() {
        lines.push("no attachment has lost its namespace".to_owned());
    }
    output.lines(&documents, &lines)?;
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn del(node: &mut Node<'_>, context: &Context, target: &Target) -> anyhow::Result<()> {
    let attachment = match target {
        Target::Pod(entry) => return remove_pod(node, entry, None).map_err(|error| anyhow::anyhow!("{error}")),
        Target::Attachment(attachment) => attachment,
    };
    let call = Call::del_of(context, attachment, Vec::new())?;
    attach::del(node, &call).map_err(|error| anyhow::anyhow!("{}", error.chain()))
}
