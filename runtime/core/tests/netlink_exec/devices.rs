//! Devices of the host that move to a container and return: by undo, by DEL from the plan alone, and after a crash. One
//! end of a veth pair stands for a device.

use std::collections::BTreeSet;

use weft_core::netlink::{Executor, UndoError};
use weft_core::plan::{LinkRef, Op, Plan, TakeDevice};

use crate::plans::*;
use crate::support::*;

pub(crate) fn tests() -> Vec<crate::Test> {
    vec![
        ("devices::there_and_back", None, there_and_back_again),
        ("devices::names_in_use_elsewhere", None, names_in_use_elsewhere),
        ("devices::refused_names", None, refused_names),
        ("devices::given_back", None, given_back),
        ("devices::home_is_taken", None, home_is_taken),
        ("devices::by_alias_alone", None, by_alias_alone),
        ("devices::after_a_crash", None, after_a_crash),
        ("devices::back_under_another_name", None, back_under_another_name),
        ("devices::checked", None, checked),
    ]
}

/// Returns a host with a device `d0`, and what `describe` would return for it.
fn with_device() -> (Ns, Ns, TakeDevice) {
    let (host, pod) = (Ns::new(), Ns::new());
    host.sh(
        "ip link add d0 mtu 1400 address 02:00:00:00:0d:00 type veth peer name peer0 && ip link set d0 alias before",
    );
    // The peer changes when the device comes up.
    host.sh("ip link set peer0 addrgenmode none");
    let op = TakeDevice {
        name: "net1".into(),
        device: "d0".into(),
        hardware: Some("02:00:00:00:0d:00".into()),
        mac: Some(mac("02:00:00:00:0d:00")),
        mtu: Some(1400),
        alias: Some("before".into()),
        ..TakeDevice::default()
    };
    (host, pod, op)
}

fn take(op: &TakeDevice) -> Vec<Op> {
    vec![Op::TakeDevice(op.clone())]
}

fn tear_down(host: &Ns, pod: Option<&Ns>, op: Op) -> Vec<String> {
    let whole = |error: &UndoError| format!("{error}: {}", error.cause);
    let path = pod.map(|pod| pod.path().to_owned());
    host.run(|| {
        let mut executor = Executor::open(path.as_deref()).expect("executor");
        executor.teardown(&plan(vec![op]), &BTreeSet::new()).iter().map(whole).collect()
    })
}

fn there_and_back_again() {
    let (host, pod, op) = with_device();
    host.sh("ip link add br0 type bridge && ip link set br0 up && ip link set peer0 up");
    // Down without other settings, and with every setting that it can lose.
    for line in [
        // Up once, so that the peer had a carrier.
        "ip link set d0 up && until ip link show d0 | grep -q LOWER_UP; do sleep 0.05; done && ip link set d0 down",
        "ip link set d0 up && ip addr add 192.0.2.1/24 dev d0 && ip addr add 2001:db8::1/64 dev d0 nodad && \
         ip route add 198.51.100.0/24 via 192.0.2.9 && ip -6 route add 2001:db8:9::/48 via 2001:db8::9 && \
         sysctl -qw net.ipv4.conf.d0.rp_filter=2 net.ipv6.conf.d0.accept_ra=0 net.ipv6.conf.d0.hop_limit=7",
        "ip link set d0 master br0",
    ] {
        host.sh(line);
        host.settle();
        let mut ops = take(&op);
        ops.extend([address(LinkRef::container("net1"), "10.1.0.2/24"), link_up(LinkRef::container("net1"))]);
        ops.push(route(LinkRef::container("net1"), "0.0.0.0/0", Some("10.1.0.1")));
        there_and_back(&host, &pod, ops, || {
            assert!(host.link("d0").is_none() && host.link("net1").is_none());
            let link = pod.link("net1").expect("the device");
            assert_eq!((&link["ifalias"], &link["mtu"]), (&"d0".into(), &1400.into()));
            assert_eq!(link["address"], "02:00:00:00:0d:00");
            assert!(pod.addresses("net1").contains(&"10.1.0.2/24".to_owned()));
            assert!(!pod.addresses("net1").contains(&"192.0.2.1/24".to_owned()), "the host's stay behind");
        });
    }
}

/// The container may have a link with the device's name on the host, and the host one with its name in the container.
fn names_in_use_elsewhere() {
    let (host, pod, op) = with_device();
    pod.sh("ip link add d0 type veth peer name other");
    host.sh("ip link add net1 type veth peer name other1");
    there_and_back(&host, &pod, take(&op), || {
        assert_eq!(pod.link("net1").expect("the device")["ifalias"], "d0");
        assert!(pod.link("d0").expect("the other")["ifalias"].is_null());
        assert!(host.link("net1").is_some() && host.link("d0").is_none());
    });
    apply(&host, &pod, take(&op));
    assert_eq!(tear_down(&host, Some(&pod), Op::TakeDevice(op)), [""; 0]);
    assert!(host.link("d0").is_some() && host.link("net1").is_some() && pod.link("net1").is_none());
}

fn refused_names() {
    let (host, pod, op) = with_device();
    pod.sh("ip link add net1 type veth peer name other");
    let text = "failed to move link failed to rename device \"d0\" to \"net1\": file exists";
    assert_eq!(refused(&host, &pod, take(&op)), (0, text.to_owned()));
    let gone = TakeDevice { device: "nope".into(), ..op.clone() };
    assert_eq!(refused(&host, &pod, take(&gone)), (0, "failed to lookup nope: Link not found".to_owned()));
    host.sh("ip link add br0 type bridge");
    let fixed = TakeDevice { device: "br0".into(), name: "net2".into(), alias: None, ..op };
    let (at, text) = refused(&host, &pod, take(&fixed));
    assert!(at == 0 && text.starts_with("failed to move link \"br0\": invalid argument"), "{text}");
}

fn given_back() {
    let (host, pod, op) = with_device();
    host.sh("ip link set d0 up");
    let mut ops = take(&op);
    ops.extend([address(LinkRef::container("net1"), "10.1.0.2/24"), link_up(LinkRef::container("net1"))]);
    apply(&host, &pod, ops);
    // The container's changes do not remain on the host.
    pod.sh("ip link set net1 mtu 1280 && ip link set net1 address 02:00:00:00:0d:99");
    assert_eq!(tear_down(&host, Some(&pod), Op::TakeDevice(op.clone())), [""; 0]);
    let link = host.link("d0").expect("home");
    assert_eq!((&link["ifalias"], &link["mtu"]), (&"before".into(), &1400.into()));
    assert_eq!(link["address"], "02:00:00:00:0d:00");
    assert!(!link["flags"].to_string().contains("\"UP\""), "as the stock plugin leaves it: {link}");
    assert!(pod.link("net1").is_none() && host.addresses("d0").is_empty());
    let before = host.snapshot();
    for pod in [Some(&pod), None] {
        assert_eq!(tear_down(&host, pod, Op::TakeDevice(op.clone())), [""; 0], "again");
    }
    host.assert_snapshot(&before, "a second DEL");
}

/// As in the stock plugin's own test: DEL fails, and succeeds once the name is free.
fn home_is_taken() {
    let (host, pod, op) = with_device();
    apply(&host, &pod, take(&op));
    host.sh("ip link add d0 type veth peer name other");
    let before = (host.snapshot(), pod.snapshot());
    let wrong = tear_down(&host, Some(&pod), Op::TakeDevice(op.clone()));
    let text =
        "could not tear down: move d0 into the container as net1: failed to move \"d0\" to host netns: file exists";
    assert_eq!(wrong, [text]);
    assert_eq!((host.snapshot(), pod.snapshot()), before);
    host.sh("ip link del d0");
    assert_eq!(tear_down(&host, Some(&pod), Op::TakeDevice(op)), [""; 0]);
    assert!(host.link("d0").is_some() && pod.link("net1").is_none());
}

/// The journal has no entry: the stock plugin made the attachment.
fn by_alias_alone() {
    let (host, pod, op) = with_device();
    let nothing = TakeDevice { name: op.name, ..TakeDevice::default() };
    let down = || tear_down(&host, Some(&pod), Op::TakeDevice(nothing.clone()));
    assert_eq!(down(), [""; 0], "no link");
    host.run(|| sh(&format!("ip link set d0 name net1 netns {}", netns_of(&pod))));
    pod.sh("ip link set net1 alias ''");
    let text = "failed to find original ifname for \"net1\" (alias is not set)";
    assert!(down()[0].ends_with(text), "{:?}", down());
    pod.sh("ip link set net1 alias d0 up");
    assert_eq!(down(), [""; 0]);
    let link = host.link("d0").expect("home");
    assert!(link["ifalias"].is_null() && !link["flags"].to_string().contains("\"UP\""), "{link}");
    assert_eq!(down(), [""; 0], "again");
}

/// Returns a pid for `ip link set netns`: that of the thread that keeps the namespace.
fn netns_of(pod: &Ns) -> String {
    let path = pod.path().display().to_string();
    path.split('/').nth(4).expect("/proc/PID/task/TID/ns/net").to_owned()
}

/// The ADD was killed at any point: DEL has only the plan.
fn after_a_crash() {
    // Before the first message.
    let (host, pod, op) = with_device();
    let before = host.snapshot();
    assert_eq!(tear_down(&host, Some(&pod), Op::TakeDevice(op.clone())), [""; 0]);
    host.assert_snapshot(&before, "nothing was done");
    // After the mark.
    host.sh("ip link set d0 alias d0");
    assert_eq!(tear_down(&host, Some(&pod), Op::TakeDevice(op.clone())), [""; 0]);
    host.assert_snapshot(&before, "marked");
    // After the move.
    apply(&host, &pod, take(&op));
    assert_eq!(tear_down(&host, Some(&pod), Op::TakeDevice(op)), [""; 0]);
    host.assert_snapshot(&before, "moved");
}

/// What the kernel does with a physical device when its namespace ends: it returns to the host, under its name in the
/// container, or as `dev7` if the host has a link of that name.
fn back_under_another_name() {
    let (host, pod, op) = with_device();
    for name in ["net1", "dev7"] {
        host.sh(&format!("ip link set d0 alias d0 && ip link set d0 name {name}"));
        assert_eq!(tear_down(&host, None, Op::TakeDevice(op.clone())), [""; 0]);
        assert_eq!(host.link("d0").expect("home")["ifalias"], "before");
    }
    // Another device that had this alias is not the one.
    host.sh("ip link set d0 name dev7 && ip link set dev7 alias d0 address 02:00:00:00:0d:77");
    assert_eq!(tear_down(&host, None, Op::TakeDevice(op.clone())), [""; 0]);
    assert!(host.link("dev7").is_some());
    // Its name is taken.
    host.sh("ip link set dev7 address 02:00:00:00:0d:00 && ip link add d0 type veth peer name other");
    let text = "failed to restore \"net1\" to original name \"d0\": file exists";
    let wrong = tear_down(&host, None, Op::TakeDevice(op));
    assert!(wrong.len() == 1 && wrong[0].ends_with(text), "{wrong:?}");
    drop(pod);
}

fn checked() {
    let (host, pod, op) = with_device();
    let plan: Plan = plan(take(&op));
    let check = || -> Vec<String> {
        let differences = with_executor(&host, &pod, |executor| executor.check(&plan).expect("check"));
        differences.iter().map(ToString::to_string).collect()
    };
    let gone = ["CNI created interface in container net1 not found"];
    assert_eq!(check(), gone);
    apply(&host, &pod, take(&op));
    assert_eq!(check(), [""; 0]);
    pod.sh("ip link set net1 name net2");
    assert_eq!(check(), gone);
    pod.sh("ip link add net1 type veth peer name other");
    assert_eq!(check(), gone, "another link of that name");
}
