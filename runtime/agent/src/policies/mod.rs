//! Service `policy`: fetches, verifies and compiles policies that networks name by digest before an ADD needs them,
//! from ConfigMaps and OCI registries. The networks are the cluster's definitions and the node's own files.
//!
//! Invariants: an ADD never fetches. A new version is used only after it is verified and compiled, by one rename. A
//! failed fetch is retried forever with jitter and only affects the networks that name that policy (`turns`). A policy
//! on the node is never fetched again, unless it is damaged, so a node with all policies starts without the API server
//! and registries. It is compiled again where its compiled form is missing, as after an upgrade. When the trust file
//! changes, all policies here are verified again at once. Policies that no network names are removed after a while.

mod limits;
mod node_files;
mod prepare;
mod references;
mod turns;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::{JoinHandle, spawn_blocking, spawn_local};
use tokio::time::{Instant, sleep};
use weft_core::agent::Refusal;
use weft_core::agent::policy::{Policy, PolicyReply, PolicyRequest, PolicyRow, PolicyState};
use weft_core::facts;
use weft_core::policy::{LockFile, Needed, PolicyRef, PolicyStore, Readiness, note_missed, settle_lock, sweep_pinned};
use weft_core::store::NodeStore;

use self::limits::Helpers;
use self::node_files::Seen;
use self::prepare::standing_of_locked;
use self::references::{Wanted, collect, namespace};
use self::turns::Turns;
use crate::Log;
use crate::cluster::Cluster;
use crate::registry::{Access, chain};
use crate::server::{Deadline, Handler};
use crate::trust::{self, Trust};

/// How often to check for changed definitions and files.
const LOOK: Duration = Duration::from_secs(1);

/// How often to check without such a change whether everything is still here and compiled, and to remove what is not
/// used.
const CHECK: Duration = Duration::from_secs(60);

/// The maximum number of policies that are fetched at once, in all and for the networks of one namespace.
const FETCHES: (usize, usize) = (4, 2);

/// The same for policies that are here and only compiled.
const COMPILES: (usize, usize) = (2, 1);

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
    fetches: Rc<Turns>,
    compiles: Rc<Turns>,
    helpers: Helpers,
    /// `None` if the engine does not start: then nothing is known about compiled forms.
    store: Option<Arc<PolicyStore>>,
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
        let store = PolicyStore::new(state).map(Arc::new);
        if let Err(error) = &store {
            log.warn(&format!("whether policies are compiled is not checked: {}", chain(error)));
        }
        let policies = Rc::new(Self {
            cluster,
            options: options.clone(),
            state: state.to_owned(),
            rows: RefCell::default(),
            fetches: Turns::new(FETCHES.0, FETCHES.1),
            compiles: Turns::new(COMPILES.0, COMPILES.1),
            helpers: Helpers::default(),
            store: store.ok(),
            log,
        });
        spawn_local(Rc::clone(&policies).run());
        policies
    }

    async fn run(self: Rc<Self>) {
        let (mut trust, mut rest, mut looked) = (None, None, Instant::now());
        loop {
            let now = Some(Seen::read([self.trust_file()]));
            if trust != now {
                self.recheck().await;
                trust = now;
            }
            let now = Some((self.nads_version(), self.files_seen(), trust.clone()));
            if rest != now || looked.elapsed() > CHECK {
                self.look().await;
                (rest, looked) = (now, Instant::now());
            }
            sleep(LOOK).await;
        }
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
        Seen::read(self.options.conf_dir.iter().flat_map(|dir| node_files::configurations(dir)).chain([lock]))
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

    /// Returns the policies that networks name.
    fn wanted(&self) -> Wanted {
        let nads = self.cluster.as_ref().map(|cluster| cluster.nads()).unwrap_or_default();
        let configs = nads.iter().filter_map(|((namespace, name), nad)| {
            nad.config.as_deref().map(|config| (format!("{namespace}/{name}"), config))
        });
        let files: Vec<_> = self.options.conf_dir.iter().flat_map(|dir| node_files::configuration_texts(dir)).collect();
        collect(configs.chain(files.iter().map(|(name, text)| (name.clone(), text.as_str()))))
    }

    /// Adds newly named policies, drops those no longer named, and starts what is missing: a fetch, or a compiler.
    async fn look(self: &Rc<Self>) {
        // Before the networks are read: a first list that arrives meanwhile must not be missing from them.
        let sees_all = self.sees_all();
        let Wanted { named, refused, files, last_good } = self.wanted();
        let used = named.keys().chain(refused.keys()).chain(&files).filter_map(|name| PolicyRef::parse(name).ok());
        let used: Vec<PolicyRef> = used.collect();
        let ready = self.ready(named.keys().cloned().collect()).await;
        let namespaces = |networks: &BTreeSet<String>| -> BTreeSet<String> {
            networks.iter().map(|name| namespace(name).to_owned()).collect()
        };
        let in_line: BTreeMap<_, _> =
            named.iter().map(|(reference, networks)| (reference.clone(), namespaces(networks))).collect();
        // A refused policy is reported once; whatever fetches it ends.
        self.rows.borrow_mut().retain(|reference, row| {
            named.contains_key(reference) || (refused.contains_key(reference) && row.task.is_none())
        });
        self.fetches.name(in_line.clone());
        self.compiles.name(in_line);
        self.refuse(refused);
        for (reference, networks) in named {
            self.set_row(reference.clone(), networks, ready.contains(&reference));
        }
        if sees_all {
            self.sweep(used, last_good).await;
        }
    }

    /// Returns which of these policies could run now.
    async fn ready(&self, references: Vec<String>) -> BTreeSet<String> {
        let (state, store) = (self.state.clone(), self.store.clone());
        let checked = spawn_blocking(move || {
            let is_ready = |reference: &String| {
                let Ok(policy) = PolicyRef::parse(reference) else { return false };
                let is_ready = standing_of_locked(&state, store.as_deref(), &policy) == Readiness::Ready;
                if is_ready {
                    // The next check tries again.
                    settle_lock(&state, &policy).ok();
                }
                is_ready
            };
            references.into_iter().filter(is_ready).collect()
        });
        checked.await.unwrap_or_default()
    }

    /// Lists policies that are not fetched.
    fn refuse(&self, refused: BTreeMap<String, BTreeSet<String>>) {
        if let Some((reference, networks)) = refused.first_key_value()
            && !self.rows.borrow().contains_key(reference)
        {
            let network = networks.first().map_or("", String::as_str);
            let (count, why) = (refused.len(), Wanted::refusal());
            self.log.warn(&format!("{count} policies, such as {reference} of network {network}: {why}"));
        }
        for (reference, networks) in refused.into_iter().take(REFUSALS) {
            self.note_missed(&reference, &Wanted::refusal());
            let state = PolicyState::Failed { reason: Wanted::refusal() };
            self.rows.borrow_mut().insert(reference, Row { networks, state, task: None });
        }
    }

    fn set_row(self: &Rc<Self>, reference: String, networks: BTreeSet<String>, is_ready: bool) {
        let mut rows = self.rows.borrow_mut();
        if let Some(row) = rows.get_mut(&reference)
            && row.task.as_ref().is_some_and(|task| !task.is_finished())
        {
            row.networks = networks;
            return;
        }
        let state = if is_ready { PolicyState::Ready } else { PolicyState::Fetching };
        let task = (!is_ready).then(|| {
            let (policies, reference) = (Rc::clone(self), reference.clone());
            spawn_local(async move { policies.bring_until_ready(&reference).await })
        });
        rows.insert(reference, Row { networks, state, task });
    }

    /// Returns whether every network is known that can name a policy of this node.
    fn sees_all(&self) -> bool {
        let dir = self.options.conf_dir.as_ref().is_some_and(|dir| std::fs::read_dir(dir).is_ok());
        dir && self.cluster.as_ref().is_none_or(|cluster| cluster.is_synced())
    }

    /// Removes policies that nobody uses.
    async fn sweep(&self, used: Vec<PolicyRef>, networks: BTreeSet<String>) {
        let state = self.state.clone();
        let swept = spawn_blocking(move || {
            let now = facts::now().map_err(|error| chain(&error))?;
            let attached = || attached(&state);
            let needed = Needed { policies: &used, networks: &networks, attached: &attached };
            sweep_pinned(&state, &needed, now).map_err(|error| chain(&error))
        });
        match swept.await.map_err(|error| error.to_string()).and_then(|swept| swept) {
            Ok(swept) if swept.files == 0 => {}
            Ok(swept) => self.log.info(&format!(
                "removed {} files ({} bytes) of policies that no network has named for long",
                swept.files, swept.bytes
            )),
            Err(reason) => self.log.warn(&format!("policies that no network names are not removed: {reason}")),
        }
    }

    /// Stores the reason for ADDs that need the policy. It is informational: if it cannot be written, the log has it.
    fn note_missed(&self, reference: &str, reason: &str) {
        if let Ok(policy) = PolicyRef::parse(reference) {
            note_missed(&self.state, &policy, reason).ok();
        }
    }
}

/// Returns the networks that have attachments; `None` if the journal cannot be read.
fn attached(state: &Path) -> Option<BTreeSet<String>> {
    match NodeStore::open_read_only(state) {
        Ok(Some(store)) => {
            Some(store.entries(None).ok()?.into_iter().map(|entry| entry.key.attachment.network).collect())
        }
        Ok(None) => Some(BTreeSet::new()),
        Err(_unreadable) => None,
    }
}

impl Handler for Policies {
    type Service = Policy;

    async fn handle(&self, _request: PolicyRequest, _deadline: Deadline) -> Result<PolicyReply, Refusal> {
        Ok(PolicyReply { policies: self.rows() })
    }
}
