//! The executor: applies plans to the kernel, undoes them, tears them down, compares them with what is there.
//!
//! All of it is netlink and `/proc/sys` (and D-Bus, for firewalld); no process is ever started. One [`Executor`] serves one invocation: it opens the
//! sockets it needs once, and enters the container's network namespace on one thread of its own.
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
mod conntrack;
mod device;
mod error;
mod firewalld;
mod identity;
mod inside;
mod lock;
mod mass;
mod netns;
mod nft;
mod observe;
mod ops;
mod presence;
mod rtnl;
mod sysctl;
mod sysfs;
mod teardown;
mod teardown_steps;
mod tun;
mod undo;
mod undo_steps;

pub use check::{ChildDifference, Difference, Since, StepDifference};
pub use error::{ApplyError, NetlinkError, NetnsFault, UndoError};
pub use identity::{in_new_netns, is_own_netns, netns_identity};
pub use inside::in_netns;
pub use netns::{boot_id, netns_exists};

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::rc::Rc;

use tokio::runtime::{Builder, Runtime};

use self::error::Doing;
use self::netns::{Netns, Worker};
use self::nft::Nft;
use self::presence::Presence;
use self::rtnl::{Link, PromptSocket, Rtnl};
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
    worker: Worker,
    netns: Netns,
}

/// A plan that was applied.
#[derive(Debug, Default)]
pub struct Applied {
    /// The links of `plan.result.interfaces`, read after the last op. Addresses are read only where the result asks for
    /// them (`observed_addresses`), since each link would cost a request more.
    pub links: BTreeMap<LinkRef, LinkInfo>,
    log: Vec<Logged>,
    /// What was looked up and made, for an `extend`.
    known: BTreeMap<LinkRef, Link>,
    made: BTreeSet<LinkRef>,
}

impl Executor {
    /// Opens the host's netlink socket and, where given, the container's: entered on a thread of its own that ends when
    /// the executor is dropped.
    ///
    /// # Errors
    /// No socket is to be had, or the path is no network namespace or cannot be entered.
    pub fn open(container_netns: Option<&Path>) -> Result<Self, NetlinkError> {
        let Some(path) = container_netns else {
            let host = Rtnl::serve(&start_runtime()?, open_socket()?);
            return Ok(Self { host, container: None, nft: None, same: false, presence: None });
        };
        let fail = |fault| NetlinkError::OpenNetns { path: path.to_owned(), fault };
        let netns = Netns::open(path)?;
        // The thread needs a while to get going: the host's side is opened meanwhile.
        let (worker, opening) = Worker::enter(&netns, PromptSocket::open).map_err(fail)?;
        let same = netns.is_own()?;
        let runtime = start_runtime()?;
        let host = Rtnl::serve(&runtime, open_socket()?);
        let rtnl = Rtnl::serve(&runtime, opening.wait()?.map_err(fail)?);
        let container = Some(Container { rtnl, worker, netns });
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

fn start_runtime() -> Result<Rc<Runtime>, NetlinkError> {
    Builder::new_current_thread().build().map(Rc::new).doing(|| "failed to start the netlink runtime")
}

fn open_socket() -> Result<PromptSocket, NetlinkError> {
    PromptSocket::open().doing(|| "failed to open the routing netlink socket")
}
