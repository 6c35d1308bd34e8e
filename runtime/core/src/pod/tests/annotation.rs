//! R3, R7 to R22: the selection annotation.

use std::net::IpAddr;

use serde_json::json;

use crate::pod::{NETWORKS, Selection, parse_selection};

fn read(text: &str) -> Vec<Selection> {
    parse_selection(NETWORKS, text).unwrap()
}

fn error(text: &str) -> String {
    parse_selection(NETWORKS, text).unwrap_err().to_string()
}

/// Returns the error of a JSON list with one element with these keys.
fn error_of(keys: &str) -> String {
    error(&format!("[{{\"name\": \"a\", {keys}}}]"))
}

fn one_selection(keys: &str) -> Selection {
    read(&format!("[{{\"name\": \"a\", {keys}}}]")).remove(0)
}

fn named(name: &str) -> Selection {
    Selection { name: name.to_owned(), ..Selection::default() }
}

#[test]
fn r3_names_are_those_of_objects() {
    assert_eq!(read("net.with.dots"), [named("net.with.dots")]);
    assert_eq!(read(r#"[{"name": "net.with.dots"}]"#), [named("net.with.dots")]);
    for bad in ["UPPER", "-a", "a_b", "a..b"] {
        assert!(error(bad).contains("is not a valid network name"), "{bad}");
    }
    assert!(error("a.b/net").contains("is not a valid name of a namespace"));
}

#[test]
fn r7_the_list_form_has_blanks_namespaces_and_interfaces() {
    assert!(read("").is_empty());
    let all = read(" a ,\n infra / b @ x0 , c@y0 ");
    assert_eq!(all[0], named("a"));
    assert_eq!((all[1].namespace.as_deref(), all[1].interface.as_deref()), (Some("infra"), Some("x0")));
    assert_eq!((all[1].name.as_str(), all[2].interface.as_deref()), ("b", Some("y0")));
    assert_eq!(error("a/b/c"), format!("annotation {NETWORKS}, element 1: \"a/b/c\" has more than one \"/\""));
    assert!(error("x, a@b@c").contains("element 2: \"a@b@c\" has more than one \"@\""));
    for blank in ["  ", "a,,b", "a,"] {
        assert!(error(blank).contains("it names no network"), "{blank}");
    }
}

#[test]
fn an_annotation_has_an_end() {
    let names: Vec<String> = (0..65).map(|number| format!("net{number}")).collect();
    let json: Vec<_> = names.iter().map(|name| json!({"name": name})).collect();
    let why = format!("annotation {NETWORKS} names 65 networks; a pod can have at most 64");
    assert_eq!(error(&names.join(",")), why);
    assert_eq!(error(&json!(json).to_string()), why);
    assert_eq!(read(&names[..64].join(",")).len(), 64);
}

#[test]
fn r7_json_must_be_a_list_of_objects() {
    assert!(error("{\"name\": \"a\"}").contains("it is JSON, but not a list"));
    assert!(error("[{\"name\": ").contains("not JSON"));
    assert!(error("[null, {\"name\": \"a\"}]").contains("element 1: null is not an object"));
    assert!(error("[\"a\"]").contains("element 1: \"a\" is not an object"));
    assert!(error("[{\"name\": 1}]").contains("cannot unmarshal number 1 into field name of type string"));
    assert!(read("[]").is_empty());
}

#[test]
fn r8_unknown_keys_are_ignored_and_case_does_not_matter() {
    let read = one_selection(r#""Interface": "x0", "example.com/mine": 1, "later": {}"#);
    assert_eq!(read, Selection { interface: Some("x0".to_owned()), ..named("a") });
}

#[test]
fn r9_r10_a_name_is_required_and_a_slash_in_it_is_not_split() {
    assert!(error("[{}]").contains("it names no network"));
    assert!(error(r#"[{"name": "infra/a"}]"#).contains("\"infra/a\" is not a valid network name"));
    assert_eq!(one_selection(r#""namespace": "infra""#).namespace.as_deref(), Some("infra"));
}

#[test]
fn r11_ips_are_addresses_with_or_without_prefix() {
    let ips = ["10.0.0.5/24", "fd00::5", "10.0.0.6"];
    assert_eq!(one_selection(&format!("\"ips\": {}", json!(ips))).ips, ips);
    assert!(error_of(r#""ips": []"#).contains("ips is an empty list"));
    assert!(error_of(r#""ips": ["10.0.0.256"]"#).contains("ips has \"10.0.0.256\""));
    assert!(error_of(r#""ips": ["10.0.0.1/33"]"#).contains("ips has"));
    assert!(error_of(r#""ips": "10.0.0.1""#).contains("of type list"));
}

#[test]
fn r12_a_mac_has_six_octets() {
    assert_eq!(one_selection(r#""mac": "02:aa:BB:cc:dd:01""#).mac.as_deref(), Some("02:aa:BB:cc:dd:01"));
    for bad in ["02:aa:bb:cc:dd", "02:aa:bb:cc:dd:01:02:03", "02:aa:bb:cc:dd:zz", "x"] {
        assert!(error_of(&format!("\"mac\": \"{bad}\"")).contains("is not an address of 6 octets"), "{bad}");
    }
}

#[test]
fn r13_an_interface_name_fits_the_kernel_and_is_used_once() {
    assert_eq!(read("a@abcdefghijklmno")[0].interface.as_deref(), Some("abcdefghijklmno"));
    assert!(error("a@abcdefghijklmnop").contains("interface name is too long"));
    assert!(error("a@").contains("interface name is empty"));
    assert!(error("a@x0, b@x0").contains("element 2: interface \"x0\" is asked for twice"));
}

#[test]
fn r14_cni_args_are_an_object() {
    let read = one_selection(r#""cni-args": {"vrf": "blue", "deep": {"x": [1]}}"#).cni_args.unwrap();
    assert_eq!(json!(read), json!({"vrf": "blue", "deep": {"x": [1]}}));
    assert!(error_of(r#""cni-args": [1]"#).contains("of type object"));
}

#[test]
fn r15_port_mappings_have_ports_and_a_protocol() {
    let read = one_selection(
        r#""portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "TCP", "hostIP": "192.0.2.1"},
                                       {"hostPort": 53, "containerPort": 53}]"#,
    );
    assert_eq!(
        json!(read.port_mappings),
        json!([{"hostPort": 8080, "containerPort": 80, "protocol": "TCP", "hostIP": "192.0.2.1"},
               {"hostPort": 53, "containerPort": 53}])
    );
    for bad in [
        r#"{"hostPort": 0, "containerPort": 80}"#,
        r#"{"hostPort": 65536, "containerPort": 80}"#,
        r#"{"hostPort": 80}"#,
        r#"{"hostPort": 80, "containerPort": 80, "protocol": "icmp"}"#,
        r#"{"hostPort": 80, "containerPort": 80, "hostIP": "x"}"#,
    ] {
        assert!(error_of(&format!("\"portMappings\": [{bad}]")).contains("portMappings: "), "{bad}");
    }
}

#[test]
fn r16_bandwidth_has_a_rate_and_missing_numbers_are_zero() {
    let read = one_selection(r#""bandwidth": {"ingressRate": 1000}"#).bandwidth.unwrap();
    assert_eq!(read, json!({"ingressRate": 1000, "ingressBurst": 0, "egressRate": 0, "egressBurst": 0}));
    for bad in ["{}", r#"{"ingressBurst": 1}"#, r#"{"egressRate": -1}"#, r#"{"ingressRate": 0}"#] {
        assert!(error_of(&format!("\"bandwidth\": {bad}")).contains("bandwidth"), "{bad}");
    }
}

#[test]
fn r17_one_element_has_the_default_route_which_may_be_empty() {
    let gateways: Vec<IpAddr> = vec!["10.0.0.1".parse().unwrap(), "fd00::1".parse().unwrap()];
    assert_eq!(one_selection(r#""default-route": ["10.0.0.1", "fd00::1"]"#).default_route, Some(gateways));
    assert_eq!(one_selection(r#""default-route": []"#).default_route, Some(Vec::new()));
    assert!(error_of(r#""default-route": ["10.0.0.0/8"]"#).contains("default-route has"));
    let two = r#"[{"name": "a", "default-route": []}, {"name": "b", "default-route": ["10.0.0.1"]}]"#;
    assert!(error(two).contains("element 2: element 1 has default-route already"));
}

#[test]
fn r18_a_guid_has_eight_octets() {
    assert!(one_selection(r#""infiniband-guid": "24:8a:07:03:00:8d:ae:2e""#).guid.is_some());
    assert!(error_of(r#""infiniband-guid": "24:8a:07:03:00:8d""#).contains("is not an address of 8 octets"));
}

#[test]
fn r19_a_claim_and_addresses_exclude_each_other() {
    assert_eq!(one_selection(r#""ipam-claim-reference": "claim-1""#).ipam_claim.as_deref(), Some("claim-1"));
    let both = r#""ipam-claim-reference": "claim-1", "ips": ["10.0.0.1/24"]"#;
    assert!(error_of(both).contains("exclude each other"));
    assert!(error_of(r#""ipam-claim-reference": "Not A Name""#).contains("is not a valid name of an object"));
}

#[test]
fn r20_device_ids_and_the_old_name_of_interface_are_read() {
    assert_eq!(one_selection(r#""deviceID": "0000:03:02.3""#).device_id.as_deref(), Some("0000:03:02.3"));
    assert_eq!(one_selection(r#""interfaceRequest": "old0""#).interface.as_deref(), Some("old0"));
    assert_eq!(one_selection(r#""interfaceRequest": "old0", "interface": "new0""#).interface.as_deref(), Some("new0"));
}

#[test]
fn r21_the_same_network_may_be_listed_many_times() {
    assert_eq!(read("a, a, a@x0").len(), 3);
}
