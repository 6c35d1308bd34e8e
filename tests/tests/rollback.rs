//! For every delegate and every op index: an ADD that fails there leaves host, container and ledger exactly as before,
//! and the next ADD works. A new delegate needs only a configuration below.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use weft_kit::names::Names;
use weft_kit::observe;
use weft_kit::process::{self, Place};
use weft_kit::programs::{self, Installation};
use weft_kit::sandbox;
use weft_kit::suite::{Need, Suite};
use weft_kit::world::{Attach, Subject, World};

/// More ops than any plan has.
const MOST_OPS: usize = 64;

/// Kinds of links that only the virtual machine's kernel supports (`tests/vm`, which rolls their cases back as well).
const VM_KINDS: [&str; 3] = ["ipvlan", "vlan", "dummy"];

/// The MAC address that identifies a device.
const DEVICE_MAC: &str = "02:00:00:00:0d:00";

/// A delegate's configuration, and what the host needs beforehand.
struct Case {
    name: &'static str,
    host: &'static [&'static str],
    conf: Value,
}

fn dual_stack() -> Value {
    json!({ "type": "host-local", "ranges": [[{ "subnet": "10.61.0.0/24" }], [{ "subnet": "fd61::/64" }]],
            "routes": [{ "dst": "192.0.2.0/24" }] })
}

/// A parent link, up on both ends.
const PARENT: &[&str] = &["ip link add up0 type veth peer name up1", "ip link set up0 up", "ip link set up1 up"];

/// A device with all settings that moving it loses. Its peer must not notice that it comes up elsewhere.
const DEVICE: &[&str] = &[
    "ip link add dev0 address 02:00:00:00:0d:00 mtu 1400 type veth peer name dev1",
    "ip link set dev1 addrgenmode none",
    "ip link set dev1 up",
    "ip link set dev0 alias before",
    "ip link set dev0 up",
    "ip address add 192.0.2.1/24 dev dev0",
    "ip address add 2001:db8::1/64 dev dev0 nodad",
    "ip route add 198.51.100.0/24 via 192.0.2.9",
];

fn conf(kind: &str, more: Value) -> Value {
    let mut conf = json!({ "cniVersion": "1.0.0", "name": "roll", "type": kind });
    if let (Some(conf), Value::Object(more)) = (conf.as_object_mut(), more) {
        conf.extend(more);
    }
    conf
}

fn cases() -> Vec<Case> {
    let everything = json!({ "bridge": "roll0", "isDefaultGateway": true, "ipMasq": true, "hairpinMode": true,
                             "macspoofchk": true, "mtu": 1400, "ipam": dual_stack() });
    vec![
        Case { name: "bridge", host: &[], conf: conf("bridge", everything.clone()) },
        Case {
            name: "bridge_exists",
            host: &[
                "ip link add roll0 type bridge",
                "ip address add fd62::1/64 dev roll0 nodad",
                "ip link set roll0 up",
            ],
            conf: conf("bridge", everything.clone()),
        },
        Case {
            name: "bridge_replaces_address",
            host: &["ip link add roll0 type bridge", "ip address add 10.99.0.1/24 dev roll0", "ip link set roll0 up"],
            conf: conf(
                "bridge",
                json!({ "bridge": "roll0", "isGateway": true, "forceAddress": true, "promiscMode": true,
                        "ipam": { "type": "host-local", "ranges": [[{ "subnet": "10.61.0.0/24" }]] } }),
            ),
        },
        Case {
            name: "bridge_asks_for_duplicates",
            host: &[],
            conf: conf(
                "weft",
                json!({ "delegate": { "type": "bridge", "bridge": "roll0", "isGateway": true }, "ipam": dual_stack(),
                        "duplicates": { "detect": true, "waitMs": 30 } }),
            ),
        },
        Case { name: "bridge_layer2", host: &[], conf: conf("bridge", json!({ "bridge": "roll0" })) },
        Case { name: "ptp", host: &[], conf: conf("ptp", json!({ "ipMasq": true, "ipam": dual_stack() })) },
        Case { name: "macvlan", host: PARENT, conf: conf("macvlan", json!({ "master": "up0", "ipam": dual_stack() })) },
        Case { name: "macvlan_layer2", host: PARENT, conf: conf("macvlan", json!({ "master": "up0" })) },
        Case { name: "loopback", host: &[], conf: conf("loopback", json!({})) },
        Case { name: "steps_after_ptp", host: &[], conf: conf("weft", after_ptp()) },
        Case {
            name: "default_route_dropped",
            host: &[],
            conf: conf(
                "weft",
                json!({ "delegate": { "type": "bridge", "bridge": "roll0", "isDefaultGateway": true }, "ipam": dual_stack(),
                        "steps": [{ "type": "default-route", "drop": ["4", "6"] }] }),
            ),
        },
    ]
}

/// The chain that keeps containers away from 127.0.0.1. No undo removes it, because others may rely on it by then.
const LOCALNET: &[&str] = &[
    "nft add table inet weft",
    "nft add chain inet weft localnet { type filter hook prerouting priority raw ; policy accept ; }",
    "nft add rule inet weft localnet iifname != lo ip saddr 127.0.0.0/8 drop",
    "nft add rule inet weft localnet iifname != lo ip daddr 127.0.0.0/8 drop",
];

/// Returns the steps that filter.
fn filters() -> Vec<Case> {
    vec![Case {
        name: "host_ports_and_firewall",
        host: LOCALNET,
        conf: conf(
            "weft",
            json!({ "delegate": { "type": "bridge", "bridge": "roll0", "isDefaultGateway": true, "ipMasq": true },
                        "ipam": dual_stack(),
                        "steps": [{ "type": "portmap", "conditionsV6": ["ip6 saddr != 2001:db8::/32"] },
                                  { "type": "firewall", "backend": "iptables", "ingressPolicy": "isolated" }],
                        "runtimeConfig": { "portMappings": [
                            { "hostPort": 8080, "containerPort": 80, "protocol": "tcp" },
                            { "hostPort": 53, "containerPort": 53, "protocol": "udp", "hostIP": "127.0.0.1" }] } }),
        ),
    }]
}

/// Returns the delegates whose link is not a pair or on a bridge.
fn children_and_devices() -> Vec<Case> {
    vec![
        Case {
            name: "host_device",
            host: DEVICE,
            conf: conf("host-device", json!({ "device": "dev0", "ipam": dual_stack() })),
        },
        Case { name: "host_device_layer2", host: DEVICE, conf: conf("host-device", json!({ "hwaddr": DEVICE_MAC })) },
        Case {
            name: "tap",
            host: &[],
            conf: conf("tap", json!({ "multiQueue": true, "owner": 0, "group": 0, "mtu": 1400, "ipam": dual_stack() })),
        },
        Case { name: "tap_layer2", host: &[], conf: conf("tap", json!({ "mac": "02:00:00:00:00:01" })) },
        // Few kernels have these kinds built in; the virtual machine runs them too.
        Case { name: "ipvlan", host: PARENT, conf: conf("ipvlan", json!({ "master": "up0", "ipam": dual_stack() })) },
        Case {
            name: "vlan",
            host: PARENT,
            conf: conf("vlan", json!({ "master": "up0", "vlanId": 7, "ipam": dual_stack() })),
        },
        Case { name: "dummy", host: &[], conf: conf("dummy", json!({ "ipam": dual_stack() })) },
    ]
}

/// Returns every step, in one process with its delegate.
fn after_ptp() -> Value {
    json!({ "delegate": { "type": "ptp" }, "ipam": dual_stack(), "steps": steps() })
}

fn steps() -> Value {
    json!([
        { "type": "tuning", "mac": "c2:11:22:33:44:55", "promisc": true, "mtu": 1400, "allmulti": true, "txQLen": 7,
          "sysctl": { "net.core.somaxconn": "500", "net.ipv4.conf.IFNAME.arp_filter": "1" } },
        { "type": "bandwidth", "ingressRate": 8_000_000, "ingressBurst": 800_000, "egressRate": 8_000_000,
          "egressBurst": 800_000 },
        { "type": "sbr", "addSourceHints": true },
    ])
}

/// What another program made before chained steps: a pair with addresses and routes of its own.
const PAIR: &[&str] = &["ip address add 10.61.0.1/24 dev veth1", "ip link set veth1 up"];
const POD: &[&str] = &[
    "ip link set eth0 up",
    "ip address add 10.61.0.2/24 dev eth0",
    "ip address add fd61::2/64 dev eth0 nodad",
    "ip route add default via 10.61.0.1",
    "ip route add 192.0.2.0/24 via 10.61.0.1",
    "ip link add other type veth peer name far",
    "ip link set other up",
    "ip link set far up",
    "ip address add 10.61.0.9/24 dev other",
];

/// Runs steps on an existing link. The link stays, so everything on it has to be restored.
fn chained() -> Result<()> {
    let installation = Installation::new()?;
    failing(&installation)?;
    let mut world = World::new(&Subject::weft(&installation))?;
    let pod = world.container("pod")?.name().to_owned();
    world.host().line(&format!("ip link add veth1 type veth peer name eth0 netns {pod}"))?;
    for line in PAIR {
        world.host().line(line)?;
    }
    for line in POD {
        world.netns("pod")?.line(line)?;
    }
    let sandbox = world.netns("pod")?.path().display().to_string();
    let previous = json!({
        "cniVersion": "1.0.0",
        "interfaces": [{ "name": "veth1" }, { "name": "eth0", "sandbox": sandbox }],
        "ips": [{ "address": "10.61.0.2/24", "gateway": "10.61.0.1", "interface": 1 },
                { "address": "fd61::2/64", "interface": 1 }],
    });
    let conf =
        json!({ "cniVersion": "1.0.0", "name": "roll", "type": "weft", "steps": steps(), "prevResult": previous });
    every_index_in(&mut world, "chained steps", &conf)
}

fn main() -> ExitCode {
    sandbox::enter();
    let mut suite = Suite::new();
    for case in cases().into_iter().chain(filters()).chain(children_and_devices()) {
        let mut needs = vec![Need::Sandbox, Need::Weft, Need::Weftctl, Need::WeftFailing, Need::Tool("sqlite3")];
        let kind = case.conf["type"].as_str().unwrap_or_default();
        needs.extend(VM_KINDS.iter().find(|known| **known == kind).map(|kind| Need::LinkKindOrVm(kind)));
        suite.test(case.name, &needs, move || every_index(&case));
    }
    let needs = [Need::Sandbox, Need::Weft, Need::Weftctl, Need::WeftFailing, Need::Tool("sqlite3")];
    suite.test("chained_steps", &needs, chained);
    suite.run()
}

/// Installs `weft-failing` under all of weft's names, with weft's policies.
fn failing(installation: &Installation) -> Result<()> {
    let bin = installation.bin();
    fs::remove_file(bin.join("weft")).context("remove weft")?;
    let failing = programs::weft_failing().map_err(anyhow::Error::msg)?;
    symlink(failing, bin.join("weft")).context("link weft-failing")
}

fn every_index(case: &Case) -> Result<()> {
    let installation = Installation::new()?;
    failing(&installation)?;
    let mut world = World::new(&Subject::weft(&installation))?;
    for line in case.host {
        world.host().line(line)?;
    }
    world.container("pod")?;
    every_index_in(&mut world, case.name, &case.conf)
}

fn every_index_in(world: &mut World, name: &str, conf: &Value) -> Result<()> {
    for at in 0..MOST_OPS {
        let before = snapshot(world)?;
        let reply = add(world, conf, at)?;
        if reply.is_ok() {
            ensure!(at > 0, "the plan of {name} is empty");
            return delete(world, conf);
        }
        let error = reply.error()?;
        ensure!(
            error.msg.contains("no-such-link"),
            "op {at}: failed for another reason: {} {}",
            error.msg,
            error.details
        );
        let after = snapshot(world)?;
        if before != after {
            let mut lines = Vec::new();
            differences("", &before, &after, &mut lines);
            bail!("op {at}: not as before ({}: {})\n{}", error.code, error.details, lines.join("\n"));
        }
    }
    bail!("no ADD of {name} succeeded")
}

/// Adds one line for each value that differs.
fn differences(at: &str, before: &Value, after: &Value, lines: &mut Vec<String>) {
    match (before, after) {
        (Value::Object(before), Value::Object(after)) => {
            for key in before.keys().chain(after.keys().filter(|key| !before.contains_key(*key))) {
                let get = |side: &serde_json::Map<String, Value>| side.get(key).cloned().unwrap_or(Value::Null);
                differences(&format!("{at}/{key}"), &get(before), &get(after), lines);
            }
        }
        _ if before != after => lines.push(format!("{at}: {before} -> {after}")),
        _ => {}
    }
}

fn add(world: &mut World, conf: &Value, at: usize) -> Result<weft_kit::cni::Reply> {
    let mut call = world.prepare("ADD", &Attach::eth0("pod"), conf)?;
    call.env.push(("WEFT_FAIL_AT".into(), at.to_string().into()));
    let kind = conf["type"].as_str().context("type")?;
    world.run(&call, kind)
}

/// Runs DEL, which removes what was done.
fn delete(world: &mut World, conf: &Value) -> Result<()> {
    ensure!(journal(&world.state())?.contains("cid-pod"), "a successful ADD is not in the journal");
    let reply = world.call("DEL", &Attach::eth0("pod"), conf)?;
    ensure!(reply.is_ok(), "DEL: {}", String::from_utf8_lossy(&reply.stdout));
    let left = journal(&world.state())?;
    ensure!(!left.contains("cid-pod"), "left in the ledger: {left}");
    Ok(())
}

/// Returns links, addresses, routes, rules, rulesets and sysctls of host and container, and the ledger, as tools other
/// than weft's read them.
fn snapshot(world: &World) -> Result<Value> {
    observe::wait_until_settled(world)?;
    let mut names = Names::default();
    let state = observe::world_state(world, &mut names)?;
    let rules = world.host().line("nft -j list ruleset")?.text();
    let rules: Value = serde_json::from_str(&rules).context("nft -j")?;
    // The version of nft is not part of the state.
    let rules = rules
        .pointer("/nftables")
        .and_then(Value::as_array)
        .map(|list| list.iter().skip(1).cloned().collect::<Vec<_>>());
    let mut state = names.value(&state);
    forget_kernel_marks(&mut state);
    Ok(json!({ "kernel": state, "nft": rules, "ledger": journal(&world.state())? }))
}

/// Removes what the kernel itself does not restore: a bridge keeps the segmentation limits of its first port, and a
/// link that was up once keeps its queueing discipline.
fn forget_kernel_marks(state: &mut Value) {
    match state {
        Value::Object(object) => {
            for mark in ["tso_max_size", "tso_max_segs", "qdisc"] {
                object.remove(mark);
            }
            object.values_mut().for_each(forget_kernel_marks);
        }
        Value::Array(list) => list.iter_mut().for_each(forget_kernel_marks),
        _ => {}
    }
}

fn journal(state: &Path) -> Result<String> {
    let store = state.join("weft.db");
    if !store.exists() {
        return Ok(String::new());
    }
    let sql = "SELECT * FROM journal; SELECT * FROM claims; SELECT * FROM runs; SELECT * FROM shared;";
    let argv = ["sqlite3".to_owned(), "-readonly".to_owned(), store.display().to_string(), sql.to_owned()];
    Ok(process::run(&Place::default(), &argv)?.text())
}
