//! Golden plans of portmap, and its refusals.

#![allow(clippy::unwrap_used, reason = "tests")]

use serde_json::{Value, json};

use super::super::Previous;
use super::*;
use crate::plan::{LinkRef, Observed, ShapeIp};

fn object(conf: Value) -> Object {
    Object::from_value(conf).unwrap()
}

fn attachment() -> Attachment {
    Attachment { network: "net".to_owned(), container_id: "cid".to_owned(), ifname: "eth0".to_owned() }
}

fn previous() -> Previous {
    let ip = |text: &str, interface| ShapeIp { address: text.parse().unwrap(), gateway: None, interface };
    Previous {
        interfaces: vec![LinkRef::host("cni0"), LinkRef::container("eth0"), LinkRef::container("eth1")],
        ips: vec![
            ip("10.9.9.9/24", Some(0)),
            ip("10.8.8.8/24", Some(2)),
            ip("10.1.2.3/24", Some(1)),
            ip("10.1.2.4/24", Some(1)),
            ip("fd00::3/64", Some(1)),
        ],
        routes: Vec::new(),
    }
}

fn plan(conf: Value) -> Result<Vec<String>, StepError> {
    let conf = object(conf);
    Portmap.validate(&conf, &[])?;
    let (attachment, previous, observed) = (attachment(), previous(), Observed::default());
    let input = StepInput {
        conf: &conf,
        attachment: &attachment,
        netns: "/run/netns/x",
        cni_args: &[],
        previous: Some(&previous),
        before: &[],
        observed: &observed,
    };
    let ops = Portmap.plan(&input)?.ops;
    Ok(ops
        .iter()
        .map(|op| match op {
            Op::HostPort(port) => {
                let sources: Vec<String> = port.masquerade.iter().map(ToString::to_string).collect();
                format!("{port}; masquerade [{}]", sources.join(" "))
            }
            other => other.to_string(),
        })
        .collect())
}

fn with_mappings(mut conf: Value, mappings: Value) -> Value {
    conf["runtimeConfig"] = json!({ "portMappings": mappings });
    conf
}

fn one_mapping() -> Value {
    json!([{ "hostPort": 8080, "containerPort": 80, "protocol": "TCP" }])
}

#[test]
fn both_families_and_whom_to_masquerade() {
    assert_eq!(
        plan(with_mappings(json!({}), one_mapping())).unwrap(),
        [
            "map host port 8080/tcp to 10.1.2.3:80; masquerade [10.1.2.0/24 127.0.0.1/32]",
            "let 127.0.0.1 be routed to 10.1.2.3",
            "map host port 8080/tcp to [fd00::3]:80; masquerade [fd00::/64]",
        ]
    );
    assert_eq!(
        plan(with_mappings(json!({ "masqAll": true }), one_mapping())).unwrap(),
        [
            "map host port 8080/tcp to 10.1.2.3:80; masquerade [0.0.0.0/0]",
            "let 127.0.0.1 be routed to 10.1.2.3",
            "map host port 8080/tcp to [fd00::3]:80; masquerade [::/0]",
        ]
    );
    assert_eq!(
        plan(with_mappings(json!({ "snat": false, "masqAll": true }), one_mapping())).unwrap(),
        [
            "map host port 8080/tcp to 10.1.2.3:80; masquerade []",
            "map host port 8080/tcp to [fd00::3]:80; masquerade []",
        ]
    );
}

#[test]
fn addresses_of_the_host() {
    let at = |ip: &str| json!([{ "hostPort": 53, "containerPort": 5353, "protocol": "udp", "hostIP": ip }]);
    let plan = |ip: &str| plan(with_mappings(json!({ "snat": false }), at(ip))).unwrap();
    assert_eq!(plan("192.0.2.1"), ["map host port 53/udp of 192.0.2.1 to 10.1.2.3:5353; masquerade []"]);
    assert_eq!(plan("2001:db8::1"), ["map host port 53/udp of 2001:db8::1 to [fd00::3]:5353; masquerade []"]);
    assert_eq!(plan("0.0.0.0"), ["map host port 53/udp to 10.1.2.3:5353; masquerade []"]);
    assert_eq!(plan("::"), ["map host port 53/udp to [fd00::3]:5353; masquerade []"]);
    assert_eq!(plan("").len(), 2);
}

#[test]
fn nothing_to_do() {
    assert_eq!(plan(json!({})).unwrap(), [""; 0]);
    assert_eq!(plan(with_mappings(json!({}), json!([]))).unwrap(), [""; 0]);
    let twice =
        json!([{ "hostPort": 1, "containerPort": 2 }, { "hostPort": 1, "containerPort": 2, "protocol": "tcp" }]);
    assert_eq!(plan(with_mappings(json!({ "snat": false }), twice)).unwrap().len(), 2);
}

#[test]
fn conditions_are_kept_by_family() {
    let conf = json!({ "conditionsV4": ["-d", "192.0.2.1"], "conditionsV6": ["ip6", "saddr != 2001:db8::/32"], "snat": false });
    assert_eq!(
        plan(with_mappings(conf, one_mapping())).unwrap(),
        [
            "map host port 8080/tcp to 10.1.2.3:80 if destination is 192.0.2.1/32; masquerade []",
            "map host port 8080/tcp to [fd00::3]:80 if source is not 2001:db8::/32; masquerade []",
        ]
    );
}

/// Each combination of values is a rule, for each port.
#[test]
fn conditions_need_a_bounded_number_of_rules() {
    let sources = |count: usize| (0..count).flat_map(|at| ["-s".to_owned(), format!("10.0.{at}.0/24")]);
    let ports = |count: u16| {
        let port = |at: u16| json!({ "hostPort": 1000 + at, "containerPort": 80, "protocol": "tcp" });
        Value::from((0..count).map(port).collect::<Vec<_>>())
    };
    // The last of several `-s` does not replace the others: no packet meets both.
    let of = |words: Vec<String>| json!({ "conditionsV4": words });
    let list = |count: usize| {
        let nets: Vec<String> = (0..count).map(|at| format!("10.0.{at}.0/24")).collect();
        vec!["-s".to_owned(), nets.join(",")]
    };
    assert!(plan(with_mappings(of(sources(200).collect()), ports(20))).is_ok(), "one combination");
    let product = |nets: usize, sources: usize| {
        let spans: Vec<String> = (0..sources).map(|at| (1000 + at).to_string()).collect();
        of(vec![format!("ip saddr {{ {} }}", list(nets)[1]), format!("th sport {{ {} }}", spans.join(", "))])
    };
    let mapped = plan(with_mappings(product(64, 8), ports(8))).unwrap();
    assert_eq!(mapped.iter().filter(|op| op.starts_with("map ")).count(), 16, "4096 rules for IPv4, none for IPv6");
    for (nets, sources, count) in [(64, 8, 9), (65, 64, 1), (200, 200, 1)] {
        let error = plan(with_mappings(product(nets, sources), ports(count))).unwrap_err().to_string();
        let combinations = nets * sources;
        for part in ["conditionsV4", &format!("{combinations} combinations"), &format!("{count} ports"), "4096 rules"] {
            assert!(error.contains(part), "{part}: {error}");
        }
    }
}

#[test]
fn portmap_refuses_what_the_reference_refuses() {
    let bad = |conf: Value| plan(conf).unwrap_err().to_string();
    let port = |host: i64, container: i64| json!([{ "hostPort": host, "containerPort": container, "protocol": "tcp" }]);
    for (conf, text) in [
        (with_mappings(json!({}), port(0, 80)), "Invalid host port number: 0"),
        (with_mappings(json!({}), port(80, -1)), "Invalid container port number: -1"),
        (with_mappings(json!({}), port(70_000, 80)), "Invalid host port number: 70000"),
        (
            with_mappings(json!({}), json!([{ "hostPort": 1, "containerPort": 2, "protocol": "icmp" }])),
            "Invalid protocol \"icmp\" of host port 1: want tcp, udp or sctp",
        ),
        (
            with_mappings(json!({}), json!([{ "hostPort": 1, "containerPort": 2, "hostIP": "x" }])),
            "Invalid host IP \"x\" of host port 1",
        ),
        (json!({ "markMasqBit": 32 }), "MasqMarkBit must be between 0 and 31"),
        (json!({ "markMasqBit": -1 }), "MasqMarkBit must be between 0 and 31"),
        (
            json!({ "markMasqBit": 5, "externalSetMarkChain": "X" }),
            "Cannot specify externalSetMarkChain and markMasqBit",
        ),
        (json!({ "backend": "pf" }), "unrecognized backend \"pf\""),
        (
            json!({ "backend": "nftables", "externalSetMarkChain": "X", "conditionsV6": ["-d", "::1"] }),
            "nftables backend was requested but configuration contains iptables-specific options [externalSetMarkChain conditionsV6]",
        ),
        (
            json!({ "backend": "iptables", "conditionsV4": ["ip daddr 10.0.0.1"], "conditionsV6": ["ip6 daddr ::1"] }),
            "iptables backend was requested but configuration contains nftables-specific options [conditionsV4 conditionsV6]",
        ),
        (
            json!({ "snat": 1 }),
            "failed to parse network configuration: json: cannot unmarshal number 1 into field snat of type bool",
        ),
    ] {
        assert_eq!(bad(conf), format!("failed to parse config: {text}"));
    }
    let input = |previous| (previous, object(json!({})));
    let (previous, conf) = input(None);
    let (attachment, observed) = (attachment(), Observed::default());
    let input = StepInput {
        conf: &conf,
        attachment: &attachment,
        netns: "",
        cni_args: &[],
        previous,
        before: &[],
        observed: &observed,
    };
    assert_eq!(Portmap.plan(&input).unwrap_err().to_string(), "must be called as chained plugin");
}
