//! `weftctl ledger import|export host-local`: migration to and from the stock plugin's directory.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use anyhow::ensure;
use clap::Args;
use serde_json::json;
use weft_core::attach::{NetnsState, netns_state};
use weft_core::commit::HostLocalImport;
use weft_core::conf::data_dir_of;
use weft_core::journal::Record;
use weft_core::ledger::{HostLocalExport, NetworkExport, NetworkImport, SkipReason};
use weft_core::netlink;
use weft_host_abi::types::Attachment;

use super::cached::{self, Cached};
use super::{existing, open};
use crate::networks::Networks;
use crate::output::Output;

#[derive(Debug, Args)]
pub(crate) struct ImportArgs {
    /// A network's directory, or the one that holds all of them (its `dataDir`).
    #[arg(default_value = "/var/lib/cni/networks")]
    dir: PathBuf,
    #[command(flatten)]
    sources: Sources,
}

#[derive(Debug, Args)]
pub(crate) struct ExportArgs {
    /// The directory that gets one directory per network [default: each network's `dataDir`, where the stock plugin looks].
    dir: Option<PathBuf>,
    /// Only this network.
    #[arg(long, value_name = "NAME")]
    network: Option<String>,
    #[command(flatten)]
    sources: Sources,
}

/// Additional sources about networks and attachments.
#[derive(Debug, Args)]
struct Sources {
    /// Where the runtime's library keeps results: an attachment it does not know is gone.
    #[arg(long, value_name = "DIR", default_value = cached::DIR)]
    cni_cache: PathBuf,
    /// Directory of network configurations.
    #[arg(long, value_name = "DIR", default_value = "/etc/cni/net.d")]
    conf_dir: PathBuf,
}

/// Shows that an attachment is gone. Without libcni's cache, this is unknown.
struct Known {
    cache: Vec<Cached>,
    in_use: BTreeSet<IpAddr>,
}

impl Known {
    fn look(sources: &Sources) -> anyhow::Result<Self> {
        Ok(Self { cache: cached::read(&sources.cni_cache), in_use: netlink::addresses_in_use()? })
    }

    fn is_gone(&self, network: &str, container_id: &str) -> bool {
        let is_it = |cached: &Cached| cached.network == network && cached.container_id == container_id;
        !self.cache.is_empty() && !self.cache.iter().any(is_it)
    }

    fn is_stale(&self, attachment: &Attachment, address: IpAddr) -> bool {
        self.is_gone(&attachment.network, &attachment.container_id) && !self.in_use.contains(&address)
    }
}

/// Returns the directory with those of networks; `None` if the given one is a network's own.
fn data_dir(dir: &Path, network: &str) -> Option<PathBuf> {
    let absolute = std::path::absolute(dir).unwrap_or_else(|_unusable| dir.to_owned());
    absolute.join(network).is_dir().then_some(absolute)
}

pub(super) fn import(args: &ImportArgs, state: &Path, output: Output) -> anyhow::Result<()> {
    let networks = Networks::read(&args.sources.conf_dir);
    let known = Known::look(&args.sources)?;
    let record = Record::default();
    let report = open(state)?.import_host_local(&HostLocalImport {
        dir: &args.dir,
        scope_of: &|network| networks.scope_in(network, data_dir(&args.dir, network).as_deref()),
        record: &record,
        is_stale: &|attachment, address| known.is_stale(attachment, address),
        is_dead: &|entry| netns_state(entry) == NetnsState::Gone,
        now: weft_core::facts::now()?,
    })?;
    let mut lines = Vec::new();
    for network in &report.networks {
        lines.push(format!(
            "{}: {} addresses imported, {} known already, {} files left out",
            network.scope,
            network.imported,
            network.already,
            network.skipped.len()
        ));
        for skipped in &network.skipped {
            lines.push(format!("  {}: {}", skipped.file.display(), skipped.reason));
        }
    }
    let all: Vec<_> = report.networks.iter().map(imported).collect();
    output.lines(&all, &lines)?;
    let twice = report.networks.iter().flat_map(|network| &network.skipped);
    let twice = twice.filter(|skipped| skipped.reason == SkipReason::Taken).count();
    ensure!(
        twice == 0,
        "{twice} addresses are on two attachments (see above): delete one of the pods, and import again"
    );
    Ok(())
}

fn imported(network: &NetworkImport) -> serde_json::Value {
    let skipped: Vec<_> = network
        .skipped
        .iter()
        .map(|skipped| json!({ "file": skipped.file, "reason": skipped.reason.to_string() }))
        .collect();
    json!({ "network": network.network, "scope": network.scope, "imported": network.imported, "already": network.already,
            "skipped": skipped })
}

pub(super) fn export(args: &ExportArgs, state: &Path, output: Output) -> anyhow::Result<()> {
    let confs = Networks::read(&args.sources.conf_dir);
    let known = Known::look(&args.sources)?;
    let networks = args.network.as_ref().map(|network| vec![network.clone()]);
    let report = existing(state)?.export_host_local(&HostLocalExport {
        dir_of: &|network, scope| match &args.dir {
            Some(dir) => dir.join(network),
            None => Path::new(data_dir_of(network, scope)).join(network),
        },
        networks: networks.as_deref(),
        scope_of: &|network| confs.scope(network),
        is_gone: &|network, container_id| known.is_gone(network, container_id),
    })?;
    let mut lines = Vec::new();
    for network in &report.networks {
        lines.push(format!(
            "{}: {} files written to {}, {} as they should be already, {} stale ones deleted",
            network.network,
            network.written,
            network.dir.display(),
            network.unchanged,
            network.removed
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
            "unchanged": network.unchanged, "removed": network.removed, "leftOut": left_out })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_networks_own_directory_lies_in_the_data_directory() {
        let top = tempfile::tempdir().unwrap();
        std::fs::create_dir(top.path().join("blue")).unwrap();
        assert_eq!(data_dir(&top.path().join("blue"), "blue"), None);
        assert_eq!(data_dir(top.path(), "blue").as_deref(), Some(top.path()));
    }
}
