//! Checks a ledger's state: at the agent's start, after every freeze, and after a restore.
//!
//! Invariant: before the first grant from a ledger, and after every broken connection, its state is read and compared
//! with the history that this node has seen.

use tokio::time::Instant;
use weft_core::agent::{Fault, Refusal};
use weft_core::ledger::remote::{RemoteRow, Seen};

use super::{Claims, Ledger, refuse};
use crate::claim::backend::Backend;
use crate::claim::object::LedgerState;
use crate::claim::record::write_record;
use crate::claim::sweep::entries;
use crate::claim::{
    Conflict, DrainError, GrantError, Reasserted, drop_intents, now, reassert, resolve_doubt, rewrite_claims,
};

/// After this many seconds the position is stored again even if nothing changed.
const NOTED: u64 = 1800;

impl Claims {
    /// The first time, and after every freeze: compares entries with their claims, and writes this node's record.
    pub(super) async fn look_at_state(&self, text: &str, ledger: &Ledger) -> Result<(), DrainError> {
        let state = self.read_state(text, ledger).await?;
        let (started, is_settled, cleared) = {
            let mut progress = ledger.progress.borrow_mut();
            progress.state = state;
            (progress.started, progress.is_settled(), progress.cleared)
        };
        let again = self.has_lost_confirmation(ledger, state).await?;
        if started && is_settled && !again {
            return Ok(());
        }
        let names = self.names(text)?;
        // Only once: a node that cannot confirm because of a conflict comes here every time.
        let clears = (started || state.frozen) && (again || cleared != Some(state.epoch));
        if clears {
            // Grants from before the freeze are not used after it, and versions may reappear.
            drop_intents(&self.store, now())?;
            self.store.borrow_mut().forget_versions()?;
            for name in &names {
                self.suspend_cells(name, ledger).await?;
            }
        }
        let mut done = self.reassert(&names, ledger, state.epoch).await?;
        if !started || clears {
            done.written += self.rewrite_claims(text, ledger, state.epoch).await?;
        }
        if done.written > 0 {
            self.log
                .info(&format!("{} claims and cells that were missing in the cluster are written again", done.written));
        }
        let strict = self.is_strict((text, ledger), &done, state)?;
        for conflict in self.warn_of(ledger, state, done.conflicts) {
            self.report_conflict(ledger, &conflict).await;
        }
        Self::reassert_again(ledger, !strict);
        self.warn_of_refused(text, ledger, done.refused);
        let spoken = write_record(&ledger.backend, &self.identity, strict.then_some(state.epoch)).await?;
        self.note_spoken(text, ledger, spoken);
        let mut progress = ledger.progress.borrow_mut();
        progress.lost_cells = false;
        if clears || !progress.started || strict {
            progress.next_sweep = None;
        }
        progress.cleared = Some(state.epoch);
        progress.started = true;
        if strict {
            progress.confirmed = state.epoch;
        }
        Ok(())
    }

    /// Writes what the ledger has lost of everything that this node has under its names.
    async fn reassert(&self, names: &[String], ledger: &Ledger, epoch: u64) -> Result<Reasserted, DrainError> {
        let mine = |row: &RemoteRow| names.contains(&row.ledger);
        let mut done = reassert(&ledger.backend, &self.store, (&self.identity, epoch), mine).await?;
        for name in names {
            let cells = self.cells(name, ledger).reassert(epoch, &entries(&self.store)?).await?;
            done.written += cells.written;
            done.conflicts.extend(cells.conflicts);
            done.refused.extend(cells.refused);
        }
        Ok(done)
    }

    /// `confirm_strict`: returns whether every entry has its claim.
    fn is_strict(
        &self,
        (text, ledger): (&str, &Ledger),
        done: &Reasserted,
        state: LedgerState,
    ) -> Result<bool, DrainError> {
        let unknown = if state.frozen { self.unknown_name(text)? } else { None };
        if let Some(name) = &unknown
            && ledger.progress.borrow_mut().refused.insert(name.clone())
        {
            self.log.warn(&format!(
                "cluster ledger {text} is not confirmed: ledger {name} has the same prefix and does not answer, so it may be the same one under other names; let it answer, or delete its pods on this node"
            ));
        }
        Ok(done.conflicts.is_empty() && done.refused.is_empty() && unknown.is_none())
    }

    /// R41: claims again what IPAMClaims keep. Returns how many claims were missing.
    async fn rewrite_claims(&self, text: &str, ledger: &Ledger, epoch: u64) -> Result<usize, DrainError> {
        let done = rewrite_claims(&ledger.backend, epoch).await?;
        if done.forbidden {
            self.log.info(
                "this agent has no right to list IPAMClaims: if the ledger loses an address that one keeps, it is not claimed again",
            );
        }
        for lost in done.lost {
            self.log.warn(&format!("an address that is kept is in use elsewhere: {lost}"));
        }
        // It is not this node's alone, so it does not keep the node from confirming.
        self.warn_of_refused(text, ledger, done.refused);
        Ok(done.written)
    }

    /// `doubt`: reads the state, and freezes a ledger whose history differs from what was seen.
    async fn read_state(&self, text: &str, ledger: &Ledger) -> Result<LedgerState, DrainError> {
        let history = ledger.backend.history();
        history.mark_checked();
        let known = history.epoch().max(ledger.progress.borrow().state.epoch);
        let mut state = ledger.backend.state().await?;
        if state.epoch < known {
            history.suspect(format!("its epoch went back from {known} to {}", state.epoch));
        }
        if let Some(why) = history.doubt() {
            if ledger.progress.borrow().doubt.as_ref() != Some(&why) {
                self.log.warn(&format!(
                    "cluster ledger {text} was restored from a backup: {why}; no address is granted until it is thawed"
                ));
                ledger.progress.borrow_mut().doubt = Some(why);
            }
            state = resolve_doubt(&ledger.backend, &self.store, known, now()).await?;
            self.log.warn(&format!(
                "cluster ledger {text} is frozen in epoch {}: every node writes its claims again; run \"weftctl ledger thaw\" then",
                state.epoch
            ));
            ledger.progress.borrow_mut().doubt = None;
        }
        let mut progress = ledger.progress.borrow_mut();
        let seen = history.observe_epoch(state.epoch);
        let is_news = |noted: &Seen| {
            (noted.revision, noted.epoch) != (seen.revision, seen.epoch) || seen.at.abs_diff(noted.at) > NOTED
        };
        if progress.noted.as_ref().is_none_or(is_news) {
            self.store.borrow_mut().note_seen(text, &seen)?;
            progress.noted = Some(seen);
        }
        Ok(state)
    }

    /// Logs each conflict once, and returns those logged. In a frozen ledger only in the second round: other nodes give back what they got before
    /// they noticed the restore.
    fn warn_of(&self, ledger: &Ledger, state: LedgerState, conflicts: Vec<Conflict>) -> Vec<Conflict> {
        let mut logged = Vec::new();
        let mut progress = ledger.progress.borrow_mut();
        let before = std::mem::take(&mut progress.conflicts);
        for conflict in conflicts {
            let looks = before.iter().find(|(known, _looks)| *known == conflict).map_or(1, |(_known, looks)| looks + 1);
            if looks == if state.frozen { 2 } else { 1 } {
                self.log.warn(&format!(
                    "address {} of container {} is held in the cluster by {}: two pods have it; delete one of them",
                    conflict.address, conflict.container_id, conflict.holder
                ));
                logged.push(conflict.clone());
            }
            progress.conflicts.push((conflict, looks));
        }
        logged
    }

    /// Returns whether a frozen ledger has lost this node's confirmation: a second restore from the same backup results
    /// in the same epoch.
    async fn has_lost_confirmation(&self, ledger: &Ledger, state: LedgerState) -> Result<bool, DrainError> {
        if !state.frozen {
            return Ok(false);
        }
        let record = ledger.backend.node(&self.identity.node).await?;
        let known = record.and_then(|record| record.machine(&self.identity.machine));
        Ok(known.is_none_or(|known| known.confirmed_epoch < state.epoch))
    }

    /// Before the first grant from a ledger, writes this node's record to it: this shows whether it is frozen, and
    /// which machine may have to be fenced. Repeated after a broken connection, and in doubt.
    pub(super) async fn begin(&self, text: &str, ledger: &Ledger, deadline: Instant) -> Result<(), Refusal> {
        if !needs_a_look(ledger) {
            return Ok(());
        }
        let looked = async {
            let _one = ledger.looking.lock().await;
            if needs_a_look(ledger) { self.look_at_state(text, ledger).await } else { Ok(()) }
        };
        let late = |_late| refuse(&GrantError::Deadline("its state could not be read".to_owned()));
        let looked = tokio::time::timeout_at(deadline, looked).await.map_err(late)?;
        looked.map_err(|error| Refusal::new(Fault::Unavailable, error.to_string()))
    }
}

/// See the module's invariant.
fn needs_a_look(ledger: &Ledger) -> bool {
    let history = ledger.backend.history();
    !ledger.progress.borrow().started || history.is_broken() || history.doubt().is_some()
}
