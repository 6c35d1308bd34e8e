//! R23 to R26: the status annotation.

use serde_json::{Value, json};

use crate::attach::Notice;
use crate::cni::{CniError, CniResult, Version};
use crate::pod::status::failure_events;
use crate::pod::{Attached, added_event, status_text};

fn result(value: Value) -> CniResult {
    CniResult::from_json(&value, Version::V1_0_0).unwrap()
}

fn entry(value: Value) -> Value {
    let result = result(value);
    let attached =
        Attached { label: "default/a", ifname: "net1", is_default: false, result: &result, device_info: None };
    let list: Value = serde_json::from_str(&status_text(&[attached])).unwrap();
    list[0].clone()
}

#[test]
fn r23_r25_the_text_is_that_of_multus() {
    let first = result(json!({
        "interfaces": [{"mac": "02:00:00:00:00:01", "name": "eth0", "sandbox": "/n"}],
        "ips": [{"address": "10.77.0.1/24", "interface": 0}]}));
    let second = result(json!({"interfaces": [{"name": "net1", "mac": "02:AA:BB:00:00:01", "sandbox": "/n"}]}));
    let text = status_text(&[
        Attached { label: "default-net", ifname: "eth0", is_default: true, result: &first, device_info: None },
        Attached { label: "default/a", ifname: "net1", is_default: false, result: &second, device_info: None },
    ]);
    assert_eq!(
        text,
        "[{\n    \"name\": \"default-net\",\n    \"interface\": \"eth0\",\n    \"ips\": [\n        \"10.77.0.1\"\n    ],\n    \
         \"mac\": \"02:00:00:00:00:01\",\n    \"default\": true,\n    \"dns\": {}\n},{\n    \"name\": \"default/a\",\n    \
         \"interface\": \"net1\",\n    \"mac\": \"02:AA:BB:00:00:01\",\n    \"dns\": {}\n}]"
    );
}

#[test]
fn r24_interface_and_addresses_are_those_of_the_first_in_the_sandbox() {
    let two = entry(json!({
        "interfaces": [{"name": "veth1"}, {"name": "net1", "mac": "m", "sandbox": "/n"}, {"name": "net1b", "sandbox": "/n"}],
        "ips": [{"address": "10.5.0.1/24", "interface": 1}, {"address": "10.5.0.2/24", "interface": 0},
                {"address": "10.5.0.3/24", "interface": 2}, {"address": "10.5.0.4/24"}]}));
    assert_eq!(
        two,
        json!({"name": "default/a", "interface": "net1", "ips": ["10.5.0.1", "10.5.0.4"], "mac": "m", "dns": {}})
    );
    let misindexed = entry(json!({
        "interfaces": [{"name": "net1", "sandbox": "/n"}], "ips": [{"address": "10.5.0.1/24", "interface": 5}]}));
    assert_eq!(misindexed["ips"], json!(["10.5.0.1"]));
    let outside =
        entry(json!({"interfaces": [{"name": "veth9"}], "ips": [{"address": "10.5.0.1/24", "interface": 0}]}));
    assert_eq!(outside, json!({"name": "default/a", "interface": "net1", "ips": ["10.5.0.1"], "dns": {}}));
    assert_eq!(entry(json!({})), json!({"name": "default/a", "interface": "net1", "dns": {}}));
    let forms = entry(json!({"ips": [{"address": "fd05:0::1/64"}, {"address": "::ffff:10.5.0.3/120"}]}));
    assert_eq!(forms["ips"], json!(["fd05::1", "10.5.0.3"]));
}

#[test]
fn r25_dns_mtu_and_gateways() {
    let full = entry(json!({
        "interfaces": [{"name": "net1", "sandbox": "/n", "mtu": 9000}],
        "routes": [{"dst": "0.0.0.0/0", "gw": "10.5.0.254"}, {"dst": "::/0", "gw": "fd05::ff"},
                   {"dst": "0.0.0.0/0"}, {"dst": "10.6.0.0/16", "gw": "10.5.0.253"}],
        "dns": {"nameservers": ["192.0.2.53"], "domain": "example.com", "search": ["a"], "options": ["x"]}}));
    assert_eq!(
        full,
        json!({"name": "default/a", "interface": "net1", "mtu": 9000,
               "dns": {"nameservers": ["192.0.2.53"], "domain": "example.com", "search": ["a"], "options": ["x"]},
               "gateway": ["10.5.0.254", "fd05::ff"]})
    );
}

#[test]
fn r26_device_info_is_shown() {
    let result = CniResult::default();
    let info = json!({"type": "pci", "version": "1.1.0", "pci": {"pci-address": "0000:03:02.3"}});
    let attached = Attached {
        label: "default/a",
        ifname: "net1",
        is_default: false,
        result: &result,
        device_info: Some(info.clone()),
    };
    let list: Value = serde_json::from_str(&status_text(&[attached])).unwrap();
    assert_eq!(list[0]["device-info"], info);
}

#[test]
fn events_say_why_an_add_failed() {
    let cause = CniError::new(100, "[team/p/u:team/a]: no rule matches");
    let events = |notices: Vec<Notice>| -> Vec<(String, String)> {
        let events = failure_events(notices, &cause).into_iter();
        events.map(|event| (event.reason, event.message)).collect()
    };
    let why = cause.to_string();
    assert_eq!(events(vec![]), [("NetworkAttachFailed".to_owned(), why.clone())]);
    assert_eq!(events(vec![Notice::Denied]), [("PolicyDenied".to_owned(), why.clone())]);
    let conflict = || Notice::Conflict("02:00:00:00:00:01 answers for 10.0.0.2".to_owned());
    assert_eq!(
        events(vec![conflict(), Notice::Exhausted]),
        [
            ("AddressConflict".to_owned(), "02:00:00:00:00:01 answers for 10.0.0.2".to_owned()),
            ("PoolExhausted".to_owned(), why)
        ]
    );
}

#[test]
fn events_have_the_words_of_multus() {
    let result = result(json!({
        "interfaces": [{"name": "net1", "sandbox": "/n"}],
        "ips": [{"address": "10.5.0.1/24"}, {"address": "fd05::1/64"}, {"address": "::ffff:10.5.0.3/120"}]}));
    let attached =
        Attached { label: "default/a", ifname: "net1", is_default: false, result: &result, device_info: None };
    let event = added_event(&attached);
    assert_eq!(
        (event.reason.as_str(), event.message.as_str()),
        ("AddedInterface", "Add net1 [10.5.0.1/24 fd05::1/64 10.5.0.3/24] from default/a")
    );
}
