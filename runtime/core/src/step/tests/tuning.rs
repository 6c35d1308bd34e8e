//! Sysctls and attributes: their sources, their limits, and their restoration.

use std::path::PathBuf;

use serde_json::{Value, json};

use super::{Call, Mac, macvlan, veth};
use crate::plan::{DeviceLink, FoundDevice, LinkRef, Op};

fn tuning(conf: Value) -> Call {
    Call::new("tuning", &conf)
}

#[test]
fn sysctls_in_the_order_they_are_written() {
    let call = tuning(json!({"sysctl": {
        "net.core.somaxconn": "500", "net/ipv4/conf/IFNAME/arp_filter": "1", "net..ipv4//conf.all.log_martians": "0"
    }}));
    let op = |key: &str, value: &str| json!({"op": "tune-sysctl", "key": key, "value": value});
    assert_eq!(
        call.ops(),
        json!([
            op("core/somaxconn", "500"),
            op("ipv4/conf/eth0/arp_filter", "1"),
            op("ipv4/conf/all/log_martians", "0")
        ])
    );
    assert_eq!(call.plan().unwrap().mac, None);
}

#[test]
fn keys_outside_of_the_network_are_refused() {
    for (key, named) in [
        ("kernel.hostname", "kernel/hostname"),
        ("net", "net"),
        ("net.", "net/"),
        ("", ""),
        ("network.x", "network/x"),
        ("../net/x", "///net/x"),
    ] {
        // Two dots are two separators, which count as one.
        let call = tuning(json!({"sysctl": { key: "1" }}));
        if key == "../net/x" {
            assert_eq!(call.ops(), json!([{"op": "tune-sysctl", "key": "x", "value": "1"}]));
        } else {
            assert_eq!(call.error(), format!("invalid net sysctl key: {named:?}"));
        }
    }
}

#[test]
fn the_dots_of_an_interface_name_are_its_own() {
    let mut call = tuning(json!({"sysctl": {"net.ipv4.conf.IFNAME.rp_filter": "0", "net.IFNAME.IFNAME": "1"}}));
    assert_eq!(call.ops()[1]["key"], "eth0/IFNAME", "the first only");
    call = tuning(json!({"sysctl": {"net.ipv4.conf.IFNAME.rp_filter": 1}}));
    assert!(call.invalid().starts_with("failed to load netconf: json: cannot unmarshal"), "{}", call.invalid());
}

#[test]
fn a_key_may_be_written_once() {
    let call = tuning(json!({})).with_text(r#"{"sysctl": {"net.a": "1", "net.b": "1", "net.a": "1"}}"#);
    assert_eq!(call.invalid(), "duplicated sysctl keys are not allowed");
    let call =
        tuning(json!({})).with_text(r#"{"sysctl": {"net.a": "1"}, "args": {"cni": {"sysctl": {"net.a": "2"}}}}"#);
    assert_eq!(call.ops()[0]["value"], "2");
}

#[test]
fn every_attribute_and_what_it_was() {
    let call = tuning(json!({
        "mac": "c2:11:22:33:44:55", "promisc": true, "mtu": 1400, "allmulti": true, "txQLen": 0, "dataDir": "/x"
    }));
    assert_eq!(
        call.ops(),
        json!([
            {"op": "tune-link", "link": "eth0",
             "set": {"mac": "c2:11:22:33:44:55", "promiscuous": true, "mtu": 1400, "all_multicast": true, "tx_queue_length": 0},
             "before": {"mac": "02:00:00:00:00:01", "promiscuous": false, "mtu": 1500, "all_multicast": false,
                        "tx_queue_length": 1000}},
            {"op": "announce", "link": "eth0", "addresses": ["10.1.0.5", "fd01::5"]},
        ])
    );
    assert_eq!(call.plan().unwrap().mac, Some(Mac([0xc2, 0x11, 0x22, 0x33, 0x44, 0x55])));
}

#[test]
fn only_requested_attributes_are_set_and_remembered() {
    let call = tuning(json!({"allmulti": false, "promisc": false, "mtu": 0, "mac": ""}));
    assert_eq!(
        call.ops(),
        json!([{"op": "tune-link", "link": "eth0", "set": {"all_multicast": false}, "before": {"all_multicast": false}}])
    );
    assert_eq!(tuning(json!({"sysctl": null, "mac": null, "txQLen": null})).ops(), json!([]));
}

#[test]
fn what_the_plan_makes_needs_no_restoring() {
    for made in [veth(), macvlan()] {
        let call = tuning(json!({"mtu": 1400})).after_op(made);
        assert_eq!(call.ops(), json!([{"op": "tune-link", "link": "eth0", "set": {"mtu": 1400}, "before": {}}]));
    }
    // Later steps of a chained call also have earlier ops, but their link exists.
    let mut call = tuning(json!({"mtu": 1400}));
    call.before = serde_json::from_value(json!([{"op": "tune-sysctl", "key": "a", "value": "1"}])).unwrap();
    assert_eq!(call.ops()[0]["before"], json!({"mtu": 1500}));
}

/// A device that the same plan takes from the host is returned with its previous
/// attributes.
#[test]
fn what_the_plan_takes_is_restored() {
    let taken = json!([{"op": "take-device", "name": "eth0", "device": "enp0s4"}]);
    let mut call = tuning(json!({"mtu": 1400, "promisc": true, "allmulti": false, "txQLen": 5}));
    call.before = serde_json::from_value(taken).unwrap();
    call.observed = crate::plan::Observed::default();
    call.observed.device = Some(FoundDevice::Link(DeviceLink {
        name: "enp0s4".to_owned(),
        mtu: 9000,
        all_multicast: true,
        tx_queue_length: 1000,
        ..DeviceLink::default()
    }));
    assert_eq!(
        call.ops()[0]["before"],
        json!({"mtu": 9000, "promiscuous": false, "all_multicast": true, "tx_queue_length": 1000})
    );
}

#[test]
fn precedence() {
    let all = json!({"mac": "02:00:00:00:01:01", "runtimeConfig": {"mac": "02:00:00:00:01:03"},
                     "args": {"cni": {"mac": "02:00:00:00:01:04"}}});
    let mac = |conf: &Value, arg: bool| {
        let call = tuning(conf.clone());
        let call = if arg { call.arg("MAC", "02:00:00:00:01:02") } else { call };
        call.plan().unwrap().mac.map(|mac| mac.0[5])
    };
    let mut conf = all.clone();
    assert_eq!(mac(&conf, true), Some(4));
    conf["args"]["cni"]["mac"] = json!("");
    assert_eq!(mac(&conf, true), None, "an empty one means none");
    conf["args"]["cni"]["mac"] = Value::Null;
    assert_eq!(mac(&conf, true), Some(3));
    conf["runtimeConfig"]["mac"] = json!("");
    assert_eq!(mac(&conf, true), Some(2));
    assert_eq!(mac(&conf, false), Some(1));

    let call = tuning(
        json!({"mtu": 1400, "promisc": true, "allmulti": true, "txQLen": 1, "sysctl": {"net.a": "1", "net.b": "1"},
        "args": {"cni": {"mtu": 1300, "promisc": false, "allmulti": false, "txQLen": 2, "sysctl": {"net.b": "2", "net.c": "2"}}}}),
    );
    let ops = call.ops();
    assert_eq!(ops[3]["set"], json!({"mtu": 1300, "all_multicast": false, "tx_queue_length": 2}));
    let values: Vec<_> = (0..3).map(|at| (ops[at]["key"].clone(), ops[at]["value"].clone())).collect();
    assert_eq!(values, [(json!("a"), json!("1")), (json!("b"), json!("2")), (json!("c"), json!("2"))]);
    // The stock plugin panics if only args have sysctls.
    let call = tuning(json!({"args": {"cni": {"sysctl": {"net.c": "2"}}}}));
    assert_eq!(call.ops()[0]["key"], "c");
}

#[test]
fn the_allow_list() {
    let listed = |text: &str, key: &str| {
        let mut call = tuning(json!({"sysctl": { key: "1" }}));
        call.observed.files.insert(PathBuf::from("/etc/cni/tuning/allowlist.conf"), text.to_owned());
        call.plan().map(drop).map_err(|error| error.to_string())
    };
    let text = "  ^net.core.somaxconn$ \r\n\nnet\\.ipv4\\.conf\\.[a-z]+\\.arp_filter\n";
    assert_eq!(listed(text, "net.core.somaxconn"), Ok(()));
    assert_eq!(listed(text, "net.ipv4.conf.all.arp_filter"), Ok(()));
    assert_eq!(
        listed(text, "net.ipv4.conf.IFNAME.arp_filter").unwrap_err(),
        "Sysctl net.ipv4.conf.IFNAME.arp_filter is not allowed. Only the following sysctls are allowed: \
         [^net.core.somaxconn$ net\\.ipv4\\.conf\\.[a-z]+\\.arp_filter]",
        "the name is compared as it is written"
    );
    assert!(listed("", "net.core.somaxconn").unwrap_err().ends_with("are allowed: []"));
    let error = listed("net.(", "net.core.somaxconn").unwrap_err();
    assert!(error.starts_with("error parsing regexp \"net.(\" of /etc/cni/tuning/allowlist.conf: "), "{error}");
    assert_eq!(listed("core\nnet.(", "net.core.somaxconn"), Ok(()), "the first match is enough");
}

#[test]
fn errors() {
    assert_eq!(tuning(json!({"mtu": 1400})).without_previous().error(), "Required prevResult missing");
    assert_eq!(
        tuning(json!({"mac": "nonsense"})).invalid(),
        "invalid args nonsense for MAC addr: address nonsense: invalid MAC address"
    );
    assert_eq!(tuning(json!({"mtu": -5})).invalid(), "invalid MTU -5, must be 0 or more");
    assert_eq!(tuning(json!({"txQLen": -5})).invalid(), "invalid txQLen -5, must be from 0 to 2147483647");
    let mut call = tuning(json!({"mtu": 1400}));
    call.observed.links.clear();
    assert_eq!(call.error(), "failed to get \"eth0\": Link not found");
}

#[test]
fn needs() {
    let step = super::find("tuning").unwrap();
    let attachment =
        super::Attachment { network: String::new(), container_id: String::new(), ifname: "net1".to_owned() };
    let needs = step.needs(&crate::cni::Object::default(), &attachment).unwrap();
    assert!(needs.contains(&super::Need::Link(LinkRef::container("net1"))));
    assert_eq!(needs.len(), 2);
}

#[test]
fn one_line_each() {
    let call =
        tuning(json!({"sysctl": {"net.core.somaxconn": "5"}, "mac": "c2:11:22:33:44:55", "promisc": true, "mtu": 1400,
                             "allmulti": false, "txQLen": 7}));
    let lines: Vec<_> = call.plan().unwrap().ops.iter().map(Op::to_string).collect();
    assert_eq!(lines[0], "tune net/core/somaxconn=5 in the container");
    assert_eq!(
        lines[1],
        "tune eth0 (in the container): MAC address c2:11:22:33:44:55, promiscuous mode on, MTU 1400, all-multicast mode off, \
         transmit queue length 7"
    );
}
