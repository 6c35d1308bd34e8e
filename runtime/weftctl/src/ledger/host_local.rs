//! `weftctl ledger import|export host-local`: migration to and from the stock plugin's directory.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use anyhow::ensure;
use clap::Args;
use serde_json::json;
use weft_core::agent::SOCKET;
use weft_core::attach::{NetnsState, netns_state};
use weft_core::commit::HostLocalImport;
use weft_core::conf::data_dir_of;
use weft_core::facts::{CACHE_DIR, Cached, cached};
use weft_core::journal::Record;
use weft_core::ledger::{HostLocalExport, NetworkExport, NetworkImport, SkipReason};
use weft_core::netlink;
use weft_host_abi::types::Attachment;

use super::{existing, open};
use crate::networks::Networks;
use crate::output::Output;

#[derive(Debug, Args)]
pub(crate) struct ImportArgs {
    /// A network's directory, or the one that holds all of them (its `dataDir`).
    #[arg(default_value = "/var/lib/cni/networks")]
    dir: PathBuf,
    /// The agent's socket: the agent knows the definitions of the cluster.
    #[arg(long, value_name = "PATH", default_value = SOCKET)]
    socket: PathBuf,
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
    /// Directory of the runtime's cached results (libcni). An attachment without a result no longer exists.
    #[arg(long, value_name = "DIR", default_value = CACHE_DIR)]
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
        Ok(Self { cache: cached(&sources.cni_cache), in_use: netlink::addresses_in_use()? })
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

/// The node's ledger keeps an address only from pods of this node: in a cluster ledger other nodes would get it.
fn refuse_cluster(dir: &Path, networks: &Networks) -> anyhow::Result<()> {
    let absolute = std::path::absolute(dir).unwrap_or_else(|_unusable| dir.to_owned());
    let inside = std::fs::read_dir(&absolute).into_iter().flatten().flatten().map(|entry| entry.file_name());
    let names = absolute.file_name().map(std::ffi::OsStr::to_owned).into_iter().chain(inside);
    let names = names.map(|name| name.to_string_lossy().into_owned());
    let of_cluster: Vec<String> = names.filter(|name| networks.is_of_cluster(name)).collect();
    ensure!(
        of_cluster.is_empty(),
        "nothing was imported: these networks draw on a cluster ledger, which would give their addresses out on other nodes: {}; move their pods first: give the network to new pods with \"exclude\" or another range, delete the old pods on every node, and delete these directories",
        of_cluster.join(", ")
    );
    Ok(())
}

pub(super) fn import(args: &ImportArgs, state: &Path, output: Output) -> anyhow::Result<()> {
    let mut networks = Networks::read(&args.sources.conf_dir);
    // Without an agent, the files are all there is.
    drop(networks.ask(&args.socket));
    refuse_cluster(&args.dir, &networks)?;
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
    fn nothing_is_imported_into_a_network_of_a_cluster_ledger() {
        let (top, conf) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        for name in ["blue", "red"] {
            std::fs::create_dir(top.path().join(name)).unwrap();
        }
        let write = |name: &str, ledger: &str| {
            let conf_of = json!({"name": name, "type": "weft", "ledger": {"type": ledger}, "ipam": {}});
            std::fs::write(conf.path().join(format!("{name}.conf")), conf_of.to_string()).unwrap();
        };
        let refused = |dir: &Path| refuse_cluster(dir, &Networks::read(conf.path())).is_err();
        write("blue", "node");
        write("green", "kubernetes");
        assert!(!refused(top.path()));
        write("red", "kubernetes");
        assert!(refused(top.path()) && refused(&top.path().join("red")) && !refused(&top.path().join("blue")));
    }

    #[test]
    fn a_networks_own_directory_lies_in_the_data_directory() {
        let top = tempfile::tempdir().unwrap();
        std::fs::create_dir(top.path().join("blue")).unwrap();
        assert_eq!(data_dir(&top.path().join("blue"), "blue"), None);
        assert_eq!(data_dir(top.path(), "blue").as_deref(), Some(top.path()));
    }
}
