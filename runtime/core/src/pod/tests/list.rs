//! R1, R4 to R6, R10 to R22, R28, R33 to R36: the list of attachments.

mod default_network;
mod devices;

use std::collections::BTreeMap;
use std::fs;

use serde_json::{Map, Value, json};

use crate::agent::pod::{Definition, PodInfo};
use crate::cni::{Object, Version, parse_pairs};
use crate::pod::{Input, NETWORKS, PodAttachment, PodError, RESOURCE_NAME, Settings, attachments};

/// A pod, a configuration and a node.
pub(super) struct Case {
    conf: Value,
    facts: PodInfo,
    namespace: &'static str,
    runtime_config: Value,
    args: &'static str,
    pub(super) node: tempfile::TempDir,
}

impl Case {
    /// A pod with a networks annotation, on a node with the inline default network `default-net`.
    pub(super) fn new(networks: &str) -> Self {
        let mut case = Self {
            conf: json!({"cniVersion": "1.0.0", "name": "pods", "type": "weft-pod",
                         "delegates": [{"cniVersion": "1.0.0", "name": "default-net", "type": "calico"}]}),
            facts: PodInfo::default(),
            namespace: "default",
            runtime_config: json!({}),
            args: "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=p",
            node: tempfile::tempdir().unwrap(),
        };
        case.annotate(NETWORKS, networks);
        case.conf["confDir"] = json!(case.node.path());
        case
    }

    fn annotate(&mut self, key: &str, value: &str) {
        self.facts.annotations.insert(key.to_owned(), value.to_owned());
    }

    pub(super) fn conf(mut self, key: &str, value: Value) -> Self {
        self.conf[key] = value;
        self
    }

    pub(super) fn nad(self, name: &str, config: Value) -> Self {
        self.nad_text(name, Some(config.to_string()))
    }

    pub(super) fn nad_text(mut self, name: &str, config: Option<String>) -> Self {
        let found = Definition::Found { config, annotations: BTreeMap::new() };
        self.facts.networks.insert(name.to_owned(), found);
        self
    }

    fn resource(mut self, nad: &str, resource: &str, devices: &[&str]) -> Self {
        if let Some(Definition::Found { annotations, .. }) = self.facts.networks.get_mut(nad) {
            annotations.insert(RESOURCE_NAME.to_owned(), resource.to_owned());
        }
        self.facts.devices.insert(resource.to_owned(), devices.iter().map(ToString::to_string).collect());
        self
    }

    fn file(self, name: &str, text: &str) -> Self {
        let path = self.node.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
        self
    }

    pub(super) fn build(&self) -> Result<(Vec<PodAttachment>, Vec<String>), PodError> {
        let object = Object::from_value(self.conf.clone()).unwrap();
        let settings = Settings::read(&object, Version::V1_0_0).unwrap();
        let runtime_config: Map<String, Value> = self.runtime_config.as_object().cloned().unwrap();
        let mut warnings = Vec::new();
        let input = Input {
            settings: &settings,
            conf_name: "pods",
            runtime_config: &runtime_config,
            container_id: "c1",
            ifname: "eth0",
            args: &parse_pairs(self.args).unwrap(),
            namespace: self.namespace,
            facts: &self.facts,
            is_ours: &|kind| ["bridge", "macvlan", "portmap", "weft"].contains(&kind),
        };
        attachments(&input, &mut warnings).map(|list| (list, warnings))
    }

    pub(super) fn list(&self) -> Vec<PodAttachment> {
        self.build().unwrap().0
    }

    pub(super) fn error(&self) -> String {
        self.build().unwrap_err().to_string()
    }

    /// What the plugins of the second attachment get.
    fn second(&self) -> Vec<Value> {
        confs(&self.list()[1])
    }
}

fn confs(attachment: &PodAttachment) -> Vec<Value> {
    attachment.plugins.iter().map(|plugin| serde_json::from_str(&plugin.conf).unwrap()).collect()
}

fn names(list: &[PodAttachment]) -> Vec<(&str, &str)> {
    list.iter().map(|attachment| (attachment.label.as_str(), attachment.ifname.as_str())).collect()
}

fn bridge_conf(name: &str) -> Value {
    json!({"cniVersion": "1.0.0", "name": name, "type": "bridge"})
}

#[test]
fn r1_spec_config_must_be_json_of_a_plugin_or_a_list() {
    let error = |config: &str| Case::new("a").nad_text("default/a", Some(config.to_owned())).error();
    assert!(error("{ oops").starts_with("spec.config of NetworkAttachmentDefinition default/a: not JSON"));
    assert!(error("[]").contains("it is not a JSON object"));
    assert!(error("{}").contains("a plugin has no \"type\""));
    assert!(error(r#"{"plugins": []}"#).contains("its list of plugins is empty"));
    assert!(error(r#"{"plugins": [1]}"#).contains("plugins[0]"));
    assert!(error(r#"{"cniVersion": "9.9.9", "type": "x"}"#).contains("there is no CNI version \"9.9.9\""));
}

#[test]
fn r4_spec_config_wins_over_a_file_of_that_name() {
    let case = Case::new("a")
        .nad("default/a", bridge_conf("a"))
        .file("10-a.conf", r#"{"cniVersion": "1.0.0", "name": "a", "type": "macvlan"}"#);
    assert_eq!(case.list()[1].plugins[0].kind, "bridge");
}

#[test]
fn r4_an_empty_definition_takes_the_file_whose_name_it_has() {
    for config in [None, Some(String::new())] {
        let case = Case::new("a")
            .nad_text("default/a", config)
            .file("10-a.json", r#"{"cniVersion": "1.0.0", "name": "b", "type": "macvlan"}"#)
            .file("20-x.conf", r#"{"cniVersion": "1.0.0", "name": "a", "type": "bridge", "from": "file"}"#);
        assert_eq!(case.second(), [json!({"cniVersion": "1.0.0", "name": "a", "type": "bridge", "from": "file"})]);
    }
    let nothing = Case::new("a").nad_text("default/a", None).error();
    assert!(nothing.contains("has no config, and no file in"), "{nothing}");
}

#[test]
fn r4_lists_come_before_single_plugins() {
    let case = Case::new("a")
        .nad_text("default/a", None)
        .file("10-a.conf", r#"{"name": "a", "type": "macvlan"}"#)
        .file("20-a.conflist", r#"{"name": "a", "plugins": [{"type": "bridge"}, {"type": "portmap"}]}"#);
    let kinds: Vec<String> = case.list()[1].plugins.iter().map(|plugin| plugin.kind.clone()).collect();
    assert_eq!(kinds, ["bridge", "portmap"]);
    let old_name = Case::new("a")
        .nad_text("default/a", None)
        .file("20-a.configlist", r#"{"name": "a", "plugins": [{"type": "bridge"}]}"#);
    assert_eq!(old_name.list()[1].plugins[0].kind, "bridge");
}

#[test]
fn r4_a_malformed_file_does_no_harm_to_others() {
    let case = Case::new("a")
        .nad_text("default/a", None)
        .file("05-broken.conf", "{ oops")
        .file("06-broken.conflist", "")
        .file("10-a.conf", r#"{"name": "a", "type": "bridge"}"#);
    let (list, warnings) = case.build().unwrap();
    assert_eq!(list[1].plugins[0].kind, "bridge");
    assert_eq!(warnings.len(), 2);
    assert!(warnings[0].contains("06-broken.conflist") && warnings[1].contains("05-broken.conf"), "{warnings:?}");
}

#[test]
fn r4_a_list_in_a_file_for_one_plugin_is_an_error() {
    let case = Case::new("a")
        .nad_text("default/a", None)
        .file("10-a.conf", r#"{"name": "a", "plugins": [{"type": "bridge"}]}"#);
    assert!(case.error().contains("it has no \"type\"; put a list of plugins into a .conflist file"));
}

#[test]
fn r5_the_definition_gives_the_name_where_there_is_none() {
    for name in [json!(null), json!("")] {
        let case = Case::new("a").nad("default/a", json!({"cniVersion": "1.0.0", "name": name, "type": "bridge"}));
        assert_eq!(case.list()[1].network, "a");
        assert_eq!(case.second()[0]["name"], "a");
    }
}

#[test]
fn r6_the_cni_name_may_differ_and_the_label_stays() {
    let list = Case::new("a").nad("default/a", bridge_conf("wire-7")).list();
    assert_eq!((list[1].label.as_str(), list[1].network.as_str()), ("default/a", "wire-7"));
}

#[test]
fn r10_a_namespace_is_looked_up_there() {
    let case = Case::new("infra/x").nad("infra/x", bridge_conf("x"));
    assert_eq!(names(&case.list()), [("default-net", "eth0"), ("infra/x", "net1")]);
    let missing = Case::new("x").nad("infra/x", bridge_conf("x"));
    let error = missing.build().unwrap_err();
    assert_eq!(
        error.to_string(),
        "cannot find a network-attachment-definition (x) in namespace (default): \
         network-attachment-definitions.k8s.cni.cncf.io \"x\" not found"
    );
    assert_eq!(error.event().reason, "NoNetworkFound");
}

#[test]
fn r11_r12_r15_r16_r18_a_request_needs_a_plugin_that_declares_it() {
    for (keys, capability) in [
        (r#""ips": ["10.0.0.5/24"]"#, "ips"),
        (r#""mac": "02:00:00:00:00:01""#, "mac"),
        (r#""portMappings": [{"hostPort": 1, "containerPort": 2}]"#, "portMappings"),
        (r#""bandwidth": {"ingressRate": 1}"#, "bandwidth"),
        (r#""infiniband-guid": "24:8a:07:03:00:8d:ae:2e""#, "infinibandGUID"),
    ] {
        let annotation = format!("[{{\"name\": \"a\", {keys}}}]");
        let refused = Case::new(&annotation).nad("default/a", bridge_conf("a"));
        assert!(matches!(refused.build(), Err(PodError::Incapable { .. })), "{capability}");
        let off = json!({"name": "a", "type": "bridge", "capabilities": {capability: false}});
        assert!(refused.nad("default/a", off).error().contains("no plugin of the network declares"));
        let list = json!({"name": "a", "plugins": [
            {"type": "bridge"}, {"type": "portmap", "capabilities": {capability: true}}]});
        let second = Case::new(&annotation).nad("default/a", list).second();
        assert_eq!(second[0].get("runtimeConfig"), None, "a plugin gets what it declares");
        assert!(second[1]["runtimeConfig"].get(capability).is_some(), "{capability}");
    }
}

#[test]
fn r11_r12_addresses_are_in_cni_args_too() {
    let conf = json!({"name": "a", "type": "bridge", "capabilities": {"ips": true, "mac": true}});
    let annotation = r#"[{"name": "a", "ips": ["10.0.0.5/24", "fd00::5"], "mac": "02:00:00:00:00:01"}]"#;
    let list = Case::new(annotation).nad("default/a", conf).list();
    assert!(list[1].args.ends_with(";MAC=02:00:00:00:00:01;IP=10.0.0.5/24,fd00::5"), "{}", list[1].args);
    assert!(!list[0].args.contains("IP="));
}

#[test]
fn r13_names_that_clash_are_refused_before_anything_is_called() {
    let nads = |annotation| Case::new(annotation).nad("default/a", bridge_conf("a")).nad("default/b", bridge_conf("b"));
    assert!(nads("a@eth0").error().contains("interface \"eth0\" is already used by network default-net"));
    // The second one would be net2 by its position.
    assert!(
        nads("a@net2, b")
            .error()
            .contains("network default/b: interface \"net2\" is already used by network default/a")
    );
}

#[test]
fn r14_cni_args_reach_every_plugin_and_win_over_the_definition() {
    let conf = json!({"name": "a", "plugins": [
        {"type": "bridge", "args": {"cni": {"a": "nad", "z": 9}, "other": {"k": 1}}}, {"type": "portmap"}]});
    let case = Case::new(r#"[{"name": "a", "cni-args": {"a": "pod", "b": 1}}]"#).nad("default/a", conf);
    let second = case.second();
    assert_eq!(second[0]["args"], json!({"cni": {"a": "pod", "z": 9, "b": 1}, "other": {"k": 1}}));
    assert_eq!(second[1]["args"], json!({"cni": {"a": "pod", "b": 1}}));
}

#[test]
fn r19_a_claim_is_handed_on() {
    let case = Case::new(r#"[{"name": "a", "ipam-claim-reference": "claim-1"}]"#).nad("default/a", bridge_conf("a"));
    assert_eq!(case.second()[0]["args"]["cni"], json!({"ipam-claim-reference": "claim-1"}));
}

#[test]
fn r21_r22_numbers_count_positions_over_all() {
    let case = Case::new("a, a@x1, a, a")
        .nad("default/a", bridge_conf("a"))
        .conf("delegates", json!([{"name": "d", "type": "bridge"}]));
    let list = case.list();
    let ifnames: Vec<&str> = list.iter().map(|attachment| attachment.ifname.as_str()).collect();
    assert_eq!(ifnames, ["eth0", "net1", "x1", "net3", "net4"]);
}

#[test]
fn r35_every_plugin_gets_name_and_version_and_keeps_its_keys() {
    let list = json!({"name": "a", "plugins": [{"type": "bridge", "mtu": 9000, "x.y/z": {"k": null}}, {"type": "b"}]});
    let case = Case::new("a").nad("default/a", list);
    assert_eq!(
        case.second(),
        [
            json!({"type": "bridge", "mtu": 9000, "x.y/z": {"k": null}, "name": "a", "cniVersion": "1.0.0"}),
            json!({"type": "b", "name": "a", "cniVersion": "1.0.0"})
        ]
    );
    assert_eq!(case.list()[1].plugins.iter().map(|plugin| plugin.external).collect::<Vec<_>>(), [false, true]);
    let exact = Case::new("a").nad_text(
        "default/a",
        Some(r#"{"cniVersion": "1.0.0", "name": "a", "type": "bridge", "big": 12345678901234567890}"#.to_owned()),
    );
    assert!(exact.list()[1].plugins[0].conf.contains("12345678901234567890"));
    let versions = json!({"name": "a", "cniVersions": ["0.4.0", "1.1.0", "7.0.0"], "plugins": [{"type": "bridge"}]});
    assert_eq!(Case::new("a").nad("default/a", versions).second()[0]["cniVersion"], "1.1.0");
    let inline = Case::new("").conf("delegates", json!([{"type": "calico"}]));
    assert_eq!(confs(&inline.list()[0])[0], json!({"type": "calico", "name": "pods", "cniVersion": "1.0.0"}));
}

#[test]
fn plugins_of_a_name_of_ours_can_be_kept_external() {
    let case = Case::new("a").nad("default/a", bridge_conf("a")).conf("externalPlugins", json!(["bridge"]));
    assert!(case.list()[1].plugins[0].external);
}
