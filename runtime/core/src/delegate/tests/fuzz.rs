//! Whatever the configuration says: a plan or an error, never a panic.

use proptest::prelude::*;
use serde_json::Map;

use super::*;

fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        (-2_i64..5000).prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        ".{0,18}".prop_map(Value::from),
        Just(json!("02:00:00:00:00:01")),
        Just(json!([{"minID": 1, "maxID": 4094}, {"id": 3}])),
        Just(json!({"type": "x"})),
        Just(json!({"mac": "02:00:00:00:00:01"})),
    ];
    leaf.prop_recursive(2, 12, 4, |inner| prop::collection::vec(inner, 0..4).prop_map(Value::from))
}

fn conf(kind: &'static str) -> impl Strategy<Value = Value> {
    let mut keys = find(kind).unwrap().keys().to_vec();
    keys.extend(["ipam", "dns", "args", "runtimeConfig", "RUNTIMECONFIG"]);
    let key = prop::sample::select(keys).prop_map(ToOwned::to_owned);
    prop::collection::vec((key, value()), 0..6)
        .prop_map(|pairs| Value::Object(pairs.into_iter().collect::<Map<_, _>>()))
}

fn addressing() -> impl Strategy<Value = Option<Addressing>> {
    let net = || {
        prop_oneof![
            (any::<u32>(), 0_u8..=32).prop_map(|(addr, len)| IpNet::new(std::net::Ipv4Addr::from(addr).into(), len)),
            (any::<u128>(), 0_u8..=128).prop_map(|(addr, len)| IpNet::new(std::net::Ipv6Addr::from(addr).into(), len)),
        ]
        .prop_map(Result::unwrap)
    };
    let given = (net(), prop::option::of(net()))
        .prop_map(|(address, gateway)| Given { address, gateway: gateway.map(|gateway| gateway.addr()) });
    let route = (net(), prop::option::of(net())).prop_map(|(dst, gw)| Route::new(dst, gw.map(|gw| gw.addr())));
    let all = (prop::collection::vec(given, 0..4), prop::collection::vec(route, 0..3), any::<bool>());
    prop::option::of(all.prop_map(|(ips, routes, unique)| Addressing {
        ips,
        routes,
        dns: Dns::default(),
        unique,
        probe_ms: None,
    }))
}

fn any_conf() -> impl Strategy<Value = (&'static str, Value)> {
    prop::sample::select(kinds().collect::<Vec<_>>()).prop_flat_map(|kind| (Just(kind), conf(kind)))
}

proptest! {
    #[test]
    fn any_configuration_gives_a_plan_or_an_error((kind, conf) in any_conf(), addressing in addressing()) {
        let object = Object::from_value(conf.clone()).unwrap();
        let delegate = find(kind).unwrap();
        let valid = delegate.validate(&object, &[]);
        if valid.is_ok() {
            prop_assert!(delegate.needs(&object, None).is_ok(), "what validates can say what it needs");
        }
        let dns_ok = read_dns(&object).is_ok();
        prop_assume!(dns_ok);
        let call = Call { addressing, ..Call::new(kind, conf) }.with_link(LinkRef::host("eth1"), "", 1500);
        match call.plan() {
            Ok(plan) => {
                prop_assert!(valid.is_ok());
                let text = serde_json::to_string(&plan).unwrap();
                prop_assert_eq!(serde_json::from_str::<Plan>(&text).unwrap(), plan);
            }
            Err(error) => prop_assert!(!error.to_string().is_empty()),
        }
    }
}
