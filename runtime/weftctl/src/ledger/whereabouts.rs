//! `weftctl ledger import|export whereabouts`: migration between whereabouts' objects and the cluster ledger.

use std::path::PathBuf;

use anyhow::bail;
use clap::Args;
use ipnet::IpNet;
use weft_agent::claim::whereabouts::{self, ExportOptions, ImportOptions, Item, Moved};

use crate::output::Output;

#[derive(Debug, Args)]
pub(crate) struct ImportArgs {
    #[command(flatten)]
    common: Common,
    /// Skip addresses of pods that no longer exist. Check them first: a Pod object is deleted before its links.
    #[arg(long)]
    skip_stale: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ExportArgs {
    #[command(flatten)]
    common: Common,
    /// `network_name` of the networks, where they have one.
    #[arg(long, value_name = "NAME", default_value = "")]
    network: String,
    /// A range as the networks write it, for which there is no `IPPool` yet.
    #[arg(long = "range", value_name = "CIDR")]
    ranges: Vec<IpNet>,
}

#[derive(Debug, Args)]
struct Common {
    /// Show what would be written and what clashes, and change nothing.
    #[arg(long)]
    dry_run: bool,
    /// The namespace of whereabouts' objects.
    #[arg(long, value_name = "NAME", default_value = "kube-system")]
    namespace: String,
    /// The domain of networks without `network_name`.
    #[arg(long, value_name = "NAME", default_value = "default")]
    domain: String,
    /// Credentials for the API server.
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
}

pub(super) fn import(args: &ImportArgs, output: Output) -> anyhow::Result<()> {
    let Common { dry_run, namespace, domain, kubeconfig } = &args.common;
    let moved = whereabouts::import(&ImportOptions {
        kubeconfig: kubeconfig.clone(),
        namespace: namespace.clone(),
        domain: domain.clone(),
        skip_stale: args.skip_stale,
        dry_run: *dry_run,
    })?;
    print(&moved, *dry_run, output)
}

pub(super) fn export(args: &ExportArgs, output: Output) -> anyhow::Result<()> {
    let Common { dry_run, namespace, domain, kubeconfig } = &args.common;
    let moved = whereabouts::export(&ExportOptions {
        kubeconfig: kubeconfig.clone(),
        namespace: namespace.clone(),
        domain: domain.clone(),
        network: args.network.clone(),
        ranges: args.ranges.clone(),
        dry_run: *dry_run,
    })?;
    print(&moved, *dry_run, output)
}

/// Prints every address in its list. Conflicts are an error, so that a script stops.
fn print(moved: &Moved, dry_run: bool, output: Output) -> anyhow::Result<()> {
    let would = if dry_run { "would be " } else { "" };
    let mut lines = Vec::new();
    let mut list = |head: &str, items: &[Item]| {
        lines.extend(items.iter().map(|item| format!("{head}: {} ({}) of {}", item.address, item.domain, item.who)));
    };
    list(&format!("{would}written"), &moved.written);
    list(&format!("{would}removed"), &moved.removed);
    list("kept", &moved.kept);
    list("its pod is gone", &moved.stale);
    list("conflict", &moved.conflicts);
    lines.extend(moved.unreadable.iter().map(|text| format!("left out: {text}")));
    lines.push(format!(
        "{} {would}written, {} {would}removed, {} kept, {} there already, {} of pods that are gone, {} conflicts, {} left out",
        moved.written.len(),
        moved.removed.len(),
        moved.kept.len(),
        moved.unchanged,
        moved.stale.len(),
        moved.conflicts.len(),
        moved.unreadable.len()
    ));
    output.lines(moved, &lines)?;
    if moved.conflicts.is_empty() {
        return Ok(());
    }
    bail!("{} addresses have two owners: see which pods run, and delete one of each two", moved.conflicts.len())
}
