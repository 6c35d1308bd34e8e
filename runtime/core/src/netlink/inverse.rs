//! Exact inverses of executed ops, stored in the undo log. Each file in `ops` defines the inverse of its op.

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
    /// What it undoes, for errors.
    pub(super) what: String,
    pub(super) inverse: Inverse,
    /// Skip it if newcomers may rely on the object.
    pub(super) unless: Option<Newcomers>,
}

/// Undoes one op.
pub(super) type Undo = Box<dyn FnOnce(&mut Executor) -> Result<(), NetlinkError> + Send>;

/// The inverse of a change.
pub(super) enum Inverse {
    /// An inverse defined in the op's own file.
    Op(Undo),
    /// Remove nftables elements and rules that were added, and parts that were made and are empty again.
    Filters(Filters),
    /// Delete the flows that arrived at these ports meanwhile.
    Flows(Vec<HostPort>),
    /// Remove a source from a firewalld zone, if it was added.
    Firewalld { source: FirewalldSource, added: bool },
}

impl Inverse {
    /// Any action of the executor.
    pub(super) fn from_action(undo: impl FnOnce(&mut Executor) -> Result<(), NetlinkError> + Send + 'static) -> Self {
        Self::Op(Box::new(undo))
    }

    /// Requests on one side's socket. If the object's link or namespace is gone, there is nothing to do.
    pub(super) fn request(side: Side, undo: impl FnOnce(&Rtnl) -> Result<(), Fault> + Send + 'static) -> Self {
        Self::from_action(move |executor| {
            let Some(rtnl) = executor.rtnl(side) else { return Ok(()) };
            unless_absent(undo(rtnl)).doing(|| "the kernel refused")
        })
    }

    /// Deletes a link that was made. For a veth pair this is the host's end, which takes the other end along.
    pub(super) fn delete_link(side: Side, index: u32) -> Self {
        Self::request(side, move |rtnl| rtnl.delete_link(index).map(drop))
    }

    /// Restores link attributes.
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

/// Ignores the error that the object does not exist.
pub(super) fn unless_absent(outcome: Result<(), Fault>) -> Result<(), Fault> {
    match outcome {
        Err(fault) if fault.is_absent() => Ok(()),
        other => other,
    }
}

/// Determines whether another attachment may rely on a shared object since it was changed.
#[derive(Debug, Clone)]
pub(super) struct Newcomers {
    /// Whether another ADD was running at the time of the change: it may have seen the object right afterwards, and be
    /// finished by now. Its link may be older than the change.
    pub(super) company: bool,
    /// Check only this bridge's ports.
    pub(super) bridge: Option<u32>,
    /// Links that existed at the time of the change; an attachment that started later has a new one.
    pub(super) known: BTreeSet<u32>,
}
