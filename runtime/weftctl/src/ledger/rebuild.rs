//! `weftctl ledger rebuild`: rebuilds a lost ledger from what is running on the node.
//!
//! Links of attachments carry a label with network, container and interface; libcni's cache lists the runtime's
//! attachments. An attachment that is only in the cache counts if one of its addresses is in use. `scopes` finds out
//! where its addresses are claimed. nftables has what DEL must remove besides the links: it is found by the
//! attachment's addresses, link and bridge. What belongs to no attachment is removed at once, because it would lead to
//! the next container with the address.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Args;
use ipnet::IpNet;
use serde_json::json;
use weft_core::attach::{Lock, NetnsState, netns_state, plans};
use weft_core::commit::Running;
use weft_core::delegate;
use weft_core::facts::{CACHE_DIR, Cached, cached};
use weft_core::journal::{Entry, Record};
use weft_core::netlink::{self, Executor, FilterOf, Survivor};
use weft_core::plan::{Op, Plan};
use weft_core::store::{Key, NodeStore, Role};
use weft_host_abi::types::Attachment;

use super::scopes::{ScopeArgs, Scopes};
use crate::networks::Networks;
use crate::output::Output;

#[derive(Debug, Args)]
pub(crate) struct RebuildArgs {
    /// Where the runtime's library keeps results.
    #[arg(long, value_name = "DIR", default_value = CACHE_DIR)]
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
    // From the first look on: an ADD would make what is not seen, and write it into a store that is moved aside.
    let _lock = if args.dry_run { None } else { Some(Lock::for_rebuild(state)?) };
    let mut scopes = Scopes::look(&args.scopes, Networks::read(&args.conf_dir), state);
    let survivors = netlink::survivors().context("cannot list what runs on this node")?;
    let in_use = netlink::addresses_in_use()?;
    let filters = netlink::found_filters()?;
    let cache = cached(&args.cni_cache);
    let unknown_filters = unknown(&filters, state);
    let running = running((&survivors, &unknown_filters), &cache, &in_use, &mut scopes)?;
    scopes.ensure_known()?;
    let mut lines: Vec<String> = running.iter().map(describe).collect();
    let bare = running.iter().filter(|one| one.addresses.is_empty()).count();
    if args.dry_run {
        lines.push(format!("{} attachments would be taken over; nothing was changed", running.len()));
        return output.lines(&running.iter().map(document).collect::<Vec<_>>(), &lines);
    }
    let boot_id = netlink::boot_id()?;
    let is_dead = |entry: &Entry| netns_state(entry) == NetnsState::Gone;
    let report = NodeStore::rebuild(state, &boot_id, weft_core::facts::now()?, (&running, &is_dead))?;
    // The addresses of these are unknown, so their elements look like those of ended attachments.
    let unseen = running.iter().filter(|one| one.addresses.is_empty() && one.record.netns.is_empty()).count();
    let removed = if unseen == 0 { remove_filters(state, filters, &in_use)? } else { Vec::new() };
    for path in &report.moved {
        lines.push(format!("moved what was no store to {}", path.display()));
    }
    for (scope, address) in &report.taken {
        lines.push(format!("{address} in {scope} is in use twice: the ledger has another attachment for it"));
    }
    if bare > 0 {
        lines.push(format!("{bare} attachments show no address (layer 2, or their namespace has no path)"));
    }
    if unseen > 0 {
        lines.push(format!(
            "nftables elements of ended attachments were left: {unseen} attachments have a namespace without a path, and \
             may need them; run this again when these pods have ended"
        ));
    }
    lines.push(format!(
        "{} attachments run; {} entries and {} addresses were added to the ledger",
        running.len(),
        report.entries,
        report.claims
    ));
    for op in &removed {
        lines.push(format!("removed what belongs to no attachment: {op}"));
    }
    let taken: Vec<_> =
        report.taken.iter().map(|(scope, address)| json!({ "scope": scope, "address": address })).collect();
    let document = json!({ "attachments": running.iter().map(document).collect::<Vec<_>>(), "entries": report.entries,
                           "claims": report.claims, "moved": report.moved, "inUseTwice": taken,
                           "removed": removed.iter().map(ToString::to_string).collect::<Vec<_>>() });
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
    (survivors, filters): (&[Survivor], &[(FilterOf, Op)]),
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
            scopes: scopes.find(&attachment.network, config, !addresses.is_empty()),
            key: Key { attachment, role: Role::Attachment },
            record: record(survivor, &addresses, filters)?,
            addresses,
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
            scopes: scopes.find(&attachment.network, cached.config.as_ref(), true),
            key: Key { attachment, role: Role::Ipam },
            addresses: cached.addresses.clone(),
            record: record_of_addresses(cached, filters)?,
        });
    }
    Ok(all)
}

fn is_same(cached: &Cached, attachment: &Attachment) -> bool {
    cached.network == attachment.network
        && cached.container_id == attachment.container_id
        && cached.ifname == attachment.ifname
}

/// Returns what DEL needs: the link by its kind, and what nftables has for it. Its addresses may be masqueraded.
fn record(survivor: &Survivor, addresses: &[IpAddr], filters: &[(FilterOf, Op)]) -> anyhow::Result<Record> {
    let link = match (survivor.kind.as_str(), &survivor.host_link) {
        ("veth", Some(host)) => {
            Some(Op::CreateVeth { container: survivor.ifname.clone(), host: host.clone(), mtu: None, mac: None })
        }
        ("tun", _) => delegate::find("tap").map(|delegate| delegate.bare(&survivor.ifname)),
        (kind, _) => delegate::find(kind).map(|delegate| delegate.bare(&survivor.ifname)),
    };
    let mut ops: Vec<Op> = link.into_iter().collect();
    ops.extend(survivor.addresses.iter().map(|address| Op::Masquerade { address: *address }));
    let is_its_own = |of: &FilterOf| match of {
        FilterOf::Address(address) => addresses.contains(address),
        FilterOf::Link(link) => survivor.host_link.as_ref() == Some(link),
        FilterOf::Bridge(bridge) => survivor.bridge.as_ref() == Some(bridge),
    };
    for (_of, op) in filters.iter().filter(|(of, _op)| is_its_own(of)) {
        if !ops.contains(op) {
            ops.push(op.clone());
        }
    }
    let (netns, container) = survivor.netns.clone().unzip();
    let label = netlink::label(&survivor.network, &survivor.container_id, &survivor.ifname);
    let netns = netns.map(|path| path.display().to_string()).unwrap_or_default();
    planned(netns, Plan { ops, container, label, ..Plan::default() })
}

/// Returns what DEL of an address needs if another plugin made the link: what nftables has for the address.
fn record_of_addresses(cached: &Cached, filters: &[(FilterOf, Op)]) -> anyhow::Result<Record> {
    let of_address = |of: &FilterOf| matches!(of, FilterOf::Address(address) if cached.addresses.contains(address));
    let ops: Vec<Op> = filters.iter().filter(|(of, _op)| of_address(of)).map(|(_of, op)| op.clone()).collect();
    let netns = cached.netns.clone().unwrap_or_default();
    if ops.is_empty() {
        return Ok(Record { netns, ..Record::default() });
    }
    planned(netns, Plan { ops, ..Plan::default() })
}

fn planned(netns: String, plan: Plan) -> anyhow::Result<Record> {
    Ok(Record {
        netns,
        shared: plan.shared(),
        plan: serde_json::to_string(&plan).context("cannot write a plan")?,
        ..Record::default()
    })
}

/// Returns the ops that no entry in what is left of the journal has. A host port belongs to one entry.
fn unknown(filters: &[(FilterOf, Op)], state: &Path) -> Vec<(FilterOf, Op)> {
    let store = NodeStore::open_read_only(state).ok().flatten();
    let entries = store.and_then(|store| store.entries(None).ok()).unwrap_or_default();
    let held: BTreeSet<String> = entries.into_iter().flat_map(|entry| entry.record.shared).collect();
    let is_held = |op: &Op| matches!(op, Op::HostPort(_)) && op.shared().is_some_and(|name| held.contains(&name));
    filters.iter().filter(|(_of, op)| !is_held(op)).cloned().collect()
}

/// Removes what nftables has for attachments that the ledger does not know and that do not run. Returns what it was.
fn remove_filters(state: &Path, filters: Vec<(FilterOf, Op)>, in_use: &BTreeSet<IpAddr>) -> anyhow::Result<Vec<Op>> {
    let store = NodeStore::open_read_only(state)?.context("the rebuilt ledger is gone")?;
    let entries = store.entries(None)?;
    let mut needed: Vec<Op> = Vec::new();
    for entry in &entries {
        // Nobody knows what an unreadable one needs.
        let Ok(plans) = plans(entry) else { return Ok(Vec::new()) };
        needed.extend(plans.into_iter().flat_map(|(_netns, plan)| plan.ops));
    }
    let claimed: BTreeSet<IpAddr> =
        entries.iter().flat_map(|entry| &entry.claims).map(|(_, address)| *address).collect();
    let is_of_nobody = |(of, op): &(FilterOf, Op)| match of {
        FilterOf::Address(address) => !in_use.contains(address) && !claimed.contains(address),
        FilterOf::Link(_) | FilterOf::Bridge(_) => !needed.contains(op),
    };
    let ops: Vec<Op> = filters.into_iter().filter(is_of_nobody).map(|(_of, op)| op).collect();
    if !ops.is_empty() {
        let mut executor = Executor::open(None)?;
        executor.share_in(state);
        let plan = Plan { ops: ops.clone(), ..Plan::default() };
        executor.teardown_filters(&plan, &mut |_names| Ok(BTreeSet::new()))?;
    }
    Ok(ops)
}
