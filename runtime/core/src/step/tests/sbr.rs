//! Gateways and tables to rules and routes.

use serde_json::{Value, json};

use super::{Call, veth};
use crate::plan::{LinkRef, Op};

fn sbr(conf: Value) -> Call {
    Call::new("sbr", &conf)
}

#[test]
fn addresses_with_their_gateways() {
    let golden = json!([{"op": "source-routes", "link": "eth0", "table": null, "source_hints": false, "sources": [
        {"address": "10.1.0.5/24", "gateway": "10.1.0.1"}, {"address": "fd01::5/64", "gateway": "fd01::1"}
    ]}]);
    assert_eq!(sbr(json!({})).ops(), golden);
    assert_eq!(sbr(json!({"gateways": null, "table": null})).after_op(veth()).ops(), golden, "in one process as well");
}

#[test]
fn every_key() {
    let ops = sbr(json!({"gateways": ["10.1.0.254"], "addSourceHints": true})).ops();
    assert_eq!(ops[0]["sources"][0]["gateway"], "10.1.0.254");
    assert_eq!(ops[0]["sources"][1]["gateway"], "fd01::1", "of the other family");
    assert_eq!(ops[0]["source_hints"], true);
    let ops = sbr(json!({"gateways": ["fd01::99", "::ffff:10.1.0.9"]})).ops();
    assert_eq!(ops[0]["sources"][0]["gateway"], "10.1.0.9");
    assert_eq!(ops[0]["sources"][1]["gateway"], "fd01::99");
    let ops = sbr(json!({"table": 4_000_000, "gateways": ["nonsense"], "addSourceHints": true})).ops();
    assert_eq!((&ops[0]["table"], &ops[0]["source_hints"]), (&json!(4_000_000), &json!(false)));
}

#[test]
fn only_addresses_of_the_interface() {
    let call = sbr(json!({})).previous(|previous| {
        previous.interfaces.push(LinkRef::container("net1"));
        previous.ips[0].interface = Some(2);
        previous.ips[1].interface = None;
        let mut third = previous.ips[0].clone();
        third.interface = Some(99);
        previous.ips.push(third);
    });
    let ops = call.ops();
    let sources: Vec<_> =
        ops[0]["sources"].as_array().unwrap().iter().map(|source| source["address"].clone()).collect();
    assert_eq!(sources, [json!("fd01::5/64"), json!("10.1.0.5/24")], "an index that points nowhere is like none");
    let none = "No IP addresses supplied on interface: eth0";
    assert_eq!(sbr(json!({})).previous(|previous| previous.ips.clear()).error(), none);
    let others = sbr(json!({})).previous(|previous| previous.ips.iter_mut().for_each(|ip| ip.interface = Some(0)));
    assert_eq!(others.error(), none);
}

#[test]
fn errors() {
    assert_eq!(sbr(json!({})).without_previous().error(), "This plugin must be called as chained plugin");
    let gateways = |list: Value| sbr(json!({ "gateways": list })).invalid();
    assert_eq!(
        gateways(json!(["10.0.0.1", "fd00::1", "10.0.0.2"])),
        "gateways list cannot contain more than 2 entries (one IPv4, one IPv6)"
    );
    assert_eq!(
        gateways(json!(["10.0.0.1", "10.0.0.2"])),
        "gateways list contains multiple IPv4 addresses: 10.0.0.1 and 10.0.0.2"
    );
    assert_eq!(
        gateways(json!(["fd00::1", "fd00::2"])),
        "gateways list contains multiple IPv6 addresses: fd00::1 and fd00::2"
    );
    assert_eq!(gateways(json!(["10.0.0.1/24"])), "invalid static gateway IP address: 10.0.0.1/24");
    assert!(gateways(json!("10.0.0.1")).starts_with("failed to parse network configuration: json: "));
    assert_eq!(sbr(json!({"table": 0})).invalid(), "invalid table 0, must be from 1 to 4294967295");
    assert_eq!(sbr(json!({"table": -1})).invalid(), "invalid table -1, must be from 1 to 4294967295");
}

#[test]
fn one_line_each() {
    let line = |conf: Value| sbr(conf).plan().unwrap().ops.iter().map(Op::to_string).collect::<String>();
    assert_eq!(line(json!({})), "route what comes from 10.1.0.5, fd01::5 out of eth0 (in the container)");
    assert_eq!(line(json!({"table": 7})), "route what comes from 10.1.0.5, fd01::5 by table 7");
}
