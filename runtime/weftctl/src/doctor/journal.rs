//! Checks the store: is it intact, does it have attachments whose container is gone, and is the agent running if they
//! need it?

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use weft_core::agent;
use weft_core::attach::{NetnsState, check_texts, netns_state, no_attachments, plans};
use weft_core::journal::Entry;
use weft_core::netlink;
use weft_core::store::{NodeStore, StoreError};

use super::Finding;

pub(super) fn check(state: &Path) -> Vec<Finding> {
    let store = match NodeStore::open_read_only(state) {
        Ok(Some(store)) => store,
        Ok(None) => {
            return vec![
                check_loss(state).unwrap_or_else(|| Finding::ok("ledger", "none yet: no attachment was made")),
            ];
        }
        Err(error) => return vec![broken(&error)],
    };
    let mut findings = Vec::new();
    findings.extend(check_loss(state));
    match store.integrity() {
        Ok(problems) if problems.is_empty() => findings.push(Finding::ok("ledger", "whole")),
        Ok(problems) => findings.push(Finding::fail(
            "ledger",
            problems.join("; "),
            "`weftctl ledger repair` makes indexes and counters again; what is left then: docs/ledger-format.md",
        )),
        Err(error) => findings.push(broken(&error)),
    }
    match store.entries(None) {
        Ok(entries) => {
            findings.push(stale(&entries));
            findings.extend(unreadable(&entries));
            findings.extend(agents(&entries));
        }
        Err(error) => findings.push(broken(&error)),
    }
    findings
}

/// Reports a store that was lost, or that has lost something. A new one would be refused then, so none is made.
fn check_loss(state: &Path) -> Option<Finding> {
    let boot_id = netlink::boot_id().ok()?;
    match NodeStore::check_loss(state, &boot_id, &no_attachments) {
        Ok(()) => None,
        Err(error) => Some(broken(&error)),
    }
}

/// Reports an error of the store. Only what is lost or no store is made again; of others, the error says what to do.
fn broken(error: &StoreError) -> Finding {
    let mut detail = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        detail.push_str(": ");
        detail.push_str(&cause.to_string());
        source = cause.source();
    }
    let remedy = match error {
        StoreError::Lost { .. } | StoreError::NotAStore { .. } => "weftctl ledger rebuild",
        StoreError::Damaged { .. } => "weftctl ledger repair; if that fails, weftctl ledger rebuild",
        _ => "",
    };
    Finding::fail("ledger", detail, remedy)
}

/// Checks the agents that hold attachments' leases: without them leases expire, and links go down.
fn agents(entries: &[Entry]) -> Vec<Finding> {
    let plans = entries.iter().flat_map(|entry| plans(entry).unwrap_or_default());
    let mut leases: BTreeMap<PathBuf, usize> = BTreeMap::new();
    for lease in plans.filter_map(|(_netns, plan)| plan.lease) {
        *leases.entry(lease.socket).or_default() += 1;
    }
    let finding = |(socket, count): (PathBuf, usize)| match agent::check_reachable::<agent::Lease>(&socket) {
        Ok(()) => Finding::ok("agent", format!("at {}, for {count} attachments with DHCP", socket.display())),
        Err(error) => {
            let detail = format!("away, and {count} attachments have their addresses by DHCP: {error}");
            Finding::fail("agent", detail, "start `weftctl agent` (docs/dhcp.md has a unit for systemd)")
        }
    };
    leases.into_iter().map(finding).collect()
}

/// Reports entries whose namespace is gone: their addresses are held for nobody.
fn stale(entries: &[Entry]) -> Finding {
    let total = entries.len();
    let stale: Vec<&Entry> = entries.iter().filter(|entry| netns_state(entry) == NetnsState::Gone).collect();
    let Some(first) = stale.first() else {
        return Finding::ok("journal", format!("{total} entries, none has lost its namespace"));
    };
    let attachment = &first.key.attachment;
    Finding::warn(
        "journal",
        format!(
            "{} of {total} entries have lost their namespace, such as {} of container {} on {:?}",
            stale.len(),
            attachment.ifname,
            attachment.container_id,
            attachment.network
        ),
        "the runtime's DEL or GC removes them; by hand: `weftctl gc --dry-run`, then `weftctl gc`",
    )
}

/// Reports entries with an unreadable text, for which DEL fails.
fn unreadable(entries: &[Entry]) -> Option<Finding> {
    let damaged: Vec<&Entry> = entries.iter().filter(|entry| check_texts(entry).is_err()).collect();
    let first = damaged.first()?;
    Some(Finding::fail(
        "journal",
        format!(
            "{} entries cannot be read, such as that of container {} on {:?}",
            damaged.len(),
            first.key.attachment.container_id,
            first.key.attachment.network
        ),
        "stop that container, then free its addresses with `weftctl ledger release --force`; docs/ledger-format.md",
    ))
}
