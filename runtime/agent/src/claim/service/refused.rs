//! Objects that a ledger refuses to write, a fence of this machine while it runs, and a node that was cut off.
//!
//! Invariant: a refusal of one object does not affect the others. It is logged once, and the write is repeated from time
//! to time.

use tokio::time::Instant;

use super::{CUT_OFF, Claims, Ledger, Progress, Refused};
use crate::claim::backend::{Backend as _, WriteError};
use crate::claim::clock::Clocks;
use crate::claim::record::WrittenRecord;
use crate::claim::{DrainError, GrantError, drain, now};

/// With more refusals than this, old ones are logged again.
const LOGGED: usize = 1000;

impl Progress {
    /// Returns why nothing may be granted: a frozen ledger, or a fence.
    pub(super) fn may_grant(&self) -> Result<(), GrantError> {
        match (self.state.frozen, self.is_fenced) {
            (true, _) => Err(WriteError::Frozen.into()),
            (false, true) => Err(GrantError::Fenced),
            (false, false) => Ok(()),
        }
    }

    /// Returns whether entries need no comparison with their claims now. After a thaw, what keeps this node from confirming
    /// is looked at again only from time to time.
    pub(super) fn is_settled(&self) -> bool {
        let is_due = self.next_reassert.is_some_and(|at| at <= Instant::now());
        let waits = !self.state.frozen && self.next_reassert.is_some() && !is_due;
        !self.lost_cells && !is_due && (waits || self.confirmed >= self.state.epoch)
    }

    /// Has everything compared again before the next grant, as at the agent's start.
    pub(super) fn start_over(&mut self) {
        self.started = false;
        self.next_state = None;
    }
}

impl Claims {
    /// Drains the tombstones of these names of a ledger. Returns what it refuses.
    pub(super) async fn drain(&self, names: &[String], ledger: &Ledger) -> Result<Vec<Refused>, DrainError> {
        let mut looks = std::mem::take(&mut ledger.progress.borrow_mut().looks);
        let times = (now(), std::time::Instant::now());
        let drained = drain(&ledger.backend, &self.store, |row| names.contains(&row.ledger), &mut looks, times).await;
        ledger.progress.borrow_mut().looks = looks;
        Ok(drained?.refused)
    }

    /// Logs each refused object once.
    pub(super) fn warn_of_refused(&self, text: &str, ledger: &Ledger, refused: Vec<Refused>) {
        let mut progress = ledger.progress.borrow_mut();
        if progress.refused.len() > LOGGED {
            progress.refused.clear();
        }
        for Refused { what, why } in refused {
            if progress.refused.insert(what.clone()) {
                self.log.warn(&format!("cluster ledger {text} refuses {what}: {why}; everything else goes on"));
            }
        }
    }

    /// Logs each object once that lists had to leave out.
    pub(super) fn warn_of_unreadable(&self, text: &str, ledger: &Ledger) {
        for (name, why) in ledger.backend.unreadable() {
            if ledger.progress.borrow_mut().refused.insert(format!("unreadable {name}")) {
                self.log.warn(&format!(
                    "cluster ledger {text}: {name} cannot be read ({why}), so its address counts as taken; correct it, or delete it if no pod has the address"
                ));
            }
        }
    }

    /// Notes what this node's record says. A machine that was fenced while it runs grants nothing until it boots, and
    /// compares what it has with the ledger.
    pub(super) fn note_spoken(&self, text: &str, ledger: &Ledger, spoken: WrittenRecord) {
        let mut progress = ledger.progress.borrow_mut();
        if spoken.is_fenced && !progress.is_fenced {
            self.log.warn(&format!(
                "cluster ledger {text}: a person has fenced this machine, but it runs: what its pods have may be given to others; delete its pods and reboot it"
            ));
            progress.start_over();
        }
        progress.is_fenced = spoken.is_fenced;
        progress.outlives_taint = spoken.outlives_taint;
    }

    /// Follows the node's clock. After a time in which this process did not run, everything is compared again.
    pub(super) fn look_at_clocks(&self, clocks: &mut Clocks) {
        match clocks.look(&self.store) {
            Ok(passed) => {
                if passed.set != 0 {
                    self.log.info(&format!("the node's clock was set by {} seconds: ages follow it", passed.set));
                }
                if passed.since > CUT_OFF {
                    for ledger in self.ledgers.borrow().values() {
                        ledger.progress.borrow_mut().start_over();
                    }
                }
            }
            Err(error) => self.log.warn(&format!("the store cannot follow the node's clock: {error}")),
        }
    }

    /// Sets when entries are compared again that the ledger refused, or that somebody else has.
    pub(super) fn reassert_again(ledger: &Ledger, is_needed: bool) {
        ledger.progress.borrow_mut().next_reassert = is_needed.then(|| Instant::now() + super::COMPARE);
    }
}
