//! Service `policy`: fetches, verifies and compiles policies that networks name by digest before an ADD needs them,
//! from ConfigMaps and OCI registries. The networks are the cluster's definitions and the node's own files.
//!
//! Invariants: an ADD never fetches. A new version is used only after it is verified and compiled, by one rename. A
//! failed fetch is retried forever with jitter and only affects the networks that name that policy. A policy on the
//! node is never fetched again, so a node with all policies starts without the API server and registries. When the
//! trust file changes, all policies here are verified again at once.

mod references;
mod seen;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use k8s_openapi::api::core::v1::ConfigMap;
use kube::Api;
use tokio::sync::Semaphore;
use tokio::task::{JoinHandle, spawn_blocking, spawn_local};
use tokio::time::sleep;
use weft_core::agent::Refusal;
use weft_core::agent::policy::{Policy, PolicyReply, PolicyRequest, PolicyRow, PolicyState};
use weft_core::policy::compiler::{CompileAsk, compile_waiting};
use weft_core::policy::{LockFile, PolicyError, PolicyRef, add_pinned, is_added, note_missed, resolve_tag};

use self::references::{Place, Wanted, collect};
use self::seen::Seen;
use crate::Log;
use crate::artifact::Image;
use crate::cluster::Cluster;
use crate::pause::Pause;
use crate::registry::{self, Access, RegistryError, Remote, Source, chain};
use crate::server::{Deadline, Handler};
use crate::trust::{self, Trust};

/// How often to check for changed definitions and files.
const LOOK: Duration = Duration::from_secs(1);

/// The maximum number of policies that are fetched at once.
const FETCHES: usize = 4;

/// The maximum number of refused policies that are listed.
const REFUSALS: usize = 64;

/// The options for fetching policies.
#[derive(Debug, Clone, Default)]
pub struct PolicyOptions {
    /// The directory of the node's own networks, usually `/etc/cni/net.d`.
    pub conf_dir: Option<PathBuf>,
    /// The trust file [default: [`Trust::path`] of the state directory].
    pub trust: Option<PathBuf>,
    /// The access to registries.
    pub access: Access,
}

/// The service.
pub(crate) struct Policies {
    cluster: Option<Rc<Cluster>>,
    options: PolicyOptions,
    state: PathBuf,
    rows: RefCell<BTreeMap<String, Row>>,
    /// Turns to fetch.
    turns: Semaphore,
    log: Log,
}

/// A policy named by a network.
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
    pub(crate) fn start(cluster: Option<Rc<Cluster>>, options: &PolicyOptions, state: &Path, log: Log) -> Rc<Self> {
        let (options, state) = (options.clone(), state.to_owned());
        let policies =
            Rc::new(Self { cluster, options, state, rows: RefCell::default(), turns: Semaphore::new(FETCHES), log });
        let running = Rc::clone(&policies);
        spawn_local(async move {
            let (mut trust, mut rest) = (None, None);
            loop {
                let now = Some(Seen::of([running.trust_file()]));
                if trust != now {
                    running.recheck().await;
                    trust = now;
                }
                let now = Some((running.nads_version(), running.files_seen(), trust.clone()));
                if rest != now {
                    running.look();
                    rest = now;
                }
                sleep(LOOK).await;
            }
        });
        policies
    }

    fn trust_file(&self) -> PathBuf {
        self.options.trust.clone().unwrap_or_else(|| Trust::path(&self.state))
    }

    fn nads_version(&self) -> u64 {
        self.cluster.as_ref().map_or(0, |cluster| cluster.nads_version())
    }

    /// Returns the state of the files that determine the wanted policies.
    fn files_seen(&self) -> Seen {
        let lock = LockFile::path(&self.state);
        Seen::of(self.options.conf_dir.iter().flat_map(|dir| seen::configurations(dir)).chain([lock]))
    }

    /// Returns every policy with its state.
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

    /// Verifies the policies here against the trust file.
    async fn recheck(&self) {
        let (named, state) = (self.options.trust.clone(), self.state.clone());
        let checked = spawn_blocking(move || match Trust::of_node(named.as_deref(), &state) {
            Ok(Some(trust)) => trust::recheck(&state, &trust).map_err(|error| chain(&error)),
            Ok(None) => Ok(Vec::new()),
            Err(error) => Err(error.to_string()),
        });
        match checked.await.map_err(|error| error.to_string()).and_then(|checked| checked) {
            Ok(withdrawn) => {
                for policy in withdrawn {
                    self.log.warn(&format!("policy {} is not used any more: {}", policy.reference, policy.reason));
                }
            }
            // Policies here were trusted before and are kept; nothing new is added.
            Err(reason) => self.log.warn(&format!("policies were not verified again: {reason}")),
        }
    }

    /// Adds newly named policies and drops those no longer named. A fetched file is kept: pods may use it.
    fn look(self: &Rc<Self>) {
        let nads = self.cluster.as_ref().map(|cluster| cluster.nads()).unwrap_or_default();
        let configs = nads.iter().filter_map(|((namespace, name), nad)| {
            nad.config.as_deref().map(|config| (format!("{namespace}/{name}"), config))
        });
        let files: Vec<_> = self.options.conf_dir.iter().flat_map(|dir| seen::texts(dir)).collect();
        let Wanted { named, refused } =
            collect(configs.chain(files.iter().map(|(name, text)| (name.clone(), text.as_str()))));
        let mut rows = self.rows.borrow_mut();
        rows.retain(|reference, _row| named.contains_key(reference));
        if let Some((reference, networks)) = refused.first_key_value() {
            let network = networks.first().map_or("", String::as_str);
            let (count, why) = (refused.len(), Wanted::refusal());
            self.log.warn(&format!("{count} policies, such as {reference} of network {network}: {why}"));
        }
        for (reference, networks) in refused.into_iter().take(REFUSALS) {
            self.note_missed(&reference, &Wanted::refusal());
            let state = PolicyState::Failed { reason: Wanted::refusal() };
            rows.insert(reference, Row { networks, state, task: None });
        }
        for (reference, networks) in named {
            let is_here = PolicyRef::parse(&reference).is_ok_and(|policy| is_added(&self.state, &policy));
            if let Some(row) = rows.get_mut(&reference) {
                row.networks = networks.clone();
                // A running fetch continues; a policy that was here may have been withdrawn, or its tag may have been
                // locked again.
                if row.task.as_ref().is_some_and(|task| !task.is_finished()) || is_here {
                    continue;
                }
            }
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
            let outcome = self.fetch_in_turn(reference).await;
            let is_here = outcome.is_ok();
            if let Some(row) = self.rows.borrow_mut().get_mut(reference) {
                row.state = match outcome {
                    Ok(()) => PolicyState::Ready,
                    Err(reason) => {
                        if reason != last {
                            self.log.warn(&format!("policy {reference} is not here yet: {reason}"));
                            self.note_missed(reference, &reason);
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

    /// Stores the reason for ADDs that need the policy. It is informational: if it cannot be written, the log has it.
    fn note_missed(&self, reference: &str, reason: &str) {
        if let Ok(policy) = PolicyRef::parse(reference) {
            note_missed(&self.state, &policy, reason).ok();
        }
    }

    async fn fetch_in_turn(&self, reference: &str) -> Result<(), String> {
        let _turn = self.turns.acquire().await.map_err(|error| error.to_string())?;
        self.fetch(reference).await
    }

    /// Fetches, verifies and compiles.
    async fn fetch(&self, reference: &str) -> Result<(), String> {
        let named = PolicyRef::parse(reference).map_err(|error| error.to_string())?;
        let policy = resolve_tag(&self.state, &named).map_err(|error| error.to_string())?.into_owned();
        match Place::of(reference) {
            Some(place) => self.fetch_config_map(policy, &place).await,
            None => self.fetch_image(&policy, self.is_operators(reference)).await,
        }
    }

    async fn fetch_config_map(&self, policy: PolicyRef, place: &Place) -> Result<(), String> {
        let Place { namespace, name, key } = place;
        let what = format!("read ConfigMap {namespace}/{name}");
        let cluster =
            self.cluster.as_ref().ok_or("ConfigMaps need a cluster: start \"weftctl agent\" with --node-name")?;
        let client = cluster.client().map_err(|error| error.chain())?;
        let api: Api<ConfigMap> = Api::namespaced(client, namespace);
        let found = cluster.bounded(&what, Deadline::after(None), api.get_opt(name)).await;
        let found = found.map_err(|error| error.chain())?;
        let map = found.ok_or_else(|| format!("there is no ConfigMap {namespace}/{name}"))?;
        let binary = map.binary_data.and_then(|mut data| data.remove(key)).map(|data| data.0);
        let component = binary.or_else(|| map.data.and_then(|mut data| data.remove(key)).map(String::into_bytes));
        let component = component.ok_or_else(|| {
            format!("ConfigMap {namespace}/{name} has no key {key:?}; put the component into binaryData")
        })?;
        let state = self.state.clone();
        let added = spawn_blocking(move || {
            let compile = |path: &Path| compile(&state, &policy.to_string(), path);
            add_pinned(&state, &policy, &component, None, &compile).map(drop).map_err(|error| chain(&error))
        });
        added.await.map_err(|error| error.to_string())?
    }

    /// Returns whether a network of the node itself names a policy, and not only definitions, as `NAMESPACE/NAME`.
    fn is_operators(&self, reference: &str) -> bool {
        let rows = self.rows.borrow();
        rows.get(reference).is_some_and(|row| row.networks.iter().any(|network| !network.contains('/')))
    }

    async fn fetch_image(&self, policy: &PolicyRef, is_operators: bool) -> Result<(), String> {
        let image = Image::parse(&policy.to_string()).map_err(|error| error.to_string())?;
        // Read it each time: a key may have been added since the last try.
        let trust = Trust::of_node(self.options.trust.as_deref(), &self.state).map_err(|error| error.to_string())?;
        let text = |error: RegistryError| chain(&error);
        registry::admit(&image, &self.options.access, trust.as_ref(), is_operators).map_err(text)?;
        let (access, place) = (self.options.access.clone(), image.clone());
        // Docker's configuration may name a program with the credentials.
        let remote = spawn_blocking(move || Remote::new(&place, &access)).await.map_err(|error| error.to_string())?;
        let remote = remote.map_err(text)?;
        let fetched = registry::fetch(Source::Remote(&remote), &image, trust.as_ref()).await.map_err(text)?;
        let state = self.state.clone();
        let added = spawn_blocking(move || {
            let name = fetched.looked.image.to_string();
            registry::add(&state, &fetched, &|path| compile(&state, &name, path)).map_err(text)
        });
        added.await.map_err(|error| error.to_string())?
    }
}

/// Compiles a component. Runs on a thread; the compiler is a process with its own limits.
fn compile(state: &Path, policy: &str, path: &Path) -> Result<(), PolicyError> {
    let ask = CompileAsk { component: path, name: policy, failure: None };
    compile_waiting(state, &ask)
        .map_err(|error| PolicyError::Compiling { policy: policy.to_owned(), progress: error.to_string() })
}

impl Handler for Policies {
    type Service = Policy;

    async fn handle(&self, _request: PolicyRequest, _deadline: Deadline) -> Result<PolicyReply, Refusal> {
        Ok(PolicyReply { policies: self.rows() })
    }
}
