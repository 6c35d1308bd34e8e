//! The agent's view of the Kubernetes cluster: one client whose credentials may change, and small copies of what CNI
//! calls need: this node's pods, all NetworkAttachmentDefinitions, all namespaces' labels, this node's labels.
//!
//! Invariants: a copy holds metadata and the configuration of NADs, never specs or statuses. What a copy does not know
//! is read live before an answer says that it does not exist. Nothing here waits longer than its caller's deadline.

mod cache;
mod credentials;
mod objects;
mod own_node;
mod watch;

use std::rc::Rc;
use std::time::Duration;

use k8s_openapi::api::core::v1;
use kube::Client;
use kube::core::Status;
use tokio::time::timeout;
use weft_core::agent::{Fault, Refusal};

use self::cache::Cache;
use self::credentials::Credentials;
pub use self::credentials::Source;
pub(crate) use self::credentials::client;
pub(crate) use self::objects::{NadObject, Pod, nad_resource};
use self::own_node::OwnNode;
use crate::Log;
use crate::server::Deadline;

/// Time limit of a live read whose caller has no deadline.
const READ: Duration = Duration::from_secs(10);

/// The cluster.
pub(crate) struct Cluster {
    /// The name of this node's Node object.
    node: String,
    credentials: Credentials,
    pods: Cache<Pod>,
    nads: Cache<objects::Nad>,
    namespaces: Cache<objects::Labels>,
    nodes: Cache<objects::Labels>,
    own: OwnNode,
    log: Log,
}

/// Why a read or write failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClusterError {
    /// No usable credentials.
    #[error("the agent has no usable credentials for the API server: {0}")]
    NoClient(String),
    /// The API server answered with an error.
    #[error("the API server refused to {what}: {} (code {})", .status.message, .status.code)]
    Refused {
        /// The action.
        what: String,
        /// Its answer.
        status: Box<Status>,
    },
    /// The API server gave no valid answer.
    #[error("cannot {what}: the API server does not answer")]
    Unreachable {
        /// The action.
        what: String,
        /// How it failed.
        #[source]
        source: Box<kube::Error>,
    },
    /// The deadline passed.
    #[error("cannot {what} within {} ms: the API server does not answer", .limit.as_millis())]
    Late {
        /// The action.
        what: String,
        /// The time limit.
        limit: Duration,
    },
}

impl ClusterError {
    pub(crate) fn from_kube(what: &str, error: kube::Error) -> Self {
        let what = what.to_owned();
        match error {
            kube::Error::Api(status) => Self::Refused { what, status },
            other => Self::Unreachable { what, source: Box::new(other) },
        }
    }

    /// Returns the HTTP code of the API server's answer.
    #[must_use]
    pub(crate) fn http_code(&self) -> Option<u16> {
        match self {
            Self::Refused { status, .. } => Some(status.code),
            _ => None,
        }
    }

    /// Returns whether the same request would be refused again, because of missing rights or because it is invalid.
    #[must_use]
    pub(crate) fn is_final(&self) -> bool {
        // 408, 409 and 429 are temporary; 401 ends when credentials are rotated.
        self.http_code().is_some_and(|code| (400..500).contains(&code) && ![401, 408, 409, 429].contains(&code))
    }

    /// Returns the error with its causes, on one line.
    #[must_use]
    pub(crate) fn chain(&self) -> String {
        let mut text = self.to_string();
        let mut source = std::error::Error::source(self);
        while let Some(error) = source {
            let next = error.to_string();
            if !text.ends_with(&next) {
                text = format!("{text}: {next}");
            }
            source = error.source();
        }
        text
    }
}

impl From<ClusterError> for Refusal {
    fn from(error: ClusterError) -> Self {
        let fault = match &error {
            ClusterError::Late { .. } => Fault::Deadline,
            ClusterError::Refused { status, .. } if status.code == 404 => Fault::NotFound,
            ClusterError::Refused { status, .. } if status.code == 403 => Fault::Denied,
            _ => Fault::Unavailable,
        };
        Self::new(fault, error.chain())
    }
}

impl Cluster {
    /// Connects to the cluster of `source`. Starts tasks on the current `LocalSet`.
    #[must_use]
    pub(crate) fn start(source: Source, node: &str, log: Log) -> Rc<Self> {
        let cluster = Rc::new(Self {
            node: node.to_owned(),
            credentials: Credentials::start(source, log),
            pods: Cache::default(),
            nads: Cache::default(),
            namespaces: Cache::default(),
            nodes: Cache::default(),
            own: OwnNode::default(),
            log,
        });
        watch::start(&cluster);
        cluster
    }

    /// Returns the name of this node.
    #[must_use]
    pub(crate) fn node(&self) -> &str {
        &self.node
    }

    /// Returns a client with the newest credentials.
    ///
    /// # Errors
    /// `ClusterError::NoClient`.
    pub(crate) fn client(&self) -> Result<Client, ClusterError> {
        self.credentials.client().map_err(ClusterError::NoClient)
    }

    /// Returns whether the first list of every kind has arrived.
    #[must_use]
    pub(crate) fn is_synced(&self) -> bool {
        self.pods.is_synced() && self.nads.is_synced() && self.namespaces.is_synced() && self.nodes.is_synced()
    }

    /// Returns how many pods, NADs and namespaces are cached.
    #[must_use]
    pub(crate) fn sizes(&self) -> (usize, usize, usize) {
        (self.pods.len(), self.nads.len(), self.namespaces.len())
    }

    /// Returns the pod with a namespace and name. Makes a live read unless the copy has this pod with this uid: without
    /// a uid, the copy's may be an older pod of the same name.
    ///
    /// # Errors
    /// The copy does not know it and the live read failed. `None`: according to a live read, the pod does not exist.
    pub(crate) async fn pod(
        &self,
        namespace: &str,
        name: &str,
        uid: &str,
        deadline: Deadline,
    ) -> Result<Option<Rc<Pod>>, ClusterError> {
        if let Some(pod) = self.pods.get(namespace, name)
            && !uid.is_empty()
            && pod.has_uid(uid)
        {
            return Ok(Some(pod));
        }
        let what = format!("read pod {namespace}/{name}");
        // Not only its metadata, because of the node to which it is bound.
        let api: kube::Api<v1::Pod> = kube::Api::namespaced(self.client()?, namespace);
        let Some(object) = self.bounded(&what, deadline, api.get_opt(name)).await? else { return Ok(None) };
        let pod = Pod::from(object.metadata);
        if let Some(bound) = object.spec.and_then(|spec| spec.node_name)
            && pod.has_uid(uid)
        {
            self.note_node_of_pod(&format!("{namespace}/{name}"), &bound);
        }
        Ok(Some(Rc::new(pod)))
    }

    /// Returns a pod of this node from the copy.
    #[must_use]
    pub(crate) fn known_pod(&self, namespace: &str, name: &str) -> Option<Rc<Pod>> {
        self.pods.get(namespace, name)
    }

    /// Returns whether a pod uses its node's own network, by a live read; `None` if the pod does not exist.
    ///
    /// # Errors
    /// The read failed.
    pub(crate) async fn is_on_host_network(
        &self,
        namespace: &str,
        name: &str,
        deadline: Deadline,
    ) -> Result<Option<bool>, ClusterError> {
        let what = format!("read pod {namespace}/{name}");
        let api: kube::Api<v1::Pod> = kube::Api::namespaced(self.client()?, namespace);
        let found = self.bounded(&what, deadline, api.get_opt(name)).await?;
        Ok(found.map(|pod| pod.spec.and_then(|spec| spec.host_network).unwrap_or_default()))
    }

    /// Returns a pod by a live read, for decisions that must not rely on a copy.
    ///
    /// # Errors
    /// The read failed.
    pub(crate) async fn live_pod(
        &self,
        namespace: &str,
        name: &str,
        deadline: Deadline,
    ) -> Result<Option<Pod>, ClusterError> {
        let what = format!("read pod {namespace}/{name}");
        let api: kube::Api<objects::PodMeta> = kube::Api::namespaced(self.client()?, namespace);
        let found = self.bounded(&what, deadline, api.get_opt(name)).await?;
        Ok(found.map(|object| Pod::from(object.metadata)))
    }

    /// Returns a NetworkAttachmentDefinition from the copy.
    #[must_use]
    pub(crate) fn known_nad(&self, namespace: &str, name: &str) -> Option<Rc<objects::Nad>> {
        self.nads.get(namespace, name)
    }

    /// Returns all known NetworkAttachmentDefinitions, by namespace and name.
    #[must_use]
    pub(crate) fn nads(&self) -> Vec<((String, String), Rc<objects::Nad>)> {
        self.nads.entries()
    }

    /// Returns a number that every change of a definition increments.
    #[must_use]
    pub(crate) fn nads_version(&self) -> u64 {
        self.nads.version()
    }

    /// Returns a NetworkAttachmentDefinition, by a live read if the copy does not know it.
    ///
    /// # Errors
    /// The copy does not know it and the live read failed.
    pub(crate) async fn nad(
        &self,
        namespace: &str,
        name: &str,
        deadline: Deadline,
    ) -> Result<Option<Rc<objects::Nad>>, ClusterError> {
        if let Some(nad) = self.nads.get(namespace, name) {
            return Ok(Some(nad));
        }
        let what = format!("read NetworkAttachmentDefinition {namespace}/{name}");
        let api: kube::Api<NadObject> = kube::Api::namespaced_with(self.client()?, namespace, &nad_resource());
        let found = self.bounded(&what, deadline, api.get_opt(name)).await?;
        Ok(found.map(|object| Rc::new(objects::Nad::from(object))))
    }

    /// Returns the labels of a namespace.
    ///
    /// # Errors
    /// The copy does not know it and the live read failed.
    pub(crate) async fn namespace_labels(
        &self,
        name: &str,
        deadline: Deadline,
    ) -> Result<Rc<objects::Labels>, ClusterError> {
        if let Some(labels) = self.namespaces.get("", name) {
            return Ok(labels);
        }
        let api: kube::Api<objects::NamespaceMeta> = kube::Api::all(self.client()?);
        let found = self.bounded(&format!("read namespace {name}"), deadline, api.get_opt(name)).await?;
        Ok(Rc::new(found.map(|object| objects::Labels::from(object.metadata)).unwrap_or_default()))
    }

    /// Returns the labels of this node.
    ///
    /// # Errors
    /// The copy does not know it and the live read failed, or no Node has this name.
    pub(crate) async fn node_labels(&self, deadline: Deadline) -> Result<Rc<objects::Labels>, ClusterError> {
        if let Some(labels) = self.nodes.get("", &self.node) {
            return Ok(labels);
        }
        let api: kube::Api<objects::NodeMeta> = kube::Api::all(self.client()?);
        let what = format!("read node {}", self.node);
        let object = self.bounded(&what, deadline, api.get(&self.node)).await?;
        Ok(Rc::new(objects::Labels::from(object.metadata)))
    }

    /// Runs a request to the API server within the caller's deadline. After a 401, the credentials are read again.
    pub(crate) async fn bounded<T>(
        &self,
        what: &str,
        deadline: Deadline,
        request: impl Future<Output = Result<T, kube::Error>>,
    ) -> Result<T, ClusterError> {
        // A little earlier than the caller's deadline, so that the answer can name what did not respond.
        let limit = deadline.remaining(READ).mul_f32(0.9);
        match timeout(limit, request).await {
            Ok(Ok(done)) => Ok(done),
            Ok(Err(error)) => {
                let error = ClusterError::from_kube(what, error);
                if error.http_code() == Some(401) {
                    self.credentials.reload();
                }
                Err(error)
            }
            Err(_elapsed) => Err(ClusterError::Late { what: what.to_owned(), limit }),
        }
    }
}
