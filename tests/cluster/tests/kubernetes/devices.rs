//! Devices: kubelet assigns them to pods, the agent asks kubelet, and plugins get them.

use std::collections::BTreeSet;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use weft_cluster::fake;
use weft_cluster::kube::Cluster;

use super::{definition, on_node, pod, running};

const RESOURCE: &str = "weft.test/nic";
const DEVICES: [&str; 2] = ["0000:03:02.0", "0000:03:02.1"];

/// R36: a definition with a `resourceName` gets the pod's device from kubelet, as `deviceID` and `pciBusID` in the
/// plugin's configuration; two pods get two devices.
pub(super) fn of_a_device_plugin(cluster: &mut Cluster) -> Result<()> {
    let node = cluster.nodes().first().context("no nodes")?;
    let plugin = PathBuf::from(env!("CARGO_BIN_EXE_weft-cluster-fake"));
    fake::install(&plugin, &node.file("/opt/cni/bin"), &["fake"])?;
    let _offered = node.offer_devices(RESOURCE, &DEVICES)?;
    let mut nic = definition("nic", Some(&json!({"cniVersion": "1.0.0", "name": "nic", "type": "fake"})));
    nic["metadata"]["annotations"] = json!({"k8s.v1.cni.cncf.io/resourceName": RESOURCE});
    let with_device = |name: &str| {
        let mut pod = on_node(node, pod(name, "nic", &json!({})));
        let one = json!({(RESOURCE): "1"});
        pod["spec"]["containers"][0]["resources"] = json!({"limits": one, "requests": one});
        pod
    };
    super::wait_for_devices(cluster, node, RESOURCE, DEVICES.len())?;
    cluster.kubectl().apply(&[nic, with_device("nic-1"), with_device("nic-2")])?;
    running(cluster, 2)?;
    let mut given = BTreeSet::new();
    for call in fake::calls()?.iter().filter(|call| call.env("CNI_COMMAND") == "ADD") {
        let id = call.stdin["deviceID"].as_str().unwrap_or_default();
        ensure!(DEVICES.contains(&id), "{:#}", call.stdin);
        for pointer in ["/pciBusID", "/runtimeConfig/deviceID"] {
            let given = call.stdin.pointer(pointer);
            let is_told =
                if pointer == "/pciBusID" { given == Some(&json!(id)) } else { given.is_none_or(|given| given == id) };
            ensure!(is_told, "{pointer}: {:#}", call.stdin);
        }
        given.insert(id.to_owned());
    }
    ensure!(given.len() == DEVICES.len(), "two pods, and these devices: {given:?}");
    let status: Vec<Value> = cluster.kubectl().list("pods", "default")?;
    ensure!(status.len() == 2, "{} pods", status.len());
    Ok(())
}

const DRIVER: &str = "nics.weft.test";

/// R37: devices of a resource claim that Kubernetes has allocated, by the attributes from their driver. A device of the
/// same claim without them, here a GPU, is not a network device.
pub(super) fn of_a_resource_claim(cluster: &mut Cluster) -> Result<()> {
    let node = cluster.nodes().first().context("no nodes")?;
    let plugin = PathBuf::from(env!("CARGO_BIN_EXE_weft-cluster-fake"));
    fake::install(&plugin, &node.file("/opt/cni/bin"), &["fake"])?;
    let _driver = node.drive_claims(DRIVER)?;
    let mut nic = definition("claimed", Some(&json!({"cniVersion": "1.0.0", "name": "claimed", "type": "fake"})));
    nic["metadata"]["annotations"] = json!({"k8s.v1.cni.cncf.io/resourceName": "weft.test/claimed"});
    let attributes = json!({
        "k8s.cni.cncf.io/deviceID": {"string": "0000:05:00.1"},
        "k8s.cni.cncf.io/resourceName": {"string": "weft.test/claimed"},
    });
    let slice = json!({
        "apiVersion": "resource.k8s.io/v1", "kind": "ResourceSlice", "metadata": {"name": "nics"},
        "spec": {
            "driver": DRIVER, "nodeName": node.name(),
            "pool": {"name": node.name(), "generation": 1, "resourceSliceCount": 1},
            "devices": [{"name": "nic", "attributes": attributes}, {"name": "gpu"}],
        },
    });
    let any = json!({"cel": {"expression": format!("device.driver == '{DRIVER}'")}});
    let class = json!({"apiVersion": "resource.k8s.io/v1", "kind": "DeviceClass", "metadata": {"name": "nics"},
                       "spec": {"selectors": [any]}});
    let both = json!({"requests": [{"name": "both", "exactly": {"deviceClassName": "nics", "allocationMode": "All"}}]});
    let template = json!({
        "apiVersion": "resource.k8s.io/v1", "kind": "ResourceClaimTemplate",
        "metadata": {"name": "nics", "namespace": "default"}, "spec": {"spec": {"devices": both}},
    });
    let mut pod = pod("claims", "claimed", &json!({}));
    pod["spec"]["resourceClaims"] = json!([{"name": "nics", "resourceClaimTemplateName": "nics"}]);
    pod["spec"]["containers"][0]["resources"] = json!({"claims": [{"name": "nics"}]});
    cluster.kubectl().apply(&[nic, slice, class, template, pod])?;
    running(cluster, 1)?;
    let calls = fake::calls()?;
    let added = calls.iter().filter(|call| call.env("CNI_COMMAND") == "ADD" && call.stdin["name"] == "claimed");
    let given: Vec<&Value> = added.map(|call| &call.stdin["deviceID"]).collect();
    ensure!(given == [&json!("0000:05:00.1")], "devices: {given:?}");
    // Without the driver, kubelet cannot end the pod.
    cluster.kubectl().run(&["delete", "pod", "claims", "-n", "default", "--grace-period=1", "--wait=false"])?;
    super::no_pods(cluster)
}
