//! What a policy that picks addresses can be asked.

use weft_host_abi::guest::Ipam;
use weft_host_abi::types::{Decision, Denial, LedgerView, Problem, Request};

use super::no_ledger::NoLedger;
use super::{Limits, Loaded, LogLine, Outcome, answer};
use crate::policy::PolicyError;

/// What a policy said, and what it cost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The decision (not yet verified), or the refusal.
    pub outcome: Result<Decision, Denial>,
    /// Fuel the call used; the same for the same request, ledger and component.
    pub fuel: u64,
    /// Calls of the host, log lines included.
    pub calls: u32,
    /// What the policy logged.
    pub log: Vec<LogLine>,
    /// `sha256:...` of the component.
    pub digest: String,
    /// `sha256:...` of the granted data directory, where one was granted to a component that can read it.
    pub data_digest: Option<String>,
}

impl Loaded<Ipam> {
    /// Asks for a decision.
    ///
    /// # Errors
    ///
    /// [`PolicyError`] when there is no answer within the limits, or none that is a value of the contract.
    pub fn allocate(
        &self,
        request: &Request,
        ledger: Box<dyn LedgerView + Send>,
        limits: &Limits,
    ) -> Result<Answer, PolicyError> {
        let data_digest = self.data_digest()?;
        let wasi = self.wasi(request.now, request.seed)?;
        let Outcome { value, fuel, calls, log } =
            self.call(ledger, limits, wasi, |policy, store| policy.allocate(store, request))?;
        let outcome = answer::bounded(&self.name, value, limits)?;
        Ok(Answer { outcome, fuel, calls, log, digest: self.digest.clone(), data_digest })
    }

    /// Asks what is wrong with an `ipam` object, given as JSON text.
    ///
    /// # Errors
    ///
    /// As [`Loaded::allocate`].
    pub fn validate(&self, config: &str, limits: &Limits) -> Result<Vec<Problem>, PolicyError> {
        let wasi = self.wasi(0, 0)?;
        let problems = self.call(Box::new(NoLedger), limits, wasi, |policy, store| policy.validate(store, config))?;
        Ok(Self::tidy(problems.value, limits))
    }
}
