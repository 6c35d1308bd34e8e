//! `weftctl ledger`: what is claimed, giving an address back by hand, and moving to and from the stock plugin's directory.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::Subcommand;
use serde_json::json;
use weft_core::commit::HostLocalImport;
use weft_core::journal::Record;
use weft_core::ledger::{ClaimFilter, ClaimRow, HostLocalExport, NetworkExport, NetworkImport};
use weft_core::store::NodeStore;
use weft_host_abi::types::ClaimState;

use crate::output::Output;

#[derive(Debug, Subcommand)]
pub(crate) enum LedgerCommand {
    /// List claims.
    Ls {
        /// Only this network.
        #[arg(long, value_name = "NAME")]
        network: Option<String>,
    },
    /// Give an address back by hand, for an attachment that is gone for good.
    Release {
        /// The network (the ledger's scope, as `ls` shows it).
        network: String,
        /// The address.
        address: IpAddr,
        /// Although the container's namespace still exists.
        #[arg(long)]
        force: bool,
    },
    /// Take over the claims of another IPAM.
    #[command(subcommand)]
    Import(ImportCommand),
    /// Write the claims in another IPAM's form.
    #[command(subcommand)]
    Export(ExportCommand),
}

#[derive(Debug, Subcommand)]
pub(crate) enum ImportCommand {
    /// From the stock host-local plugin's directory.
    HostLocal {
        /// A network's directory, or the one that holds all of them.
        #[arg(default_value = "/var/lib/cni/networks")]
        dir: PathBuf,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum ExportCommand {
    /// As the stock host-local plugin's directory.
    HostLocal {
        /// The directory that gets one directory per network.
        dir: PathBuf,
        /// Only this network.
        #[arg(long, value_name = "NAME")]
        network: Option<String>,
    },
}

pub(crate) fn run(command: &LedgerCommand, state: &Path, output: Output) -> anyhow::Result<ExitCode> {
    match command {
        LedgerCommand::Ls { network } => list(network.as_deref(), state, output)?,
        LedgerCommand::Release { network, address, force } => release(network, *address, *force, state, output)?,
        LedgerCommand::Import(ImportCommand::HostLocal { dir }) => import(dir, state, output)?,
        LedgerCommand::Export(ExportCommand::HostLocal { dir, network }) => {
            export(dir, network.as_deref(), state, output)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn open(state: &Path) -> anyhow::Result<NodeStore> {
    Ok(NodeStore::open(state, &weft_core::netlink::boot_id()?)?)
}

fn existing(state: &Path) -> anyhow::Result<NodeStore> {
    NodeStore::open_read_only(state)?.with_context(|| format!("there is no ledger in {} yet", state.display()))
}

/// The address domain of a network that keeps its addresses where the stock plugin does by default.
fn scope_of(network: &str) -> String {
    network.to_owned()
}

fn import(dir: &Path, state: &Path, output: Output) -> anyhow::Result<()> {
    let record = Record::default();
    let now = weft_core::facts::now()?;
    let report = open(state)?.import_host_local(&HostLocalImport { dir, scope_of: &scope_of, record: &record, now })?;
    let mut lines = Vec::new();
    for network in &report.networks {
        lines.push(format!(
            "{}: {} addresses imported, {} known already, {} files left out",
            network.network,
            network.imported,
            network.already,
            network.skipped.len()
        ));
        for skipped in &network.skipped {
            lines.push(format!("  {}: {}", skipped.file.display(), skipped.reason));
        }
    }
    let networks: Vec<_> = report.networks.iter().map(imported).collect();
    output.lines(&networks, &lines)
}

fn imported(network: &NetworkImport) -> serde_json::Value {
    let skipped: Vec<_> = network
        .skipped
        .iter()
        .map(|skipped| json!({ "file": skipped.file, "reason": skipped.reason.to_string() }))
        .collect();
    json!({ "network": network.network, "imported": network.imported, "already": network.already, "skipped": skipped })
}

fn export(dir: &Path, network: Option<&str>, state: &Path, output: Output) -> anyhow::Result<()> {
    let networks = network.map(|network| vec![network.to_owned()]);
    let ask = HostLocalExport { dir, networks: networks.as_deref(), scope_of: &scope_of };
    let report = existing(state)?.export_host_local(&ask)?;
    let mut lines = Vec::new();
    for network in &report.networks {
        lines.push(format!(
            "{}: {} files written to {}, {} as they should be already",
            network.network,
            network.written,
            network.dir.display(),
            network.unchanged
        ));
        for left in &network.left_out {
            lines.push(format!("  {} left out: {}", left.address, left.reason));
        }
    }
    let networks: Vec<_> = report.networks.iter().map(exported).collect();
    output.lines(&networks, &lines)
}

fn exported(network: &NetworkExport) -> serde_json::Value {
    let left_out: Vec<_> =
        network.left_out.iter().map(|left| json!({ "address": left.address, "reason": left.reason })).collect();
    json!({ "network": network.network, "dir": network.dir, "written": network.written,
            "unchanged": network.unchanged, "leftOut": left_out })
}

fn list(network: Option<&str>, state: &Path, output: Output) -> anyhow::Result<()> {
    let rows = match NodeStore::open_read_only(state)? {
        Some(store) => store.claims(&ClaimFilter { network: network.map(str::to_owned), ..ClaimFilter::default() })?,
        None => Vec::new(),
    };
    let cells = rows.iter().map(|row| {
        vec![
            row.scope.clone(),
            row.address.to_string(),
            state_text(row),
            row.owner.clone(),
            row.ifname.clone(),
            ago(row.since),
        ]
    });
    let document: Vec<_> = rows.iter().map(row_document).collect();
    output.table(&document, &["network", "address", "state", "owner", "interface", "age"], cells.collect())
}

fn row_document(row: &ClaimRow) -> serde_json::Value {
    json!({ "scope": row.scope, "network": row.network, "address": row.address, "state": row.state, "owner": row.owner,
            "ifname": row.ifname, "since": row.since, "until": row.until })
}

fn state_text(row: &ClaimRow) -> String {
    match row.state {
        ClaimState::Active => "active".to_owned(),
        ClaimState::Kept => "kept".to_owned(),
        ClaimState::Cooldown => {
            let now = weft_core::facts::now().unwrap_or_default();
            format!("cooldown {}s", row.until.unwrap_or_default().saturating_sub(now))
        }
    }
}

fn ago(since: u64) -> String {
    let seconds = weft_core::facts::now().map_or(0, |now| now.saturating_sub(since));
    match seconds {
        0..=119 => format!("{seconds}s"),
        120..=7_199 => format!("{}m", seconds / 60),
        7_200..=172_799 => format!("{}h", seconds / 3_600),
        _ => format!("{}d", seconds / 86_400),
    }
}

/// An address of a container that still has its namespace would be handed out twice.
fn release(network: &str, address: IpAddr, force: bool, state: &Path, output: Output) -> anyhow::Result<()> {
    // Looked for first, so that a mistyped command does not make a store.
    drop(existing(state)?);
    let mut store = open(state)?;
    let holder = store
        .entries(None)?
        .into_iter()
        .find(|entry| entry.claims.iter().any(|(scope, claimed)| scope == network && *claimed == address));
    if let Some(entry) = &holder
        && !force
        && !entry.record.netns.is_empty()
        && Path::new(&entry.record.netns).exists()
    {
        bail!(
            "{address} is in use: the namespace {} of container {} exists; delete the container, or use --force",
            entry.record.netns,
            entry.key.attachment.container_id
        );
    }
    store.release_address(network, address, true)?;
    let document = json!({ "network": network, "address": address, "released": true });
    output.lines(&document, &[format!("released {address} on {network}")])
}
