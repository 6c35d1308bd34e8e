//! Names and tables of VRFs.

use serde_json::json;

use super::{Call, veth};

#[test]
fn every_key() {
    let call = Call::new("vrf", &json!({"vrfname": "red"}));
    assert_eq!(call.ops(), json!([{"op": "join-vrf", "link": "eth0", "vrf": "red", "table": null}]));
    assert_eq!(call.plan().unwrap().ops[0].to_string(), "put eth0 into VRF red (in the container)");
    let call = Call::new("vrf", &json!({"vrfname": "red", "table": 4_294_967_295_u32})).after_op(veth());
    assert_eq!(call.ops(), json!([{"op": "join-vrf", "link": "eth0", "vrf": "red", "table": 4_294_967_295_u32}]));
    assert_eq!(Call::new("vrf", &json!({"vrfname": "red", "table": 0})).ops()[0]["table"], json!(null));
}

#[test]
fn errors() {
    let unnamed = "configuration is expected to have a valid vrf name";
    assert_eq!(Call::new("vrf", &json!({})).invalid(), unnamed);
    assert_eq!(Call::new("vrf", &json!({"vrfname": ""})).invalid(), unnamed);
    assert!(
        Call::new("vrf", &json!({"vrfname": "x", "table": -1})).invalid().starts_with("failed to load netconf: json: ")
    );
    let call = Call::new("vrf", &json!({"vrfname": "red"})).without_previous();
    assert_eq!(call.error(), "missing prevResult from earlier plugin");
}
