//! Children of a parent and dummies, as far as this kernel supports them: the rest runs in the virtual machine.

use weft_core::plan::{CreateDummy, CreateIpvlan, CreateVlan, IpvlanMode, LinkRef, MacvlanMode, Op};

use crate::plans::*;
use crate::support::*;

pub(crate) fn tests() -> Vec<crate::Test> {
    let lacks = |kind: &str, why: &'static str| if has_kind(kind) { None } else { Some(why) };
    let (ipvlan, vlan) = (lacks("ipvlan", "no ipvlan in this kernel"), lacks("vlan", "no vlan in this kernel"));
    let dummy = lacks("dummy", "no dummy in this kernel");
    vec![
        ("children::ipvlan_modes", ipvlan, ipvlan_modes),
        ("children::vlan_of_a_parent", vlan, vlan_of_a_parent),
        ("children::dummy_alone", dummy, dummy_alone),
        ("children::beside_a_host_link_of_that_name", None, beside_a_host_link_of_that_name),
        (
            "children::unknown_kinds",
            if ipvlan.is_some() { None } else { Some("this kernel has ipvlan") },
            unknown_kinds,
        ),
    ]
}

/// Returns whether the kernel can make links of a kind.
pub(crate) fn has_kind(kind: &str) -> bool {
    if !nix::unistd::geteuid().is_root() {
        return false;
    }
    let make = match kind {
        "vlan" => "ip link add link p name c type vlan id 7 2>/dev/null".to_owned(),
        "ipvlan" => "ip link add link p name c type ipvlan 2>/dev/null".to_owned(),
        _ => format!("ip link add c type {kind} 2>/dev/null"),
    };
    let ns = Ns::new();
    ns.sh(&format!("ip link add p type veth peer name q; {make} && echo yes || true")).contains("yes")
}

fn parent() -> (Ns, Ns) {
    let (host, pod) = (Ns::new(), Ns::new());
    host.sh("ip link add up0 type veth peer name up1 && ip link set up0 up && ip link set up1 up");
    host.settle();
    (host, pod)
}

fn ipvlan(mode: IpvlanMode) -> Op {
    Op::CreateIpvlan(CreateIpvlan { name: "eth0".into(), parent: LinkRef::host("up0"), mode, mtu: Some(1400) })
}

fn vlan() -> Op {
    Op::CreateVlan(CreateVlan { name: "eth0".into(), parent: LinkRef::host("up0"), id: 33, mtu: Some(1400) })
}

fn ipvlan_modes() {
    for mode in [IpvlanMode::L2, IpvlanMode::L3, IpvlanMode::L3s] {
        let (host, pod) = parent();
        there_and_back(&host, &pod, vec![ipvlan(mode)], || {
            let link = pod.link("eth0").expect("ipvlan");
            assert_eq!((&link["mtu"], &link["linkinfo"]["info_data"]["mode"]), (&1400.into(), &mode.name().into()));
        });
    }
}

fn vlan_of_a_parent() {
    let (host, pod) = parent();
    there_and_back(&host, &pod, vec![vlan()], || {
        let link = pod.link("eth0").expect("vlan");
        assert_eq!((&link["mtu"], &link["linkinfo"]["info_data"]["id"]), (&1400.into(), &33.into()));
    });
}

fn dummy_alone() {
    let (host, pod) = (Ns::new(), Ns::new());
    let op = Op::CreateDummy(CreateDummy { name: "eth0".into() });
    there_and_back(&host, &pod, vec![op, link_up(eth0())], || {
        assert_eq!(pod.link("eth0").expect("dummy")["linkinfo"]["info_kind"], "dummy");
    });
}

/// Nodes have an `eth0` of their own.
fn beside_a_host_link_of_that_name() {
    let (host, pod) = parent();
    host.sh("ip link add eth0 type bridge");
    let (parent, mode) = (LinkRef::host("up0"), MacvlanMode::Bridge);
    let op = Op::CreateMacvlan { name: "eth0".into(), parent, mode, mtu: None, mac: None, bc_queue_len: None };
    there_and_back(&host, &pod, vec![op.clone()], || {
        assert_eq!(pod.link("eth0").expect("macvlan")["linkinfo"]["info_kind"], "macvlan");
    });
    pod.sh("ip link add eth0 type bridge");
    let text = "failed to create macvlan \"eth0\": file exists";
    assert_eq!(refused(&host, &pod, vec![op]), (0, text.to_owned()));
}

fn unknown_kinds() {
    let (host, pod) = parent();
    let (_, text) = refused(&host, &pod, vec![ipvlan(IpvlanMode::L2)]);
    assert!(text.starts_with("failed to create ipvlan \"eth0\": operation not supported"), "{text}");
}
