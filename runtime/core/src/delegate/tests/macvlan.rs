//! Golden plans of `macvlan`.

use serde_json::json;

use super::*;

fn call(conf: Value) -> Call {
    Call::new("macvlan", conf)
        .with_link(LinkRef::host("eth1"), "", 1500)
        .with_addresses(&[("10.0.0.2/24", Some("10.0.0.1"))], &[])
}

#[test]
fn layer_3() {
    let call = call(json!({"master": "eth1", "ipam": {"type": "x"}}))
        .with_addresses(&[("10.0.0.2/24", Some("10.0.0.1"))], &[("0.0.0.0/0", None)]);
    let eth0 = json!({"side": "container", "name": "eth0"});
    let route = |gw| json!({"dst": "0.0.0.0/0", "gw": gw, "mtu": null, "advmss": null, "priority": null, "table": null, "scope": null});
    assert_eq!(
        call.ops(),
        json!([
            {"op": "create-macvlan", "name": "eth0", "parent": {"side": "host", "name": "eth1"}, "mode": "bridge",
             "mtu": null, "mac": null, "bc_queue_len": null},
            {"op": "sysctl", "side": "container", "key": "ipv4/conf/eth0/arp_notify", "value": "1", "required": false},
            {"op": "sysctl", "side": "container", "key": "ipv6/conf/eth0/ndisc_notify", "value": "1", "required": false},
            {"op": "add-address", "link": eth0, "address": "10.0.0.2/24"},
            {"op": "link-up", "link": eth0},
            {"op": "add-route", "link": eth0, "route": route("10.0.0.1"), "src": null, "existing_ok": false},
            {"op": "announce", "link": "eth0", "addresses": ["10.0.0.2"]},
        ])
    );
    let result = serde_json::to_value(call.plan().unwrap().result).unwrap();
    assert_eq!(
        result,
        json!({
            "interfaces": [eth0],
            "ips": [{"address": "10.0.0.2/24", "gateway": "10.0.0.1", "interface": 0}],
            "routes": [route_without_gw()],
            "dns": {"nameservers": [], "domain": null, "search": [], "options": []},
            "observed_addresses": false,
        })
    );
}

/// The result keeps IPAM's route unchanged; only the op has the next hop.
fn route_without_gw() -> Value {
    serde_json::to_value(Route::new("0.0.0.0/0".parse().unwrap(), None)).unwrap()
}

#[test]
fn layer_2_only_comes_up() {
    let mut call = call(json!({"master": "eth1"}));
    call.addressing = None;
    assert_eq!(call.lines(), ["create macvlan eth0 (in the container) on eth1", "bring eth0 (in the container) up"]);
}

#[test]
fn dns_is_always_the_configurations() {
    let dns = call(json!({"master": "eth1", "dns": {"search": ["a"]}})).plan().unwrap().result.dns;
    assert_eq!(dns, Dns { search: vec!["a".to_owned()], ..Dns::default() });
}

#[test]
fn the_parent_may_be_the_default_routes_link_on_either_side() {
    let needs = |conf| find("macvlan").unwrap().needs(&Object::from_value(conf).unwrap(), None).unwrap();
    assert_eq!(needs(json!({"master": ""})), [Need::DefaultRouteLink(Side::Host)]);
    assert_eq!(needs(json!({"linkInContainer": true})), [Need::DefaultRouteLink(Side::Container)]);
    let inside = json!({"linkInContainer": true, "master": "net0"});
    assert_eq!(needs(inside), [Need::Parent(LinkRef::container("net0"))]);

    let mut auto = call(json!({}));
    assert_eq!(auto.error(), "no default route interface found");
    auto.observed.default_route_links.insert(Side::Host, "eth1".to_owned());
    assert_eq!(auto.ops_of_kind("create-macvlan")[0]["parent"]["name"], "eth1");
    let inside =
        call(json!({"linkInContainer": true, "master": "net0"})).with_link(LinkRef::container("net0"), "", 1500);
    assert_eq!(inside.ops_of_kind("create-macvlan")[0]["parent"], json!({"side": "container", "name": "net0"}));
}

#[test]
fn a_missing_parent_is_named() {
    assert_eq!(call(json!({"master": "nope"})).error(), "failed to lookup master \"nope\": Link not found");
}

#[test]
fn modes() {
    for (mode, want) in
        [("", "bridge"), ("bridge", "bridge"), ("private", "private"), ("vepa", "vepa"), ("passthru", "passthru")]
    {
        assert_eq!(call(json!({"master": "eth1", "mode": mode})).ops_of_kind("create-macvlan")[0]["mode"], want);
    }
    assert_eq!(call(json!({"master": "eth1", "mode": "l2"})).error(), "unknown macvlan mode: \"l2\"");
}

#[test]
fn the_parents_mtu_bounds_the_mtu() {
    let mtu = |mtu: i64| call(json!({"master": "eth1", "mtu": mtu}));
    assert_eq!(mtu(1400).ops_of_kind("create-macvlan")[0]["mtu"], 1400);
    assert_eq!(mtu(0).ops_of_kind("create-macvlan")[0]["mtu"], Value::Null);
    assert_eq!(mtu(1501).error(), "invalid MTU 1501, must be [0, master MTU(1500)]");
    assert_eq!(mtu(-1).error(), "invalid MTU -1, must be [0, master MTU(1500)]");
}

#[test]
fn the_mac_comes_from_the_runtime_then_cni_args_then_the_configuration() {
    let mac = |call: Call| call.ops_of_kind("create-macvlan")[0]["mac"].clone();
    let conf = json!({"master": "eth1", "mac": "02:00:00:00:00:01"});
    assert_eq!(mac(call(conf.clone())), "02:00:00:00:00:01");
    assert_eq!(mac(call(conf.clone()).arg("MAC", "02:00:00:00:00:02")), "02:00:00:00:00:02");
    let runtime = with_key(conf, "RuntimeConfig", json!({"mac": "02:00:00:00:00:03"}));
    assert_eq!(mac(call(runtime).arg("MAC", "02:00:00:00:00:02")), "02:00:00:00:00:03");
    // `args` is not among the stock plugin's sources.
    assert_eq!(mac(call(json!({"master": "eth1", "args": {"cni": {"mac": "02:00:00:00:00:04"}}}))), Value::Null);
    let bad = call(json!({"master": "eth1", "mac": "xx"})).error();
    assert_eq!(bad, "invalid args xx for MAC addr: address xx: invalid MAC address");
}

#[test]
fn the_broadcast_queue_can_be_set() {
    assert_eq!(
        call(json!({"master": "eth1", "bcqueuelen": 200})).ops_of_kind("create-macvlan")[0]["bc_queue_len"],
        200
    );
    assert!(call(json!({"master": "eth1", "bcqueuelen": -1})).error().contains("bcqueuelen"));
}

#[test]
fn detection_is_waited_for_only_where_addresses_may_clash() {
    let mut call = call(json!({"master": "eth1"})).with_addresses(&[("fd00::2/64", Some("fd00::1"))], &[]);
    assert!(call.ops_of_kind("wait-addresses").is_empty());
    assert_eq!(call.ops_of_kind("sysctl")[0]["key"], "ipv6/conf/eth0/accept_dad");
    call.addressing.as_mut().unwrap().unique = false;
    assert_eq!(call.ops_of_kind("wait-addresses").len(), 1);
    assert_eq!(call.ops_of_kind("sysctl")[0]["key"], "ipv4/conf/eth0/arp_notify");
}
