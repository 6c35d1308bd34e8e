//! R17, R28, R33, R34: the default network, the default route, and isolation.

use serde_json::{Value, json};

use super::{Case, bridge_conf, confs, names};
use crate::pod::{DEFAULT_NETWORK, NETWORKS, PodAttachment, PodError};

#[test]
fn r28_the_default_network_comes_first_from_wherever_it_is() {
    let named = |cluster: &str| {
        let mut case = Case::new("a").nad("default/a", bridge_conf("a"));
        case.conf.as_object_mut().unwrap().remove("delegates");
        case.conf("clusterNetwork", json!(cluster)).conf("defaultNetworks", json!(["more"]))
    };
    let case = named("main").nad("kube-system/main", bridge_conf("main")).nad("kube-system/more", bridge_conf("more"));
    assert_eq!(
        names(&case.list()),
        [("kube-system/main", "eth0"), ("kube-system/more", "net1"), ("default/a", "net2")]
    );
    let system = Case { namespace: "kube-system", ..case };
    let system = system.nad("kube-system/a", bridge_conf("a"));
    assert_eq!(names(&system.list()), [("kube-system/main", "eth0"), ("kube-system/a", "net1")]);

    let by_file = named("main").conf("defaultNetworks", json!([])).file("10-m.conf", &bridge_conf("main").to_string());
    assert_eq!(names(&by_file.list())[0], ("main", "eth0"));

    let file = |name: &str| {
        let case = named("x").conf("defaultNetworks", json!([]));
        let path = case.node.path().join("d").join(name);
        let case = case
            .file("d/20-b.conf", r#"{"name": "second", "type": "bridge"}"#)
            .file("d/10-a.conflist", r#"{"name": "first", "plugins": [{"type": "bridge"}]}"#)
            .file("d/first/50-more.conf", r#"{"type": "portmap"}"#);
        case.conf("clusterNetwork", json!(path))
    };
    let kinds = |case: &Case| {
        let list = case.list();
        (list[0].label.clone(), list[0].plugins.iter().map(|plugin| plugin.kind.clone()).collect::<Vec<_>>())
    };
    assert_eq!(kinds(&file("20-b.conf")), ("second".to_owned(), vec!["bridge".to_owned()]));
    // The directory of the list's name adds plugins, as the reference library has it.
    let chain = vec!["bridge".to_owned(), "portmap".to_owned()];
    assert_eq!(kinds(&file("10-a.conflist")), ("first".to_owned(), chain.clone()));
    assert_eq!(kinds(&file("")), ("first".to_owned(), chain));
}

#[test]
fn r28_a_missing_default_network_is_never_replaced() {
    let mut case = Case::new("").file("10-other.conf", &bridge_conf("other").to_string());
    case.conf.as_object_mut().unwrap().remove("delegates");
    for cluster in ["main", "/nowhere/10-a.conflist"] {
        case.conf["clusterNetwork"] = json!(cluster);
        let error = case.build().unwrap_err();
        assert_eq!(error.code(), 11, "{error}");
        assert!(error.to_string().starts_with("the default network is not ready: "), "{error}");
    }
}

#[test]
fn r28_a_pod_may_name_another_default_network() {
    let with = |annotation: &str| {
        let mut case = Case::new("a").nad("default/a", bridge_conf("a")).nad("kube-system/alt", bridge_conf("alt"));
        case.annotate(DEFAULT_NETWORK, annotation);
        case
    };
    assert_eq!(names(&with("alt").list()), [("kube-system/alt", "eth0"), ("default/a", "net1")]);
    assert!(with("alt, alt").error().contains("names 2 networks; it must name one"));
    assert!(with("alt@big0").error().contains("the default network's interface is \"eth0\""));
    assert!(with("missing").error().contains("cannot find a network-attachment-definition (missing)"));
    let asks = with(r#"[{"name": "alt", "ips": ["10.1.1.1/24"]}]"#)
        .nad("kube-system/alt", json!({"name": "alt", "type": "bridge", "capabilities": {"ips": true}}));
    assert_eq!(confs(&asks.list()[0])[0]["runtimeConfig"], json!({"ips": ["10.1.1.1/24"]}));
}

#[test]
fn r33_isolation_closes_other_namespaces() {
    let with = |conf: Value| {
        Case::new("infra/x")
            .nad("infra/x", bridge_conf("x"))
            .conf("namespaceIsolation", json!(true))
            .conf("globalNamespaces", conf)
    };
    let refused = with(json!(null)).build().unwrap_err();
    assert!(matches!(refused, PodError::Isolated { .. }), "{refused}");
    assert_eq!(with(json!("other, infra")).list().len(), 2);
    let mut default = with(json!(null));
    default.annotate(NETWORKS, "");
    default.annotate(DEFAULT_NETWORK, "infra/x");
    assert!(matches!(default.build(), Err(PodError::Isolated { .. })));
}

#[test]
fn r34_what_the_runtime_asks_goes_to_the_default_network_only() {
    let all = json!({"ips": true, "mac": true, "portMappings": true, "bandwidth": true});
    let mut case = Case::new(r#"[{"name": "a", "ips": ["10.0.0.5/24"]}]"#)
        .nad("default/a", json!({"name": "a", "type": "bridge", "capabilities": all}))
        .conf("delegates", json!([{"name": "d", "type": "calico", "capabilities": all}]));
    case.runtime_config = json!({"portMappings": [{"hostPort": 1, "containerPort": 2}], "ips": ["10.9.9.9/24"]});
    case.args = "IgnoreUnknown=1;IP=10.9.9.9;MAC=02:00:00:00:00:09";
    let list = case.list();
    assert_eq!(confs(&list[0])[0]["runtimeConfig"], case.runtime_config);
    assert_eq!(confs(&list[1])[0]["runtimeConfig"], json!({"ips": ["10.0.0.5/24"]}));
    assert_eq!(list[0].args, "IgnoreUnknown=1;IP=10.9.9.9;MAC=02:00:00:00:00:09");
    assert_eq!(list[1].args, "IgnoreUnknown=1;IP=10.0.0.5/24");
}

#[test]
fn r17_the_default_route_is_chained_to_all_attachments() {
    let steps = |annotation: &str| -> Vec<Option<Value>> {
        let case = Case::new(annotation).nad("default/a", bridge_conf("a")).nad("default/b", bridge_conf("b"));
        let step = |attachment: &PodAttachment| confs(attachment).get(1).map(|conf| conf["steps"][0].clone());
        case.list().iter().map(step).collect()
    };
    assert_eq!(steps("a, b"), [None, None, None]);
    let drop = |families: Value, gateways: Value| {
        Some(json!({"type": "default-route", "drop": families, "gateways": gateways}))
    };
    assert_eq!(
        steps(r#"[{"name": "a", "default-route": ["10.0.0.1"]}, {"name": "b"}]"#),
        [drop(json!(["4"]), json!([])), drop(json!(["4"]), json!(["10.0.0.1"])), drop(json!(["4"]), json!([]))]
    );
    assert_eq!(
        steps(r#"[{"name": "a"}, {"name": "b", "default-route": []}]"#),
        [drop(json!(["4", "6"]), json!([])), drop(json!(["4", "6"]), json!([])), None]
    );
}

#[test]
fn r17_the_two_annotations_have_one_default_route_together() {
    let mut case = Case::new(r#"[{"name": "a", "default-route": ["10.0.0.1"]}]"#)
        .nad("default/a", bridge_conf("a"))
        .nad("kube-system/other", bridge_conf("other"));
    case.annotate(DEFAULT_NETWORK, r#"[{"name": "other", "default-route": ["10.1.0.1"]}]"#);
    let why = "network default/a: network kube-system/other already requests default-route";
    assert!(case.error().contains(why), "{}", case.error());
}
