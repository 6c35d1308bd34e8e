//! Service `policy`: policies that networks name by digest are fetched, verified and compiled before an ADD needs them.
//!
//! Invariants: an ADD never fetches; a new version is used only when it is verified and compiled, by one rename; a fetch that
//! fails is retried for ever with jitter and touches only the networks that name that policy; what is on the node already is
//! never fetched again, so a warm node starts with the API server away.

mod references;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use k8s_openapi::api::core::v1::ConfigMap;
use kube::Api;
use tokio::task::{JoinHandle, spawn_blocking, spawn_local};
use tokio::time::sleep;
use weft_core::agent::Refusal;
use weft_core::agent::policy::{Policy, PolicyReply, PolicyRequest, PolicyRow, PolicyState};
use weft_core::policy::compiler::{CompileAsk, compile_waiting};
use weft_core::policy::{PolicyError, PolicyRef, add_pinned};

use self::references::{Place, collect};
use crate::Log;
use crate::cluster::Cluster;
use crate::pause::Pause;
use crate::server::{Deadline, Handler};

/// How often changed definitions are looked at.
const LOOK: Duration = Duration::from_secs(1);

/// The service.
pub(crate) struct Policies {
    cluster: Rc<Cluster>,
    state: PathBuf,
    rows: RefCell<BTreeMap<String, Row>>,
    log: Log,
}

/// A policy that some network names.
struct Row {
    networks: BTreeSet<String>,
    state: PolicyState,
    task: Option<JoinHandle<()>>,
}

impl Drop for Row {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

impl Policies {
    pub(crate) fn start(cluster: Rc<Cluster>, state: &Path, log: Log) -> Rc<Self> {
        let policies = Rc::new(Self { cluster, state: state.to_owned(), rows: RefCell::default(), log });
        let running = Rc::clone(&policies);
        spawn_local(async move {
            let mut seen = None;
            loop {
                let version = running.cluster.nads_version();
                if seen != Some(version) {
                    running.look();
                    seen = Some(version);
                }
                sleep(LOOK).await;
            }
        });
        policies
    }

    /// Every policy with its state.
    pub(crate) fn rows(&self) -> Vec<PolicyRow> {
        let rows = self.rows.borrow();
        rows.iter()
            .map(|(reference, row)| PolicyRow {
                reference: reference.clone(),
                networks: row.networks.iter().cloned().collect(),
                state: row.state.clone(),
            })
            .collect()
    }

    /// Takes up what is named now and drops what is not named any more. A file that was fetched stays: pods may use it.
    fn look(self: &Rc<Self>) {
        let nads = self.cluster.nads();
        let configs = nads.iter().filter_map(|((namespace, name), nad)| {
            nad.config.as_deref().map(|config| (format!("{namespace}/{name}"), config))
        });
        let named = collect(configs);
        let mut rows = self.rows.borrow_mut();
        rows.retain(|reference, _row| named.contains_key(reference));
        for (reference, networks) in named {
            if let Some(row) = rows.get_mut(&reference) {
                row.networks = networks;
                continue;
            }
            let is_here = is_here(&self.state, &reference);
            let state = if is_here { PolicyState::Ready } else { PolicyState::Fetching };
            let task = (!is_here).then(|| {
                let (policies, reference) = (Rc::clone(self), reference.clone());
                spawn_local(async move { policies.fetch_until_here(&reference).await })
            });
            rows.insert(reference, Row { networks, state, task });
        }
    }

    async fn fetch_until_here(&self, reference: &str) {
        let mut pause = Pause::new(Duration::from_secs(1), Duration::from_secs(120));
        let mut last = String::new();
        loop {
            let outcome = self.fetch(reference).await;
            let is_here = outcome.is_ok();
            if let Some(row) = self.rows.borrow_mut().get_mut(reference) {
                row.state = match outcome {
                    Ok(()) => PolicyState::Ready,
                    Err(reason) => {
                        if reason != last {
                            self.log.warn(&format!("policy {reference} is not here yet: {reason}"));
                            last.clone_from(&reason);
                        }
                        PolicyState::Failed { reason }
                    }
                };
            }
            if is_here {
                self.log.info(&format!("policy {reference} is ready"));
                return;
            }
            sleep(pause.next()).await;
        }
    }

    /// Fetches, verifies and compiles.
    async fn fetch(&self, reference: &str) -> Result<(), String> {
        let place = Place::of(reference).ok_or("it is no reference to a ConfigMap with a digest")?;
        let Place { namespace, name, key } = &place;
        let what = format!("read ConfigMap {namespace}/{name}");
        let client = self.cluster.client().map_err(|error| error.chain())?;
        let api: Api<ConfigMap> = Api::namespaced(client, namespace);
        let found = self.cluster.bounded(&what, Deadline::after(None), api.get_opt(name)).await;
        let found = found.map_err(|error| error.chain())?;
        let map = found.ok_or_else(|| format!("there is no ConfigMap {namespace}/{name}"))?;
        let binary = map.binary_data.and_then(|mut data| data.remove(key)).map(|data| data.0);
        let component = binary.or_else(|| map.data.and_then(|mut data| data.remove(key)).map(String::into_bytes));
        let component = component.ok_or_else(|| {
            format!("ConfigMap {namespace}/{name} has no key {key:?}; put the component into binaryData")
        })?;
        let (state, reference) = (self.state.clone(), reference.to_owned());
        spawn_blocking(move || add(&state, &reference, &component)).await.map_err(|error| error.to_string())?
    }
}

/// Verifies, compiles and puts a component in place. Runs on a thread; the compiler is a process with its own limits.
fn add(state: &Path, reference: &str, component: &[u8]) -> Result<(), String> {
    let policy = PolicyRef::parse(reference).map_err(|error| error.to_string())?;
    let compile = |path: &Path| {
        let ask = CompileAsk { component: path, name: reference, failure: None };
        compile_waiting(state, &ask)
            .map_err(|error| PolicyError::Compiling { policy: reference.to_owned(), progress: error.to_string() })
    };
    add_pinned(state, &policy, component, None, &compile).map(drop).map_err(|error| chain(&error))
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}

/// Whether the component of a digest is on the node (`docs/ledger-format.md` has the directory).
fn is_here(state: &Path, reference: &str) -> bool {
    let Some((_place, hex)) = reference.rsplit_once("@sha256:") else { return false };
    state.join("policies/pinned").join(format!("sha256-{hex}.wasm")).is_file()
}

impl Handler for Policies {
    type Service = Policy;

    async fn handle(&self, _request: PolicyRequest, _deadline: Deadline) -> Result<PolicyReply, Refusal> {
        Ok(PolicyReply { policies: self.rows() })
    }
}
