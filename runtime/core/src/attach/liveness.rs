//! Whether an attachment still lives: its network namespace is there and is the same one, or a link of it is left on the host.
//!
//! A namespace has an identity, which its path has not: `/proc/PID/ns/net` leads to another one in time.

use std::path::Path;

use super::error::AttachError;
use super::record;
use crate::journal::Entry;
use crate::netlink::{self, Executor, NetlinkError};
use crate::plan::Plan;

/// What is known of an attachment's network namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NetnsState {
    /// It is there: the one that the journal means, as far as the journal says which that was.
    There,
    /// It is gone, or its path leads to another one by now.
    Gone,
    /// The journal names none (an imported claim), or it cannot be looked at.
    Unknown,
}

/// Looks at the namespace of an entry.
#[must_use]
pub fn netns_state(entry: &Entry) -> NetnsState {
    // A damaged plan says nothing about the namespace; the path is known all the same.
    let recorded =
        record::plans(entry).ok().and_then(|plans| plans.into_iter().next()).and_then(|(_netns, plan)| plan.container);
    state_of(&entry.record.netns, recorded.as_deref()).unwrap_or(NetnsState::Unknown)
}

/// Looks at a namespace by its path and the identity that the journal has of it.
///
/// # Errors
/// Something that is no namespace is at the path, or it may not be looked at.
pub(super) fn state_of(netns: &str, recorded: Option<&str>) -> Result<NetnsState, NetlinkError> {
    if netns.is_empty() {
        return Ok(NetnsState::Unknown);
    }
    let path = Path::new(netns);
    match netlink::netns_identity(path) {
        Ok(None) => Ok(NetnsState::Gone),
        Ok(found) => Ok(match recorded {
            Some(_) if found.as_deref() != recorded => NetnsState::Gone,
            // The number of a process is given to another one in time.
            None if netns.starts_with("/proc/") => NetnsState::Unknown,
            _ => NetnsState::There,
        }),
        // A plain file is what unmounting a named namespace leaves.
        Err(_) if path.is_file() => Ok(NetnsState::Gone),
        Err(error) => Err(error),
    }
}

/// The path of an attachment's namespace, while it is that one. A namespace that is gone took its links along, and one that has
/// got its path since is another's.
///
/// # Errors
/// As [`state_of`].
pub(super) fn living_netns<'a>(netns: &'a str, recorded: Option<&str>) -> Result<Option<&'a Path>, NetlinkError> {
    let may_live = !netns.is_empty() && state_of(netns, recorded)? != NetnsState::Gone;
    Ok(may_live.then(|| Path::new(netns)))
}

/// Whether what a plan made may still be in use. In doubt it is: an ADD that is still running has its namespace, but no link yet.
pub(super) fn is_alive(host: &Executor, (netns, plan): &(String, Plan)) -> Result<bool, AttachError> {
    Ok(living_netns(netns, plan.container.as_deref())?.is_some() || host.has_host_link(plan)?)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn a_path_and_an_identity_tell_which_namespace_it_is() {
        let own = format!("/proc/{}/ns/net", std::process::id());
        let identity = netlink::netns_identity(Path::new(&own)).unwrap();
        assert_eq!(state_of(&own, identity.as_deref()).unwrap(), NetnsState::There);
        assert_eq!(state_of(&own, Some("another")).unwrap(), NetnsState::Gone);
        assert_eq!(state_of(&own, None).unwrap(), NetnsState::Unknown, "the process may be another one");
        assert_eq!(state_of("", identity.as_deref()).unwrap(), NetnsState::Unknown);
        assert_eq!(state_of("/nowhere/at/all", None).unwrap(), NetnsState::Gone);
    }

    #[test]
    fn a_plain_file_is_what_an_unmounted_namespace_leaves() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("netns");
        std::fs::write(&file, "").unwrap();
        assert_eq!(state_of(file.to_str().unwrap(), None).unwrap(), NetnsState::Gone);
        state_of(dir.path().to_str().unwrap(), None).unwrap_err();
    }
}
