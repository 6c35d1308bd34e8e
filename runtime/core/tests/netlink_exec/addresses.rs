//! Addresses of containers and of bridges, and duplicate address detection.

use weft_core::plan::{LinkRef, Op, Side};

use crate::plans::*;
use crate::support::*;

pub(crate) fn tests() -> Vec<crate::Test> {
    vec![
        ("addresses::add", None, add),
        ("addresses::already_there", None, already_there),
        ("addresses::of_a_link_that_was_there", None, of_a_link_that_was_there),
        ("addresses::ensure", None, ensure_once),
        ("addresses::conflict", None, conflict),
        ("addresses::forced", None, forced),
        ("addresses::forced_secondaries", None, forced_secondaries),
        ("addresses::forced_kept_for_newcomers", None, forced_kept_for_newcomers),
        ("addresses::ipv6_overlap", None, ipv6_overlap),
        ("addresses::duplicate", None, duplicate),
        ("addresses::detection_switched_off", None, detection_switched_off),
        ("addresses::ipv6_switched_on", None, ipv6_switched_on),
        ("addresses::ipv6_unavailable", None, ipv6_unavailable),
    ]
}

fn add() {
    let (host, pod) = (Ns::new(), Ns::new());
    let ops = vec![
        veth("eth0", HOST_VETH),
        address(eth0(), "10.1.2.3/24"),
        address(eth0(), "10.1.2.4/32"),
        address(eth0(), "fd00::5/64"),
    ];
    there_and_back(&host, &pod, ops, || {
        assert_eq!(pod.addresses("eth0"), ["10.1.2.3/24", "10.1.2.4/32", "fd00::5/64"]);
        let infos = pod.json("ip -j addr show eth0")[0]["addr_info"].clone();
        assert_eq!((&infos[0]["broadcast"], &infos[0]["scope"]), (&"10.1.2.255".into(), &"global".into()));
        assert!(infos[1]["broadcast"].is_null());
    });
}

fn already_there() {
    let (host, pod) = (Ns::new(), Ns::new());
    let twice = address(eth0(), "10.1.2.3/24");
    let (at, text) = refused(&host, &pod, vec![veth("eth0", HOST_VETH), twice.clone(), twice]);
    assert_eq!(at, 2);
    assert!(text.starts_with(r#"failed to add IP addr 10.1.2.3/24 to "eth0": file exists"#), "{text}");
}

fn of_a_link_that_was_there() {
    let (host, pod) = (Ns::new(), Ns::new());
    pod.sh("ip link add e0 type veth peer name e1 && ip link set e0 up && ip link set e1 up");
    pod.sh("ip addr add 10.1.2.2/24 dev e0");
    pod.settle();
    let link = LinkRef::container("e0");
    let ops = vec![address(link.clone(), "10.1.2.3/24"), address(link, "fd00::5/64")];
    there_and_back(&host, &pod, ops, || {
        assert!(pod.addresses("e0").contains(&"fd00::5/64".to_owned()));
    });
}

fn ensure_once() {
    let (host, pod) = (Ns::new(), Ns::new());
    host.sh("ip link add weft0 type bridge && ip link set weft0 addrgenmode none");
    let ops = vec![ensure("weft0", "10.88.0.1/24", false), ensure("weft0", "fd00:88::1/64", false)];
    there_and_back(&host, &pod, ops.clone(), || {
        assert_eq!(host.addresses("weft0"), ["10.88.0.1/24", "fd00:88::1/64"]);
    });
    host.sh("ip addr add 10.88.0.1/24 brd + dev weft0 && ip addr add fd00:88::1/64 dev weft0");
    there_and_back(&host, &pod, ops, || {});
}

fn conflict() {
    let (host, pod) = (Ns::new(), Ns::new());
    host.sh("ip link add weft0 type bridge && ip link set weft0 up && ip addr add 10.99.0.1/24 dev weft0");
    let text = r#"failed to set bridge addr: "weft0" already has an IP address different from 10.88.0.1/24"#;
    assert_eq!(refused(&host, &pod, vec![ensure("weft0", "10.88.0.1/24", false)]), (0, text.to_owned()));
    // The same address in another network is another address.
    let text = r#"failed to set bridge addr: "weft0" already has an IP address different from 10.99.0.1/16"#;
    assert_eq!(refused(&host, &pod, vec![ensure("weft0", "10.99.0.1/16", false)]), (0, text.to_owned()));
    // The same address beside others is enough.
    host.sh("ip addr add 10.88.0.1/24 dev weft0");
    there_and_back(&host, &pod, vec![ensure("weft0", "10.88.0.1/24", false)], || {});
}

fn forced() {
    let (host, pod) = (Ns::new(), Ns::new());
    host.sh("ip link add weft0 type bridge && ip link set weft0 addrgenmode none && ip link set weft0 up");
    host.sh("ip addr add 10.99.0.1/24 brd + dev weft0 label weft0:old valid_lft 5000 preferred_lft 4000");
    host.sh("ip addr add fd00:88::9/64 dev weft0 nodad && ip addr add fd00:99::1/64 dev weft0 nodad");
    // Routes that the kernel deletes with the addresses: one through the subnet, and one that prefers the address as
    // source.
    host.sh("ip route add 10.55.0.0/16 via 10.99.0.7 dev weft0 && ip route add 10.56.0.0/16 dev weft0 src 10.99.0.1");
    let ops = vec![ensure("weft0", "10.88.0.1/24", true), ensure("weft0", "fd00:88::1/64", true)];
    let (before, lifetime) = (host.snapshot(), host.json("ip -j addr show weft0")[0]["addr_info"][0].clone());
    with_executor(&host, &pod, |executor| {
        let applied = applied(executor, &plan(ops));
        assert_eq!(host.addresses("weft0"), ["10.88.0.1/24", "fd00:88::1/64", "fd00:99::1/64"]);
        assert!(executor.undo(applied).is_empty());
    });
    let mut now = host.snapshot();
    let mut before = before;
    // Lifetimes count down; another test checks that they are kept.
    for snapshot in [&mut now, &mut before] {
        for link in snapshot["addr"].as_array_mut().expect("links") {
            let infos = link["addr_info"].as_array_mut().expect("addresses");
            // A restored IPv6 address is listed behind its siblings.
            infos.sort_by_key(|info| info["local"].to_string());
            for info in infos {
                info.as_object_mut().expect("address").retain(|key, _| !key.ends_with("_life_time"));
            }
        }
    }
    assert_eq!(now["route4"], before["route4"]);
    assert_eq!(now["addr"], before["addr"]);
    let again = host.json("ip -j addr show weft0")[0]["addr_info"][0].clone();
    let within = |key: &str| {
        let (old, new) = (lifetime[key].as_u64().expect("number"), again[key].as_u64().expect("number"));
        assert!(new <= old && old - new < 30, "{key}: {old} -> {new}");
    };
    within("valid_life_time");
    within("preferred_life_time");
    host.sh("ip link del weft0");
}

fn forced_secondaries() {
    let (host, pod) = (Ns::new(), Ns::new());
    host.sh("ip link add weft0 type bridge && ip link set weft0 addrgenmode none && ip link set weft0 up");
    // Deleting the first address deletes the second, a secondary of the same subnet.
    host.sh("ip addr add 10.99.0.1/24 dev weft0 && ip addr add 10.99.0.2/24 dev weft0 && ip addr add 10.98.0.1/24 dev weft0");
    there_and_back(&host, &pod, vec![ensure("weft0", "10.88.0.1/24", true)], || {
        assert_eq!(host.addresses("weft0"), ["10.88.0.1/24"]);
    });
}

/// Undo leaves the new address to attachments that joined meanwhile, rather than giving them both addresses.
fn forced_kept_for_newcomers() {
    let (host, pod) = (Ns::new(), Ns::new());
    host.sh("ip link add weft0 type bridge && ip link set weft0 up && ip addr add 10.99.0.1/24 dev weft0");
    with_executor(&host, &pod, |executor| {
        let applied = applied(executor, &plan(vec![ensure("weft0", "10.88.0.1/24", true)]));
        host.sh("ip link add late type veth peer name later && ip link set late master weft0");
        assert!(executor.undo(applied).is_empty());
    });
    let v4 = host.addresses("weft0").into_iter().filter(|address| address.contains('.'));
    assert_eq!(v4.collect::<Vec<_>>(), ["10.88.0.1/24"]);
}

fn ipv6_overlap() {
    let (host, pod) = (Ns::new(), Ns::new());
    host.sh("ip link add weft0 type bridge && ip link set weft0 addrgenmode none && ip link set weft0 up");
    host.sh("ip addr add fd00:88:0:1::1/64 dev weft0 nodad");
    host.settle();
    let text = r#"failed to set bridge addr: "weft0" already has an IP address different from fd00:88::1/48"#;
    assert_eq!(refused(&host, &pod, vec![ensure("weft0", "fd00:88::1/48", false)]), (0, text.to_owned()));
    let text = text.replace("fd00:88::1/48", "fd00:88:0:1::2/64");
    assert_eq!(refused(&host, &pod, vec![ensure("weft0", "fd00:88:0:1::2/64", false)]), (0, text));
    // Other addresses coexist, and IPv4 does not affect IPv6.
    let ops = vec![ensure("weft0", "fd00:77::1/64", false), ensure("weft0", "10.88.0.1/24", false)];
    there_and_back(&host, &pod, ops, || {
        assert_eq!(host.addresses("weft0").len(), 3);
    });
}

fn duplicate() {
    let (host, first, second) = (Ns::new(), Ns::new(), Ns::new());
    let ops = |name: &str| {
        vec![
            bridge("weft0"),
            veth("eth0", name),
            port(name, "weft0"),
            address(eth0(), "fd00:88::2/64"),
            link_up(eth0()),
            Op::WaitAddresses { link: eth0() },
        ]
    };
    apply(&host, &first, ops("vetha"));
    assert!(!first.sh("ip -6 addr show dev eth0 to fd00:88::2").contains("tentative"));
    let before = second.snapshot();
    let error = with_executor(&host, &second, |executor| executor.apply(&plan(ops("vethb"))).expect_err("duplicate"));
    assert_eq!(error.cause.to_string(), "link eth0 has address fd00:88::2/64 in DADFAILED state");
    assert!(error.leftovers.is_empty());
    second.assert_snapshot(&before, "pod");
    assert!(host.link("vethb").is_none());
}

fn detection_switched_off() {
    let (host, pod) = (Ns::new(), Ns::new());
    let ops = vec![
        veth("eth0", HOST_VETH),
        sysctl(Side::Container, "ipv6/conf/eth0/accept_dad", "0"),
        address(eth0(), "fd00:88::2/64"),
        link_up(eth0()),
        Op::WaitAddresses { link: eth0() },
    ];
    apply(&host, &pod, ops);
    assert!(!pod.sh("ip -6 addr show dev eth0 to fd00:88::2").contains("tentative"));
}

fn ipv6_switched_on() {
    let (host, pod) = (Ns::new(), Ns::new());
    for name in ["all", "default"] {
        pod.set_sysctl(&format!("ipv6/conf/{name}/disable_ipv6"), "1");
    }
    pod.sh("ip link set lo up");
    let ops = vec![
        veth("eth0", HOST_VETH),
        Op::EnableIpv6 { link: "eth0".into() },
        address(eth0(), "fd00::5/64"),
        link_up(eth0()),
    ];
    there_and_back(&host, &pod, ops, || {
        assert_eq!(pod.sysctl("ipv6/conf/lo/disable_ipv6"), "0");
        assert_eq!(pod.sysctl("ipv6/conf/eth0/disable_ipv6"), "0");
        assert_eq!(pod.sysctl("ipv6/conf/eth0/keep_addr_on_down"), "1");
        assert!(pod.addresses("eth0").contains(&"fd00::5/64".to_owned()));
    });
    // On an existing link, its own keys are restored too.
    pod.sh("ip link add e0 type veth peer name e1");
    there_and_back(&host, &pod, vec![Op::EnableIpv6 { link: "e0".into() }], || {
        assert_eq!(pod.sysctl("ipv6/conf/e0/keep_addr_on_down"), "1");
    });
}

fn ipv6_unavailable() {
    let (host, pod) = (Ns::new(), Ns::new());
    // A link without keys looks like a kernel without IPv6: the op does nothing and reports nothing.
    apply(&host, &pod, vec![Op::EnableIpv6 { link: "absent".into() }]);
}
