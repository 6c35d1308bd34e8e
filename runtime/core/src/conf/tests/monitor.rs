//! `monitor` with an `ipam` of its own.

use super::*;

const OWN: &str = "file:///new.wasm";

fn monitored(monitor: Value) -> Result<Network, ConfError> {
    let ipam = host_local(json!([[{"subnet": "10.0.0.0/24"}]]));
    parse(Persona::Weft, weft_conf(json!({"ipam": ipam, "monitor": monitor})))
}

fn own_ipam(network: &Network) -> &IpamConf {
    network.monitor.as_ref().unwrap().ipam.as_deref().unwrap()
}

#[test]
fn the_monitored_policy_gets_the_inputs_of_a_deciding_one() {
    let network = monitored(json!({"policy": OWN, "ipam": {"subnet": "10.9.0.0/24", "restSeconds": 5}})).unwrap();
    let own = own_ipam(&network);
    let text = json!({"subnet": "10.9.0.0/24", "restSeconds": 5, "type": "wasm", "policy": OWN}).to_string();
    assert_eq!(own.text, text);
    assert_eq!(own.range_sets[0].ranges[0].subnet.to_string(), "10.9.0.0/24");
    assert!(network.ipam.unwrap().kind.is_shipped("host-local"), "the network's own decides");
    let network = monitored(json!({"policy": "by-label", "ipam": {"ranges": []}})).unwrap();
    assert_eq!(own_ipam(&network).object.get("type"), Some(&json!("by-label")));
}

#[test]
fn promoted_each_keeps_its_configuration() {
    let monitor = json!({"policy": OWN, "promoted": true, "ipam": {"subnet": "10.9.0.0/24", "restSeconds": 5}});
    let network = monitored(monitor).unwrap();
    let ipam = network.ipam.as_ref().unwrap();
    assert_eq!(ipam.kind.policy(), Some(OWN));
    assert_eq!(ipam.object.get("restSeconds"), Some(&json!(5)));
    let own = own_ipam(&network);
    assert!(own.kind.is_shipped("host-local") && network.monitor.as_ref().unwrap().kind == own.kind);
    assert_eq!(own.range_sets[0].ranges[0].subnet.to_string(), "10.0.0.0/24");
    assert_eq!((ipam.scope.as_str(), own.scope.as_str()), ("net", "net"));
}

#[test]
fn both_are_in_one_address_domain() {
    let dir = |network: Value, own: Value| {
        let ipam = json!({"type": "host-local", "subnet": "10.0.0.0/24", "dataDir": network});
        let monitor = json!({"policy": OWN, "ipam": {"dataDir": own}});
        parse(Persona::Weft, weft_conf(json!({"ipam": ipam, "monitor": monitor})))
    };
    assert_eq!(own_ipam(&dir(json!("/a"), Value::Null).unwrap()).scope, "net@/a");
    assert_eq!(own_ipam(&dir(json!("/a"), json!("/a/")).unwrap()).scope, "net@/a");
    let text = dir(Value::Null, json!("/b")).unwrap_err().to_string();
    assert!(text.contains("monitor.ipam.dataDir is \"/b\""), "{text}");
    let ledger = json!({"type": "kubernetes", "domain": "d"});
    let ipam = host_local(json!([[{"subnet": "10.0.0.0/24"}]]));
    let conf = json!({"ipam": ipam, "ledger": ledger, "monitor": {"policy": OWN, "ipam": {"subnet": "10.0.0.0/24"}}});
    let network = parse(Persona::Weft, weft_conf(conf)).unwrap();
    assert_eq!(own_ipam(&network).scope, network.ipam.as_ref().unwrap().scope);
}

#[test]
fn mistakes_say_where_they_are() {
    let text = |monitor: Value| monitored(monitor).unwrap_err().to_string();
    for (monitor, part) in [
        (json!({"policy": "host-local", "ipam": {}}), "\"ipam\" of \"monitor\": no IP ranges specified"),
        (json!({"policy": OWN, "ipam": {"subnet": 5}}), "monitor.ipam.subnet"),
        (json!({"policy": OWN, "ipam": {"type": "static"}}), "monitor.ipam.type is \"static\""),
        (json!({"policy": OWN, "ipam": {"type": "wasm", "policy": "file:///b"}}), "monitor.ipam.type is \"file:///b\""),
        (json!({"policy": OWN, "ipam": {"ledger": {}}}), "monitor.ipam.ledger"),
        (json!({"policy": OWN, "ipam": []}), "monitor.ipam"),
    ] {
        let text = text(monitor.clone());
        assert!(text.contains(part), "{monitor}: {text}");
    }
    assert!(monitored(json!({"policy": OWN, "ipam": {"type": "wasm", "policy": OWN}})).is_ok());
    // The policy that picks a delegate has the `select` object, and no `ipam`.
    let conf = json!({"name": "net", "type": "weft", "cniVersion": "1.1.0",
        "delegates": [{"name": "a", "type": "bridge"}],
        "select": {"policy": OWN, "monitor": {"policy": OWN, "ipam": {}}}});
    assert!(error(Persona::Weft, conf).contains("unknown key \"ipam\" in \"select.monitor\""));
}

fn selected(select: Value) -> Result<Network, ConfError> {
    let conf = json!({"name": "net", "type": "weft", "cniVersion": "1.1.0",
        "delegates": [{"name": "a", "type": "bridge"}, {"name": "b", "type": "bridge"}], "select": select});
    parse(Persona::Weft, conf)
}

#[test]
fn a_monitored_delegate_policy_gets_the_inputs_of_a_deciding_one() {
    let own = json!({"rules": [5], "files": {"f": "/etc/f"}});
    let select = |more: Value| {
        let mut monitor = json!({"policy": OWN, "select": own});
        for (key, value) in more.as_object().unwrap() {
            monitor[key] = value.clone();
        }
        selected(json!({"policy": "file:///old.wasm", "default": "a", "monitor": monitor}))
    };
    let network = select(json!({})).unwrap();
    let active = network.select().unwrap();
    assert_eq!((active.policy.as_str(), active.files.len(), active.path()), ("file:///old.wasm", 0, "select"));
    assert_eq!(active.text, json!({"policy": "file:///old.wasm", "default": "a"}).to_string());
    let watched = active.monitored().unwrap();
    assert_eq!(watched.text, json!({"rules": [5], "files": {"f": "/etc/f"}, "policy": OWN}).to_string());
    assert_eq!((watched.policy.as_str(), watched.files[0].name.as_str()), (OWN, "f"));
    assert_eq!(watched.path(), "select.monitor.select");

    // Promoted, each keeps its configuration.
    let network = select(json!({"promoted": true})).unwrap();
    let active = network.select().unwrap();
    assert_eq!((active.policy.as_str(), &active.text, &active.files), (OWN, &watched.text, &watched.files));
    assert_eq!(active.path(), "select.monitor.select");
    let watched = active.monitored().unwrap();
    assert_eq!((watched.policy.as_str(), watched.files.len(), watched.path()), ("file:///old.wasm", 0, "select"));

    // Without one of its own, both have the same.
    let network =
        selected(json!({"policy": "file:///old.wasm", "monitor": {"policy": OWN, "promoted": true}})).unwrap();
    let active = network.select().unwrap();
    assert_eq!((active.policy.as_str(), active.monitored()), (OWN, None));
    assert_eq!(active.text, json!({"policy": "file:///old.wasm"}).to_string());

    for (more, part) in [
        (json!({"select": {"policy": "file:///third.wasm"}}), "select.monitor.select.policy is \"file:///third.wasm\""),
        (json!({"select": {"monitor": {"policy": OWN}}}), "select.monitor.select.monitor"),
        (json!({"select": {"files": {"f": "relative"}}}), "select.monitor.select.files.f"),
        (json!({"select": []}), "select.monitor.select"),
        (json!({"selekt": {}}), "unknown key \"selekt\" in \"select.monitor\""),
    ] {
        let text = select(more.clone()).unwrap_err().to_string();
        assert!(text.contains(part), "{more}: {text}");
    }
}
