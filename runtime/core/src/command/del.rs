//! DEL: needs the journal alone. Goes on past failures, reports all of them, can be repeated.
//!
//! Order: links first, then other plugins, then the ledger: an address is off the link before it leaves the ledger.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::call::Call;
use super::error::in_full;
use super::{CommandError, external, lease, steps};
use crate::conf::{Network, Object};
use crate::delegate;
use crate::ledger::{Entry, Key, NodeStore, Role};
use crate::netlink::{self, Executor};
use crate::plan::Plan;

pub(super) fn run(call: &mut Call<'_>) -> Result<(), CommandError> {
    let mut store = call.open_store()?;
    let key = call.key();
    let mut problems = Vec::new();
    let own = store.entry(&key)?;
    if key.role == Role::Steps {
        let name = call.persona.name();
        problems.extend(own.map(|entry| steps::remove(call, &mut store, &entry, Some(name))).into_iter().flatten());
    } else {
        if own.is_none() {
            lease::release_unknown(call);
            problems.extend(match left_behind(call) {
                Some(file) => made_by_stock(call, &file)?,
                None => unknown(call)?,
            });
        }
        let (steps, ipam) = companions(&store, &key)?;
        for entry in steps.into_iter().chain(own).chain(ipam) {
            problems.extend(remove(call, &mut store, &entry));
        }
    }
    if !problems.is_empty() {
        return Err(CommandError::Teardown { problems });
    }
    call.refuse_own_netns()
}

/// Other entries that go with an attachment. What chained steps did goes first: by now the runtime has called DEL of those it
/// still knows, and the link is still there. An attachment whose IPAM ran under its own name (an external delegate, or a
/// claim imported from the stock plugin's directory) has an entry for that.
fn companions(store: &NodeStore, key: &Key) -> Result<(Option<Entry>, Option<Entry>), CommandError> {
    if key.role != Role::Attachment {
        return Ok((None, None));
    }
    let other = |role| store.entry(&Key { role, ..key.clone() });
    Ok((other(Role::Steps)?, other(Role::Ipam)?))
}

/// Undoes what an entry says and removes it, unless something is left. Returns what went wrong.
pub(super) fn remove(call: &mut Call<'_>, store: &mut NodeStore, entry: &Entry) -> Vec<String> {
    if entry.key.role == Role::Steps {
        return steps::remove(call, store, entry, None);
    }
    let mut problems = tear_down(call, store, entry);
    problems.extend(external::del_stored(call, entry));
    if !problems.is_empty() {
        return problems;
    }
    let released = crate::facts::now().map_err(CommandError::from).and_then(|now| Ok(store.release(&entry.key, now)?));
    released.err().map(|error| error.chain()).into_iter().collect()
}

fn tear_down(call: &mut Call<'_>, store: &NodeStore, entry: &Entry) -> Vec<String> {
    if entry.record.plan.is_empty() {
        return Vec::new();
    }
    let plan: Plan = match serde_json::from_str(&entry.record.plan) {
        Ok(plan) => plan,
        Err(error) => return vec![format!("the journal entry of {} is damaged: {error}", call.env.container_id)],
    };
    // Through the link, so before it goes.
    lease::release(call, &entry.key.attachment, plan.lease.as_ref());
    tear_down_plan(call, store, entry, &entry.record.netns, &plan, BTreeSet::new())
}

/// Tears one plan of an entry down; `netns` is the path at its ADD. `needed` names shared things that stay, besides those
/// that other entries hold.
pub(super) fn tear_down_plan(
    call: &mut Call<'_>,
    store: &NodeStore,
    entry: &Entry,
    netns: &str,
    plan: &Plan,
    needed: BTreeSet<String>,
) -> Vec<String> {
    if plan.ops.is_empty() {
        return Vec::new();
    }
    let keep = match store.shared_elsewhere(&entry.key, &plan.shared()) {
        Ok(keep) => keep.into_iter().chain(needed).collect(),
        Err(error) => return vec![error.to_string()],
    };
    let netns = if call.env.netns.is_empty() { netns } else { &call.env.netns }.to_owned();
    let executor = match container(&netns, plan.container.as_deref()) {
        Ok(path) => Executor::open(path),
        Err(error) => {
            // An unusable path must not keep the host's side from being cleaned.
            call.say(&error.to_string());
            Executor::open(None)
        }
    };
    match executor {
        Ok(mut executor) => executor.teardown(plan, &keep).iter().map(|left| in_full(left)).collect(),
        Err(error) => vec![CommandError::from(error).chain()],
    }
}

/// The path of the attachment's namespace, while it is that one. A namespace that is gone took its links along, and one
/// that has got its path since (`/proc/PID/ns/net` of another process) is none of ours.
fn container<'a>(netns: &'a str, identity: Option<&str>) -> Result<Option<&'a Path>, CommandError> {
    if netns.is_empty() {
        return Ok(None);
    }
    let path = Path::new(netns);
    let found = netlink::netns_identity(path)?;
    let same = found.is_some() && (identity.is_none() || found.as_deref() == identity);
    Ok(same.then_some(path))
}

/// The file a stock plugin with delegates left of this container; the journal knows nothing of its attachments.
fn left_behind(call: &Call<'_>) -> Option<PathBuf> {
    let file = call.network.select.as_ref()?.left_behind(&call.env.container_id)?;
    file.is_file().then_some(file)
}

/// DEL of what the stock plugin made before the node was switched to weft: its file has the delegate's configuration. One that
/// cannot be read says nothing, and the plugin goes on too.
fn made_by_stock(call: &mut Call<'_>, file: &Path) -> Result<Vec<String>, CommandError> {
    let network = std::fs::read(file)
        .map_err(|error| error.to_string())
        .and_then(|text| serde_json::from_slice(&text).map_err(|error| error.to_string()))
        .and_then(|value| Object::from_value(value).map_err(|error| error.to_string()))
        .and_then(|conf| {
            let network = Network::chosen_for_del(&conf, &|name| call.context.has_policy(name));
            Ok((network.map_err(|error| error.to_string())?, conf))
        });
    match network {
        Ok((network, conf)) => (call.network, call.conf) = (network, conf),
        Err(error) => {
            call.say(&format!("failed to parse netconf {}: {error}", file.display()));
            return Ok(Vec::new());
        }
    }
    let problems = unknown(call)?;
    if problems.is_empty() {
        // It may be gone already; what matters is done.
        drop(std::fs::remove_file(file));
    }
    Ok(problems)
}

/// DEL of an attachment the journal does not know: it is gone already, or the stock plugin made it before the node was
/// switched to weft. In the second case its link is deleted as that plugin would; addresses come from an imported ledger.
fn unknown(call: &mut Call<'_>) -> Result<Vec<String>, CommandError> {
    let Some(delegate) = call.network.delegate.as_ref().and_then(|conf| delegate::find(&conf.kind)) else {
        if call.network.delegate.as_ref().is_some_and(|delegate| !delegate.builtin) {
            return Ok(external::del_unknown(call));
        }
        return Ok(Vec::new());
    };
    let Some(path) = container(&call.env.netns, None)? else { return Ok(Vec::new()) };
    let mut executor = Executor::open(Some(path))?;
    if executor.same_netns()? {
        return Ok(Vec::new());
    }
    let plan = Plan { ops: vec![delegate.bare(&call.env.ifname)], ..Plan::default() };
    Ok(executor.teardown(&plan, &BTreeSet::new()).iter().map(|left| in_full(left)).collect())
}
