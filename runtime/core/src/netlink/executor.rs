//! [`Executor`]: the open sockets of host and container for one invocation.

use std::io;
use std::path::{Path, PathBuf};

use super::error::NetlinkError;
use super::fault::Doing;
use super::firewalld::Firewalld;
use super::identity::own_netns_cookie;
use super::netns::{Netns, Running};
use super::netns_fault::NetnsFault;
use super::nft::Nft;
use super::presence::Presence;
use super::rtnl::Rtnl;
use super::sysctl::Confs;
use super::wire::Wire;
use crate::background::Job;
use crate::plan::{Need, Observed, Side};

/// Applies, undoes, tears down and checks plans. One serves the
/// attachments of one namespace. It is bound to its thread, whose network
/// namespace counts as the host's.
#[derive(Debug)]
pub struct Executor {
    pub(super) host: Rtnl,
    pub(super) container: Option<Container>,
    nft: Option<Nft>,
    /// Set by the first `apply`.
    pub(super) presence: Option<Presence>,
    /// Where the locks are under which shared objects are changed.
    pub(super) state_dir: Option<PathBuf>,
    pub(super) firewalld: Firewalld,
}

/// The open sockets of the container's network namespace.
#[derive(Debug)]
pub(super) struct Container {
    pub(super) rtnl: Rtnl,
    pub(super) confs: Confs,
    pub(super) netns: Netns,
    /// The namespace's cookie, if the kernel has cookies.
    cookie: Option<u64>,
}

/// The nftables socket of an executor that has ended its work. Closing it waits until the kernel has freed what was
/// removed through it (some 10 ms), so several teardowns share one.
#[derive(Debug)]
pub struct FilterSocket(Nft);

/// An executor whose container side is being opened in the background.
#[derive(Debug)]
pub struct Opening {
    path: PathBuf,
    needs: Vec<Need>,
    host: Rtnl,
    container: Running<Result<Container, NetlinkError>>,
}

impl Opening {
    /// Waits for the executor and the observed facts.
    ///
    /// # Errors
    /// The namespace cannot be entered, no socket can be opened inside, or a fact cannot be read.
    pub fn wait(self) -> Result<(Executor, Observed), NetlinkError> {
        let opened = self.container.wait()?.map_err(|fault| NetlinkError::OpenNetns { path: self.path, fault })?;
        let mut executor = Executor::from_sockets(self.host, Some(opened?));
        let observed = executor.observe(&self.needs)?;
        Ok((executor, observed))
    }
}

impl Executor {
    fn from_sockets(host: Rtnl, container: Option<Container>) -> Self {
        Self { host, container, nft: None, presence: None, state_dir: None, firewalld: Firewalld::default() }
    }

    /// Opens the host's netlink socket and, if a path is given, the container's: on a separate thread that enters the
    /// namespace and ends.
    ///
    /// # Errors
    /// No socket can be opened, or the path is not a network namespace or cannot be entered.
    pub fn open(container_netns: Option<&Path>) -> Result<Self, NetlinkError> {
        match container_netns {
            Some(path) => Self::start(path, Vec::new(), None)?.wait().map(|(executor, _nothing)| executor),
            None => Ok(Self::from_sockets(open_host()?, None)),
        }
    }

    /// Begins to open the sockets of both sides and to observe facts. This needs a separate thread anyway, and the
    /// caller can do other work meanwhile. The job `then` runs on the same thread afterwards; it must not depend on its
    /// network namespace.
    ///
    /// # Errors
    /// The path is not a network namespace, or no socket can be opened.
    pub fn start(container_netns: &Path, needs: Vec<Need>, then: Option<Job>) -> Result<Opening, NetlinkError> {
        let path = container_netns.to_owned();
        let fail = {
            let path = path.clone();
            move |fault| NetlinkError::OpenNetns { path: path.clone(), fault }
        };
        let netns = Netns::open(container_netns)?;
        let host = open_host()?;
        let inside = netns.try_clone().map_err(&fail)?;
        let fail_inside = fail.clone();
        let open = move || {
            let open = || Ok((Wire::route()?, Confs::open()?));
            let (socket, confs) = open().map_err(|error: io::Error| fail_inside(NetnsFault::inside("", &error)))?;
            Ok(Container { rtnl: Rtnl::on_socket(socket), confs, netns: inside, cookie: own_netns_cookie() })
        };
        let container = netns.start_inside(open, then).map_err(fail)?;
        Ok(Opening { path, needs, host, container })
    }

    /// Returns whether the container's namespace is weft's own.
    ///
    /// # Errors
    /// The kernel does not say.
    pub fn same_netns(&self) -> Result<bool, NetlinkError> {
        self.container.as_ref().map_or(Ok(false), |container| container.netns.is_own())
    }

    /// Returns the identity of the container's namespace, if one is open.
    ///
    /// # Errors
    /// The kernel does not say.
    pub fn container_identity(&self) -> Result<Option<String>, NetlinkError> {
        self.container.as_ref().map(|container| container.netns.identity()).transpose()
    }

    /// Returns the cookie of the container's namespace, if one is open and the kernel has cookies.
    #[must_use]
    pub fn container_cookie(&self) -> Option<u64> {
        self.container.as_ref()?.cookie
    }

    /// Uses the nftables socket of an earlier executor of this process, if there is one.
    pub fn lend_filter_socket(&mut self, socket: Option<FilterSocket>) {
        if let Some(FilterSocket(nft)) = socket {
            self.nft.get_or_insert(nft);
        }
    }

    /// Returns the nftables socket, if it was needed.
    #[must_use]
    pub fn into_filter_socket(self) -> Option<FilterSocket> {
        self.nft.map(FilterSocket)
    }

    /// Returns how many netlink messages were sent so far, for benchmarks.
    #[must_use]
    pub fn messages_sent(&self) -> u32 {
        let container = self.container.as_ref().map_or(0, |container| container.rtnl.sent());
        self.host.sent() + container + self.nft.as_ref().map_or(0, Nft::sent)
    }

    /// Returns the socket of a side, if it is open.
    pub(super) fn rtnl(&self, side: Side) -> Option<&Rtnl> {
        match side {
            Side::Host => Some(&self.host),
            Side::Container => self.container.as_ref().map(|container| &container.rtnl),
        }
    }

    /// Returns the nftables socket, which the first op that needs it opens.
    pub(super) fn nft(&mut self) -> Result<&mut Nft, NetlinkError> {
        match &mut self.nft {
            Some(nft) => Ok(nft),
            empty => Ok(empty.insert(Nft::open()?)),
        }
    }
}

fn open_host() -> Result<Rtnl, NetlinkError> {
    Wire::route().map(Rtnl::on_socket).doing(|| "failed to open the routing netlink socket")
}
