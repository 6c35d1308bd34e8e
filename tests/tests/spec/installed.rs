//! What needs an installation: STATUS, GC, the namespace of the process, and configurations in any spelling.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use weft_kit::cni::Call;
use weft_kit::programs::Installation;
use weft_kit::suite::{Need, Suite};
use weft_kit::world::{Attach, Subject, World};

/// Trials with namespaces and policies.
pub(super) fn with_installation(suite: &mut Suite) {
    let needs = [Need::Sandbox, Need::Weft, Need::Weftctl];
    suite.test("status/ready", &needs, || status(&layer3("1.1.0"), None));
    suite.test("status/bad-conf", &needs, || {
        let mut conf = layer3("1.1.0");
        conf["ipam"]["ranges"] = json!([[{ "subnet": "nonsense" }]]);
        status(&conf, Some(7))
    });
    suite.test("gc/valid-attachments", &needs, || gc("cni.dev/valid-attachments", "containerID"));
    suite.test("gc/attachments", &needs, || gc("cni.dev/attachments", "containerID"));
    suite.test("gc/no-list", &needs, gc_without_list);
    suite.test("gc/empty-list", &needs, gc_empty_list);
    for (name, value, allowed) in [
        ("own", None, false),
        ("override-1", Some("1"), true),
        ("override-true", Some("True"), true),
        ("override-0", Some("0"), false),
        ("override-yes", Some("yes"), false),
    ] {
        suite.test(format!("netns/{name}"), &needs, move || own_netns(&installed()?.0, value, allowed));
        // The check is newer than Debian's plugins; what it allows, they allow.
        if allowed {
            suite.test(format!("netns/reference-{name}"), &[Need::Sandbox, Need::Reference], move || {
                own_netns(&Subject::reference()?, value, allowed)
            });
        }
    }
    suite.test("keys/null-and-case", &needs, null_and_case);
    suite.test("result/1.1.0", &needs, newest_result);
}

/// Returns weft with its policies; the second value keeps the files.
fn installed() -> Result<(Subject, Installation)> {
    let installation = Installation::new()?;
    Ok((Subject::weft(&installation), installation))
}

fn layer3(version: &str) -> Value {
    json!({
        "cniVersion": version, "name": "net", "type": "bridge", "bridge": "cni0", "isGateway": true,
        "ipam": { "type": "host-local", "ranges": [[{ "subnet": "10.1.2.0/24" }]] }
    })
}

pub(super) fn status(conf: &Value, code: Option<u64>) -> Result<()> {
    let (subject, _installation) = installed()?;
    let world = World::new(&subject)?;
    let mut call = Call::new("STATUS", conf);
    call.path = Some(subject.bin.display().to_string());
    call.env.push(("WEFT_STATE_DIR".into(), world.state().into()));
    let reply = world.run(&call, "bridge")?;
    match code {
        None => reply.expect_quiet(),
        Some(code) => {
            let error = reply.error()?;
            ensure!(error.code == code || error.code == 50, "code {} ({})", error.code, error.msg);
            ensure!(error.msg.contains("nonsense"), "msg names not what is wrong: {}", error.msg);
            Ok(())
        }
    }
}

/// Makes three attachments, and calls GC with a change to the configuration.
fn collected(change: impl FnOnce(&mut Value)) -> Result<Vec<String>> {
    let (subject, _installation) = installed()?;
    let mut world = World::new(&subject)?;
    let conf = layer3("1.1.0");
    for container in ["a", "b", "c"] {
        world.call("ADD", &Attach::eth0(container), &conf)?.result()?;
    }
    let mut gc = conf.clone();
    change(&mut gc);
    for _ in 0..2 {
        let mut call = world.prepare("GC", &Attach::eth0("a"), &gc)?;
        (call.container_id, call.netns, call.ifname) = (None, None, None);
        world.run(&call, "bridge")?.expect_quiet()?;
    }
    let mut alive = Vec::new();
    for (name, netns) in world.containers() {
        if netns.line("ip link show eth0").is_ok() {
            alive.push(name.clone());
        }
    }
    // The collected container's address is free again, the others' are not.
    let again = world.call("ADD", &Attach::eth0("d"), &json_with(&conf, "10.1.2.2"));
    let free = again?.is_ok();
    ensure!(free != alive.contains(&"a".to_owned()), "the address of a is {}", if free { "free" } else { "taken" });
    Ok(alive)
}

/// Returns the configuration with one requested address.
fn json_with(conf: &Value, ip: &str) -> Value {
    let mut conf = conf.clone();
    conf["args"] = json!({ "cni": { "ips": [ip] } });
    conf
}

fn gc(key: &'static str, id: &'static str) -> Result<()> {
    let alive =
        collected(|conf| conf[key] = json!([{ id: "cid-b", "ifname": "eth0" }, { id: "cid-x", "ifname": "eth0" }]))?;
    ensure!(alive == ["b"], "alive after GC: {alive:?}");
    Ok(())
}

/// Without either key GC does not know which attachments are valid, and changes nothing.
fn gc_without_list() -> Result<()> {
    let alive = collected(|_| ())?;
    ensure!(alive == ["a", "b", "c"], "alive after GC without a list: {alive:?}");
    Ok(())
}

/// An empty list means that nothing is valid.
fn gc_empty_list() -> Result<()> {
    let alive = collected(|conf| conf["cni.dev/valid-attachments"] = json!([]))?;
    ensure!(alive.is_empty(), "alive after GC with an empty list: {alive:?}");
    Ok(())
}

/// CNI_NETNS is the plugin's own namespace.
fn own_netns(subject: &Subject, value: Option<&str>, allowed: bool) -> Result<()> {
    let mut world = World::new(subject)?;
    let conf = json!({ "cniVersion": "1.0.0", "name": "net", "type": "host-local",
                       "ipam": { "type": "host-local", "ranges": [[{ "subnet": "10.1.2.0/24" }]] } });
    let own = world.host().path().display().to_string();
    for verb in ["ADD", "DEL"] {
        let mut call = world.prepare(verb, &Attach::eth0("a"), &conf)?;
        call.netns = Some(own.clone());
        call.env.extend(value.map(|value| ("CNI_NETNS_OVERRIDE".into(), value.into())));
        let reply = world.run(&call, "host-local")?;
        // DEL cleans up for any input, or a runtime would repeat it for ever.
        if allowed || verb == "DEL" {
            ensure!(
                reply.is_ok(),
                "{verb} with CNI_NETNS_OVERRIDE {value:?} failed: {:?}",
                String::from_utf8_lossy(&reply.stdout)
            );
            continue;
        }
        let error = reply.error().context(verb)?;
        ensure!(error.code == 8, "{verb}: code {} ({})", error.code, error.msg);
        let text = "plugin's netns and netns from CNI_NETNS should not be the same";
        ensure!(error.msg == text, "{verb}: msg {:?}", error.msg);
    }
    Ok(())
}

/// Decodes as Go does: case-insensitively, and `null` means absent.
fn null_and_case() -> Result<()> {
    let (subject, _installation) = installed()?;
    let mut world = World::new(&subject)?;
    let conf = json!({
        "CniVersion": "1.1.0", "Name": "net", "TYPE": "weft", "type": "weft", "args": null, "RuntimeConfig": null, "prevresult": null,
        "DELEGATE": { "Type": "bridge", "BRIDGE": "cni7", "isgateway": true, "mtu": null },
        "Ipam": { "TYPE": "host-local", "Subnet": null, "routes": null, "resolvConf": "", "RANGES": [[{ "SUBNET": "10.1.2.0/24", "gateway": null }]] },
        "dns": null, "ledger": null
    });
    let result = world.call("ADD", &Attach::eth0("a"), &conf)?.result()?;
    ensure!(result.pointer("/ips/0/address") == Some(&json!("10.1.2.2/24")), "{result}");
    ensure!(result.pointer("/interfaces/0/name") == Some(&json!("cni7")), "{result}");
    world.call("DEL", &Attach::eth0("a"), &conf)?.expect_quiet()
}

/// The newest version's result, byte for byte except MAC addresses and the random name.
fn newest_result() -> Result<()> {
    let (subject, _installation) = installed()?;
    let mut world = World::new(&subject)?;
    let reply = world.call("ADD", &Attach::eth0("a"), &layer3("1.1.0"))?;
    reply.layout()?;
    let result = reply.result()?;
    let keys: Vec<&String> = result.as_object().context("an object")?.keys().collect();
    ensure!(keys == ["cniVersion", "interfaces", "ips"], "keys {keys:?}");
    let field = |pointer: &str| result.pointer(pointer).cloned().unwrap_or_default();
    let netns = PathBuf::from(field("/interfaces/2/sandbox").as_str().unwrap_or_default());
    ensure!(netns == world.container("a")?.path(), "sandbox {}", netns.display());
    ensure!(field("/cniVersion") == "1.1.0", "{result}");
    ensure!(field("/ips/0") == json!({ "address": "10.1.2.2/24", "gateway": "10.1.2.1", "interface": 2 }), "{result}");
    world.call("DEL", &Attach::eth0("a"), &layer3("1.1.0"))?.expect_quiet()
}
