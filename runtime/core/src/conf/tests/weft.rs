//! Called as `weft` and `weft-ipam`: our keys, strictly.

use super::*;
use crate::agent::claim::Blocks;

fn read_network(more: Value) -> Network {
    parse(Persona::Weft, weft_conf(more)).unwrap()
}

fn err(more: Value) -> ConfError {
    parse(Persona::Weft, weft_conf(more)).unwrap_err()
}

#[test]
fn the_delegate_sees_what_its_stock_plugin_would() {
    let network = read_network(json!({
        "delegate": {"type": "macvlan", "master": "eth1"},
        "ipam": host_local(json!([[{"subnet": "10.0.0.0/24"}]])),
        "runtimeConfig": {"mac": "02:00:00:00:00:01"},
        "dns": {"nameservers": ["1.1.1.1"]},
        "capabilities": {"mac": true},
    }));
    let delegate = network.delegate().unwrap().clone();
    assert!(delegate.builtin);
    assert_eq!(delegate.kind, "macvlan");
    assert_eq!(
        delegate.conf.as_value(),
        &json!({
            "type": "macvlan",
            "master": "eth1",
            "name": "net",
            "cniVersion": "1.1.0",
            "runtimeConfig": {"mac": "02:00:00:00:00:01"},
            "dns": {"nameservers": ["1.1.1.1"]},
            "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.0.0.0/24"}]]},
        })
    );
    assert_eq!(network.dns.unwrap().nameservers, ["1.1.1.1"]);
}

#[test]
fn weft_pod_is_no_plugin_of_a_network() {
    let ranges = json!([[{"subnet": "10.0.0.0/24"}]]);
    for name in ["weft-pod", "multus", "multus-shim", "multus-shim.before-weft"] {
        let delegate = err(json!({"delegate": {"type": name}}));
        let ipam = err(json!({"delegate": {"type": "bridge"}, "ipam": {"type": name, "ranges": ranges}}));
        let among = json!({"cniVersion": "1.1.0", "name": "net", "type": "weft", "select": {"policy": "by-label"},
            "delegates": [{"name": "a", "type": name}]});
        let chosen = parse(Persona::Weft, among).unwrap_err();
        let stock = parse(Persona::Delegate("bridge"), json!({"name": "n", "type": "bridge", "ipam": {"type": name}}));
        for error in [delegate, ipam, chosen, stock.unwrap_err()] {
            assert!(
                error.code() == 7 && error.to_string().contains("attaches all networks of a pod"),
                "{name}: {error}"
            );
        }
        // DEL needs the journal alone.
        let conf = object(json!({"name": "n", "type": "bridge", "ipam": {"type": name}}));
        assert_eq!(Network::parse_for_del(Persona::Delegate("bridge"), &conf, &is_shipped).name, "n");
    }
}

#[test]
fn unknown_keys_are_named_with_what_to_do() {
    let text = |more| {
        let error = err(more);
        assert_eq!(error.code(), 7);
        // Its consequences, and other mistakes, follow after it.
        error.into_errors()[0].to_string()
    };
    assert!(text(json!({"foo": 1})).starts_with("unknown key \"foo\": known are cniVersion, "));
    assert_eq!(text(json!({"isGateway": true})), "unknown key \"isGateway\": move it into \"delegate\"");
    assert!(text(json!({"plugins": []})).starts_with("unknown key \"plugins\": this is a plugin list"));
    assert_eq!(
        text(json!({"delegate": {"type": "ptp", "bridge": "x"}})),
        "unknown key \"bridge\" in \"delegate\": a ptp knows type, ipMasq, ipMasqBackend, mtu"
    );
    assert_eq!(
        text(json!({"delegate": {"type": "ptp", "ipam": {}}})),
        "unknown key \"ipam\" in \"delegate\": it belongs beside \"delegate\""
    );
    assert_eq!(text(json!({"limits": {"feul": 1}})), "unknown key \"feul\" in \"limits\": did you mean \"fuel\"?");
}

#[test]
fn keys_of_the_specification_and_of_runtimes_are_known() {
    read_network(json!({
        "cniVersions": ["1.0.0"], "capabilities": {}, "runtimeConfig": {}, "args": {}, "prevResult": {}, "dns": {},
        "disableCheck": true, "disableGC": "false", "loadOnlyInlinedPlugins": true,
        "cni.dev/valid-attachments": [], "cni.dev/whatever": 1, "CNIVERSION": "1.1.0",
    }));
}

#[test]
fn a_ledger_is_the_nodes_or_the_clusters() {
    let cluster = |ledger| match read_network(json!({"ledger": ledger})).terms.ledger {
        LedgerKind::Cluster(conf) => conf,
        LedgerKind::Node => panic!("a cluster ledger is expected"),
    };
    let kubernetes = cluster(json!({"type": "kubernetes", "domain": "storage", "deadlineMs": 500}));
    assert_eq!(kubernetes.ledger, "{\"type\":\"kubernetes\"}");
    assert_eq!((kubernetes.scope().as_str(), kubernetes.deadline.as_millis()), ("cluster/storage", 500));
    assert_eq!(cluster(json!({"type": "kubernetes"})).domain, "default");
    let etcd = cluster(json!({"type": "etcd", "endpoints": ["https://e:2379"], "caFile": "/ca"}));
    assert_eq!(etcd.ledger, "{\"type\":\"etcd\",\"endpoints\":[\"https://e:2379\"],\"caFile\":\"/ca\"}");
    for wrong in [
        json!({"type": "etcd"}),
        json!({"type": "kubernetes", "domain": "A b"}),
        json!({"type": "kubernetes", "endpoints": []}),
        json!({"type": "kubernetes", "deadlineMs": 0}),
        json!({"type": "node", "domain": "x"}),
        json!({"type": "kubernetes", "pool": "Blue/x"}),
        json!({"type": "kubernetes", "pool": "blue", "domain": "x"}),
        json!({"type": "etcd", "endpoints": ["https://e:2379"], "pool": "blue"}),
    ] {
        assert_eq!(err(json!({"ledger": wrong})).code(), 7, "{wrong}");
    }
    assert_eq!(err(json!({"ledger": {"type": "redis"}})).code(), 7);
    assert_eq!(read_network(json!({"ledger": {"type": "node"}})).terms.ledger, LedgerKind::Node);
    // There, it would be part of the policy's configuration, and the addresses would only be
    // stored on the node.
    let ipam = json!({"type": "wasm", "policy": "file:///p.wasm", "ledger": {"type": "kubernetes"}});
    let text = err(json!({"ipam": ipam})).to_string();
    assert!(text.contains("ipam.ledger") && text.contains("at the top"), "{text}");
}

#[test]
fn duplicates_are_looked_for_where_neighbours_are() {
    let ipam = json!({"type": "host-local", "subnet": "10.0.0.0/24"});
    let of = |duplicates: Value| {
        let network = read_network(json!({"duplicates": duplicates, "ipam": ipam}));
        network.terms.duplicates.map(|own| own.wait_ms)
    };
    assert_eq!(read_network(json!({})).terms.duplicates, None);
    assert_eq!(of(json!({})), None);
    assert_eq!(of(json!({"detect": false, "waitMs": 100})), None);
    assert_eq!(of(json!({"detect": true})), Some(300));
    assert_eq!(of(json!({"detect": true, "waitMs": 100})), Some(100));
    for wrong in [json!({"detect": "yes"}), json!({"waitMs": 10}), json!({"waitMs": 5001}), json!({"wait": 100})] {
        assert_eq!(err(json!({"duplicates": wrong})).code(), 7, "{wrong}");
    }
    for delegate in ["ptp", "dummy", "tap", "ipvlan", "no-such-plugin"] {
        let conf = json!({"delegate": {"type": delegate}, "ipam": ipam, "duplicates": {"detect": true}});
        let text = err(conf).to_string();
        assert!(text.starts_with("duplicates cannot be used in this network: "), "{delegate}: {text}");
    }
    let ipam = json!({"type": "wasm", "policy": "file:///p.wasm", "duplicates": {"detect": true}});
    let text = err(json!({"ipam": ipam})).to_string();
    assert!(text.contains("ipam.duplicates") && text.contains("at the top"), "{text}");
}

#[test]
fn a_pool_has_the_ranges_and_the_domain() {
    let conf = |ipam: Value| json!({"ledger": {"type": "kubernetes", "pool": "blue"}, "ipam": ipam});
    let network = read_network(conf(json!({"type": "host-local"})));
    let LedgerKind::Cluster(cluster) = &network.terms.ledger else { panic!("a cluster ledger is expected") };
    assert_eq!(cluster.pool.as_deref(), Some("blue"));
    let sets = pool_sets(&[json!({"subnet": "10.0.0.0/24"})], &[]).unwrap();
    let drawn = network.with_pool("lab", sets.clone(), (None, None)).unwrap();
    assert_eq!(drawn.ipam.as_ref().map(|ipam| (&ipam.range_sets, ipam.scope.as_str())), Some((&sets, "cluster/lab")));
    assert_eq!(drawn.terms.duplicates, None);
    let asked = network.with_pool("lab", sets.clone(), (Some(100), None)).unwrap();
    assert_eq!(asked.terms.duplicates.map(|own| own.wait_ms), Some(100));
    let blocks = Blocks { size: 16, strict: true };
    let LedgerKind::Cluster(cluster) = network.with_pool("lab", sets, (None, Some(blocks))).unwrap().terms.ledger
    else {
        panic!("a cluster ledger is expected")
    };
    assert_eq!((cluster.blocks, cluster.drawn_on.as_str(), cluster.pool), (Some(blocks), "blue", None));
    let text = err(conf(json!({"type": "host-local", "subnet": "10.0.0.0/24"}))).to_string();
    assert_eq!(text, "both \"ledger.pool\" and \"ipam.ranges\" are set; remove one of them");
}

#[test]
fn a_ledger_without_pools_declares_blocks_itself() {
    let conf = |blocks: Value| {
        let ledger = json!({"type": "etcd", "endpoints": ["http://192.0.2.1:2379"], "blocks": blocks});
        json!({"ledger": ledger, "ipam": {"type": "host-local", "subnet": "10.0.0.0/24"}})
    };
    let LedgerKind::Cluster(cluster) = read_network(conf(json!({"size": 64}))).terms.ledger else {
        panic!("a cluster ledger is expected")
    };
    assert_eq!(cluster.blocks, Some(Blocks { size: 64, strict: false }));
    assert!(!cluster.ledger.contains("blocks"), "{}", cluster.ledger);
    for wrong in [json!({}), json!({"size": 12}), json!({"size": 4}), json!({"size": 8192})] {
        assert!(err(conf(wrong)).to_string().contains("ledger.blocks.size"));
    }
    assert!(err(conf(json!({"size": 16, "strickt": true}))).to_string().contains("strickt"));
    let pooled = json!({"type": "kubernetes", "blocks": {"size": 16}});
    assert!(err(json!({"ledger": pooled})).to_string().contains("blocks"));
}

#[test]
fn steps_are_objects_with_a_type_that_exists() {
    assert_eq!(read_network(json!({"steps": []})).steps, []);
    assert!(err(json!({"steps": {}})).to_string().starts_with("failed to load netconf: "));
    assert!(err(json!({"steps": [{}]})).to_string().starts_with("steps.type is missing"));
    let text = err(json!({"steps": [{"type": "nonsense"}]})).to_string();
    assert!(text.starts_with("unknown step \"nonsense\" in \"steps\"; known steps: "), "{text}");
}

#[test]
fn a_delegate_is_required_and_named() {
    assert!(err(json!({"delegate": null, "steps": []})).to_string().starts_with("delegate is missing"));
    assert!(err(json!({"delegate": null})).to_string().starts_with("delegate is missing: say what to build"));
    assert!(err(json!({"delegate": {}})).to_string().starts_with("delegate.type is missing"));
    assert_eq!(err(json!({"delegate": {"type": "../sh"}})).to_string(), "invalid plugin name: ../sh");
    assert_eq!(err(json!({"delegate": {"type": "ptp"}})).to_string(), "no plugin name provided");
    let loopback = json!({"delegate": {"type": "loopback"}, "ipam": host_local(json!([[{"subnet": "10.0.0.0/24"}]]))});
    assert_eq!(err(loopback).to_string(), "a loopback takes no addresses: remove \"ipam\"");
}

#[test]
fn an_external_delegate_calls_weft_back_for_its_addresses() {
    let network = read_network(json!({
        "delegate": {"type": "ovs", "bridge": "br1", "anything": [1]},
        "ipam": {"type": "wasm", "policy": "file:///p.wasm", "subnet": "10.0.0.0/24"},
        "limits": {"fuel": 5},
        "prevResult": {"ips": []},
        "cni.dev/x": 1,
    }));
    let delegate = network.delegate().unwrap().clone();
    assert!(!delegate.builtin);
    assert_eq!(delegate.conf.get("anything"), Some(&json!([1])));
    assert_eq!(delegate.conf.get("prevResult"), Some(&json!({"ips": []})));
    assert_eq!(delegate.conf.get("cni.dev/x"), Some(&json!(1)));
    let ipam = delegate.conf.get("ipam").unwrap();
    assert_eq!(
        ipam,
        &json!({"subnet": "10.0.0.0/24", "type": "weft-ipam", "policy": "file:///p.wasm", "limits": {"fuel": 5}})
    );
    // `weft-ipam` then reads this.
    let called = parse(Persona::WeftIpam, delegate.conf.as_value().clone()).unwrap();
    assert_eq!(called.ipam.unwrap().kind, IpamKind::Wasm { policy: "file:///p.wasm".to_owned() });
    assert_eq!(called.terms.limits.fuel, Some(5));

    let shipped = read_network(json!({
        "delegate": {"type": "ovs"},
        "ipam": {"type": "host-local", "subnet": "10.0.0.0/24"},
    }));
    let ipam = shipped.delegate().unwrap().conf.get("ipam").unwrap().clone();
    assert_eq!((&ipam["type"], &ipam["policy"]), (&json!("weft-ipam"), &json!("host-local")));
    let foreign = read_network(json!({"delegate": {"type": "ovs"}, "ipam": {"type": "whereabouts", "range": "x"}}));
    assert_eq!(foreign.external_ipam(), Some("whereabouts"));
    assert_eq!(foreign.delegate().unwrap().conf.get("ipam"), Some(&json!({"type": "whereabouts", "range": "x"})));
}

#[test]
fn limits_and_grants() {
    let network = read_network(json!({
        "limits": {"fuel": 1_000_000, "memoryMiB": 8, "deadlineMs": 50},
        "grants": {"wasi": true, "data": "/etc/weft/racks"},
    }));
    assert_eq!(network.terms.limits, LimitsConf { fuel: Some(1_000_000), memory_mib: Some(8), deadline_ms: Some(50) });
    assert_eq!(
        network.terms.grants,
        GrantsConf { wasi: true, data: Some("/etc/weft/racks".into()), ..GrantsConf::default() }
    );
    assert_eq!(err(json!({"limits": {"fuel": 0}})).to_string(), "limits.fuel is \"0\", but must be greater than 0");
    assert_eq!(err(json!({"grants": {"data": "x"}})).to_string(), "grants.data is \"x\", but must be an absolute path");
    assert!(err(json!({"limits": {"memoryMiB": 1.5}})).to_string().contains("limits.memoryMiB"));
}

#[test]
fn weft_ipam_takes_its_terms_from_ipam() {
    let conf =
        |ipam: Value| json!({"name": "net", "type": "bridge", "bridge": "br0", "limits": "bridge's", "ipam": ipam});
    let network = parse(
        Persona::WeftIpam,
        conf(json!({"type": "weft-ipam", "policy": "by-label", "limits": {"fuel": 9}, "addresses": [{"address": "10.0.0.9/24"}]})),
    )
    .unwrap();
    assert_eq!(network.terms.limits.fuel, Some(9));
    assert!(network.delegate().is_none());
    let ipam = network.ipam.unwrap();
    assert_eq!(ipam.kind, IpamKind::Shipped("by-label".to_owned()));
    assert_eq!(ipam.declared, ["10.0.0.9/24".parse().unwrap()]);
    let text = |ipam| error(Persona::WeftIpam, conf(ipam));
    assert!(text(json!({"type": "weft-ipam"})).starts_with("ipam.policy is missing: "));
    assert!(
        text(json!({"type": "weft-ipam", "policy": "nope"})).starts_with("ipam.policy is \"nope\", which is neither")
    );
    assert_eq!(error(Persona::WeftIpam, json!({"name": "net"})), "IPAM config missing 'ipam' key");
}

#[test]
fn the_kind_of_ipam_follows_its_type() {
    let kind = |ipam: Value| read_network(json!({"ipam": ipam})).ipam.map(|ipam| ipam.kind);
    assert_eq!(kind(json!({})), None);
    assert_eq!(kind(json!({"type": ""})), None);
    assert_eq!(kind(json!({"type": "by-label"})), Some(IpamKind::Shipped("by-label".to_owned())));
    assert_eq!(kind(json!({"type": "dhcp"})), Some(IpamKind::Dhcp));
    let url = "oci://registry/repo:tag";
    assert_eq!(kind(json!({"type": "wasm", "policy": url})), Some(IpamKind::Wasm { policy: url.to_owned() }));
    assert_eq!(kind(json!({"type": "weft-ipam", "policy": "static"})), Some(IpamKind::Shipped("static".to_owned())));
    assert!(err(json!({"ipam": {"type": "wasm"}})).to_string().starts_with("ipam.policy is missing"));
    let shipped = err(json!({"ipam": {"type": "wasm", "policy": "host-local"}})).to_string();
    assert_eq!(
        shipped,
        "ipam.policy is \"host-local\", which comes with weft: write \"type\": \"host-local\" and no \"policy\""
    );
    assert!(err(json!({"ipam": {"type": "wasm", "policy": "other"}})).to_string().contains("neither"));
    assert_eq!(err(json!({"ipam": {"type": "a/b"}})).to_string(), "invalid plugin name: a/b");
}

#[test]
fn del_reads_what_it_can() {
    let conf = object(json!({
        "name": "net", "cniVersion": "7.7", "foo": 1, "delegate": {"type": "ovs"},
        "ipam": {"type": "dhcp", "ranges": "x"}, "limits": 5, "prevResult": {"a": 1},
    }));
    let network = Network::parse_for_del(Persona::Weft, &conf, &is_shipped);
    assert_eq!(network.name, "net");
    assert_eq!(network.delegate().unwrap().kind, "ovs");
    assert_eq!(network.ipam.unwrap().kind, IpamKind::Dhcp);
    assert_eq!(network.prev_result, Some(json!({"a": 1})));
    for persona in Persona::all() {
        let network =
            Network::parse_for_del(persona, &object(json!({"name": "n", "ipam": 5, "delegate": []})), &is_shipped);
        assert_eq!(network.name, "n");
    }
}

#[test]
fn gc_needs_a_well_formed_list_and_nothing_else() {
    let gc = |more: Value| {
        let mut conf = more;
        conf["name"] = json!("net");
        Network::parse_for_gc(Persona::Weft, &object(conf), &is_shipped).map(|network| network.valid_attachments)
    };
    let entry = |id: &str| json!({"containerID": id, "ifname": "eth0"});
    let pair = |id: &str| (id.to_owned(), "eth0".to_owned());
    assert_eq!(gc(json!({"nonsense": 1})), Ok(None));
    assert_eq!(gc(json!({"cni.dev/valid-attachments": []})), Ok(Some(Vec::new())));
    assert_eq!(gc(json!({"cni.dev/attachments": [entry("a")]})), Ok(Some(vec![pair("a")])));
    // If the two differ, keep both: removing too little can be repaired, removing too much cannot.
    let both =
        json!({"cni.dev/valid-attachments": [entry("a"), entry("b")], "cni.dev/attachments": [entry("b"), entry("c")]});
    assert_eq!(gc(both), Ok(Some(vec![pair("a"), pair("b"), pair("c")])));
    let bad = gc(json!({"cni.dev/valid-attachments": [entry("a"), {"containerID": "b"}]})).unwrap_err().to_string();
    assert!(bad.starts_with("cni.dev/valid-attachments[1].ifname is \"\""), "{bad}");
    assert!(gc(json!({"cni.dev/valid-attachments": "x"})).is_err());
}

#[test]
fn the_pod_is_what_runtime_and_configuration_tell() {
    let args = "IgnoreUnknown=1;K8S_POD_NAMESPACE=ns;K8S_POD_NAME=p;K8S_POD_UID=u";
    let pairs = parse_pairs(args).unwrap();
    let list =
        read_network(json!({"args": {"cni": {"labels": [{"key": "b", "value": "2"}, {"key": "a", "value": "1"}]}}}));
    let pod = list.pod(&pairs).unwrap();
    assert_eq!((pod.namespace.as_str(), pod.name.as_str(), pod.uid.as_str()), ("ns", "p", "u"));
    let sorted = [("a".to_owned(), "1".to_owned()), ("b".to_owned(), "2".to_owned())];
    assert_eq!(pod.labels, sorted);
    let map = read_network(json!({"args": {"cni": {"labels": {"b": "2", "a": "1"}}}}));
    assert_eq!(map.pod(&[]).unwrap().labels, sorted);
    assert_eq!(read_network(json!({})).pod(&[]), None);
    assert!(err(json!({"args": {"cni": {"labels": {"a": 1}}}})).to_string().starts_with("args.cni.labels.a is \"1\""));
    let lenient = json!({"name": "net", "args": {"cni": {"labels": 5}}});
    assert!(parse(Persona::Delegate("bridge"), lenient).is_ok());
}

#[test]
fn the_mac_in_a_policys_request() {
    let mac = |more: Value, args: &str| read_network(more).requested_mac(&parse_pairs(args).unwrap());
    assert_eq!(mac(json!({}), ""), None);
    assert_eq!(mac(json!({"delegate": {"type": "macvlan", "mac": "d"}}), "").as_deref(), Some("d"));
    assert_eq!(mac(json!({"delegate": {"type": "macvlan", "mac": "d"}}), "MAC=c").as_deref(), Some("c"));
    assert_eq!(mac(json!({"args": {"cni": {"mac": "b"}}}), "MAC=c").as_deref(), Some("b"));
    assert_eq!(mac(json!({"args": {"cni": {"mac": "b"}}, "runtimeConfig": {"mac": "a"}}), "").as_deref(), Some("a"));
}

#[test]
fn unsupported_versions_are_refused_with_the_supported_ones() {
    let error = err(json!({"cniVersion": "3.0.0"}));
    assert_eq!(error.code(), 1);
    assert!(error.to_string().starts_with("incompatible CNI versions; config is \"3.0.0\""), "{error}");
}
