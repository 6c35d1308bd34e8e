//! The calls of a policy that picks a delegate.

use weft_host_abi::guest::Choice;
use weft_host_abi::types::{Candidate, ChoiceRequest, Chosen, Problem};

use super::ctx::Asked;
use super::no_ledger::NoLedger;
use super::{Called, Evidence, Limits, Loaded, answer};
use crate::policy::PolicyError;

impl Loaded<Choice> {
    /// Asks for a choice.
    pub fn choose(&self, request: &ChoiceRequest, limits: &Limits) -> Called<Chosen> {
        let data = match self.data() {
            Ok(data) => data,
            Err(error) => return self.called(None, (Err(error), Evidence::default())),
        };
        let wasi = self.wasi(request.now, request.seed, data.as_ref());
        // This world imports no ledger.
        let asked = Asked::new(Box::new(NoLedger), request.pod.as_ref());
        let (value, evidence) = self.call(asked, limits, wasi, |policy, store| policy.choose(store, request));
        let outcome = value.and_then(|value| answer::bounded_choice(&self.name, value, limits));
        self.called(data.map(|data| data.digest), (outcome, evidence))
    }

    /// Asks the policy to check a `select` object, given as JSON text, with these delegates.
    ///
    /// # Errors
    ///
    /// [`PolicyError`] if there is no answer within the limits, or the answer is not a value of the contract.
    pub fn validate(
        &self,
        config: &str,
        candidates: &[Candidate],
        limits: &Limits,
    ) -> Result<Vec<Problem>, PolicyError> {
        let wasi = self.wasi(0, 0, self.data()?.as_ref());
        let call = self.call(Asked::empty(), limits, wasi, |policy, store| policy.validate(store, config, candidates));
        Ok(Self::tidy(call.0?, limits))
    }
}
