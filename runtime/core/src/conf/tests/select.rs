//! `delegates`, `select`, and the configuration that a choice leads to; the same as flannel.

use super::*;

fn two_delegates() -> Value {
    json!([
        {"name": "nat", "type": "bridge", "isGateway": true, "settable": ["mtu", "ipam.routes"]},
        {"name": "lan", "type": "macvlan", "master": "eth1", "ipam": {}},
        {"name": "ovs", "type": "ovs", "anything": 1, "settable": ["tag"]},
    ])
}

fn conf(more: Value) -> Value {
    let mut conf = json!({
        "cniVersion": "1.1.0", "name": "net", "type": "weft", "delegates": two_delegates(), "select": {"policy": "by-label", "default": "nat"},
        "ipam": host_local(json!([[{"subnet": "10.0.0.0/24"}]])), "limits": {"fuel": 7},
    });
    for (key, value) in more.as_object().unwrap() {
        conf[key] = value.clone();
    }
    conf
}

fn select(conf: Value) -> SelectConf {
    parse(Persona::Weft, conf).unwrap().select().unwrap().clone()
}

fn refused(more: Value) -> String {
    let error = parse(Persona::Weft, conf(more)).unwrap_err();
    assert_eq!(error.code(), 7, "{error}");
    error.to_string()
}

#[test]
fn the_policy_sees_the_delegates_with_their_ipam() {
    let network = parse(Persona::Weft, conf(json!({}))).unwrap();
    assert_eq!(
        (network.delegate().is_none(), network.ipam.is_none(), network.terms.limits.fuel),
        (true, true, Some(7))
    );
    let select = network.select().unwrap().clone();
    assert_eq!(select.policy, "by-label");
    assert_eq!(select.text, r#"{"policy":"by-label","default":"nat"}"#);
    let seen: Vec<(String, Value, Vec<String>)> = select
        .candidates()
        .into_iter()
        .map(|seen| (seen.name, serde_json::from_str(&seen.config).unwrap(), seen.settable))
        .collect();
    let ipam = host_local(json!([[{"subnet": "10.0.0.0/24"}]]));
    assert_eq!(
        seen[0],
        (
            "nat".to_owned(),
            json!({"type": "bridge", "isGateway": true, "ipam": ipam}),
            vec!["mtu".to_owned(), "ipam.routes".to_owned()]
        )
    );
    assert_eq!(seen[1].1, json!({"type": "macvlan", "master": "eth1", "ipam": {}}));
    assert_eq!(seen[2].1, json!({"type": "ovs", "anything": 1, "ipam": ipam}));
}

#[test]
fn a_choice_leads_to_a_configuration_like_any_other() {
    let outer = parse(Persona::Weft, conf(json!({"runtimeConfig": {"mac": "02:00:00:00:00:01"}}))).unwrap();
    let select = outer.select().unwrap();
    let read = |name: &str, settings: &[(&str, Value)]| {
        let conf = select.chosen(name, settings.iter().map(|(key, value)| (*key, value))).unwrap();
        outer.chosen(&conf, &[], &is_shipped)
    };
    let nat = read("nat", &[("mtu", json!(1400)), ("ipam.routes", json!([{"dst": "0.0.0.0/0"}]))]).unwrap();
    assert!(nat.select().is_none());
    let delegate = nat.delegate().unwrap().clone();
    assert_eq!((delegate.kind.as_str(), delegate.conf.get("mtu")), ("bridge", Some(&json!(1400))));
    assert_eq!(delegate.conf.get("runtimeConfig"), Some(&json!({"mac": "02:00:00:00:00:01"})));
    assert!(delegate.conf.get("settable").is_none(), "{:?}", delegate.conf);
    assert_eq!(delegate.conf.get("name"), Some(&json!("net")), "the network's, not the entry's");
    let ipam = nat.ipam.unwrap();
    assert_eq!(ipam.object.get("routes"), Some(&json!([{"dst": "0.0.0.0/0"}])));
    assert_eq!(ipam.range_sets.len(), 1);
    assert_eq!(nat.terms.limits.fuel, Some(7));

    let lan = read("lan", &[]).unwrap();
    assert_eq!((lan.delegate().unwrap().kind.as_str(), lan.ipam.is_none()), ("macvlan", true));
    let ovs = read("ovs", &[("tag", json!(5))]).unwrap().delegate().unwrap().clone();
    assert_eq!((ovs.builtin, ovs.conf.get("tag"), ovs.conf.get("anything")), (false, Some(&json!(5)), Some(&json!(1))));
    assert!(select.chosen("wan", []).is_none());

    // A policy's settings are read like an operator's.
    let error = read("nat", &[("ipam.ranges", json!([[{"subnet": "10.0.0.1/24"}]]))]).unwrap_err();
    assert!(error.to_string().starts_with("invalid range set 0"), "{error}");
    assert_eq!(select.external().len(), 1);
}

#[test]
fn ranges_may_be_left_to_the_policy() {
    let delegates = json!([{"name": "a", "type": "bridge", "settable": ["ipam.type", "ipam.ranges"]}]);
    let mut conf = conf(json!({"delegates": delegates}));
    conf.as_object_mut().unwrap().remove("ipam");
    let select = select(conf.clone());
    let ranges = json!([[{"subnet": "10.9.0.0/24"}]]);
    let settings = [("ipam.type", json!("host-local")), ("ipam.ranges", ranges.clone())];
    let chosen = select.chosen("a", settings.iter().map(|(key, value)| (*key, value))).unwrap();
    assert_eq!(chosen.get("ipam"), Some(&host_local(ranges)));
    assert!(chosen.get("select").is_none() && chosen.get("delegates").is_none());
}

#[test]
fn files_are_named_by_absolute_paths() {
    let files = |files: Value| conf(json!({"select": {"policy": "file:///p.wasm", "files": files}}));
    let read = select(files(json!({"b": "/run/b", "B": "/run/a"}))).files;
    let read: Vec<(&str, &str)> = read.iter().map(|file| (file.name.as_str(), file.path.to_str().unwrap())).collect();
    assert_eq!(read, [("B", "/run/a"), ("b", "/run/b")]);
    let refused = |value: Value| parse(Persona::Weft, files(value)).unwrap_err().to_string();
    assert_eq!(refused(json!({"a": "b"})), "select.files.a is \"\\\"b\\\"\", but must be an absolute path");
    assert_eq!(refused(json!({"a": 1})), "select.files.a is \"1\", but must be a path");
    let many: Value = (0..9).map(|n| (n.to_string(), json!("/x"))).collect::<serde_json::Map<_, _>>().into();
    assert!(refused(many).contains("at most 8 files"));
}

#[test]
fn every_mistake_is_named() {
    let delegates = |entry: Value| refused(json!({"delegates": [entry]}));
    assert!(refused(json!({"delegates": null})).starts_with("delegates is missing: list what the policy picks from"));
    assert!(refused(json!({"select": null})).starts_with("select is missing: name the policy that picks one of them"));
    assert!(refused(json!({"delegates": []})).starts_with("delegates is missing: an empty list"));
    assert!(refused(json!({"select": {}})).starts_with("select.policy is missing"));
    assert!(
        refused(json!({"select": {"policy": "nosuch"}})).starts_with("select.policy is \"nosuch\", which is neither")
    );
    assert_eq!(
        refused(json!({"delegate": {"type": "ptp"}})),
        "both \"delegate\" and \"delegates\" are set; remove one of them"
    );
    assert!(delegates(json!({"type": "bridge"})).starts_with("delegates[].name is missing"));
    assert!(delegates(json!({"name": "a"})).starts_with("delegates[].type is missing"));
    assert_eq!(delegates(json!({"name": "a", "type": "../sh"})), "invalid plugin name: ../sh");
    assert_eq!(
        delegates(json!({"name": "a", "type": "bridge", "master": "x"})),
        "unknown key \"master\" in \"delegates.a\": a bridge knows type, bridge, isGateway, isDefaultGateway, forceAddress, ipMasq, \
         ipMasqBackend, mtu, hairpinMode, promiscMode, vlan, vlanTrunk, preserveDefaultVlan, macspoofchk, enabledad, \
         disableContainerInterface, portIsolation"
    );
    let settable = |key: &str| delegates(json!({"name": "a", "type": "ptp", "settable": [key]}));
    assert_eq!(
        settable("isGateway"),
        "unknown key \"isGateway\" in \"delegates[0].settable\": a ptp knows ipMasq, ipMasqBackend, mtu"
    );
    for key in ["type", "name", "ipam", "ipam.", "", "cniVersion", "runtimeConfig", "cni.dev/x"] {
        assert!(settable(key).starts_with(&format!("delegates[0].settable is {key:?}, but must be")), "{key}");
    }
    let twice = json!([{"name": "a", "type": "bridge"}, {"name": "a", "type": "bridge"}]);
    assert_eq!(refused(json!({"delegates": twice})), "two delegates have the name \"a\"");
    assert_eq!(
        delegates(json!({"name": "a", "type": "ptp", "ipam": {}})),
        "delegate \"a\": no plugin name provided",
        "what nothing can be set in has to be sound as it stands"
    );
}

#[test]
fn del_and_gc_get_by_without_a_choice() {
    let network = Network::parse_for_del(Persona::Weft, &object(conf(json!({}))), &is_shipped);
    assert_eq!((network.name.as_str(), network.select().is_some(), network.delegate().is_none()), ("net", true, true));
    let broken = Network::parse_for_del(Persona::Weft, &object(conf(json!({"delegates": "x"}))), &is_shipped);
    assert_eq!((broken.name.as_str(), broken.select()), ("net", None));
}

fn flannel(more: Value) -> Result<Network, ConfError> {
    let mut conf = json!({"cniVersion": "1.0.0", "name": "cbr0", "type": "flannel"});
    for (key, value) in more.as_object().unwrap() {
        conf[key] = value.clone();
    }
    parse(Persona::Flannel, conf)
}

fn rendered(more: Value, settings: &[(&str, Value)]) -> Value {
    let select = flannel(more).unwrap().select().unwrap().clone();
    select.chosen("delegate", settings.iter().map(|(key, value)| (*key, value))).unwrap().as_value().clone()
}

#[test]
fn flannel_passes_on_what_the_plugin_does() {
    let set = [("ipMasq", json!(false)), ("mtu", json!(1472)), ("ipam.ranges", json!([[{"subnet": "10.1.17.0/24"}]]))];
    assert_eq!(
        rendered(json!({}), &set),
        json!({"type": "bridge", "ipMasq": false, "mtu": 1472, "name": "cbr0", "cniVersion": "1.0.0",
               "ipam": {"ranges": [[{"subnet": "10.1.17.0/24"}]]}})
    );
    let more = json!({
        "subnetFile": "/s", "dataDir": "/d", "delegate": {"type": "macvlan", "master": "eth1", "whatever": 1},
        "ipam": {"type": "my-ipam", "x": 1}, "runtimeConfig": {"mac": "02:00:00:00:00:01"},
        "args": {"cni": {"ips": ["10.0.0.1"], "labels": {"a": "b"}}}, "dns": {"search": ["x"]}, "prevResult": {},
    });
    assert_eq!(
        rendered(more.clone(), &[]),
        json!({"type": "macvlan", "master": "eth1", "whatever": 1, "name": "cbr0", "cniVersion": "1.0.0",
               "runtimeConfig": {"mac": "02:00:00:00:00:01"}, "ipam": {"type": "my-ipam", "x": 1}}),
        "nothing else of its own goes to the delegate"
    );
    let outer = flannel(more).unwrap();
    let select = outer.select().unwrap();
    assert_eq!(select.files, [FileConf { name: "subnet.env".into(), path: "/s".into() }]);
    assert_eq!(select.left_behind("c1").unwrap().to_str(), Some("/d/c1"));
    assert_eq!((select.left_behind("../c1"), select.left_behind("")), (None, None));
    let chosen = outer.chosen(&select.chosen("delegate", []).unwrap(), &[], &is_shipped).unwrap();
    assert_eq!(chosen.external_ipam(), Some("my-ipam"));
    assert_eq!(chosen.labels, [("a".to_owned(), "b".to_owned())], "facts about the pod stay known");
    assert!(chosen.args.is_empty() && chosen.dns.is_none());
}

#[test]
fn flannel_has_defaults_and_its_own_words() {
    let network = flannel(json!({})).unwrap();
    let select = network.select().unwrap().clone();
    assert_eq!(select.files[0].path.to_str(), Some("/run/flannel/subnet.env"));
    assert_eq!(select.left_behind("c").unwrap().to_str(), Some("/var/lib/cni/flannel/c"));
    assert!(select.is_stock());
    let text = |delegate: Value| flannel(json!({"delegate": delegate})).unwrap_err().to_string();
    assert_eq!(text(json!({"type": 1})), "'delegate' dictionary, if present, must have (string) 'type' field");
    assert_eq!(text(json!({"type": null})), "'delegate' dictionary, if present, must have (string) 'type' field");
    assert_eq!(text(json!({"name": "x"})), "'delegate' dictionary must not have 'name' field, it'll be set by flannel");
    assert_eq!(text(json!({"ipam": {}})), "'delegate' dictionary must not have 'ipam' field, it'll be set by flannel");
    assert!(text(json!("bridge")).starts_with("failed to load netconf: json: cannot unmarshal string"));
    assert!(flannel(json!({"subnetFile": 1})).is_err() && flannel(json!({"dataDir": 1})).is_err());
    assert!(flannel(json!({"delegate": null, "ipam": null, "runtimeConfig": null, "unknown": 1})).is_ok());
}

#[test]
fn flannel_delegates_to_plugins_that_weft_does_not_have() {
    let outer = flannel(json!({"delegate": {"type": "ovs-cni", "bridge": "br1"}})).unwrap();
    let conf = outer.select().unwrap().chosen("delegate", []).unwrap();
    let chosen = outer.chosen(&conf, &[], &is_shipped).unwrap();
    let delegate = chosen.delegate().unwrap().clone();
    assert_eq!((delegate.kind.as_str(), delegate.builtin, chosen.ipam), ("ovs-cni", false, None));
    assert_eq!(delegate.conf.get("name"), Some(&json!("cbr0")));
    let outer = flannel(json!({"delegate": {"type": "../sh"}})).unwrap();
    let conf = outer.select().unwrap().chosen("delegate", []).unwrap();
    assert_eq!(outer.chosen(&conf, &[], &is_shipped).unwrap_err().to_string(), "invalid plugin name: ../sh");
}
