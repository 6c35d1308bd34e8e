//! Golden plans of `host-device`.

use serde_json::json;

use super::*;
use crate::plan::{DeviceLink, DeviceQuery, FoundDevice};

fn call(conf: Value) -> Call {
    let device = DeviceLink {
        name: "enp0s4".to_owned(),
        hardware: Some("02:00:00:00:00:04".to_owned()),
        mac: Some(Mac([2, 0, 0, 0, 0, 4])),
        mtu: 9000,
        physical: true,
        ..DeviceLink::default()
    };
    let mut call = Call::new("host-device", conf);
    call.observed.device = Some(FoundDevice::Link(device));
    call
}

fn query(conf: Value) -> DeviceQuery {
    match find("host-device").unwrap().needs(&Object::from_value(conf).unwrap(), None).unwrap().remove(0) {
        Need::Device(query) => query,
        other => panic!("{other:?}"),
    }
}

#[test]
fn layer_2() {
    let call = call(json!({"device": "enp0s4", "dns": {"search": ["a"]}}));
    assert_eq!(
        call.ops(),
        json!([
            {"op": "take-device", "name": "eth0", "device": "enp0s4", "hardware": "02:00:00:00:00:04",
             "mac": "02:00:00:00:00:04", "mtu": 9000, "alias": null, "physical": true, "kind": "", "host_index": 0},
            {"op": "link-up", "link": {"side": "container", "name": "eth0"}},
        ])
    );
    assert_eq!(call.lines()[0], "move enp0s4 into the container as eth0");
    let result = call.plan().unwrap().result;
    assert_eq!((result.interfaces, result.unmanaged), (vec![LinkRef::container("eth0")], false));
    assert_eq!(result.dns, Dns::default());
}

#[test]
fn layer_3() {
    let call = call(json!({"device": "enp0s4", "dns": {"search": ["a"]}, "ipam": {"type": "x"}}))
        .with_addresses(&[("10.0.0.2/24", Some("10.0.0.1"))], &[("0.0.0.0/0", None)]);
    assert_eq!(
        call.lines(),
        [
            "move enp0s4 into the container as eth0",
            "set net/ipv4/conf/eth0/arp_notify=1 in the container",
            "set net/ipv6/conf/eth0/ndisc_notify=1 in the container",
            "add address 10.0.0.2/24 to eth0 (in the container)",
            "bring eth0 (in the container) up",
            "add route to 0.0.0.0/0 via 10.0.0.1 on eth0 (in the container)",
        ]
    );
    let result = call.plan().unwrap().result;
    assert_eq!((result.dns.search, result.ips[0].interface), (vec!["a".to_owned()], Some(0)));
}

#[test]
fn a_device_of_user_space_only_gets_addresses() {
    let mut call = call(json!({"pciBusID": "0000:00:06.0"})).with_addresses(&[("10.0.0.2/24", None)], &[]);
    call.observed.device = Some(FoundDevice::UserSpace);
    let plan = call.plan().unwrap();
    assert!(plan.ops.is_empty() && plan.result.unmanaged);
    assert_eq!((plan.result.interfaces.len(), plan.result.ips.len()), (1, 1));
    call.addressing = None;
    let plan = call.plan().unwrap();
    assert!(plan.ops.is_empty() && plan.result.unmanaged && plan.result.ips.is_empty());
}

#[test]
fn a_missing_device_has_the_callers_error_text() {
    let mut call = call(json!({"device": "nope"}));
    call.observed.device = Some(FoundDevice::Missing("failed to find host device: Link not found".to_owned()));
    assert_eq!(call.error(), "failed to find host device: Link not found");
    call.observed.device = None;
    assert_eq!(call.error(), "failed to find host device: failed to find physical interface");
}

#[test]
fn one_key_must_say_which() {
    let text = "specify either \"device\", \"hwaddr\", \"kernelpath\" or \"pciBusID\"";
    for conf in [json!({}), json!({"device": "", "pciBusID": null}), json!({"DPDKMode": true})] {
        assert_eq!(call(conf).error(), text);
    }
    assert_eq!(query(json!({"device": "a"})).name.as_deref(), Some("a"));
    assert_eq!(query(json!({"pciBusID": "p"})).pci.as_deref(), Some("p"));
    assert_eq!(query(json!({"runtimeConfig": {"deviceID": "i"}})).id.as_deref(), Some("i"));
    assert!(query(json!({"device": "a", "dpdkmode": true})).user_space);
    let path = "/sys/devices/pci0000:00/0000:00:19.0";
    assert_eq!(query(json!({"kernelpath": path})).kernel_path.as_deref(), Some(path));
}

#[test]
fn hardware_addresses_are_read_as_go_reads_them() {
    let hardware = |text: &str| query(json!({"hwaddr": text})).hardware.unwrap();
    for text in ["02:00:00:00:00:aF", "02-00-00-00-00-AF", "0200.0000.00af"] {
        assert_eq!(hardware(text), [2, 0, 0, 0, 0, 0xaf], "{text}");
    }
    assert_eq!(hardware("02:00:00:00:00:00:00:01").len(), 8);
    let infiniband = ["00"; 20].join(":");
    assert_eq!(hardware(&infiniband).len(), 20);
    for text in ["02:00:00:00:00", "2:0:0:0:0:1", "02:00:00:00:00:0g", "0200000000af", "02:00-00:00:00:01", "x"] {
        let want = format!(
            "failed to find host device: failed to parse MAC address {text:?}: address {text}: invalid MAC address"
        );
        assert_eq!(call(json!({"hwaddr": text})).error(), want);
        assert!(query(json!({"device": "a", "hwaddr": text})).hardware.is_none(), "not looked at");
    }
}

#[test]
fn kernel_paths_are_below_sys_devices() {
    for path in ["/sys/class/net/eth0", "sys/devices/x", "/sys/devices/../class"] {
        let text = format!(
            "failed to find host device: kernel device path {path:?} must be absolute and begin with /sys/devices/"
        );
        assert_eq!(call(json!({"kernelpath": path})).error(), text);
    }
}
