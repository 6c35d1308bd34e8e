//! The place where a lease is used: a link in a namespace. Checks that it exists and is up, and opens sockets in it.
//!
//! Invariant: nothing here runs on the event loop's thread, which never waits for netlink and never leaves its
//! namespace.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::sync::{Semaphore, oneshot};
use weft_core::netlink::{self, Executor, NetlinkError, in_netns};
use weft_core::plan::{LinkInfo, LinkRef};

/// Maximum number of namespaces visited at once.
const VISITORS: usize = 32;

/// A link in a namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct LeaseLink {
    /// The namespace's path, from the agent's point of view.
    pub(super) netns: PathBuf,
    /// The identity of the namespace at the time of the request ([`identity_of`]): a path may lead to another one later.
    pub(super) identity: String,
    pub(super) ifname: String,
}

/// Why a place cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum PlaceError {
    /// The link or the namespace is gone, and with it the user of the lease.
    #[error("{0} no longer exists")]
    Gone(String),
    /// Something else.
    #[error("{0}")]
    Failed(String),
}

impl From<NetlinkError> for PlaceError {
    fn from(error: NetlinkError) -> Self {
        Self::Failed(error.to_string())
    }
}

/// The link of a place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Link {
    pub(super) index: u32,
    pub(super) mac: [u8; 6],
    /// Whether it shares its MAC address with its siblings, so that frames reach it only by IP address.
    pub(super) is_ipvlan: bool,
}

/// Limits the number of threads that visit namespaces.
#[derive(Debug, Clone)]
pub(super) struct Visits(Arc<Semaphore>);

impl Visits {
    pub(super) fn new() -> Self {
        Self(Arc::new(Semaphore::new(VISITORS)))
    }

    /// Runs a blocking function on a thread of its own.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, PlaceError> + Send + 'static,
    ) -> Result<T, PlaceError> {
        let ended = || PlaceError::Failed("a thread of the agent ended early".to_owned());
        let _permit = self.0.acquire().await.map_err(|_closed| ended())?;
        let (report, reported) = oneshot::channel();
        let body = move || {
            // The waiting caller may be gone.
            report.send(work()).ok();
        };
        let started = std::thread::Builder::new().name("visit".to_owned()).spawn(body);
        drop(started.map_err(|error| PlaceError::Failed(format!("cannot start a thread: {error}")))?);
        reported.await.map_err(|_ended| ended())?
    }
}

impl LeaseLink {
    /// Finds the link, and brings it up if it is down and `bring_up` is set. Blocks.
    pub(super) fn look(&self, bring_up: bool) -> Result<Link, PlaceError> {
        let (executor, found) = self.find()?;
        let Some(mac) = found.mac else {
            return Err(PlaceError::Failed(format!("{} has no Ethernet address", self.ifname)));
        };
        if bring_up && !found.up {
            executor.switch(&self.link(), found.index, true)?;
        }
        Ok(Link { index: found.index, mac: mac.0, is_ipvlan: found.kind == "ipvlan" })
    }

    /// Takes the link down. Blocks.
    pub(super) fn take_down(&self) -> Result<(), PlaceError> {
        let (executor, found) = self.find()?;
        Ok(executor.switch(&self.link(), found.index, false)?)
    }

    /// Runs a function inside the namespace. Blocks.
    pub(super) fn inside<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> std::io::Result<T> + Send + 'static,
    ) -> Result<T, PlaceError> {
        Ok(in_netns(&self.netns, work)?)
    }

    fn link(&self) -> LinkRef {
        LinkRef::container(self.ifname.as_str())
    }

    fn find(&self) -> Result<(Executor, LinkInfo), PlaceError> {
        require(&self.netns, &self.identity)?;
        let executor = Executor::open(Some(&self.netns))?;
        let inode = executor.container_identity()?.unwrap_or_default();
        if !is_same(&self.identity, &with_cookie(inode, executor.container_cookie())) {
            return Err(not_here(&self.netns));
        }
        let found = executor.look_at(&self.link())?;
        let found = found.ok_or_else(|| PlaceError::Gone(format!("the link {}", self.ifname)))?;
        Ok((executor, found))
    }
}

/// Returns the identity of the namespace at a path: its inode, and its cookie, because the kernel gives the inode of an ended
/// namespace to the next one. Kernels before 5.14 have no cookies. `None` if there is no namespace. Blocks.
///
/// # Errors
/// The path leads to something else, or access is denied.
pub(super) fn identity_of(netns: &Path) -> Result<Option<String>, NetlinkError> {
    Ok(netlink::netns_identity(netns)?.map(|inode| with_cookie(inode, netlink::netns_cookie(netns))))
}

fn with_cookie(inode: String, cookie: Option<u64>) -> String {
    match cookie {
        Some(cookie) => format!("{inode}/{cookie}"),
        None => inode,
    }
}

/// Returns whether two identities are those of one namespace. What an earlier version stored has no cookie.
fn is_same(one: &str, other: &str) -> bool {
    let inode = |identity: &str| identity.split('/').next().map(str::to_owned);
    let have_cookies = one.contains('/') && other.contains('/');
    if have_cookies { one == other } else { inode(one) == inode(other) }
}

/// Checks that a path still leads to the namespace of a request, by its inode. `LeaseLink::find` also compares the cookie.
///
/// A lease is forgotten with its namespace, and the server then gives the address to somebody else. So only a certain
/// absence counts: a process without memory or descriptors left, or a mount that is not visible (yet), says nothing.
pub(super) fn require(netns: &Path, identity: &str) -> Result<(), PlaceError> {
    match netlink::netns_identity(netns)? {
        Some(found) if is_same(identity, &found) => Ok(()),
        _ => Err(not_here(netns)),
    }
}

/// The error for a path that leads to no namespace, or to another one.
fn not_here(netns: &Path) -> PlaceError {
    if netlink::is_path_of_other_pids(netns) {
        let text = format!("{} belongs to processes that the agent does not see; give it hostPID", netns.display());
        return PlaceError::Failed(text);
    }
    PlaceError::Gone(format!("the namespace {}", netns.display()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

    use super::*;

    #[test]
    fn a_later_namespace_with_the_same_inode_is_another_one() {
        assert!(is_same("4:7/99", "4:7/99") && !is_same("4:7/99", "4:7/100"));
        assert!(is_same("4:7", "4:7/100"), "an earlier version stored no cookie");
        assert!(!is_same("4:8", "4:7/100"));
        let netns = PathBuf::from("/proc/self/ns/net");
        let identity = identity_of(&netns).unwrap().expect("this process has one");
        let later = LeaseLink { netns, identity: format!("{identity}0"), ifname: "lo".to_owned() };
        assert!(matches!(later.look(false), Err(PlaceError::Gone(_))), "another container's link is left alone");
    }

    #[test]
    fn only_a_certain_absence_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let own = Path::new("/proc/self/ns/net");
        let identity = identity_of(own).unwrap().expect("this process has one");
        require(own, &identity).unwrap();
        assert!(matches!(require(&dir.path().join("absent"), &identity), Err(PlaceError::Gone(_))));
        // The place of a mount that is not visible here.
        let file = dir.path().join("file");
        std::fs::write(&file, "").unwrap();
        assert!(matches!(require(&file, &identity), Err(PlaceError::Failed(_))));
        // The kernel does not say whether it exists.
        std::os::unix::fs::symlink("loop", dir.path().join("loop")).unwrap();
        let place = LeaseLink { netns: dir.path().join("loop"), identity, ifname: "eth0".to_owned() };
        let looked = place.look(false);
        assert!(matches!(looked, Err(PlaceError::Failed(_))), "{looked:?}");
    }
}
