//! R36 and R37: devices that kubelet gave a pod, or a resource claim. The suite `kubernetes` has the same with a real
//! kubelet and real drivers.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use weft_cluster::api::{Api as _, Definition};
use weft_cluster::kube::NODE;
use weft_cluster::scene::{plugin_calls, rules};

use crate::{NETWORKS, Scene, put_definition};

/// The annotation of a definition with the resource whose devices its attachments get.
pub(crate) const RESOURCE_NAME: &str = "k8s.v1.cni.cncf.io/resourceName";
const NIC: &str = "weft.test/nic";

/// Gives the pod devices of a resource, as kubelet stores it.
pub(crate) fn give_devices(scene: &Scene, resource: &str, ids: &[&str]) -> Result<()> {
    let devices = json!([{"resource_name": resource, "device_ids": ids}]);
    let pod =
        json!({"namespace": scene.namespace, "name": scene.name, "containers": [{"name": "main", "devices": devices}]});
    scene.api.give_devices(&json!({"pod_resources": [pod]}))
}

/// Makes definitions of a resource.
fn define(scene: &Scene, name: &str, resource: &str) -> Result<()> {
    let config = json!({"cniVersion": "1.1.0", "name": name, "plugins": [
        {"type": "fake", "capabilities": {"deviceID": true}}, {"type": "fake-b"}]});
    put_definition(
        scene,
        Definition {
            namespace: scene.namespace.clone(),
            name: name.to_owned(),
            config: Some(config.to_string()),
            annotations: BTreeMap::from([(RESOURCE_NAME.to_owned(), resource.to_owned())]),
        },
    )
}

/// Returns the devices of ADD, by interface: `deviceID` of each plugin, on which its other keys agree.
fn given_devices() -> Result<BTreeMap<String, Vec<Value>>> {
    let mut given: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    for call in plugin_calls()?.iter().filter(|call| call.env("CNI_COMMAND") == "ADD" && call.stdin["name"] != "main") {
        let device = call.stdin.get("deviceID").cloned().unwrap_or_default();
        ensure!(call.stdin.get("pciBusID").cloned().unwrap_or_default() == device, "{:#}", call.stdin);
        let runtime = call.stdin.pointer("/runtimeConfig/deviceID").cloned().unwrap_or_default();
        let declares = call.kind == "fake";
        ensure!(runtime == if declares { device.clone() } else { Value::Null }, "{:#}", call.stdin);
        given.entry(call.env("CNI_IFNAME").to_owned()).or_default().push(device);
    }
    Ok(given)
}

/// R36: sorted, one per attachment in order, in every plugin's configuration and as a capability. An attachment for which
/// none is left has none. What the annotation names does not count beside a resource.
pub(crate) fn of_kubelet(mut scene: Scene) -> Result<()> {
    define(&scene, "nic", NIC)?;
    define(&scene, "other", "weft.test/other")?;
    scene
        .pod(r#"[{"name": "nic", "deviceID": "0000:ff:00.0"}, {"name": "other"}, {"name": "nic"}, {"name": "nic"}]"#)?;
    give_devices(&scene, NIC, &["0000:03:02.1", "0000:03:02.0"])?;
    scene.add()?;
    let both = |device: Value| vec![device.clone(), device];
    let want = BTreeMap::from([
        ("net1".to_owned(), both(json!("0000:03:02.0"))),
        ("net2".to_owned(), both(Value::Null)),
        ("net3".to_owned(), both(json!("0000:03:02.1"))),
        ("net4".to_owned(), both(Value::Null)),
    ]);
    ensure!(given_devices()? == want, "{:?}", given_devices()?);
    scene.run("DEL")?.expect_quiet()?;
    // Neither kubelet's socket nor its file can be read: the pod waits.
    std::fs::write("/var/lib/kubelet/device-plugins/kubelet_internal_checkpoint", "{ oops")?;
    rules(json!([]))?;
    let error = scene.run("ADD")?.error()?;
    let words = format!("cannot read the devices of resource {NIC:?}");
    ensure!(error.code == 11 && error.msg.contains(&words), "{error:?}");
    ensure!(plugin_calls()?.is_empty(), "{:?}", plugin_calls()?);
    scene.nothing_left()
}

const DRIVER: &str = "nics.weft.test";

/// Makes the slice of a driver's devices on the node: two NICs, and one device without the attributes.
fn slice(scene: &Scene) -> Result<()> {
    let nic = |name: &str, id: &str| {
        json!({"name": name, "attributes": {"k8s.cni.cncf.io/deviceID": {"string": id},
                                            "k8s.cni.cncf.io/resourceName": {"string": NIC}}})
    };
    let slice = json!({
        "metadata": {"name": format!("nics-{}", scene.namespace)},
        "spec": {
            "driver": DRIVER, "nodeName": NODE,
            "pool": {"name": scene.namespace, "generation": 1, "resourceSliceCount": 1},
            "devices": [nic("nic-b", "0000:05:00.2"), nic("nic-a", "0000:05:00.1"), {"name": "gpu"}],
        },
    });
    scene.api.rest().create("/apis/resource.k8s.io/v1/resourceslices", &slice).map(drop)
}

/// Makes a claim to which devices of the slice are allocated, each for its own request.
fn claim(scene: &Scene, name: &str, devices: &[&str]) -> Result<()> {
    let path = format!("/apis/resource.k8s.io/v1/namespaces/{}/resourceclaims", scene.namespace);
    let requests: Vec<Value> =
        devices.iter().map(|device| json!({"name": device, "exactly": {"deviceClassName": "nics"}})).collect();
    let claim = json!({"metadata": {"name": name}, "spec": {"devices": {"requests": requests}}});
    scene.api.rest().create(&path, &claim)?;
    let result =
        |device: &&str| json!({"request": device, "driver": DRIVER, "pool": scene.namespace, "device": device});
    let results: Vec<Value> = devices.iter().map(result).collect();
    let status = json!({"status": {"allocation": {"devices": {"results": results}}}});
    scene.api.rest().merge(&format!("{path}/{name}/status"), &status).map(drop)
}

/// Makes the pod with these networks, resources and claims, and with this in its status.
fn claiming_pod(scene: &mut Scene, networks: &str, (resources, claims): (Value, Value), status: &Value) -> Result<()> {
    let path = format!("/api/v1/namespaces/{}/pods", scene.namespace);
    let object = json!({
        "metadata": {"name": scene.name, "annotations": {(NETWORKS): networks}},
        "spec": {"nodeName": NODE, "containers": [{"name": "main", "image": "none", "resources": resources}],
                 "resourceClaims": claims},
    });
    let made = scene.api.rest().create(&path, &object)?;
    scene.uid = made.pointer("/metadata/uid").and_then(Value::as_str).context("a uid")?.to_owned();
    let answer = scene.api.rest().merge(&format!("{path}/{}/status", scene.name), &json!({"status": status}))?;
    let key = status.as_object().and_then(|status| status.keys().next()).context("a status")?;
    ensure!(answer["status"].get(key).is_some(), "this Kubernetes does not store {key}: {answer}");
    Ok(())
}

/// R37: devices with both attributes are the pod's, from claims of either kind; a device of the same claim without them is
/// no network device.
pub(crate) fn of_resource_claims(mut scene: Scene) -> Result<()> {
    define(&scene, "nic", NIC)?;
    slice(&scene)?;
    claim(&scene, "own", &["nic-b", "gpu"])?;
    claim(&scene, "made-of-it", &["nic-a"])?;
    let resources = json!({"claims": [{"name": "own"}, {"name": "made"}]});
    let claims = json!([{"name": "own", "resourceClaimName": "own"},
                        {"name": "made", "resourceClaimTemplateName": "template"}]);
    let status = json!({"resourceClaimStatuses": [{"name": "made", "resourceClaimName": "made-of-it"}]});
    claiming_pod(&mut scene, "nic, nic, nic", (resources, claims), &status)?;
    give_devices(&scene, NIC, &[])?;
    scene.add()?;
    let both = |device: Value| vec![device.clone(), device];
    let want = BTreeMap::from([
        ("net1".to_owned(), both(json!("0000:05:00.1"))),
        ("net2".to_owned(), both(json!("0000:05:00.2"))),
        ("net3".to_owned(), both(Value::Null)),
    ]);
    ensure!(given_devices()? == want, "{:?}", given_devices()?);
    scene.run("DEL")?.expect_quiet()?;
    scene.nothing_left()
}

/// R37: a device that stands for an extended resource, and has not both attributes, fails the pod.
pub(crate) fn of_extended_resources(mut scene: Scene) -> Result<()> {
    define(&scene, "nic", NIC)?;
    slice(&scene)?;
    claim(&scene, "extended", &["gpu"])?;
    let one = json!({(NIC): "1"});
    let mapping = json!({"containerName": "main", "resourceName": NIC, "requestName": "gpu"});
    let status =
        json!({"extendedResourceClaimStatus": {"resourceClaimName": "extended", "requestMappings": [mapping]}});
    claiming_pod(&mut scene, "nic", (json!({"limits": one, "requests": one}), json!([])), &status)?;
    give_devices(&scene, NIC, &[])?;
    let error = scene.run("ADD")?.error()?;
    let words = "stands for the extended resource \"weft.test/nic\"";
    ensure!(error.code == 11 && error.msg.contains(words), "{error:?}");
    ensure!(plugin_calls()?.is_empty(), "{:?}", plugin_calls()?);
    scene.nothing_left()
}
