//! The operator's declarations and the requested addresses.

use weft_host_abi::types::RequestSource;

use super::*;

fn ipam(ipam: Value) -> IpamConf {
    parse(Persona::Weft, weft_conf(json!({"ipam": ipam}))).unwrap().ipam.unwrap()
}

fn ipam_error(ipam: Value) -> String {
    error(Persona::Weft, weft_conf(json!({"ipam": ipam})))
}

/// `first-last gateway` of each range of each set.
fn describe_ranges(ipam: &IpamConf) -> Vec<Vec<String>> {
    let range = |range: &weft_host_abi::types::Range| {
        format!("{}-{} {}", range.first, range.last, range.gateway.map(|gw| gw.to_string()).unwrap_or_default())
    };
    ipam.range_sets.iter().map(|set| set.ranges.iter().map(range).collect()).collect()
}

#[test]
fn defaults_are_filled_in() {
    let read = ipam(host_local(json!([
        [{"subnet": "10.0.0.0/24"}],
        [{"subnet": "fd00::/64"}],
        [{"subnet": "10.0.1.0/30"}, {"subnet": "10.0.2.0/24", "rangeStart": "10.0.2.10", "rangeEnd": "10.0.2.20",
          "gateway": "10.0.2.254"}],
    ])));
    assert_eq!(
        describe_ranges(&read),
        [
            vec!["10.0.0.1-10.0.0.254 10.0.0.1"],
            vec!["fd00::1-fd00::ffff:ffff:ffff:ffff fd00::1"],
            vec!["10.0.1.1-10.0.1.2 10.0.1.1", "10.0.2.10-10.0.2.20 10.0.2.254"],
        ]
    );
}

#[test]
fn the_runtimes_ranges_come_first_then_the_single_one() {
    let conf = weft_conf(json!({
        "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.2.0.0/24"}]], "subnet": "10.1.0.0/24",
                 "rangeStart": "10.1.0.7", "gateway": "10.1.0.3"},
        "runtimeConfig": {"ipRanges": [[{"subnet": "10.0.0.0/24"}]]},
    }));
    let read = parse(Persona::Weft, conf).unwrap().ipam.unwrap();
    assert_eq!(
        describe_ranges(&read),
        [["10.0.0.1-10.0.0.254 10.0.0.1"], ["10.1.0.7-10.1.0.254 10.1.0.3"], ["10.2.0.1-10.2.0.254 10.2.0.1"]]
    );
    // The policy's configuration is what the operator wrote.
    assert!(!read.text.contains("10.0.0.0"));
    assert_eq!(serde_json::from_str::<Value>(&read.text).unwrap(), *read.object.as_value());
}

#[test]
fn sets_may_have_names() {
    let read = ipam(json!({"type": "by-label", "ranges": [
        {"name": "blue", "ranges": [{"subnet": "10.0.0.0/24"}]},
        [{"subnet": "10.1.0.0/24"}],
    ]}));
    let names: Vec<_> = read.range_sets.iter().map(|set| set.name.as_deref()).collect();
    assert_eq!(names, [Some("blue"), None]);
    let twice = json!({"type": "by-label", "ranges": [
        {"name": "blue", "ranges": [{"subnet": "10.0.0.0/24"}]},
        {"name": "blue", "ranges": [{"subnet": "10.1.0.0/24"}]},
    ]});
    assert_eq!(ipam_error(twice), "two range sets have the name \"blue\"");
}

#[test]
fn mistakes_in_ranges_have_the_stock_texts() {
    let first = |range: Value| ipam_error(host_local(json!([[range]])));
    let set = |text: &str| format!("invalid range set 0: {text}");
    assert_eq!(ipam_error(json!({"type": "host-local"})), "no IP ranges specified");
    assert_eq!(ipam_error(host_local(json!([[]]))), set("empty range set"));
    assert_eq!(ipam_error(host_local(json!([null]))), set("empty range set"));
    assert_eq!(first(json!({})), set("IP <nil> not v4 nor v6"));
    assert_eq!(first(json!({"subnet": "10.0.0.0"})), set("subnet: invalid CIDR address: 10.0.0.0"));
    assert_eq!(first(json!({"subnet": "10.0.0.0/31"})), set("Network 10.0.0.0/31 too small to allocate from"));
    assert_eq!(first(json!({"subnet": "fd00::/127"})), set("Network fd00::/127 too small to allocate from"));
    assert_eq!(first(json!({"subnet": "::ffff:10.0.0.0/120"})), set("IPNet IP and Mask version mismatch"));
    assert_eq!(
        first(json!({"subnet": "10.0.0.5/24"})),
        set("Network has host bits set. For a subnet mask of length 24 the network address is 10.0.0.0")
    );
    let start = |start: &str, end: &str| first(json!({"subnet": "10.0.0.0/24", "rangeStart": start, "rangeEnd": end}));
    assert_eq!(start("10.0.1.0", ""), set("RangeStart 10.0.1.0 not in network 10.0.0.0/24"));
    assert_eq!(start("", "10.0.1.0"), set("RangeEnd 10.0.1.0 not in network 10.0.0.0/24"));
    assert_eq!(
        start("10.0.0.9", "10.0.0.8"),
        set("RangeStart 10.0.0.9 not in network 10.0.0.0/24: it is after RangeEnd 10.0.0.8")
    );
    assert_eq!(start("", "10.0.0.0"), set("RangeEnd 10.0.0.0 not in network 10.0.0.0/24"));
    assert_eq!(start("10.0.0.255", ""), set("RangeStart 10.0.0.255 not in network 10.0.0.0/24"));
    assert_eq!(start("fd00::1", ""), set("RangeStart fd00::1 not in network 10.0.0.0/24"));
    assert_eq!(start("x", ""), set("rangeStart: invalid IP address: x"));
    let gateway = first(json!({"subnet": "10.0.0.0/24", "gateway": "fd00::1"}));
    assert_eq!(gateway, set("gateway fd00::1 is not of the family of network 10.0.0.0/24"));
    // The stock plugin allows a gateway elsewhere.
    ipam(host_local(json!([[{"subnet": "10.0.0.0/24", "gateway": "169.254.1.1"}]])));
}

#[test]
fn mistakes_between_ranges_have_the_stock_texts() {
    assert_eq!(
        ipam_error(host_local(json!([[{"subnet": "10.0.0.0/24"}, {"subnet": "fd00::/64"}]]))),
        "invalid range set 0: mixed address families"
    );
    assert_eq!(
        ipam_error(host_local(
            json!([[{"subnet": "10.9.0.0/24"}], [{"subnet": "10.0.0.0/16"}, {"subnet": "10.0.5.0/24"}]])
        )),
        "invalid range set 1: subnets 10.0.0.1-10.0.255.254 and 10.0.5.1-10.0.5.254 overlap"
    );
    assert_eq!(
        ipam_error(host_local(
            json!([[{"subnet": "10.0.0.0/24"}], [{"subnet": "10.1.0.0/24"}], [{"subnet": "10.0.0.0/25"}]])
        )),
        "range set 0 overlaps with 2"
    );
    // Ranges are compared, not subnets.
    ipam(host_local(json!([
        [{"subnet": "10.0.0.0/24", "rangeEnd": "10.0.0.99"}],
        [{"subnet": "10.0.0.0/24", "rangeStart": "10.0.0.100"}],
    ])));
}

#[test]
fn a_set_of_the_wrong_shape_is_described() {
    let text = ipam_error(json!({"type": "host-local", "ranges": [{"subnet": "10.0.0.0/24"}]}));
    assert_eq!(
        text,
        "invalid range set 0: a range set is a list of ranges, or an object with \"ranges\" and a \"name\"; \
         found an object with \"subnet\""
    );
    assert!(ipam_error(json!({"type": "host-local", "ranges": [5]})).contains("found 5"));
    assert_eq!(
        ipam_error(host_local(json!([[{"subnet": "10.0.0.0/24"}, {"subnet": 5}]]))),
        "invalid range set 0: json: cannot unmarshal number 5 into field ipam.ranges[0][1].subnet of type string"
    );
    assert!(ipam_error(json!({"type": "host-local", "ranges": {}})).contains("ipam.ranges"));
}

#[test]
fn old_versions_have_one_address_per_family() {
    let conf = |version: &str, ranges: Value| {
        let mut conf = weft_conf(json!({"ipam": host_local(ranges)}));
        conf["cniVersion"] = json!(version);
        parse(Persona::Weft, conf).map(|_| ()).map_err(|e| e.to_string())
    };
    let two = || json!([[{"subnet": "10.0.0.0/24"}], [{"subnet": "10.0.1.0/24"}]]);
    let text = "CNI version 0.2.0 does not support more than 1 address per family".to_owned();
    assert_eq!(conf("0.2.0", two()), Err(text));
    assert_eq!(conf("0.3.0", two()), Ok(()));
    assert_eq!(conf("0.2.0", json!([[{"subnet": "10.0.0.0/24"}], [{"subnet": "fd00::/64"}]])), Ok(()));
}

#[test]
fn requested_addresses_keep_their_order_and_source() {
    let conf = |kind: &str| {
        weft_conf(json!({
            "ipam": {"type": kind, "subnet": "10.0.0.0/24"},
            "args": {"cni": {"ips": ["10.0.0.6"]}},
            "runtimeConfig": {"ips": ["10.0.0.7/24", "10.0.0.8"]},
        }))
    };
    let read = |kind: &str, args: &str| parse_with(Persona::Weft, conf(kind), args).map(|n| n.ipam.unwrap().requested);
    let requested = read("host-local", "IP=10.0.0.5/16").unwrap();
    let brief: Vec<_> = requested.iter().map(|r| (r.text.as_str(), r.length, r.source)).collect();
    assert_eq!(
        brief,
        [
            ("10.0.0.5/16", Some(16), RequestSource::CniArgs),
            ("10.0.0.6", None, RequestSource::Args),
            ("10.0.0.7/24", Some(24), RequestSource::RuntimeConfig),
            ("10.0.0.8", None, RequestSource::RuntimeConfig),
        ]
    );
    let error = read("host-local", "IP=10.0.0.5,10.0.0.6").unwrap_err().to_string();
    assert_eq!(
        error,
        "ARGS: error parsing value of pair \"IP=10.0.0.5,10.0.0.6\": invalid IP address 10.0.0.5,10.0.0.6"
    );
    let mut bad = conf("host-local");
    bad["args"]["cni"]["ips"][0] = json!("x");
    assert_eq!(super::error(Persona::Weft, bad), "invalid IP address x");
    let list = read("static", "IP=10.0.0.5/24, nonsense").unwrap();
    assert_eq!((list[0].length, list[1].text.as_str(), list[1].address), (Some(24), "nonsense", None));
    assert_eq!(read("static", "IP=").unwrap().len(), 3);
}

#[test]
fn single_addresses_are_declared_or_requested() {
    let read = ipam(json!({"type": "static", "addresses": [{"address": "10.0.0.9/24", "gateway": "10.0.0.1"}],
        "ranges": "ignored by the stock plugin"}));
    assert_eq!(read.declared, ["10.0.0.9/24".parse().unwrap()]);
    let conf = weft_conf(json!({"ipam": {"type": "static"}, "runtimeConfig": {"ips": ["10.0.0.7/24", "10.0.0.8"]}}));
    let asked = parse(Persona::Weft, conf).unwrap().ipam.unwrap();
    assert_eq!(asked.declared, ["10.0.0.7/24".parse().unwrap()], "one without a length is no address to give out");
    // With ranges, only their addresses are allocated.
    let ranged = weft_conf(json!({"ipam": {"type": "by-label", "subnet": "10.0.0.0/24"},
        "runtimeConfig": {"ips": ["192.0.2.7/24"]}}));
    assert!(parse(Persona::Weft, ranged).unwrap().ipam.unwrap().declared.is_empty());
    assert_eq!(
        ipam_error(json!({"type": "static", "addresses": [{"address": "10.0.0.9"}]})),
        "the 'address' field is expected to be in CIDR notation, got: '10.0.0.9'"
    );
    // host-local has no such key.
    assert!(ipam(json!({"type": "host-local", "subnet": "10.0.0.0/24", "addresses": 5})).declared.is_empty());
}

#[test]
fn another_data_dir_is_another_scope() {
    let scope = |dir: Value| ipam(json!({"type": "host-local", "subnet": "10.0.0.0/24", "dataDir": dir})).scope;
    assert_eq!(scope(Value::Null), "net");
    assert_eq!(scope(json!("/var/lib/cni/networks")), "net");
    assert_eq!(scope(json!("/var/lib/cni/networks/")), "net");
    assert_eq!(scope(json!("/data/x")), "net@/data/x");
    assert!(ipam_error(json!({"type": "host-local", "subnet": "10.0.0.0/24", "dataDir": 5})).contains("ipam.dataDir"));
}

#[test]
fn resolv_conf_is_a_path() {
    let read = ipam(json!({"type": "host-local", "subnet": "10.0.0.0/24", "resolvConf": "/etc/resolv.conf"}));
    assert_eq!(read.resolv_conf, Some("/etc/resolv.conf".into()));
}
