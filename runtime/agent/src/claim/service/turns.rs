//! The background work on ledgers: one round after the other for each.
//!
//! Invariant: a ledger that does not answer, or answers slowly, delays the work on no other one.

use std::rc::Rc;

use tokio::task::JoinSet;
use tokio::time::{Instant, interval};

use super::{
    COMPARE, CUT_OFF, Claims, KUBERNETES, Ledger, OLDEST_INTENT, REMEMBERED, RETRY, Round, STATE, SWEEP, TICK,
};
use crate::claim::backend::Backend as _;
use crate::claim::clock::Clocks;
use crate::claim::{DrainError, now, reverse_sweep};

/// A round that is under way.
struct Working(Rc<Ledger>);

impl Drop for Working {
    fn drop(&mut self) {
        self.0.works.set(false);
    }
}

impl Claims {
    /// Does the background work, forever.
    pub async fn work(self: Rc<Self>) {
        let mut tick = interval(TICK);
        let mut clocks = Clocks::default();
        // Ends all rounds when it is dropped.
        let mut rounds = JoinSet::new();
        loop {
            tick.tick().await;
            self.look_at_clocks(&mut clocks);
            if let Err(error) = self.store.borrow_mut().expire_intents(now().saturating_sub(OLDEST_INTENT), now()) {
                self.log.warn(&format!("intents of a cluster ledger cannot be expired: {error}"));
            }
            while let Some(ended) = rounds.try_join_next() {
                if let Err(error) = ended {
                    self.log.warn(&format!("the work on a cluster ledger ended: {error}; it begins again"));
                }
            }
            for text in self.known() {
                let Ok(ledger) = self.ledger(&text) else { continue };
                ledger.lists.forget();
                if ledger.works.replace(true) {
                    continue;
                }
                let (claims, working) = (Rc::clone(&self), Working(ledger));
                rounds.spawn_local(async move {
                    let outcome = claims.run_round(&text, &working.0).await;
                    claims.report(&text, &working.0, outcome);
                });
            }
        }
    }

    /// Returns the ledgers that need work.
    pub(super) fn known(&self) -> Vec<String> {
        let stored = self.store.borrow().remote_ledgers(now().saturating_sub(REMEMBERED));
        match &stored {
            // A network's configuration may change often. Others may come back with the next request.
            Ok(stored) => self
                .ledgers
                .borrow_mut()
                .retain(|text, ledger| text == KUBERNETES || stored.contains(text) || Rc::strong_count(ledger) > 1),
            Err(error) => self.log.warn(&format!("the store does not say which cluster ledgers there are: {error}")),
        }
        let mut known: Vec<String> = self.ledgers.borrow().keys().cloned().collect();
        known.extend(self.kubernetes.as_ref().map(|_client| KUBERNETES.to_owned()));
        known.extend(stored.unwrap_or_default());
        known.sort();
        known.dedup();
        known
    }

    pub(super) fn report(&self, text: &str, ledger: &Ledger, outcome: Result<Round, DrainError>) {
        let mut progress = ledger.progress.borrow_mut();
        match outcome {
            Ok(Round::Skipped) => {}
            Ok(Round::Answered) => {
                if progress.trouble.take().is_some() {
                    self.log.info(&format!("the cluster ledger {text} answers again"));
                }
                if progress.trouble_since.take().is_some_and(|since| since.elapsed() > CUT_OFF) {
                    progress.start_over();
                }
            }
            Err(error) => {
                let error = error.to_string();
                if progress.trouble.as_ref() != Some(&error) {
                    self.log.warn(&format!("cluster ledger {text}: {error}"));
                }
                progress.trouble = Some(error);
                progress.trouble_since.get_or_insert_with(Instant::now);
                progress.next_state = Some(Instant::now() + RETRY);
                progress.next_compare = None;
            }
        }
    }

    /// Runs one round for a ledger.
    async fn run_round(&self, text: &str, ledger: &Ledger) -> Result<Round, DrainError> {
        let due = |at: Option<Instant>| at.is_none_or(|at| at <= Instant::now());
        let (state_due, sweep_due, compare_due) = {
            let progress = ledger.progress.borrow();
            // An unsettled doubt is retried after a pause, like every other error.
            let doubted = progress.trouble.is_none() && ledger.backend.history().doubt().is_some();
            (doubted || due(progress.next_state), due(progress.next_sweep), due(progress.next_compare))
        };
        if state_due {
            let _one = ledger.looking.lock().await;
            self.look_at_state(text, ledger).await?;
            ledger.progress.borrow_mut().next_state = Some(Instant::now() + STATE);
        } else if ledger.progress.borrow().trouble.is_some() {
            // It did not answer a moment ago.
            return Ok(Round::Skipped);
        }
        let names = self.names_to_serve(text)?;
        let mut refused = self.drain(&names, ledger).await?;
        if compare_due {
            for name in &names {
                self.compare(name, ledger).await?;
            }
            let pause = COMPARE.mul_f64(0.75 + fastrand::f64() / 2.0);
            ledger.progress.borrow_mut().next_compare = Some(Instant::now() + pause);
        }
        for name in &names {
            refused.extend(self.look_after_cells(name, ledger).await?);
        }
        if sweep_due {
            let mut swept = reverse_sweep(&ledger.backend, &self.store, &self.identity).await?;
            let of_cells = self.cells(text, ledger).sweep().await?;
            swept.removed += of_cells.removed;
            swept.foreign += of_cells.foreign;
            refused.extend(swept.refused.into_iter().chain(of_cells.refused));
            if swept.removed > 0 {
                self.log.info(&format!(
                    "{} claims and cells of this machine that its store does not know are given back",
                    swept.removed
                ));
            }
            if swept.foreign > 0 {
                self.log.warn(&format!(
                    "{} claims and cells are of another store of this machine; they stay until the next boot, because their pods may live",
                    swept.foreign
                ));
            }
            let pause = SWEEP.mul_f64(0.75 + fastrand::f64() / 2.0);
            let mut progress = ledger.progress.borrow_mut();
            progress.foreign = swept.foreign;
            progress.next_sweep = Some(Instant::now() + pause);
        }
        self.warn_of_refused(text, ledger, refused);
        self.warn_of_unreadable(text, ledger);
        Ok(Round::Answered)
    }
}
