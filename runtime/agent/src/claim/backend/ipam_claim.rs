//! IPAMClaims: reads them and writes their status.
//!
//! The controller of the workload makes and deletes them; an IPAM plugin writes `status` and nothing else.
//! <https://github.com/k8snetworkplumbingwg/multi-net-spec>, version 1.3, section 8.
//!
//! weft's own condition says how the addresses are claimed: `status` has no other place for that.

use k8s_openapi::jiff::Timestamp;
use kube::Client;
use kube::api::{Api, DynamicObject, ListParams, PostParams};
use kube::core::ApiResource;
use serde_json::{Value, json};

use super::answers::read as answer;
use super::contract::{Keepers, Keeping, ReadError, Status, WriteError};
use super::kubernetes::Kubernetes;
use super::pool::{OBJECTS, next};
use crate::claim::object::Persistent;
use crate::claim::remembered::{Claimed, Remembered};

/// The condition that says whether it has addresses.
const ALLOCATED: &str = "IPsAllocated";
/// The condition whose message is a [`Claimed`].
const CLAIMED: &str = "ipam.weft.dev/Claimed";

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
    Some(Persistent {
        has_fault: condition(object, ALLOCATED).is_some_and(|condition| condition["status"] == "False"),
        uid: object.metadata.uid.clone()?,
        version: object.metadata.resource_version.clone()?,
        ips: ips(object),
        claimed: claimed(object),
    })
}

fn ips(object: &DynamicObject) -> Vec<String> {
    let ips = object.data.pointer("/status/ips").and_then(Value::as_array);
    ips.into_iter().flatten().filter_map(|ip| ip.as_str().map(str::to_owned)).collect()
}

fn claimed(object: &DynamicObject) -> Option<Claimed> {
    serde_json::from_str(condition(object, CLAIMED)?["message"].as_str()?).ok()
}

fn condition<'a>(object: &'a DynamicObject, name: &str) -> Option<&'a Value> {
    let conditions = object.data.pointer("/status/conditions").and_then(Value::as_array);
    conditions.into_iter().flatten().find(|condition| condition["type"] == name)
}

impl Kubernetes {
    /// Lists the IPAMClaims whose addresses weft has claimed, including those being deleted. `None`: the agent has no
    /// right to list them. The list is empty if the API server does not know the resource.
    pub(super) async fn remembered_claims(&self) -> Result<Option<Vec<Remembered>>, ReadError> {
        let mut remembered = Vec::new();
        let listed = self.each_claim(|object| remembered.extend(remember(object))).await?;
        Ok(listed.then_some(remembered))
    }

    /// Lists all IPAMClaims, in the same way.
    pub(super) async fn keeping_claims(&self) -> Result<Option<Keepers>, ReadError> {
        let mut keepers = Keepers::new();
        let listed = self.each_claim(|object| keepers.extend(parse_keeping(object))).await?;
        Ok(listed.then_some(keepers))
    }

    /// Passes every IPAMClaim to `each`. Returns whether this client has the right to list them.
    async fn each_claim(&self, mut each: impl FnMut(&DynamicObject)) -> Result<bool, ReadError> {
        let claims: Api<DynamicObject> = Api::all_with(self.client()?, &resource());
        let mut params = ListParams::default().limit(OBJECTS);
        loop {
            let page = async {
                match claims.list(&params).await {
                    Err(kube::Error::Api(status)) if status.code == 404 || status.code == 403 => Ok(Err(status.code)),
                    page => page.map(Ok),
                }
            };
            let page = match answer(page).await? {
                Ok(page) => page,
                Err(403) => return Ok(false),
                Err(_unknown) => return Ok(true),
            };
            page.items.iter().for_each(&mut each);
            match next(&page.metadata) {
                Some(token) => params = params.continue_token(&token),
                None => return Ok(true),
            }
        }
    }
}

fn parse_keeping(object: &DynamicObject) -> Option<((String, String), Keeping)> {
    let meta = &object.metadata;
    Some(((meta.namespace.clone()?, meta.name.clone()?), Keeping { uid: meta.uid.clone()?, ips: ips(object) }))
}

fn remember(object: &DynamicObject) -> Option<Remembered> {
    let meta = &object.metadata;
    Some(Remembered {
        namespace: meta.namespace.clone()?,
        name: meta.name.clone()?,
        uid: meta.uid.clone()?,
        ips: ips(object),
        claimed: claimed(object)?,
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
    let owner = status.pod.map(|pod| json!({"name": pod})).or_else(|| object.data.pointer("/status/ownerPod").cloned());
    let conditions = object.data.pointer("/status/conditions").and_then(Value::as_array);
    let mut conditions: Vec<Value> = conditions.cloned().unwrap_or_default();
    set(&mut conditions, ALLOCATED, (value, reason, message));
    if let Some(claimed) = status.claimed {
        let message = serde_json::to_string(claimed).map_err(|error| WriteError::Refused(error.to_string()))?;
        set(&mut conditions, CLAIMED, ("True", "Claimed", &message));
    }
    object.data["status"] = json!({"ips": status.ips, "conditions": conditions});
    if let Some(owner) = owner {
        object.data["status"]["ownerPod"] = owner;
    }
    Ok(object)
}

/// Replaces the condition of this type. Its time is the last change of its status.
fn set(conditions: &mut Vec<Value>, name: &str, (value, reason, message): (&str, &str, &str)) {
    let before = conditions.iter().find(|condition| condition["type"] == name);
    let since = before.filter(|before| before["status"] == value).map(|before| before["lastTransitionTime"].clone());
    let since = since.unwrap_or_else(|| json!(Timestamp::now().to_string()));
    conditions.retain(|condition| condition["type"] != name);
    conditions.push(
        json!({"type": name, "status": value, "reason": reason, "message": message, "lastTransitionTime": since}),
    );
}

/// Writes the status.
pub(super) async fn replace_status(
    api: &Api<DynamicObject>,
    object: &DynamicObject,
) -> Result<DynamicObject, kube::Error> {
    let name = object.metadata.name.clone().unwrap_or_default();
    api.replace_status(&name, &PostParams::default(), object).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::claim::object::Sharing;

    /// Makes an IPAMClaim as the API server returns it.
    fn object(status: Value) -> DynamicObject {
        let mut object = DynamicObject::new("vm", &resource()).within("ns");
        (object.metadata.uid, object.metadata.resource_version) = (Some("uid-1".to_owned()), Some("7".to_owned()));
        object.data = json!({"spec": {"network": "storage", "interface": "eth0"}, "status": status});
        object
    }

    #[test]
    fn a_status_remembers_how_its_addresses_are_claimed() {
        let others =
            json!({"type": "Migrated", "status": "True", "reason": "Other", "message": "", "lastTransitionTime": "t"});
        let before = object(json!({"conditions": [others]}));
        assert_eq!(remember(&before), None);
        let claimed = Claimed {
            domain: "blue".to_owned(),
            cell_size: 16,
            network: "storage".to_owned(),
            sharing: Sharing::Exclusive,
            rest_seconds: 30,
        };
        let ips = vec!["10.0.0.7/24".to_owned(), "fd00::7/64".to_owned()];
        let status = Status { ips: &ips, pod: Some("web-0"), claimed: Some(&claimed), fault: None };
        let after = with_status(before.clone(), &read(&before).unwrap(), status).unwrap();
        let remembered = remember(&after).unwrap();
        assert_eq!((&remembered.claimed, &remembered.ips, remembered.uid.as_str()), (&claimed, &ips, "uid-1"));
        let claims: Vec<_> = remembered.claims().map(|claim| (claim.name(), claim.owner.slot, claim.prefix)).collect();
        let names = ["blue-0a000007".to_owned(), "blue-fd000000000000000000000000000007".to_owned()];
        let [four, six] = names;
        assert_eq!(claims, [(four, 0, 24), (six, 1, 64)]);
        // A fault changes neither this, nor the pod, nor conditions of other programs.
        let faulty = Status { ips: &ips, pod: None, claimed: None, fault: Some("10.0.0.7 is taken") };
        let faulty = with_status(after.clone(), &read(&after).unwrap(), faulty).unwrap();
        assert!(read(&faulty).unwrap().has_fault && faulty.data["status"]["ownerPod"]["name"] == "web-0");
        assert_eq!((remember(&faulty), condition(&faulty, "Migrated")), (Some(remembered), Some(&others)));
    }
}
