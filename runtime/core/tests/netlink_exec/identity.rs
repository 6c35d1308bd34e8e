//! A container with `NET_ADMIN` renames its link, replaces it, or moves it away: teardown finds the link that the plan
//! made and no other, and reports when it cannot be sure. Tested for each kind that this kernel supports.

use std::collections::BTreeSet;
use std::fs;

use weft_core::netlink::{Executor, UndoError};
use weft_core::plan::{
    CreateDummy, CreateIpvlan, CreateTap, CreateVlan, IpvlanMode, LinkRef, MacvlanMode, Op, Plan, TakeDevice,
};

use crate::children::has_kind;
use crate::plans::*;
use crate::support::*;

/// The index that the plans choose.
const INDEX: u32 = 0x0100_0077;

pub(crate) fn tests() -> Vec<crate::Test> {
    let lacks = |kind: &str, why: &'static str| if has_kind(kind) { None } else { Some(why) };
    let tap = if fs::metadata("/dev/net/tun").is_err() { Some("needs /dev/net/tun") } else { None };
    vec![
        ("identity::macvlan", None, || every_trick(&macvlan())),
        ("identity::ipvlan", lacks("ipvlan", "no ipvlan in this kernel"), || every_trick(&ipvlan())),
        ("identity::vlan", lacks("vlan", "no vlan in this kernel"), || every_trick(&vlan())),
        ("identity::dummy", lacks("dummy", "no dummy in this kernel"), || every_trick(&dummy())),
        ("identity::tap", tap, || every_trick(&tap_device())),
        ("identity::parent_of_a_macvlan_renamed", None, || every_parent(&macvlan())),
        ("identity::parent_of_an_ipvlan_renamed", lacks("ipvlan", "no ipvlan in this kernel"), || {
            every_parent(&ipvlan())
        }),
        ("identity::parent_of_a_vlan_renamed", lacks("vlan", "no vlan in this kernel"), || every_parent(&vlan())),
        ("identity::parent_of_an_impostor", None, parent_of_an_impostor),
        ("identity::child_of_a_macvlan", None, child_of_a_macvlan),
        ("identity::child_in_a_nested_container", None, child_in_a_nested_container),
        ("identity::link_of_a_later_attachment", None, link_of_a_later_attachment),
        ("identity::veth_of_the_container", None, veth_of_the_container),
        ("identity::device_renamed", None, device_renamed),
        ("identity::device_and_impostor", None, device_and_impostor),
        ("identity::device_moved_on", None, device_moved_on),
        ("identity::device_comes_home_changed", None, device_comes_home_changed),
        ("identity::index_is_taken", None, index_is_taken),
    ]
}

fn macvlan() -> Op {
    let (parent, mode) = (LinkRef::host("up0"), MacvlanMode::Bridge);
    Op::CreateMacvlan { name: "eth0".into(), parent, mode, mtu: None, mac: None, bc_queue_len: None }
}

fn ipvlan() -> Op {
    Op::CreateIpvlan(CreateIpvlan {
        name: "eth0".into(),
        parent: LinkRef::host("up0"),
        mode: IpvlanMode::L2,
        mtu: None,
    })
}

fn vlan() -> Op {
    Op::CreateVlan(CreateVlan { name: "eth0".into(), parent: LinkRef::host("up0"), id: 33, mtu: None })
}

fn dummy() -> Op {
    Op::CreateDummy(CreateDummy { name: "eth0".into() })
}

fn tap_device() -> Op {
    Op::CreateTap(CreateTap { name: "eth0".into(), ..CreateTap::default() })
}

/// Returns the namespaces of a host with the parent `up0`, and of a pod.
fn spaces() -> (Ns, Ns) {
    let (host, pod) = (Ns::new(), Ns::new());
    host.sh("ip link add up0 type veth peer name up1 && ip link set up0 up && ip link set up1 up");
    (host, pod)
}

fn with_index(op: &Op) -> Plan {
    Plan { link_index: Some(INDEX), ..plan(vec![op.clone()]) }
}

fn make(host: &Ns, pod: &Ns, plan: &Plan) {
    with_executor(host, pod, |executor| drop(applied(executor, plan)));
}

fn tear_down(host: &Ns, pod: Option<&Ns>, plan: &Plan) -> Vec<String> {
    let whole = |error: &UndoError| format!("{error}: {}", error.cause);
    let path = pod.map(|pod| pod.path().to_owned());
    host.run(|| {
        let mut executor = Executor::open(path.as_deref()).expect("executor");
        executor.teardown(plan, &BTreeSet::new()).iter().map(whole).collect()
    })
}

fn check(host: &Ns, pod: &Ns, plan: &Plan) -> Vec<String> {
    let differences = with_executor(host, pod, |executor| executor.check(plan).expect("check"));
    differences.iter().map(ToString::to_string).collect()
}

/// A DEL that was stopped or is late finds the next attachment's link under its own link's name, in the same namespace.
fn link_of_a_later_attachment() {
    let (host, pod) = spaces();
    let later = Plan { link_index: Some(INDEX + 1), ..plan(vec![macvlan()]) };
    make(&host, &pod, &later);
    assert_eq!(tear_down(&host, Some(&pod), &with_index(&macvlan())), [""; 0]);
    assert!(pod.link("eth0").is_some(), "the later attachment has lost its link");
}

/// Returns a number for `ip link set netns`: that of the thread that keeps the namespace.
fn netns_of(ns: &Ns) -> String {
    let path = ns.path().display().to_string();
    path.split('/').nth(4).expect("/proc/PID/task/TID/ns/net").to_owned()
}

/// Returns whether a namespace has the link with the chosen index.
fn has_it(ns: &Ns) -> bool {
    ns.json("ip -j link").as_array().expect("list").iter().any(|link| link["ifindex"] == INDEX)
}

/// Tries everything that a container can do with a link that weft made.
fn every_trick(op: &Op) {
    let plan = with_index(op);
    let gone = ["CNI created interface in container eth0 not found"];

    let (host, pod) = spaces();
    make(&host, &pod, &plan);
    assert!(has_it(&pod), "made with the index of the plan");
    assert_eq!(check(&host, &pod, &plan), [""; 0]);
    pod.sh("ip link set eth0 down && ip link set eth0 name lan7 && ip link set lan7 alias x");
    assert_eq!(check(&host, &pod, &plan), gone, "renamed");
    assert_eq!(tear_down(&host, Some(&pod), &plan), [""; 0]);
    assert!(!has_it(&pod), "found under another name");

    make(&host, &pod, &plan);
    pod.sh("ip link set eth0 name lan7 && ip link add eth0 type bridge");
    assert_eq!(check(&host, &pod, &plan), gone, "replaced");
    assert_eq!(tear_down(&host, Some(&pod), &plan), [""; 0]);
    assert!(!has_it(&pod) && pod.link("eth0").is_some(), "the bridge is the container's");
    pod.sh("ip link del eth0");

    // The container deleted it: no link is left that could keep the address.
    make(&host, &pod, &plan);
    pod.sh("ip link del eth0");
    assert_eq!(tear_down(&host, Some(&pod), &plan), [""; 0]);
    // Never made.
    assert_eq!(tear_down(&host, Some(&pod), &plan), [""; 0]);

    // In a namespace that the container made.
    let nested = Ns::new();
    make(&host, &pod, &plan);
    pod.sh(&format!("ip link set eth0 netns {}", netns_of(&nested)));
    assert!(has_it(&nested));
    nested.sh("ip link set eth0 name deep0");
    assert_eq!(tear_down(&host, Some(&pod), &plan), [""; 0]);
    assert!(!has_it(&nested), "deleted where it is");

    // The index is taken there, so the link gets another: it could be a link that the container made.
    nested.sh(&format!("ip link add taken index {INDEX} type bridge"));
    make(&host, &pod, &plan);
    pod.sh(&format!("ip link set eth0 netns {}", netns_of(&nested)));
    let wrong = tear_down(&host, Some(&pod), &plan);
    assert!(wrong.len() == 1 && wrong[0].contains("may be in another network namespace"), "{wrong:?}");
    assert!(nested.link("eth0").is_some() && nested.link("taken").is_some());
    nested.sh("ip link del eth0");
    assert_eq!(tear_down(&host, Some(&pod), &plan), [""; 0], "gone at last");
    assert!(nested.link("taken").is_some());
}

/// What the host can do with the parent of a link: as long as the link lives, no DEL says that it is gone.
fn every_parent(op: &Op) {
    let plan = with_index(op);
    let unclear = |wrong: &[String]| wrong.len() == 1 && wrong[0].contains("may be in another network namespace");

    // Another link has its name now.
    let (host, pod) = spaces();
    make(&host, &pod, &plan);
    host.sh("ip link set up0 down && ip link set up0 name lan0 && ip link set lan0 up");
    host.sh("ip link add up0 type veth peer name up2");
    assert!(has_it(&pod), "it does not care");
    assert_eq!(tear_down(&host, Some(&pod), &plan), [""; 0]);
    assert!(!has_it(&pod), "found though its parent has another name");

    // The container moves it then: nobody can tell whether it is the one.
    let nested = Ns::new();
    host.sh("ip link del up0 && ip link set lan0 down && ip link set lan0 name up0 && ip link set up0 up");
    make(&host, &pod, &plan);
    host.sh("ip link set up0 down && ip link set up0 name lan0 && ip link set lan0 up");
    host.sh("ip link add up0 type veth peer name up2");
    pod.sh(&format!("ip link set eth0 netns {}", netns_of(&nested)));
    let wrong = tear_down(&host, Some(&pod), &plan);
    assert!(unclear(&wrong) && has_it(&nested), "{wrong:?}");
    nested.sh("ip link del eth0");
    assert_eq!(tear_down(&host, Some(&pod), &plan), [""; 0], "gone at last");

    // The host moves the parent to another namespace, and back.
    let (host, pod) = spaces();
    let away = Ns::new();
    make(&host, &pod, &plan);
    host.sh(&format!("ip link set up0 netns {}", netns_of(&away)));
    assert!(has_it(&pod), "the kernel keeps it");
    let wrong = tear_down(&host, Some(&pod), &plan);
    assert!(unclear(&wrong) && has_it(&pod), "{wrong:?}");
    away.sh(&format!("ip link set up0 netns {}", netns_of(&host)));
    assert_eq!(tear_down(&host, Some(&pod), &plan), [""; 0]);
    assert!(!has_it(&pod));
}

/// A macvlan that the container made, with the index and the name of one that it moved away.
fn parent_of_an_impostor() {
    let (host, pod) = spaces();
    let nested = Ns::new();
    let plan = with_index(&macvlan());
    make(&host, &pod, &plan);
    pod.sh(&format!("ip link set eth0 netns {}", netns_of(&nested)));
    pod.sh("ip link add own0 type veth peer name own1");
    pod.sh(&format!("ip link add link own0 name eth0 index {INDEX} type macvlan"));
    assert_eq!(tear_down(&host, Some(&pod), &plan), [""; 0]);
    assert!(!has_it(&nested), "the one on the host's parent");
    assert!(has_it(&pod), "the container's");
}

/// A parent that is itself a macvlan: its children are children of the link below.
fn child_of_a_macvlan() {
    let (host, pod) = spaces();
    host.sh("ip link add link up0 name mv0 type macvlan mode bridge && ip link set mv0 up");
    let (parent, mode) = (LinkRef::host("mv0"), MacvlanMode::Bridge);
    let op = Op::CreateMacvlan { name: "eth0".into(), parent, mode, mtu: None, mac: None, bc_queue_len: None };
    let plan = with_index(&op);
    make(&host, &pod, &plan);
    pod.sh("ip link set eth0 name lan7");
    assert_eq!(tear_down(&host, Some(&pod), &plan), [""; 0]);
    assert!(!has_it(&pod));
}

/// The container has deleted its link, and has a container of its own with a macvlan on a link that it made.
fn child_in_a_nested_container() {
    let (host, pod) = spaces();
    let nested = Ns::new();
    let plan = with_index(&macvlan());
    make(&host, &pod, &plan);
    pod.sh("ip link del eth0 && ip link add own0 type veth peer name own1");
    pod.sh("ip link add link own0 name mv7 type macvlan");
    pod.sh(&format!("ip link set mv7 netns {}", netns_of(&nested)));
    // The second time, the kernel has numbered the container's own namespace.
    for _ in 0..2 {
        assert_eq!(tear_down(&host, Some(&pod), &plan), [""; 0]);
        assert!(nested.link("mv7").is_some(), "the container's");
    }
}

/// A pair that the container made, under the name of the attachment's end.
fn veth_of_the_container() {
    let (host, pod) = spaces();
    let plan = plan(vec![veth("eth0", HOST_VETH)]);
    make(&host, &pod, &plan);
    pod.sh("ip link set eth0 name lan7 && ip link add eth0 type veth peer name inside");
    assert_eq!(tear_down(&host, Some(&pod), &plan), [""; 0]);
    assert!(host.link(HOST_VETH).is_none() && pod.link("lan7").is_none());
    assert_eq!(tear_down(&host, Some(&pod), &plan), [""; 0]);
    assert!(pod.link("eth0").is_some(), "both ends of it are in the container");
}

/// Returns a host with a device `d0`, and the plan that takes it.
fn with_device() -> (Ns, Ns, Plan) {
    let (host, pod) = (Ns::new(), Ns::new());
    host.sh("ip link add d0 mtu 1400 address 02:00:00:00:0d:00 type veth peer name peer0");
    host.sh("ip link set peer0 addrgenmode none");
    let index = host.link("d0").expect("device")["ifindex"].as_u64().and_then(|index| u32::try_from(index).ok());
    let op = TakeDevice {
        name: "net1".into(),
        device: "d0".into(),
        hardware: Some("02:00:00:00:0d:00".into()),
        mac: Some(mac("02:00:00:00:0d:00")),
        mtu: Some(1400),
        kind: Some("veth".into()),
        host_index: index,
        ..TakeDevice::default()
    };
    (host, pod, with_index(&Op::TakeDevice(op)))
}

fn is_home(host: &Ns, before: &serde_json::Value) {
    let link = host.link("d0").expect("home");
    for key in ["ifindex", "address", "mtu", "ifalias"] {
        assert_eq!(link[key], before[key], "{key}");
    }
}

fn device_renamed() {
    let (host, pod, plan) = with_device();
    let before = host.link("d0").expect("device");
    make(&host, &pod, &plan);
    assert!(has_it(&pod));
    assert_eq!(check(&host, &pod, &plan), [""; 0]);
    pod.sh("ip link set net1 name lan7 && ip link set lan7 alias '' address 02:00:00:00:00:99 mtu 1300");
    assert_eq!(check(&host, &pod, &plan), ["CNI created interface in container net1 not found"]);
    assert_eq!(tear_down(&host, Some(&pod), &plan), [""; 0]);
    is_home(&host, &before);
    assert_eq!(tear_down(&host, Some(&pod), &plan), [""; 0], "again");
    is_home(&host, &before);
}

fn device_and_impostor() {
    let (host, pod, plan) = with_device();
    let before = host.link("d0").expect("device");
    make(&host, &pod, &plan);
    pod.sh("ip link set net1 name lan7");
    pod.sh("ip link add net1 address 02:00:00:00:0d:00 type veth peer name inside && ip link set net1 alias d0");
    assert_eq!(tear_down(&host, Some(&pod), &plan), [""; 0]);
    is_home(&host, &before);
    assert!(pod.link("lan7").is_none() && pod.link("net1").is_some());
    // Without the device, the impostor is still not taken for it.
    make(&host, &pod, &Plan { ops: retake(&plan, "net2"), ..plan.clone() });
    host.sh("ip link del peer0");
    assert!(pod.link("net2").is_none(), "gone with its other end");
    assert_eq!(tear_down(&host, Some(&pod), &plan), [""; 0]);
    assert!(host.link("d0").is_none() && pod.link("net1").is_some());
}

/// Returns the op for the same device under another name in the container.
fn retake(plan: &Plan, name: &str) -> Vec<Op> {
    let renamed = |op: &Op| match op {
        Op::TakeDevice(op) => Op::TakeDevice(TakeDevice { name: name.into(), ..op.clone() }),
        other => other.clone(),
    };
    plan.ops.iter().map(renamed).collect()
}

fn device_moved_on() {
    let (host, pod, plan) = with_device();
    let before = host.link("d0").expect("device");
    let nested = Ns::new();
    make(&host, &pod, &plan);
    pod.sh(&format!("ip link set net1 netns {}", netns_of(&nested)));
    let wrong = tear_down(&host, Some(&pod), &plan);
    assert!(wrong.len() == 1 && wrong[0].contains("was moved to another network namespace"), "{wrong:?}");
    nested.sh(&format!("ip link set net1 netns {}", netns_of(&pod)));
    assert_eq!(tear_down(&host, Some(&pod), &plan), [""; 0]);
    is_home(&host, &before);
}

/// What the kernel does with a physical device when its namespace ends: it returns to the host, under any name.
fn device_comes_home_changed() {
    let (host, pod, plan) = with_device();
    let before = host.link("d0").expect("device");
    make(&host, &pod, &plan);
    pod.sh("ip link set net1 address 02:00:00:00:00:99 mtu 1300 alias '' && ip link set net1 name dev37");
    pod.sh(&format!("ip link set dev37 netns {}", netns_of(&host)));
    assert_eq!(tear_down(&host, None, &plan), [""; 0]);
    let link = host.link("d0").expect("home");
    for key in ["address", "mtu", "ifalias"] {
        assert_eq!(link[key], before[key], "{key}");
    }
    assert!(host.link("dev37").is_none());
}

/// The chosen index is in use: the ADD fails, and leaves nothing behind.
fn index_is_taken() {
    let (host, pod) = spaces();
    pod.sh(&format!("ip link add other index {INDEX} type bridge"));
    let (host_before, pod_before) = (host.snapshot(), pod.snapshot());
    let error = with_executor(&host, &pod, |executor| executor.apply(&with_index(&macvlan())).expect_err("must fail"));
    let text = error.cause.to_string();
    // EBUSY before Linux 6.15.
    assert!(error.leftovers.is_empty() && (text.ends_with("file exists") || text.ends_with("busy")), "{text}");
    host.assert_snapshot(&host_before, "host");
    pod.assert_snapshot(&pod_before, "pod");
}
