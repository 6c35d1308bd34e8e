//! kubelet's podresources socket, `List` of version v1.
//!
//! <https://github.com/kubernetes/kubernetes/blob/v1.33.0/staging/src/k8s.io/kubelet/pkg/apis/podresources/v1/api.proto>

use std::path::Path;

use super::{Ids, add, sort};
use crate::grpc;

/// Maximum size of an answer, as in Multus.
const LIMIT: usize = 16 << 20;

/// The request has no fields.
#[derive(Clone, PartialEq, ::prost::Message)]
pub(super) struct ListRequest {}

#[derive(Clone, PartialEq, ::prost::Message)]
pub(super) struct ListResponse {
    #[prost(message, repeated, tag = "1")]
    pub(super) pods: Vec<PodResources>,
}

#[derive(Clone, PartialEq, ::prost::Message)]
pub(super) struct PodResources {
    #[prost(string, tag = "1")]
    pub(super) name: String,
    #[prost(string, tag = "2")]
    pub(super) namespace: String,
    #[prost(message, repeated, tag = "3")]
    pub(super) containers: Vec<ContainerResources>,
}

#[derive(Clone, PartialEq, ::prost::Message)]
pub(super) struct ContainerResources {
    #[prost(string, tag = "1")]
    pub(super) name: String,
    #[prost(message, repeated, tag = "2")]
    pub(super) devices: Vec<ContainerDevices>,
}

#[derive(Clone, PartialEq, ::prost::Message)]
pub(super) struct ContainerDevices {
    #[prost(string, tag = "1")]
    pub(super) resource_name: String,
    #[prost(string, repeated, tag = "2")]
    pub(super) device_ids: Vec<String>,
}

/// Returns all pods with their devices.
pub(super) async fn list(socket: &Path) -> Result<Vec<PodResources>, String> {
    let request = ListRequest {};
    let response: ListResponse = grpc::call(socket, "/v1.PodResourcesLister/List", request, LIMIT).await?;
    Ok(response.pods)
}

/// Returns the devices of one pod.
pub(super) fn of_pod(pods: Vec<PodResources>, namespace: &str, name: &str) -> Ids {
    let mut ids = Ids::new();
    let its = pods.into_iter().filter(|pod| pod.namespace == namespace && pod.name == name);
    for devices in its.flat_map(|pod| pod.containers).flat_map(|container| container.devices) {
        add(&mut ids, devices.resource_name, devices.device_ids);
    }
    sort(&mut ids);
    ids
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_of_all_containers_of_one_pod_are_sorted() {
        let devices = |ids: &[&str]| ContainerDevices {
            resource_name: "v/nic".to_owned(),
            device_ids: ids.iter().map(|id| (*id).to_owned()).collect(),
        };
        let pod = |namespace: &str, devices: Vec<ContainerDevices>| PodResources {
            name: "p".to_owned(),
            namespace: namespace.to_owned(),
            containers: devices
                .into_iter()
                .map(|one| ContainerResources { name: String::new(), devices: vec![one] })
                .collect(),
        };
        let pods = vec![pod("a", vec![devices(&["2", "1"]), devices(&["0"])]), pod("b", vec![devices(&["9"])])];
        assert_eq!(
            of_pod(pods, "a", "p"),
            Ids::from([("v/nic".to_owned(), ["0", "1", "2"].map(str::to_owned).to_vec())])
        );
    }
}
