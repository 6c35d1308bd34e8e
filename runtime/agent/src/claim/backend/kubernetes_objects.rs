//! Claims, cells and nodes as Kubernetes objects: their labels, annotations and versions.

use k8s_openapi::api::core::v1::{Node, NodeCondition};
use kube::core::{ApiResource, NotUsed, Object, ObjectMeta};
use sha2::{Digest, Sha256};
use weft_core::ledger::remote::Versions;

use super::readable::{Readable, Unread};
use crate::claim::history::Position;
use crate::claim::object::{Claim, ClaimSpec, ClaimState};

/// The API group.
const GROUP: &str = "ipam.weft.dev";
/// Its version.
const VERSION: &str = "v1alpha1";
/// Label of a claim, one per holder: this prefix and a hash of the holder's node, whose name may be too long for a
/// label.
const NODE_LABEL: &str = "ipam.weft.dev/node-";
/// Label of a claim that outlives its holders, and its value.
pub(super) const OWNER_LABEL: &str = "ipam.weft.dev/owner";
pub(super) const PERSISTENT: &str = "IPAMClaim";
/// Label of a claim in conflict with a host on the wire, and its value.
pub(super) const STATE_LABEL: &str = "ipam.weft.dev/state";
pub(super) const CONFLICT: &str = "Conflict";
/// Label of a claim: the pool that it was drawn from.
const POOL_LABEL: &str = "ipam.weft.dev/pool";
const LONGEST_LABEL: usize = 63;
/// Label of a claim: the number of its holders, which a column of `kubectl get` cannot count.
const HOLDERS_LABEL: &str = "ipam.weft.dev/holders";
/// Label of a claim: its domain.
pub(super) const DOMAIN_LABEL: &str = "ipam.weft.dev/domain";
/// Annotation of a re-assertion: its epoch. In a freeze, the admission policy in `deploy/crds` admits only these.
pub(super) const EPOCH: &str = "ipam.weft.dev/epoch";
/// The taint of a node that is powered off.
/// <https://kubernetes.io/docs/reference/labels-annotations-taints/#node-kubernetes-io-out-of-service>
const OUT_OF_SERVICE: &str = "node.kubernetes.io/out-of-service";

pub(super) type ClaimObject = Object<ClaimSpec, NotUsed>;
/// A claim that is read: anybody may have written it.
pub(super) type ReadClaim = Object<Readable<ClaimSpec>, NotUsed>;

pub(super) fn resource(kind: &str, plural: &str) -> ApiResource {
    ApiResource {
        group: GROUP.to_owned(),
        version: VERSION.to_owned(),
        api_version: format!("{GROUP}/{VERSION}"),
        kind: kind.to_owned(),
        plural: plural.to_owned(),
    }
}

/// Returns the label of a node: the first 128 bits of its name's SHA-256 in hex.
pub(super) fn node_label(node: &str) -> String {
    let hash = Sha256::digest(node.as_bytes());
    hash.iter().take(16).fold(NODE_LABEL.to_owned(), |label, octet| format!("{label}{octet:02x}"))
}

/// Returns whether the node is marked as powered off.
pub(super) fn is_tainted(node: &Node) -> bool {
    let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_ref());
    taints.is_some_and(|taints| taints.iter().any(|taint| taint.key == OUT_OF_SERVICE))
}

pub(super) fn is_ready(node: &Node) -> bool {
    let conditions = node.status.as_ref().and_then(|status| status.conditions.as_ref());
    let is_true = |condition: &NodeCondition| condition.type_ == "Ready" && condition.status == "True";
    conditions.is_some_and(|conditions| conditions.iter().any(is_true))
}

/// Returns a claim as an object. Field management is disabled, because it would double the object's size.
pub(super) fn object(spec: &ClaimSpec, read: Option<&Versions>, epoch: Option<u64>) -> ClaimObject {
    let mut labels = vec![(DOMAIN_LABEL.to_owned(), spec.domain.clone())];
    if spec.is_persistent() {
        labels.push((OWNER_LABEL.to_owned(), PERSISTENT.to_owned()));
    }
    if spec.state == ClaimState::Conflict {
        labels.push((STATE_LABEL.to_owned(), CONFLICT.to_owned()));
    }
    // A label's value has at most 63 characters. Longer names are in `spec` only.
    if !spec.pool.is_empty() && spec.pool.len() <= LONGEST_LABEL {
        labels.push((POOL_LABEL.to_owned(), spec.pool.clone()));
    }
    labels.push((HOLDERS_LABEL.to_owned(), spec.holders.len().to_string()));
    labels.extend(spec.holders.iter().map(|holder| (node_label(&holder.node), String::new())));
    let resource = resource("AddressClaim", "addressclaims");
    let mut object = Object::new(&spec.name(), &resource, spec.clone());
    object.metadata = ObjectMeta {
        labels: Some(labels.into_iter().collect()),
        annotations: epoch.map(|epoch| [(EPOCH.to_owned(), epoch.to_string())].into()),
        managed_fields: Some(vec![Default::default()]),
        uid: read.map(|read| read.uid.clone()),
        resource_version: read.map(|read| read.version.clone()),
        ..object.metadata
    };
    object
}

pub(super) fn versions(meta: &ObjectMeta) -> Versions {
    Versions { uid: meta.uid.clone().unwrap_or_default(), version: meta.resource_version.clone().unwrap_or_default() }
}

pub(super) fn position(version: Option<&String>) -> Position {
    // A version that is not a number is not compared.
    let revision = version.and_then(|version| version.parse().ok()).unwrap_or(0);
    Position { revision, ..Position::default() }
}

/// Returns a claim that was read by its name.
pub(super) fn claim(name: &str, object: ReadClaim) -> Claim {
    let versions = versions(&object.metadata);
    match object.spec {
        Readable::Yes(spec) => Claim { spec, versions, deleting: object.metadata.deletion_timestamp.is_some() },
        Readable::No(_why) => Claim::unreadable(name, versions),
    }
}

/// Returns a claim of a list, if it can be read.
pub(super) fn listed_claim(object: ReadClaim, unread: &Unread) -> Option<Claim> {
    let versions = versions(&object.metadata);
    let spec = unread.sort_out(object.metadata.name.as_deref().unwrap_or_default(), object.spec)?;
    Some(Claim { spec, versions, deleting: object.metadata.deletion_timestamp.is_some() })
}
