//! Runs a policy: one call, one store, one instance, within limits. Policies of both worlds are loaded and run in the
//! same way; `choose` and `allocate` contain their calls.

mod allocate;
mod answer;
mod choose;
mod ctx;
mod data;
mod ended;
mod evidence;
mod files;
mod limits;
mod no_ledger;
mod reused;
mod tree;
mod wasi;
mod wasi_link;
mod worker;

use std::sync::{Arc, Mutex, PoisonError};

use serde::Serialize;
use serde::de::DeserializeOwned;
use wasmtime::component::{Component, Linker};
use wasmtime::{CallHook, Engine, Store};
use weft_host_abi::contract;
use weft_host_abi::guest::{CallError, Ipam, World};
use weft_host_abi::types::{Denial, Problem};

pub use evidence::{Answer, Called, Evidence, Exchange, Exchanges, LogLine, ReplayLedger};
pub use limits::{Grants, Limits};
pub use reused::Reused;

use super::error::{cause, host_memory};
use super::{Cause, PolicyError};
use crate::text::clean;
use ctx::{Asked, Ctx};
use data::Data;
use ended::Ending;
use wasi::WasiState;

/// A policy that is checked, linked and ready for any number of calls.
pub struct Loaded<W: World = Ipam> {
    name: String,
    digest: String,
    engine: Engine,
    policy: W::Linked<Ctx>,
    imports: contract::Imports,
    grants: Grants,
    /// Device and inode of the file with its code.
    code: (u64, u64),
    /// An instance made in advance.
    spare: Mutex<Option<Spare<W>>>,
    /// The last guest that was called. Freeing its memory takes a fair part of a call's time, and a process that makes
    /// only one call need not do it.
    spent: Mutex<Option<Store<Ctx>>>,
}

/// A guest that is ready to be called, and its limits.
struct Spare<W: World> {
    limits: Limits,
    store: Store<Ctx>,
    instance: W::Instance,
}

// === impl Loaded ===

impl<W: World> Loaded<W> {
    /// Checks the type and the imports of a component before any of it runs.
    pub(super) fn new(
        name: String,
        digest: String,
        engine: &Engine,
        (component, code): (&Component, (u64, u64)),
        grants: &Grants,
    ) -> Result<Self, PolicyError> {
        let imports = contract::check(component, engine, W::KIND)
            .map_err(|what| PolicyError::Contract { policy: name.clone(), what })?;
        if !imports.unknown.is_empty() {
            return Err(PolicyError::ImportsUnknown { policy: name, imports: imports.unknown });
        }
        let mut linker = Linker::new(engine);
        if !imports.wasi.is_empty() {
            if !grants.wasi {
                return Err(PolicyError::ImportsNotGranted { policy: name, imports: imports.wasi });
            }
            wasi_link::link(&mut linker).map_err(|error| PolicyError::Engine { source: cause(&error) })?;
        }
        let policy = W::link(component, &mut linker).map_err(|error| {
            match host_memory(&format!("load policy {name:?}"), &error) {
                Some(error) => error,
                None => PolicyError::Link { policy: name.clone(), source: cause(&error) },
            }
        })?;
        Ok(Self {
            name,
            digest,
            engine: engine.clone(),
            policy,
            imports,
            grants: grants.clone(),
            code,
            spare: Mutex::new(None),
            spent: Mutex::new(None),
        })
    }

    /// Returns the policy's name in the network.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns `sha256:...` of the component.
    #[must_use]
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// Returns the WASI interfaces that the component imports.
    #[must_use]
    pub fn wasi_imports(&self) -> &[String] {
        &self.imports.wasi
    }

    /// Makes the instance for the next call in advance, while the caller does other work. After a failure here, that
    /// call makes its own instance.
    pub fn warm_up(&self, limits: &Limits) {
        // WASI's clock and random numbers come from the request, which is not known yet. A guest that must be isolated
        // must not even be instantiated here.
        if !self.imports.wasi.is_empty() || self.grants.isolated {
            return;
        }
        let Ok(mut store) = self.store(Ctx::new(Asked::empty(), limits, None), limits) else { return };
        let Ok(instance) = W::instantiate(&self.policy, &mut store) else { return };
        // Whatever a guest does during its instantiation belongs to its call. A guest that already called the host had
        // no ledger to ask, so it is discarded.
        if store.data().calls == 0 {
            let spare = Spare { limits: limits.clone(), store, instance };
            *self.spare.lock().unwrap_or_else(PoisonError::into_inner) = Some(spare);
        }
    }

    fn take_spare(&self, limits: &Limits) -> Option<Spare<W>> {
        let spare = self.spare.lock().unwrap_or_else(PoisonError::into_inner).take();
        spare.filter(|spare| spare.limits == *limits)
    }

    /// Asks for the JSON Schema of its configuration.
    ///
    /// # Errors
    ///
    /// [`PolicyError`] if there is no answer within the limits.
    pub fn config_schema(&self, limits: &Limits) -> Result<String, PolicyError> {
        let wasi = self.wasi(0, 0, self.data()?.as_ref());
        let schema = self.call(Asked::empty(), limits, wasi, |policy, store| W::config_schema(policy, store)).0?;
        if schema.len() > limits.schema_bytes {
            let (count, max) = (schema.len(), limits.schema_bytes);
            return Err(PolicyError::Oversized { policy: self.name.clone(), what: "bytes of schema", count, max });
        }
        Ok(schema)
    }

    /// Returns the contents of the granted directory, if the component can read them.
    fn data(&self) -> Result<Option<Data>, PolicyError> {
        let granted = self.grants.data.as_deref().filter(|_data| !self.imports.wasi.is_empty());
        granted.map(Data::read).transpose().map_err(|source| {
            let path = self.grants.data.clone().unwrap_or_default();
            PolicyError::Data { policy: self.name.clone(), path, source }
        })
    }

    /// Returns `sha256:...` of the granted directory as it is now, if the component can read one.
    ///
    /// # Errors
    ///
    /// [`PolicyError::Data`] if it cannot be read.
    pub fn data_digest(&self) -> Result<Option<String>, PolicyError> {
        Ok(self.data()?.map(|data| data.digest))
    }

    fn wasi(&self, now: u64, seed: u64, data: Option<&Data>) -> Option<WasiState> {
        let files = data.map(|data| Arc::clone(&data.tree));
        (!self.imports.wasi.is_empty()).then(|| WasiState::new(now, seed, files))
    }

    /// Makes one call in its own store, in a worker if the policy must be isolated.
    fn call<T: Send + Serialize + DeserializeOwned>(
        &self,
        asked: Asked,
        limits: &Limits,
        wasi: Option<WasiState>,
        export: impl FnOnce(&W::Instance, &mut Store<Ctx>) -> Result<T, CallError> + Send,
    ) -> (Result<T, PolicyError>, Evidence) {
        let (value, evidence) = if self.grants.isolated {
            worker::call(asked, limits, self.code, |asked| self.call_here(asked, limits, wasi, export))
        } else if wasi.is_some() {
            self.call_on_thread(asked, limits, wasi, export)
        } else {
            self.call_here(asked, limits, None, export)
        };
        (value.map_err(|ending| ending.into_error(&self.name, limits)), evidence)
    }

    /// Makes the call on a thread of its own: WASI's host functions block inside a runtime, which must not happen on a
    /// thread that is already inside one.
    fn call_on_thread<T: Send>(
        &self,
        asked: Asked,
        limits: &Limits,
        wasi: Option<WasiState>,
        export: impl FnOnce(&W::Instance, &mut Store<Ctx>) -> Result<T, CallError> + Send,
    ) -> (Result<T, Ending>, Evidence) {
        std::thread::scope(|scope| {
            let call = || self.call_here(asked, limits, wasi, export);
            match std::thread::Builder::new().spawn_scoped(scope, call).map(std::thread::ScopedJoinHandle::join) {
                Ok(Ok(outcome)) => outcome,
                Ok(Err(_panic)) => not_called("a host function panicked".to_owned()),
                // Memory or process numbers ran out; the kernel does not say which.
                Err(error) => (Err(Ending::HostMemory(error.to_string())), Evidence::default()),
            }
        })
    }

    fn call_here<T>(
        &self,
        asked: Asked,
        limits: &Limits,
        wasi: Option<WasiState>,
        export: impl FnOnce(&W::Instance, &mut Store<Ctx>) -> Result<T, CallError>,
    ) -> (Result<T, Ending>, Evidence) {
        // A runtime of this thread alone, which opens nothing: otherwise, wasmtime-wasi makes one with threads and an
        // epoll.
        let runtime = wasi.as_ref().map(|_wasi| tokio::runtime::Builder::new_current_thread().build()).transpose();
        let runtime = match runtime {
            Ok(runtime) => runtime,
            Err(error) => return not_called(format!("cannot start the runtime of WASI: {error}")),
        };
        let _inside = runtime.as_ref().map(tokio::runtime::Runtime::enter);
        // A policy with WASI has none.
        if let Some(Spare { mut store, instance, .. }) = self.take_spare(limits) {
            store.data_mut().begin(asked);
            return self.call_in(store, limits, |store| export(&instance, store));
        }
        let store = match self.store(Ctx::new(asked, limits, wasi), limits) {
            Ok(store) => store,
            Err(error) => return not_called(cause(&error).0),
        };
        self.call_in(store, limits, |store| {
            let instance = W::instantiate(&self.policy, &mut *store).map_err(CallError::Ended)?;
            export(&instance, store)
        })
    }

    fn call_in<T>(
        &self,
        mut store: Store<Ctx>,
        limits: &Limits,
        export: impl FnOnce(&mut Store<Ctx>) -> Result<T, CallError>,
    ) -> (Result<T, Ending>, Evidence) {
        let value = export(&mut store);
        let ended = ended(&mut store, limits, value);
        *self.spent.lock().unwrap_or_else(PoisonError::into_inner) = Some(store);
        ended
    }

    /// Makes a call whose outcome may be a refusal, and returns it with its record.
    fn called<T>(
        &self,
        data_digest: Option<String>,
        (outcome, evidence): (Result<Result<T, Denial>, PolicyError>, Evidence),
    ) -> Called<T> {
        Called { outcome, evidence, digest: self.digest.clone(), data_digest }
    }

    /// Makes the texts of problems displayable.
    fn tidy(problems: Vec<Problem>, limits: &Limits) -> Vec<Problem> {
        let text = |text: &str| clean(text, limits.text_bytes);
        problems.into_iter().map(|problem| Problem { at: text(&problem.at), message: text(&problem.message) }).collect()
    }

    fn store(&self, ctx: Ctx, limits: &Limits) -> wasmtime::Result<Store<Ctx>> {
        let mut store = Store::new(&self.engine, ctx);
        store.limiter(|ctx| ctx);
        store.set_fuel(limits.fuel)?;
        store.set_hostcall_fuel(limits.call_bytes);
        store.set_max_component_handles(limits.handles);
        // Checks the clock whenever the guest enters or leaves the host, including WASI.
        store.call_hook(|mut store, hook| match hook {
            CallHook::CallingHost | CallHook::ReturningFromHost => store.data_mut().check_deadline(),
            CallHook::CallingWasm | CallHook::ReturningFromWasm => Ok(()),
        });
        Ok(store)
    }

    fn engine_error(&self, what: &str) -> PolicyError {
        PolicyError::Engine { source: Cause(format!("policy {:?}: {what}", self.name)) }
    }
}

/// Returns the outcome of a call that was never made.
fn not_called<T>(what: String) -> (Result<T, Ending>, Evidence) {
    (Err(Ending::Engine(what)), Evidence::default())
}

/// Returns the outcome of a call and its evidence.
fn ended<T>(store: &mut Store<Ctx>, limits: &Limits, value: Result<T, CallError>) -> (Result<T, Ending>, Evidence) {
    let value = value.map_err(|error| ended::explain(store.data_mut(), limits, error));
    // All our stores count fuel.
    let left = store.get_fuel().unwrap_or_default();
    let evidence = store.data_mut().evidence(left);
    store.data_mut().close_ledger();
    (value, evidence)
}

impl<W: World> std::fmt::Debug for Loaded<W> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Loaded").field("name", &self.name).field("digest", &self.digest).finish_non_exhaustive()
    }
}
