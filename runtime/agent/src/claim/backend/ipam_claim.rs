//! IPAMClaims: reads them and writes their status.
//!
//! The controller of the workload makes and deletes them; an IPAM plugin writes `status` and nothing else.
//! <https://github.com/k8snetworkplumbingwg/multi-net-spec>, version 1.3, section 8.

use k8s_openapi::jiff::Timestamp;
use kube::Client;
use kube::api::{Api, DynamicObject, PostParams};
use kube::core::ApiResource;
use serde_json::{Value, json};

use super::contract::{Status, WriteError};
use crate::claim::object::Persistent;

/// The condition that says whether it has addresses.
const ALLOCATED: &str = "IPsAllocated";

/// Returns the API for IPAMClaims of a namespace.
pub(super) fn api(client: Client, namespace: &str) -> Api<DynamicObject> {
    Api::namespaced_with(client, namespace, &resource())
}

/// Returns the resource type of IPAMClaims.
pub(super) fn resource() -> ApiResource {
    ApiResource {
        group: "k8s.cni.cncf.io".to_owned(),
        version: "v1alpha1".to_owned(),
        api_version: "k8s.cni.cncf.io/v1alpha1".to_owned(),
        kind: "IPAMClaim".to_owned(),
        plural: "ipamclaims".to_owned(),
    }
}

/// Returns the fields that the ledger uses. An IPAMClaim that is being deleted accepts no more users.
pub(super) fn read(object: &DynamicObject) -> Option<Persistent> {
    if object.metadata.deletion_timestamp.is_some() {
        return None;
    }
    let ips = object.data.pointer("/status/ips").and_then(Value::as_array);
    let conditions = object.data.pointer("/status/conditions").and_then(Value::as_array);
    let mut of_ips = conditions.into_iter().flatten().filter(|condition| condition["type"] == ALLOCATED);
    Some(Persistent {
        has_fault: of_ips.any(|condition| condition["status"] == "False"),
        uid: object.metadata.uid.clone()?,
        version: object.metadata.resource_version.clone()?,
        ips: ips.into_iter().flatten().filter_map(|ip| ip.as_str().map(str::to_owned)).collect(),
    })
}

/// Returns the object with its new status; `Conflict` if its version is not the one that was read.
pub(super) fn with_status(
    mut object: DynamicObject,
    from: &Persistent,
    status: Status<'_>,
) -> Result<DynamicObject, WriteError> {
    if read(&object).as_ref() != Some(from) {
        return Err(WriteError::Conflict);
    }
    let (value, reason, message) = match status.fault {
        None => ("True", "SuccessfulAllocation", "the addresses are taken in the cluster ledger"),
        Some(fault) => ("False", "IPAddressConflict", fault),
    };
    let conditions = object.data.pointer("/status/conditions").and_then(Value::as_array);
    let mut conditions: Vec<Value> = conditions.cloned().unwrap_or_default();
    let before = conditions.iter().find(|condition| condition["type"] == ALLOCATED);
    let since = before.filter(|before| before["status"] == value).map(|before| before["lastTransitionTime"].clone());
    let since = since.unwrap_or_else(|| json!(Timestamp::now().to_string()));
    conditions.retain(|condition| condition["type"] != ALLOCATED);
    conditions.push(json!({
        "type": ALLOCATED, "status": value, "reason": reason, "message": message, "lastTransitionTime": since,
    }));
    object.data["status"] = json!({"ips": status.ips, "ownerPod": {"name": status.pod}, "conditions": conditions});
    Ok(object)
}

/// Writes the status.
pub(super) async fn put(api: &Api<DynamicObject>, object: &DynamicObject) -> Result<DynamicObject, kube::Error> {
    let name = object.metadata.name.clone().unwrap_or_default();
    api.replace_status(&name, &PostParams::default(), object).await
}
