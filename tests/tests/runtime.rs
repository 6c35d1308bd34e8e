//! A real client: containerd and runc start containers whose network weft makes. The containers reach each other and
//! the gateway, and nothing is left when they are gone. The same run with the stock plugins shows that the harness is
//! right.

use std::fs;
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use weft_kit::containerd::Containerd;
use weft_kit::names::is_random_veth;
use weft_kit::programs::Installation;
use weft_kit::sandbox;
use weft_kit::suite::{Need, Suite};
use weft_kit::world::{Subject, World};

fn main() -> ExitCode {
    sandbox::enter();
    let tools = ["containerd", "ctr", "runc", "umoci", "busybox", "nsenter", "unshare"].map(Need::Tool);
    let mut reference = vec![Need::Sandbox, Need::Reference];
    let mut weft = vec![Need::Sandbox, Need::Weft, Need::Weftctl];
    reference.extend(tools.clone());
    weft.extend(tools);
    let mut suite = Suite::new();
    suite.test("reference/two-containers", &reference, || two_containers(&Subject::reference()?, &unmasked(), false));
    suite.test("reference/exhausted", &reference, || exhausted(&Subject::reference()?, &narrow(stock_conf())));
    suite.test("weft/two-containers", &weft, || {
        let installation = Installation::new()?;
        two_containers(&Subject::weft(&installation), &weft_conf(), true)
    });
    suite.test("weft/drop-in", &weft, || {
        let installation = Installation::new()?;
        two_containers(&Subject::weft(&installation), &stock_conf(), true)
    });
    suite.test("weft/exhausted", &weft, || {
        let installation = Installation::new()?;
        exhausted(&Subject::weft(&installation), &narrow(weft_conf()))
    });
    suite.run_threads(Some(2))
}

/// The stock plugins' configuration.
fn stock_conf() -> Value {
    json!({ "cniVersion": "1.0.0", "name": "pods", "plugins": [{
        "type": "bridge", "bridge": "cni0", "isDefaultGateway": true, "ipMasq": true,
        "ipam": { "type": "host-local", "ranges": [[{ "subnet": "10.88.0.0/16" }]] } }] })
}

/// Returns it without `ipMasq`: `ctr` calls DEL without a namespace, and then the reference leaves its rules behind.
fn unmasked() -> Value {
    let mut conflist = stock_conf();
    conflist["plugins"][0]["ipMasq"] = json!(false);
    conflist
}

/// weft's own.
fn weft_conf() -> Value {
    json!({ "cniVersion": "1.0.0", "name": "pods", "plugins": [{
        "type": "weft",
        "delegate": { "type": "bridge", "bridge": "cni0", "isDefaultGateway": true, "ipMasq": true },
        "ipam": { "type": "host-local", "ranges": [[{ "subnet": "10.88.0.0/16" }]] } }] })
}

/// Returns it with room for one container.
fn narrow(mut conflist: Value) -> Value {
    conflist["plugins"][0]["ipam"]["ranges"] = json!([[{ "subnet": "10.88.0.0/30" }]]);
    conflist
}

/// Two containers run, reach each other, and are deleted one after the other.
fn two_containers(subject: &Subject, conflist: &Value, with_ledger: bool) -> Result<()> {
    let containerd = Containerd::start(World::new(subject)?, conflist)?;
    let one = containerd.run("one")?;
    let two = containerd.run("two")?;
    let (first, second) = (containerd.address("one")?, containerd.address("two")?);
    ensure!(first == "10.88.0.2" && second == "10.88.0.3", "addresses {first} and {second}");
    ping(&containerd, "one", &second)?;
    ping(&containerd, "two", &first)?;
    ping(&containerd, "one", "10.88.0.1")?;
    ping(&containerd, "two", "10.88.0.1")?;
    let routes = containerd.exec("one", &["ip", "route"])?;
    ensure!(routes.contains("default via 10.88.0.1 dev eth0"), "routes: {routes}");
    if with_ledger {
        let claims = containerd.world().claims()?;
        ensure!(claims == [first.as_str(), second.as_str()], "the ledger has {claims:?}");
        let why = containerd.world().weftctl(&["explain", &containerd.cni_id("one")])?.to_string();
        ensure!(why.contains(&first), "weftctl explain does not say why {first}: {why}");
    }
    containerd.stop(one)?;
    ping(&containerd, "two", "10.88.0.1").context("after the other container is gone")?;
    let left = leftovers(&containerd, &["one"], &[&first])?;
    ensure!(left.is_empty(), "left after the first: {left:?}");
    containerd.stop(two)?;
    let mut left = leftovers(&containerd, &["one", "two"], &[&first, &second])?;
    left.extend(host_veths(&containerd)?);
    if with_ledger {
        let claims = containerd.world().claims()?;
        ensure!(claims.is_empty(), "the ledger still has {claims:?}");
    }
    ensure!(left.is_empty(), "left after both: {left:?}");
    Ok(())
}

/// A container without an available address does not start, and its user sees the reason; it starts once an address is
/// free.
fn exhausted(subject: &Subject, conflist: &Value) -> Result<()> {
    let containerd = Containerd::start(World::new(subject)?, conflist)?;
    let one = containerd.run("one")?;
    let Err(refused) = containerd.run("two") else { anyhow::bail!("a second container in a full range") };
    let text = format!("{refused:#}");
    ensure!(text.contains("no IP addresses available in range set: 10.88.0.1-10.88.0.2"), "the user reads {text}");
    containerd.stop(one)?;
    let three = containerd.run("three")?;
    ping(&containerd, "three", "10.88.0.1")?;
    containerd.stop(three)
}

fn ping(containerd: &Containerd, from: &str, to: &str) -> Result<()> {
    containerd.exec(from, &["ping", "-c", "2", "-W", "2", to]).map(drop).with_context(|| format!("{from} to {to}"))
}

/// Returns rules and files that still name a container or its address.
fn leftovers(containerd: &Containerd, names: &[&str], addresses: &[&str]) -> Result<Vec<String>> {
    let rules = containerd.world().host().line("nft list ruleset")?.text();
    let ids: Vec<String> = names.iter().map(|name| containerd.cni_id(name)).collect();
    let names_one = |line: &&str| {
        ids.iter().any(|id| line.contains(id.as_str()))
            || addresses.iter().any(|address| line.split(' ').any(|word| word == *address))
    };
    let mut left: Vec<String> = rules.lines().filter(names_one).map(|line| line.trim().to_owned()).collect();
    let lib = containerd.world().lib_cni();
    for dir in ["results", "networks/pods"] {
        for entry in fs::read_dir(lib.join(dir)).into_iter().flatten() {
            let name = entry.context("read a directory")?.file_name().to_string_lossy().into_owned();
            let ours = addresses.contains(&name.as_str()) || ids.iter().any(|id| name.contains(id.as_str()));
            left.extend(ours.then(|| format!("{dir}/{name}")));
        }
    }
    Ok(left)
}

/// Returns the host ends of pairs that still exist.
fn host_veths(containerd: &Containerd) -> Result<Vec<String>> {
    let listed = containerd.world().host().line("ip -o link show")?.text();
    let names = listed.lines().filter_map(|line| line.split([':', '@']).nth(1)).map(|name| name.trim().to_owned());
    Ok(names.filter(|name| is_random_veth(name)).collect())
}
