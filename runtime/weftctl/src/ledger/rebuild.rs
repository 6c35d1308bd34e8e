//! `weftctl ledger rebuild`: rebuilds a lost ledger from what is running on the node.
//!
//! `seen` finds the attachments and what DEL must remove of them, `scopes` where their addresses are claimed. What
//! belongs to no attachment is removed at once, because it would lead to the next container with the address.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Args;
use serde_json::json;
use weft_core::attach::{Lock, NetnsState, netns_state, plans};
use weft_core::commit::Running;
use weft_core::facts::CACHE_DIR;
use weft_core::journal::Entry;
use weft_core::netlink::{self, Executor, FilterOf, Shaper};
use weft_core::plan::{CreateIfb, Op, Plan};
use weft_core::store::{NodeStore, Role};
use weft_host_abi::types::Attachment;

use super::scopes::{ScopeArgs, Scopes};
use super::seen::Seen;
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
    let in_use = netlink::addresses_in_use()?;
    let filters = netlink::found_filters()?;
    let seen = Seen::look(&args.cni_cache, unknown(&filters, state))?;
    let running = seen.running(&in_use, &mut scopes)?;
    scopes.ensure_known()?;
    // What chained steps did belongs to an attachment that is listed anyway.
    let listed: Vec<&Running> = running.iter().filter(|one| one.key.role != Role::Steps).collect();
    let mut lines: Vec<String> = listed.iter().map(|one| describe(one)).collect();
    let bare = listed.iter().filter(|one| one.addresses.is_empty()).count();
    if args.dry_run {
        lines.push(format!("{} attachments would be taken over; nothing was changed", listed.len()));
        return output.lines(&listed.iter().map(|one| document(one)).collect::<Vec<_>>(), &lines);
    }
    let boot_id = netlink::boot_id()?;
    let is_dead = |entry: &Entry| netns_state(entry) == NetnsState::Gone;
    let report = NodeStore::rebuild(state, &boot_id, weft_core::facts::now()?, (&running, &is_dead))?;
    // The addresses of these are unknown, so their elements look like those of ended attachments.
    let unseen = listed.iter().filter(|one| one.addresses.is_empty() && one.record.netns.is_empty()).count();
    let mut removed = if unseen == 0 { remove_filters(state, filters, &in_use)? } else { Vec::new() };
    removed.extend(remove_shapers(state, &seen.shapers)?);
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
        listed.len(),
        report.entries,
        report.claims
    ));
    for op in &removed {
        lines.push(format!("removed what belongs to no attachment: {op}"));
    }
    let taken: Vec<_> =
        report.taken.iter().map(|(scope, address)| json!({ "scope": scope, "address": address })).collect();
    let document = json!({ "attachments": listed.iter().map(|one| document(one)).collect::<Vec<_>>(), "entries": report.entries,
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

/// Returns the ops that no entry in what is left of the journal has. A host port belongs to one entry.
fn unknown(filters: &[(FilterOf, Op)], state: &Path) -> Vec<(FilterOf, Op)> {
    let store = NodeStore::open_read_only(state).ok().flatten();
    let entries = store.and_then(|store| store.entries(None).ok()).unwrap_or_default();
    let held: BTreeSet<String> = entries.into_iter().flat_map(|entry| entry.record.shared).collect();
    let is_held = |op: &Op| matches!(op, Op::HostPort(_)) && op.shared_name().is_some_and(|name| held.contains(&name));
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

/// Removes the devices that shaped attachments which the ledger does not know. Returns what they were.
fn remove_shapers(state: &Path, shapers: &[Shaper]) -> anyhow::Result<Vec<Op>> {
    let store = NodeStore::open_read_only(state)?.context("the rebuilt ledger is gone")?;
    let known: BTreeSet<Attachment> = store.entries(None)?.into_iter().map(|entry| entry.key.attachment).collect();
    let is_of_nobody = |shaper: &&Shaper| {
        let named = shaper.label.as_deref().and_then(netlink::parse_label);
        let attachment = named.map(|(network, container_id, ifname)| Attachment {
            network: network.to_owned(),
            container_id: container_id.to_owned(),
            ifname: ifname.to_owned(),
        });
        !shaper.in_use && attachment.is_some_and(|attachment| !known.contains(&attachment))
    };
    let op = |shaper: &Shaper| Op::CreateIfb(CreateIfb { name: shaper.name.clone(), like: String::new() });
    let ops: Vec<Op> = shapers.iter().filter(is_of_nobody).map(op).collect();
    let plan = Plan { ops: ops.clone(), ..Plan::default() };
    match Executor::open(None)?.teardown(&plan, &BTreeSet::new()).into_iter().next() {
        Some(left) => Err(anyhow::Error::new(left.cause).context(format!("cannot {}", left.what))),
        None => Ok(ops),
    }
}
