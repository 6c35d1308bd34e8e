//! `weftctl ledger rebuild`: rebuilds a lost ledger from what is running on the node.
//!
//! Links of attachments carry a label with network, container and interface; libcni's cache lists the runtime's
//! attachments. An attachment that is only in the cache counts if one of its addresses is in use. `scopes` finds out
//! where its addresses are claimed.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Args;
use ipnet::IpNet;
use serde_json::json;
use weft_core::attach::{NetnsState, netns_state};
use weft_core::commit::Running;
use weft_core::delegate;
use weft_core::journal::{Entry, Record};
use weft_core::netlink::{self, Survivor};
use weft_core::plan::{Op, Plan};
use weft_core::store::{Key, NodeStore, Role};
use weft_host_abi::types::Attachment;

use super::cached::{self, Cached};
use super::scopes::{ScopeArgs, Scopes};
use crate::networks::Networks;
use crate::output::Output;

#[derive(Debug, Args)]
pub(crate) struct RebuildArgs {
    /// Where the runtime's library keeps results.
    #[arg(long, value_name = "DIR", default_value = cached::DIR)]
    cni_cache: PathBuf,
    /// Directory of network configurations.
    #[arg(long, value_name = "DIR", default_value = "/etc/cni/net.d")]
    conf_dir: PathBuf,
    #[command(flatten)]
    scopes: ScopeArgs,
    /// Show what would be taken over, change nothing.
    #[arg(long)]
    dry_run: bool,
}

pub(super) fn run(args: &RebuildArgs, state: &Path, output: Output) -> anyhow::Result<()> {
    let mut scopes = Scopes::look(&args.scopes, Networks::read(&args.conf_dir), state);
    let survivors = netlink::survivors().context("cannot list what runs on this node")?;
    let in_use = netlink::addresses_in_use()?;
    let cache = cached::read(&args.cni_cache);
    let running = running(&survivors, &cache, &in_use, &mut scopes)?;
    scopes.ensure_known()?;
    let mut lines: Vec<String> = running.iter().map(describe).collect();
    let unknown = running.iter().filter(|one| one.addresses.is_empty()).count();
    if args.dry_run {
        lines.push(format!("{} attachments would be taken over; nothing was changed", running.len()));
        return output.lines(&running.iter().map(document).collect::<Vec<_>>(), &lines);
    }
    let boot_id = netlink::boot_id()?;
    let is_dead = |entry: &Entry| netns_state(entry) == NetnsState::Gone;
    let report = NodeStore::rebuild(state, &boot_id, weft_core::facts::now()?, (&running, &is_dead))?;
    for path in &report.moved {
        lines.push(format!("moved what was no store to {}", path.display()));
    }
    for (scope, address) in &report.taken {
        lines.push(format!("{address} in {scope} is in use twice: the ledger has another attachment for it"));
    }
    if unknown > 0 {
        lines.push(format!("{unknown} attachments show no address (layer 2, or their namespace has no path)"));
    }
    lines.push(format!(
        "{} attachments run; {} entries and {} addresses were added to the ledger",
        running.len(),
        report.entries,
        report.claims
    ));
    lines.push("restart the agent of this node, if it runs".to_owned());
    let taken: Vec<_> =
        report.taken.iter().map(|(scope, address)| json!({ "scope": scope, "address": address })).collect();
    let document = json!({ "attachments": running.iter().map(document).collect::<Vec<_>>(), "entries": report.entries,
                           "claims": report.claims, "moved": report.moved, "inUseTwice": taken });
    output.lines(&document, &lines)
}

fn describe(running: &Running) -> String {
    let Attachment { network, container_id, ifname } = &running.key.attachment;
    let addresses: Vec<String> = running.addresses.iter().map(IpAddr::to_string).collect();
    let (addresses, scopes) = (addresses.join(", "), running.scopes.join(", "));
    format!("{ifname} of container {container_id} on network {network}: {addresses} in {scopes}")
}

fn document(running: &Running) -> serde_json::Value {
    let Attachment { network, container_id, ifname } = &running.key.attachment;
    json!({ "network": network, "containerID": container_id, "ifname": ifname, "scopes": running.scopes,
            "netns": running.record.netns, "addresses": running.addresses })
}

/// Returns all running attachments: those with a label, and unlabelled ones in the cache that use their address.
fn running(
    survivors: &[Survivor],
    cache: &[Cached],
    in_use: &BTreeSet<IpAddr>,
    scopes: &mut Scopes,
) -> anyhow::Result<Vec<Running>> {
    let mut all = Vec::new();
    for survivor in survivors {
        let attachment = Attachment {
            network: survivor.network.clone(),
            container_id: survivor.container_id.clone(),
            ifname: survivor.ifname.clone(),
        };
        let mut addresses: Vec<IpAddr> = survivor.addresses.iter().map(IpNet::addr).collect();
        let cached = cache.iter().find(|cached| is_same(cached, &attachment));
        if addresses.is_empty() {
            addresses.extend(cached.iter().flat_map(|cached| cached.addresses.iter().copied()));
        }
        let config = cached.and_then(|cached| cached.config.as_ref());
        all.push(Running {
            scopes: scopes.of(&attachment.network, config, !addresses.is_empty()),
            key: Key { attachment, role: Role::Attachment },
            addresses,
            record: record(survivor)?,
        });
    }
    for cached in cache {
        let labelled = all.iter().any(|one| is_same(cached, &one.key.attachment));
        if labelled || !cached.addresses.iter().any(|address| in_use.contains(address)) {
            continue;
        }
        let attachment = Attachment {
            network: cached.network.clone(),
            container_id: cached.container_id.clone(),
            ifname: cached.ifname.clone(),
        };
        all.push(Running {
            scopes: scopes.of(&attachment.network, cached.config.as_ref(), true),
            key: Key { attachment, role: Role::Ipam },
            addresses: cached.addresses.clone(),
            record: Record { netns: cached.netns.clone().unwrap_or_default(), ..Record::default() },
        });
    }
    Ok(all)
}

fn is_same(cached: &Cached, attachment: &Attachment) -> bool {
    cached.network == attachment.network
        && cached.container_id == attachment.container_id
        && cached.ifname == attachment.ifname
}

/// Returns what DEL needs: the link by its kind, and the masquerading of its addresses, if any.
fn record(survivor: &Survivor) -> anyhow::Result<Record> {
    let link = match (survivor.kind.as_str(), &survivor.host_link) {
        ("veth", Some(host)) => {
            Some(Op::CreateVeth { container: survivor.ifname.clone(), host: host.clone(), mtu: None, mac: None })
        }
        ("tun", _) => delegate::find("tap").map(|delegate| delegate.bare(&survivor.ifname)),
        (kind, _) => delegate::find(kind).map(|delegate| delegate.bare(&survivor.ifname)),
    };
    let masquerade = survivor.addresses.iter().map(|address| Op::Masquerade { address: *address });
    let (netns, container) = survivor.netns.clone().unzip();
    let plan = Plan {
        ops: link.into_iter().chain(masquerade).collect(),
        container,
        label: netlink::label(&survivor.network, &survivor.container_id, &survivor.ifname),
        ..Plan::default()
    };
    Ok(Record {
        netns: netns.map(|path| path.display().to_string()).unwrap_or_default(),
        shared: plan.shared(),
        plan: serde_json::to_string(&plan).context("cannot write a plan")?,
        ..Record::default()
    })
}
