//! Running a policy: one call, one store, one instance, within limits.

mod answer;
mod ctx;
mod limits;
mod wasi;

use std::sync::Arc;

use wasmtime::component::{Component, Linker};
use wasmtime::{CallHook, Engine, Store, Trap};
use weft_host_abi::contract;
use weft_host_abi::convert::ConvertError;
use weft_host_abi::guest::{CallError, IpamInstance, IpamPolicy, LogLevel};
use weft_host_abi::types::{ClaimInfo, Decision, Denial, LastClaim, LedgerView, Problem, Range, Request, Usage};

pub use ctx::LogLine;
pub use limits::{Grants, Limits};

use super::error::cause;
use super::text::clean;
use super::{Cause, PolicyError};
use ctx::{Ctx, Fault};
use wasi::WasiState;

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
}

/// A policy that is checked, linked and ready to be called, any number of times.
pub struct Loaded {
    name: String,
    digest: String,
    engine: Engine,
    policy: Arc<IpamPolicy<Ctx>>,
    imports: contract::Imports,
    grants: Grants,
}

/// A value a policy gave, and what it cost.
struct Outcome<T> {
    value: T,
    fuel: u64,
    calls: u32,
    log: Vec<LogLine>,
}

/// The ledger of calls that have none: `validate`, `config-schema`.
struct NoLedger;

// === impl Loaded ===

impl Loaded {
    /// Checks what a component is and wants before anything of it runs.
    pub(super) fn new(
        name: String,
        digest: String,
        engine: &Engine,
        component: &Component,
        grants: &Grants,
    ) -> Result<Self, PolicyError> {
        let imports = contract::check_ipam(component, engine)
            .map_err(|what| PolicyError::Contract { policy: name.clone(), what })?;
        if !imports.unknown.is_empty() {
            return Err(PolicyError::ImportsUnknown { policy: name, imports: imports.unknown });
        }
        let mut linker = Linker::new(engine);
        if !imports.wasi.is_empty() {
            if !grants.wasi {
                return Err(PolicyError::ImportsNotGranted { policy: name, imports: imports.wasi });
            }
            wasi::link(&mut linker).map_err(|error| PolicyError::Engine { source: cause(&error) })?;
        }
        let policy = IpamPolicy::link(component, &mut linker)
            .map_err(|error| PolicyError::Link { policy: name.clone(), source: cause(&error) })?;
        let (engine, policy) = (engine.clone(), Arc::new(policy));
        Ok(Self { name, digest, engine, policy, imports, grants: grants.clone() })
    }

    /// The policy as the network names it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// `sha256:...` of the component.
    #[must_use]
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// WASI interfaces the component imports.
    #[must_use]
    pub fn wasi_imports(&self) -> &[String] {
        &self.imports.wasi
    }

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
        let wasi = self.wasi(request.now, request.seed)?;
        let Outcome { value, fuel, calls, log } =
            self.call(ledger, limits, wasi, |policy, store| policy.allocate(store, request))?;
        let outcome = answer::bounded(&self.name, value, limits)?;
        Ok(Answer { outcome, fuel, calls, log, digest: self.digest.clone() })
    }

    /// Asks what is wrong with an `ipam` object, given as JSON text.
    ///
    /// # Errors
    ///
    /// As [`Loaded::allocate`].
    pub fn validate(&self, config: &str, limits: &Limits) -> Result<Vec<Problem>, PolicyError> {
        let wasi = self.wasi(0, 0)?;
        let problems = self.call(Box::new(NoLedger), limits, wasi, |policy, store| policy.validate(store, config))?;
        let tidy = |problem: Problem| Problem {
            at: clean(&problem.at, limits.text_bytes),
            message: clean(&problem.message, limits.text_bytes),
        };
        Ok(problems.value.into_iter().map(tidy).collect())
    }

    /// Asks for the JSON Schema of the `ipam` object.
    ///
    /// # Errors
    ///
    /// As [`Loaded::allocate`].
    pub fn config_schema(&self, limits: &Limits) -> Result<String, PolicyError> {
        let wasi = self.wasi(0, 0)?;
        let schema = self.call(Box::new(NoLedger), limits, wasi, |policy, store| policy.config_schema(store))?.value;
        if schema.len() > limits.schema_bytes {
            let (count, max) = (schema.len(), limits.schema_bytes);
            return Err(PolicyError::Oversized { policy: self.name.clone(), what: "bytes of schema", count, max });
        }
        Ok(schema)
    }

    fn wasi(&self, now: u64, seed: u64) -> Result<Option<WasiState>, PolicyError> {
        if self.imports.wasi.is_empty() {
            return Ok(None);
        }
        let data = self.grants.data.as_deref();
        WasiState::new(now, seed, data).map(Some).map_err(|source| PolicyError::Data {
            policy: self.name.clone(),
            path: data.map(ToOwned::to_owned).unwrap_or_default(),
            source,
        })
    }

    /// One call in a store of its own.
    fn call<T: Send>(
        &self,
        ledger: Box<dyn LedgerView + Send>,
        limits: &Limits,
        wasi: Option<WasiState>,
        export: impl FnOnce(&IpamInstance, &mut Store<Ctx>) -> Result<T, CallError> + Send,
    ) -> Result<Outcome<T>, PolicyError> {
        // WASI's host functions block inside a tokio runtime of their own, which must not happen on a thread that is
        // already inside one.
        let own_thread = wasi.is_some();
        let store = self.store(Ctx::new(ledger, limits, wasi), limits)?;
        if !own_thread {
            return self.call_in(store, limits, export);
        }
        std::thread::scope(|scope| {
            let called = std::thread::Builder::new().spawn_scoped(scope, || self.call_in(store, limits, export));
            match called.map(std::thread::ScopedJoinHandle::join) {
                Ok(Ok(outcome)) => outcome,
                Ok(Err(_panic)) => Err(self.engine_error("a host function panicked")),
                Err(error) => Err(self.engine_error(&format!("no thread to run it on: {error}"))),
            }
        })
    }

    fn call_in<T>(
        &self,
        mut store: Store<Ctx>,
        limits: &Limits,
        export: impl FnOnce(&IpamInstance, &mut Store<Ctx>) -> Result<T, CallError>,
    ) -> Result<Outcome<T>, PolicyError> {
        let value = self
            .policy
            .instantiate(&mut store)
            .map_err(CallError::Ended)
            .and_then(|instance| export(&instance, &mut store))
            .map_err(|error| self.failed(&mut store, limits, error))?;
        let left = store.get_fuel().map_err(|error| PolicyError::Engine { source: cause(&error) })?;
        let ctx = store.data_mut();
        Ok(Outcome { value, fuel: limits.fuel.saturating_sub(left), calls: ctx.calls, log: ctx.take_log() })
    }

    fn store(&self, ctx: Ctx, limits: &Limits) -> Result<Store<Ctx>, PolicyError> {
        let mut store = Store::new(&self.engine, ctx);
        store.limiter(|ctx| ctx);
        store.set_fuel(limits.fuel).map_err(|error| PolicyError::Engine { source: cause(&error) })?;
        store.set_hostcall_fuel(limits.call_bytes);
        store.set_max_component_handles(limits.handles);
        // Whatever the guest calls, WASI included, the clock is looked at on the way in and out.
        store.call_hook(|mut store, hook| match hook {
            CallHook::CallingHost | CallHook::ReturningFromHost => store.data_mut().in_time(),
            CallHook::CallingWasm | CallHook::ReturningFromWasm => Ok(()),
        });
        Ok(store)
    }

    fn engine_error(&self, what: &str) -> PolicyError {
        PolicyError::Engine { source: Cause(format!("policy {:?}: {what}", self.name)) }
    }

    /// Why a call ended: what the host decided first, then the engine's traps.
    fn failed(&self, store: &mut Store<Ctx>, limits: &Limits, error: CallError) -> PolicyError {
        let policy = self.name.clone();
        let error = match error {
            CallError::Malformed(what) => return PolicyError::Malformed { policy, what },
            CallError::Ended(error) => error,
        };
        match store.data_mut().fault.take() {
            Some(Fault::Deadline) => return PolicyError::Deadline { policy, limit: limits.deadline },
            Some(Fault::Calls) => return PolicyError::TooManyCalls { policy, limit: limits.calls },
            Some(Fault::Ledger(reason)) => return PolicyError::Ledger { policy, reason },
            Some(Fault::Memory(wanted)) => return PolicyError::Memory { policy, wanted, limit: limits.memory },
            Some(Fault::Table(wanted)) => return PolicyError::Table { policy, wanted, limit: limits.table_elements },
            None => {}
        }
        if let Some(what) = error.downcast_ref::<ConvertError>() {
            return PolicyError::Malformed { policy, what: what.clone() };
        }
        let source = cause(&error);
        // The engine's type for this is private; its text is held by a test.
        if source.0.contains("fuel allocated for hostcalls has been exhausted") {
            return PolicyError::TooMuchData { policy, limit: limits.call_bytes };
        }
        match error.downcast_ref::<Trap>() {
            Some(Trap::OutOfFuel) => PolicyError::OutOfFuel { policy, fuel: limits.fuel },
            Some(Trap::StackOverflow) => PolicyError::Stack { policy },
            trap => {
                let log = store.data_mut().take_log();
                let said = log.into_iter().rev().find(|line| line.level == LogLevel::Warn).map(|line| line.text);
                let what =
                    trap.map_or_else(|| clean(&error.root_cause().to_string(), limits.text_bytes), ToString::to_string);
                PolicyError::Trap { policy, what, said, source }
            }
        }
    }
}

impl std::fmt::Debug for Loaded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Loaded").field("name", &self.name).field("digest", &self.digest).finish_non_exhaustive()
    }
}

impl LedgerView for NoLedger {
    fn claimed_by(&self, _address: std::net::IpAddr) -> Result<Option<ClaimInfo>, String> {
        Err(NO_LEDGER.to_owned())
    }

    fn next_free(&self, _range: &Range, _from: std::net::IpAddr) -> Result<Option<std::net::IpAddr>, String> {
        Err(NO_LEDGER.to_owned())
    }

    fn usage(&self, _range: &Range) -> Result<Usage, String> {
        Err(NO_LEDGER.to_owned())
    }

    fn last_claimed(&self, _range: &Range) -> Result<Option<LastClaim>, String> {
        Err(NO_LEDGER.to_owned())
    }

    fn held_by(&self, _owner: &str) -> Result<Vec<ClaimInfo>, String> {
        Err(NO_LEDGER.to_owned())
    }
}

const NO_LEDGER: &str = "there is none to ask while a configuration is checked";
