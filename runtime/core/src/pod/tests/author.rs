//! What the author of a definition may not say.

use std::fs;

use serde_json::{Value, json};

use super::list::Case;
use crate::cni::{Object, Version};
use crate::pod::{PodError, Settings};

#[test]
fn a_definition_names_no_files_or_servers_of_the_operator() {
    let etcd =
        json!({"type": "etcd", "endpoints": ["https://192.0.2.1:2379"], "passwordFile": "/etc/kubernetes/admin.conf"});
    let ipam =
        |key: &str, value: &Value| json!({"name": "a", "type": "bridge", "ipam": {"type": "host-local", key: value}});
    let weft = |key: &str, value: Value| json!({"name": "a", "type": "weft", key: value});
    let refused = [
        (weft("ledger", etcd.clone()), "ledger.endpoints"),
        (weft("LEDGER", json!({"Type": "etcd"})), "LEDGER.Type"),
        (weft("ledger", json!({"type": "kubernetes", "socket": "/run/containerd/containerd.sock"})), "ledger.socket"),
        (weft("grants", json!({"wasi": true, "data": "/etc/kubernetes"})), "grants.data"),
        (weft("select", json!({"policy": "x", "files": {"f": "/etc/secret"}})), "select.files"),
        (
            weft(
                "select",
                json!({"policy": "x", "monitor": {"policy": "y", "select": {"files": {"f": "/etc/secret"}}}}),
            ),
            "select.monitor.select.files",
        ),
        (ipam("ledger", &etcd), "ipam.ledger.endpoints"),
        (ipam("grants", &json!({"Data": "/etc/kubernetes"})), "ipam.grants.Data"),
        (ipam("resolvConf", &json!("/etc/secret")), "ipam.resolvConf"),
        (ipam("daemonSocketPath", &json!("/run/containerd/containerd.sock")), "ipam.daemonSocketPath"),
        (json!({"name": "a", "type": "flannel", "SubnetFile": "/etc/secret"}), "SubnetFile"),
        (json!({"name": "a", "plugins": [{"type": "calico"}, weft("grants", json!({"data": "/"}))]}), "grants.data"),
        (
            json!({"name": "a", "type": "weft", "delegates": [{"type": "theirs", "ipam": {"ledger": etcd}}]}),
            "delegates.ipam.ledger.endpoints",
        ),
    ];
    for (conf, key) in refused {
        let case = || Case::new("a").nad("default/a", conf.clone());
        let error = case().build().unwrap_err();
        assert!(matches!(error, PodError::Untrusted { .. }) && error.code() == 7, "{key}: {error}");
        let text = error.to_string();
        assert!(text.contains(&format!("{key:?}")) && text.contains("default/a"), "{key}: {text}");
        assert!(text.contains("trustedNamespaces") && text.contains("\"kube-system\""), "{key}: {text}");
        // `globalNamespaces` says who may use definitions, not whose they are.
        case().conf("globalNamespaces", json!("default")).error();
        for trusted in ["default", "*"] {
            assert_eq!(case().conf("trustedNamespaces", json!(["x", trusted])).list().len(), 2, "{key}");
        }
        assert_eq!(case().conf("multusNamespace", json!("default")).list().len(), 2, "{key}");
    }
    let admitted = [
        weft("ledger", json!({"type": "kubernetes", "domain": "d", "pool": "p"})),
        weft("grants", json!({"wasi": true, "routes": ["10.0.0.0/8"]})),
        weft("ipam", json!({"type": "wasm", "policy": "file:///opt/policy.wasm", "resolvConf": "/etc/resolv.conf"})),
        json!({"name": "a", "type": "host-device", "device": "eth7", "ipam": {"type": "host-local", "dataDir": "/run/x"}}),
        json!({"name": "a", "type": "flannel", "subnetFile": "/run/flannel/subnet.env"}),
        json!({"name": "a", "type": "macvlan", "ipam": {"type": "dhcp", "daemonSocketPath": "/run/cni/dhcp.sock"}}),
    ];
    for conf in admitted {
        assert_eq!(Case::new("a").nad("default/a", conf).list().len(), 2);
    }
    // Without a config, the text is the node's own file.
    let case = Case::new("a").nad_text("default/a", None);
    let file = json!({"name": "a", "type": "weft", "grants": {"data": "/srv"}});
    fs::write(case.node.path().join("a.conf"), file.to_string()).unwrap();
    assert_eq!(case.list().len(), 2);
}

#[test]
fn weft_pod_is_no_plugin_of_a_network_at_any_depth() {
    let with = |kind: &str, more: Value| {
        let mut conf = json!({"name": "a", "type": kind, "binDir": "/tenant", "trustedNamespaces": ["*"],
            "delegates": [{"type": "p"}, {"type": "p"}]});
        conf.as_object_mut().unwrap().extend(more.as_object().cloned().unwrap());
        conf
    };
    let refused = [
        (with("weft-pod", json!({})), "\"type\" cannot be \"weft-pod\""),
        (with("multus", json!({})), "\"type\" cannot be \"multus\""),
        (with("multus-shim", json!({})), "\"type\" cannot be \"multus-shim\""),
        (with("multus.before-weft", json!({})), "\"type\" cannot be \"multus.before-weft\""),
        (with("bridge", json!({"ipam": {"type": "weft-pod"}})), "\"ipam.type\" cannot be \"weft-pod\""),
        (with("theirs", json!({"IPAM": {"Type": "multus"}})), "\"IPAM.Type\" cannot be \"multus\""),
        (
            with("theirs", json!({"ipam": {"type": "/opt/cni/bin/multus"}})),
            "\"ipam.type\" cannot be \"/opt/cni/bin/multus\"",
        ),
        (with("weft", json!({"delegate": {"type": "weft-pod"}})), "\"delegate.type\" cannot be \"weft-pod\""),
        (
            json!({"name": "a", "plugins": [{"type": "bridge"}, {"type": "theirs", "ipam": {"type": "multus"}}]}),
            "\"ipam.type\" cannot be \"multus\"",
        ),
        (with("theirs", json!({"delegates": [[{"conf": {"type": "weft-pod"}}]]})), "\"delegates.conf.type\""),
    ];
    for (conf, text) in refused {
        // The pod's first network keeps the names from clashing: without the check, the second level would attach all.
        let case = || Case::new("a@q, a").nad("default/a", conf.clone());
        for case in [case(), case().conf("trustedNamespaces", json!(["*"]))] {
            let error = case.build().unwrap_err();
            assert!(error.code() == 7 && error.to_string().contains(text), "{conf}: {error}");
        }
        let object = Object::from_value(json!({"clusterNetwork": "main"})).unwrap();
        let settings = Settings::read(&object, Version::V1_0_0).unwrap();
        crate::pod::check_definition(&settings, "default/a", &conf.to_string()).unwrap_err();
    }
    let inline = Case::new("").conf("delegates", json!([{"type": "bridge", "ipam": {"type": "weft-pod"}}]));
    assert!(inline.error().contains("\"ipam.type\" cannot be \"weft-pod\""));
}

#[test]
fn a_type_is_the_name_of_a_file_in_the_directories_of_plugins() {
    for kind in ["/opt/weft-pod", "../bridge", "x/bridge", ".."] {
        let case = Case::new("a").nad("default/a", json!({"name": "a", "type": kind}));
        let error = case.build().unwrap_err();
        assert!(error.code() == 7 && error.to_string().contains("is not the name of a file"), "{kind}: {error}");
    }
    // Keys count without regard to case, and the last one of a name.
    let case = Case::new("a").nad("default/a", json!({"name": "a", "Type": "bridge"}));
    assert_eq!(case.list()[1].plugins[0].kind, "bridge");
}
