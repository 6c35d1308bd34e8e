//! The executor: applies plans to the kernel, undoes them, tears them down, compares them with what is there.
//!
//! All of it is netlink and `/proc/sys`; no process is ever started. One [`Executor`] serves one invocation: it opens the
//! sockets it needs once. The container's, and the directories of its links' sysctls, are opened on a thread of its own that
//! enters the container's network namespace for that and ends.
//!
//! Invariants:
//! - Every op that changed something left its exact inverse in the undo log before the next op ran. A failed ADD leaves
//!   the host as it was, at whichever op it failed.
//! - What sits on a link that the plan made goes away with the link, and so needs no inverse of its own.
//! - What others may have come to rely on meanwhile (a bridge that has got another port, forwarding) is left alone by
//!   undo: breaking a neighbour is worse than a leftover it needs.
//! - Teardown needs the plan alone, takes nothing for granted, and never deletes a link of another kind than the plan's.
//!
//! Not here: what a plan should be (`delegate`), when one is applied (`command`).

mod check;
mod error;
mod identity;
mod netns;
mod nft;
mod observe;
mod ops;
mod presence;
mod rtnl;
mod sysctl;
mod teardown;
mod undo;

pub use check::Difference;
pub use error::{ApplyError, NetlinkError, NetnsFault, UndoError};
pub use identity::{in_new_netns, is_own_netns, netns_identity};
pub use netns::{boot_id, netns_exists};

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use self::error::Doing;
use self::netns::Netns;
use self::nft::Nft;
use self::presence::Presence;
use self::rtnl::{RouteSocket, Rtnl};
use self::sysctl::Confs;
use self::undo::Logged;
use crate::plan::{LinkInfo, LinkRef, Side};

/// Applies, undoes, tears down and checks plans. One per invocation; bound to its thread, whose network namespace is the
/// host's for it.
#[derive(Debug)]
pub struct Executor {
    host: Rtnl,
    container: Option<Container>,
    nft: Option<Nft>,
    same: bool,
    /// From the first `apply` on.
    presence: Option<Presence>,
}

/// What is open inside the container's network namespace.
#[derive(Debug)]
struct Container {
    rtnl: Rtnl,
    confs: Confs,
    netns: Netns,
}

/// A plan that was applied.
#[derive(Debug)]
pub struct Applied {
    /// The links of `plan.result.interfaces`, read after the last op. Addresses are read only where the result asks for
    /// them (`observed_addresses`), since each link would cost a request more.
    pub links: BTreeMap<LinkRef, LinkInfo>,
    log: Vec<Logged>,
}

impl Executor {
    /// Opens the host's netlink socket and, where given, the container's: on a thread of its own that enters the namespace
    /// and ends.
    ///
    /// # Errors
    /// No socket is to be had, or the path is no network namespace or cannot be entered.
    pub fn open(container_netns: Option<&Path>) -> Result<Self, NetlinkError> {
        let Some(path) = container_netns else {
            let host = open_host()?;
            return Ok(Self { host, container: None, nft: None, same: false, presence: None });
        };
        let fail = |fault| NetlinkError::OpenNetns { path: path.to_owned(), fault };
        let netns = Netns::open(path)?;
        // The thread needs a while to get going: the host's side is opened meanwhile.
        let opening = netns.start_inside(|| Ok((RouteSocket::open()?, Confs::open()?))).map_err(fail)?;
        let same = netns.is_own()?;
        let host = open_host()?;
        let opened: io::Result<_> = opening.wait()?.map_err(fail)?;
        let (socket, confs) = opened.map_err(|error| fail(NetnsFault::Inside(error.to_string())))?;
        let container = Some(Container { rtnl: Rtnl::over(socket), confs, netns });
        Ok(Self { host, container, nft: None, same, presence: None })
    }

    /// Whether `CNI_NETNS` is the namespace weft itself runs in.
    #[must_use]
    pub fn same_netns(&self) -> bool {
        self.same
    }

    /// What tells the container's namespace from others, where one is open.
    ///
    /// # Errors
    /// The kernel does not say.
    pub fn container_identity(&self) -> Result<Option<String>, NetlinkError> {
        self.container.as_ref().map(|container| container.netns.identity()).transpose()
    }

    /// How many netlink messages were sent so far, for benchmarks.
    #[must_use]
    pub fn messages_sent(&self) -> u32 {
        let container = self.container.as_ref().map_or(0, |container| container.rtnl.sent());
        self.host.sent() + container + self.nft.as_ref().map_or(0, Nft::sent)
    }

    fn rtnl(&self, side: Side) -> Option<&Rtnl> {
        match side {
            Side::Host => Some(&self.host),
            Side::Container => self.container.as_ref().map(|container| &container.rtnl),
        }
    }

    /// The nftables socket, opened by the first op that needs it.
    fn nft(&mut self) -> Result<&mut Nft, NetlinkError> {
        match &mut self.nft {
            Some(nft) => Ok(nft),
            empty => Ok(empty.insert(Nft::open()?)),
        }
    }
}

fn open_host() -> Result<Rtnl, NetlinkError> {
    RouteSocket::open().map(Rtnl::over).doing(|| "failed to open the routing netlink socket")
}
