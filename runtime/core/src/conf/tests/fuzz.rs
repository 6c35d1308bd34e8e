//! Any configuration results in a network or an error with a code, never a panic.

use proptest::prelude::*;
use serde_json::Map;

use super::*;
use crate::cni::CniError;

/// Keys at some level of a configuration.
const KEYS: [&str; 45] = [
    "cniVersion",
    "name",
    "type",
    "delegate",
    "delegates",
    "select",
    "settable",
    "files",
    "subnetFile",
    "ipam",
    "ledger",
    "limits",
    "grants",
    "runtimeConfig",
    "args",
    "cni",
    "dns",
    "ranges",
    "subnet",
    "rangeStart",
    "rangeEnd",
    "gateway",
    "addresses",
    "address",
    "ips",
    "ipRanges",
    "labels",
    "key",
    "value",
    "policy",
    "dataDir",
    "resolvConf",
    "fuel",
    "memoryMiB",
    "deadlineMs",
    "wasi",
    "data",
    "nameservers",
    "search",
    "cni.dev/valid-attachments",
    "containerID",
    "ifname",
    "mac",
    "prevResult",
    "Name",
];

fn leaf() -> impl Strategy<Value = Value> {
    let words = [
        "host-local",
        "static",
        "by-label",
        "wasm",
        "weft-ipam",
        "bridge",
        "ptp",
        "macvlan",
        "loopback",
        "node",
        "1.1.0",
        "0.2.0",
        "",
        "file:///x",
        "/var",
        "10.0.0.0/24",
        "10.0.0.9/24",
        "fd00::/64",
        "10.0.0.1",
        "fd00::1",
        "net",
    ];
    prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        ".{0,8}".prop_map(Value::from),
        prop::sample::select(words.to_vec()).prop_map(Value::from),
        prop::sample::select(words.to_vec()).prop_map(Value::from),
        (any::<u32>(), 0_u8..=33).prop_map(|(a, len)| json!(format!("{}/{len}", std::net::Ipv4Addr::from(a)))),
        (any::<u128>(), 0_u8..=129).prop_map(|(a, len)| json!(format!("{}/{len}", std::net::Ipv6Addr::from(a)))),
        (0_u8..=32).prop_map(|len| json!([[{"subnet": format!("0.0.0.0/{len}"), "rangeEnd": "255.255.255.255"}]])),
        (0_u8..=128).prop_map(|len| json!([[{"subnet": format!("::/{len}")}]])),
    ]
}

fn conf() -> impl Strategy<Value = Value> {
    let object = |inner: BoxedStrategy<Value>| {
        prop::collection::vec((prop::sample::select(KEYS.to_vec()), inner), 0..8).prop_map(|pairs| {
            Value::Object(pairs.into_iter().map(|(key, value)| (key.to_owned(), value)).collect::<Map<_, _>>())
        })
    };
    let inner = leaf().prop_recursive(4, 64, 8, move |inner| {
        prop_oneof![prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from), object(inner.boxed())]
    });
    // Mostly well-formed at the top, so that the inner parts are read.
    object(inner.boxed()).prop_flat_map(|conf| {
        let fixed = (any::<bool>(), prop::sample::select(SHIPPED.to_vec()));
        (Just(conf), fixed).prop_map(|(mut conf, (fix, ipam))| {
            if fix {
                conf["cniVersion"] = json!("1.1.0");
                if conf["select"].is_object() {
                    conf["select"]["policy"] = json!("by-label");
                    let entry = json!({"name": "a", "type": "bridge", "settable": ["mtu", "ipam.ranges", "ipam.type"]});
                    conf["delegates"] = json!([entry, {"name": "b", "type": ipam}]);
                } else {
                    conf["delegate"] = json!({"type": "bridge"});
                }
                if conf["ipam"].is_object() {
                    conf["ipam"]["type"] = json!(ipam);
                }
            }
            conf
        })
    })
}

/// A subnet, mostly without host bits, and addresses in or near it.
fn range() -> impl Strategy<Value = Value> {
    let base = prop_oneof![
        (0_u32..4, 0_u8..=32).prop_map(|(net, len)| (std::net::IpAddr::from([10, 0, net as u8, 0]), len)),
        (0_u16..4, 0_u8..=128).prop_map(|(net, len)| (std::net::IpAddr::from([0xfd00, 0, 0, net, 0, 0, 0, 0]), len)),
        (any::<u32>(), 20_u8..=32).prop_map(|(a, len)| (std::net::Ipv4Addr::from(a).into(), len)),
        (any::<u128>(), 100_u8..=128).prop_map(|(a, len)| (std::net::Ipv6Addr::from(a).into(), len)),
    ];
    let truncate = prop::bool::weighted(0.9);
    let offsets = prop::collection::vec(prop::option::weighted(0.3, 0_u32..300), 3);
    (base, truncate, offsets).prop_map(|((base, len), truncate, offsets)| {
        let net = ipnet::IpNet::new(base, len).unwrap();
        let net = if truncate { net.trunc() } else { net };
        let mut range = json!({"subnet": net.to_string()});
        for (key, offset) in ["rangeStart", "rangeEnd", "gateway"].into_iter().zip(offsets) {
            let Some(offset) = offset else { continue };
            let address: std::net::IpAddr = match net.network() {
                std::net::IpAddr::V4(a) => std::net::Ipv4Addr::from(u32::from(a).wrapping_add(offset)).into(),
                std::net::IpAddr::V6(a) => std::net::Ipv6Addr::from(u128::from(a).wrapping_add(offset.into())).into(),
            };
            range[key] = json!(address.to_string());
        }
        range
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    /// The ledger may rely on parsed ranges: ends in order and inside their subnet, no address in two ranges.
    #[test]
    fn ranges_that_are_read_are_sound(
        sets in prop::collection::vec(prop::collection::vec(range(), 1..3), 1..4),
        kind in prop::sample::select(vec!["host-local", "by-label"]),
    ) {
        let conf = weft_conf(json!({"ipam": {"type": kind, "ranges": sets}}));
        match parse(Persona::Weft, conf) {
            Err(error) => prop_assert!(error.code() == 7 && !error.to_string().is_empty()),
            Ok(network) => {
                let read = network.ipam.unwrap().range_sets;
                prop_assert_eq!(read.len(), sets.len());
                let ranges: Vec<_> = read.iter().flat_map(|set| &set.ranges).collect();
                for (index, range) in ranges.iter().enumerate() {
                    prop_assert!(range.first <= range.last, "{range:?}");
                    prop_assert!(range.subnet.contains(&range.first) && range.subnet.contains(&range.last), "{range:?}");
                    prop_assert_eq!(range.subnet, range.subnet.trunc());
                    prop_assert_eq!(range.gateway.map(|gw| gw.is_ipv4()), Some(range.first.is_ipv4()));
                    for other in &ranges[index + 1..] {
                        let apart = range.first.is_ipv4() != other.first.is_ipv4()
                            || range.last < other.first
                            || other.last < range.first;
                        prop_assert!(apart, "{range:?} {other:?}");
                    }
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn any_configuration_is_read_or_refused(
        conf in conf(),
        args in prop_oneof![Just(String::new()), "(IP|MAC|IgnoreUnknown|X)=[0-9a-z./,]{0,12}"],
    ) {
        let conf = object(conf);
        let pairs = parse_pairs(&args).unwrap();
        for persona in Persona::all() {
            match Network::parse(persona, &conf, &pairs, &is_shipped) {
                Ok(network) => {
                    let _pod = network.pod(&pairs);
                    let _mac = network.requested_mac(&pairs);
                    for candidate in network.select().into_iter().flat_map(SelectConf::candidates) {
                        let settings = candidate.settable.iter().map(|key| (key.as_str(), conf.as_value()));
                        let select = network.select().unwrap();
                        let chosen = select.chosen(&candidate.name, settings).unwrap();
                        let _read = network.chosen(&chosen, &pairs, &is_shipped);
                    }
                }
                Err(error) => {
                    let document = CniError::new(error.code(), error.to_string()).to_json();
                    prop_assert!(serde_json::from_str::<Value>(&document).is_ok());
                }
            }
            let _del = Network::parse_for_del(persona, &conf, &is_shipped);
            let _gc = Network::parse_for_gc(persona, &conf, &is_shipped);
        }
    }
}
