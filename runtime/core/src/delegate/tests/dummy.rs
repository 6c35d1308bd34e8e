//! Golden plans of `dummy`.

use serde_json::json;

use super::*;

#[test]
fn plan() {
    let call = Call::new("dummy", json!({"dns": {"search": ["a"]}}))
        .with_addresses(&[("10.0.0.2/24", Some("10.0.0.1")), ("fd00::2/64", None)], &[("10.9.0.0/16", None)]);
    assert_eq!(call.ops_of_kind("create-dummy"), [json!({"op": "create-dummy", "name": "eth0"})]);
    assert_eq!(
        call.lines(),
        [
            "create dummy eth0 (in the container)",
            "set net/ipv6/conf/eth0/accept_dad=0 in the container",
            "add address 10.0.0.2/24 to eth0 (in the container)",
            "enable IPv6 on eth0 (in the container)",
            "add address fd00::2/64 to eth0 (in the container)",
            "bring eth0 (in the container) up",
            "add route to 10.9.0.0/16 via 10.0.0.1 on eth0 (in the container)",
        ]
    );
    let result = call.plan().unwrap().result;
    assert_eq!(result.dns, call.addressing.as_ref().unwrap().dns, "IPAM's, not the configuration's");
    assert_eq!((result.interfaces, result.ips[1].interface), (vec![LinkRef::container("eth0")], Some(0)));
}

#[test]
fn it_cannot_do_without_ipam() {
    let dummy = find("dummy").unwrap();
    assert_eq!(dummy.ipam(), IpamUse::Required);
    assert_eq!(dummy.without_ipam(), "dummy interface requires an IPAM configuration");
    assert!(dummy.keys().is_empty());
}
