//! Invalid values of a guest are refused, and valid ones survive a round trip.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use super::*;
use crate::bindings::ipam::weft::policy::types as wit;
use crate::types as native;

fn v4(text: &str) -> wit::IpAddress {
    to_address(text.parse().expect("address"))
}

fn decision_of(candidate: wit::IpPrefix) -> wit::Decision {
    wit::Decision {
        addresses: vec![wit::WantedAddress { candidates: vec![candidate], gateway: Some(v4("10.1.0.1")) }],
        routes: vec![wit::Route {
            dst: wit::IpPrefix { address: v4("0.0.0.0"), length: 0 },
            gw: None,
            mtu: Some(1400),
            advmss: None,
            priority: Some(5),
            table: None,
            scope: Some(253),
        }],
        dns: None,
        release: wit::ReleaseRule::Cooldown(7),
        reason: "because".to_owned(),
    }
}

#[test]
fn addresses_survive_both_ways() {
    for text in ["0.0.0.0", "10.1.2.3", "255.255.255.255", "::", "::1", "2001:db8::a:b", "ffff::ffff"] {
        let ip: IpAddr = text.parse().expect("address");
        assert_eq!(address(to_address(ip)), Ok(ip));
    }
}

#[test]
fn a_decision_keeps_host_bits_and_every_field() {
    let native = decision(decision_of(wit::IpPrefix { address: v4("10.1.0.5"), length: 24 })).expect("sound");
    assert_eq!(native.addresses[0].candidates, ["10.1.0.5/24".parse().expect("net")]);
    assert_eq!(native.addresses[0].gateway, Some("10.1.0.1".parse().expect("address")));
    assert_eq!(
        (native.routes[0].mtu, native.routes[0].priority, native.routes[0].scope),
        (Some(1400), Some(5), Some(253))
    );
    assert_eq!(native.release, native::ReleaseRule::Cooldown(7));
}

#[test]
fn impossible_prefix_lengths_are_errors() {
    let error = decision(decision_of(wit::IpPrefix { address: v4("10.1.0.5"), length: 33 })).expect_err("33 bits");
    assert_eq!(error.to_string(), "10.1.0.5/33 has a prefix length over 32");
    let v6 = wit::IpAddress::Ipv6((0x2001, 0xdb8, 0, 0, 0, 0, 0, 1));
    let error = decision(decision_of(wit::IpPrefix { address: v6, length: 255 })).expect_err("255 bits");
    assert_eq!(error.to_string(), "2001:db8::1/255 has a prefix length over 128");
}

#[test]
fn mapped_addresses_are_errors() {
    let mapped = wit::IpAddress::Ipv6((0, 0, 0, 0, 0, 0xffff, 0x0a01, 0x0005));
    let error = address(mapped).expect_err("mapped");
    assert_eq!(error.to_string(), "::ffff:10.1.0.5 is an IPv4-mapped IPv6 address; return it as the variant ipv4");
}

#[test]
fn nonsense_ranges_are_errors() {
    let ask = |subnet: &str, length, first: &str, last: &str| {
        range(wit::IpRange {
            subnet: wit::IpPrefix { address: v4(subnet), length },
            first: v4(first),
            last: v4(last),
            gateway: None,
        })
    };
    ask("10.1.0.0", 24, "10.1.0.1", "10.1.0.9").expect("sound");
    assert!(matches!(ask("10.1.0.7", 24, "10.1.0.1", "10.1.0.9"), Err(ConvertError::HostBits(_))));
    assert!(matches!(ask("10.1.0.0", 24, "::1", "10.1.0.9"), Err(ConvertError::MixedFamilies { .. })));
    assert!(matches!(ask("10.1.0.0", 24, "10.1.0.9", "10.1.0.1"), Err(ConvertError::Backwards { .. })));
    assert!(matches!(ask("10.1.0.0", 40, "10.1.0.1", "10.1.0.9"), Err(ConvertError::PrefixLength { .. })));
}

#[test]
fn a_request_reaches_the_guest_whole() {
    let native = native::Request {
        attachment: native::Attachment {
            network: "net".to_owned(),
            container_id: "c1".to_owned(),
            ifname: "eth0".to_owned(),
        },
        pod: Some(native::Pod {
            name: "p".to_owned(),
            labels: vec![("a".to_owned(), "b".to_owned())],
            ..Default::default()
        }),
        node: native::Node { name: "n".to_owned(), labels: Vec::new() },
        identities: vec!["container:c1".to_owned()],
        requested: vec![native::Requested {
            text: "10.1.0.9/24".to_owned(),
            address: Some("10.1.0.9".parse().expect("address")),
            length: Some(24),
            source: native::RequestSource::RuntimeConfig,
        }],
        mac: Some("02:00:00:00:00:01".to_owned()),
        cni_args: vec![("IP".to_owned(), "10.1.0.9".to_owned())],
        held: vec![native::ClaimInfo {
            address: "10.1.0.3".parse().expect("address"),
            owner: "c1".to_owned(),
            ifname: "eth0".to_owned(),
            state: native::ClaimState::Kept,
        }],
        range_sets: vec![native::RangeSet {
            name: Some("gold".to_owned()),
            ranges: vec![native::Range {
                subnet: "10.1.0.0/24".parse().expect("net"),
                first: "10.1.0.1".parse().expect("address"),
                last: "10.1.0.254".parse().expect("address"),
                gateway: Some("10.1.0.1".parse().expect("address")),
            }],
        }],
        resolver: Some(native::Dns { nameservers: vec!["10.1.0.53".to_owned()], ..Default::default() }),
        config: "{}".to_owned(),
        cni_version: "1.1.0".to_owned(),
        now: 5,
        seed: 7,
    };
    let seen = request(&native);
    assert_eq!(seen.pod.expect("pod").labels[0].value, "b");
    assert!(matches!(seen.requested[0].source, wit::RequestSource::RuntimeConfig));
    assert!(matches!(seen.held[0].state, wit::ClaimState::Kept));
    assert_eq!((seen.now, seen.seed, seen.config.as_str()), (5, 7, "{}"));
    let back = range(seen.range_sets.into_iter().next().expect("set").ranges.remove(0)).expect("sound");
    assert_eq!(back, native.range_sets[0].ranges[0]);
}
