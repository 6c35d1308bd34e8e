//! The sweep: removes journal entries for which no runtime will send a DEL, as a DEL would.
//!
//! No released containerd calls GC, and a runtime that dies between ADD and storing its result never calls DEL
//! (containerd#12923). `judge` has the rules.
//!
//! Invariants: an entry is removed through `attach::del`, so links, rules and claims are removed in its order, and what
//! cannot be removed stays in the journal. The event loop never waits for the node: checks and removals run on a
//! thread. Another vendor's plugin runs where the node's files are; if that is not possible from here, its attachment
//! stays in the journal.

mod audit;
mod judge;
mod pods;
mod runtime;
#[cfg(test)]
mod tests;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio::task::spawn_blocking;
use tokio::time::sleep;
use weft_core::agent::status::{Event, EventKind};
use weft_core::attach::{self, Call, Context, Node};
use weft_core::exec::{self, PluginLocation};
use weft_core::journal::Entry;
use weft_core::netlink;
use weft_core::pod::remove_pod;
use weft_core::store::{Key, Role};
use weft_host_abi::types::Attachment;

use self::audit::{Audit, Suspect};
use self::judge::{Candidates, Reason, Signs};
pub(crate) use self::pods::pod_of_container;
use self::pods::{PodName, pod_in};
use self::runtime::Sandboxes;
use crate::Log;
use crate::cluster::Cluster;
use crate::events::{Events, Subject};
use crate::keep::Manifest;
use crate::pause::jittered;
use crate::server::Deadline;

/// The directory of other vendors' plugins, for entries that use them.
const PLUGINS: &str = "/opt/cni/bin";

/// The store in the state directory.
const STORE: &str = "weft.db";

/// Time limit of a live read.
const LIVE: Duration = Duration::from_secs(5);

/// The options of the sweep.
#[derive(Debug, Clone)]
pub struct SweepOptions {
    /// The time between two rounds.
    pub every: Duration,
    /// How long an entry must look abandoned.
    pub grace: Duration,
    /// The runtime's CRI socket; `None` tries the usual ones.
    pub runtime: Option<PathBuf>,
}

impl Default for SweepOptions {
    fn default() -> Self {
        Self { every: Duration::from_secs(30), grace: Duration::from_secs(60), runtime: None }
    }
}

/// The work of the sweep, for metrics.
#[derive(Debug, Clone, Default)]
pub(crate) struct Swept {
    /// Entries that look abandoned now.
    pub(crate) candidates: usize,
    /// Entries removed since the start, by reason.
    pub(crate) removed: BTreeMap<&'static str, u64>,
    /// Removals that failed since the start.
    pub(crate) failed: u64,
    /// Attachments that stay because their plugins cannot be called from here.
    pub(crate) out_of_reach: usize,
    /// Pods that run without the networks they request.
    pub(crate) missing: usize,
}

/// The sweep.
pub(crate) struct Sweep {
    options: SweepOptions,
    state: PathBuf,
    prefix: Option<PathBuf>,
    cluster: Option<Rc<Cluster>>,
    events: Option<Events>,
    swept: RefCell<Swept>,
    /// Attachments that stay because their plugins cannot be called from here. What weft itself could remove of them is
    /// removed.
    out_of_reach: RefCell<BTreeSet<Attachment>>,
    /// When this process saw an entry first.
    first_seen: RefCell<BTreeMap<Attachment, Instant>>,
    log: Log,
}

/// The relevant part of a journal entry.
#[derive(Debug, Clone)]
struct Found {
    attachment: Attachment,
    /// Whether it is the entry of a whole pod.
    is_pod: bool,
    /// Whether its namespace can be judged and reached from here. If not, only the runtime's DEL removes it.
    in_reach: bool,
    /// Where the agent finds its namespace, if that is not the recorded path.
    netns_here: Option<PathBuf>,
    has_netns: Option<bool>,
    pod: Option<PodName>,
    age: Duration,
}

impl Sweep {
    pub(crate) fn start(
        options: SweepOptions,
        state: &Path,
        prefix: Option<PathBuf>,
        (cluster, events): (Option<Rc<Cluster>>, Option<Events>),
        log: Log,
    ) -> Rc<Self> {
        let (state, swept) = (state.to_owned(), RefCell::default());
        let (out_of_reach, first_seen) = (RefCell::default(), RefCell::default());
        let sweep = Rc::new(Self { options, state, prefix, cluster, events, swept, out_of_reach, first_seen, log });
        let running = Rc::clone(&sweep);
        tokio::task::spawn_local(async move { running.run().await });
        sweep
    }

    pub(crate) fn swept(&self) -> Swept {
        self.swept.borrow().clone()
    }

    async fn run(&self) {
        match spawn_blocking(exec::current_place).await {
            Ok(Ok(PluginLocation::Here)) | Err(_) => {}
            Ok(Ok(PluginLocation::Node(files))) => {
                let process = files.process();
                self.log.info(&format!("other vendors' plugins run in the mount namespace of process {process}"));
            }
            Ok(Err(why)) => self.log.warn(&format!("the sweep cannot call other vendors' plugins: {why}")),
        }
        let mut candidates = Candidates::default();
        let mut audit = Audit::default();
        let mut last_fault = None;
        loop {
            sleep(jittered(self.options.every)).await;
            let fault = self.look(&mut candidates, &mut audit).await.err();
            if let Some(text) = fault.as_ref().filter(|text| last_fault.as_ref() != Some(*text)) {
                self.log.warn(&format!("sweep: {text}"));
            }
            last_fault = fault;
        }
    }

    async fn look(&self, candidates: &mut Candidates, audit: &mut Audit) -> Result<(), String> {
        let (state, prefix) = (self.state.clone(), self.prefix.clone());
        let found =
            spawn_blocking(move || entries(&state, prefix.as_deref())).await.map_err(|error| error.to_string())??;
        let (sandboxes, fault) = self.sandboxes(&found).await;
        let mut seen = Vec::new();
        let mut gone: BTreeMap<PodName, bool> = BTreeMap::new();
        let seen_for = self.seen_for(&found);
        for (entry, seen_for) in found.iter().zip(seen_for).filter(|(entry, _)| entry.in_reach) {
            let sandbox = sandboxes.find(&entry.attachment.container_id);
            let (of_pod, age) = (entry.pod.is_some(), entry.age.min(seen_for));
            let mut signs = Signs { netns: entry.has_netns, sandbox, of_pod, pod_gone: false, age };
            let mut reason = judge::reason(&signs);
            // Make the live read only if it could decide.
            if reason.is_none()
                && let Some(pod) = &entry.pod
                && judge::reason(&Signs { pod_gone: true, ..signs }).is_some()
            {
                signs.pod_gone = match gone.get(pod) {
                    Some(known) => *known,
                    None => {
                        let is_gone = self.is_gone(pod).await;
                        gone.insert(pod.clone(), is_gone);
                        is_gone
                    }
                };
                reason = judge::reason(&signs);
            }
            seen.extend(reason.map(|reason| (entry.attachment.clone(), reason)));
        }
        let due = candidates.look(seen, Instant::now(), self.options.grace);
        self.swept.borrow_mut().candidates = candidates.len();
        let unreachable = spawn_blocking(exec::current_place).await.map_err(|error| error.to_string())?.err();
        let is_due = |attachment: &Attachment| due.iter().any(|(due, _reason)| due == attachment);
        self.out_of_reach.borrow_mut().retain(|attachment| unreachable.is_some() && is_due(attachment));
        for (attachment, reason) in &due {
            let Some(entry) = found.iter().find(|entry| entry.attachment == *attachment).cloned() else { continue };
            // What can be removed from here was removed in an earlier round.
            if !self.out_of_reach.borrow().contains(attachment) {
                self.remove(entry, *reason, unreachable.as_deref()).await;
            }
        }
        self.swept.borrow_mut().out_of_reach = self.out_of_reach.borrow().len();
        self.audit(audit, &found, &sandboxes).await;
        fault.map_or(Ok(()), Err)
    }

    /// Returns for how long this process has seen each entry.
    fn seen_for(&self, found: &[Found]) -> Vec<Duration> {
        let now = Instant::now();
        let mut before = self.first_seen.borrow_mut();
        let since = |entry: &Found| before.get(&entry.attachment).copied().unwrap_or(now);
        let times: Vec<Instant> = found.iter().map(since).collect();
        *before = found.iter().map(|entry| entry.attachment.clone()).zip(times.iter().copied()).collect();
        times.into_iter().map(|first| now.duration_since(first)).collect()
    }

    /// Returns the runtime's sandboxes, or those of nobody if the answer is not from the runtime of this node's pods.
    async fn sandboxes(&self, found: &[Found]) -> (Sandboxes, Option<String>) {
        let known: BTreeSet<&str> = found.iter().map(|entry| entry.attachment.container_id.as_str()).collect();
        let is_here = |pod: &PodName| {
            let here = self.cluster.as_ref().and_then(|cluster| cluster.known_pod(&pod.namespace, &pod.name));
            here.is_some_and(|here| here.has_uid(&pod.uid))
        };
        let (sandboxes, fault) = Sandboxes::list(self.options.runtime.as_deref()).await;
        (sandboxes.if_of_this_node(&known, is_here), fault)
    }

    /// Reports pods that run without the networks they request.
    async fn audit(&self, audit: &mut Audit, found: &[Found], sandboxes: &Sandboxes) {
        let Some(cluster) = &self.cluster else { return };
        // If weft is not the runtime's own plugin, as under Multus, an unknown sandbox is no mistake.
        if !matches!(Manifest::read(&self.state), Ok(Some(_installed))) {
            return;
        }
        let known = found.iter().map(|entry| entry.attachment.container_id.as_str()).collect();
        let installed = audit::installed(&self.state.join(STORE));
        let pod = |pod: &PodName| cluster.known_pod(&pod.namespace, &pod.name);
        let suspects = audit::suspects(sandboxes, &known, installed, pod);
        for Suspect { sandbox, pod, networks } in audit.look(&suspects, Instant::now(), self.options.grace) {
            let deadline = Deadline::after(Some(LIVE));
            // If the read fails, the next round tries again.
            let Ok(on_host) = cluster.is_on_host_network(&pod.namespace, &pod.name, deadline).await else { continue };
            if audit.decide(&sandbox, on_host == Some(false)) {
                let message = format!(
                    "runs without the networks it asks for ({networks}): another CNI configuration made its sandbox. See that weft's is the first in the runtime's directory (weftctl doctor), then delete the pod"
                );
                self.log.warn(&format!("pod {}/{} {message}", pod.namespace, pod.name));
                if let Some(events) = &self.events {
                    let PodName { namespace, name, uid } = pod;
                    let reason = "NetworksMissing".to_owned();
                    let event = Event { kind: EventKind::Warning, reason, message };
                    events.send(Subject { kind: "Pod", namespace, name, uid }, event);
                }
            }
        }
        self.swept.borrow_mut().missing = audit.missing();
    }

    /// Returns whether the pod is gone according to a live read; a failed read decides nothing.
    async fn is_gone(&self, pod: &PodName) -> bool {
        let Some(cluster) = &self.cluster else { return false };
        match cluster.live_pod(&pod.namespace, &pod.name, Deadline::after(Some(LIVE))).await {
            Ok(Some(live)) => !live.has_uid(&pod.uid),
            Ok(None) => true,
            Err(_unknown) => false,
        }
    }

    async fn remove(&self, entry: Found, reason: Reason, unreachable: Option<&str>) {
        let attachment = entry.attachment.clone();
        let Attachment { network, container_id, ifname } = &attachment;
        let state = self.state.clone();
        let removed = spawn_blocking(move || delete(&state, &entry)).await;
        let mut swept = self.swept.borrow_mut();
        match removed.map_err(|error| error.to_string()).and_then(|done| done) {
            Ok(()) => {
                *swept.removed.entry(reason.name()).or_default() += 1;
                self.log.info(&format!("swept {ifname} of container {container_id} on {network:?}: {}", reason.name()));
            }
            Err(text) if unreachable.is_some_and(|why| text.contains(why)) => {
                self.log.warn(&format!(
                    "{ifname} of container {container_id} on {network:?} stays in the journal until the runtime's DEL, or `weftctl gc` on the node: {text}"
                ));
                self.out_of_reach.borrow_mut().insert(attachment.clone());
            }
            Err(text) => {
                swept.failed += 1;
                self.log.warn(&format!("cannot sweep {ifname} of container {container_id} on {network:?}: {text}"));
            }
        }
    }
}

/// Returns the entries of the journal. Runs on a thread.
fn entries(state: &Path, prefix: Option<&Path>) -> Result<Vec<Found>, String> {
    let context = Context::new(state.to_owned());
    let mut node = Node::new(&context);
    let store = node.store().map_err(|error| error.to_string())?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let entries = store.entries(None).map_err(|error| error.to_string())?;
    let is_pod = |entry: &&Entry| entry.key.role == Role::Pod;
    let pods: BTreeSet<String> =
        entries.iter().filter(is_pod).map(|entry| entry.key.attachment.container_id.clone()).collect();
    let mut seen = BTreeSet::new();
    let mut found = Vec::new();
    for entry in entries {
        let (is_pod, pod) = (is_pod(&&entry), pod_in(&entry));
        let attachment = entry.key.attachment;
        // Entries that belong to another one: its DEL removes them, and a pod's DEL removes all of its sandbox.
        if !is_pod && (pods.contains(&attachment.container_id) || !seen.insert(attachment.clone())) {
            continue;
        }
        let netns = entry.record.netns;
        found.push(Found {
            in_reach: !netlink::is_path_of_other_pids(&path_here(&netns, prefix)),
            netns_here: prefix.filter(|_prefix| !netns.is_empty()).map(|prefix| path_here(&netns, Some(prefix))),
            has_netns: has_netns(&netns, prefix),
            pod,
            is_pod,
            age: Duration::from_secs(now.saturating_sub(entry.created)),
            attachment,
        });
    }
    Ok(found)
}

/// Returns where the agent finds a path of the node.
fn path_here(path: &str, prefix: Option<&Path>) -> PathBuf {
    match prefix {
        Some(prefix) => prefix.join(path.trim_start_matches('/')),
        None => PathBuf::from(path),
    }
}

fn has_netns(path: &str, prefix: Option<&Path>) -> Option<bool> {
    if path.is_empty() {
        return None;
    }
    let path = path_here(path, prefix);
    // If not even the directory is visible, the agent is in another mount namespace and knows nothing.
    if !path.parent().is_some_and(Path::is_dir) && !path.starts_with("/proc") {
        return None;
    }
    netlink::netns_identity(&path).ok().map(|identity| identity.is_some())
}

/// Does what the runtime's DEL would do. Runs on a thread.
fn delete(state: &Path, entry: &Found) -> Result<(), String> {
    let context = Context::new(state.to_owned());
    let mut node = Node::new(&context);
    // What finds the namespace must also be what removes its links: an address leaves the link before the ledger.
    let netns = entry.netns_here.as_deref();
    if entry.is_pod {
        let key = Key { attachment: entry.attachment.clone(), role: Role::Pod };
        let known = node.store().map_err(|error| error.to_string())?.entry(&key).map_err(|error| error.to_string())?;
        return known.map_or(Ok(()), |known| remove_pod(&mut node, &known, netns).map_err(|error| error.to_string()));
    }
    let call = Call::del_of(&context, &entry.attachment, vec![PathBuf::from(PLUGINS)]);
    let call = call.map_err(|error| error.to_string())?;
    let call = match netns {
        Some(path) => call.with_netns(path),
        None => call,
    };
    attach::del(&mut node, &call).map_err(|error| error.chain())
}
