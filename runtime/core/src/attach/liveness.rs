//! Whether an attachment still lives: its namespace is there and is the same one, or a link of it is left on the host.

use super::error::AttachError;
use super::{chain, record, teardown};
use crate::journal::Entry;
use crate::netlink::Executor;
use crate::plan::Plan;
use crate::store::Role;

/// The plans of an entry, each with the netns path of its ADD.
pub(super) fn plans(entry: &Entry) -> Result<Vec<(String, Plan)>, AttachError> {
    match entry.key.role {
        Role::Steps => Ok(chain::listed(entry)?.into_iter().map(|chained| (chained.netns, chained.plan)).collect()),
        // It lists attachments, each of which has an entry of its own.
        Role::Pod => Ok(Vec::new()),
        Role::Attachment | Role::Ipam => {
            Ok(record::plan(entry)?.into_iter().map(|plan| (entry.record.netns.clone(), plan)).collect())
        }
    }
}

/// Whether what a plan made may still be in use. In doubt it is: an ADD that is still running has its namespace, but no link yet.
pub(super) fn is_alive(host: &Executor, (netns, plan): &(String, Plan)) -> Result<bool, AttachError> {
    let is_there = teardown::container(netns, plan.container.as_deref())?.is_some();
    Ok(is_there || host.has_host_link(plan)?)
}
