//! The service `pod`: what an ADD needs to know about its pod, its networks and its devices.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use weft_core::agent::pod::{Definition, PodReply};

use super::{LONG, NODE, Place};

fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

#[test]
fn one_round_trip_has_everything_an_add_needs() {
    let place = Place::new();
    place.nad("main", "{\"main\": 1}", json!({}));
    place.nad("a", "{}", json!({"k8s.v1.cni.cncf.io/resourceName": "v/nic"}));
    place.pod("web", "u1", json!({"k8s.v1.cni.cncf.io/networks": "a, missing"}));
    let checkpoint = place.dir.path().join("kubelet/device-plugins");
    std::fs::create_dir_all(&checkpoint).unwrap();
    let entries = json!([{"PodUID": "u1", "ResourceName": "v/nic", "DeviceIDs": {"0": ["2", "1"]}}, {"PodUID": "u1", "ResourceName": "v/gpu", "DeviceIDs": {"0": ["9"]}}]);
    std::fs::write(
        checkpoint.join("kubelet_internal_checkpoint"),
        json!({"Data": {"PodDeviceEntries": entries}}).to_string(),
    )
    .unwrap();
    let info = place.info("web", "u1");
    assert_eq!((info.uid.as_str(), info.node.as_str()), ("u1", NODE));
    assert_eq!(info.labels, labels(&[("app", "web")]));
    assert_eq!(info.namespace_labels, labels(&[("tier", "gold")]));
    assert_eq!(info.node_labels, labels(&[("zone", "a")]));
    assert_eq!(info.networks.keys().collect::<Vec<_>>(), ["team/a", "team/main", "team/missing"]);
    assert!(
        matches!(&info.networks["team/main"], Definition::Found { config: Some(text), .. } if text == "{\"main\": 1}")
    );
    assert_eq!(info.networks["team/missing"], Definition::NotFound);
    assert_eq!(info.devices, BTreeMap::from([("v/nic".to_owned(), vec!["1".to_owned(), "2".to_owned()])]));
    assert_eq!(info.devices_fault, None);
}

#[test]
#[allow(clippy::too_many_lines, reason = "objects of the API server, written out")]
fn devices_of_resource_claims_are_those_that_their_driver_marked() {
    let place = Place::new();
    place.nad("main", "{}", json!({}));
    place.nad("a", "{}", json!({"k8s.v1.cni.cncf.io/resourceName": "v/nic"}));
    let checkpoint = place.dir.path().join("kubelet/device-plugins");
    std::fs::create_dir_all(&checkpoint).unwrap();
    std::fs::write(checkpoint.join("kubelet_internal_checkpoint"), json!({"Data": {}}).to_string()).unwrap();
    let slice = |name: &str, generation: i64, id: &str| {
        let marks =
            json!({"k8s.cni.cncf.io/deviceID": {"string": id}, "k8s.cni.cncf.io/resourceName": {"string": "v/nic"}});
        place.api.put_object(
            "resourceslices",
            json!({
                "metadata": {"name": name},
                "spec": {
                    "driver": "d", "pool": {"name": "p", "generation": generation, "resourceSliceCount": 1},
                    "devices": [{"name": "marked", "attributes": marks}, {"name": "gpu"}],
                },
            }),
        );
    };
    slice("old", 1, "of-an-older-generation");
    slice("new", 2, "0000:05:00.1");
    let claim = |name: &str, devices: &[&str]| {
        let result = |device: &&str| json!({"request": "r", "driver": "d", "pool": "p", "device": device});
        let results: Vec<Value> = devices.iter().map(result).collect();
        place.api.put_object(
            "resourceclaims",
            json!({
                "metadata": {"namespace": "team", "name": name}, "spec": {},
                "status": {"allocation": {"devices": {"results": results}}},
            }),
        );
    };
    let pod = |spec: Value, status: Value| {
        let mut spec = spec;
        spec["nodeName"] = json!(NODE);
        spec["containers"] = json!([]);
        let annotations = json!({"k8s.v1.cni.cncf.io/networks": "a"});
        place.api.put_object(
            "pods",
            json!({
                "metadata": {"namespace": "team", "name": "web", "uid": "u1", "annotations": annotations},
                "spec": spec, "status": status,
            }),
        );
    };
    // One made from a template, and one named by the pod itself.
    for (spec, status) in [
        (json!({"name": "x", "resourceClaimTemplateName": "t"}), json!([{"name": "x", "resourceClaimName": "c"}])),
        (json!({"name": "x", "resourceClaimName": "c"}), json!([])),
    ] {
        pod(json!({"resourceClaims": [spec]}), json!({"resourceClaimStatuses": status}));
        claim("c", &["marked", "gpu"]);
        let info = place.info("web", "u1");
        assert_eq!(info.devices_fault, None);
        assert_eq!(info.devices, BTreeMap::from([("v/nic".to_owned(), vec!["0000:05:00.1".to_owned()])]));
    }
    claim("c", &["unheard-of"]);
    let fault = place.info("web", "u1").devices_fault.unwrap();
    assert!(fault.contains("\"unheard-of\"") && fault.contains("ResourceSlice"), "{fault}");
    // For an extended resource, every device must have the attributes.
    let mapping = json!({"containerName": "m", "requestName": "r", "resourceName": "v/nic"});
    pod(json!({}), json!({"extendedResourceClaimStatus": {"resourceClaimName": "c", "requestMappings": [mapping]}}));
    claim("c", &["marked"]);
    assert_eq!(place.info("web", "u1").devices["v/nic"], ["0000:05:00.1"]);
    claim("c", &["gpu"]);
    let fault = place.info("web", "u1").devices_fault.unwrap();
    assert!(fault.contains("\"gpu\"") && fault.contains("v/nic"), "{fault}");
}

#[test]
fn a_pod_is_known_by_its_uid_and_read_live_otherwise() {
    let place = Place::new();
    assert_eq!(place.query("web", "u1", LONG).unwrap(), PodReply::NotFound);
    place.pod("web", "u1", json!({}));
    assert_eq!(place.info("web", "u1").uid, "u1");
    // Deleted and recreated under the same name: the caller asks with the new uid at once.
    place.api.delete("pods", "team/web");
    place.pod("web", "u2", json!({}));
    assert_eq!(place.info("web", "u2").uid, "u2");
    // A runtime that still sends the old uid learns that the pod is another one now.
    assert_eq!(place.info("web", "u1").uid, "u2");
    // A static pod: the runtime has the hash of its file, the API the uid of its mirror.
    place.pod("static", "mirror", json!({"kubernetes.io/config.hash": "hash"}));
    assert_eq!(place.info("static", "hash").uid, "hash");
}

/// Without a uid, the copy may still have the pod of that name that was deleted.
#[test]
fn a_pod_without_a_uid_is_read_live() {
    let place = Place::new();
    place.nad("main", "{}", json!({}));
    place.pod("web", "u1", json!({}));
    place.wait_for_copy("web", "u1");
    place.info("web", "");
    assert!(place.api.state().asked.contains(&("get".to_owned(), "pods".to_owned())));
}
