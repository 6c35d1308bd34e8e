//! Sysctls on either side, and forwarding.

use weft_core::plan::{Family, Op, Side};

use crate::plans::*;
use crate::support::*;

pub(crate) fn tests() -> Vec<crate::Test> {
    vec![
        ("sysctls::either_side", None, either_side),
        ("sysctls::optional_and_required", None, optional_and_required),
        ("sysctls::bad_keys", None, bad_keys),
        ("sysctls::half_a_run", None, half_a_run),
        ("sysctls::forwarding", None, forwarding),
        ("sysctls::forwarding_among_many_links", None, forwarding_among_many_links),
        ("sysctls::forwarding_kept_for_newcomers", None, forwarding_kept_for_newcomers),
        ("sysctls::forwarding_kept_for_company", None, forwarding_kept_for_company),
    ]
}

fn required(side: Side, key: &str, value: &str) -> Op {
    Op::Sysctl { side, key: key.into(), value: value.into(), required: true }
}

fn either_side() {
    let (host, pod) = (Ns::new(), Ns::new());
    let ops = vec![
        required(Side::Host, "ipv4/conf/all/rp_filter", "2"),
        required(Side::Container, "ipv4/conf/all/rp_filter", "1"),
        required(Side::Container, "ipv4/conf/all/rp_filter", "2"),
        required(Side::Container, "ipv6/conf/lo/accept_ra", "0"),
        required(Side::Host, "ipv4/conf/all/rp_filter", "1"),
    ];
    there_and_back(&host, &pod, ops, || {
        assert_eq!(
            (host.sysctl("ipv4/conf/all/rp_filter"), pod.sysctl("ipv4/conf/all/rp_filter")),
            ("1".into(), "2".into())
        );
        assert_eq!(
            (host.sysctl("ipv6/conf/lo/accept_ra"), pod.sysctl("ipv6/conf/lo/accept_ra")),
            ("1".into(), "0".into())
        );
    });
}

fn optional_and_required() {
    let (host, pod) = (Ns::new(), Ns::new());
    for side in [Side::Host, Side::Container] {
        apply(&host, &pod, vec![sysctl(side, "ipv4/conf/absent/rp_filter", "1")]);
        let (at, text) = refused(
            &host,
            &pod,
            vec![required(side, "ipv4/conf/all/rp_filter", "1"), required(side, "ipv4/conf/absent/rp_filter", "1")],
        );
        assert_eq!(
            (at, text.as_str()),
            (1, "open /proc/sys/net/ipv4/conf/absent/rp_filter: no such file or directory")
        );
        let (_, text) = refused(&host, &pod, vec![required(side, "ipv4/conf/all/rp_filter", "words")]);
        assert_eq!(text, "open /proc/sys/net/ipv4/conf/all/rp_filter: invalid argument");
    }
}

fn bad_keys() {
    let (host, pod) = (Ns::new(), Ns::new());
    for key in ["", "../kernel/hostname", "ipv4/../../kernel/hostname", "/etc/passwd", "ipv4//ip_forward", "."] {
        let (_, text) = refused(&host, &pod, vec![required(Side::Host, key, "1")]);
        assert_eq!(text, format!("{key:?} is not a key below /proc/sys/net"));
    }
}

/// The container's sysctls run on its thread in one batch; a failure names its own op, and the earlier ones are undone.
fn half_a_run() {
    let (host, pod) = (Ns::new(), Ns::new());
    let ops = vec![
        bridge("weft0"),
        required(Side::Container, "ipv4/conf/all/rp_filter", "1"),
        required(Side::Container, "ipv4/conf/all/arp_notify", "1"),
        required(Side::Container, "ipv4/conf/absent/rp_filter", "1"),
        required(Side::Container, "ipv4/conf/all/arp_ignore", "1"),
        Op::Masquerade { address: net("10.88.0.2/24") },
    ];
    assert_eq!(refused(&host, &pod, ops).0, 3);
}

fn forwarding() {
    let (host, pod) = (Ns::new(), Ns::new());
    host.sh("ip link add one type veth peer name two");
    // Single links that differ from the rest, and a redirect setting that the switch overwrites.
    host.set_sysctl("ipv4/conf/one/forwarding", "1");
    host.set_sysctl("ipv6/conf/two/forwarding", "1");
    host.set_sysctl("ipv4/conf/all/accept_redirects", "0");
    let ops = vec![Op::Forwarding { family: Family::V4 }, Op::Forwarding { family: Family::V6 }];
    there_and_back(&host, &pod, ops.clone(), || {
        assert_eq!((host.sysctl("ipv4/ip_forward"), host.sysctl("ipv6/conf/all/forwarding")), ("1".into(), "1".into()));
        assert_eq!(
            (host.sysctl("ipv4/conf/two/forwarding"), host.sysctl("ipv6/conf/one/forwarding")),
            ("1".into(), "1".into())
        );
        with_executor(&host, &pod, |executor| assert_eq!(executor.check(&plan(ops.clone())).expect("check"), []));
    });
    let texts = with_executor(&host, &pod, |executor| {
        let differences = executor.check(&plan(ops.clone())).expect("check");
        differences.iter().map(ToString::to_string).collect::<Vec<_>>()
    });
    assert_eq!(texts, ["IPv4 forwarding is off", "IPv6 forwarding is off"]);
    host.set_sysctl("ipv4/ip_forward", "1");
    host.set_sysctl("ipv6/conf/all/forwarding", "1");
    there_and_back(&host, &pod, ops, || {});
}

/// More links than fit into one of the kernel's datagrams: none of them is new.
fn forwarding_among_many_links() {
    let (host, pod) = (Ns::new(), Ns::new());
    let lines: String = (0..300).map(|at| format!("link add many{at} type bridge\n")).collect();
    let file = tempfile::NamedTempFile::new().expect("file");
    std::fs::write(file.path(), lines).expect("batch");
    host.sh(&format!("ip -batch {}", file.path().display()));
    with_executor(&host, &pod, |executor| {
        let forward = Op::Forwarding { family: Family::V4 };
        let first = applied(executor, &plan(vec![forward.clone()]));
        assert!(executor.undo(first).is_empty());
        assert_eq!(host.sysctl("ipv4/ip_forward"), "0");
        // The last of them is found.
        let second = applied(executor, &plan(vec![forward]));
        sh("ip link add last type bridge");
        assert!(executor.undo(second).is_empty());
    });
    assert_eq!(host.sysctl("ipv4/ip_forward"), "1");
}

fn forwarding_kept_for_newcomers() {
    let (host, pod) = (Ns::new(), Ns::new());
    with_executor(&host, &pod, |executor| {
        let applied = applied(executor, &plan(vec![Op::Forwarding { family: Family::V4 }]));
        host.sh("ip link add late type veth peer name later");
        assert!(executor.undo(applied).is_empty());
    });
    assert_eq!(host.sysctl("ipv4/ip_forward"), "1");
}

/// Another ADD without a new link: it is still running, or ran when forwarding was switched on.
fn forwarding_kept_for_company() {
    let (host, pod, other) = (Ns::new(), Ns::new(), Ns::new());
    let forward = || plan(vec![Op::Forwarding { family: Family::V4 }]);
    let open = |ns: &Ns| weft_core::netlink::Executor::open(Some(ns.path())).expect("open");
    host.run(|| {
        for (early, late) in [(true, true), (true, false), (false, true), (false, false)] {
            let (mut ours, mut others) = (open(&pod), open(&other));
            if early {
                applied(&mut others, &plan(Vec::new()));
            }
            let switched = applied(&mut ours, &forward());
            applied(&mut others, &forward());
            if !late {
                drop(others);
            }
            assert!(ours.undo(switched).is_empty());
            // An ADD that began and ended without a link in between cannot be noticed, and needs nothing either.
            assert_eq!(host.sysctl("ipv4/ip_forward"), if early || late { "1" } else { "0" }, "{early} {late}");
            host.set_sysctl("ipv4/ip_forward", "0");
        }
    });
}
