//! The undo log: exact inverses of what ops did, and performing them, last first. What an op's inverse is, its file in `ops`
//! says.

use std::collections::BTreeSet;
use std::fmt;

use rtnetlink::packet_route::link::LinkMessage;

use super::conntrack::{self, Flows};
use super::error::{Doing, Fault, NetlinkError, UndoError};
use super::presence::Presence;
use super::rtnl::Rtnl;
use super::sharing::{Decide, Filters};
use super::{Applied, Executor, firewalld};
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
    company: bool,
    /// Look at this bridge's ports only.
    bridge: Option<u32>,
    /// Links that were there at the time of the change; an attachment that started after it has one that is not.
    pub(super) known: BTreeSet<u32>,
}

impl Executor {
    /// Takes back what `apply` did, last first. What cannot be taken back is reported; the others are taken back all the same.
    pub fn undo(&mut self, applied: Applied) -> Vec<UndoError> {
        self.roll_back(applied.log, None)
    }

    /// As `undo`, where the journal says which shared things other attachments need.
    pub fn undo_among(&mut self, applied: Applied, decide: Decide<'_>) -> Vec<UndoError> {
        self.roll_back(applied.log, Some(decide))
    }

    fn roll_back(&mut self, log: Vec<Logged>, mut decide: Option<Decide<'_>>) -> Vec<UndoError> {
        let mut leftovers = Vec::new();
        for Logged { what, inverse, unless } in log.into_iter().rev() {
            let outcome = match unless.map_or(Ok(false), |newcomers| self.any(&newcomers)) {
                Ok(true) => Ok(()),
                Ok(false) => match (inverse, &mut decide) {
                    (Inverse::Filters(filters), Some(decide)) => self.undo_filters(filters, Some(&mut **decide)),
                    (Inverse::Firewalld { source, .. }, Some(decide)) => self.remove_source(&source, &mut **decide),
                    (inverse, _) => self.perform(inverse),
                },
                Err(cause) => Err(cause),
            };
            leftovers.extend(outcome.err().map(|cause| UndoError { what, cause }));
        }
        leftovers
    }

    /// Notes who is there now, before something shared is changed.
    pub(super) fn newcomers(&self, bridge: Option<u32>) -> Result<Newcomers, NetlinkError> {
        let links = self.host.links(bridge).doing(|| "failed to list links")?;
        Ok(Newcomers { company: self.has_company(), bridge, known: links.iter().map(|link| link.index).collect() })
    }

    /// The same for a bridge that was just made: any port is a newcomer.
    pub(super) fn newcomers_to(&self, bridge: u32) -> Newcomers {
        Newcomers { company: false, bridge: Some(bridge), known: BTreeSet::new() }
    }

    fn any(&self, newcomers: &Newcomers) -> Result<bool, NetlinkError> {
        if newcomers.company || self.has_company() {
            return Ok(true);
        }
        let links = self.host.links(newcomers.bridge).doing(|| "failed to list links")?;
        Ok(links.iter().any(|link| !newcomers.known.contains(&link.index)))
    }

    fn has_company(&self) -> bool {
        self.presence.as_ref().is_some_and(Presence::has_company)
    }

    fn perform(&mut self, inverse: Inverse) -> Result<(), NetlinkError> {
        match inverse {
            Inverse::Op(undo) => undo(self),
            Inverse::Filters(filters) => self.undo_filters(filters, None),
            Inverse::Flows(ports) => {
                conntrack::forget(ports.iter(), Flows::Here);
                Ok(())
            }
            Inverse::Firewalld { source, added: true } => firewalld::remove(&source),
            Inverse::Firewalld { added: false, .. } => Ok(()),
        }
    }
}
