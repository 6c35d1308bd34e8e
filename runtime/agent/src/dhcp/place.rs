//! The place where a lease is used: a link in a namespace. Checks that it exists and is up, and opens sockets in it.
//!
//! Invariant: nothing here runs on the event loop's thread, which never waits for netlink and never leaves its
//! namespace.

use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::{Semaphore, oneshot};
use weft_core::netlink::{Executor, NetlinkError, in_netns};
use weft_core::plan::{LinkInfo, LinkRef};

/// Maximum number of namespaces visited at once.
const VISITORS: usize = 32;

/// A link in a namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    /// The namespace's path, from the agent's point of view.
    pub(super) netns: PathBuf,
    /// The identity of the namespace at the time of the request: a path may lead to another one later.
    pub(super) identity: String,
    pub(super) ifname: String,
}

/// Why a place cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum PlaceError {
    /// The link or the namespace is gone, and with it the user of the lease.
    #[error("{0} is gone")]
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

impl Place {
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
        let gone = || PlaceError::Gone(format!("the namespace {}", self.netns.display()));
        let executor = match Executor::open(Some(&self.netns)) {
            Ok(executor) => executor,
            Err(_unusable) if !self.netns.exists() => return Err(gone()),
            Err(error) => return Err(error.into()),
        };
        if executor.container_identity()?.as_ref() != Some(&self.identity) {
            return Err(gone());
        }
        let found = executor.look_at(&self.link())?;
        let found = found.ok_or_else(|| PlaceError::Gone(format!("the link {}", self.ifname)))?;
        Ok((executor, found))
    }
}
