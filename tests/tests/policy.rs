//! Policies end to end: an operator's own policy decides, a new file takes effect with the next ADD, the user sees a
//! refusal's text, and a hostile policy gets a clear error within the limits, after which the next ADD works.
//!
//! The policies are `tests/guests`, built here as their authors would build them.

#[path = "policy/lies.rs"]
mod lies;
#[path = "policy/missing.rs"]
mod missing;
#[path = "policy/monitored.rs"]
mod monitored;
#[path = "policy/records.rs"]
mod records;
#[path = "policy/watched.rs"]
mod watched;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use weft_kit::cni::Reply;
use weft_kit::dhcp::{PATIENCE, wait};
use weft_kit::observe;
use weft_kit::process;
use weft_kit::programs::{Guests, Installation, build_script_guest};
use weft_kit::sandbox;
use weft_kit::suite::{Need, Suite};
use weft_kit::world::{Attach, Subject, World, container_id};

/// A hostile policy's configuration, the codes of its error, and a word that `msg` or `details` must have.
type Lie = (&'static str, &'static [u64], &'static str);

/// The error of each lie. 100 is the policy's own refusal, 101 is everything it must not do.
const LIES: &[Lie] = &[
    ("outside", &[101], "203.0.113.7"),
    ("family", &[101], "fd00::7"),
    ("gateway", &[101], "10.77.0.1"),
    ("gateway-of-a-pod", &[101], "10.77.0.2"),
    ("gateway-of-the-next-pod", &[101], "10.77.0.3"),
    ("next-hop", &[101], "10.77.0.2"),
    ("network", &[101], "10.77.0.0"),
    ("taken", &[101], "10.77.0.2"),
    ("length", &[101], "10.77.0.9"),
    ("twice", &[101], "10.77.0.9"),
    ("nothing", &[101], ""),
    ("no-candidates", &[101], ""),
    ("thief", &[101], "somebody-else"),
    ("trap", &[101], ""),
    ("loop", &[101], ""),
    ("memory", &[101], ""),
    ("stack", &[101], ""),
    ("many-questions", &[101], ""),
    ("huge-denial", &[100, 101], ""),
];

/// Whatever a policy does, weft answers within this time.
const LIMIT: Duration = Duration::from_secs(20);

fn main() -> ExitCode {
    sandbox::enter();
    let guests = Guests::default();
    let mut suite = Suite::new();
    let needs = [Need::Sandbox, Need::Weft, Need::Weftctl, Need::Tool("cargo")];
    let mut test = |name: &str, body: fn(&Guests) -> Result<()>| {
        let guests = guests.clone();
        suite.test(name, &needs, move || body(&guests));
    };
    test("swap/renamed", |guests| swapped(guests, &replace_by_rename));
    test("swap/overwritten", |guests| swapped(guests, &|file, content| Ok(fs::write(file, content)?)));
    test("denial-text", denial_text);
    test("control-characters", lies::control_characters);
    test("huge-reason", lies::huge_reason);
    test("missing-file", missing::missing_file);
    test("no-component", missing::no_component);
    test("del-without-policy", missing::del_without_policy);
    test("status", missing::status);
    test("fallback/shipped", missing::fallback_shipped);
    test("fallback/last-good", missing::fallback_last_good);
    test("pinned", missing::pinned);
    test("isolated", isolated);
    test("monitor/compared", monitored::monitor_compared);
    test("monitor/own-ipam", monitored::monitor_own_ipam);
    test("monitor/never-matters", monitored::monitor_never_matters);
    test("monitor/dies", watched::monitor_dies);
    test("cases", records::cases);
    test("replay", records::replay);
    test("replay/what-failed", records::replay_of_what_failed);
    test("replay/limits", records::limits);
    test("trace-export", records::trace_export);
    test("routes", lies::routes);
    test("gateway-on-ptp", lies::gateway_on_ptp);
    test("gateway-that-a-bridge-takes", lies::gateway_that_a_bridge_takes);
    test("gateway-of-the-claimed-candidate", lies::gateway_of_the_claimed_candidate);
    for lie in LIES {
        let again = guests.clone();
        suite.test(format!("hostile/{}", lie.0), &needs, move || lies::hostile(&again, lie, false));
        let guests = guests.clone();
        suite.test(format!("hostile-in-worker/{}", lie.0), &needs, move || lies::hostile(&guests, lie, true));
    }
    let shipped = [Need::Sandbox, Need::Weft, Need::Weftctl];
    suite.test("by-label", &shipped, by_label);
    let traced = [Need::Sandbox, Need::Weft, Need::Weftctl, Need::Tool("strace"), Need::Reference];
    suite.test("no-child-process", &traced, no_child_process);
    for (language, tool) in [("javascript", "componentize-qjs"), ("python", "componentize-py")] {
        let needs = [Need::Sandbox, Need::Weft, Need::Weftctl, Need::Tool(tool)];
        suite.test(format!("script/{language}"), &needs, move || script(language));
    }
    suite.run_threads(Some(4))
}

/// A world with weft, and its network's policy file.
struct Node {
    world: World,
    policy: PathBuf,
    _installation: Installation,
}

impl Node {
    fn new() -> Result<Self> {
        let installation = Installation::new()?;
        let world = World::new(&Subject::weft(&installation))?;
        let policy = world.scratch().join("policy.wasm");
        Ok(Self { world, policy, _installation: installation })
    }

    /// Creates a node whose network uses this policy.
    fn with_policy(component: &[u8]) -> Result<Self> {
        let node = Self::new()?;
        fs::write(&node.policy, component).context("write the policy")?;
        Ok(node)
    }

    /// Makes weft call policies in workers from now on.
    fn isolate(&self) -> Result<()> {
        fs::write(self.world.state().join("node.json"), r#"{"isolation": "worker"}"#).context("write node.json")
    }

    fn conf(&self, more: &Value) -> Value {
        let mut conf = json!({
            "cniVersion": "1.1.0", "name": "own", "type": "weft",
            "delegate": { "type": "bridge", "bridge": "own0", "isGateway": true },
            "ipam": { "type": "wasm", "policy": format!("file://{}", self.policy.display()),
                      "ranges": [[{ "subnet": "10.77.0.0/24" }]] } });
        for (key, value) in more.as_object().into_iter().flatten() {
            conf["ipam"][key] = value.clone();
        }
        conf
    }

    fn call(&mut self, verb: &str, attach: &Attach<'_>, conf: &Value) -> Result<Reply> {
        let mut call = self.world.prepare(verb, attach, conf)?;
        call.limit = LIMIT;
        self.world.run(&call, "weft")
    }

    fn add(&mut self, container: &str) -> Result<String> {
        let conf = self.conf(&json!({}));
        let result =
            self.call("ADD", &Attach::eth0(container), &conf)?.result().with_context(|| format!("ADD {container}"))?;
        let address = result.pointer("/ips/0/address").and_then(Value::as_str);
        Ok(address.with_context(|| format!("no address in {result}"))?.to_owned())
    }

    fn del(&mut self, container: &str) -> Result<()> {
        let conf = self.conf(&json!({}));
        self.call("DEL", &Attach::eth0(container), &conf)?.expect_quiet().with_context(|| format!("DEL {container}"))
    }

    /// Checks that nothing of a container is left on the node.
    fn clean_of(&mut self, container: &str) -> Result<()> {
        let netns = self.world.container(container)?;
        ensure!(netns.line("ip link show eth0").is_err(), "{container} has an eth0");
        let listed = self.world.weftctl(&["ledger", "ls"])?.to_string();
        ensure!(!listed.contains(&container_id(container)), "the ledger knows {container}: {listed}");
        Ok(())
    }
}

fn replace_by_rename(file: &Path, content: &[u8]) -> Result<()> {
    let new = file.with_extension("new");
    fs::write(&new, content).context("write the new policy")?;
    fs::rename(&new, file).context("put it in place")
}

/// Between two ADDs only the file's content changes, and the new policy makes the next decision.
fn swapped(guests: &Guests, put: &dyn Fn(&Path, &[u8]) -> Result<()>) -> Result<()> {
    let (low, high) = (guests.get("low")?, guests.get("high")?);
    let mut node = Node::with_policy(&low)?;
    ensure!(node.add("a")? == "10.77.0.2/24", "low picks the lowest");
    put(&node.policy, &high)?;
    ensure!(node.add("b")? == "10.77.0.254/24", "high picks the highest");
    ensure!(node.add("c")? == "10.77.0.253/24", "and the next candidate when that is taken");
    put(&node.policy, &low)?;
    ensure!(node.add("d")? == "10.77.0.3/24", "low again");
    for (container, reason) in [("a", "the lowest free address"), ("b", "the highest address")] {
        let why = node.world.weftctl(&["explain", &container_id(container)])?.to_string();
        ensure!(why.contains(reason), "explain {container} does not say {reason:?}: {why}");
    }
    for container in ["a", "b", "c", "d"] {
        node.del(container)?;
        node.clean_of(container)?;
    }
    ensure!(node.world.claims()?.is_empty(), "claims are left");
    Ok(())
}

/// The runtime's user reads the policy's text.
fn denial_text(guests: &Guests) -> Result<()> {
    let mut node = Node::with_policy(&guests.get("high")?)?;
    let conf = node.conf(&json!({}));
    let attach = Attach { container: "a", ifname: "net1", args: None };
    let error = node.call("ADD", &attach, &conf)?.error()?;
    ensure!(error.code == 100, "code {} ({})", error.code, error.msg);
    ensure!(error.msg == "net1 of cid-a: this network is for eth0 alone", "msg {:?}", error.msg);
    node.clean_of("a")?;
    ensure!(node.add("a")? == "10.77.0.254/24", "eth0 is welcome");
    node.del("a")
}

/// Returns the configuration with a key beside `ipam`.
fn with_key(conf: &Value, key: &str, value: &Value) -> Value {
    let mut conf = conf.clone();
    conf[key] = value.clone();
    conf
}

/// A worker, which is a process of its own without a user, returns the same decision, trace and refusal.
fn isolated(guests: &Guests) -> Result<()> {
    let mut node = Node::with_policy(&guests.get("high")?)?;
    ensure!(node.add("a")? == "10.77.0.254/24", "in the process");
    node.isolate()?;
    ensure!(node.add("b")? == "10.77.0.253/24", "in a worker");
    let costs = ["a", "b"].map(|container| -> Result<Value> {
        let why = node.world.weftctl(&["explain", &container_id(container)])?;
        let decision = why.pointer("/0/decision").context("a decision")?;
        ensure!(decision.pointer("/ledger/recorded").and_then(Value::as_array).is_some(), "{decision}");
        Ok(decision["digest"].clone())
    });
    let [here, there] = costs;
    ensure!(here? == there?, "another component");
    let conf = node.conf(&json!({}));
    let attach = Attach { container: "c", ifname: "net1", args: None };
    let error = node.call("ADD", &attach, &conf)?.error()?;
    ensure!(error.code == 100 && error.msg == "net1 of cid-c: this network is for eth0 alone", "{error:?}");
    node.call("STATUS", &Attach::eth0("c"), &conf)?.expect_quiet()?;
    let replayed = node.world.weftctl(&["policy", "replay", &container_id("b")])?;
    ensure!(replayed.pointer("/0/same") == Some(&json!(true)), "{replayed}");
    node.del("a")?;
    node.del("b")
}

/// A policy in a scripting language works with the default limits. The first ADD does not wait for its compiler.
fn script(language: &str) -> Result<()> {
    let mut node = Node::with_policy(&build_script_guest(language)?)?;
    let conf = node.conf(&json!({}));
    let error = node.call("ADD", &Attach::eth0("a"), &conf)?.error()?;
    ensure!(error.code == 11, "code {} ({} / {})", error.code, error.msg, error.details);
    node.clean_of("a")?;
    let component = node.policy.display().to_string();
    node.world.weftctl(&["policy", "compile", &component])?;
    ensure!(node.add("a")? == "10.77.0.2/24", "the first address");
    ensure!(node.add("b")? == "10.77.0.3/24", "the second address");
    let why = node.world.weftctl(&["explain", "cid-b"])?.to_string();
    ensure!(why.contains("offers 10.77.0.3"), "its log is in {why}");
    let conf = node.conf(&json!({ "deny": "not today" }));
    let error = node.call("ADD", &Attach::eth0("c"), &conf)?.error()?;
    ensure!(error.code == 100 && error.msg == "not today", "code {} ({})", error.code, error.msg);
    let why = node.world.weftctl(&["explain", "cid-c"])?.to_string();
    ensure!(why.contains("not today"), "the refusal is in {why}");
    node.del("a")?;
    node.del("b")
}

/// The shipped policy picks a set by the pod's labels.
fn by_label() -> Result<()> {
    let mut node = Node::new()?;
    let conf = |labels: Value, default: Value| {
        json!({
            "cniVersion": "1.1.0", "name": "tiers", "type": "weft",
            "delegate": { "type": "bridge", "bridge": "own0" },
            "ipam": { "type": "by-label", "default": default, "rules": [{ "matchLabels": { "tier": "gold" }, "set": "gold" }],
                      "ranges": [{ "name": "gold", "ranges": [{ "subnet": "10.77.1.0/24" }] },
                                 { "name": "bronze", "ranges": [{ "subnet": "10.77.2.0/24" }] }] },
            "args": { "cni": { "labels": labels } } })
    };
    for (container, labels, want) in [
        ("a", json!({ "tier": "gold" }), "10.77.1.2/24"),
        ("b", json!({ "tier": "silver" }), "10.77.2.2/24"),
        ("c", json!({ "tier": "gold", "app": "x" }), "10.77.1.3/24"),
    ] {
        let result = node.call("ADD", &Attach::eth0(container), &conf(labels, json!("bronze")))?.result()?;
        ensure!(result.pointer("/ips/0/address") == Some(&json!(want)), "{container}: {result}");
    }
    let error = node.call("ADD", &Attach::eth0("d"), &conf(json!({ "tier": "iron" }), json!(null)))?.error()?;
    ensure!(error.code == 100 && error.msg.contains("tier=iron"), "{error:?}");
    for container in ["a", "b", "c", "d"] {
        node.call("DEL", &Attach::eth0(container), &conf(json!({}), json!(null)))?.expect_quiet()?;
    }
    ensure!(node.world.claims()?.is_empty(), "claims are left");
    Ok(())
}

/// A warm ADD with masquerading makes one `execve`, its own. The reference makes dozens.
fn no_child_process() -> Result<()> {
    let conf = json!({ "cniVersion": "1.0.0", "name": "net", "type": "bridge", "bridge": "own0", "isGateway": true, "ipMasq": true,
                       "ipam": { "type": "host-local", "ranges": [[{ "subnet": "10.77.0.0/24" }]] } });
    let installation = Installation::new()?;
    let counts = [execs(&Subject::weft(&installation), &conf)?, execs(&Subject::reference()?, &conf)?];
    ensure!(counts[0] == 2, "weft made {} execs for ADD and DEL", counts[0]);
    ensure!(counts[1] > 10, "the reference made {} execs: is strace looking?", counts[1]);
    Ok(())
}

/// Returns the number of successful `execve` calls of one ADD and one DEL, including children's.
fn execs(subject: &Subject, conf: &Value) -> Result<usize> {
    let mut world = World::new(subject)?;
    let mut seen = 0;
    for verb in ["ADD", "DEL"] {
        let mut call = world.prepare(verb, &Attach::eth0("a"), conf)?;
        let log = world.scratch().join(format!("{verb}.strace"));
        // The plugin is found as usual: a script of its name runs it under strace.
        let script = world.scratch().join("traced");
        let plugin = world.plugin("bridge");
        let text = format!("#!/bin/sh\nexec strace -f -q -e trace=execve -o {} {} \n", log.display(), plugin.display());
        fs::write(&script, text).context("write the script")?;
        fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).context("chmod")?;
        call.limit = LIMIT;
        let reply = call.run(&script, &world.place()?)?;
        ensure!(reply.is_ok(), "{verb}: {}", String::from_utf8_lossy(&reply.stdout));
        let lines = fs::read_to_string(&log).context("read strace's log")?;
        seen += lines.lines().filter(|line| line.contains("execve(") && line.ends_with("= 0")).count();
    }
    Ok(seen)
}
