//! What a policy that picks a delegate can be asked.

use weft_host_abi::guest::Choice;
use weft_host_abi::types::{Candidate, ChoiceRequest, Chosen, Denial, Problem};

use super::no_ledger::NoLedger;
use super::{Limits, Loaded, LogLine, Outcome, answer};
use crate::policy::PolicyError;

/// What a delegate policy said, and what it cost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChoiceAnswer {
    /// The choice (not yet verified), or the refusal.
    pub outcome: Result<Chosen, Denial>,
    /// Fuel the call used; the same for the same request and component.
    pub fuel: u64,
    /// Lines it logged.
    pub calls: u32,
    /// What the policy logged.
    pub log: Vec<LogLine>,
    /// `sha256:...` of the component.
    pub digest: String,
    /// `sha256:...` of the granted data directory, where one was granted to a component that can read it.
    pub data_digest: Option<String>,
}

impl Loaded<Choice> {
    /// Asks for a choice.
    ///
    /// # Errors
    ///
    /// [`PolicyError`] when there is no answer within the limits, or none that is a value of the contract.
    pub fn choose(&self, request: &ChoiceRequest, limits: &Limits) -> Result<ChoiceAnswer, PolicyError> {
        let data_digest = self.data_digest()?;
        let wasi = self.wasi(request.now, request.seed)?;
        // The world has no ledger to import.
        let Outcome { value, fuel, calls, log } =
            self.call(Box::new(NoLedger), limits, wasi, |policy, store| policy.choose(store, request))?;
        let outcome = answer::bounded_choice(&self.name, value, limits)?;
        Ok(ChoiceAnswer { outcome, fuel, calls, log, digest: self.digest.clone(), data_digest })
    }

    /// Asks what is wrong with a `select` object, given as JSON text, beside these delegates.
    ///
    /// # Errors
    ///
    /// As [`Loaded::choose`].
    pub fn validate(
        &self,
        config: &str,
        candidates: &[Candidate],
        limits: &Limits,
    ) -> Result<Vec<Problem>, PolicyError> {
        let wasi = self.wasi(0, 0)?;
        let problems =
            self.call(Box::new(NoLedger), limits, wasi, |policy, store| policy.validate(store, config, candidates))?;
        Ok(Self::tidy(problems.value, limits))
    }
}
