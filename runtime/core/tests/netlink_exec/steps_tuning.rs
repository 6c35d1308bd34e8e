//! The ops of `tuning`: sysctls and attributes of a link that exists already, or that the plan makes.

use std::collections::BTreeSet;

use serde_json::Value;
use weft_core::plan::{LinkAttributes, Op, TuneLink, TuneSysctl};

use crate::plans::*;
use crate::support::*;

pub(crate) fn tests() -> Vec<crate::Test> {
    vec![
        ("tuning::every_attribute", None, every_attribute),
        ("tuning::switched_off", None, switched_off),
        ("tuning::nothing_to_change", None, nothing_to_change),
        ("tuning::small_mtu", None, small_mtu),
        ("tuning::refused_attribute", None, refused_attribute),
        ("tuning::on_a_new_link", None, on_a_new_link),
        ("tuning::sysctls", None, sysctls),
        ("tuning::no_such_sysctl", None, no_such_sysctl),
        ("tuning::check", None, check),
        ("tuning::restored_at_teardown", None, restored_at_teardown),
    ]
}

fn all_attributes() -> LinkAttributes {
    LinkAttributes {
        mac: Some(mac("c2:11:22:33:44:55")),
        promiscuous: Some(true),
        mtu: Some(1400),
        all_multicast: Some(true),
        tx_queue_length: Some(77),
    }
}

fn tune(set: LinkAttributes) -> Op {
    Op::TuneLink(TuneLink { link: "eth0".into(), set, before: LinkAttributes::default() })
}

fn key(key: &str, value: &str) -> Op {
    Op::TuneSysctl(TuneSysctl { key: key.into(), value: value.into() })
}

/// Returns a pod with a veth that another program made.
fn pod_with_link() -> (Ns, Ns) {
    let (host, pod) = (Ns::new(), Ns::new());
    pod.sh("ip link add eth0 address 02:00:00:00:00:07 type veth peer name far && ip link set eth0 up && ip link set far up");
    pod.sh("ip addr add 10.5.0.2/24 dev eth0 && ip addr add fd05::2/64 dev eth0 nodad");
    pod.settle();
    (host, pod)
}

fn flags(link: &Value) -> BTreeSet<String> {
    link["flags"].as_array().expect("flags").iter().filter_map(Value::as_str).map(ToOwned::to_owned).collect()
}

fn every_attribute() {
    let (host, pod) = pod_with_link();
    there_and_back(&host, &pod, vec![tune(all_attributes())], || {
        let link = pod.link("eth0").expect("eth0");
        assert_eq!(link["address"], "c2:11:22:33:44:55");
        assert_eq!((&link["mtu"], &link["txqlen"]), (&1400.into(), &77.into()));
        let flags = flags(&link);
        assert!(flags.contains("PROMISC") && flags.contains("ALLMULTI"), "{flags:?}");
    });
}

fn switched_off() {
    let (host, pod) = pod_with_link();
    pod.sh("ip link set eth0 promisc on && ip link set eth0 allmulticast on");
    let set = LinkAttributes { promiscuous: Some(false), all_multicast: Some(false), ..LinkAttributes::default() };
    there_and_back(&host, &pod, vec![tune(set)], || {
        let flags = flags(&pod.link("eth0").expect("eth0"));
        assert!(!flags.contains("PROMISC") && !flags.contains("ALLMULTI"), "{flags:?}");
    });
}

/// A value that is already set is not written, and so not undone either.
fn nothing_to_change() {
    let (host, pod) = pod_with_link();
    let set = LinkAttributes { mac: Some(mac("02:00:00:00:00:07")), mtu: Some(1500), ..LinkAttributes::default() };
    with_executor(&host, &pod, |executor| {
        let sent = executor.messages_sent();
        drop(applied(executor, &plan(vec![tune(set)])));
        assert_eq!(executor.messages_sent() - sent, 2, "looked up, and looked at");
    });
}

/// A link with an MTU below 1280 has no IPv6: addresses and routes are restored with the MTU.
fn small_mtu() {
    let (host, pod) = pod_with_link();
    pod.sh("ip -6 route add fd99::/64 via fd05::1");
    let set = LinkAttributes { mtu: Some(1000), ..LinkAttributes::default() };
    let stable = |pod: &Ns| {
        let kept = |text: &String| !text.starts_with("fe80");
        (pod.addresses("eth0").into_iter().filter(kept).collect::<Vec<_>>(), pod.sh("ip -6 route show fd99::/64"))
    };
    let before = stable(&pod);
    let errors = with_executor(&host, &pod, |executor| {
        let applied = applied(executor, &plan(vec![tune(set)]));
        assert_eq!(pod.addresses("eth0"), ["10.5.0.2/24"]);
        executor.undo(applied)
    });
    assert!(errors.is_empty(), "{errors:?}");
    eventually("IPv6 is back", || stable(&pod) == before);
}

fn refused_attribute() {
    let (host, pod) = pod_with_link();
    let too_large = LinkAttributes { mac: all_attributes().mac, mtu: Some(70_000), ..LinkAttributes::default() };
    let (at, text) = refused(&host, &pod, vec![tune(too_large)]);
    assert_eq!(at, 0);
    assert!(text.starts_with("failed to set the MTU of \"eth0\": invalid argument"), "{text}");
    let multicast = LinkAttributes { mac: Some(mac("01:00:00:00:00:01")), ..LinkAttributes::default() };
    let (_, text) = refused(&host, &pod, vec![tune(multicast)]);
    assert_eq!(text, "failed to set the MAC address of \"eth0\": cannot assign requested address");
    pod.sh("ip link del eth0");
    let (_, text) = refused(&host, &pod, vec![tune(all_attributes())]);
    assert_eq!(text, "failed to lookup eth0 (in the container): Link not found");
}

fn on_a_new_link() {
    let (host, pod) = (Ns::new(), Ns::new());
    let ops = vec![
        veth("eth0", HOST_VETH),
        key("ipv4/conf/eth0/arp_filter", "1"),
        tune(all_attributes()),
        Op::Announce { link: "eth0".into(), addresses: vec!["10.5.0.2".parse().expect("address")] },
    ];
    there_and_back(&host, &pod, ops, || {
        // The announcement sets the MAC address again, which must be the new one.
        assert_eq!(pod.link("eth0").expect("eth0")["address"], "c2:11:22:33:44:55");
        assert_eq!(pod.sysctl("ipv4/conf/eth0/arp_filter"), "1");
    });
}

fn sysctls() {
    let (host, pod) = pod_with_link();
    let ports: Vec<String> = (0..200).map(|n| (20_000 + 2 * n).to_string()).collect();
    pod.set_sysctl("ipv4/ip_local_reserved_ports", &ports.join(","));
    let before = pod.sysctl("ipv4/ip_local_reserved_ports");
    let ops = vec![
        key("core/somaxconn", "500"),
        key("ipv4/tcp_rmem", "4096 100000 200000"),
        key("ipv4/ip_local_reserved_ports", "1"),
        // Write-only.
        key("ipv4/route/flush", "1"),
        key("core/somaxconn", "600"),
    ];
    let (somaxconn, rmem) = (pod.sysctl("core/somaxconn"), pod.sysctl("ipv4/tcp_rmem"));
    there_and_back(&host, &pod, ops.clone(), || {
        assert_eq!(pod.sysctl("core/somaxconn"), "600");
        assert_eq!(pod.sysctl("ipv4/tcp_rmem"), "4096\t100000\t200000");
        assert_eq!(pod.sysctl("ipv4/ip_local_reserved_ports"), "1");
    });
    assert_eq!(pod.sysctl("core/somaxconn"), somaxconn);
    assert_eq!(pod.sysctl("ipv4/tcp_rmem"), rmem);
    assert_eq!(pod.sysctl("ipv4/ip_local_reserved_ports"), before, "longer than one read");
    // The numbers are compared without the blanks; unreadable values are not compared.
    let differences = with_executor(&host, &pod, |executor| {
        let plan = plan(ops[1..].to_vec());
        drop(applied(executor, &plan));
        executor.check(&plan).expect("check")
    });
    assert_eq!(differences, []);
}

fn no_such_sysctl() {
    let (host, pod) = pod_with_link();
    let (at, text) = refused(&host, &pod, vec![key("core/somaxconn", "500"), key("core/nonsense", "1")]);
    assert_eq!((at, text.as_str()), (1, "open /proc/sys/net/core/nonsense: no such file or directory"));
    let (at, text) = refused(&host, &pod, vec![key("core/somaxconn", "500"), key("core/somaxconn", "many")]);
    assert_eq!((at, text.as_str()), (1, "open /proc/sys/net/core/somaxconn: invalid argument"));
}

fn check() {
    let (host, pod) = pod_with_link();
    let plan = plan(vec![key("core/somaxconn", "500"), tune(all_attributes())]);
    let differences = |break_it: &str| {
        pod.sh(break_it);
        with_executor(&host, &pod, |executor| {
            let found = executor.check(&plan).expect("check");
            found.iter().map(ToString::to_string).collect::<Vec<_>>()
        })
    };
    apply(&host, &pod, plan.ops.clone());
    assert_eq!(differences("true"), Vec::<String>::new());
    let broken = "ip link set eth0 promisc off && ip link set eth0 allmulticast off && ip link set eth0 txqueuelen 5 \
                  && ip link set eth0 mtu 1300 && ip link set eth0 address 02:00:00:00:00:08 \
                  && echo 7 >/proc/sys/net/core/somaxconn";
    assert_eq!(
        differences(broken),
        [
            "Error: Tuning configured value of /proc/sys/net/core/somaxconn is 500, current value is 7",
            "Error: Tuning link eth0 configured promisc is true, current value is 0",
            "Error: Tuning configured Ethernet of eth0 is c2:11:22:33:44:55, current value is 02:00:00:00:00:08",
            "Error: Tuning configured MTU of eth0 is 1400, current value is 1300",
            "Error: Tuning configured all-multicast mode of eth0 is true, current value is false",
            "Error: Tuning configured transmit queue length of eth0 is 77, current value is 5",
        ]
    );
    assert_eq!(differences("ip link del eth0").last().map(String::as_str), Some("Cannot find container link eth0"));
}

/// From the plan alone, and again.
fn restored_at_teardown() {
    let (host, pod) = pod_with_link();
    let before = LinkAttributes {
        mac: Some(mac("02:00:00:00:00:07")),
        promiscuous: Some(false),
        mtu: Some(1500),
        all_multicast: Some(false),
        tx_queue_length: Some(1000),
    };
    let tune = TuneLink { link: "eth0".into(), set: all_attributes(), before };
    let plan = plan(vec![key("core/somaxconn", "500"), Op::TuneLink(tune)]);
    let link = pod.link("eth0");
    apply(&host, &pod, plan.ops.clone());
    assert_ne!(pod.link("eth0"), link);
    for _ in 0..2 {
        let errors = with_executor(&host, &pod, |executor| executor.teardown(&plan, &BTreeSet::new()));
        assert!(errors.is_empty(), "{errors:?}");
        assert_eq!(pod.link("eth0"), link);
    }
    assert_eq!(pod.sysctl("core/somaxconn"), "500", "as in the reference plugin, sysctls stay");
    pod.sh("ip link del eth0");
    let errors = with_executor(&host, &pod, |executor| executor.teardown(&plan, &BTreeSet::new()));
    assert!(errors.is_empty(), "{errors:?}");
}
