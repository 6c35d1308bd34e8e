//! DEL: needs only the journal. Continues after failures, reports all of them, and can be repeated.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::call::Call;
use super::error::AttachError;
use super::error_text::in_full;
use super::lock::Lock;
use super::node::{Context, Node};
use super::recorded_netns::RecordedNetns;
use super::{chained, external, lease, liveness, record, remove, stock_del};
use crate::conf::{Network, Object};
use crate::delegate;
use crate::netlink::{self, Executor};
use crate::plan::{Op, Plan};
use crate::store::{Key, Role};

/// Removes an attachment. Never waits for an ADD of it that is running: see `remove`.
///
/// # Errors
/// What could not be removed; it stays in the journal, and DEL can be repeated.
pub fn del(node: &mut Node<'_>, call: &Call) -> Result<(), AttachError> {
    let key = call.key();
    let problems = match Lock::for_removal(&node.context.state_dir, &key)? {
        Some(_lock) => present(node, call, &key)?,
        // An ADD is at work, so no rebuild is.
        None => {
            remove::mark(node, call, &key)?;
            match Lock::for_removal(&node.context.state_dir, &key)? {
                Some(_lock) => present(node, call, &key)?,
                None => Vec::new(),
            }
        }
    };
    remove::all_marked(node, call)?;
    if problems.is_empty() { Ok(()) } else { Err(AttachError::Teardown { problems }) }
}

/// Runs DEL when no ADD is at work.
fn present(node: &mut Node<'_>, call: &Call, key: &Key) -> Result<Vec<String>, AttachError> {
    node.leave_moved_store();
    let mut problems = Vec::new();
    let own = node.store()?.entry(key)?;
    // `weft-pod` attaches nothing that it does not journal, so without an entry there is nothing.
    let is_of_pod = call.of_pod().is_some();
    if key.role == Role::Steps {
        // A mark stands for the DELs of other steps too.
        let only = (!node.store()?.is_marked_removed(key)?).then(|| call.persona.name());
        match own {
            Some(entry) => problems.extend(chained::remove(node, call, &entry, only)),
            None if is_of_pod => {}
            None => problems.extend(stock_del::del(node, call, key)?.unwrap_or_default()),
        }
    } else {
        if own.is_none() {
            lease::release_unknown(&mut node.log, call);
        }
        if own.is_none() && !is_of_pod {
            problems.extend(match (stock_del::del(node, call, key)?, left_behind(call)) {
                (Some(problems), _) => problems,
                (None, Some(file)) => made_by_stock(node, call, &file)?,
                (None, None) => unknown(node, call)?,
            });
        }
        problems.extend(remove::with_companions(node, call, key)?);
    }
    if problems.is_empty() {
        problems.extend(remove::clear_mark(node, key));
    }
    Ok(problems)
}

/// Returns the file that a stock plugin with delegates left for this container. The journal does not know such
/// attachments.
fn left_behind(call: &Call) -> Option<PathBuf> {
    let file = call.network.select()?.left_behind(&call.env.container_id)?;
    file.is_file().then_some(file)
}

/// Runs DEL for what the stock plugin made before the node was switched to weft: its file contains the delegate's
/// configuration. An unreadable file is ignored, as the stock plugin does.
fn made_by_stock(node: &mut Node<'_>, call: &Call, file: &Path) -> Result<Vec<String>, AttachError> {
    let problems = match stock_delegate(node.context, call, file) {
        Ok(delegated) => unknown(node, &delegated)?,
        Err(error) => {
            node.log(&format!("failed to parse netconf {}: {error}", file.display()));
            return Ok(Vec::new());
        }
    };
    if problems.is_empty() {
        // The file may be gone already; the work is done.
        drop(std::fs::remove_file(file));
    }
    Ok(problems)
}

fn stock_delegate(context: &Context, call: &Call, file: &Path) -> Result<Call, String> {
    let text = std::fs::read(file).map_err(|error| error.to_string())?;
    let value = serde_json::from_slice(&text).map_err(|error| error.to_string())?;
    let conf = Object::from_value(value).map_err(|error| error.to_string())?;
    let network = Network::delegate_for_stock_del(&conf, &|name| context.has_policy(name));
    Ok(call.with_conf(conf, network.map_err(|error| error.to_string())?))
}

/// Returns whether an entry of the journal has a link of that name in the namespace at a path.
fn has_others_link(node: &mut Node<'_>, path: &Path, ifname: &str) -> Result<bool, AttachError> {
    let (identity, cookie) = (netlink::netns_identity(path)?, netlink::netns_cookie(path));
    let has_link = |plan: &Plan| {
        let is_link = |op: &Op| op.made_link().is_some() || matches!(op, Op::TakeDevice(_));
        plan.ops.iter().any(is_link) && plan.container.is_some() && plan.container == identity
    };
    let is_same = |plan: &Plan| plan.cookie.is_none() || cookie.is_none() || plan.cookie == cookie;
    let named = node.store()?.entries(None)?.into_iter().filter(|entry| entry.key.attachment.ifname == ifname);
    // A damaged entry is reported by its own DEL.
    let mut plans = named.filter_map(|entry| record::plan(&entry).ok().flatten());
    Ok(plans.any(|plan| has_link(&plan) && is_same(&plan)))
}

/// DEL of an attachment the journal does not know: it is gone already, or the stock plugin made it before the node was
/// switched to weft. In the second case its link is deleted as that plugin would; addresses come from an imported ledger.
/// A link of that name may also belong to the container that has the path by now.
fn unknown(node: &mut Node<'_>, call: &Call) -> Result<Vec<String>, AttachError> {
    let Some(delegate) = call.network.delegate().and_then(|conf| delegate::find(&conf.kind)) else {
        if call.network.external_delegate().is_some() {
            return Ok(external::del_unknown(call));
        }
        return Ok(Vec::new());
    };
    let Some(path) = liveness::living_netns(&call.env.netns, RecordedNetns::default())? else { return Ok(Vec::new()) };
    let mut executor = Executor::open(Some(path))?;
    // The journal is read last: it is as long as there are attachments, and a repeated DEL finds no link.
    if executor.same_netns()?
        || !executor.has_container_link(&call.env.ifname)?
        || has_others_link(node, path, &call.env.ifname)?
    {
        return Ok(Vec::new());
    }
    let plan = Plan { ops: vec![delegate.link_op(&call.env.ifname)], ..Plan::default() };
    Ok(executor.teardown(&plan, &BTreeSet::new()).iter().map(|left| in_full(left)).collect())
}
