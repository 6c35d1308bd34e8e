//! The service `policy` with definitions of the cluster.

use std::net::TcpListener;
use std::path::Path;

use serde_json::json;
use weft_agent::PolicyOptions;
use weft_agent::registry::Access;
use weft_core::agent::ask;
use weft_core::agent::health::{Health, HealthRequest};
use weft_core::agent::policy::{Policy, PolicyRequest, PolicyState};

use super::{LONG, Place, http, wait_until};

#[test]
fn a_policy_whose_digest_is_wrong_is_never_put_in_place() {
    let place = Place::new();
    let pin = format!("configmap://team/policies/rack@sha256:{}", "a".repeat(64));
    place.nad("racks", &json!({"type": "weft", "ipam": {"type": "wasm", "policy": pin}}).to_string(), json!({}));
    let state = || {
        let reply = ask::<Policy>(&place.socket, &PolicyRequest {}, LONG).unwrap();
        reply.policies.into_iter().find(|row| row.reference == pin)
    };
    let reason = |part: &str| {
        state().is_some_and(|row| matches!(&row.state, PolicyState::Failed { reason } if reason.contains(part)))
    };
    wait_until("the ConfigMap is missed", || reason("there is no ConfigMap team/policies"));
    assert_eq!(state().unwrap().networks, ["team/racks"]);
    place.api.put_object(
        "configmaps",
        json!({"metadata": {"namespace": "team", "name": "policies"}, "data": {"rack": "tampered"}}),
    );
    wait_until("the digest is found to be wrong", || reason("sha256:"));
    let pinned = place.dir.path().join("state/policies/pinned");
    // Only the reason, for the next ADD that needs it.
    let names: Vec<_> = std::fs::read_dir(pinned).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(names.iter().all(|path| path.extension().is_some_and(|end| end == "missed")), "{names:?}");
    let metrics = http(&place.dir.path().join("http.sock"), "/metrics");
    assert!(metrics.contains("state=\"failed\""), "{metrics}");
    // An error of one policy is not a fault of the node.
    assert!(ask::<Health>(&place.socket, &HealthRequest {}, LONG).unwrap().faults.is_empty());
    place.api.delete("network-attachment-definitions", "team/racks");
    wait_until("the policy is not named any more", || state().is_none());
}

/// Everybody who may write a definition names registries. One on the node itself is asked only where the operator names
/// it, and with a trust file none without a rule.
#[test]
fn a_definition_does_not_make_the_agent_ask_servers_of_the_node() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let registry = listener.local_addr().unwrap().to_string();
    let is_asked = || listener.accept().is_ok();
    let pin = format!("oci://{registry}/net/rack:1@sha256:{}", "a".repeat(64));
    let conf = json!({"type": "weft", "ipam": {"type": "wasm", "policy": pin}}).to_string();
    let reason = |place: &Place| {
        let reply = ask::<Policy>(&place.socket, &PolicyRequest {}, LONG).unwrap();
        let row = reply.policies.into_iter().find(|row| row.reference == pin)?;
        if let PolicyState::Failed { reason } = row.state { Some(reason) } else { None }
    };
    let refused = |place: &Place, part: &str| {
        place.nad("racks", &conf, json!({}));
        wait_until(part, || reason(place).is_some_and(|reason| reason.contains(part)));
        assert!(!is_asked(), "{part}: the registry was asked");
    };
    let place = Place::new();
    refused(&place, &format!("start the agent with --plain-http {registry}"));
    let trust = place.dir.path().join("trust.json");
    let rules = json!({"version": 1, "registries": [{"prefix": "registry.example", "unsigned": true}]});
    std::fs::write(&trust, rules.to_string()).unwrap();
    let named = |trust: Option<&Path>| {
        let access = Access { plain_http: vec![registry.clone()], ..Access::default() };
        Place::with_policies(PolicyOptions { access, trust: trust.map(Path::to_owned), conf_dir: None })
    };
    refused(&named(Some(&trust)), "no rule in");
    // The operator has named it: it is asked.
    let place = named(None);
    place.nad("racks", &conf, json!({}));
    wait_until("the registry is asked", is_asked);
}
