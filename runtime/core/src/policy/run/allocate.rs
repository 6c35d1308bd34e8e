//! The calls of a policy that picks addresses.

use weft_host_abi::guest::Ipam;
use weft_host_abi::types::{Decision, LedgerView, Problem, Request};

use super::ctx::Asked;
use super::{Called, Evidence, Limits, Loaded, answer};
use crate::policy::PolicyError;

impl Loaded<Ipam> {
    /// Asks for a decision.
    pub fn allocate(&self, request: &Request, ledger: Box<dyn LedgerView + Send>, limits: &Limits) -> Called<Decision> {
        let data = match self.data() {
            Ok(data) => data,
            Err(error) => return self.called(None, (Err(error), Evidence::default())),
        };
        let wasi = self.wasi(request.now, request.seed, data.as_ref());
        let asked = Asked::new(ledger, request.pod.as_ref());
        let (value, evidence) = self.call(asked, limits, wasi, |policy, store| policy.allocate(store, request));
        let outcome = value.and_then(|value| answer::bounded(&self.name, value, limits));
        self.called(data.map(|data| data.digest), (outcome, evidence))
    }

    /// Asks the policy to check an `ipam` object, given as JSON text.
    ///
    /// # Errors
    ///
    /// [`PolicyError`] if there is no answer within the limits, or the answer is not a value of the contract.
    pub fn validate(&self, config: &str, limits: &Limits) -> Result<Vec<Problem>, PolicyError> {
        let wasi = self.wasi(0, 0, self.data()?.as_ref());
        let problems = self.call(Asked::empty(), limits, wasi, |policy, store| policy.validate(store, config)).0?;
        Ok(Self::tidy(problems, limits))
    }
}
