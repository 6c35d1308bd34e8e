//! Returns the sandboxes that the container runtime knows: `ListPodSandbox` of the
//! CRI.
//!
//! <https://github.com/kubernetes/cri-api/blob/v0.33.0/pkg/apis/runtime/v1/api.proto>

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::timeout;

use super::PodName;
use super::judge::Sandbox;
use crate::grpc;

/// Sockets of runtimes, tried if none is named.
const SOCKETS: [&str; 4] = [
    "/run/containerd/containerd.sock",
    "/run/k3s/containerd/containerd.sock",
    "/run/crio/crio.sock",
    "/var/run/crio/crio.sock",
];
/// Time limit of a runtime's answer.
const LIMIT: Duration = Duration::from_secs(10);
/// Maximum size of an answer.
const SIZE: usize = 16 << 20;
/// `SANDBOX_READY`.
const READY: i32 = 0;

/// No filter: all sandboxes.
#[derive(Clone, PartialEq, ::prost::Message)]
struct ListRequest {}

#[derive(Clone, PartialEq, ::prost::Message)]
struct ListResponse {
    #[prost(message, repeated, tag = "1")]
    items: Vec<PodSandbox>,
}

#[derive(Clone, PartialEq, ::prost::Message)]
struct PodSandbox {
    #[prost(string, tag = "1")]
    id: String,
    #[prost(message, optional, tag = "2")]
    metadata: Option<Metadata>,
    #[prost(int32, tag = "3")]
    state: i32,
    /// Nanoseconds since 1970.
    #[prost(int64, tag = "4")]
    created_at: i64,
}

#[derive(Clone, PartialEq, ::prost::Message)]
struct Metadata {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    uid: String,
    #[prost(string, tag = "3")]
    namespace: String,
}

/// The runtime's entry of one sandbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Listed {
    /// It is ready.
    pub(super) ready: bool,
    /// Its pod.
    pub(super) pod: PodName,
    /// Its creation time, since 1970.
    pub(super) created: Duration,
}

/// The sandboxes of a node, by container id.
#[derive(Debug, Default)]
pub(super) struct Sandboxes(Option<BTreeMap<String, Listed>>);

impl From<PodSandbox> for Listed {
    fn from(item: PodSandbox) -> Self {
        let Metadata { name, uid, namespace } = item.metadata.unwrap_or_default();
        Self {
            ready: item.state == READY,
            pod: PodName { namespace, name, uid },
            created: Duration::from_nanos(u64::try_from(item.created_at).unwrap_or_default()),
        }
    }
}

impl Sandboxes {
    /// Asks the runtime.
    pub(super) async fn list(socket: Option<&Path>) -> (Self, Option<String>) {
        let Some(socket) = socket.map(Path::to_owned).or_else(find) else { return (Self(None), None) };
        let request = ListRequest {};
        let call = grpc::call(&socket, "/runtime.v1.RuntimeService/ListPodSandbox", request, SIZE);
        let answer: Result<ListResponse, String> = match timeout(LIMIT, call).await {
            Ok(answer) => answer,
            Err(_elapsed) => Err(format!("no answer within {} s", LIMIT.as_secs())),
        };
        match answer {
            Ok(list) => {
                let listed = list.items.into_iter().map(|item| (item.id.clone(), Listed::from(item)));
                (Self(Some(listed.collect())), None)
            }
            Err(text) => (Self(None), Some(format!("cannot list sandboxes at {}: {text}", socket.display()))),
        }
    }

    /// Returns all ready sandboxes; none if the runtime does not answer.
    pub(super) fn ready(&self) -> impl Iterator<Item = (&String, &Listed)> {
        self.0.iter().flatten().filter(|(_, listed)| listed.ready)
    }

    /// Returns the runtime's answer about one sandbox.
    pub(super) fn of(&self, container_id: &str) -> Sandbox {
        match &self.0 {
            None => Sandbox::Unknown,
            Some(known) => match known.get(container_id).map(|listed| listed.ready) {
                Some(true) => Sandbox::Ready,
                Some(false) => Sandbox::NotReady,
                None => Sandbox::Unlisted,
            },
        }
    }
}

fn find() -> Option<PathBuf> {
    SOCKETS.iter().map(PathBuf::from).find(|path| path.exists())
}
