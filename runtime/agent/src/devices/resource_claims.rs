//! The devices of a pod's ResourceClaims (dynamic resource allocation, `resource.k8s.io/v1`).
//!
//! A driver puts information for CNI into a device's attributes: `k8s.cni.cncf.io/deviceID`, and in
//! `k8s.cni.cncf.io/resourceName` the definitions for which it is. Devices without both are not network devices (a pod
//! may also claim a GPU) and are skipped. If a claim implements an extended resource, Kubernetes provides the
//! resource's name, and a device that lacks an attribute is an error, because it can only be a network device.
//!
//! <https://kubernetes.io/docs/concepts/scheduling-eviction/dynamic-resource-allocation/>

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::resource::v1::{Device, DeviceRequestAllocationResult, ResourceClaim, ResourceSlice};
use kube::Api;
use kube::api::ListParams;

use super::{Ids, add, sort};
use crate::cluster::{Cluster, ClusterError};
use crate::server::Deadline;

const ID: &str = "k8s.cni.cncf.io/deviceID";
const RESOURCE: &str = "k8s.cni.cncf.io/resourceName";

/// Why the devices of a pod's claims are unknown.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ResourceClaimError {
    /// The API server failed.
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    /// A claim has no devices.
    #[error(
        "ResourceClaim {0} has no devices allocated; kubelet does not start a pod before its devices are allocated, so this pod was probably replaced"
    )]
    NotAllocated(String),
    /// A claim lacks the request that Kubernetes names.
    #[error("ResourceClaim {claim} has no devices for request {request:?} of the extended resource {resource:?}")]
    NoRequest {
        /// Its name.
        claim: String,
        /// The request's name.
        request: String,
        /// The extended resource.
        resource: String,
    },
    /// No slice contains the device.
    #[error("device {device:?} of ResourceClaim {claim} is in no ResourceSlice of driver {driver:?}, pool {pool:?}")]
    NoDevice {
        /// The claim's name.
        claim: String,
        /// The driver's name.
        driver: String,
        /// The pool's name.
        pool: String,
        /// The device's name.
        device: String,
    },
    /// A device of an extended resource lacks an attribute, or has another resource's name.
    #[error(
        "device {device:?} of ResourceClaim {claim} stands for the extended resource {resource:?}, but its attributes \
         k8s.cni.cncf.io/deviceID and k8s.cni.cncf.io/resourceName do not identify a network device; the driver must set them"
    )]
    NotMarked {
        /// The claim's name.
        claim: String,
        /// The device's name.
        device: String,
        /// The extended resource.
        resource: String,
    },
}

/// Returns the devices of the pod's claims, by resource name.
///
/// # Errors
/// See [`ResourceClaimError`].
pub(crate) async fn of_pod(
    cluster: &Cluster,
    namespace: &str,
    name: &str,
    deadline: Deadline,
) -> Result<Ids, ResourceClaimError> {
    let api: Api<Pod> = Api::namespaced(cluster.client()?, namespace);
    let what = format!("read the resource claims of pod {namespace}/{name}");
    let Some(pod) = cluster.bounded(&what, deadline, api.get_opt(name)).await? else { return Ok(Ids::new()) };
    let mut reader = Reader { cluster, namespace, deadline, slices: BTreeMap::new() };
    let mut ids = Ids::new();
    for claim in claims_of(&pod) {
        for result in reader.allocated(&claim).await? {
            let device = reader.device(&claim, &result).await?;
            if let (Some(resource), Some(id)) = (attribute(device, RESOURCE), attribute(device, ID)) {
                add(&mut ids, resource.to_owned(), [id.to_owned()]);
            }
        }
    }
    if let Some(extended) = pod.status.and_then(|status| status.extended_resource_claim_status) {
        let claim = extended.resource_claim_name;
        let results = reader.allocated(&claim).await?;
        for mapping in extended.request_mappings {
            let (request, resource) = (mapping.request_name, mapping.resource_name);
            let mut its = results.iter().filter(|result| result.request == request).peekable();
            if its.peek().is_none() {
                return Err(ResourceClaimError::NoRequest { claim, request, resource });
            }
            for result in its {
                let device = reader.device(&claim, result).await?;
                match attribute(device, ID).filter(|_| attribute(device, RESOURCE) == Some(&resource)) {
                    Some(id) => add(&mut ids, resource.clone(), [id.to_owned()]),
                    None => {
                        let device = result.device.clone();
                        return Err(ResourceClaimError::NotMarked { claim, device, resource });
                    }
                }
            }
        }
    }
    sort(&mut ids);
    Ok(ids)
}

/// Returns the names of the pod's claims. Claims made from a template are in its status, the others only in its spec.
fn claims_of(pod: &Pod) -> Vec<String> {
    let made: BTreeMap<&str, &str> = pod
        .status
        .iter()
        .flat_map(|status| status.resource_claim_statuses.iter().flatten())
        .filter_map(|made| Some((made.name.as_str(), made.resource_claim_name.as_deref()?)))
        .collect();
    let wanted = pod.spec.iter().flat_map(|spec| spec.resource_claims.iter().flatten());
    wanted
        .filter_map(|claim| claim.resource_claim_name.as_deref().or_else(|| made.get(claim.name.as_str()).copied()))
        .map(str::to_owned)
        .collect()
}

fn attribute<'a>(device: &'a Device, name: &str) -> Option<&'a str> {
    device.attributes.as_ref()?.get(name)?.string.as_deref().filter(|value| !value.is_empty())
}

/// Reads claims, and the slices of each driver once.
struct Reader<'a> {
    cluster: &'a Cluster,
    namespace: &'a str,
    deadline: Deadline,
    slices: BTreeMap<String, Vec<ResourceSlice>>,
}

impl Reader<'_> {
    async fn allocated(&self, claim: &str) -> Result<Vec<DeviceRequestAllocationResult>, ResourceClaimError> {
        let api: Api<ResourceClaim> = Api::namespaced(self.cluster.client()?, self.namespace);
        let what = format!("read ResourceClaim {}/{claim}", self.namespace);
        let found = self.cluster.bounded(&what, self.deadline, api.get(claim)).await?;
        let allocation = found.status.and_then(|status| status.allocation);
        let results = allocation.and_then(|allocation| allocation.devices).and_then(|devices| devices.results);
        results.ok_or_else(|| ResourceClaimError::NotAllocated(format!("{}/{claim}", self.namespace)))
    }

    /// Returns the device of a result, from its pool's newest generation.
    async fn device(
        &mut self,
        claim: &str,
        result: &DeviceRequestAllocationResult,
    ) -> Result<&Device, ResourceClaimError> {
        let DeviceRequestAllocationResult { driver, pool, device, .. } = result;
        let slices = match self.slices.entry(driver.clone()) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(unknown) => {
                let api: Api<ResourceSlice> = Api::all(self.cluster.client()?);
                let of_driver = ListParams::default().fields(&format!("spec.driver={driver}"));
                let what = format!("list the ResourceSlices of driver {driver}");
                unknown.insert(self.cluster.bounded(&what, self.deadline, api.list(&of_driver)).await?.items)
            }
        };
        let of_pool = || slices.iter().map(|slice| &slice.spec).filter(|spec| spec.pool.name == *pool);
        let newest = of_pool().map(|spec| spec.pool.generation).max();
        of_pool()
            .filter(|spec| Some(spec.pool.generation) == newest)
            .flat_map(|spec| spec.devices.iter().flatten())
            .find(|one| one.name == *device)
            .ok_or_else(|| ResourceClaimError::NoDevice {
                claim: claim.to_owned(),
                driver: driver.clone(),
                pool: pool.clone(),
                device: device.clone(),
            })
    }
}
