//! Exact inverses of what ops did, as the undo log has them. What an op's inverse is, its file in `ops` says.

use std::collections::BTreeSet;
use std::fmt;

use rtnetlink::packet_route::link::LinkMessage;

use super::Executor;
use super::error::NetlinkError;
use super::fault::{Doing, Fault};
use super::rtnl::Rtnl;
use super::sharing::Filters;
use crate::plan::{FirewalldSource, HostPort, Side};

/// One entry of the log.
#[derive(Debug)]
pub(super) struct Logged {
    /// What it takes back, for errors.
    pub(super) what: String,
    pub(super) inverse: Inverse,
    /// Leave it alone if others came.
    pub(super) unless: Option<Newcomers>,
}

/// Takes back what one op did.
pub(super) type Undo = Box<dyn FnOnce(&mut Executor) -> Result<(), NetlinkError> + Send>;

/// The inverse of something that was done.
pub(super) enum Inverse {
    /// What the op's own file says.
    Op(Undo),
    /// Remove nftables elements and rules that were added, and parts that were made and are empty again.
    Filters(Filters),
    /// Forget the flows that came to these ports meanwhile.
    Flows(Vec<HostPort>),
    /// Remove a source from a zone of firewalld, where it was not there before.
    Firewalld { source: FirewalldSource, added: bool },
}

impl Inverse {
    /// Anything that the executor can do.
    pub(super) fn with(undo: impl FnOnce(&mut Executor) -> Result<(), NetlinkError> + Send + 'static) -> Self {
        Self::Op(Box::new(undo))
    }

    /// Requests on one side's socket. A thing whose link is gone, or whose namespace, needs nothing.
    pub(super) fn request(side: Side, undo: impl FnOnce(&Rtnl) -> Result<(), Fault> + Send + 'static) -> Self {
        Self::with(move |executor| {
            let Some(rtnl) = executor.rtnl(side) else { return Ok(()) };
            unless_absent(undo(rtnl)).doing(|| "the kernel refused")
        })
    }

    /// Delete a link that was made. Of a veth pair this is the host's end: the other goes with it.
    pub(super) fn delete_link(side: Side, index: u32) -> Self {
        Self::request(side, move |rtnl| rtnl.delete_link(index).map(drop))
    }

    /// Write link attributes back.
    pub(super) fn set_link(side: Side, message: LinkMessage) -> Self {
        Self::request(side, move |rtnl| rtnl.set_link(message))
    }
}

impl fmt::Debug for Inverse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Op(_) => f.write_str("Op"),
            Self::Filters(filters) => f.debug_tuple("Filters").field(filters).finish(),
            Self::Flows(ports) => f.debug_tuple("Flows").field(ports).finish(),
            Self::Firewalld { source, added } => f.debug_tuple("Firewalld").field(source).field(added).finish(),
        }
    }
}

/// What is not there any more needs no undoing.
pub(super) fn unless_absent(outcome: Result<(), Fault>) -> Result<(), Fault> {
    match outcome {
        Err(fault) if fault.is_absent() => Ok(()),
        other => other,
    }
}

/// How to tell whether another attachment may have come to rely on a shared thing since it was changed.
#[derive(Debug, Clone)]
pub(super) struct Newcomers {
    /// Another ADD was going on at the time of the change: it may have looked at the thing right afterwards, and be done
    /// by now. Its link may be older than the change.
    pub(super) company: bool,
    /// Look at this bridge's ports only.
    pub(super) bridge: Option<u32>,
    /// Links that were there at the time of the change; an attachment that started after it has one that is not.
    pub(super) known: BTreeSet<u32>,
}
