//! Called by a stock plugin's name: reads its configuration equally leniently.

use super::*;

const BRIDGE: Persona = Persona::Delegate("bridge");

#[test]
fn unknown_keys_are_ignored_and_the_whole_is_the_delegates() {
    let conf = json!({"Name": "net", "type": "bridge", "foo": 1, "IPAM": {"Type": "host-local", "Subnet": "10.0.0.0/24",
        "routes": null, "resolvConf": "", "limits": {"fuel": 3}}});
    let network = parse(BRIDGE, conf.clone()).unwrap();
    assert_eq!(network.name, "net");
    let delegate = network.delegate().unwrap().clone();
    assert_eq!((delegate.kind.as_str(), delegate.builtin), ("bridge", true));
    assert_eq!(delegate.conf.as_value(), &conf);
    let ipam = network.ipam.unwrap();
    assert_eq!(ipam.range_sets.len(), 1);
    assert_eq!(ipam.resolv_conf, None);
    assert_eq!(network.terms.limits.fuel, Some(3));
}

#[test]
fn an_absent_version_is_the_first() {
    let network = parse(BRIDGE, json!({"name": "net"})).unwrap();
    assert_eq!(network.version, crate::cni::Version::V0_1_0);
}

#[test]
fn loopback_ignores_ipam_and_ptp_needs_it() {
    let conf = json!({"name": "net", "ipam": {"type": "host-local"}});
    assert_eq!(parse(Persona::Delegate("loopback"), conf).unwrap().ipam, None);
    assert_eq!(error(Persona::Delegate("ptp"), json!({"name": "net"})), "no plugin name provided");
    assert_eq!(parse(BRIDGE, json!({"name": "net"})).unwrap().ipam, None);
    assert_eq!(parse(Persona::Delegate("macvlan"), json!({"name": "net", "ipam": {}})).unwrap().ipam, None);
}

#[test]
fn an_ipam_plugin_does_not_look_at_the_type() {
    let conf = json!({"name": "net", "ipam": {"type": "whatever", "subnet": "10.0.0.0/24"}});
    let network = parse(Persona::Ipam("host-local"), conf).unwrap();
    assert_eq!(network.ipam.unwrap().kind, IpamKind::Shipped("host-local".to_owned()));
    for name in ["host-local", "static"] {
        assert_eq!(error(Persona::Ipam(name), json!({"name": "net"})), "IPAM config missing 'ipam' key");
    }
}

#[test]
fn an_external_ipam_plugins_keys_are_its_own() {
    let ipam = json!({"type": "whereabouts", "ranges": "x", "limits": "y", "addresses": 5});
    let network = parse(BRIDGE, json!({"name": "net", "ipam": ipam})).unwrap();
    assert_eq!(network.external_ipam(), Some("whereabouts"));
    assert!(network.ipam.unwrap().range_sets.is_empty());
}

#[test]
fn cni_args_are_refused_by_their_reader() {
    let check = |persona, ipam: Value, args: &str| {
        parse_with(persona, json!({"name": "net", "ipam": ipam}), args).map(|_| ()).map_err(|e| e.to_string())
    };
    let ranges = || json!({"type": "host-local", "subnet": "10.0.0.0/24"});
    let unknown = |arg: &str| Err(format!("ARGS: unknown args [{arg:?}]"));
    assert_eq!(check(BRIDGE, json!({}), "MAC=02:00:00:00:00:01"), Ok(()));
    assert_eq!(check(BRIDGE, json!({}), "IP=10.0.0.5"), unknown("IP=10.0.0.5"));
    assert_eq!(check(BRIDGE, ranges(), "IP=10.0.0.5;MAC=02:00:00:00:00:01"), Ok(()));
    assert_eq!(check(Persona::Ipam("host-local"), ranges(), "MAC=x"), unknown("MAC=x"));
    assert_eq!(check(Persona::Ipam("host-local"), ranges(), "MAC=x;IgnoreUnknown=true"), Ok(()));
    assert_eq!(check(Persona::Ipam("static"), json!({}), "IP=10.0.0.5/24;GATEWAY=10.0.0.1"), Ok(()));
    // ptp reads none, but the IPAM plugin it would call does.
    assert_eq!(check(Persona::Delegate("ptp"), json!({"type": "dhcp"}), "A=b"), Ok(()));
    assert_eq!(check(Persona::Delegate("ptp"), ranges(), "A=b"), unknown("A=b"));
    assert_eq!(check(Persona::Delegate("loopback"), json!({}), "A=b"), Ok(()));
    assert_eq!(check(Persona::WeftIpam, json!({"policy": "by-label"}), "A=b"), Ok(()));
}

#[test]
fn wrong_types_have_the_stock_texts() {
    let text = error(BRIDGE, json!({"name": "net", "dns": {"nameservers": "1.1.1.1"}}));
    assert_eq!(
        text,
        "failed to load netconf: json: cannot unmarshal string \"1.1.1.1\" into field dns.nameservers of type list"
    );
    assert!(error(BRIDGE, json!({"name": "net", "runtimeConfig": 1})).contains("runtimeConfig"));
    assert!(error(BRIDGE, json!({"name": "net", "ipam": []})).contains("ipam"));
}
