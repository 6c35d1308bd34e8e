//! `weftctl ledger`: lists claims, releases addresses manually, and migrates to and from the stock plugin's directory.

mod host_local;
mod rebuild;
mod scopes;
mod seen;
#[cfg(feature = "agent")]
mod whereabouts;

use std::net::IpAddr;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::Subcommand;
use serde_json::json;
use weft_core::attach::{NetnsState, netns_state};
use weft_core::ledger::{ClaimFilter, ClaimRow, remote};
use weft_core::netlink;
use weft_core::store::NodeStore;
use weft_host_abi::types::ClaimState;

use crate::output::{Output, ago};

#[derive(Debug, Subcommand)]
pub(crate) enum LedgerCommand {
    /// List claims.
    Ls {
        /// Only this network.
        #[arg(long, value_name = "NAME")]
        network: Option<String>,
    },
    /// Release an address by hand, for an attachment that no longer exists.
    Release {
        /// The network (the ledger's scope, as `ls` shows it).
        network: String,
        /// The address.
        address: IpAddr,
        /// Release the address even if the container's network namespace still exists.
        #[arg(long)]
        force: bool,
    },
    /// Rebuild indexes and counters from the claims and the journal, if `doctor` finds only those wrong.
    Repair,
    /// Rebuild a lost ledger from the containers that run on this node.
    Rebuild(rebuild::RebuildArgs),
    #[cfg(feature = "agent")]
    #[command(flatten)]
    Cluster(crate::cluster::ClusterCommand),
    /// Import the claims of another IPAM plugin.
    #[command(subcommand)]
    Import(ImportCommand),
    /// Export the claims to another IPAM plugin.
    #[command(subcommand)]
    Export(ExportCommand),
}

#[derive(Debug, Subcommand)]
pub(crate) enum ImportCommand {
    /// From the stock host-local plugin's directory.
    HostLocal(host_local::ImportArgs),
    /// From whereabouts' objects, into the cluster ledger. Run it again to follow what changes there.
    #[cfg(feature = "agent")]
    Whereabouts(whereabouts::ImportArgs),
}

#[derive(Debug, Subcommand)]
pub(crate) enum ExportCommand {
    /// As the stock host-local plugin's directory.
    HostLocal(host_local::ExportArgs),
    /// As whereabouts' objects, from the cluster ledger.
    #[cfg(feature = "agent")]
    Whereabouts(whereabouts::ExportArgs),
}

pub(crate) fn run(command: &LedgerCommand, state: &Path, output: Output) -> anyhow::Result<ExitCode> {
    match command {
        LedgerCommand::Ls { network } => list(network.as_deref(), state, output)?,
        LedgerCommand::Release { network, address, force } => release(network, *address, *force, state, output)?,
        LedgerCommand::Rebuild(args) => rebuild::run(args, state, output)?,
        LedgerCommand::Repair => repair(state, output)?,
        #[cfg(feature = "agent")]
        LedgerCommand::Cluster(command) => return crate::cluster::run(command, state, output),
        #[cfg(feature = "agent")]
        LedgerCommand::Import(ImportCommand::Whereabouts(args)) => whereabouts::import(args, output)?,
        #[cfg(feature = "agent")]
        LedgerCommand::Export(ExportCommand::Whereabouts(args)) => whereabouts::export(args, output)?,
        LedgerCommand::Import(ImportCommand::HostLocal(args)) => host_local::import(args, state, output)?,
        LedgerCommand::Export(ExportCommand::HostLocal(args)) => host_local::export(args, state, output)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn open(state: &Path) -> anyhow::Result<NodeStore> {
    Ok(NodeStore::open_unless(state, &weft_core::netlink::boot_id()?, &weft_core::attach::no_attachments)?)
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
    json!({ "scope": row.scope, "network": row.network, "address": row.address, "state": row.state, "owner": row.owner,
            "ifname": row.ifname, "since": row.since, "until": row.until })
}

pub(crate) fn state_text(row: &ClaimRow) -> String {
    match row.state {
        ClaimState::Active => "active".to_owned(),
        ClaimState::Kept => "kept".to_owned(),
        ClaimState::Cooldown => format!("cooldown {}s", seconds_left(row)),
        ClaimState::Conflict => format!("conflict {}s", seconds_left(row)),
    }
}

/// Returns the seconds until a claim ends by itself.
fn seconds_left(row: &ClaimRow) -> u64 {
    row.until.unwrap_or_default().saturating_sub(weft_core::facts::now().unwrap_or_default())
}

/// An address that a container uses would be allocated twice.
fn release(network: &str, address: IpAddr, force: bool, state: &Path, output: Output) -> anyhow::Result<()> {
    // Check first, so that a mistyped command does not make a store.
    drop(existing(state)?);
    let mut store = open(state)?;
    let holder = store
        .entries(None)?
        .into_iter()
        .find(|entry| entry.claims.iter().any(|(scope, claimed)| scope == network && *claimed == address));
    if let Some(entry) = holder.filter(|_| !force) {
        let container_id = &entry.key.attachment.container_id;
        if netns_state(&entry) == NetnsState::There {
            bail!(
                "{address} is in use: the namespace {} of container {container_id} exists; delete the container, or use --force",
                entry.record.netns,
            );
        }
        if netlink::addresses_in_use()?.contains(&address) {
            bail!(
                "{address} is in use: a link in a network namespace has it; delete container {container_id}, or use --force"
            );
        }
    }
    // `link_first`: another node would get the address while a link of this one has it.
    if network.starts_with(&remote::scope("")) && netlink::addresses_in_use()?.contains(&address) {
        bail!(
            "{address} is in use: a link in a network namespace has it, and another node would get it; delete the container, or the address on that link"
        );
    }
    let in_cluster = store.release_address(network, address, (true, weft_core::facts::now()?))?;
    let document = json!({ "network": network, "address": address, "released": true, "inCluster": in_cluster });
    let then = if in_cluster { "; this node's agent gives it back to the cluster ledger" } else { "" };
    output.lines(&document, &[format!("released {address} on {network}{then}")])
}

fn repair(state: &Path, output: Output) -> anyhow::Result<()> {
    drop(existing(state)?);
    let mut store = open(state)?;
    let before = store.integrity()?;
    store.repair(weft_core::facts::now()?)?;
    let after = store.integrity()?;
    let mut lines: Vec<String> = before.iter().map(|problem| format!("found: {problem}")).collect();
    lines.extend(after.iter().map(|problem| format!("still wrong: {problem}")));
    lines.push(format!("{} problems found, {} left", before.len(), after.len()));
    output.lines(&json!({ "found": before, "left": after }), &lines)?;
    if after.is_empty() {
        Ok(())
    } else {
        bail!("the ledger is damaged beyond its indexes; docs/ledger-format.md says what to do")
    }
}
