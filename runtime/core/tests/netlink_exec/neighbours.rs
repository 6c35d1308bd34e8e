//! What the host remembers about an address or a MAC from its previous holder.

use weft_core::plan::{ForgetNeighbours, LinkRef, Op};

use crate::plans::*;
use crate::support::*;

pub(crate) fn tests() -> Vec<crate::Test> {
    vec![
        ("neighbours::learned_ones_are_forgotten", None, learned_ones_are_forgotten),
        ("neighbours::made_ones_stay", None, made_ones_stay),
        ("neighbours::a_mac_moves_to_the_new_port", None, a_mac_moves_to_the_new_port),
    ]
}

const OWN: &str = "02:00:00:00:00:07";

fn attach(host: &Ns, pod: &Ns) {
    let forget = ForgetNeighbours {
        link: "weft0".into(),
        addresses: vec!["10.88.0.7".parse().expect("address"), "fd88::7".parse().expect("address")],
        mac: Some(("weft0".into(), mac(OWN))),
    };
    let ops = vec![
        bridge("weft0"),
        Op::CreateVeth { container: "eth0".into(), host: HOST_VETH.into(), mtu: None, mac: Some(mac(OWN)) },
        port(HOST_VETH, "weft0"),
        link_up(LinkRef::container("eth0")),
        Op::ForgetNeighbours(forget),
    ];
    apply(host, pod, ops);
}

/// Returns a host with a bridge that has a port, and with neighbours in its tables. The bridge's MAC is fixed: at each
/// change of it, the kernel would delete all neighbours.
fn host(state: &str, fdb: &str) -> Ns {
    let host = Ns::new();
    host.sh("ip link add weft0 address 02:00:00:00:00:50 type bridge && ip link set weft0 up");
    host.sh("ip link add old0 type veth peer name old1 && ip link set old0 master weft0 up && ip link set old1 up");
    for address in ["10.88.0.7", "10.88.0.8", "fd88::7", "fd88::8"] {
        host.sh(&format!("ip neighbour add {address} lladdr 02:00:00:00:00:99 dev weft0 nud {state}"));
    }
    // A port learns nothing before it forwards, and a busy kernel needs time.
    host.sh("for _ in $(seq 600); do bridge link show dev old0 | grep -q forwarding && exit; sleep 0.1; done; exit 1");
    host.sh(&format!("bridge fdb add {OWN} dev old0 master {fdb}"));
    host
}

fn neighbours(host: &Ns) -> Vec<String> {
    let listed = host.json("ip -j neighbour show dev weft0");
    let mut found: Vec<String> =
        listed.as_array().expect("list").iter().filter_map(|one| one["dst"].as_str().map(ToOwned::to_owned)).collect();
    found.sort();
    found
}

fn ports_of(host: &Ns, mac: &str) -> Vec<String> {
    let listed = host.json("bridge -j fdb show br weft0");
    let of = listed.as_array().expect("list").iter().filter(|one| one["mac"] == mac && one["master"] == "weft0");
    of.filter_map(|one| one["ifname"].as_str().map(ToOwned::to_owned)).collect()
}

fn learned_ones_are_forgotten() {
    let (host, pod) = (host("reachable", "dynamic"), Ns::new());
    assert_eq!(neighbours(&host).len(), 4);
    attach(&host, &pod);
    assert_eq!(neighbours(&host), ["10.88.0.8", "fd88::8"], "only those of the attachment");
}

fn made_ones_stay() {
    let (host, pod) = (host("permanent", "static"), Ns::new());
    attach(&host, &pod);
    assert_eq!(neighbours(&host).len(), 4);
}

fn a_mac_moves_to_the_new_port() {
    let (host, pod) = (host("stale", "dynamic"), Ns::new());
    assert_eq!(ports_of(&host, OWN), ["old0"]);
    attach(&host, &pod);
    assert!(!ports_of(&host, OWN).contains(&"old0".to_owned()), "{:?}", ports_of(&host, OWN));
}
