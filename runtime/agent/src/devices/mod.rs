//! The devices of a pod. Those of device plugins come from kubelet's podresources socket, or from its checkpoint file
//! if the socket is missing or does not answer. Those of dynamic resource allocation come from the API server.
//!
//! Ids are sorted: like Multus, `weft-pod` assigns them in this order, one per attachment that names the resource.

mod checkpoint;
mod podresources;
mod resource_claims;

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use tokio::task::spawn_blocking;
use tokio::time::timeout;

use self::resource_claims::ResourceClaimError;
use crate::cluster::Cluster;
use crate::server::Deadline;

/// Time limit of kubelet's answer.
const LIMIT: Duration = Duration::from_secs(10);

/// Ids by resource name, sorted.
pub(crate) type Ids = BTreeMap<String, Vec<String>>;

/// The sources of kubelet's device assignments.
#[derive(Debug, Clone)]
pub(crate) struct Devices {
    socket: PathBuf,
    checkpoint: PathBuf,
}

/// Why the devices of a pod are unknown.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DevicesError {
    /// Neither source can be used.
    #[error(
        "cannot read the devices of the pod: {socket}: {first}; {checkpoint}: {second}; mount kubelet's directory into the agent"
    )]
    NoSource {
        /// The socket's path.
        socket: String,
        /// The problem with it.
        first: String,
        /// The checkpoint's path.
        checkpoint: String,
        /// The problem with it.
        second: String,
    },
    /// The devices of its resource claims are unknown.
    #[error("cannot find the devices of the pod's resource claims: {0}")]
    ResourceClaims(#[from] ResourceClaimError),
}

impl Devices {
    /// Creates the sources below kubelet's directory, usually `/var/lib/kubelet`.
    pub(crate) fn new(kubelet: &std::path::Path) -> Self {
        Self {
            socket: kubelet.join("pod-resources/kubelet.sock"),
            checkpoint: kubelet.join("device-plugins/kubelet_internal_checkpoint"),
        }
    }

    /// Returns how many pods the socket lists.
    pub(crate) async fn pods(&self) -> Result<usize, String> {
        podresources::list(&self.socket)
            .await
            .map(|pods| pods.len())
            .map_err(|text| format!("{}: {text}", self.socket.display()))
    }

    /// Returns the devices of a pod.
    pub(crate) async fn of_pod(
        &self,
        cluster: &Cluster,
        namespace: &str,
        name: &str,
        uids: &[&str],
        deadline: Deadline,
    ) -> Result<Ids, DevicesError> {
        let (of_plugins, of_claims) = futures_util::join!(
            self.of_plugins(namespace, name, uids, deadline),
            resource_claims::of_pod(cluster, namespace, name, deadline),
        );
        let mut ids = of_plugins?;
        for (resource, more) in of_claims? {
            add(&mut ids, resource, more);
        }
        sort(&mut ids);
        Ok(ids)
    }

    /// Returns the devices of kubelet's plugins. The socket identifies pods by name, the checkpoint by uid.
    async fn of_plugins(
        &self,
        namespace: &str,
        name: &str,
        uids: &[&str],
        deadline: Deadline,
    ) -> Result<Ids, DevicesError> {
        // Half of the time is left for the second source, a file.
        let limit = deadline.remaining(LIMIT) / 2;
        let first = match timeout(limit, podresources::list(&self.socket)).await {
            Ok(Ok(pods)) => return Ok(podresources::of_pod(pods, namespace, name)),
            Ok(Err(text)) => text,
            Err(_elapsed) => format!("no answer within {} ms", limit.as_millis()),
        };
        let path = self.checkpoint.clone();
        let bytes = spawn_blocking(move || std::fs::read(path)).await.map_err(io::Error::other);
        let read = bytes.and_then(|read| read).and_then(|bytes| {
            checkpoint::of_pod(&bytes, uids).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
        });
        read.map_err(|error| DevicesError::NoSource {
            socket: self.socket.display().to_string(),
            first,
            checkpoint: self.checkpoint.display().to_string(),
            second: error.to_string(),
        })
    }
}

/// Adds ids of a resource; `sort` ends it.
fn add(ids: &mut Ids, resource: String, more: impl IntoIterator<Item = String>) {
    ids.entry(resource).or_default().extend(more);
}

fn sort(ids: &mut Ids) {
    for list in ids.values_mut() {
        list.sort();
        list.dedup();
    }
}
