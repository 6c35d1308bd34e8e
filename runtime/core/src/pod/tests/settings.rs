//! Multus' configuration keys.

use serde_json::{Value, json};

use crate::cni::{Object, Version};
use crate::pod::{NetworkRef, Networks, Settings};

fn read(conf: Value) -> Result<Settings, crate::cni::CniError> {
    Settings::read(&Object::from_value(conf).unwrap(), Version::V1_1_0)
}

#[test]
fn defaults_are_those_of_multus() {
    let read = read(json!({"clusterNetwork": "main"})).unwrap();
    assert_eq!(read.conf_dir.to_str(), Some("/etc/cni/multus/net.d"));
    assert_eq!(read.bin_dir.to_str(), Some("/opt/cni/bin"));
    assert_eq!(read.namespace, "kube-system");
    assert_eq!(read.system_namespaces, ["kube-system"]);
    assert_eq!(read.global_namespaces, ["default"]);
    assert!(!read.namespace_isolation && read.readiness_file.is_none());
    assert!(read.warnings.is_empty());
    assert!(read.is_system("kube-system") && !read.is_system("default"));
}

#[test]
fn a_default_network_is_required_and_cluster_network_wins() {
    for none in [json!({}), json!({"delegates": []}), json!({"clusterNetwork": ""})] {
        let error = read(none).unwrap_err();
        assert_eq!(error.code, 7);
        assert!(error.msg.starts_with("no default network: set \"clusterNetwork\""), "{}", error.msg);
    }
    let both = read(json!({"clusterNetwork": "main", "delegates": [{"type": "x"}]})).unwrap();
    assert!(matches!(both.networks, Networks::Named { .. }));
    assert_eq!(both.warnings, ["delegates has no effect, because clusterNetwork names the default network"]);
    let both = read(json!({"delegates": [{"type": "x"}], "defaultNetworks": ["a"]})).unwrap();
    assert_eq!(both.warnings, ["defaultNetworks has no effect, because there is no clusterNetwork"]);
    let path = read(json!({"clusterNetwork": "/etc/cni/x.conflist", "defaultNetworks": ["a", "b/c"]})).unwrap();
    let further = vec![NetworkRef::Name("a".to_owned()), NetworkRef::Path("b/c".into())];
    assert_eq!(path.networks, Networks::Named { cluster: NetworkRef::Path("/etc/cni/x.conflist".into()), further });
    let references = path.references();
    assert_eq!((references.cluster_network, references.default_networks), (None, vec!["a".to_owned()]));
}

#[test]
fn keys_of_multus_without_meaning_are_taken_and_others_warn() {
    let read = |more: Value| {
        let mut conf = json!({"cniVersion": "1.1.0", "name": "n", "type": "multus", "clusterNetwork": "main"});
        conf.as_object_mut().unwrap().extend(more.as_object().cloned().unwrap());
        read(conf).unwrap().warnings
    };
    let silent = json!({"kubeconfig": "/x", "cniDir": "/y", "logLevel": "debug", "retryDeleteOnError": true,
                        "LogFile": "/z", "cni.dev/valid-attachments": []});
    assert!(read(silent).is_empty());
    assert_eq!(
        read(json!({"clusterNetwrok": "x"})),
        ["key \"clusterNetwrok\" of the configuration is unknown and has no effect"]
    );
    assert!(read(json!({"auxiliaryCNIChainName": "x"}))[0].contains("auxiliaryCNIChainName has no effect"));
}

#[test]
fn a_wrong_type_names_its_key() {
    for wrong in [json!({"confDir": 1}), json!({"namespaceIsolation": "yes"}), json!({"defaultNetworks": "a"})] {
        let mut conf = json!({"clusterNetwork": "main"});
        conf.as_object_mut().unwrap().extend(wrong.as_object().cloned().unwrap());
        let key = wrong.as_object().unwrap().keys().next().unwrap().clone();
        let error = read(conf).unwrap_err();
        assert!(error.code == 7 && error.msg.contains(&key), "{}", error.msg);
    }
}
