//! `weftctl ledger`: what is claimed, giving an address back by hand, and moving to and from the stock plugin's directory.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::Subcommand;
use serde_json::json;
use weft_core::ledger::{ClaimFilter, ClaimRow, NodeStore, RowState};

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
        LedgerCommand::Import(ImportCommand::HostLocal { dir }) => {
            let mut store = open(state)?;
            let report = store.import_host_local(dir, weft_core::facts::now()?)?;
            let lines = report.lines();
            output.lines(&report, &lines)?;
        }
        LedgerCommand::Export(ExportCommand::HostLocal { dir, network }) => {
            let store = existing(state)?;
            let report = store.export_host_local(dir, network.as_deref())?;
            let lines = report.lines();
            output.lines(&report, &lines)?;
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
    let state = match row.state {
        RowState::Active => "active",
        RowState::Cooldown { .. } => "cooldown",
        RowState::Kept => "kept",
    };
    let until = match row.state {
        RowState::Cooldown { until } => Some(until),
        RowState::Active | RowState::Kept => None,
    };
    json!({ "network": row.scope, "address": row.address, "state": state, "owner": row.owner, "ifname": row.ifname,
            "since": row.since, "until": until })
}

fn state_text(row: &ClaimRow) -> String {
    match row.state {
        RowState::Active => "active".to_owned(),
        RowState::Kept => "kept".to_owned(),
        RowState::Cooldown { until } => {
            let left = weft_core::facts::now().map_or(0, |now| until.saturating_sub(now));
            format!("cooldown {left}s")
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
    let mut store = existing(state).and_then(|_exists| open(state))?;
    if !force {
        let holder = store.entries(None)?.into_iter().find(|entry| {
            entry.claims.iter().any(|(scope, claimed)| scope == network && *claimed == address)
        });
        if let Some(entry) = holder
            && !entry.record.netns.is_empty()
            && Path::new(&entry.record.netns).exists()
        {
            bail!(
                "{address} is in use: the namespace {} of container {} exists; delete the container, or use --force",
                entry.record.netns,
                entry.key.attachment.container_id
            );
        }
    }
    if !store.release_address(network, address)? {
        bail!("{address} is not claimed on {network:?}; `weftctl ledger ls` shows what is");
    }
    let document = json!({ "network": network, "address": address, "released": true });
    output.lines(&document, &[format!("released {address} on {network}")])
}
