//! Mistakes in a configuration, and host conditions that make an ADD fail: ADD, STATUS and `weftctl policy check`
//! report them alike, all at once, with a suggestion.

use std::fs;
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use weft_kit::cni::{CniError, Reply, expect_ok};
use weft_kit::process;
use weft_kit::sandbox;
use weft_kit::suite::{Need, Suite};
use weft_kit::world::{Attach, World};

fn main() -> ExitCode {
    sandbox::enter();
    let needs = [Need::Sandbox, Need::Weft, Need::Weftctl];
    let mut suite = Suite::new();
    suite.test("unknown_keys_are_told_by_add_status_and_check", &needs, unknown_keys);
    suite.test("a_stock_configuration_keeps_foreign_keys", &needs, foreign_keys);
    suite.test("all_mistakes_are_told_at_once", &needs, all_at_once);
    suite.test("the_schema_is_checked", &needs, schema);
    suite.test("of_the_monitored_policy_too", &needs, monitored);
    suite.test("plugins_that_nobody_has_are_reported", &needs, missing_plugins);
    suite.test("status_tells_what_add_would_fail_with", &needs, status);
    suite.test("a_device_that_is_away_is_not_missing", &needs, device_away);
    suite.test("two_ranges_have_their_gateways_on_one_bridge", &needs, two_gateways);
    suite.test("networks_that_give_out_the_same_addresses_are_told", &needs, clashes);
    suite.run()
}

fn weft(ipam: Value) -> Value {
    json!({ "cniVersion": "1.1.0", "name": "mis", "type": "weft", "delegate": { "type": "bridge", "bridge": "mis0" }, "ipam": ipam })
}

fn stock_conf(ipam: Value) -> Value {
    json!({ "cniVersion": "1.1.0", "name": "mis", "type": "bridge", "bridge": "mis0", "ipam": ipam })
}

fn on_status(world: &mut World, conf: &Value) -> Result<Reply> {
    let mut call = world.prepare("STATUS", &Attach::eth0("pod"), conf)?;
    (call.container_id, call.netns, call.ifname) = (None, None, None);
    world.run(&call, conf["type"].as_str().context("a type")?)
}

/// Returns the output of `weftctl policy check`, one line per problem.
fn checked(world: &World, conf: &Value, more: &[&str]) -> Result<Vec<String>> {
    let path = world.scratch().join("conf.json");
    fs::write(&path, conf.to_string()).context("write the configuration")?;
    let mut command = std::process::Command::new("/usr/local/bin/weftctl");
    command.args(["--json", "--state-dir"]).arg(world.state()).args(["policy", "check"]).arg(&path).args(more);
    let output = process::output(&world.place()?, command, b"", std::time::Duration::from_secs(60))?;
    let document: Value = serde_json::from_slice(&output.stdout).with_context(|| output.text())?;
    let problems = document["problems"].as_array().with_context(|| document.to_string())?;
    ensure!(problems.is_empty() == (output.status == Some(0)), "exit code {:?} with {document}", output.status);
    let text = |problem: &Value| {
        let (at, message) = (problem["at"].as_str()?, problem["message"].as_str()?);
        Some(if at.is_empty() { message.to_owned() } else { format!("{at} {message}") })
    };
    Ok(problems.iter().filter_map(text).collect())
}

fn full_text(error: &CniError) -> String {
    format!("{}; {}", error.msg, error.details)
}

fn unknown_keys() -> Result<()> {
    let (_installation, mut world) = World::installed()?;
    let pod = Attach::eth0("pod");
    for (key, ipam) in [
        (
            "rangeStrt",
            json!({ "type": "host-local", "ranges": [[{ "subnet": "10.65.0.0/24", "rangeStrt": "10.65.0.9" }]] }),
        ),
        ("gatway", json!({ "type": "host-local", "ranges": [[{ "subnet": "10.65.0.0/24", "gatway": "10.65.0.9" }]] })),
        ("relase", json!({ "type": "host-local", "subnet": "10.65.0.0/24", "relase": "keep" })),
        (
            "defult",
            json!({ "type": "by-label", "ranges": [{ "name": "a", "ranges": [{ "subnet": "10.65.0.0/24" }] }],
                    "default": "a", "defult": "a" }),
        ),
        ("route", json!({ "type": "host-local", "subnet": "10.65.0.0/24", "route": [] })),
        ("resolveConf", json!({ "type": "host-local", "subnet": "10.65.0.0/24", "resolveConf": "/etc/resolv.conf" })),
        (
            "address",
            json!({ "type": "static", "addresses": [{ "address": "10.65.0.7/24", "gatewey": "10.65.0.1" }], "address": [] }),
        ),
    ] {
        let text = format!("unknown key {key:?}");
        for conf in [weft(ipam.clone()), stock_conf(ipam)] {
            let added = world.call("ADD", &pod, &conf)?.error()?;
            ensure!(added.code == 7 && full_text(&added).contains(&text), "ADD: {} {}", added.code, full_text(&added));
            ensure!(full_text(&added).contains("did you mean"), "{}", full_text(&added));
            let status = on_status(&mut world, &conf)?.error()?;
            ensure!(
                status.code == 7 && full_text(&status).contains(&text),
                "STATUS: {} {}",
                status.code,
                full_text(&status)
            );
            let reported = checked(&world, &conf, &[])?;
            ensure!(reported.iter().any(|line| line.contains(&text)), "check: {reported:?}");
            expect_ok(&world.call("DEL", &pod, &conf)?, "DEL")?;
        }
    }
    // Under weft's own type an unknown key is refused, however unlike any known key it is.
    let foreign = weft(json!({ "type": "host-local", "subnet": "10.65.0.0/24", "exclude": [] }));
    let error = world.call("ADD", &pod, &foreign)?.error()?;
    ensure!(
        error.code == 7 && error.msg.starts_with("unknown key \"exclude\" in \"ipam\": known are"),
        "{}",
        error.msg
    );
    let misplaced = weft(json!({ "type": "host-local", "subnet": "10.65.0.0/24", "grants": { "wasi": true } }));
    let error = world.call("ADD", &pod, &misplaced)?.error()?;
    ensure!(
        error.msg == "unknown key \"grants\" in \"ipam\": move it out of \"ipam\", to the same level",
        "{}",
        error.msg
    );
    Ok(())
}

/// Other programs have keys of their own in a stock plugin's configuration.
fn foreign_keys() -> Result<()> {
    let (_installation, mut world) = World::installed()?;
    let mut conf = stock_conf(
        json!({ "type": "host-local", "subnet": "10.65.0.0/24", "exclude": ["10.65.0.9"], "vendor.io/pool": 3 }),
    );
    conf["isGatway"] = json!(true);
    conf["vendor"] = json!({});
    ensure!(checked(&world, &conf, &[])?.is_empty(), "check finds something");
    on_status(&mut world, &conf)?.expect_quiet()?;
    expect_ok(&world.call("ADD", &Attach::eth0("pod"), &conf)?, "ADD")?;
    expect_ok(&world.call("DEL", &Attach::eth0("pod"), &conf)?, "DEL")
}

fn all_at_once() -> Result<()> {
    let (_installation, mut world) = World::installed()?;
    let mut conf = weft(
        json!({ "type": "host-local", "ranges": [[{ "subnet": "10.65.0.0/24", "rangeStrt": "10.65.0.9" }]], "relase": "keep" }),
    );
    conf["delegat"] = json!({});
    conf["delegate"]["isGatway"] = json!(true);
    conf["limits"] = json!({ "feul": 1 });
    let reported = checked(&world, &conf, &[])?;
    for key in ["delegat", "isGatway", "feul", "rangeStrt", "relase"] {
        let text = format!("unknown key {key:?}");
        ensure!(
            reported.iter().filter(|line| line.contains(&text) && line.contains("did you mean")).count() == 1,
            "{key}: {reported:?}"
        );
    }
    let error = world.call("ADD", &Attach::eth0("pod"), &conf)?.error()?;
    for key in ["delegat", "isGatway", "feul"] {
        ensure!(full_text(&error).contains(&format!("unknown key {key:?}")), "{}", full_text(&error));
    }
    ensure!(error.code == 7 && error.msg.contains("2 more"), "{} {}", error.code, error.msg);
    Ok(())
}

fn schema() -> Result<()> {
    let (_installation, mut world) = World::installed()?;
    let wrong = weft(
        json!({ "type": "host-local", "subnet": "10.65.0.0/24", "routes": [{ "dst": 5, "mtu": "big" }], "dataDir": "/x" }),
    );
    let reported = checked(&world, &wrong, &[])?;
    ensure!(reported.iter().any(|line| line.contains("/routes/0/dst")), "{reported:?}");
    ensure!(reported.iter().any(|line| line.contains("/routes/0/mtu")), "{reported:?}");
    let error = on_status(&mut world, &wrong)?.error()?;
    ensure!(error.code == 7 && full_text(&error).contains("/routes/0/mtu"), "{} {}", error.code, full_text(&error));
    Ok(())
}

/// The monitored policy's own configuration is held against its own schema, wherever it stands.
fn monitored() -> Result<()> {
    let (_installation, mut world) = World::installed()?;
    let network = |monitor: Value| {
        let mut conf = weft(json!({ "type": "host-local", "subnet": "10.65.0.0/24" }));
        conf["monitor"] = monitor;
        conf
    };
    let own = json!({ "ranges": [{ "name": "x", "ranges": [{ "subnet": "10.65.0.0/24" }] }], "default": ["x"] });
    let shared = network(json!({ "policy": "by-label" }));
    ensure!(checked(&world, &shared, &[])?.is_empty(), "it has the network's `ipam`, and may say no to it");
    for promoted in [false, true] {
        let sound = network(json!({ "policy": "by-label", "ipam": own, "promoted": promoted }));
        ensure!(checked(&world, &sound, &[])?.is_empty(), "{:?}", checked(&world, &sound, &[])?);
        let mut wrong = own.clone();
        wrong["rules"] = json!(5);
        wrong["defult"] = json!(["x"]);
        let wrong = network(json!({ "policy": "by-label", "ipam": wrong, "promoted": promoted }));
        let reported = checked(&world, &wrong, &[])?.join("\n");
        for part in ["unknown key \"defult\" in \"monitor.ipam\"", "/monitor/ipam/rules"] {
            ensure!(reported.contains(part), "{part}: {reported}");
        }
        let status = on_status(&mut world, &wrong)?;
        ensure!(status.is_ok() != promoted, "what is only watched keeps no pod away");
    }
    Ok(())
}

fn missing_plugins() -> Result<()> {
    let (_installation, world) = World::installed()?;
    let mut conf = weft(json!({ "type": "hostlocal", "subnet": "10.65.0.0/24" }));
    conf["delegate"] = json!({ "type": "bridg" });
    let reported = checked(&world, &conf, &[])?;
    for (written, meant) in [("bridg", "bridge"), ("hostlocal", "host-local")] {
        let text = format!("did you mean {meant:?}");
        ensure!(reported.iter().any(|line| line.contains(written) && line.contains(&text)), "{written}: {reported:?}");
    }
    ensure!(checked(&world, &conf, &["--conf-only"])?.is_empty(), "with --conf-only nothing is looked for");
    let reported = checked(&world, &json!({ "cniVersion": "1.0.0", "name": "mis", "type": "brigde" }), &[])?;
    ensure!(reported == ["there is no plugin \"brigde\": did you mean \"bridge\"?"], "{reported:?}");
    Ok(())
}

/// STATUS and `policy check` report what ADD then fails with, in the same words.
fn status() -> Result<()> {
    let (_installation, mut world) = World::installed()?;
    world.host().line("ip link add taken type bridge")?;
    world.host().line("ip address add 10.77.0.1/24 dev taken")?;
    world.host().line("ip link add notbr type veth peer name notbr1")?;
    let pool = || json!({ "type": "host-local", "subnet": "10.78.0.0/24" });
    let bridge = |name: &str| json!({ "cniVersion": "1.1.0", "name": "mis", "type": "bridge", "bridge": name, "isGateway": true, "ipam": pool() });
    let unreachable = json!({ "cniVersion": "1.1.0", "name": "mis", "type": "bridge", "bridge": "far0", "isDefaultGateway": true,
                              "ipam": { "type": "host-local", "subnet": "10.78.0.0/24", "gateway": "10.99.0.1" } });
    for conf in [
        bridge("taken"),
        bridge("notbr"),
        unreachable,
        json!({ "cniVersion": "1.1.0", "name": "mis", "type": "host-device", "device": "none0" }),
        json!({ "cniVersion": "1.1.0", "name": "mis", "type": "macvlan", "master": "none0", "ipam": pool() }),
    ] {
        let status = on_status(&mut world, &conf)?.error().with_context(|| conf.to_string())?;
        ensure!(status.code == 50, "{conf}: {} {}", status.code, status.msg);
        ensure!(!checked(&world, &conf, &[])?.is_empty(), "check passes {conf}");
        world.call("ADD", &Attach::eth0("pod"), &conf)?.error().with_context(|| format!("ADD of {conf}"))?;
        expect_ok(&world.call("DEL", &Attach::eth0("pod"), &conf)?, "DEL")?;
    }
    fs::write(world.state().join("node.json"), "{bad").context("write node.json")?;
    let conf = bridge("fine0");
    ensure!(on_status(&mut world, &conf)?.error()?.code == 5, "STATUS with a broken node.json");
    ensure!(!checked(&world, &conf, &[])?.is_empty(), "check with a broken node.json");
    Ok(())
}

fn device_away() -> Result<()> {
    let (_installation, mut world) = World::installed()?;
    world.host().line("ip link add dev0 type veth peer name dev1")?;
    let conf = json!({ "cniVersion": "1.1.0", "name": "mis", "type": "host-device", "device": "dev0" });
    on_status(&mut world, &conf)?.expect_quiet()?;
    expect_ok(&world.call("ADD", &Attach::eth0("pod"), &conf)?, "ADD")?;
    on_status(&mut world, &conf)?.expect_quiet()?;
    expect_ok(&world.call("DEL", &Attach::eth0("pod"), &conf)?, "DEL")
}

fn two_gateways() -> Result<()> {
    let (_installation, mut world) = World::installed()?;
    let conf = |tier: &str| {
        json!({ "cniVersion": "1.1.0", "name": "mis", "type": "weft",
                "delegate": { "type": "bridge", "bridge": "mis0", "isDefaultGateway": true },
                "ipam": { "type": "by-label", "default": "bronze", "rules": [{ "matchLabels": { "tier": "gold" }, "set": "gold" }],
                          "ranges": [{ "name": "gold", "ranges": [{ "subnet": "10.79.1.0/24" }] },
                                     { "name": "bronze", "ranges": [{ "subnet": "10.79.2.0/24" }] }] },
                "args": { "cni": { "labels": { "tier": tier } } } })
    };
    ensure!(checked(&world, &conf("gold"), &[])?.is_empty(), "check finds something");
    for (pod, tier, gateway) in
        [("one", "gold", "10.79.1.1"), ("two", "none", "10.79.2.1"), ("three", "gold", "10.79.1.1")]
    {
        expect_ok(&world.call("ADD", &Attach::eth0(pod), &conf(tier))?, pod)?;
        ensure!(world.reaches(pod, gateway)?, "{pod} does not reach {gateway}");
    }
    // A network that declares neither is still refused.
    let mut other = conf("gold");
    other["name"] = json!("other");
    other["ipam"] = json!({ "type": "host-local", "subnet": "10.79.3.0/24" });
    ensure!(world.call("ADD", &Attach::eth0("four"), &other)?.error()?.code == 103, "a third subnet");
    for (pod, tier) in [("one", "gold"), ("two", "none"), ("three", "gold")] {
        world.call("CHECK", &Attach::eth0(pod), &conf(tier)).map(drop)?;
        expect_ok(&world.call("DEL", &Attach::eth0(pod), &conf(tier))?, pod)?;
    }
    Ok(())
}

fn clashes() -> Result<()> {
    let (installation, world) = World::installed()?;
    let dir = world.scratch().join("net.d");
    fs::create_dir(&dir).context("create net.d")?;
    let one = stock_conf(json!({ "type": "host-local", "subnet": "10.65.0.0/16" }));
    fs::write(dir.join("10-one.conf"), one.to_string()).context("write a configuration")?;
    let mut other = stock_conf(json!({ "type": "host-local", "ranges": [[{ "subnet": "10.65.7.0/24" }]] }));
    other["name"] = json!("other");
    let dir = dir.display().to_string();
    let reported = checked(&world, &other, &["--conf-dir", &dir])?;
    ensure!(
        reported.len() == 1 && reported[0].contains("given out twice") && reported[0].contains("10.65.7.0/24"),
        "{reported:?}"
    );
    ensure!(checked(&world, &one, &["--conf-dir", &dir])?.is_empty(), "one set of books");
    // doctor looks at the node's own files.
    let doctor = || -> Result<Vec<Value>> {
        let mut command = std::process::Command::new(installation.weftctl());
        command.args(["--json", "--state-dir"]).arg(world.state()).args(["doctor", "--conf-dir", &dir]);
        let output = process::output(&world.place()?, command, b"", std::time::Duration::from_secs(60))?;
        let findings: Vec<Value> = serde_json::from_slice(&output.stdout).with_context(|| output.text())?;
        Ok(findings.into_iter().filter(|finding| finding["what"] == "networks").collect())
    };
    ensure!(doctor()?.is_empty(), "one network clashes with itself");
    let second = world.scratch().join("net.d/20-other.conf");
    fs::write(&second, other.to_string()).context("write a configuration")?;
    let found = doctor()?;
    ensure!(found.len() == 1 && found[0]["state"] == "warn", "{found:?}");
    for part in ["10-one.conf", "20-other.conf", "10.65.7.0/24", "bridge mis0"] {
        ensure!(found[0]["detail"].to_string().contains(part), "{part}: {found:?}");
    }
    ensure!(found[0]["remedy"].to_string().contains("other ranges"), "{found:?}");
    // The usual way to share a subnet: a part for each.
    let part = |name: &str, first: &str, last: &str| {
        let mut conf = stock_conf(
            json!({ "type": "host-local", "subnet": "10.65.0.0/16", "rangeStart": first, "rangeEnd": last }),
        );
        conf["name"] = json!(name);
        conf
    };
    let (one, other) = (part("mis", "10.65.1.1", "10.65.1.254"), part("other", "10.65.2.1", "10.65.2.254"));
    fs::write(world.scratch().join("net.d/10-one.conf"), one.to_string()).context("write a configuration")?;
    fs::write(&second, other.to_string()).context("write a configuration")?;
    ensure!(doctor()?.is_empty() && checked(&world, &other, &["--conf-dir", &dir])?.is_empty(), "they do not overlap");
    Ok(())
}
