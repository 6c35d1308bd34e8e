//! Executes the undo log, last first.

use std::collections::BTreeSet;

use super::conntrack::{self, Flows};
use super::error::{NetlinkError, UndoError};
use super::fault::Doing;
use super::inverse::{Inverse, Logged, Newcomers};
use super::presence::Presence;
use super::sharing::Decide;
use super::{Applied, Executor};

impl Executor {
    /// Undoes what `apply` did, last first. Reports what cannot be undone, and continues with the rest.
    pub fn undo(&mut self, applied: Applied) -> Vec<UndoError> {
        self.roll_back(applied.log, None)
    }

    /// Like `undo`, with the journal's decisions about shared objects of other attachments.
    pub fn undo_among(&mut self, applied: Applied, decide: Decide<'_>) -> Vec<UndoError> {
        self.roll_back(applied.log, Some(decide))
    }

    fn roll_back(&mut self, log: Vec<Logged>, mut decide: Option<Decide<'_>>) -> Vec<UndoError> {
        let mut leftovers = Vec::new();
        for Logged { what, inverse, unless } in log.into_iter().rev() {
            let outcome = match unless.map_or(Ok(false), |newcomers| self.any_company(&newcomers)) {
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

    /// Records the existing links before something shared is changed.
    pub(super) fn newcomers(&self, bridge: Option<u32>) -> Result<Newcomers, NetlinkError> {
        let links = self.host.links(bridge).doing(|| "failed to list links")?;
        Ok(Newcomers { company: self.has_company(), bridge, known: links.iter().map(|link| link.index).collect() })
    }

    /// The same for a bridge that was just made: any port is a newcomer.
    pub(super) fn newcomers_to(&self, bridge: u32) -> Newcomers {
        Newcomers { company: false, bridge: Some(bridge), known: BTreeSet::new() }
    }

    fn any_company(&self, newcomers: &Newcomers) -> Result<bool, NetlinkError> {
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
            Inverse::Firewalld { source, added: true } => self.firewalld.remove(&source),
            Inverse::Firewalld { added: false, .. } => Ok(()),
        }
    }
}
