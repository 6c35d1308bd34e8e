//! Bridges, veth pairs, macvlans, loopback: made, changed, refused, and restored.

use std::time::Instant;

use weft_core::plan::{LinkRef, MacvlanMode, Op, Plan, ResultShape};

use crate::plans::*;
use crate::support::*;

pub(crate) fn tests() -> Vec<crate::Test> {
    vec![
        ("links::new_bridge", None, new_bridge),
        ("links::new_bridge_keeps_its_mac", None, new_bridge_keeps_its_mac),
        ("links::new_bridge_answers_at_once", None, new_bridge_answers_at_once),
        ("links::existing_bridge", None, existing_bridge),
        ("links::existing_bridge_keeps_its_mac", None, existing_bridge_keeps_its_mac),
        ("links::not_a_bridge", None, not_a_bridge),
        ("links::veth_pair", None, veth_pair),
        ("links::veth_exists", None, veth_exists),
        ("links::port_flags", None, port_flags),
        ("links::port_that_was_there", None, port_that_was_there),
        ("links::pinned_mac", None, pinned_mac),
        ("links::pin_of_an_unpinned_bridge", None, pin_of_an_unpinned_bridge),
        ("links::macvlan_on_the_host", None, macvlan_on_the_host),
        ("links::macvlan_in_the_container", None, macvlan_in_the_container),
        ("links::macvlan_modes", None, macvlan_modes),
        ("links::macvlan_refusals", None, macvlan_refusals),
        ("links::loopback", None, loopback_link),
        ("links::port_never_up", None, port_never_up),
        ("links::bridge_kept_for_newcomers", None, bridge_kept_for_newcomers),
    ]
}

fn new_bridge() {
    let (host, pod) = (Ns::new(), Ns::new());
    let op = Op::EnsureBridge { name: "weft0".into(), mtu: Some(1300), vlan_filtering: false, promisc: true };
    there_and_back(&host, &pod, vec![op], || {
        let link = host.link("weft0").expect("bridge");
        assert_eq!(link["linkinfo"]["info_kind"], "bridge");
        assert_eq!(link["mtu"], 1300);
        let flags = link["flags"].to_string();
        assert!(flags.contains("\"UP\"") && flags.contains("PROMISC"), "{flags}");
        assert_eq!(host.sysctl("ipv6/conf/weft0/accept_ra"), "0");
    });
    assert!(host.link("weft0").is_none());
}

/// A bridge whose MAC the kernel chose would take the lower MAC of a port.
fn new_bridge_keeps_its_mac() {
    let (host, pod) = (Ns::new(), Ns::new());
    apply(&host, &pod, vec![bridge("weft0")]);
    let before = host.link("weft0").expect("bridge")["address"].clone();
    host.sh("ip link add low address 00:00:00:00:00:01 type veth peer name far && ip link set low master weft0 up");
    assert_eq!(host.link("weft0").expect("bridge")["address"], before);
}

/// The bridge has no other port, so no other machine can have the gateway's address.
fn new_bridge_answers_at_once() {
    let (host, pod) = (Ns::new(), Ns::new());
    apply(&host, &pod, vec![bridge("weft0"), ensure("weft0", "fd00:66::1/64", false)]);
    host.sh("ip link add port0 type veth peer name far0 && ip link set far0 up && ip link set port0 master weft0 up");
    eventually("a link-local address", || host.addresses("weft0").iter().any(|text| text.starts_with("fe80")));
    assert!(!host.sh("ip -6 addr show dev weft0").contains("tentative"));
    let infos = host.json("ip -j -6 addr show dev weft0 scope global");
    let info = &infos[0]["addr_info"][0];
    assert_eq!((&info["local"], &info["nodad"]), (&"fd00:66::1".into(), &true.into()), "{infos}");
    assert!(info["tentative"].is_null(), "{info}");
    // An existing bridge may have other machines behind it.
    host.sh("ip link add weft1 type bridge && ip link set weft1 up");
    apply(&host, &pod, vec![bridge("weft1"), ensure("weft1", "fd00:67::1/64", false)]);
    let infos = host.json("ip -j -6 addr show dev weft1 scope global");
    assert!(infos[0]["addr_info"][0]["nodad"].is_null(), "{infos}");
}

fn existing_bridge() {
    let (host, pod) = (Ns::new(), Ns::new());
    host.sh("ip link add weft0 mtu 1400 type bridge && ip link set weft0 addrgenmode none");
    let index = host.link("weft0").expect("bridge")["ifindex"].clone();
    let op = Op::EnsureBridge { name: "weft0".into(), mtu: Some(1300), vlan_filtering: false, promisc: true };
    // Down, not promiscuous, accepting router advertisements: all of that is restored.
    there_and_back(&host, &pod, vec![op.clone()], || {
        let link = host.link("weft0").expect("bridge");
        assert_eq!((&link["ifindex"], &link["mtu"]), (&index, &1400.into()));
        let flags = link["flags"].to_string();
        assert!(flags.contains("\"UP\"") && flags.contains("PROMISC"), "{flags}");
        assert_eq!(host.sysctl("ipv6/conf/weft0/accept_ra"), "0");
    });
    host.sh("ip link set weft0 up promisc on");
    host.set_sysctl("ipv6/conf/weft0/accept_ra", "0");
    there_and_back(&host, &pod, vec![op], || {});
}

fn existing_bridge_keeps_its_mac() {
    let (host, pod) = (Ns::new(), Ns::new());
    // A bridge that never had a port has a random MAC; with a port it takes the port's, and after the port leaves it
    // has none.
    host.sh("ip link add weft0 type bridge && ip link set weft0 up");
    let before = host.link("weft0").expect("bridge")["address"].clone();
    with_executor(&host, &pod, |executor| {
        let ops = vec![bridge("weft0"), veth("eth0", HOST_VETH), port(HOST_VETH, "weft0")];
        let applied = applied(executor, &plan(ops));
        assert_ne!(host.link("weft0").expect("bridge")["address"], before);
        assert!(executor.undo(applied).is_empty());
    });
    assert_eq!(host.link("weft0").expect("bridge")["address"], before);
}

fn not_a_bridge() {
    let (host, pod) = (Ns::new(), Ns::new());
    host.sh("ip link add weft0 type veth peer name other");
    assert_eq!(
        refused(&host, &pod, vec![bridge("weft0")]),
        (0, r#"failed to create bridge "weft0": "weft0" already exists but is not a bridge"#.to_owned())
    );
}

fn veth_pair() {
    let (host, pod) = (Ns::new(), Ns::new());
    let wanted = mac("02:00:00:00:00:01");
    let pair = Op::CreateVeth { container: "eth0".into(), host: HOST_VETH.into(), mtu: Some(1280), mac: Some(wanted) };
    let interfaces = vec![LinkRef::host(HOST_VETH), eth0()];
    let plan =
        Plan { ops: vec![pair], result: ResultShape { interfaces, ..ResultShape::default() }, ..Plan::default() };
    with_executor(&host, &pod, |executor| {
        let applied = applied(executor, &plan);
        let (near, far) = (&applied.links[&LinkRef::host(HOST_VETH)], &applied.links[&eth0()]);
        assert_eq!((near.mtu, far.mtu, near.up, far.up), (1280, 1280, true, false));
        assert_eq!(far.mac, Some(wanted));
        assert_ne!(near.mac, far.mac);
        let seen = host.link(HOST_VETH).expect("host end");
        assert_eq!(seen["address"].as_str().map(mac), near.mac);
        assert_eq!((&seen["ifindex"], &seen["link_index"]), (&near.index.into(), &far.index.into()));
        assert_eq!(pod.link("eth0").expect("container end")["link_index"], near.index);
        assert_eq!(host.sysctl(&format!("ipv6/conf/{HOST_VETH}/accept_ra")), "0");
        assert!(executor.undo(applied).is_empty());
    });
    assert!(host.link(HOST_VETH).is_none() && pod.link("eth0").is_none());
}

fn veth_exists() {
    let (host, pod) = (Ns::new(), Ns::new());
    pod.sh("ip link add eth0 type bridge");
    let text = format!("container veth name (\"eth0\") peer provided ({HOST_VETH:?}) already exists");
    assert_eq!(refused(&host, &pod, vec![bridge("weft0"), veth("eth0", HOST_VETH)]), (1, text.clone()));
    host.sh(&format!("ip link add {HOST_VETH} type bridge"));
    assert_eq!(refused(&host, &pod, vec![veth("eth1", HOST_VETH)]), (0, text.replace("eth0", "eth1")));
}

fn port_flags() {
    let (host, pod) = (Ns::new(), Ns::new());
    for (hairpin, isolated) in [(false, false), (true, false), (false, true), (true, true)] {
        let ops = vec![
            bridge("weft0"),
            veth("eth0", HOST_VETH),
            Op::BridgePort { link: HOST_VETH.into(), bridge: "weft0".into(), hairpin, isolated },
        ];
        there_and_back(&host, &pod, ops, || {
            let link = host.link(HOST_VETH).expect("port");
            assert_eq!(link["master"], "weft0");
            let data = &link["linkinfo"]["info_slave_data"];
            assert_eq!((&data["hairpin"], &data["isolated"]), (&hairpin.into(), &isolated.into()));
        });
    }
}

fn port_that_was_there() {
    let (host, pod) = (Ns::new(), Ns::new());
    host.sh("ip link add old address 02:00:00:00:00:01 type bridge && ip link add weft0 address 02:00:00:00:00:02 type bridge");
    host.sh(
        "ip link add p type veth peer name q && ip link set old addrgenmode none && ip link set weft0 addrgenmode none",
    );
    // A bridge that never had a port looks different from one whose last port left.
    for bridge in ["old", "weft0"] {
        host.sh(&format!("ip link set {bridge} up && ip link set p master {bridge} && ip link set p nomaster"));
    }
    host.settle();
    let join = Op::BridgePort { link: "p".into(), bridge: "weft0".into(), hairpin: false, isolated: true };
    // From no bridge, from another bridge with other flags, and from this bridge with other flags.
    there_and_back(&host, &pod, vec![bridge("weft0"), join.clone()], || {
        assert_eq!(host.link("p").expect("port")["master"], "weft0");
    });
    host.sh("ip link set p master old && ip link set p type bridge_slave hairpin on");
    there_and_back(&host, &pod, vec![bridge("weft0"), join.clone()], || {
        let data = host.link("p").expect("port")["linkinfo"]["info_slave_data"].clone();
        assert_eq!((&data["hairpin"], &data["isolated"]), (&false.into(), &true.into()));
    });
    host.sh("ip link set p master weft0 && ip link set p type bridge_slave hairpin on");
    there_and_back(&host, &pod, vec![bridge("weft0"), join], || {
        assert_eq!(host.link("p").expect("port")["linkinfo"]["info_slave_data"]["hairpin"], false);
    });
}

/// A bridge that a plan with `PinMac` made keeps its MAC while ports come and go, from the first message on.
fn pinned_mac() {
    let host = Ns::new();
    let pods: Vec<Ns> = (0..4).map(|_| Ns::new()).collect();
    let mut macs = Vec::new();
    for (at, pod) in pods.iter().enumerate() {
        let name = format!("veth0000000{at}");
        let ops = vec![
            bridge("weft0"),
            veth("eth0", &name),
            port(&name, "weft0"),
            ensure("weft0", "10.88.0.1/24", false),
            Op::PinMac { link: "weft0".into() },
        ];
        let result = ResultShape { interfaces: vec![LinkRef::host("weft0")], ..ResultShape::default() };
        let plan = Plan { ops, result, ..Plan::default() };
        let shown = with_executor(&host, pod, |executor| applied(executor, &plan).links[&LinkRef::host("weft0")].mac);
        let seen = host.link("weft0").expect("bridge")["address"].as_str().map(mac);
        assert_eq!(shown, seen);
        macs.push(seen);
    }
    for at in 0..4 {
        host.sh(&format!("ip link del veth0000000{at}"));
        macs.push(host.link("weft0").expect("bridge")["address"].as_str().map(mac));
    }
    assert!(macs.iter().all(|one| *one == macs[0]), "{macs:?}");
}

/// A bridge that follows its ports is pinned to its current MAC; one that is already pinned keeps its neighbours.
fn pin_of_an_unpinned_bridge() {
    let host = Ns::new();
    let (first, second) = (Ns::new(), Ns::new());
    host.sh("ip link add weft0 type bridge && ip link set weft0 up");
    // The highest MAC, so that weft's is always lower: the bridge would take the lower one.
    host.sh("ip link add p address fe:ff:ff:ff:ff:ff type veth peer name q && ip link set p master weft0 up");
    let before = host.link("weft0").expect("bridge")["address"].clone();
    assert_eq!(before, "fe:ff:ff:ff:ff:ff");
    let ops = |name: &str| {
        let pin = Op::PinMac { link: "weft0".into() };
        vec![bridge("weft0"), veth("eth0", name), port(name, "weft0"), link_up(eth0()), pin]
    };
    apply(&host, &first, ops("vetha"));
    assert_eq!(host.link("weft0").expect("bridge")["address"], before);
    host.sh("ip link del p");
    assert_eq!(host.link("weft0").expect("bridge")["address"], before);
    host.sh(
        "ip addr add 10.88.0.1/24 dev weft0 && ip neigh add 10.88.0.9 lladdr 02:00:00:00:00:09 dev weft0 nud reachable",
    );
    apply(&host, &second, ops("vethb"));
    assert_eq!(host.link("weft0").expect("bridge")["address"], before);
    assert!(host.sh("ip neigh show dev weft0").contains("10.88.0.9"), "a second pin throws the neighbours out");
}

fn macvlan_on_the_host() {
    let (host, pod) = (Ns::new(), Ns::new());
    host.sh("ip link add up0 type veth peer name up1 && ip link set up0 up && ip link set up1 up");
    host.settle();
    let plan = macvlan(LinkRef::host("up0"));
    let (host_before, pod_before) = (host.snapshot(), pod.snapshot());
    with_executor(&host, &pod, |executor| {
        let applied = applied(executor, &plan);
        let link = pod.link("eth0").expect("macvlan");
        assert_eq!(link["linkinfo"]["info_kind"], "macvlan");
        assert_eq!(link["linkinfo"]["info_data"]["mode"], "bridge");
        assert_eq!(link["linkinfo"]["info_data"]["bcqueuelen"], 2000);
        assert_eq!((&link["mtu"], &link["address"]), (&1400.into(), &"02:00:00:00:00:aa".into()));
        assert_eq!(link["link_index"], host.link("up0").expect("parent")["ifindex"]);
        assert!(host.link("eth0").is_none());
        assert_eq!(applied.links[&eth0()].mac, Some(mac("02:00:00:00:00:aa")));
        assert_eq!(executor.check(&plan).expect("check"), []);
        assert!(executor.undo(applied).is_empty());
    });
    host.assert_snapshot(&host_before, "host");
    pod.assert_snapshot(&pod_before, "pod");
}

fn macvlan_in_the_container() {
    let (host, pod) = (Ns::new(), Ns::new());
    pod.sh("ip link add up0 type veth peer name up1 && ip link set up0 up && ip link set up1 up");
    pod.settle();
    there_and_back(&host, &pod, macvlan(LinkRef::container("up0")).ops, || {
        let link = pod.link("eth0").expect("macvlan");
        assert_eq!(link["link"], "up0");
        assert_eq!(link["linkinfo"]["info_data"]["mode"], "bridge");
    });
}

fn macvlan_modes() {
    let (host, pod) = (Ns::new(), Ns::new());
    host.sh("ip link add up0 type veth peer name up1 && ip link set up0 up");
    host.settle();
    let modes = [
        (MacvlanMode::Bridge, "bridge"),
        (MacvlanMode::Private, "private"),
        (MacvlanMode::Vepa, "vepa"),
        (MacvlanMode::Passthru, "passthru"),
    ];
    for (mode, name) in modes {
        let parent = LinkRef::host("up0");
        let op = Op::CreateMacvlan { name: "eth0".into(), parent, mode, mtu: None, mac: None, bc_queue_len: None };
        there_and_back(&host, &pod, vec![op], || {
            let link = pod.link("eth0").expect("macvlan");
            assert_eq!(link["linkinfo"]["info_data"]["mode"], name);
            assert_eq!(link["mtu"], 1500);
        });
    }
}

fn macvlan_refusals() {
    let (host, pod) = (Ns::new(), Ns::new());
    let on = |parent: &str| vec![macvlan(LinkRef::host(parent)).ops[0].clone()];
    assert_eq!(refused(&host, &pod, on("up0")), (0, "failed to lookup up0: Link not found".to_owned()));
    host.sh("ip link add up0 type veth peer name up1 && ip link set up0 up");
    pod.sh("ip link add eth0 type bridge");
    assert_eq!(refused(&host, &pod, on("up0")), (0, r#"failed to create macvlan "eth0": file exists"#.to_owned()));
    pod.sh("ip link del eth0");
    host.sh("ip link set up0 mtu 1000");
    let (_, text) = refused(&host, &pod, on("up0"));
    assert!(text.starts_with(r#"failed to create macvlan "eth0": invalid argument"#), "{text}");
}

fn loopback_link() {
    let (host, pod) = (Ns::new(), Ns::new());
    let before = pod.snapshot();
    let plan = loopback();
    with_executor(&host, &pod, |executor| {
        let applied = applied(executor, &plan);
        let lo = &applied.links[&LinkRef::container("lo")];
        assert_eq!(lo.addresses, [net("127.0.0.1/8"), net("::1/128")]);
        assert_eq!(lo.mac, Some(mac("00:00:00:00:00:00")));
        assert_eq!(executor.check(&plan).expect("check"), []);
        assert!(executor.undo(applied).is_empty());
    });
    pod.assert_snapshot(&before, "pod");
    // Already up: undo leaves it up.
    pod.sh("ip link set lo up");
    there_and_back(&host, &pod, plan.ops, || {});
}

fn port_never_up() {
    let (host, pod) = (Ns::new(), Ns::new());
    let ops = vec![
        bridge("weft0"),
        veth("eth0", HOST_VETH),
        port(HOST_VETH, "weft0"),
        Op::WaitPort { link: HOST_VETH.into() },
    ];
    let start = Instant::now();
    // The container's end stays down, so the port has no carrier.
    let (at, text) = refused(&host, &pod, ops);
    assert_eq!(at, 3);
    assert!(
        ["down", "lower-layer-down"].iter().any(|state| text == format!("bridge port in error state: {state}")),
        "{text}"
    );
    assert!(start.elapsed().as_millis() >= 2550);
}

/// Undo leaves a bridge that another attachment joined meanwhile.
fn bridge_kept_for_newcomers() {
    let (host, pod, other) = (Ns::new(), Ns::new(), Ns::new());
    with_executor(&host, &pod, |executor| {
        let ours = applied(executor, &bridge_l3());
        let join = vec![bridge("weft0"), veth("eth0", "vethother"), port("vethother", "weft0"), link_up(eth0())];
        let mut second = weft_core::netlink::Executor::open(Some(other.path())).expect("open");
        applied(&mut second, &plan(join));
        assert!(executor.undo(ours).is_empty());
    });
    assert!(host.link(HOST_VETH).is_none());
    assert_eq!(host.link("vethother").expect("other port")["master"], "weft0");
    // It also leaves its address, which is the other attachment's gateway.
    assert!(host.addresses("weft0").contains(&"10.88.0.1/24".to_owned()));
    // Forwarding was switched on after this attachment's veth existed, and before the other's.
    assert_eq!(host.sysctl("ipv4/ip_forward"), "1");
    // The tables have no element left and are deleted.
    assert_eq!(host.ruleset(), "");
}
