//! One instance for many calls, for tests and measurements of policies. weft itself never reuses an instance, so that
//! no policy sees what its earlier call left behind.

use wasmtime::Store;
use weft_host_abi::guest::{CallError, Choice, Ipam, World};
use weft_host_abi::types::{ChoiceRequest, Chosen, Decision, LedgerView, Request};

use super::ctx::{Asked, Ctx};
use super::no_ledger::NoLedger;
use super::{Called, Evidence, Limits, Loaded, answer};
use crate::policy::PolicyError;
use crate::policy::error::cause;

/// An instance of a policy. After a call that trapped, all later calls fail.
pub struct Reused<'a, W: World> {
    policy: &'a Loaded<W>,
    limits: Limits,
    store: Store<Ctx>,
    instance: W::Instance,
}

impl<W: World> Loaded<W> {
    /// Makes an instance for many calls, each within the limits.
    ///
    /// # Errors
    ///
    /// [`PolicyError`] if it cannot be instantiated, or imports WASI, whose clock and random numbers belong to one
    /// request.
    pub fn reused(&self, limits: &Limits) -> Result<Reused<'_, W>, PolicyError> {
        if !self.imports.wasi.is_empty() {
            return Err(self.engine_error("it imports WASI, so every call needs an instance of its own"));
        }
        let made = self.store(Ctx::new(Asked::empty(), limits, None), limits);
        let mut store = made.map_err(|error| self.engine_error(&cause(&error).0))?;
        let made = W::instantiate(&self.policy, &mut store).map_err(CallError::Ended);
        let ending = |error| super::ended::explain(store.data_mut(), limits, error).into_error(&self.name, limits);
        let instance = made.map_err(ending)?;
        Ok(Reused { policy: self, limits: limits.clone(), store, instance })
    }
}

// === impl Reused ===

impl<W: World> Reused<'_, W> {
    fn call<T>(
        &mut self,
        asked: Asked,
        export: impl FnOnce(&W::Instance, &mut Store<Ctx>) -> Result<T, CallError>,
    ) -> (Result<T, PolicyError>, Evidence) {
        if let Err(error) = self.store.set_fuel(self.limits.fuel) {
            return (Err(PolicyError::Engine { source: cause(&error) }), Evidence::default());
        }
        self.store.data_mut().begin(asked);
        let value = export(&self.instance, &mut self.store);
        let (value, evidence) = super::ended(&mut self.store, &self.limits, value);
        (value.map_err(|ending| ending.into_error(&self.policy.name, &self.limits)), evidence)
    }
}

impl Reused<'_, Ipam> {
    /// Asks for a decision.
    pub fn allocate(&mut self, request: &Request, ledger: Box<dyn LedgerView + Send>) -> Called<Decision> {
        let asked = Asked::new(ledger, request.pod.as_ref());
        let (value, evidence) = self.call(asked, |policy, store| policy.allocate(store, request));
        let outcome = value.and_then(|value| answer::bounded(&self.policy.name, value, &self.limits));
        self.policy.called(None, (outcome, evidence))
    }
}

impl Reused<'_, Choice> {
    /// Asks for a choice.
    pub fn choose(&mut self, request: &ChoiceRequest) -> Called<Chosen> {
        let asked = Asked::new(Box::new(NoLedger), request.pod.as_ref());
        let (value, evidence) = self.call(asked, |policy, store| policy.choose(store, request));
        let outcome = value.and_then(|value| answer::bounded_choice(&self.policy.name, value, &self.limits));
        self.policy.called(None, (outcome, evidence))
    }
}

impl<W: World> std::fmt::Debug for Reused<'_, W> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reused").field("policy", &self.policy).finish_non_exhaustive()
    }
}
