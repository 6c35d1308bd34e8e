//! Golden plans of `ptp`.

use serde_json::json;

use super::*;

#[test]
fn both_families() {
    let call = Call::new("ptp", json!({"ipMasq": true, "mtu": 1400})).with_addresses(
        &[("10.1.2.3/24", Some("10.1.2.1")), ("fd00::3/64", Some("fd00::1"))],
        &[("0.0.0.0/0", None), ("::/0", None)],
    );
    assert_eq!(
        call.lines(),
        [
            "enable IPv4 forwarding",
            "enable IPv6 forwarding",
            "create veth eth0 (in the container) with peer veth01020304",
            "set net/ipv6/conf/eth0/accept_dad=0 in the container",
            "add address 10.1.2.3/24 to eth0 (in the container)",
            "enable IPv6 on eth0 (in the container)",
            "add address fd00::3/64 to eth0 (in the container)",
            "bring eth0 (in the container) up",
            "wait for duplicate address detection on eth0 (in the container)",
            "drop the connected route to 10.1.2.0/24 on eth0 (in the container)",
            "add route to 10.1.2.1/32 on eth0 (in the container)",
            "add route to 10.1.2.0/24 via 10.1.2.1 on eth0 (in the container)",
            "drop the connected route to fd00::/64 on eth0 (in the container)",
            "add route to fd00::1/128 on eth0 (in the container)",
            "add route to fd00::/64 via fd00::1 on eth0 (in the container)",
            "add route to 0.0.0.0/0 via 10.1.2.1 on eth0 (in the container)",
            "add route to ::/0 via fd00::1 on eth0 (in the container)",
            "set net/ipv6/conf/veth01020304/accept_dad=0",
            "add address 10.1.2.1/32 to veth01020304",
            "add route to 10.1.2.3/32 on veth01020304",
            "add address fd00::1/128 to veth01020304",
            "add route to fd00::3/128 on veth01020304",
            "masquerade 10.1.2.3/24",
            "masquerade fd00::3/64",
            "announce the addresses of eth0 (in the container)",
        ]
    );
    assert_eq!(call.ops_of_kind("create-veth")[0]["mtu"], 1400);
    let result = call.plan().unwrap().result;
    assert_eq!(result.interfaces, [LinkRef::host("veth01020304"), LinkRef::container("eth0")]);
    assert!(result.ips.iter().all(|ip| ip.interface == Some(1)));
    assert_eq!(result.routes.len(), 2);
    assert_eq!(result.routes[0].gw, None);
}

#[test]
fn routes_carry_source_and_scope() {
    let call = Call::new("ptp", json!({})).with_addresses(&[("10.1.2.3/24", Some("10.1.2.1"))], &[]);
    let routes = call.ops_of_kind("add-route");
    let part = |index: usize| {
        let route = &routes[index];
        (route["route"]["scope"].clone(), route["src"].clone(), route["existing_ok"].clone())
    };
    assert_eq!(part(0), (json!(253), json!("10.1.2.3"), json!(false)), "gateway, on the link");
    assert_eq!(part(1), (Value::Null, json!("10.1.2.3"), json!(false)), "subnet, through the gateway");
    assert_eq!(part(2), (json!(254), Value::Null, json!(true)), "on the host, where it may be there already");
    assert!(call.ops_of_kind("masquerade").is_empty());
}

#[test]
fn an_address_without_a_subnet_needs_no_connected_route() {
    let call =
        Call::new("ptp", json!({})).with_addresses(&[("10.1.2.3/32", Some("169.254.1.1"))], &[("0.0.0.0/0", None)]);
    assert!(call.ops_of_kind("drop-connected-route").is_empty());
    let dst: Vec<_> = call.ops_of_kind("add-route").iter().map(|op| op["route"]["dst"].clone()).collect();
    assert_eq!(dst, ["169.254.1.1/32", "0.0.0.0/0", "10.1.2.3/32"], "the next hop is known before it is used");
}

#[test]
fn addresses_may_share_subnet_and_gateway() {
    let call = Call::new("ptp", json!({}))
        .with_addresses(&[("10.1.2.3/24", Some("10.1.2.1")), ("10.1.2.4/24", Some("10.1.2.1"))], &[]);
    assert_eq!(call.ops_of_kind("drop-connected-route").len(), 1);
    assert_eq!(call.ops_of_kind("forwarding").len(), 1);
    let host = |op: &Value| op["link"]["side"] == "host";
    assert_eq!(call.ops_of_kind("add-address").iter().filter(|op| host(op)).count(), 1);
    assert_eq!(call.ops_of_kind("add-route").iter().filter(|op| host(op)).count(), 2);
}

#[test]
fn an_address_needs_a_gateway_of_its_family() {
    let call = Call::new("ptp", json!({})).with_addresses(&[("10.1.2.3/24", None)], &[]);
    assert_eq!(call.error(), "ptp needs a gateway for 10.1.2.3/24, but IPAM gave none");
    let call = Call::new("ptp", json!({})).with_addresses(&[("10.1.2.3/24", Some("fd00::1"))], &[]);
    assert_eq!(call.error(), "gateway fd00::1 is of another family than its address 10.1.2.3/24");
    assert_eq!(Call::new("ptp", json!({})).error(), "no plugin name provided");
}

#[test]
fn dns_of_the_configuration_wins_only_where_it_is_set() {
    let dns = |conf| {
        Call::new("ptp", conf).with_addresses(&[("10.1.2.3/24", Some("10.1.2.1"))], &[]).plan().unwrap().result.dns
    };
    assert_eq!(dns(json!({})).nameservers, ["10.0.0.53"]);
    assert_eq!(dns(json!({"dns": {}})).nameservers, ["10.0.0.53"]);
    assert_eq!(dns(json!({"dns": {"nameservers": []}})), Dns::default());
    assert_eq!(dns(json!({"dns": {"domain": "d"}})), Dns { domain: Some("d".to_owned()), ..Dns::default() });
}

#[test]
fn masquerade_backends_are_checked() {
    let with = |backend: &str| {
        Call::new("ptp", json!({"ipMasq": true, "ipMasqBackend": backend}))
            .with_addresses(&[("10.1.2.3/24", Some("10.1.2.1"))], &[])
    };
    assert_eq!(with("iptables").ops_of_kind("masquerade"), with("nftables").ops_of_kind("masquerade"));
    assert_eq!(with("ipfw").error(), "unknown ipmasq backend \"ipfw\"");
}

#[test]
fn where_addresses_may_clash_detection_is_waited_for_once() {
    let mut call = Call::new("ptp", json!({})).with_addresses(&[("fd00::3/64", Some("fd00::1"))], &[]);
    call.addressing.as_mut().unwrap().unique = false;
    assert_eq!(call.ops_of_kind("wait-addresses").len(), 1);
    assert!(call.ops_of_kind("sysctl").is_empty());
}

#[test]
fn nothing_is_looked_up_beforehand() {
    assert!(find("ptp").unwrap().needs(&Object::default(), None).unwrap().is_empty());
}
