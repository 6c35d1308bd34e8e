//! Mistakes in ranges, with the stock plugin's messages.

use crate::{conf, ranges};

fn problems(config: &str) -> Vec<String> {
    let value = conf::parse(config).expect("JSON");
    let (_sets, problems) = ranges::check(&conf::top_object(&value).expect("an object"));
    problems.into_iter().map(|problem| format!("{} {}", problem.at, problem.message)).collect()
}

#[test]
fn sound_ranges_have_no_problems() {
    for config in [
        "{}",
        r#"{"subnet": "10.1.0.0/24"}"#,
        r#"{"subnet": "10.1.0.0/24", "rangeStart": "10.1.0.0", "rangeEnd": "10.1.0.255", "gateway": "192.0.2.1"}"#,
        r#"{"ranges": null, "subnet": null}"#,
        r#"{"Ranges": [[{"Subnet": "10.1.0.0/30"}], [{"subnet": "2001:db8::/126"}]]}"#,
        r#"{"ranges": [[{"subnet": "10.1.0.0/24", "rangeEnd": "10.1.0.99"}, {"subnet": "10.1.0.0/24", "rangeStart": "10.1.0.100"}]]}"#,
        r#"{"ranges": [{"name": "gold", "ranges": [{"subnet": "10.1.0.0/24"}]}]}"#,
    ] {
        assert_eq!(problems(config), Vec::<String>::new(), "{config}");
    }
}

#[test]
fn defaults_are_the_stock_plugins() {
    let value =
        conf::parse(r#"{"ranges": [[{"subnet": "10.1.0.0/24"}], [{"subnet": "2001:db8::/64"}]]}"#).expect("JSON");
    let (sets, _problems) = ranges::check(&conf::top_object(&value).expect("an object"));
    let text =
        |range: &weft_sdk::IpRange| format!("{}-{} {}", range.first, range.last, range.gateway.expect("a gateway"));
    assert_eq!(text(&sets[0].ranges[0]), "10.1.0.1-10.1.0.254 10.1.0.1");
    assert_eq!(text(&sets[1].ranges[0]), "2001:db8::1-2001:db8::ffff:ffff:ffff:ffff 2001:db8::1");
}

#[test]
fn problems_have_the_stock_plugins_words() {
    for (config, expected) in [
        (r#"{"ranges": [[]]}"#, "/ranges/0 invalid range set 0: empty range set"),
        (r#"{"ranges": [null]}"#, "/ranges/0 invalid range set 0: empty range set"),
        (
            r#"{"ranges": [[{}]]}"#,
            "/ranges/0/0/subnet invalid range set 0: IP <nil> not v4 nor v6 (a range needs a subnet)",
        ),
        (r#"{"subnet": "10.1.0.0/31"}"#, "/subnet invalid range set 0: Network 10.1.0.0/31 too small to allocate from"),
        (
            r#"{"subnet": "2001:db8::/127"}"#,
            "/subnet invalid range set 0: Network 2001:db8::/127 too small to allocate from",
        ),
        (
            r#"{"subnet": "10.1.0.9/24"}"#,
            "/subnet invalid range set 0: Network has host bits set. For a subnet mask of length 24 the network address is 10.1.0.0",
        ),
        (
            r#"{"subnet": "10.1.0.0/24", "rangeStart": "10.2.0.1"}"#,
            "/rangeStart invalid range set 0: RangeStart 10.2.0.1 not in network 10.1.0.0/24",
        ),
        (
            r#"{"subnet": "10.1.0.0/24", "rangeStart": "::1"}"#,
            "/rangeStart invalid range set 0: RangeStart ::1 not in network 10.1.0.0/24",
        ),
        (
            r#"{"subnet": "10.1.0.0/24", "rangeEnd": "10.1.1.1"}"#,
            "/rangeEnd invalid range set 0: RangeEnd 10.1.1.1 not in network 10.1.0.0/24",
        ),
        (
            r#"{"subnet": "10.1.0.0/24", "rangeStart": "10.1.0.9", "rangeEnd": "10.1.0.8"}"#,
            "/rangeStart invalid range set 0: RangeStart 10.1.0.9 not in network 10.1.0.0/24",
        ),
        (r#"{"subnet": "10.1.0.0"}"#, "/subnet invalid range set 0: invalid CIDR address: 10.1.0.0"),
        (
            r#"{"ranges": [[{"subnet": "10.1.0.0/24"}, {"subnet": "2001:db8::/64"}]]}"#,
            "/ranges/0 invalid range set 0: mixed address families",
        ),
        (
            r#"{"ranges": [[{"subnet": "10.1.0.0/16"}, {"subnet": "10.1.2.0/24"}]]}"#,
            "/ranges/0 invalid range set 0: subnets 10.1.0.1-10.1.255.254 and 10.1.2.1-10.1.2.254 overlap",
        ),
        (
            r#"{"subnet": "10.1.0.0/24", "ranges": [[{"subnet": "10.1.0.0/25"}]]}"#,
            "/ranges/0 range set 0 overlaps with 1",
        ),
        (
            r#"{"ranges": [[{"subnet": "10.1.0.0/24"}], [{"subnet": 5}]]}"#,
            "/ranges/1/0/subnet invalid range set 1: /ranges/1/0/subnet must be a string, got 5",
        ),
        (r#"{"ranges": {}}"#, "/ranges /ranges must be a list, got {}"),
    ] {
        assert_eq!(problems(config), [expected], "{config}");
    }
}
