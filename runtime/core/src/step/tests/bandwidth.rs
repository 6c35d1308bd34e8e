//! Rates to qdiscs: every key, every refusal.

use serde_json::{Value, json};

use super::{Call, macvlan, veth};
use crate::plan::{LinkRef, Op, Peer};

/// The prefix of intermediate devices' names.
const IFB: &str = "bwp";

fn bandwidth(conf: Value) -> Call {
    Call::new("bandwidth", &conf)
}

fn both_rates() -> Value {
    json!({"ingressRate": 16, "ingressBurst": 24, "egressRate": 8_000, "egressBurst": 80_000})
}

#[test]
fn both_ways() {
    for call in [
        bandwidth(both_rates()),
        bandwidth(both_rates()).after_op(veth()),
        bandwidth(json!({"runtimeConfig": {"bandwidth": both_rates()}})),
    ] {
        let plan = call.plan().unwrap();
        let ifb = plan.interfaces[0].name.clone();
        assert!(ifb.starts_with(IFB) && ifb.len() == 15, "{ifb}");
        assert_eq!(plan.interfaces, [LinkRef::host(ifb.as_str())]);
        assert_eq!(
            call.ops(),
            json!([
                {"op": "limit-rate", "link": "veth1", "rate": 2, "burst": 3},
                {"op": "create-ifb", "name": ifb, "like": "veth1"},
                {"op": "limit-rate", "link": ifb, "rate": 1_000, "burst": 10_000},
                {"op": "redirect-ingress", "from": "veth1", "to": ifb},
            ])
        );
    }
}

#[test]
fn one_way() {
    let call = bandwidth(json!({"ingressRate": 800, "ingressBurst": 8}));
    assert_eq!(call.ops(), json!([{"op": "limit-rate", "link": "veth1", "rate": 100, "burst": 1}]));
    assert!(call.plan().unwrap().interfaces.is_empty());
    let call = bandwidth(json!({"egressRate": 1_u64 << 40, "egressBurst": (1_u64 << 35) - 9}));
    let ops = call.ops();
    assert_eq!(ops.as_array().unwrap().len(), 3);
    assert_eq!((&ops[1]["rate"], &ops[1]["burst"]), (&json!(1_u64 << 37), &json!(u32::MAX - 1)));
}

#[test]
fn bandwidth_without_rates_needs_no_facts() {
    for conf in [json!({}), json!({"ingressRate": 0, "egressBurst": 0}), json!({"runtimeConfig": {"bandwidth": null}})]
    {
        assert_eq!(bandwidth(conf).without_previous().ops(), json!([]));
    }
}

#[test]
fn the_configuration_wins_over_the_runtime() {
    let runtime = json!({"bandwidth": both_rates()});
    let call = bandwidth(json!({"EgressRate": 80, "egressBurst": 80, "runtimeConfig": runtime}));
    assert_eq!(call.ops()[1]["rate"], 10);
    assert_eq!(call.ops().as_array().unwrap().len(), 3, "as a whole");
    assert_eq!(bandwidth(json!({"ingressRate": null, "runtimeConfig": runtime})).ops(), json!([]));
}

#[test]
fn impossible_rates_and_bursts_are_refused() {
    let invalid = |rate: u64, burst: u64| {
        let texts = ["ingress", "egress"]
            .map(|way| bandwidth(json!({ format!("{way}Rate"): rate, format!("{way}Burst"): burst })).invalid());
        texts.map(|text| text.replace("ingress", "").replace("egress", ""))
    };
    assert_eq!(invalid(8, 0), ["if rate is set, burst must also be set"; 2]);
    assert_eq!(invalid(0, 8), ["if burst is set, rate must also be set"; 2]);
    assert_eq!(invalid(8, 1 << 35), ["burst cannot be more than 4GB"; 2]);
    assert_eq!(invalid(8, 8 * u64::from(u32::MAX)), ["burst cannot be more than 4GB"; 2]);
    assert_eq!(invalid(7, 8), ["Rate 7 is less than 8 bits"; 2]);
    assert_eq!(invalid(8, 7), ["Burst 7 is less than 8 bits"; 2]);
    let text = bandwidth(json!({"ingressRate": -1})).invalid();
    assert!(text.starts_with("failed to parse network configuration: json: "), "{text}");
    assert!(bandwidth(json!({"runtimeConfig": {"bandwidth": {"egressRate": "8"}}})).invalid().contains("egressRate"));
}

#[test]
fn the_other_end_of_the_pair() {
    let eth0 = || LinkRef::container("eth0");
    let with = |peer: Option<Peer>| {
        let mut call = bandwidth(both_rates());
        call.observed.peers.clear();
        call.observed.peers.extend(peer.map(|peer| (eth0(), peer)));
        call.error()
    };
    assert_eq!(with(Some(Peer::Host("veth2".to_owned()))), "no veth peer of container interface found in host ns");
    assert_eq!(with(Some(Peer::Elsewhere(5))), "veth peer with index 5 is not in host ns");
    let not_veth = "container interface eth0 has no veth peer: interface \"eth0\" was not a veth interface";
    assert_eq!(with(Some(Peer::NotVeth)), not_veth);
    let gone = "container interface eth0 has no veth peer: could not look up \"eth0\": Link not found";
    assert_eq!(with(Some(Peer::NoLink)), gone);
    assert_eq!(with(None), gone);
    assert_eq!(bandwidth(both_rates()).after_op(macvlan()).error(), not_veth);
    assert_eq!(bandwidth(both_rates()).without_previous().error(), "must be called as chained plugin");
    assert_eq!(
        bandwidth(both_rates()).previous(|previous| previous.interfaces.clear()).error(),
        "no interfaces provided"
    );
    // A container link with the same name as the host's end must not match.
    let call = bandwidth(both_rates()).previous(|previous| previous.interfaces[0] = LinkRef::container("veth1"));
    assert_eq!(call.error(), "no veth peer of container interface found in host ns");
    // Of several host links, the peer is chosen.
    let call = bandwidth(both_rates()).previous(|previous| previous.interfaces.insert(0, LinkRef::host("br0")));
    assert_eq!(call.ops()[0]["link"], "veth1");
}

#[test]
fn one_line_each() {
    let lines: Vec<_> = bandwidth(both_rates()).plan().unwrap().ops.iter().map(Op::to_string).collect();
    let ifb = &bandwidth(both_rates()).plan().unwrap().interfaces[0].name;
    assert_eq!(
        lines,
        [
            "limit veth1 to 2 bytes/s (burst 3 bytes)".to_owned(),
            format!("create ifb {ifb} for veth1"),
            format!("limit {ifb} to 1000 bytes/s (burst 10000 bytes)"),
            format!("redirect what comes in through veth1 to {ifb}"),
        ]
    );
}
