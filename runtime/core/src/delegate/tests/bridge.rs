//! Golden plans of `bridge`: the main ones in full, then the effect of each
//! key.

use serde_json::json;

use super::*;

const HOST: &str = "veth01020304";

fn v4() -> Call {
    Call::new("bridge", json!({})).with_addresses(&[("10.0.0.2/24", Some("10.0.0.1"))], &[])
}

fn v4_with(conf: Value) -> Call {
    Call { conf, ..v4() }
}

fn layer2(conf: Value) -> Call {
    Call::new("bridge", conf)
}

#[test]
fn gateway_with_masquerade() {
    let conf = json!({"bridge": "br7", "isDefaultGateway": true, "ipMasq": true, "ipam": {"type": "x"}});
    let call = v4_with(conf);
    let eth0 = json!({"side": "container", "name": "eth0"});
    let default = json!({"dst": "0.0.0.0/0", "gw": "10.0.0.1", "mtu": null, "advmss": null, "priority": null,
        "table": null, "scope": null});
    assert_eq!(
        call.ops(),
        json!([
            {"op": "ensure-bridge", "name": "br7", "mtu": null, "vlan_filtering": false, "promisc": false},
            {"op": "create-veth", "container": "eth0", "host": HOST, "mtu": null, "mac": null},
            {"op": "bridge-port", "link": HOST, "bridge": "br7", "hairpin": false, "isolated": false},
            {"op": "sysctl", "side": "container", "key": "ipv6/conf/eth0/accept_dad", "value": "0", "required": false},
            {"op": "sysctl", "side": "container", "key": "ipv4/conf/eth0/arp_notify", "value": "1", "required": false},
            {"op": "add-address", "link": eth0, "address": "10.0.0.2/24"},
            {"op": "link-up", "link": eth0},
            {"op": "add-route", "link": eth0, "route": default, "src": null, "existing_ok": false},
            {"op": "ensure-address", "link": "br7", "address": "10.0.0.1/24", "force": false},
            {"op": "pin-mac", "link": "br7"},
            {"op": "forwarding", "family": "v4"},
            {"op": "masquerade", "address": "10.0.0.2/24"},
            {"op": "wait-port", "link": HOST},
            { "op": "forget-neighbours", "link": "br7", "addresses": ["10.0.0.2"], "mac": null },
            {"op": "announce", "link": "eth0", "addresses": ["10.0.0.2"]},
        ])
    );
    let result = call.plan().unwrap().result;
    assert_eq!(result.interfaces, [LinkRef::host("br7"), LinkRef::host(HOST), LinkRef::container("eth0")]);
    assert_eq!(result.ips[0].interface, Some(2));
    assert_eq!(serde_json::to_value(&result.routes).unwrap(), json!([default]));
    assert_eq!(result.dns.nameservers, ["10.0.0.53"]);
}

#[test]
fn layer_2() {
    assert_eq!(
        layer2(json!({})).lines(),
        [
            "ensure bridge cni0",
            "create veth eth0 (in the container) with peer veth01020304",
            "make veth01020304 a port of cni0",
            "bring eth0 (in the container) up",
            "wait for port veth01020304 to come up",
        ]
    );
}

#[test]
fn both_families_with_a_vlan_gateway() {
    let call = Call::new("bridge", json!({"isGateway": true, "vlan": 100}))
        .with_addresses(&[("fd00::2/64", None), ("10.0.0.2/24", None), ("10.0.0.3/24", None)], &[]);
    let lines = call.lines();
    assert_eq!(
        lines[lines.iter().position(|line| line.starts_with("ensure gateway")).unwrap()..],
        [
            "ensure gateway cni0.100 of VLAN 100 on cni0",
            "ensure address 10.0.0.1/24 on cni0.100",
            "pin the MAC address of cni0.100",
            "enable IPv4 forwarding",
            "ensure address fd00::1/64 on cni0.100",
            "pin the MAC address of cni0.100",
            "enable IPv6 forwarding",
            "wait for port veth01020304 to come up",
            "forget who had the attachment's addresses on cni0.100",
            "announce the addresses of eth0 (in the container)",
        ]
    );
    let result = call.plan().unwrap().result;
    assert_eq!(result.interfaces.len(), 4);
    assert_eq!(result.interfaces[3], LinkRef::host("cni0.100"));
    let gateways: Vec<_> = result.ips.iter().map(|ip| ip.gateway.unwrap().to_string()).collect();
    assert_eq!(gateways, ["fd00::1", "10.0.0.1", "10.0.0.1"]);
    let op = &call.ops_of_kind("ensure-vlan-gateway")[0];
    let peer = op["peer"].as_str().unwrap();
    assert!(peer.len() == 12 && peer.starts_with("veth"), "{peer}");
    assert_eq!(op, &call.ops_of_kind("ensure-vlan-gateway")[0], "the same each time");
}

#[test]
fn without_the_gateway_role_nothing_is_computed() {
    let call = Call::new("bridge", json!({})).with_addresses(&[("10.0.0.2/24", None)], &[]);
    assert_eq!(call.plan().unwrap().result.ips[0].gateway, None);
    assert!(call.ops_of_kind("ensure-address").is_empty() && call.ops_of_kind("forwarding").is_empty());
}

#[test]
fn a_default_route_is_added_per_family_unless_there_is_one() {
    let routes = |routes: &[(&str, Option<&str>)]| {
        let call = Call::new("bridge", json!({"isDefaultGateway": true}))
            .with_addresses(&[("10.0.0.2/24", None), ("10.0.1.2/24", None), ("fd00::2/64", None)], routes);
        let shown = |route: &Route| format!("{} {:?}", route.dst, route.gw.map(|gw| gw.to_string()));
        call.plan().unwrap().result.routes.iter().map(shown).collect::<Vec<_>>()
    };
    assert_eq!(routes(&[]), ["0.0.0.0/0 Some(\"10.0.0.1\")", "::/0 Some(\"fd00::1\")"]);
    let own = routes(&[("0.0.0.0/0", Some("10.0.0.9"))]);
    assert_eq!(own, ["0.0.0.0/0 Some(\"10.0.0.9\")", "::/0 Some(\"fd00::1\")"]);
    // The stock plugin adds its own route beside this one, and the kernel
    // refuses the pair.
    assert_eq!(routes(&[("0.0.0.0/0", None)])[0], "0.0.0.0/0 None");
    assert_eq!(routes(&[("0.0.0.0/0", None)]).len(), 2);
}

#[test]
fn force_address() {
    let forced = v4_with(json!({"isGateway": true, "forceAddress": true}));
    assert_eq!(forced.ops_of_kind("ensure-address")[0]["force"], true);
}

#[test]
fn mtu_is_the_bridges_and_the_pairs() {
    let call = layer2(json!({"mtu": 1400}));
    assert_eq!(
        (&call.ops_of_kind("ensure-bridge")[0]["mtu"], &call.ops_of_kind("create-veth")[0]["mtu"]),
        (&json!(1400), &json!(1400))
    );
    assert_eq!(layer2(json!({"mtu": 0})).ops(), layer2(json!({})).ops());
    assert_eq!(layer2(json!({"mtu": -5})).error(), "invalid MTU -5, must be 0 or more");
}

#[test]
fn hairpin_promiscuous_and_isolation() {
    assert_eq!(layer2(json!({"hairpinMode": true})).ops_of_kind("bridge-port")[0]["hairpin"], true);
    assert_eq!(layer2(json!({"portIsolation": true})).ops_of_kind("bridge-port")[0]["isolated"], true);
    assert_eq!(layer2(json!({"promiscMode": true})).ops_of_kind("ensure-bridge")[0]["promisc"], true);
    assert_eq!(
        layer2(json!({"promiscMode": true, "hairpinMode": true})).error(),
        "cannot set hairpin mode and promiscuous mode at the same time"
    );
}

#[test]
fn access_vlan() {
    let call = layer2(json!({"vlan": 100}));
    assert_eq!(call.ops_of_kind("ensure-bridge")[0]["vlan_filtering"], true);
    assert_eq!(
        call.ops_of_kind("bridge-vlans"),
        [json!({"op": "bridge-vlans", "link": HOST, "drop_existing": true, "pvid": 100, "tagged": []})]
    );
    let kept = layer2(json!({"vlan": 100, "preserveDefaultVlan": true}));
    assert_eq!(kept.ops_of_kind("bridge-vlans")[0]["drop_existing"], false);
    assert!(layer2(json!({"vlan": 0})).ops_of_kind("bridge-vlans").is_empty());
    for bad in [-1, 4095] {
        let text = format!("invalid VLAN ID {bad} (must be between 0 and 4094)");
        assert_eq!(layer2(json!({"vlan": bad})).error(), text);
    }
}

#[test]
fn trunk_vlans() {
    let call = layer2(json!({"vlanTrunk": [{"id": 101}, {"minID": 200, "maxID": 203}, {"id": 201}]}));
    let op = &call.ops_of_kind("bridge-vlans")[0];
    assert_eq!((&op["pvid"], &op["tagged"]), (&json!(1), &json!([101, 200, 201, 202, 203])));
    let both = layer2(json!({"vlan": 7, "vlanTrunk": [{"minID": 6, "maxID": 8}]}));
    let op = &both.ops_of_kind("bridge-vlans")[0];
    assert_eq!((&op["pvid"], &op["tagged"]), (&json!(7), &json!([6, 8])));
    let empty = layer2(json!({"vlanTrunk": []}));
    assert_eq!(empty.ops_of_kind("ensure-bridge")[0]["vlan_filtering"], true);
    assert!(empty.ops_of_kind("bridge-vlans").is_empty());
    assert_eq!(layer2(json!({"vlanTrunk": null})).ops_of_kind("ensure-bridge")[0]["vlan_filtering"], false);
}

#[test]
fn trunk_mistakes() {
    let simultaneously = "minID and maxID should be configured simultaneously, ";
    for (item, text) in [
        (json!({"minID": 0, "maxID": 0}), "incorrect trunk minID parameter".to_owned()),
        (json!({"minID": 1, "maxID": 4095}), "incorrect trunk maxID parameter".to_owned()),
        (json!({"minID": 5, "maxID": 4}), "minID is greater than maxID in trunk parameter".to_owned()),
        (json!({"maxID": 4}), format!("{simultaneously}minID is missing")),
        (json!({"minID": 4}), format!("{simultaneously}maxID is missing")),
        (json!({"id": 0}), "incorrect trunk id parameter".to_owned()),
        (json!({"id": 4095}), "incorrect trunk id parameter".to_owned()),
    ] {
        assert_eq!(layer2(json!({"vlanTrunk": [item]})).error(), text);
    }
}

#[test]
fn spoof_check_knows_the_mac_before_the_link_is_made() {
    let fresh = layer2(json!({"macspoofchk": true}));
    assert_eq!(fresh.ops_of_kind("create-veth")[0]["mac"], "02:00:00:00:00:09");
    assert_eq!(
        fresh.ops_of_kind("mac-spoof-check"),
        [json!({"op": "mac-spoof-check", "link": HOST, "mac": "02:00:00:00:00:09"})]
    );
    let asked = layer2(json!({"macspoofchk": true, "runtimeConfig": {"mac": "02:00:00:00:00:01"}}));
    assert_eq!(asked.ops_of_kind("mac-spoof-check")[0]["mac"], "02:00:00:00:00:01");
}

#[test]
fn the_mac_comes_from_the_runtime_then_args_then_cni_args() {
    let mac = |call: Call| call.ops_of_kind("create-veth")[0]["mac"].clone();
    let args = json!({"args": {"cni": {"mac": "02:00:00:00:00:02"}}});
    let runtime = with_key(args.clone(), "runtimeConfig", json!({"mac": "02:00:00:00:00:03"}));
    assert_eq!(mac(layer2(json!({})).arg("MAC", "02:00:00:00:00:01")), "02:00:00:00:00:01");
    assert_eq!(mac(layer2(args).arg("MAC", "02:00:00:00:00:01")), "02:00:00:00:00:02");
    assert_eq!(mac(layer2(runtime).arg("MAC", "02:00:00:00:00:01")), "02:00:00:00:00:03");
    assert_eq!(mac(layer2(json!({"mac": "02:00:00:00:00:04"}))), Value::Null, "no key of the stock plugin");
    assert_eq!(layer2(json!({})).arg("MAC", "nope").error(), "address nope: invalid MAC address");
}

#[test]
fn enabled_detection_is_waited_for() {
    let call = Call::new("bridge", json!({"enabledad": true})).with_addresses(&[("fd00::2/64", Some("fd00::1"))], &[]);
    let keys: Vec<_> = call.ops_of_kind("sysctl").iter().map(|op| format!("{} {}", op["key"], op["value"])).collect();
    assert_eq!(
        keys,
        [
            r#""ipv6/conf/eth0/enhanced_dad" "1""#,
            r#""ipv6/conf/eth0/accept_dad" "1""#,
            r#""ipv4/conf/eth0/arp_notify" "1""#
        ]
    );
    assert_eq!(call.ops_of_kind("wait-addresses").len(), 1);
    let off = Call::new("bridge", json!({})).with_addresses(&[("fd00::2/64", Some("fd00::1"))], &[]);
    assert!(off.ops_of_kind("wait-addresses").is_empty());
}

#[test]
fn a_container_link_may_stay_down() {
    let call = layer2(json!({"disableContainerInterface": true}));
    assert!(call.ops_of_kind("link-up").is_empty() && call.ops_of_kind("wait-port").is_empty());
    assert_eq!(
        layer2(json!({"disableContainerInterface": true, "ipam": {"type": "x"}})).error(),
        "cannot use IPAM when DisableContainerInterface flag is set"
    );
}

#[test]
fn masquerade_per_address() {
    let call = Call::new("bridge", json!({"ipMasq": true}))
        .with_addresses(&[("10.0.0.2/24", None), ("fd00::2/64", None)], &[]);
    assert_eq!(call.ops_of_kind("masquerade").len(), 2);
    assert_eq!(v4_with(json!({"ipMasqBackend": "pf"})).error(), "unknown ipmasq backend \"pf\"");
}

#[test]
fn dns_of_the_configuration_wins_only_where_it_is_set() {
    let dns = |conf| v4_with(conf).plan().unwrap().result.dns;
    assert_eq!(dns(json!({})).nameservers, ["10.0.0.53"]);
    assert_eq!(dns(json!({"dns": {"options": []}})), Dns::default());
    assert_eq!(dns(json!({"dns": {"nameservers": ["1.1.1.1"]}})).nameservers, ["1.1.1.1"]);
}

#[test]
fn what_is_there_under_the_bridges_name_must_be_a_bridge() {
    let needs = find("bridge").unwrap().needs(&Object::default(), None).unwrap();
    assert_eq!(needs, [Need::Link(LinkRef::host("cni0"))]);
    assert!(layer2(json!({})).with_link(LinkRef::host("cni0"), "bridge", 1500).plan().is_ok());
    let other = layer2(json!({})).with_link(LinkRef::host("cni0"), "veth", 1500);
    assert_eq!(other.error(), "failed to create bridge \"cni0\": \"cni0\" already exists but is not a bridge");
}

#[test]
fn names_are_checked_before_the_kernel_sees_them() {
    let text = layer2(json!({"bridge": "a-very-long-bridge-name"})).error();
    assert!(text.starts_with("bad interface name \"a-very-long-bridge-name\": interface name is too long"), "{text}");
    assert!(layer2(json!({"bridge": ""})).error().ends_with("interface name is empty"));
    let long = json!({"bridge": "abcdefghijklm", "vlan": 100, "isGateway": true, "ipam": {"type": "x"}});
    assert!(v4_with(long).error().contains("abcdefghijklm.100"));
}
