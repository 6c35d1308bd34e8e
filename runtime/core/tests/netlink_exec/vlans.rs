//! VLANs of bridge ports. Most kernels support them; where this one does not, the error says so.

use weft_core::plan::{LinkRef, Op};

use crate::plans::*;
use crate::support::*;

pub(crate) fn tests(root: bool) -> Vec<crate::Test> {
    let has = root && {
        let scratch = Ns::new();
        scratch.sh("ip link add probe type bridge vlan_filtering 1 2>/dev/null && echo yes || echo no").trim() == "yes"
    };
    let missing = if has { None } else { Some("the kernel has no bridge VLAN filtering") };
    let there = if has { Some("the kernel has bridge VLAN filtering") } else { None };
    vec![
        ("vlans::refused", there, refused_clearly),
        ("vlans::access", missing, access),
        ("vlans::trunk", missing, trunk),
        ("vlans::of_a_port_that_was_there", missing, of_a_port_that_was_there),
        ("vlans::gateway", missing, gateway),
        ("vlans::gateway_kept_for_newcomers", missing, gateway_kept_for_newcomers),
    ]
}

fn filtering() -> Op {
    Op::EnsureBridge { name: "weft0".into(), mtu: None, vlan_filtering: true, promisc: false }
}

fn vlans(drop_existing: bool, pvid: Option<u16>, tagged: &[u16]) -> Op {
    Op::BridgeVlans { link: HOST_VETH.into(), drop_existing, pvid, tagged: tagged.to_vec() }
}

fn gateway_op() -> Op {
    Op::EnsureVlanGateway {
        bridge: "weft0".into(),
        vlan: 100,
        name: "weft0.100".into(),
        peer: "vethgate".into(),
        drop_existing: true,
    }
}

/// Returns `vid flags` of each VLAN of a port.
fn vlans_of_port(host: &Ns, port: &str) -> Vec<String> {
    let ports = host.json("bridge -j vlan show");
    let port = ports.as_array().expect("list").iter().find(|one| one["ifname"] == port).cloned().unwrap_or_default();
    let vlans = port["vlans"].as_array().cloned().unwrap_or_default();
    let flags = |vlan: &serde_json::Value| {
        let flags = vlan["flags"].as_array().cloned().unwrap_or_default();
        flags.iter().filter_map(|flag| flag.as_str().map(str::to_owned)).collect::<Vec<_>>().join(" ")
    };
    let last = |vlan: &serde_json::Value| vlan["vlanEnd"].as_u64().or(vlan["vlan"].as_u64()).expect("number");
    vlans
        .iter()
        .flat_map(|vlan| {
            (vlan["vlan"].as_u64().expect("number")..=last(vlan)).map(|vid| format!("{vid} {}", flags(vlan)))
        })
        .collect()
}

fn refused_clearly() {
    let (host, pod) = (Ns::new(), Ns::new());
    let (at, text) = refused(&host, &pod, vec![filtering()]);
    assert_eq!(at, 0);
    assert_eq!(
        text,
        "failed to create bridge \"weft0\": could not add \"weft0\" with VLAN filtering: operation not supported"
    );
    let ops = vec![bridge("weft0"), veth("eth0", HOST_VETH), port(HOST_VETH, "weft0"), vlans(true, Some(100), &[])];
    let (at, text) = refused(&host, &pod, ops);
    assert_eq!((at, text), (3, format!("failed to setup VLANs on port {HOST_VETH:?}: operation not supported")));
    assert_eq!(refused(&host, &pod, vec![bridge("weft0"), gateway_op()]).0, 1);
}

fn access() {
    let (host, pod) = (Ns::new(), Ns::new());
    let base = vec![filtering(), veth("eth0", HOST_VETH), port(HOST_VETH, "weft0")];
    let with = |op: Op| [base.clone(), vec![op]].concat();
    there_and_back(&host, &pod, with(vlans(true, Some(100), &[])), || {
        assert_eq!(host.link("weft0").expect("bridge")["linkinfo"]["info_data"]["vlan_filtering"], 1);
        assert_eq!(vlans_of_port(&host, HOST_VETH), ["100 PVID Egress Untagged"]);
    });
    there_and_back(&host, &pod, with(vlans(false, Some(100), &[])), || {
        assert_eq!(vlans_of_port(&host, HOST_VETH), ["1 Egress Untagged", "100 PVID Egress Untagged"]);
    });
}

fn trunk() {
    let (host, pod) = (Ns::new(), Ns::new());
    let many: Vec<u16> = (200..900).collect();
    let ops = vec![
        filtering(),
        veth("eth0", HOST_VETH),
        port(HOST_VETH, "weft0"),
        vlans(true, Some(1), &[&[1, 101], many.as_slice()].concat()),
    ];
    there_and_back(&host, &pod, ops.clone(), || {
        let seen = vlans_of_port(&host, HOST_VETH);
        assert_eq!(seen.len(), 702);
        assert_eq!(seen[..3], ["1 PVID Egress Untagged", "101 ", "200 "]);
    });
    apply(&host, &pod, ops.clone());
    with_executor(&host, &pod, |executor| {
        assert_eq!(executor.check(&plan(ops.clone())).expect("check"), []);
        sh(&format!("bridge vlan del dev {HOST_VETH} vid 300"));
        let differences = executor.check(&plan(ops)).expect("check");
        assert_eq!(differences[0].to_string(), format!("the VLANs of bridge port {HOST_VETH} were changed"));
    });
}

fn of_a_port_that_was_there() {
    let (host, pod) = (Ns::new(), Ns::new());
    host.sh("ip link add weft0 address 02:00:00:00:00:05 type bridge vlan_filtering 1 && ip link set weft0 up");
    host.sh(&format!("ip link add {HOST_VETH} type veth peer name q && ip link set {HOST_VETH} master weft0"));
    host.sh(&format!("bridge vlan add dev {HOST_VETH} vid 7 pvid untagged && bridge vlan add dev {HOST_VETH} vid 8"));
    host.settle();
    let before = vlans_of_port(&host, HOST_VETH);
    there_and_back(&host, &pod, vec![vlans(true, Some(100), &[101])], || {
        assert_eq!(vlans_of_port(&host, HOST_VETH), ["100 PVID Egress Untagged", "101 "]);
    });
    assert_eq!(vlans_of_port(&host, HOST_VETH), before);
}

fn gateway() {
    let (host, pod) = (Ns::new(), Ns::new());
    let ops = vec![filtering(), gateway_op(), ensure("weft0.100", "10.88.0.1/24", false)];
    there_and_back(&host, &pod, ops.clone(), || {
        let (near, far) = (host.link("weft0.100").expect("gateway"), host.link("vethgate").expect("peer"));
        assert_eq!(far["master"], "weft0");
        assert_eq!(near["ifindex"].as_u64(), far["ifindex"].as_u64().map(|index| index + 1));
        assert_eq!(vlans_of_port(&host, "vethgate"), ["100 PVID Egress Untagged"]);
        eventually("both ends are up", || host.link("weft0.100").expect("gateway")["operstate"] == "UP");
    });
    // An existing one is used.
    apply(&host, &pod, ops.clone());
    let index = host.link("weft0.100").expect("gateway")["ifindex"].clone();
    host.settle();
    there_and_back(&host, &pod, ops, || {
        assert_eq!(host.link("weft0.100").expect("gateway")["ifindex"], index);
    });
}

fn gateway_kept_for_newcomers() {
    let (host, pod, other) = (Ns::new(), Ns::new(), Ns::new());
    with_executor(&host, &pod, |executor| {
        let ours =
            applied(executor, &plan(vec![filtering(), gateway_op(), ensure("weft0.100", "10.88.0.1/24", false)]));
        let mut second = weft_core::netlink::Executor::open(Some(other.path())).expect("open");
        applied(&mut second, &plan(vec![filtering(), veth("eth0", HOST_VETH), port(HOST_VETH, "weft0")]));
        assert!(executor.undo(ours).is_empty());
    });
    assert!(host.link("weft0.100").is_some() && host.link(HOST_VETH).is_some());
    assert_eq!(LinkRef::host("weft0.100").to_string(), "weft0.100");
}
