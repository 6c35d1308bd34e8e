//! Golden plans of `tap`.

use serde_json::json;

use super::*;

fn call(conf: Value) -> Call {
    Call::new("tap", conf)
}

#[test]
fn layer_2() {
    let call = call(json!({"dns": {"search": ["a"]}, "args": {}}));
    assert_eq!(
        call.ops(),
        json!([
            {"op": "create-tap", "name": "eth0", "multi_queue": false, "owner": null, "group": null, "mtu": null, "mac": null,
             "selinux_context": null, "bridge": null},
            {"op": "link-up", "link": {"side": "container", "name": "eth0"}},
        ])
    );
    assert_eq!(call.plan().unwrap().result.dns.search, ["a"]);
}

#[test]
fn every_key() {
    let conf = json!({
        "multiQueue": true, "owner": 0, "group": 1000, "mtu": 1400, "mac": "02:00:00:00:00:01",
        "selinuxcontext": "system_u:system_r:container_t:s0", "bridge": "br0",
    });
    assert_eq!(
        call(conf).ops_of_kind("create-tap"),
        [json!({
            "op": "create-tap", "name": "eth0", "multi_queue": true, "owner": 0, "group": 1000, "mtu": 1400,
            "mac": "02:00:00:00:00:01", "selinux_context": "system_u:system_r:container_t:s0", "bridge": "br0",
        })]
    );
    assert!(call(json!({"owner": -1})).error().contains("owner of type uint32"));
    assert_eq!(call(json!({"mtu": -1})).error(), "invalid MTU -1, must be 0 or more");
    assert!(call(json!({"selinuxContext": "a\0b"})).error().contains("zero byte"));
}

#[test]
fn layer_3() {
    let call = call(json!({"ipam": {"type": "x"}}))
        .with_addresses(&[("10.0.0.2/24", Some("10.0.0.1"))], &[("0.0.0.0/0", None)]);
    assert_eq!(
        call.lines(),
        [
            "create tap eth0 (in the container)",
            "set net/ipv4/conf/eth0/arp_notify=1 in the container",
            "add address 10.0.0.2/24 to eth0 (in the container)",
            "bring eth0 (in the container) up",
            "add route to 0.0.0.0/0 via 10.0.0.1 on eth0 (in the container)",
        ]
    );
    let result = call.plan().unwrap().result;
    assert_eq!((result.ips[0].interface, result.dns), (Some(0), Dns::default()));
}

#[test]
fn the_mac_comes_from_the_runtime_then_cni_args_then_the_configuration() {
    let mac = |call: Call| call.ops_of_kind("create-tap")[0]["mac"].clone();
    let conf = json!({"mac": "02:00:00:00:00:01"});
    assert_eq!(mac(call(conf.clone()).arg("MAC", "02:00:00:00:00:02")), "02:00:00:00:00:02");
    let runtime = with_key(conf, "RuntimeConfig", json!({"mac": "02:00:00:00:00:03"}));
    assert_eq!(mac(call(runtime).arg("MAC", "02:00:00:00:00:02")), "02:00:00:00:00:03");
    let bad = call(json!({"mac": "xx"})).error();
    assert_eq!(bad, "invalid args xx for MAC addr: address xx: invalid MAC address");
}
