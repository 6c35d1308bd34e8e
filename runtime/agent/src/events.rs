//! Events about pods: sent in order, counted if repeated, dropped if they come faster than the API server accepts them.
//! Each is tried once: events are hints, the log has everything.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use k8s_openapi::api::core::v1;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::Api;
use kube::api::{Patch, PatchParams, PostParams};
use serde_json::json;
use tokio::sync::mpsc;
use tokio::time::Instant;
use weft_core::agent::status::{Event, EventKind};

use crate::Log;
use crate::cluster::{Cluster, ClusterError};
use crate::server::Deadline;

/// Maximum number of waiting events; more are dropped.
const WAITING: usize = 256;
/// How many events are remembered for counting repetitions.
const REMEMBERED: usize = 512;
/// Minimum time between two updates of a repeated event.
const REPEAT: Duration = Duration::from_secs(10);
/// Time limit of sending one event.
const SEND: Duration = Duration::from_secs(5);

/// The object of an event.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Subject {
    /// The kind of object: `Pod`, `Node` or `AddressPool`.
    pub(crate) kind: &'static str,
    /// Its namespace; the event's if it has none.
    pub(crate) namespace: String,
    /// Its name.
    pub(crate) name: String,
    /// Its uid, if known.
    pub(crate) uid: String,
}

/// Sends events.
#[derive(Clone)]
pub(crate) struct Events(mpsc::Sender<(Subject, Event)>);

impl Events {
    pub(crate) fn start(cluster: Rc<Cluster>, log: Log) -> Self {
        let (sender, mut receiver) = mpsc::channel(WAITING);
        tokio::task::spawn_local(async move {
            let mut worker = Worker { cluster, sent: BTreeMap::new(), serial: 0 };
            while let Some((subject, event)) = receiver.recv().await {
                if let Err(error) = worker.send(subject, event).await {
                    log.info(&error.chain());
                }
            }
        });
        Self(sender)
    }

    /// Returns a sender, and what it sends.
    #[cfg(test)]
    pub(crate) fn for_tests() -> (Self, mpsc::Receiver<(Subject, Event)>) {
        let (sender, receiver) = mpsc::channel(WAITING);
        (Self(sender), receiver)
    }

    /// Queues an event and returns at once.
    pub(crate) fn send(&self, subject: Subject, event: Event) {
        // Full: the API server is away or slow, and the log has the event.
        self.0.try_send((subject, event)).ok();
    }
}

struct Sent {
    name: String,
    count: i32,
    at: Instant,
}

struct Worker {
    cluster: Rc<Cluster>,
    sent: BTreeMap<(Subject, String, String), Sent>,
    serial: u64,
}

impl Worker {
    async fn send(&mut self, subject: Subject, event: Event) -> Result<(), ClusterError> {
        let same = (subject.clone(), event.reason.clone(), event.message.clone());
        let now = Instant::now();
        let stamp = Timestamp::now();
        if let Some(before) = self.sent.get_mut(&same) {
            before.count = before.count.saturating_add(1);
            if now.duration_since(before.at) < REPEAT {
                return Ok(());
            }
            before.at = now;
            let patch = Patch::Merge(json!({"count": before.count, "lastTimestamp": Time(stamp)}));
            let api: Api<v1::Event> = Api::namespaced(self.cluster.client()?, &subject.namespace);
            let params = PatchParams::default();
            let patched = api.patch(&before.name, &params, &patch);
            match self.cluster.bounded("count an event", Deadline::after(Some(SEND)), patched).await {
                // It has expired, so a new one is made.
                Err(error) if error.http_code() == Some(404) => {}
                other => return other.map(drop),
            }
        }
        if self.sent.len() >= REMEMBERED
            && let Some(oldest) = self.sent.iter().min_by_key(|(_same, sent)| sent.at).map(|(same, _sent)| same.clone())
        {
            self.sent.remove(&oldest);
        }
        self.serial += 1;
        let name = format!("{}.{:x}{:02x}", subject.name, stamp.as_nanosecond(), self.serial & 0xff);
        self.sent.insert(same, Sent { name: name.clone(), count: 1, at: now });
        let what =
            format!("send the event {} about {} {}/{}", event.reason, subject.kind, subject.namespace, subject.name);
        let api: Api<v1::Event> = Api::namespaced(self.cluster.client()?, &subject.namespace);
        let object = object(self.cluster.node(), name, &subject, event, stamp);
        let params = PostParams::default();
        let created = api.create(&params, &object);
        self.cluster.bounded(&what, Deadline::after(Some(SEND)), created).await.map(drop)
    }
}

/// Returns an event of weft's part on a node; of the controller if that is empty.
pub(crate) fn object(node: &str, name: String, subject: &Subject, event: Event, stamp: Timestamp) -> v1::Event {
    let namespaced = subject.kind == "Pod";
    let of_weft = subject.kind == "AddressPool";
    v1::Event {
        metadata: kube::core::ObjectMeta {
            name: Some(name),
            namespace: Some(subject.namespace.clone()),
            ..kube::core::ObjectMeta::default()
        },
        involved_object: v1::ObjectReference {
            api_version: Some(if of_weft { "ipam.weft.dev/v1alpha1" } else { "v1" }.to_owned()),
            kind: Some(subject.kind.to_owned()),
            namespace: namespaced.then(|| subject.namespace.clone()),
            name: Some(subject.name.clone()),
            uid: Some(subject.uid.clone()).filter(|uid| !uid.is_empty()),
            ..v1::ObjectReference::default()
        },
        reason: Some(event.reason),
        message: Some(event.message),
        type_: Some(match event.kind {
            EventKind::Normal => "Normal".to_owned(),
            EventKind::Warning => "Warning".to_owned(),
        }),
        source: Some(v1::EventSource {
            component: Some("weft".to_owned()),
            host: Some(node.to_owned()).filter(|node| !node.is_empty()),
        }),
        first_timestamp: Some(Time(stamp)),
        last_timestamp: Some(Time(stamp)),
        count: Some(1),
        ..v1::Event::default()
    }
}
