//! CHECK of a pod: checks all its networks in the journal's list.

use super::attachment::Progress;
use super::call::PodCall;
use super::del;
use super::plugin::{self, Sandbox};
use super::record::{self, PodRecord};
use crate::attach::Node;
use crate::cni::{CniError, code};

/// Checks all networks of a pod.
///
/// # Errors
/// The error of the first network that differs; code 3 if the journal does not know the
/// sandbox.
pub fn check(node: &mut Node<'_>, call: &PodCall) -> Result<(), CniError> {
    let container_id = &call.env.container_id;
    let unknown = || {
        let msg = format!("no networks of container {container_id} are known to this node");
        CniError::new(code::UNKNOWN_CONTAINER, msg)
    };
    let entry = record::find(node, &call.key()).map_err(|error| error.to_cni())?.ok_or_else(unknown)?;
    let record = PodRecord::read(&entry)?;
    let sandbox = Sandbox { netns: call.env.netns.clone(), ..del::sandbox_of(call, &record) };
    for attachment in &record.attachments {
        let named = |error: CniError| {
            let msg = format!("network {} on {}: {}", attachment.label, attachment.ifname, error.msg);
            CniError { msg, ..error }
        };
        if attachment.progress != Progress::Done {
            return Err(named(CniError::new(code::UNKNOWN_CONTAINER, "it was never completely attached")));
        }
        plugin::check(node, &sandbox, attachment).map_err(named)?;
    }
    Ok(())
}
