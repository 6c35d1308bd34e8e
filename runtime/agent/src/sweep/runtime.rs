//! Returns the sandboxes that the container runtime knows: `ListPodSandbox` of the
//! CRI.
//!
//! <https://github.com/kubernetes/cri-api/blob/v0.33.0/pkg/apis/runtime/v1/api.proto>

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::timeout;
use weft_core::exec::RUNTIME_SOCKETS;

use super::judge::Sandbox;
use super::pods::PodName;
use crate::grpc;

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
    /// Asks the runtime. If no socket is named, all runtimes of the node are asked: the sandboxes of any of them live.
    pub(super) async fn list(named: Option<&Path>) -> (Self, Option<String>) {
        let sockets = named.map_or_else(find, |socket| vec![socket.to_owned()]);
        let (mut known, mut faults) = (None, Vec::new());
        for socket in sockets {
            match ask(&socket).await {
                Ok(listed) => known.get_or_insert_with(BTreeMap::new).extend(listed),
                Err(text) => faults.push(format!("cannot list sandboxes at {}: {text}", socket.display())),
            }
        }
        (Self(known), (!faults.is_empty()).then(|| faults.join("; ")))
    }

    /// Drops the answer if it is not from the runtime of this node's pods: it must list a sandbox that the journal has,
    /// or one of a pod that the API server places here. A machine may have a second runtime, whose list says nothing
    /// about them.
    pub(super) fn if_of_this_node(self, known: &BTreeSet<&str>, is_here: impl Fn(&PodName) -> bool) -> Self {
        let is_ours = |(id, listed): (&String, &Listed)| known.contains(id.as_str()) || is_here(&listed.pod);
        Self(self.0.filter(|listed| listed.iter().any(is_ours)))
    }

    /// Returns all ready sandboxes; none if the runtime does not answer.
    pub(super) fn ready(&self) -> impl Iterator<Item = (&String, &Listed)> {
        self.0.iter().flatten().filter(|(_, listed)| listed.ready)
    }

    /// Returns the runtime's answer about one sandbox.
    pub(super) fn find(&self, container_id: &str) -> Sandbox {
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

async fn ask(socket: &Path) -> Result<BTreeMap<String, Listed>, String> {
    let call = grpc::call(socket, "/runtime.v1.RuntimeService/ListPodSandbox", ListRequest {}, SIZE);
    let answer: Result<ListResponse, String> = match timeout(LIMIT, call).await {
        Ok(answer) => answer,
        Err(_elapsed) => Err(format!("no answer within {} s", LIMIT.as_secs())),
    };
    Ok(answer?.items.into_iter().map(|item| (item.id.clone(), Listed::from(item))).collect())
}

/// Returns the sockets of runtimes that exist, each once.
fn find() -> Vec<PathBuf> {
    let mut seen = BTreeSet::new();
    let is_new = |path: &PathBuf| fs::metadata(path).is_ok_and(|file| seen.insert((file.dev(), file.ino())));
    RUNTIME_SOCKETS.iter().map(PathBuf::from).filter(is_new).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listed(name: &str) -> Listed {
        let pod = PodName { namespace: "default".to_owned(), name: name.to_owned(), uid: "u".to_owned() };
        Listed { ready: true, pod, created: Duration::ZERO }
    }

    #[test]
    fn a_runtime_without_a_sandbox_of_this_node_says_nothing() {
        let sandboxes = || Sandboxes(Some(BTreeMap::from([("box".to_owned(), listed("web"))])));
        let nobody = |_pod: &PodName| false;
        let journal = BTreeSet::from(["mine"]);
        assert_eq!(sandboxes().if_of_this_node(&journal, nobody).find("mine"), Sandbox::Unknown);
        assert_eq!(Sandboxes(Some(BTreeMap::new())).if_of_this_node(&journal, nobody).find("mine"), Sandbox::Unknown);
        let here = |pod: &PodName| pod.name == "web";
        assert_eq!(sandboxes().if_of_this_node(&journal, here).find("mine"), Sandbox::Unlisted);
        assert_eq!(sandboxes().if_of_this_node(&BTreeSet::from(["box"]), nobody).find("mine"), Sandbox::Unlisted);
    }
}
