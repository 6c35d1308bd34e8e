//! Documents of every version, byte for byte, and round trips.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use serde_json::{Value, json};
use weft_host_abi::types::{Dns, Route};

use super::*;
use crate::cni::Version;

fn sample() -> CniResult {
    let net = |text: &str| text.parse().unwrap();
    let addr = |text: &str| text.parse().unwrap();
    CniResult {
        interfaces: vec![
            Interface { name: "cni0".to_owned(), mac: Some("02:00:00:00:00:01".to_owned()), ..Interface::default() },
            Interface {
                name: "eth0".to_owned(),
                mac: Some("02:00:00:00:00:02".to_owned()),
                mtu: Some(1400),
                sandbox: Some("/run/netns/x".to_owned()),
                socket_path: Some("/run/s".to_owned()),
                pci_id: Some("0000:00:01.0".to_owned()),
            },
        ],
        ips: vec![
            Ip { address: net("10.0.0.2/24"), gateway: Some(addr("10.0.0.1")), interface: Some(1) },
            Ip { address: net("10.0.1.2/24"), gateway: None, interface: Some(1) },
            Ip { address: net("fd00::2/64"), gateway: Some(addr("fd00::1")), interface: None },
        ],
        routes: vec![
            Route { priority: Some(10), table: Some(0), ..Route::new(net("0.0.0.0/0"), Some(addr("10.0.0.1"))) },
            Route { mtu: Some(1400), advmss: Some(1300), scope: Some(253), ..Route::new(net("fd01::/64"), None) },
        ],
        dns: Dns { nameservers: vec!["10.0.0.53".to_owned()], domain: Some("d".to_owned()), ..Dns::default() },
    }
}

#[test]
fn version_0_2_has_one_address_per_family() {
    let want = r#"{
    "cniVersion": "0.2.0",
    "ip4": {
        "ip": "10.0.0.2/24",
        "gateway": "10.0.0.1",
        "routes": [
            {
                "dst": "0.0.0.0/0",
                "gw": "10.0.0.1"
            }
        ]
    },
    "ip6": {
        "ip": "fd00::2/64",
        "gateway": "fd00::1",
        "routes": [
            {
                "dst": "fd01::/64"
            }
        ]
    },
    "dns": {
        "nameservers": [
            "10.0.0.53"
        ],
        "domain": "d"
    }
}"#;
    assert_eq!(sample().to_json(Version::V0_2_0).unwrap(), want);
}

#[test]
fn version_0_4_keeps_the_order_and_always_has_dns() {
    let mut result = sample();
    result.dns = Dns::default();
    let want = r#"{
    "cniVersion": "0.4.0",
    "interfaces": [
        {
            "name": "cni0",
            "mac": "02:00:00:00:00:01"
        },
        {
            "name": "eth0",
            "mac": "02:00:00:00:00:02",
            "sandbox": "/run/netns/x"
        }
    ],
    "ips": [
        {
            "version": "4",
            "interface": 1,
            "address": "10.0.0.2/24",
            "gateway": "10.0.0.1"
        },
        {
            "version": "4",
            "interface": 1,
            "address": "10.0.1.2/24"
        },
        {
            "version": "6",
            "address": "fd00::2/64",
            "gateway": "fd00::1"
        }
    ],
    "routes": [
        {
            "dst": "0.0.0.0/0",
            "gw": "10.0.0.1",
            "priority": 10,
            "table": 0
        },
        {
            "dst": "fd01::/64",
            "mtu": 1400,
            "advmss": 1300,
            "scope": 253
        }
    ],
    "dns": {}
}"#;
    assert_eq!(result.to_json(Version::V0_4_0).unwrap(), want);
}

#[test]
fn version_1_sorts_keys_and_leaves_empty_dns_out() {
    let mut result = sample();
    result.ips.truncate(1);
    result.routes.truncate(1);
    result.interfaces.remove(0);
    let want = r#"{
    "cniVersion": "1.0.0",
    "dns": {
        "domain": "d",
        "nameservers": [
            "10.0.0.53"
        ]
    },
    "interfaces": [
        {
            "mac": "02:00:00:00:00:02",
            "mtu": 1400,
            "name": "eth0",
            "pciID": "0000:00:01.0",
            "sandbox": "/run/netns/x",
            "socketPath": "/run/s"
        }
    ],
    "ips": [
        {
            "address": "10.0.0.2/24",
            "gateway": "10.0.0.1",
            "interface": 1
        }
    ],
    "routes": [
        {
            "dst": "0.0.0.0/0",
            "gw": "10.0.0.1",
            "priority": 10,
            "table": 0
        }
    ]
}"#;
    assert_eq!(result.to_json(Version::V1_0_0).unwrap(), want);
    assert_eq!(CniResult::default().to_json(Version::V1_1_0).unwrap(), "{\n    \"cniVersion\": \"1.1.0\"\n}");
}

#[test]
fn old_versions_have_no_result_without_an_address() {
    let empty = CniResult::default();
    for version in [Version::V0_1_0, Version::V0_2_0] {
        assert_eq!(empty.to_json(version).unwrap_err().msg, "cannot convert: no valid IP addresses");
    }
    assert!(empty.to_json(Version::V0_3_0).is_ok());
}

#[test]
fn every_version_reads_what_it_writes() {
    let full = sample();
    let read = |version| CniResult::from_json(&full.to_value(version).unwrap(), Version::V0_1_0).unwrap();
    assert_eq!(read(Version::V1_1_0), full);
    assert_eq!(read(Version::V1_0_0), full);
    let mut without = full.clone();
    without.interfaces[1].mtu = None;
    without.interfaces[1].socket_path = None;
    without.interfaces[1].pci_id = None;
    assert_eq!(read(Version::V0_4_0), without);
    let single = read(Version::V0_1_0);
    assert_eq!(single.ips.len(), 2);
    assert_eq!(single.routes.len(), 2);
    assert!(single.interfaces.is_empty());
}

#[test]
fn a_result_without_a_version_has_the_fallback() {
    let value = json!({"ip4": {"ip": "10.0.0.2/24", "routes": [{"dst": "0.0.0.0/0"}]}});
    assert_eq!(CniResult::from_json(&value, Version::V0_2_0).unwrap().ips.len(), 1);
    assert!(CniResult::from_json(&value, Version::V1_0_0).unwrap().ips.is_empty());
    assert_eq!(CniResult::from_json(&Value::Null, Version::V1_1_0).unwrap(), CniResult::default());
}

#[test]
fn wrong_results_are_refused_by_name() {
    let error = |value: Value| CniResult::from_json(&value, Version::V1_1_0).unwrap_err();
    assert_eq!(error(json!({"cniVersion": "3.0.0"})).msg, "unsupported CNI result version \"3.0.0\"");
    assert_eq!(error(json!({"cniVersion": "3.0.0"})).code, 1);
    let bad = error(json!({"ips": [{"address": "10.0.0.2"}]}));
    assert_eq!(bad.code, 6);
    assert_eq!(
        bad.msg,
        "error decoding result: json: cannot unmarshal string \"10.0.0.2\" into field ips[0].address of type CIDR address"
    );
    assert!(error(json!({"ips": [{"address": "10.0.0.2/24", "interface": "x"}]})).msg.contains("interface"));
    assert!(error(json!({"routes": [{"dst": "0.0.0.0/0", "gw": "x"}]})).msg.contains("routes[0].gw"));
    assert!(error(json!([])).msg.contains("array"));
}

#[test]
fn dns_is_set_as_soon_as_a_list_is_there() {
    let read = |value: Value| read_dns(&crate::cni::Object::from_value(value).unwrap()).unwrap();
    assert_eq!(read(json!({})), None);
    assert_eq!(read(json!({"dns": {}})), None);
    assert_eq!(read(json!({"dns": {"domain": "", "search": null}})), None);
    assert_eq!(read(json!({"dns": {"search": []}})), Some(Dns::default()));
    assert_eq!(read(json!({"dns": {"domain": "x"}})).unwrap().domain.as_deref(), Some("x"));
}

/// `ips[].interface` is an `int` in Go, and every stock plugin decodes -1.
#[test]
fn a_negative_interface_counts_as_absent() {
    let value = json!({ "cniVersion": "1.0.0", "ips": [{ "address": "10.0.0.2/24", "interface": -1 }] });
    let read = CniResult::from_json(&value, Version::CURRENT).unwrap();
    assert_eq!(read.ips[0].interface, None);
    let value = json!({ "cniVersion": "1.0.0", "ips": [{ "address": "010.0.0.2/24" }] });
    assert!(CniResult::from_json(&value, Version::CURRENT).is_err(), "leading zeros");
}
