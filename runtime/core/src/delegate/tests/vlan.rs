//! Golden plans of `vlan`.

use serde_json::json;

use super::*;

fn call(conf: Value) -> Call {
    Call::new("vlan", conf)
        .with_link(LinkRef::host("eth1"), "", 1500)
        .with_addresses(&[("10.0.0.2/24", Some("10.0.0.1"))], &[])
}

#[test]
fn plan() {
    let conf = json!({"master": "eth1", "vlanId": 33, "mtu": 1400, "ipam": {"type": "x"}, "dns": {"search": ["a"]}});
    let call = call(conf).with_addresses(&[("10.0.0.2/24", Some("10.0.0.1"))], &[("0.0.0.0/0", None)]);
    assert_eq!(
        call.ops_of_kind("create-vlan"),
        [
            json!({"op": "create-vlan", "name": "eth0", "parent": {"side": "host", "name": "eth1"}, "id": 33, "mtu": 1400})
        ]
    );
    assert_eq!(
        call.lines(),
        [
            "create vlan eth0 (in the container) for VLAN 33 on eth1",
            "set net/ipv4/conf/eth0/arp_notify=1 in the container",
            "set net/ipv6/conf/eth0/ndisc_notify=1 in the container",
            "add address 10.0.0.2/24 to eth0 (in the container)",
            "bring eth0 (in the container) up",
            "add route to 0.0.0.0/0 via 10.0.0.1 on eth0 (in the container)",
        ]
    );
    let result = call.plan().unwrap().result;
    assert_eq!(result.dns, Dns { search: vec!["a".to_owned()], ..Dns::default() });
    assert_eq!((result.interfaces, result.ips[0].interface), (vec![LinkRef::container("eth0")], Some(0)));
}

#[test]
fn the_parent_must_be_named() {
    let text = "\"master\" field is required. It specifies the host interface name to create the VLAN for";
    assert_eq!(call(json!({})).error(), text);
    assert_eq!(call(json!({"master": ""})).error(), text);
    assert_eq!(call(json!({"master": "nope"})).error(), "failed to lookup master \"nope\": Link not found");
    let needs = |conf| find("vlan").unwrap().needs(&Object::from_value(conf).unwrap(), None).unwrap();
    assert_eq!(needs(json!({"master": "m"})), [Need::Parent(LinkRef::host("m"))]);
    let inside = json!({"master": "m", "linkInContainer": true});
    assert_eq!(needs(inside.clone()), [Need::Parent(LinkRef::container("m"))]);
    let inside = call(inside).with_link(LinkRef::container("m"), "", 1500);
    assert_eq!(inside.ops_of_kind("create-vlan")[0]["parent"], json!({"side": "container", "name": "m"}));
}

#[test]
fn vlan_ids_are_bounded() {
    for id in [0, 1, 4094] {
        assert_eq!(call(json!({"master": "eth1", "vlanId": id})).ops_of_kind("create-vlan")[0]["id"], id);
    }
    assert_eq!(call(json!({"master": "eth1"})).ops_of_kind("create-vlan")[0]["id"], 0);
    for id in [-1, 4095, 65_537] {
        let text = format!("invalid VLAN ID {id} (must be between 0 and 4095 inclusive)");
        assert_eq!(call(json!({"master": "eth1", "vlanId": id})).error(), text);
    }
}

#[test]
fn the_parents_mtu_bounds_the_mtu() {
    let mtu = |mtu: i64| call(json!({"master": "eth1", "mtu": mtu}));
    assert_eq!(mtu(1500).ops_of_kind("create-vlan")[0]["mtu"], 1500);
    assert_eq!(mtu(0).ops_of_kind("create-vlan")[0]["mtu"], Value::Null);
    assert_eq!(mtu(1501).error(), "invalid MTU 1501, must be [0, master MTU(1500)]");
    assert_eq!(mtu(-1).error(), "invalid MTU -1, must be [0, master MTU(1500)]");
}

#[test]
fn it_cannot_do_without_ipam() {
    let vlan = find("vlan").unwrap();
    assert_eq!(vlan.ipam(), IpamUse::Required);
    assert_eq!(vlan.without_ipam(), "failed to execute IPAM delegate: no plugin name provided");
}

#[test]
fn detection_is_waited_for_only_where_addresses_may_clash() {
    let mut call = call(json!({"master": "eth1"})).with_addresses(&[("fd00::2/64", Some("fd00::1"))], &[]);
    assert!(call.ops_of_kind("wait-addresses").is_empty());
    assert_eq!(call.ops_of_kind("sysctl")[0]["key"], "ipv6/conf/eth0/accept_dad");
    call.addressing.as_mut().unwrap().unique = false;
    assert_eq!(call.ops_of_kind("wait-addresses").len(), 1);
}
