//! DEL of an attachment whose path, link name or host link's name somebody else has by now changes nothing of theirs.
//!
//! The kernel gives the inode of a namespace that ended to the next one, so path and inode together do not identify a
//! namespace: each trial waits until it has that case.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use weft_kit::cni::{Call, Reply, expect_ok};
use weft_kit::netns::NetNs;
use weft_kit::process::{self, Place};
use weft_kit::sandbox;
use weft_kit::suite::{Need, Suite};
use weft_kit::world::{Attach, World};

fn main() -> ExitCode {
    sandbox::enter();
    let needs = [Need::Sandbox, Need::Weft, Need::Weftctl, Need::Tool("sqlite3")];
    let mut suite = Suite::new();
    suite.test("path-reused/steps", &needs, || path_reused(&[tuning(), bandwidth(), sbr()]));
    suite.test("path-reused/unknown-attachment", &needs, unknown_attachment);
    suite.test("link-renamed/tuning", &needs, renamed_tuned);
    suite.test("hosts-link-name-reused/bandwidth", &needs, hosts_link);
    // The trials want an inode that other namespaces may take.
    suite.run_threads(Some(1))
}

fn tuning() -> Value {
    json!({ "type": "tuning", "mac": "c2:11:22:33:44:55", "mtu": 1400, "allmulti": true, "txQLen": 77 })
}

fn bandwidth() -> Value {
    json!({ "type": "bandwidth", "ingressRate": 8_000_000, "ingressBurst": 800_000, "egressRate": 8_000_000,
            "egressBurst": 800_000 })
}

fn sbr() -> Value {
    json!({ "type": "sbr" })
}

/// A namespace at a path that the test chooses.
struct Pod {
    netns: NetNs,
    path: PathBuf,
}

impl Drop for Pod {
    fn drop(&mut self) {
        drop(process::run(&Place::default(), &["umount", &self.path.display().to_string()]));
    }
}

impl Pod {
    fn at(path: &Path) -> Result<Self> {
        Self::of(NetNs::new("pod")?, path)
    }

    fn of(netns: NetNs, path: &Path) -> Result<Self> {
        fs::write(path, "")?;
        let paths = [netns.path().display().to_string(), path.display().to_string()];
        process::run(&Place::default(), &["mount", "--bind", &paths[0], &paths[1]])?;
        Ok(Self { netns, path: path.to_owned() })
    }

    fn inode(&self) -> Result<u64> {
        Ok(fs::metadata(&self.path)?.ino())
    }

    /// Ends this one, and makes another with the same path and inode. On a busy machine others may take the inode. Then
    /// the journal gets the next one's: this is all that it would have known.
    fn replaced(self, world: &World) -> Result<Self> {
        const TRIES: usize = 50;
        let (path, inode) = (self.path.clone(), self.inode()?);
        drop(self);
        let mut others = Vec::new();
        for _ in 0..TRIES {
            // The kernel ends namespaces in the background.
            std::thread::sleep(std::time::Duration::from_millis(10));
            let netns = NetNs::new("pod")?;
            if fs::metadata(netns.path())?.ino() == inode {
                return Self::of(netns, &path);
            }
            others.push(netns);
        }
        let next = Self::of(others.pop().context("a namespace")?, &path)?;
        let store = world.state().join("weft.db").display().to_string();
        let change = format!("UPDATE journal SET plan = replace(plan, ':{inode}\"', ':{}\"')", next.inode()?);
        process::run(&Place::default(), &["sqlite3", &store, &change])?;
        Ok(next)
    }

    /// What DEL could change of it: its links, rules, routes and addresses, and its link's limits on the host.
    fn state(&self, world: &World) -> Result<String> {
        let mut state = String::new();
        let links: Value = serde_json::from_str(&self.netns.line("ip -j link")?.text())?;
        for link in links.as_array().into_iter().flatten() {
            for key in ["ifindex", "ifname", "mtu", "address", "txqlen", "master"] {
                state += &format!("{key} {} ", link[key]);
            }
            state += &format!("allmulti {}\n", link["flags"].to_string().contains("ALLMULTI"));
        }
        for line in [
            "ip rule",
            "ip -6 rule",
            "ip -4 route show table all",
            "ip -o -4 address",
            "ip -o address show scope global",
        ] {
            state += &self.netns.line(line)?.text();
        }
        let limits = world.host().line("tc qdisc show")?.text();
        let second = format!("weft:net/{SECOND}/eth0");
        let of_second = world.host().line("ip -o link show type veth")?.text();
        for line in of_second.lines().filter(|line| line.contains(&second)) {
            let name = line.split([' ', '@']).nth(1).context("a name")?;
            state += &format!("{name}\n");
            state += &limits.lines().filter(|line| line.contains(name)).collect::<Vec<_>>().join("\n");
        }
        Ok(state)
    }
}

/// The container that has the path after the first.
const SECOND: &str = "second";

/// A call of a plugin for one container.
fn run(world: &World, verb: &str, (container, pod): (&str, &Path), conf: &Value) -> Result<Reply> {
    let mut call = Call::new(verb, conf);
    call.container_id = Some(container.to_owned());
    call.netns = Some(pod.display().to_string());
    call.ifname = Some("eth0".to_owned());
    call.path = Some(world.plugins().display().to_string());
    call.env.push(("WEFT_STATE_DIR".into(), world.state().into()));
    world.run(&call, conf["type"].as_str().context("a type")?)
}

fn part(conf: &Value, previous: &Value) -> Value {
    let mut conf = conf.clone();
    conf["cniVersion"] = json!("1.0.0");
    conf["name"] = json!("net");
    if !previous.is_null() {
        conf["prevResult"] = previous.clone();
    }
    conf
}

/// ADD of a list. Returns the configurations as DEL gets them, in their order.
fn add(world: &World, pod: (&str, &Path), plugins: &[Value]) -> Result<Vec<Value>> {
    let mut result = Value::Null;
    for plugin in plugins {
        let reply = run(world, "ADD", pod, &part(plugin, &result))?;
        expect_ok(&reply, &format!("ADD of {}", plugin["type"]))?;
        result = reply.result()?;
    }
    Ok(plugins.iter().rev().map(|plugin| part(plugin, &result)).collect())
}

/// Of a container that ended, DEL comes when the next one has its path and inode.
fn path_reused(steps: &[Value]) -> Result<()> {
    let (_installation, world) = World::installed()?;
    let path = world.scratch().join("netns");
    let pool = json!({ "type": "host-local", "ranges": [[{ "subnet": "10.66.0.0/24" }], [{ "subnet": "fd66::/64" }]] });
    let mut plugins = vec![json!({ "type": "ptp", "ipam": pool })];
    plugins.extend_from_slice(steps);
    let first = Pod::at(&path)?;
    let del = add(&world, ("first", &path), &plugins)?;
    let second = first.replaced(&world)?;
    add(&world, (SECOND, &path), &plugins)?;
    let before = second.state(&world)?;
    for round in ["DEL", "DEL again"] {
        for conf in &del {
            expect_ok(&run(&world, "DEL", ("first", &path), conf)?, &format!("{round} of {}", conf["type"]))?;
        }
        let now = second.state(&world)?;
        ensure!(before == now, "{round} changed\n{before}\nto\n{now}");
    }
    let shapers = world.host().line("ip -o link show type ifb")?.text();
    ensure!(shapers.lines().count() == steps.iter().filter(|step| step["type"] == "bandwidth").count(), "{shapers}");
    ensure!(world.claims()?.len() == 2, "{:?}", world.claims()?);
    Ok(())
}

/// The second DEL of an attachment, which the journal does not know any more.
fn unknown_attachment() -> Result<()> {
    let (_installation, world) = World::installed()?;
    let path = world.scratch().join("netns");
    let pool = json!({ "type": "host-local", "ranges": [[{ "subnet": "10.66.0.0/24" }]] });
    world.host().line("ip link add up0 type veth peer name up1")?;
    world.host().line("ip link set up0 up")?;
    for kind in ["bridge", "macvlan"] {
        let conf = part(&json!({ "type": kind, "master": "up0", "ipam": pool }), &Value::Null);
        let first = Pod::at(&path)?;
        expect_ok(&run(&world, "ADD", ("first", &path), &conf)?, "ADD")?;
        expect_ok(&run(&world, "DEL", ("first", &path), &conf)?, "DEL")?;
        let second = first.replaced(&world)?;
        expect_ok(&run(&world, "ADD", (SECOND, &path), &conf)?, "ADD")?;
        let before = second.state(&world)?;
        expect_ok(&run(&world, "DEL", ("first", &path), &conf)?, "DEL again")?;
        let now = second.state(&world)?;
        ensure!(before == now, "{kind}: DEL changed\n{before}\nto\n{now}");
        expect_ok(&run(&world, "DEL", (SECOND, &path), &conf)?, "DEL of the second")?;
        ensure!(second.netns.line("ip -o link")?.text().lines().count() == 1, "{kind}: DEL left its own link");
    }
    Ok(())
}

/// A container with a link of another plugin, and the result of that plugin.
fn foreign(world: &mut World, container: &str, host: &str) -> Result<Value> {
    let name = world.container(container)?.name().to_owned();
    world.host().line(&format!("ip link add {host} type veth peer name eth0 netns {name}"))?;
    world.container(container)?.line("ip link set eth0 up")?;
    let path = world.container(container)?.path().display().to_string();
    Ok(json!({ "cniVersion": "1.0.0", "interfaces": [{ "name": host }, { "name": "eth0", "sandbox": path }] }))
}

/// Gives the name of a container's link to a new one.
fn rename(world: &mut World) -> Result<()> {
    let pod = world.container("pod")?;
    pod.line("ip link set eth0 down")?;
    pod.line("ip link set eth0 name old0")?;
    pod.line("ip link set old0 up")?;
    pod.line("ip link add eth0 type veth peer name far0")?;
    pod.line("ip link set eth0 up")?;
    Ok(())
}

fn renamed_tuned() -> Result<()> {
    let (_installation, mut world) = World::installed()?;
    let previous = foreign(&mut world, "pod", "other0")?;
    let conf = part(&json!({ "type": "tuning", "mtu": 1400, "txQLen": 77 }), &previous);
    expect_ok(&world.call("ADD", &Attach::eth0("pod"), &conf)?, "ADD")?;
    rename(&mut world)?;
    world.container("pod")?.line("ip link set eth0 mtu 1300 txqueuelen 66")?;
    expect_ok(&world.call("DEL", &Attach::eth0("pod"), &conf)?, "DEL")?;
    let of = |world: &mut World, name: &str| world.container("pod")?.line(&format!("ip link show {name}"));
    let other = of(&mut world, "eth0")?.text();
    ensure!(other.contains("mtu 1300") && other.contains("qlen 66"), "DEL changed another link: {other}");
    let own = of(&mut world, "old0")?.text();
    ensure!(own.contains("mtu 1500") && own.contains("qlen 1000"), "DEL did not restore the link: {own}");
    Ok(())
}

/// Some plugins name the host's link after the pod, so the next pod of that name has it again.
fn hosts_link() -> Result<()> {
    let (_installation, mut world) = World::installed()?;
    let conf = |previous: &Value| part(&bandwidth(), previous);
    let first = foreign(&mut world, "first", "cali0")?;
    expect_ok(&world.call("ADD", &Attach::eth0("first"), &conf(&first))?, "ADD of the first")?;
    world.host().line("ip link delete cali0")?;
    let second = foreign(&mut world, "second", "cali0")?;
    expect_ok(&world.call("ADD", &Attach::eth0("second"), &conf(&second))?, "ADD of the second")?;
    expect_ok(&world.call("DEL", &Attach::eth0("first"), &conf(&first))?, "DEL of the first")?;
    let limits = world.host().line("tc qdisc show dev cali0")?.text();
    ensure!(limits.contains("tbf") && limits.contains("ingress"), "DEL removed the limits of another pod: {limits}");
    expect_ok(&world.call("CHECK", &Attach::eth0("second"), &conf(&second))?, "CHECK of the second")?;
    expect_ok(&world.call("DEL", &Attach::eth0("second"), &conf(&second))?, "DEL of the second")?;
    let limits = world.host().line("tc qdisc show dev cali0")?.text();
    ensure!(!limits.contains("tbf") && !limits.contains("ingress"), "DEL left {limits}");
    Ok(())
}
