//! Determines whether an attachment is alive: its network namespace still exists and is the same one, or one of its
//! links is left on the host.
//!
//! A namespace has an identity, but its path has not: `/proc/PID/ns/net` may lead to another one later. The kernel also
//! gives the inode of an ended namespace to the next one, so a cookie tells those apart.

use std::path::Path;

use super::error::AttachError;
use super::record;
use super::recorded_netns::RecordedNetns;
use crate::journal::Entry;
use crate::netlink::{self, Executor, NetlinkError};
use crate::plan::Plan;

/// The state of an attachment's network namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NetnsState {
    /// It exists, and is the one in the journal as far as the journal identifies it.
    There,
    /// It is gone, or its path leads to another namespace by now.
    Gone,
    /// The journal names none (an imported claim), or it cannot be inspected.
    Unknown,
}

/// Returns the state of an entry's namespace.
#[must_use]
pub fn netns_state(entry: &Entry) -> NetnsState {
    // A damaged plan does not identify the namespace, but the path is still known.
    let plan = record::plans(entry).ok().and_then(|plans| plans.into_iter().next()).map(|(_netns, plan)| plan);
    state_here(&entry.record.netns, plan.as_ref().map(RecordedNetns::of_plan).unwrap_or_default())
}

/// Returns whether a recorded namespace is known to be gone.
pub(crate) fn is_gone(netns: &str, recorded: RecordedNetns<'_>) -> bool {
    state_here(netns, recorded) == NetnsState::Gone
}

fn state_here(netns: &str, recorded: RecordedNetns<'_>) -> NetnsState {
    let state = state_of(netns, recorded).unwrap_or(NetnsState::Unknown);
    state_in_this_pid_namespace(netlink::is_path_of_other_pids(Path::new(netns)), state)
}

/// Returns what is known of a namespace whose path may lead elsewhere here than for the runtime. If it leads to the
/// recorded namespace, that one exists; otherwise nothing follows.
fn state_in_this_pid_namespace(is_of_other_pids: bool, state: NetnsState) -> NetnsState {
    if is_of_other_pids && state == NetnsState::Gone { NetnsState::Unknown } else { state }
}

/// Returns the state of a namespace by its path and its recorded identity.
///
/// # Errors
/// The path leads to something other than a namespace, or access is denied.
pub(super) fn state_of(netns: &str, recorded: RecordedNetns<'_>) -> Result<NetnsState, NetlinkError> {
    if netns.is_empty() {
        return Ok(NetnsState::Unknown);
    }
    let path = Path::new(netns);
    match netlink::netns_identity(path) {
        Ok(None) => Ok(NetnsState::Gone),
        Ok(found) => Ok(match recorded.container {
            Some(_) if found.as_deref() != recorded.container => NetnsState::Gone,
            Some(_) if is_a_later_one(path, recorded) => NetnsState::Gone,
            // The number of a process is reused after some time.
            None if netns.starts_with("/proc/") => NetnsState::Unknown,
            _ => NetnsState::There,
        }),
        // Unmounting a named namespace leaves a plain file.
        Err(_) if path.is_file() => Ok(NetnsState::Gone),
        Err(error) => Err(error),
    }
}

/// Returns whether the namespace at a path, which has the recorded identity, certainly was made later.
fn is_a_later_one(path: &Path, recorded: RecordedNetns<'_>) -> bool {
    recorded.cookie.is_some() && has_another_cookie(netlink::netns_cookie(path), recorded)
}

fn has_another_cookie(now: Option<u64>, recorded: RecordedNetns<'_>) -> bool {
    now.zip(recorded.cookie).is_some_and(|(now, then)| now != then)
}

/// Opens the sockets of the host, and those of an attachment's namespace if it is still alive ([`living_netns`]). What is
/// open is compared with what was recorded, because the path may lead elsewhere at any time.
///
/// # Errors
/// No socket can be opened, or the namespace cannot be entered.
pub(super) fn open_recorded(path: Option<&Path>, recorded: RecordedNetns<'_>) -> Result<Executor, NetlinkError> {
    let executor = Executor::open(path)?;
    let found = executor.container_identity()?;
    let is_another = recorded.container.is_some() && found.is_some() && found.as_deref() != recorded.container;
    if is_another || has_another_cookie(executor.container_cookie(), recorded) {
        return Executor::open(None);
    }
    Ok(executor)
}

/// Returns the path of an attachment's namespace if that namespace is still alive. A namespace that is gone took its
/// links along, and one that got its path since then belongs to somebody else.
///
/// # Errors
/// As [`state_of`].
pub(super) fn living_netns<'a>(netns: &'a str, recorded: RecordedNetns<'_>) -> Result<Option<&'a Path>, NetlinkError> {
    let may_live = !netns.is_empty() && state_of(netns, recorded)? != NetnsState::Gone;
    Ok(may_live.then(|| Path::new(netns)))
}

/// Returns the path that another plugin gets at DEL or GC: the recorded one, or `""` unless it certainly still leads to
/// the recorded namespace. The specification allows an empty CNI_NETNS there; with the path of another container, the
/// plugin would delete that one's links.
pub(crate) fn recorded_netns<'a>(netns: &'a str, recorded: RecordedNetns<'_>) -> &'a str {
    if matches!(state_of(netns, recorded), Ok(NetnsState::There)) { netns } else { "" }
}

/// Returns the path that another plugin gets at a runtime's DEL: the one of the call, or `""` unless it certainly leads
/// to the recorded namespace. A runtime may name the path that another container has by now. What an earlier version
/// recorded has no identity; then the runtime is believed.
pub(crate) fn called_netns<'a>(called: &'a str, recorded: RecordedNetns<'_>) -> &'a str {
    if recorded.container.is_none() { called } else { recorded_netns(called, recorded) }
}

/// Returns whether something that a plan made may still be in use. In doubt it is: a running ADD has its namespace, but
/// no link yet.
pub(super) fn is_alive(host: &Executor, (netns, plan): &(String, Plan)) -> Result<bool, AttachError> {
    Ok(living_netns(netns, RecordedNetns::of_plan(plan))?.is_some() || host.has_host_link(plan)?)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    fn known(container: Option<&str>) -> RecordedNetns<'_> {
        RecordedNetns { container, cookie: None }
    }

    #[test]
    fn a_later_namespace_with_the_same_inode_is_another_one() {
        let own = format!("/proc/{}/ns/net", std::process::id());
        let identity = netlink::netns_identity(Path::new(&own)).unwrap();
        let cookie = netlink::own_netns_cookie().expect("kernels since 5.14 have cookies");
        let with = |cookie| RecordedNetns { container: identity.as_deref(), cookie: Some(cookie) };
        assert_eq!(state_of(&own, with(cookie)).unwrap(), NetnsState::There);
        assert_eq!(state_of(&own, with(cookie + 1)).unwrap(), NetnsState::Gone);
        assert_eq!(recorded_netns(&own, with(cookie + 1)), "");
        assert_eq!(called_netns(&own, with(cookie + 1)), "");
    }

    #[test]
    fn a_path_and_an_identity_tell_which_namespace_it_is() {
        let own = format!("/proc/{}/ns/net", std::process::id());
        let identity = netlink::netns_identity(Path::new(&own)).unwrap();
        assert_eq!(state_of(&own, known(identity.as_deref())).unwrap(), NetnsState::There);
        assert_eq!(state_of(&own, known(Some("another"))).unwrap(), NetnsState::Gone);
        assert_eq!(
            state_of(&own, RecordedNetns::default()).unwrap(),
            NetnsState::Unknown,
            "the process may be another one"
        );
        assert_eq!(state_of("", known(identity.as_deref())).unwrap(), NetnsState::Unknown);
        assert_eq!(state_of("/nowhere/at/all", RecordedNetns::default()).unwrap(), NetnsState::Gone);
    }

    #[test]
    fn other_plugins_get_only_a_path_that_leads_to_the_recorded_namespace() {
        let own = format!("/proc/{}/ns/net", std::process::id());
        let identity = netlink::netns_identity(Path::new(&own)).unwrap();
        assert_eq!(recorded_netns(&own, known(identity.as_deref())), own);
        assert_eq!(recorded_netns(&own, known(Some("another"))), "");
        assert_eq!(recorded_netns(&own, RecordedNetns::default()), "", "the process may be another one");
        assert_eq!(recorded_netns("/nowhere/at/all", RecordedNetns::default()), "");
        assert_eq!(recorded_netns("/tmp", RecordedNetns::default()), "");
    }

    #[test]
    fn a_runtimes_path_counts_only_if_it_leads_to_the_recorded_namespace() {
        let own = format!("/proc/{}/ns/net", std::process::id());
        let identity = netlink::netns_identity(Path::new(&own)).unwrap();
        assert_eq!(called_netns(&own, known(identity.as_deref())), own);
        assert_eq!(called_netns(&own, known(Some("another"))), "");
        assert_eq!(called_netns("/nowhere/at/all", known(Some("another"))), "");
        assert_eq!(called_netns("", known(identity.as_deref())), "");
        assert_eq!(called_netns(&own, RecordedNetns::default()), own);
    }

    #[test]
    fn a_process_of_another_pid_namespace_is_not_gone() {
        assert_eq!(state_in_this_pid_namespace(true, NetnsState::Gone), NetnsState::Unknown);
        assert_eq!(state_in_this_pid_namespace(true, NetnsState::There), NetnsState::There);
        assert_eq!(state_in_this_pid_namespace(false, NetnsState::Gone), NetnsState::Gone);
    }

    #[test]
    fn a_plain_file_is_what_an_unmounted_namespace_leaves() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("netns");
        std::fs::write(&file, "").unwrap();
        assert_eq!(state_of(file.to_str().unwrap(), RecordedNetns::default()).unwrap(), NetnsState::Gone);
        state_of(dir.path().to_str().unwrap(), RecordedNetns::default()).unwrap_err();
    }
}
