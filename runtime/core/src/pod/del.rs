//! DEL of a pod: needs only the journal. Removes attachments last first, continues after failures, reports all of them,
//! and leaves what failed in the journal for the next DEL (R31). `multus_del` is about pods that the journal does not know.

use std::path::Path;
use std::time::Duration;

use super::attachment::Progress;
use super::call::PodCall;
use super::device_info;
use super::multus_del;
use super::plugin::{self, Sandbox};
use super::record::{self, PodRecord, Unchanged};
use crate::attach::{self, Node, called_netns, recorded_netns};
use crate::cni::{CniError, code};
use crate::journal::Entry;
use crate::store::Key;

/// Detaches a pod from all its networks.
///
/// # Errors
/// What could not be removed, the last attachment first. DEL can be repeated.
pub fn del(node: &mut Node<'_>, call: &PodCall) -> Result<(), CniError> {
    let Some(entry) = record::find(node, &call.key()).map_err(|error| error.to_cni())? else {
        remove_left(node, call)?;
        return multus_del::del(node, call);
    };
    let record = PodRecord::read(&entry)?;
    let netns = called_netns(&call.env.netns, record.recorded()).to_owned();
    let sandbox = Sandbox { netns, ..sandbox_of(call, &record) };
    remove_entry(node, &sandbox, &entry.key, record)
}

/// Removes what an ADD left that was killed after another DEL had removed the pod's entry.
fn remove_left(node: &mut Node<'_>, call: &PodCall) -> Result<(), CniError> {
    let pod = (call.env.container_id.as_str(), call.env.ifname.as_str());
    match attach::remove_left(node, pod, &call.path()) {
        Ok(problems) if problems.is_empty() => Ok(()),
        Ok(problems) => Err(CniError::new(code::LEFTOVERS, problems.join(" / "))),
        Err(error) => Err(error.to_cni()),
    }
}

/// Returns where the plugins of a record run. The runtime's path comes first: plugins may have moved since ADD.
pub(super) fn sandbox_of(call: &PodCall, record: &PodRecord) -> Sandbox {
    let mut path = call.path();
    path.extend(record.path.iter().filter(|dir| !call.path().contains(dir)).cloned().collect::<Vec<_>>());
    Sandbox {
        netns: recorded_netns(&record.netns, record.recorded()).to_owned(),
        path,
        limit: Duration::from_secs(record.plugin_timeout_seconds.max(1)),
        ..call.sandbox()
    }
}

/// Removes the attachments of an entry, and deletes the entry unless something is left.
pub(super) fn remove_entry(
    node: &mut Node<'_>,
    sandbox: &Sandbox,
    key: &Key,
    record: PodRecord,
) -> Result<(), CniError> {
    // Take the entry over before removing anything: a running ADD finds at its next step that it no longer counts.
    let taken = PodRecord { nonce: PodRecord::new(Vec::new()).nonce, ..record.clone() };
    match record::replace(node, key, &record.nonce, Some(&taken)) {
        Ok(()) => {}
        // Another DEL is at work, or the ADD has just taken everything back.
        Err(Unchanged::Superseded) => return Ok(()),
        Err(Unchanged::Failed(error)) => return Err(error),
    }
    let nonce = taken.nonce.clone();
    let (left, mut problems) = remove(node, sandbox, taken, Scope::Everything);
    let kept = left.is_attempted().then_some(&left);
    if let Err(Unchanged::Failed(error)) = record::replace(node, key, &nonce, kept) {
        problems.push(error);
    }
    match problems.as_slice() {
        [] => Ok(()),
        [only] => Err(only.clone()),
        many => {
            let texts: Vec<String> = many.iter().map(ToString::to_string).collect();
            let number = many.iter().map(|error| error.code).find(|code| *code == code::TRY_AGAIN);
            Err(CniError::new(number.unwrap_or(code::LEFTOVERS), texts.join(" / ")))
        }
    }
}

/// Which attachments a removal covers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scope {
    /// Those for which this process called plugins.
    Attempted,
    /// Also those for which a running or killed ADD may have called plugins since it wrote its entry.
    Everything,
}

/// Removes the attachments, last first. Returns the record of the remaining ones, and the problems.
pub(super) fn remove(
    node: &mut Node<'_>,
    sandbox: &Sandbox,
    mut record: PodRecord,
    scope: Scope,
) -> (PodRecord, Vec<CniError>) {
    let mut problems = Vec::new();
    let mut left = Vec::new();
    for mut attachment in std::mem::take(&mut record.attachments).into_iter().rev() {
        // An external plugin is called only after its attempt is journalled. Our own plugins have their own journal
        // entries.
        let maybe = scope == Scope::Everything && !PodRecord::has_external(&attachment);
        if attachment.progress == Progress::Planned && !maybe {
            continue;
        }
        let mut found = plugin::del(node, sandbox, &attachment);
        if let Some(error) = attachment.device_info.as_ref().and_then(|files| device_info::remove(files).err()) {
            let msg = format!("cannot remove the device info of {}: {error}", attachment.label);
            found.push(CniError::new(code::IO, msg));
        }
        if !found.is_empty() {
            attachment.progress = Progress::Attempted;
            left.push(attachment);
        }
        problems.extend(found);
    }
    left.reverse();
    record.attachments = left;
    (record, problems)
}

/// Removes a pod that no runtime knows any more, for the agent's sweep and the operator's tool. `netns` is the path under
/// which this process finds the pod's namespace, if that is not the recorded one.
///
/// # Errors
/// What could not be removed; it stays in the journal.
pub fn remove_pod(node: &mut Node<'_>, entry: &Entry, netns: Option<&Path>) -> Result<(), CniError> {
    let record = PodRecord::read(entry)?;
    let path = netns.map_or_else(|| record.netns.clone(), |path| path.display().to_string());
    let sandbox = Sandbox {
        container_id: entry.key.attachment.container_id.clone(),
        ifname: entry.key.attachment.ifname.clone(),
        netns: recorded_netns(&path, record.recorded()).to_owned(),
        path: record.path.clone(),
        limit: Duration::from_secs(record.plugin_timeout_seconds.max(1)),
        deadline: None,
        facts: None,
    };
    remove_entry(node, &sandbox, &entry.key, record)
}
