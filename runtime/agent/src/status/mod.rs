//! Service `status`: the network-status annotation of a pod, and events.
//!
//! Invariants: an annotation that was not written before the caller's deadline is stored in a file before the caller
//! gets its answer, and is retried, even by the next agent, until it is written or the pod is gone. A pod of the same
//! name with another uid is never changed. Of several annotations for one pod, the newest wins: only the newest is kept
//! in a file, and a file is gone before a newer annotation counts as written.

mod pending;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use k8s_openapi::api::core::v1;
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::json;
use tokio::sync::{Mutex, watch};
use tokio::task::spawn_blocking;
use tokio::time::{sleep, timeout};
use weft_core::agent::Refusal;
use weft_core::agent::status::{Status, StatusReply, StatusRequest};

use self::pending::Pending;
use crate::Log;
use crate::cluster::{Cluster, ClusterError};
use crate::events::{Events, Subject};
use crate::pause::Pause;
use crate::server::{Deadline, Handler};

/// The annotation.
const ANNOTATION: &str = "k8s.v1.cni.cncf.io/network-status";
/// How long an ADD without a deadline waits for its annotation.
const WAIT: Duration = Duration::from_secs(10);
/// Part of the caller's time that is reserved for the answer.
const RESERVE: Duration = Duration::from_millis(100);
/// Time limit of one try.
const TRY: Duration = Duration::from_secs(15);

/// The service.
pub(crate) struct Statuses(Rc<Shared>);

struct Shared {
    cluster: Rc<Cluster>,
    pending: Pending,
    /// The newest request per pod; an older task ends when it is replaced.
    newest: RefCell<BTreeMap<(String, String), u64>>,
    /// The last number that was given to a request.
    turns: Cell<u64>,
    /// Held while changing a file of `pending`, together with the look at `newest` that allows it.
    files: Mutex<()>,
    events: Events,
    log: Log,
}

/// The progress of a task.
#[derive(Debug, Clone)]
enum Progress {
    Trying,
    Failed(String),
    Ended(StatusReply),
}

impl Statuses {
    /// Starts the service, with the annotations that the previous agent could not write.
    pub(crate) fn start(cluster: Rc<Cluster>, events: Events, state: &Path, log: Log) -> Rc<Self> {
        let pending = Pending::open(&state.join("agent").join("status"), log);
        let (newest, turns, files) = (RefCell::default(), Cell::new(0), Mutex::default());
        let statuses = Rc::new(Self(Rc::new(Shared { cluster, pending, newest, turns, files, events, log })));
        for request in statuses.0.pending.read_all() {
            statuses.begin(request);
        }
        statuses
    }

    /// Returns how many annotations wait to be written.
    pub(crate) fn pending_count(&self) -> usize {
        self.0.newest.borrow().len()
    }

    /// Writes the annotation, if there is one, and waits for it until the caller's deadline.
    async fn write_until(&self, request: &StatusRequest, deadline: Deadline) -> StatusReply {
        if request.annotation.is_none() {
            return StatusReply::Written;
        }
        let (turn, mut progress) = self.begin(request.clone());
        let limit = deadline.remaining(WAIT).saturating_sub(RESERVE);
        let ended = async {
            loop {
                if let Progress::Ended(reply) = progress.borrow_and_update().clone() {
                    return Some(reply);
                }
                if progress.changed().await.is_err() {
                    return None;
                }
            }
        };
        match timeout(limit, ended).await {
            Ok(Some(reply)) => return reply,
            // A newer request for the same pod replaced this one.
            Ok(None) => return newer(),
            Err(_elapsed) => {}
        }
        let reason = match &*progress.borrow() {
            Progress::Failed(reason) => reason.clone(),
            Progress::Trying => "the API server does not answer".to_owned(),
            Progress::Ended(reply) => return reply.clone(),
        };
        // A task of its own, because the caller may leave in the middle of it.
        let (shared, request) = (Rc::clone(&self.0), request.clone());
        let kept = tokio::task::spawn_local(async move { shared.keep(request, turn).await });
        if kept.await.unwrap_or(true) { StatusReply::Later { reason } } else { newer() }
    }

    /// Starts to write an annotation. Returns the number of the request, and its progress.
    fn begin(&self, request: StatusRequest) -> (u64, watch::Receiver<Progress>) {
        let key = (request.namespace.clone(), request.name.clone());
        let turn = self.0.next_turn();
        self.0.newest.borrow_mut().insert(key, turn);
        let (sender, receiver) = watch::channel(Progress::Trying);
        let shared = Rc::clone(&self.0);
        tokio::task::spawn_local(async move { shared.write_until_done(request, turn, &sender).await });
        (turn, receiver)
    }
}

/// The answer to a request that a newer one for the same pod replaced.
fn newer() -> StatusReply {
    StatusReply::Later { reason: "a newer status of this pod is being written".to_owned() }
}

impl Shared {
    /// Returns a number that no other request of this process has: an older task may still sleep when the entry of its
    /// pod is removed and made again.
    fn next_turn(&self) -> u64 {
        let turn = self.turns.get() + 1;
        self.turns.set(turn);
        turn
    }

    /// Returns whether a request is the newest of its pod.
    fn is_newest(&self, request: &StatusRequest, turn: u64) -> bool {
        self.newest.borrow().get(&(request.namespace.clone(), request.name.clone())) == Some(&turn)
    }

    /// Stores a request for the next agent, unless a newer one for the same pod has come, or it was written after all.
    /// Returns whether it still has to be written.
    async fn keep(&self, request: StatusRequest, turn: u64) -> bool {
        let _one = self.files.lock().await;
        if !self.is_newest(&request, turn) {
            return false;
        }
        let pending = self.pending.clone();
        // It logs a failure.
        spawn_blocking(move || pending.store(&request)).await.ok();
        true
    }

    /// Removes the stored request of a pod whose newest annotation was written.
    async fn forget(&self, request: &StatusRequest) {
        let _one = self.files.lock().await;
        let (pending, request) = (self.pending.clone(), request.clone());
        spawn_blocking(move || pending.remove(&request)).await.ok();
    }

    async fn write_until_done(&self, request: StatusRequest, turn: u64, progress: &watch::Sender<Progress>) {
        let key = (request.namespace.clone(), request.name.clone());
        let mut pause = Pause::new(Duration::from_millis(200), Duration::from_secs(60));
        loop {
            if !self.is_newest(&request, turn) {
                return;
            }
            let outcome = self.write(&request).await;
            match outcome {
                Ok(reply) => {
                    if self.is_newest(&request, turn) {
                        self.newest.borrow_mut().remove(&key);
                        self.forget(&request).await;
                    }
                    if let StatusReply::Refused { message } = &reply {
                        self.log.warn(message);
                    }
                    progress.send_replace(Progress::Ended(reply));
                    return;
                }
                Err(error) => {
                    progress.send_replace(Progress::Failed(error.chain()));
                }
            }
            sleep(pause.next()).await;
        }
    }

    /// Tries once. An error means to try again.
    async fn write(&self, request: &StatusRequest) -> Result<StatusReply, ClusterError> {
        let StatusRequest { namespace, name, uid, annotation, .. } = request;
        let deadline = Deadline::after(Some(TRY));
        let Some(text) = annotation else { return Ok(StatusReply::Written) };
        let uid = match self.api_uid(namespace, name, uid, deadline).await? {
            Some(uid) => uid,
            None => return Ok(StatusReply::Gone),
        };
        let what = format!("write the network status of pod {namespace}/{name}");
        let api: Api<v1::Pod> = Api::namespaced(self.cluster.client()?, namespace);
        // A uid in a patch is a precondition: 409 if the pod of that name is another one by now.
        // https://github.com/kubernetes/kubernetes/blob/v1.33.0/staging/src/k8s.io/apiserver/pkg/registry/rest/update.go
        let patch = json!({"metadata": {"uid": uid, "annotations": {(ANNOTATION): text}}});
        let params = PatchParams::default();
        match self.cluster.bounded(&what, deadline, api.patch_status(name, &params, &Patch::Merge(&patch))).await {
            Ok(_pod) => Ok(StatusReply::Written),
            Err(error) if error.http_code() == Some(404) => Ok(StatusReply::Gone),
            Err(error) if error.http_code() == Some(409) => {
                match self.cluster.live_pod(namespace, name, deadline).await? {
                    Some(pod) if pod.uid == uid => Err(error),
                    _other => Ok(StatusReply::Gone),
                }
            }
            Err(error) if error.is_final() => Ok(StatusReply::Refused { message: error.chain() }),
            Err(error) => Err(error),
        }
    }

    /// Returns the uid of the object in the API: the mirror's for a static pod. `None`: another pod has the name.
    async fn api_uid(
        &self,
        namespace: &str,
        name: &str,
        uid: &str,
        deadline: Deadline,
    ) -> Result<Option<String>, ClusterError> {
        let pod = self.cluster.pod(namespace, name, uid, deadline).await?;
        Ok(pod.filter(|pod| uid.is_empty() || pod.has_uid(uid)).map(|pod| pod.uid.clone()))
    }

    fn send_events(&self, request: &StatusRequest) {
        for event in &request.events {
            let subject = Subject {
                kind: "Pod",
                namespace: request.namespace.clone(),
                name: request.name.clone(),
                uid: request.uid.clone(),
            };
            self.events.send(subject, event.clone());
        }
    }
}

impl Handler for Statuses {
    type Service = Status;

    async fn handle(&self, request: StatusRequest, deadline: Deadline) -> Result<StatusReply, Refusal> {
        let reply = self.write_until(&request, deadline).await;
        // An ADD whose status is refused is taken back, so there are no added networks to report.
        if matches!(reply, StatusReply::Written | StatusReply::Later { .. }) {
            self.0.send_events(&request);
        }
        Ok(reply)
    }
}
