//! The store: is it whole, does it hold attachments whose container is gone, and is the agent there for those that need it?

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use weft_core::agent;
use weft_core::netlink;
use weft_core::plan::Plan;
use weft_core::store::NodeStore;

use super::Finding;

pub(super) fn look(state: &Path) -> Vec<Finding> {
    let store = match NodeStore::open_read_only(state) {
        Ok(Some(store)) => store,
        Ok(None) => return vec![Finding::ok("ledger", "none yet: no attachment was made")],
        Err(error) => return vec![broken(&error)],
    };
    let mut findings = Vec::new();
    match store.integrity() {
        Ok(problems) if problems.is_empty() => findings.push(Finding::ok("ledger", "whole")),
        Ok(problems) => findings.push(Finding::fail(
            "ledger",
            problems.join("; "),
            "export it (`weftctl ledger export host-local DIR`), move weft.db away, and import it again",
        )),
        Err(error) => findings.push(broken(&error)),
    }
    findings.push(stale(&store));
    findings.extend(agents(&store));
    findings
}

fn broken(error: &dyn std::error::Error) -> Finding {
    let mut detail = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        detail.push_str(": ");
        detail.push_str(&cause.to_string());
        source = cause.source();
    }
    Finding::fail(
        "ledger",
        detail,
        "see docs/ledger-format.md; a damaged store can be moved away, then import what is known",
    )
}

/// The agents that attachments have their leases from: without them leases end, and links go down.
fn agents(store: &NodeStore) -> Vec<Finding> {
    let entries = store.entries(None).unwrap_or_default();
    let plans = entries.iter().filter_map(|entry| serde_json::from_str::<Plan>(&entry.record.plan).ok());
    let mut leases: BTreeMap<PathBuf, usize> = BTreeMap::new();
    for lease in plans.filter_map(|plan| plan.lease) {
        *leases.entry(lease.socket).or_default() += 1;
    }
    let finding = |(socket, count): (PathBuf, usize)| match agent::reach::<agent::Lease>(&socket) {
        Ok(()) => Finding::ok("agent", format!("at {}, for {count} attachments with DHCP", socket.display())),
        Err(error) => {
            let detail = format!("away, and {count} attachments have their addresses by DHCP: {error}");
            Finding::fail("agent", detail, "start `weftctl agent` (docs/dhcp.md has a unit for systemd)")
        }
    };
    leases.into_iter().map(finding).collect()
}

/// Entries whose namespace is gone, or that another boot wrote: their addresses are held for nobody.
fn stale(store: &NodeStore) -> Finding {
    let entries = match store.entries(None) {
        Ok(entries) => entries,
        Err(error) => return broken(&error),
    };
    let boot = netlink::boot_id().unwrap_or_default();
    let total = entries.len();
    let stale: Vec<_> = entries
        .into_iter()
        .filter(|entry| {
            let netns = &entry.record.netns;
            entry.boot_id != boot || (!netns.is_empty() && !Path::new(netns).exists())
        })
        .collect();
    let Some(first) = stale.first() else {
        return Finding::ok("journal", format!("{total} attachments, all with their namespace"));
    };
    let attachment = &first.key.attachment;
    Finding::warn(
        "journal",
        format!(
            "{} of {total} attachments have lost their namespace, such as {} of container {} on {:?}",
            stale.len(),
            attachment.ifname,
            attachment.container_id,
            attachment.network
        ),
        "the runtime's DEL or GC releases them; by hand: `weftctl ledger release NETWORK ADDRESS`",
    )
}
