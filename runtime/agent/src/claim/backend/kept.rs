//! IPAMClaims that weft makes: one for each interface of a pod whose policy keeps its addresses.
//!
//! The name is derived from pod, network and interface, so a pod that returns with the same name finds its own. An
//! IPAMClaim of a StatefulSet's pod is owned by the StatefulSet: Kubernetes deletes both together, and then the address
//! becomes free.

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::Error;
use kube::api::{Api, DynamicObject, PostParams};
use serde_json::json;
use sha2::{Digest, Sha256};

use super::answers::read;
use super::contract::ReadError;
use super::ipam_claim;
use super::kubernetes::Kubernetes;
use crate::claim::object::Persistent;

/// An interface of a pod that keeps its addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Keeper {
    /// Namespace of the pod.
    pub namespace: String,
    /// Name of the pod, which identifies it across different uids.
    pub pod: String,
    /// Uid of the requesting pod.
    pub uid: String,
    /// Name of the network.
    pub network: String,
    /// Name of the interface.
    pub interface: String,
}

impl Keeper {
    /// Returns the name of its IPAMClaim.
    #[must_use]
    pub fn claim(&self) -> String {
        let parts = [self.pod.as_str(), &self.network, &self.interface].join("\0");
        let hash = Sha256::digest(parts.as_bytes());
        hash.iter().take(12).fold("weft-".to_owned(), |name, octet| format!("{name}{octet:02x}"))
    }
}

impl Kubernetes {
    /// Returns the IPAMClaim of an interface that keeps its addresses. The first request makes it.
    pub(in crate::claim) async fn keep(&self, keeper: &Keeper) -> Result<Persistent, ReadError> {
        let (name, client) = (keeper.claim(), self.client()?);
        let claims = ipam_claim::api(client.clone(), &keeper.namespace);
        if let Some(found) = read(claims.get_opt(&name)).await? {
            return known(&found, keeper);
        }
        let pods: Api<Pod> = Api::namespaced(client, &keeper.namespace);
        let pod = read(pods.get_opt(&keeper.pod)).await?;
        let mut object = DynamicObject::new(&name, &ipam_claim::resource());
        object.metadata.owner_references = pod.and_then(|pod| stateful_set(pod, &keeper.uid)).map(|owner| vec![owner]);
        object.metadata.annotations = Some([("ipam.weft.dev/pod".to_owned(), keeper.pod.clone())].into());
        object.data = json!({"spec": {"network": keeper.network, "interface": keeper.interface}});
        let made = async {
            match claims.create(&PostParams::default(), &object).await {
                // Another ADD of the pod was faster.
                Err(Error::Api(status)) if status.code == 409 => claims.get(&name).await,
                made => made,
            }
        };
        known(&read(made).await?, keeper)
    }
}

fn known(object: &DynamicObject, keeper: &Keeper) -> Result<Persistent, ReadError> {
    let deleted =
        || ReadError(format!("IPAMClaim {}/{} is being deleted; try again", keeper.namespace, keeper.claim()));
    ipam_claim::read(object).ok_or_else(deleted)
}

/// Returns the StatefulSet of which a pod is an ordinal.
fn stateful_set(pod: Pod, uid: &str) -> Option<OwnerReference> {
    // Ignore the references of another pod with the same name that has replaced the requesting one.
    let references = pod.metadata.owner_references.filter(|_| pod.metadata.uid.as_deref() == Some(uid))?;
    let owner = references.into_iter().find(|owner| owner.controller == Some(true) && owner.kind == "StatefulSet")?;
    Some(OwnerReference { block_owner_deletion: None, ..owner })
}
