//! Tap devices: made, refused, undone, torn down, checked; and opened, as a virtual machine does.

use std::collections::BTreeSet;
use std::fs;
use std::io::Read;
use std::process::{Command, Stdio};

use weft_core::plan::{CreateTap, Op};

use crate::plans::*;
use crate::support::*;

pub(crate) fn tests() -> Vec<crate::Test> {
    let missing = if fs::metadata("/dev/net/tun").is_err() { Some("needs /dev/net/tun") } else { None };
    vec![
        ("taps::plain", missing, plain_tap),
        ("taps::every_setting", missing, every_setting),
        ("taps::on_a_bridge_inside", missing, on_a_bridge_inside),
        ("taps::refusals", missing, refusals),
        ("taps::selinux", missing, selinux),
        ("taps::torn_down", missing, torn_down),
        ("taps::checked", missing, checked),
        ("taps::opened", missing, opened),
    ]
}

fn tap() -> CreateTap {
    CreateTap { name: "eth0".into(), ..CreateTap::default() }
}

fn plain_tap() {
    let (host, pod) = (Ns::new(), Ns::new());
    there_and_back(&host, &pod, vec![Op::CreateTap(tap()), link_up(eth0()), address(eth0(), "10.1.0.2/24")], || {
        let link = pod.link("eth0").expect("tap");
        let data = &link["linkinfo"];
        assert_eq!((&data["info_kind"], &data["info_data"]["type"]), (&"tun".into(), &"tap".into()));
        assert_eq!(data["info_data"]["persist"], true);
        assert_eq!((&data["info_data"]["pi"], &data["info_data"]["vnet_hdr"]), (&false.into(), &false.into()));
        assert!(data["info_data"]["user"].is_null() && data["info_data"]["group"].is_null(), "{data}");
        assert!(host.link("eth0").is_none());
    });
}

fn every_setting() {
    let (host, pod) = (Ns::new(), Ns::new());
    let all = CreateTap {
        multi_queue: true,
        owner: Some(0),
        group: Some(12_345),
        mtu: Some(1400),
        mac: Some(mac("02:00:00:00:00:aa")),
        ..tap()
    };
    there_and_back(&host, &pod, vec![Op::CreateTap(all.clone())], || {
        let link = pod.link("eth0").expect("tap");
        assert_eq!((&link["mtu"], &link["address"]), (&1400.into(), &"02:00:00:00:00:aa".into()));
        let data = &link["linkinfo"]["info_data"];
        assert_eq!((&data["multi_queue"], &data["vnet_hdr"]), (&true.into(), &true.into()));
        let group = data["group"].to_string();
        assert_eq!((&data["user"], group.trim_matches('"')), (&"root".into(), "12345"), "{data}");
    });
    // With one of them, `ip tuntap` works as in the stock plugin: the settings still apply.
    let one = CreateTap { group: None, multi_queue: false, ..all };
    there_and_back(&host, &pod, vec![Op::CreateTap(one)], || {
        let link = pod.link("eth0").expect("tap");
        assert_eq!((&link["mtu"], &link["address"]), (&1400.into(), &"02:00:00:00:00:aa".into()));
        let data = &link["linkinfo"]["info_data"];
        assert_eq!((&data["vnet_hdr"], &data["pi"]), (&false.into(), &false.into()));
        assert!(!data["user"].is_null() && data["group"].is_null(), "{data}");
    });
}

fn on_a_bridge_inside() {
    let (host, pod) = (Ns::new(), Ns::new());
    // A bridge that had a port never returns exactly to its state before the first.
    pod.sh("ip link add br0 address 02:00:00:00:00:01 type bridge && ip link add p type veth peer name q");
    pod.sh("ip link set br0 addrgenmode none && ip link set p master br0 && ip link set p nomaster");
    let op = CreateTap { bridge: Some("br0".into()), ..tap() };
    there_and_back(&host, &pod, vec![Op::CreateTap(op.clone())], || {
        assert_eq!(pod.link("eth0").expect("tap")["master"], "br0");
    });
    let op = |bridge: &str| vec![Op::CreateTap(CreateTap { bridge: Some(bridge.into()), ..tap() })];
    assert_eq!(refused(&host, &pod, op("br1")), (0, "failed to get bridge br1: Link not found".to_owned()));
    let (_, text) = refused(&host, &pod, op("q"));
    assert!(text.starts_with("failed to set tap eth0 as a port of bridge q: operation not supported"), "{text}");
}

fn refusals() {
    let (host, pod) = (Ns::new(), Ns::new());
    // weft does not take over another kind of link, or an existing tap.
    for line in ["ip link add eth0 type bridge", "ip link del eth0 && ip tuntap add mode tap name eth0"] {
        pod.sh(line);
        let text = "failed to create tap \"eth0\": file exists".to_owned();
        assert_eq!(refused(&host, &pod, vec![Op::CreateTap(tap())]), (0, text));
    }
    pod.sh("ip link del eth0");
    let mtu = CreateTap { mtu: Some(2_000_000_000), ..tap() };
    let (_, text) = refused(&host, &pod, vec![Op::CreateTap(mtu)]);
    assert!(text.starts_with("failed to set MTU or MAC address of tap \"eth0\": invalid argument"), "{text}");
    let multicast = CreateTap { mac: Some(mac("01:00:00:00:00:01")), ..tap() };
    let (_, text) = refused(&host, &pod, vec![Op::CreateTap(multicast)]);
    assert!(text.starts_with("failed to set MTU or MAC address of tap \"eth0\""), "{text}");
}

/// Without SELinux, a context cannot be set, and is not ignored.
fn selinux() {
    let (host, pod) = (Ns::new(), Ns::new());
    let op = CreateTap { selinux_context: Some("system_u:system_r:no_such_t:s0".into()), ..tap() };
    let (_, text) = refused(&host, &pod, vec![Op::CreateTap(op)]);
    assert!(text.starts_with("failed set socket label: "), "{text}");
}

fn torn_down() {
    let (host, pod) = (Ns::new(), Ns::new());
    let whole = plan(vec![Op::CreateTap(tap()), link_up(eth0())]);
    let tear_down = || with_executor(&host, &pod, |executor| executor.teardown(&whole, &BTreeSet::new()).len());
    with_executor(&host, &pod, |executor| drop(applied(executor, &whole)));
    assert_eq!((tear_down(), tear_down()), (0, 0));
    assert!(pod.link("eth0").is_none());
    pod.sh("ip link add eth0 type bridge");
    assert_eq!(tear_down(), 0);
    assert!(pod.link("eth0").is_some(), "another kind is not ours");
}

fn checked() {
    let (host, pod) = (Ns::new(), Ns::new());
    pod.sh("ip link add br0 type bridge");
    let op = CreateTap { bridge: Some("br0".into()), mtu: Some(1400), mac: Some(mac("02:00:00:00:00:aa")), ..tap() };
    let whole = plan(vec![Op::CreateTap(op)]);
    let check = || -> Vec<String> {
        let found = with_executor(&host, &pod, |executor| executor.check(&whole).expect("check"));
        found.iter().map(ToString::to_string).collect()
    };
    with_executor(&host, &pod, |executor| drop(applied(executor, &whole)));
    assert_eq!(check(), [""; 0]);
    pod.sh("ip link set eth0 nomaster mtu 1300 address 02:00:00:00:00:bb");
    let wrong = check();
    assert_eq!(wrong.len(), 3, "{wrong:?}");
    assert!(wrong[0].contains("02:00:00:00:00:bb"), "{wrong:?}");
    assert_eq!(wrong[1], "Error: Tuning configured MTU of eth0 is 1400, current value is 1300");
    pod.sh("ip link del eth0");
    assert_eq!(check(), ["CNI created interface in container eth0 not found"]);
}

/// A program opens the device as the owner that `ip tuntap` shows, and the link has a carrier.
fn opened() {
    let (host, pod) = (Ns::new(), Ns::new());
    with_executor(&host, &pod, |executor| drop(applied(executor, &plan(vec![Op::CreateTap(tap()), link_up(eth0())]))));
    assert_ne!(pod.link("eth0").expect("tap")["operstate"], "UP");
    // TUNSETIFF with IFF_TAP | IFF_NO_PI on an existing device: the process that opens it becomes its wire.
    let script = "import fcntl,struct,sys,time\n\
                  f=open('/dev/net/tun','r+b',buffering=0)\n\
                  fcntl.ioctl(f,0x400454ca,struct.pack('16sH22x',b'eth0',0x1002))\n\
                  sys.stdout.write('open\\n');sys.stdout.flush();sys.stdin.read()";
    pod.run(|| {
        let mut command = Command::new("python3");
        command.args(["-c", script]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("python3 (tests/setup.sh installs it)");
        let mut output = [0; 5];
        child.stdout.as_mut().expect("stdout").read_exact(&mut output).expect("the device can be opened");
        eventually("a carrier", || sh("ip -j link show eth0").contains("\"operstate\":\"UP\""));
        drop(child.stdin.take());
        assert!(child.wait().expect("wait").success());
    });
    assert!(pod.link("eth0").is_some(), "it stays when the program ends");
}
