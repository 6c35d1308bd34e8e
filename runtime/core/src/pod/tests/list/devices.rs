//! R20, R36: devices of kubelet and of the annotation.

use std::path::Path;

use serde_json::json;

use super::{Case, confs};

#[test]
fn r36_devices_are_sorted_and_taken_in_order() {
    let conf = json!({"name": "a", "type": "bridge", "capabilities": {"deviceID": true, "CNIDeviceInfoFile": true}});
    let case = Case::new(r#"[{"name": "a", "deviceID": "x"}, {"name": "a"}, {"name": "a"}]"#)
        .nad("default/a", conf)
        .resource("default/a", "vendor.com/nic", &["0000:03:02.1", "0000:03:02.0"]);
    let list = case.list();
    for (index, device) in [(1, "0000:03:02.0"), (2, "0000:03:02.1")] {
        let conf = confs(&list[index]).remove(0);
        assert_eq!((&conf["deviceID"], &conf["pciBusID"]), (&json!(device), &json!(device)));
        let file = format!("/var/run/k8s.cni.cncf.io/devinfo/cni/default-a-c1_net{index}");
        assert_eq!(conf["runtimeConfig"], json!({"deviceID": device, "CNIDeviceInfoFile": file}));
    }
    // None is left: it runs without one.
    assert_eq!(confs(&list[3])[0].get("deviceID"), None);
    assert_eq!(
        list[1].device_info.as_ref().unwrap().device_plugin.as_deref(),
        Some(Path::new("/var/run/k8s.cni.cncf.io/devinfo/dp/vendor.com-nic-0000:03:02.0-device.json"))
    );
    let mut fault = case;
    fault.facts.devices_fault = Some("no socket".to_owned());
    assert!(fault.error().contains("cannot read the devices of resource \"vendor.com/nic\": no socket"));
}

#[test]
fn r20_a_device_of_the_annotation_is_a_capability_only() {
    let conf = json!({"name": "a", "type": "bridge", "capabilities": {"deviceID": true}});
    let case = Case::new(r#"[{"name": "a", "deviceID": "0000:03:02.3"}]"#).nad("default/a", conf);
    let conf = case.second().remove(0);
    assert_eq!(conf["runtimeConfig"], json!({"deviceID": "0000:03:02.3"}));
    assert_eq!(conf.get("deviceID"), None);
}

#[test]
fn a_device_of_the_annotation_does_not_replace_one_of_kubelet() {
    let conf = json!({"name": "a", "type": "bridge", "capabilities": {"deviceID": true, "CNIDeviceInfoFile": true}});
    let case = Case::new(r#"[{"name": "a", "deviceID": "0000:03:02.1"}]"#).nad("default/a", conf).resource(
        "default/a",
        "vendor.com/nic",
        &[],
    );
    let (list, warnings) = case.build().unwrap();
    let conf = confs(&list[1]).remove(0);
    for key in ["deviceID", "pciBusID", "runtimeConfig"] {
        assert_eq!(conf.get(key), None, "{key}");
    }
    assert_eq!(list[1].device_info, None);
    assert!(
        warnings.len() == 1 && warnings[0].contains("\"0000:03:02.1\" of the annotation is ignored"),
        "{warnings:?}"
    );
    // The device that kubelet gave wins, as with Multus.
    let case = case.resource("default/a", "vendor.com/nic", &["0000:03:02.0"]);
    let (list, warnings) = case.build().unwrap();
    assert_eq!(confs(&list[1])[0]["deviceID"], "0000:03:02.0");
    assert!(warnings.is_empty(), "{warnings:?}");
}
