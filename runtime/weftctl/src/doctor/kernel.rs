//! Tests kernel features in a temporary network namespace, on a thread that ends with it.

use std::net::{IpAddr, Ipv4Addr};

use weft_core::netlink::{Executor, NetlinkError, in_new_netns};
use weft_core::plan::{
    CreateDummy, CreateIpvlan, CreateTap, CreateVlan, IpvlanMode, LinkRef, Mac, MacvlanMode, Op, Plan, Side,
};

use super::Finding;

/// A feature, its users, and an op that tests it.
struct Probe {
    what: &'static str,
    needed_by: &'static str,
    op: Op,
}

pub(super) fn check() -> Vec<Finding> {
    match in_new_netns(probe_all) {
        Ok(findings) => findings,
        Err(error) => {
            vec![Finding::fail("network namespaces", chain(&error), "run as root, on a kernel with CONFIG_NET_NS")]
        }
    }
}

fn probes() -> Vec<Probe> {
    let mut probes = pairs_and_bridges();
    probes.extend(children());
    probes.extend(filters());
    probes
}

fn pairs_and_bridges() -> Vec<Probe> {
    let bridge =
        |name: &str, vlan_filtering| Op::EnsureBridge { name: name.into(), mtu: None, vlan_filtering, promisc: false };
    vec![
        Probe { what: "bridge", needed_by: "delegate bridge", op: bridge("probe0", false) },
        Probe {
            what: "bridge VLAN filtering",
            needed_by: "bridge keys vlan and vlanTrunk",
            op: bridge("probe1", true),
        },
        Probe {
            what: "veth",
            needed_by: "delegates bridge and ptp",
            op: Op::CreateVeth { container: "probe2".into(), host: "probe3".into(), mtu: None, mac: None },
        },
        Probe {
            what: "dummy",
            needed_by: "delegate dummy",
            op: Op::CreateDummy(CreateDummy { name: "probe4".into() }),
        },
        Probe {
            what: "tap",
            needed_by: "delegate tap",
            op: Op::CreateTap(CreateTap { name: "probe5".into(), ..CreateTap::default() }),
        },
    ]
}

/// Tests children of the veth pair above. A parent has macvlans or ipvlans, not both.
fn children() -> Vec<Probe> {
    let parent = |name: &str| LinkRef { side: Side::Host, name: name.into() };
    vec![
        Probe {
            what: "macvlan",
            needed_by: "delegate macvlan",
            op: Op::CreateMacvlan {
                name: "probe6".into(),
                parent: parent("probe3"),
                mode: MacvlanMode::Bridge,
                mtu: None,
                mac: None,
                bc_queue_len: None,
            },
        },
        Probe {
            what: "ipvlan",
            needed_by: "delegate ipvlan",
            op: Op::CreateIpvlan(CreateIpvlan {
                name: "probe7".into(),
                parent: parent("probe2"),
                mode: IpvlanMode::L2,
                mtu: None,
            }),
        },
        Probe {
            what: "vlan",
            needed_by: "delegate vlan",
            op: Op::CreateVlan(CreateVlan { name: "probe8".into(), parent: parent("probe3"), id: 7, mtu: None }),
        },
    ]
}

fn filters() -> Vec<Probe> {
    vec![
        Probe {
            what: "nftables NAT",
            needed_by: "key ipMasq",
            op: Op::Masquerade { address: ipnet(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 2)), 24) },
        },
        Probe {
            what: "nftables bridge family",
            needed_by: "bridge key macspoofchk",
            op: Op::MacSpoofCheck { link: "probe3".into(), mac: Mac([2, 0, 0, 0, 0, 1]) },
        },
    ]
}

fn ipnet(address: IpAddr, length: u8) -> ipnet::IpNet {
    ipnet::IpNet::new(address, length).unwrap_or_else(|_too_long| address.into())
}

fn probe_all() -> Vec<Finding> {
    let own = std::path::Path::new("/proc/thread-self/ns/net");
    let mut executor = match Executor::open(Some(own)) {
        Ok(executor) => executor,
        Err(error) => return vec![Finding::fail("netlink", chain(&error), "run as root")],
    };
    let mut findings = Vec::new();
    for probe in probes() {
        // One plan per probe: what it makes is kept for later probes, and disappears with the namespace.
        findings.push(match executor.apply(&Plan { ops: vec![probe.op], ..Plan::default() }) {
            Ok(_applied) => Finding::ok(probe.what, "works"),
            Err(error) => Finding::warn(
                probe.what,
                chain(&error.cause),
                format!("needed by {}; load the module, or use a kernel that has it", probe.needed_by),
            ),
        });
    }
    findings
}

fn chain(error: &NetlinkError) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
