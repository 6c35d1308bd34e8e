//! Steps as a whole: chained and in one process they do the same; rates hold, and with source based routing answers
//! leave by the interface that was asked.

#[path = "steps/rates.rs"]
mod rates;
#[path = "steps/tuning.rs"]
mod tuning;

use std::process::ExitCode;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use weft_kit::cni::expect_ok;
use weft_kit::names::Names;
use weft_kit::suite::{Need, Suite};
use weft_kit::world::{Attach, World};
use weft_kit::{observe, sandbox};

use self::rates::rates_hold_both_ways;
use self::tuning::{attributes_come_back, only_listed_sysctls, repeated_sysctls};

fn main() -> ExitCode {
    sandbox::enter();
    let needs = [Need::Sandbox, Need::Weft, Need::Weftctl];
    let mut suite = Suite::new();
    suite.test("one_process_is_as_good_as_a_chain", &needs, one_process_is_as_good_as_a_chain);
    suite.test("check_in_one_process", &needs, check_in_one_process);
    suite.test("gc_removes_chained_steps", &needs, gc_removes_chained_steps);
    suite.test("rates_hold_both_ways", &needs, rates_hold_both_ways);
    suite.test("sbr_answers_where_it_was_asked", &needs, sbr_answers_where_it_was_asked);
    suite.test("sbr_serves_two_networks_with_one_range", &needs, two_networks_with_one_range);
    suite.test("only_listed_sysctls", &needs, only_listed_sysctls);
    suite.test("repeated_sysctls", &needs, repeated_sysctls);
    suite.test("a_device_of_the_host_gets_its_attributes_back", &needs, attributes_come_back);
    // All trials share the allow-list's file, and rates need the machine for themselves.
    suite.run_threads(Some(1))
}

fn kernel(world: &World) -> Result<Value> {
    observe::wait_until_settled(world)?;
    let mut names = Names::default();
    let state = observe::world_state(world, &mut names)?;
    Ok(names.value(&state))
}

fn ipam() -> Value {
    json!({ "type": "host-local", "ranges": [[{ "subnet": "10.63.0.0/24" }], [{ "subnet": "fd63::/64" }]],
            "routes": [{ "dst": "192.0.2.0/24" }] })
}

fn tuning() -> Value {
    json!({ "type": "tuning", "mac": "c2:11:22:33:44:55", "mtu": 1400, "allmulti": true, "txQLen": 77,
            "sysctl": { "net.core.somaxconn": "500", "net.ipv4.conf.IFNAME.arp_filter": "1" } })
}

fn bandwidth(rate: u64, burst: u64) -> Value {
    json!({ "type": "bandwidth", "ingressRate": rate, "ingressBurst": burst, "egressRate": rate, "egressBurst": burst })
}

fn sbr() -> Value {
    json!({ "type": "sbr" })
}

/// Returns a delegate and steps as one configuration.
fn conf_with_steps(delegate: Value, ipam: Value, steps: &[Value]) -> Value {
    json!({ "cniVersion": "1.0.0", "name": "steps", "type": "weft", "delegate": delegate, "ipam": ipam, "steps": steps })
}

fn chained_conf(conf: &Value, previous: &Value) -> Value {
    let mut conf = conf.clone();
    conf["cniVersion"] = json!("1.0.0");
    conf["name"] = json!("steps");
    conf["prevResult"] = previous.clone();
    conf
}

/// Runs ADD of a list. Returns the result, and the configurations as DEL and CHECK get them.
fn add_chain(world: &mut World, attach: &Attach<'_>, plugins: &[Value]) -> Result<(Value, Vec<Value>)> {
    let mut result = Value::Null;
    for plugin in plugins {
        let reply = world.call("ADD", attach, &chained_conf(plugin, &result))?;
        expect_ok(&reply, &format!("ADD of {}", plugin["type"]))?;
        result = reply.result()?;
    }
    Ok((result.clone(), plugins.iter().map(|plugin| chained_conf(plugin, &result)).collect()))
}

/// The same delegate and steps leave the same kernel state and result both ways, and DEL leaves nothing.
fn one_process_is_as_good_as_a_chain() -> Result<()> {
    let steps = [tuning(), bandwidth(8_000_000, 800_000), sbr()];
    let ptp = json!({ "type": "ptp", "ipMasq": true });
    let eth0 = Attach::eth0("pod");

    let (_installation, mut together) = World::installed()?;
    together.container("pod")?;
    let empty = kernel(&together)?;
    let conf = conf_with_steps(ptp.clone(), ipam(), &steps);
    let reply = together.call("ADD", &eth0, &conf)?;
    expect_ok(&reply, "ADD in one process")?;
    let (one_result, one_state) = (reply.result()?, kernel(&together)?);
    let again = Value::Array(vec![reply.result()?]);
    expect_ok(&together.call("CHECK", &eth0, &chained_conf(&conf, &again[0]))?, "CHECK in one process")?;
    for _ in 0..2 {
        expect_ok(&together.call("DEL", &eth0, &conf)?, "DEL in one process")?;
        expect_same(&without_forwarding(&empty), &without_forwarding(&kernel(&together)?), "after DEL in one process")?;
    }

    let (_installation, mut apart) = World::installed()?;
    let mut delegate = ptp;
    delegate["ipam"] = ipam();
    let mut plugins = vec![delegate];
    plugins.extend(steps);
    let (chain_result, confs) = add_chain(&mut apart, &eth0, &plugins)?;
    expect_same(&one_state, &kernel(&apart)?, "one process and chain")?;
    for (which, key) in [("names", "name"), ("MAC addresses", "mac")] {
        let comparable_links = |result: &Value| {
            let listed = result["interfaces"].as_array().cloned().unwrap_or_default();
            let known = |link: &&Value| key == "name" || link["name"] == "eth0";
            let random = |link: &Value| if key == "name" { link[key].as_str().map(|name| name.len()) } else { None };
            listed
                .iter()
                .filter(known)
                .map(|link| random(link).map_or(link[key].clone(), Value::from))
                .collect::<Vec<_>>()
        };
        ensure!(
            comparable_links(&one_result) == comparable_links(&chain_result),
            "{which}: {one_result} and {chain_result}"
        );
    }
    ensure!(chain_result["interfaces"].as_array().is_some_and(|links| links.len() == 3), "{chain_result}");
    for conf in &confs {
        expect_ok(&apart.call("CHECK", &eth0, conf)?, &format!("CHECK of {}", conf["type"]))?;
    }
    for _ in 0..2 {
        for conf in confs.iter().rev() {
            expect_ok(&apart.call("DEL", &eth0, conf)?, &format!("DEL of {}", conf["type"]))?;
        }
        expect_same(&without_forwarding(&empty), &without_forwarding(&kernel(&apart)?), "after DEL of the chain")?;
    }
    Ok(())
}

/// Removes what stays by design: forwarding, nftables base chains, and sysctls of the container's namespace as a whole.
fn without_forwarding(state: &Value) -> Value {
    let mut state = state.clone();
    for side in state.as_object_mut().into_iter().flat_map(serde_json::Map::values_mut) {
        for part in ["sysctls", "nft"] {
            if let Some(side) = side.as_object_mut() {
                side.remove(part);
            }
        }
    }
    state
}

fn expect_same(a: &Value, b: &Value, what: &str) -> Result<()> {
    let mut lines = Vec::new();
    differences("", a, b, &mut lines);
    ensure!(lines.is_empty(), "{what}:\n{}", lines.join("\n"));
    Ok(())
}

fn differences(at: &str, a: &Value, b: &Value, lines: &mut Vec<String>) {
    match (a, b) {
        (Value::Object(x), Value::Object(y)) => {
            for key in x.keys().chain(y.keys().filter(|key| !x.contains_key(*key))) {
                let get = |side: &serde_json::Map<String, Value>| side.get(key).cloned().unwrap_or(Value::Null);
                differences(&format!("{at}/{key}"), &get(x), &get(y), lines);
            }
        }
        _ if a != b => lines.push(format!("{at}: {a} -> {b}")),
        _ => {}
    }
}

/// CHECK of the whole configuration knows what its own steps changed, and finds what somebody else changed.
fn check_in_one_process() -> Result<()> {
    let (_installation, mut world) = World::installed()?;
    let bridge = json!({ "type": "bridge", "bridge": "st0", "isDefaultGateway": true });
    let conf = conf_with_steps(bridge, ipam(), &[tuning(), bandwidth(8_000_000, 800_000), sbr()]);
    let eth0 = Attach::eth0("pod");
    let reply = world.call("ADD", &eth0, &conf)?;
    expect_ok(&reply, "ADD")?;
    let conf = chained_conf(&conf, &reply.result()?);
    expect_ok(&world.call("CHECK", &eth0, &conf)?, "CHECK")?;
    let ifb = reply.result()?["interfaces"][3]["name"].as_str().context("four interfaces")?.to_owned();
    let breakages = [
        (
            "pod",
            "ip link set eth0 mtu 1300".to_owned(),
            "Error: Tuning configured MTU of eth0 is 1400, current value is 1300",
        ),
        ("pod", "ip link set eth0 mtu 1400".to_owned(), ""),
        ("pod", "ip rule del from 10.63.0.2".to_owned(), "no rule for source address 10.63.0.2"),
        ("pod", "ip rule add from 10.63.0.2 lookup 100".to_owned(), ""),
        (
            "host",
            format!("tc qdisc replace dev {ifb} root handle 1: tbf rate 1mbit burst 100000 latency 25ms"),
            "Rate doesn't match on bwp",
        ),
    ];
    for (place, line, wanted) in &breakages {
        world.netns(place)?.line(line)?;
        let reply = world.call("CHECK", &eth0, &conf)?;
        match (wanted.is_empty(), reply.is_ok()) {
            (true, true) => {}
            (false, false) if reply.error()?.msg.starts_with(wanted) => {}
            _ => bail!("CHECK after {line}: {}", String::from_utf8_lossy(&reply.stdout)),
        }
    }
    expect_ok(&world.call("DEL", &eth0, &conf)?, "DEL")
}

/// GC of a chained step works from the journal: its configuration has no prevResult and no rates.
fn gc_removes_chained_steps() -> Result<()> {
    let (_installation, mut world) = World::installed()?;
    let ptp = json!({ "type": "ptp", "ipam": ipam() });
    let mut kept = Vec::new();
    for pod in ["keep", "stale"] {
        let chain = [ptp.clone(), bandwidth(8_000_000, 800_000)];
        let (result, _) = add_chain(&mut world, &Attach::eth0(pod), &chain)?;
        kept.push(result["interfaces"][2]["name"].as_str().context("an ifb")?.to_owned());
    }
    let valid = json!([{ "containerID": "cid-keep", "ifname": "eth0" }]);
    let conf =
        json!({ "cniVersion": "1.1.0", "name": "steps", "type": "bandwidth", "cni.dev/valid-attachments": valid });
    expect_ok(&world.call("GC", &Attach::eth0("keep"), &conf)?, "GC")?;
    let links = world.host().line("ip -j link show")?.text();
    ensure!(links.contains(&kept[0]), "GC removed the device of a valid attachment");
    ensure!(!links.contains(&kept[1]), "GC left {}", kept[1]);
    Ok(())
}

/// The default route leads to a network where nobody answers. A client that asks through the other interface gets an
/// answer only if it leaves by that interface.
fn sbr_answers_where_it_was_asked() -> Result<()> {
    let (_installation, mut world) = World::installed()?;
    world.add_outside()?;
    world.netns("outside")?.line("ip route add 10.65.0.0/24 via 203.0.113.1")?;
    world.netns("outside")?.line("ip -6 route add fd65::/64 via 2001:db8:ff::1")?;
    let dead = json!({ "type": "static", "addresses": [{ "address": "10.64.0.5/24", "gateway": "10.64.0.1" },
                                                      { "address": "fd64::5/64", "gateway": "fd64::1" }],
                       "routes": [{ "dst": "0.0.0.0/0" }, { "dst": "::/0" }] });
    expect_ok(
        &world.call(
            "ADD",
            &Attach::eth0("pod"),
            &conf_with_steps(json!({ "type": "bridge", "bridge": "dead0" }), dead, &[]),
        )?,
        "ADD eth0",
    )?;
    let live = json!({ "type": "static", "addresses": [{ "address": "10.65.0.5/24", "gateway": "10.65.0.1" },
                                                      { "address": "fd65::5/64", "gateway": "fd65::1" }] });
    let net1 = Attach { ifname: "net1", ..Attach::eth0("pod") };
    let bridge = json!({ "type": "bridge", "bridge": "live0", "isGateway": true });
    for (steps, answers) in [(vec![], false), (vec![sbr()], true)] {
        let conf = conf_with_steps(bridge.clone(), live.clone(), &steps);
        expect_ok(&world.call("ADD", &net1, &conf)?, "ADD net1")?;
        for address in ["10.65.0.5", "fd65::5"] {
            ensure!(
                world.reaches("outside", address)? == answers,
                "{address} with steps {steps:?}: answers is not {answers}"
            );
        }
        expect_ok(&world.call("DEL", &net1, &conf)?, "DEL net1")?;
        let rules = world.netns("pod")?.line("ip rule")?.text() + &world.netns("pod")?.line("ip -6 rule")?.text();
        ensure!(!rules.contains("10.65") && !rules.contains("fd65"), "rules left: {rules}");
    }
    Ok(())
}

/// Two interfaces whose networks have the same range: each source address leaves by its own.
fn two_networks_with_one_range() -> Result<()> {
    let (_installation, mut world) = World::installed()?;
    for (ifname, bridge, address) in [("net1", "ov1", "10.66.0.5"), ("net2", "ov2", "10.66.0.6")] {
        let ipam =
            json!({ "type": "static", "addresses": [{ "address": format!("{address}/24"), "gateway": "10.66.0.1" }] });
        let conf = conf_with_steps(json!({ "type": "bridge", "bridge": bridge }), ipam, &[sbr()]);
        let attach = Attach { ifname, ..Attach::eth0("pod") };
        expect_ok(&world.call("ADD", &attach, &conf)?, ifname)?;
    }
    let pod = world.netns("pod")?;
    for (ifname, address, table) in [("net1", "10.66.0.5", 100), ("net2", "10.66.0.6", 101)] {
        let route: Value =
            serde_json::from_str(&pod.line(&format!("ip -j route get 10.66.0.9 from {address}"))?.text())?;
        ensure!(route[0]["dev"] == ifname, "from {address}: {route}");
        let far: Value = serde_json::from_str(&pod.line(&format!("ip -j route get 192.0.2.9 from {address}"))?.text())?;
        ensure!(far[0]["dev"] == ifname && far[0]["gateway"] == "10.66.0.1", "from {address}: {far}");
        let rules = pod.line("ip rule")?.text();
        ensure!(rules.contains(&format!("from {address} lookup {table}")), "{rules}");
    }
    Ok(())
}
