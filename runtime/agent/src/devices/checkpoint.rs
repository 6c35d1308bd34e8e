//! kubelet's checkpoint of device plugins.
//!
//! <https://github.com/kubernetes/kubernetes/blob/v1.33.0/pkg/kubelet/cm/devicemanager/checkpoint/checkpoint.go>

use std::collections::BTreeMap;

use serde::Deserialize;

use super::{Ids, add, sort};

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Checkpoint {
    data: Data,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Data {
    #[serde(default)]
    pod_device_entries: Option<Vec<Entry>>,
}

#[derive(Deserialize)]
struct Entry {
    #[serde(rename = "PodUID")]
    pod_uid: String,
    #[serde(rename = "ResourceName")]
    resource_name: String,
    #[serde(rename = "DeviceIDs", default)]
    device_ids: DeviceIds,
}

/// By NUMA node; a plain list before Kubernetes 1.20.
#[derive(Deserialize)]
#[serde(untagged)]
#[derive(Default)]
enum DeviceIds {
    ByNode(BTreeMap<String, Option<Vec<String>>>),
    Plain(Vec<String>),
    #[default]
    None,
}

/// Returns the devices of the pod with one of these uids.
pub(super) fn of_pod(bytes: &[u8], uids: &[&str]) -> Result<Ids, serde_json::Error> {
    let checkpoint: Checkpoint = serde_json::from_slice(bytes)?;
    let mut ids = Ids::new();
    for entry in checkpoint.data.pod_device_entries.unwrap_or_default() {
        if entry.pod_uid.is_empty() || !uids.contains(&entry.pod_uid.as_str()) {
            continue;
        }
        match entry.device_ids {
            DeviceIds::ByNode(nodes) => add(&mut ids, entry.resource_name, nodes.into_values().flatten().flatten()),
            DeviceIds::Plain(list) => add(&mut ids, entry.resource_name, list),
            DeviceIds::None => {}
        }
    }
    sort(&mut ids);
    Ok(ids)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn both_forms_of_device_ids_are_read_and_sorted() {
        let text = br#"{"Data":{"PodDeviceEntries":[
            {"PodUID":"u1","ContainerName":"a","ResourceName":"v/nic","DeviceIDs":{"1":["0000:82:00.3"],"0":["0000:03:02.1","0000:03:02.0"]},"AllocResp":""},
            {"PodUID":"u1","ContainerName":"b","ResourceName":"v/nic","DeviceIDs":["0000:01:00.0"],"AllocResp":""},
            {"PodUID":"u1","ContainerName":"b","ResourceName":"v/none","DeviceIDs":null},
            {"PodUID":"u2","ContainerName":"a","ResourceName":"v/nic","DeviceIDs":{"-1":["other"]}}],
            "RegisteredDevices":{"v/nic":["x"]}},"Checksum":1}"#;
        let ids = of_pod(text, &["u1", ""]).unwrap();
        assert_eq!(
            ids,
            Ids::from([(
                "v/nic".to_owned(),
                ["0000:01:00.0", "0000:03:02.0", "0000:03:02.1", "0000:82:00.3"].map(str::to_owned).to_vec()
            )])
        );
        assert!(of_pod(text, &["", "u3"]).unwrap().is_empty());
        assert!(of_pod(br#"{"Data":{"PodDeviceEntries":null}}"#, &["u1"]).unwrap().is_empty());
        assert!(of_pod(b"{}", &["u1"]).is_err());
    }
}
