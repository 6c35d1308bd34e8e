//! Golden plans of `ipvlan`.

use serde_json::json;

use super::*;
use crate::cni::{Interface, Ip};

fn call(conf: Value) -> Call {
    Call::new("ipvlan", conf)
        .with_link(LinkRef::host("eth1"), "", 1500)
        .with_addresses(&[("10.0.0.2/24", Some("10.0.0.1"))], &[])
}

/// The result of a previous plugin: one link, one address.
fn previous() -> CniResult {
    CniResult {
        interfaces: vec![Interface { name: "up0".to_owned(), ..Interface::default() }],
        ips: vec![Ip { address: "10.9.0.2/24".parse().unwrap(), gateway: None, interface: None }],
        routes: vec![Route::new("0.0.0.0/0".parse().unwrap(), Some("10.9.0.1".parse().unwrap()))],
        dns: Dns { nameservers: vec!["10.9.0.53".to_owned()], ..Dns::default() },
    }
}

fn chained(conf: Value, previous: CniResult) -> Call {
    let mut call = Call::new("ipvlan", conf).with_link(LinkRef::host("up0"), "", 1500);
    call.previous = Some(previous);
    call
}

#[test]
fn layer_3() {
    let call = call(json!({"master": "eth1", "mode": "l3", "mtu": 1400, "ipam": {"type": "x"}}))
        .with_addresses(&[("10.0.0.2/24", Some("10.0.0.1"))], &[("0.0.0.0/0", None)]);
    assert_eq!(
        call.ops_of_kind("create-ipvlan"),
        [
            json!({"op": "create-ipvlan", "name": "eth0", "parent": {"side": "host", "name": "eth1"}, "mode": "l3", "mtu": 1400})
        ]
    );
    assert_eq!(
        call.lines(),
        [
            "create ipvlan eth0 (in the container) on eth1 in mode l3",
            "set net/ipv4/conf/eth0/arp_notify=1 in the container",
            "set net/ipv6/conf/eth0/ndisc_notify=1 in the container",
            "add address 10.0.0.2/24 to eth0 (in the container)",
            "bring eth0 (in the container) up",
            "add route to 0.0.0.0/0 via 10.0.0.1 on eth0 (in the container)",
        ]
    );
    let result = call.plan().unwrap().result;
    assert_eq!(result.interfaces, [LinkRef::container("eth0")]);
    assert_eq!((result.ips[0].interface, result.routes.len()), (Some(0), 1));
    assert_eq!(result.dns, Dns::default(), "the configuration's, which has none");
}

#[test]
fn modes() {
    for (mode, want) in [("", "l2"), ("l2", "l2"), ("l3", "l3"), ("l3s", "l3s")] {
        assert_eq!(call(json!({"master": "eth1", "mode": mode})).ops_of_kind("create-ipvlan")[0]["mode"], want);
    }
    assert_eq!(call(json!({"master": "eth1", "mode": "bridge"})).error(), "unknown ipvlan mode: \"bridge\"");
}

#[test]
fn the_mtu_is_not_bound_by_the_parent() {
    assert_eq!(call(json!({"master": "eth1", "mtu": 9000})).ops_of_kind("create-ipvlan")[0]["mtu"], 9000);
    assert_eq!(call(json!({"master": "eth1", "mtu": -1})).error(), "invalid MTU -1, must be 0 or more");
}

#[test]
fn the_parent_is_named_or_the_default_routes_link_or_the_previous_plugins() {
    let needs = |conf: Value, previous: Option<&CniResult>| {
        find("ipvlan").unwrap().needs(&Object::from_value(conf).unwrap(), previous)
    };
    let ipam = json!({"ipam": {"type": "x"}});
    assert_eq!(needs(ipam.clone(), None).unwrap(), [Need::DefaultRouteLink(Side::Host)]);
    assert_eq!(
        needs(with_key(ipam.clone(), "linkInContainer", json!(true)), None).unwrap(),
        [Need::DefaultRouteLink(Side::Container)]
    );
    assert_eq!(needs(json!({"master": "m"}), None).unwrap(), [Need::Parent(LinkRef::host("m"))]);
    assert_eq!(needs(json!({}), None).unwrap(), [], "a chained one, as STATUS sees it");
    assert_eq!(needs(json!({}), Some(&previous())).unwrap(), [Need::Parent(LinkRef::host("up0"))]);
    assert_eq!(
        needs(json!({"linkInContainer": true}), Some(&previous())).unwrap(),
        [Need::Parent(LinkRef::container("up0"))]
    );

    let mut auto = call(json!({}));
    assert_eq!(auto.error(), "no default route interface found");
    auto.observed.default_route_links.insert(Side::Host, "eth1".to_owned());
    assert_eq!(auto.ops_of_kind("create-ipvlan")[0]["parent"]["name"], "eth1");
    let gone = call(json!({"master": "nope"})).error();
    assert_eq!(gone, "failed to lookup master \"nope\": Link not found");
}

#[test]
fn a_chain_must_leave_one_named_interface() {
    let mut two = previous();
    two.interfaces.push(Interface { name: "other".to_owned(), ..Interface::default() });
    let nameless = CniResult { interfaces: vec![Interface::default()], ..previous() };
    for previous in [two, nameless, CniResult { interfaces: Vec::new(), ..previous() }] {
        let text = "chained master failure. PrevResult lacks a single named interface";
        assert_eq!(chained(json!({}), previous.clone()).error(), text);
        let named = chained(json!({"master": "up0"}), previous);
        assert_eq!(named.ops_of_kind("create-ipvlan")[0]["parent"]["name"], "up0", "a name is enough");
    }
}

#[test]
fn without_ipam_the_previous_addresses_are_taken_over() {
    let call = chained(json!({"dns": {"search": ["a"]}}), previous());
    assert_eq!(call.ops_of_kind("add-address")[0]["address"], "10.9.0.2/24");
    assert_eq!(call.ops_of_kind("add-route")[0]["route"]["gw"], "10.9.0.1");
    let result = call.plan().unwrap().result;
    assert_eq!((result.interfaces.len(), result.ips[0].interface), (1, Some(0)));
    assert_eq!(result.dns.search, ["a"], "the configuration's");
    assert!(result.dns.nameservers.is_empty());
}

#[test]
fn ipam_goes_before_the_previous_addresses() {
    let call = chained(json!({"ipam": {"type": "x"}}), previous()).with_addresses(&[("10.0.0.2/24", None)], &[]);
    assert_eq!(call.ops_of_kind("add-address").len(), 1);
    assert_eq!(call.ops_of_kind("add-address")[0]["address"], "10.0.0.2/24");
    assert!(call.ops_of_kind("add-route").is_empty());
}

#[test]
fn no_addresses_from_anywhere() {
    let mut call = call(json!({"master": "eth1"}));
    call.addressing = None;
    assert_eq!(call.error(), "no plugin name provided");
    assert_eq!(chained(json!({}), CniResult { ips: Vec::new(), ..previous() }).error(), "no plugin name provided");
}

#[test]
fn addresses_taken_over_may_clash() {
    let mut previous = previous();
    previous.ips[0].address = "fd09::2/64".parse().unwrap();
    previous.ips[0].gateway = Some("fd09::1".parse().unwrap());
    assert_eq!(chained(json!({}), previous).ops_of_kind("wait-addresses").len(), 1);
}
