//! Policies end to end: an operator's own policy decides, a new file takes effect with the next ADD, the user sees a
//! refusal's text, and a hostile policy gets a clear error within the limits, after which the next ADD works.
//!
//! The policies are `tests/guests`, built here as their authors would build them.

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
    test("control-characters", control_characters);
    test("huge-reason", huge_reason);
    test("missing-file", missing_file);
    test("no-component", no_component);
    test("del-without-policy", del_without_policy);
    test("status", status);
    test("fallback/shipped", fallback_shipped);
    test("fallback/last-good", fallback_last_good);
    test("pinned", pinned);
    test("isolated", isolated);
    test("monitor/compared", monitor_compared);
    test("monitor/own-ipam", monitor_own_ipam);
    test("monitor/never-matters", monitor_never_matters);
    test("monitor/dies", watched::monitor_dies);
    test("cases", records::cases);
    test("replay", records::replay);
    test("replay/what-failed", records::replay_of_what_failed);
    test("replay/limits", records::limits);
    test("trace-export", records::trace_export);
    test("routes", routes);
    test("gateway-on-ptp", gateway_on_ptp);
    test("gateway-that-a-bridge-takes", gateway_that_a_bridge_takes);
    test("gateway-of-the-claimed-candidate", gateway_of_the_claimed_candidate);
    for lie in LIES {
        let again = guests.clone();
        suite.test(format!("hostile/{}", lie.0), &needs, move || hostile(&again, lie, false));
        let guests = guests.clone();
        suite.test(format!("hostile-in-worker/{}", lie.0), &needs, move || hostile(&guests, lie, true));
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
    fn with(component: &[u8]) -> Result<Self> {
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
        self.call("DEL", &Attach::eth0(container), &conf)?.quiet().with_context(|| format!("DEL {container}"))
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
    let mut node = Node::with(&low)?;
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
    let mut node = Node::with(&guests.get("high")?)?;
    let conf = node.conf(&json!({}));
    let attach = Attach { container: "a", ifname: "net1", args: None };
    let error = node.call("ADD", &attach, &conf)?.error()?;
    ensure!(error.code == 100, "code {} ({})", error.code, error.msg);
    ensure!(error.msg == "net1 of cid-a: this network is for eth0 alone", "msg {:?}", error.msg);
    node.clean_of("a")?;
    ensure!(node.add("a")? == "10.77.0.254/24", "eth0 is welcome");
    node.del("a")
}

/// Checks how the host handles one wrong answer, in this process or in a worker.
fn hostile(guests: &Guests, (lie, codes, word): &Lie, in_worker: bool) -> Result<()> {
    let mut node = Node::with(&guests.get("hostile")?)?;
    if in_worker {
        node.isolate()?;
    }
    ensure!(node.add("a")? == "10.77.0.2/24", "without a lie it is honest");
    let before = links(&node)?;
    let conf = node.conf(&json!({ "lie": lie }));
    let error = node.call("ADD", &Attach::eth0("b"), &conf)?.error()?;
    ensure!(codes.contains(&error.code), "code {} ({} / {})", error.code, error.msg, error.details);
    ensure!(
        error.msg.contains(word) || error.details.contains(word),
        "no {word:?} in {} / {}",
        error.msg,
        error.details
    );
    ensure!(error.msg.len() < 4096 && error.details.len() < 16384, "an error of {} bytes", error.msg.len());
    ensure!(!error.msg.contains('\n'), "msg has several lines: {:?}", error.msg);
    node.clean_of("b")?;
    ensure!(links(&node)? == before, "host links changed");
    ensure!(node.world.claims()? == ["10.77.0.2"], "claims {:?}", node.world.claims());
    // DEL after a failed ADD, as runtimes call it, and then ADD works again.
    node.call("DEL", &Attach::eth0("b"), &conf)?.quiet()?;
    ensure!(node.add("b")? == "10.77.0.3/24", "the next ADD works");
    ensure!(node.world.reaches("b", "10.77.0.2")?, "and its container is reachable");
    node.del("a")?;
    node.del("b")
}

/// With ptp the host end has the gateway's address, and each pod's address is routed to its own link: a policy cannot
/// redirect another pod's traffic with its address.
fn gateway_on_ptp(guests: &Guests) -> Result<()> {
    let mut node = Node::with(&guests.get("hostile")?)?;
    let mut honest = node.conf(&json!({}));
    honest["delegate"] = json!({ "type": "ptp" });
    node.call("ADD", &Attach::eth0("a"), &honest)?.result()?;
    let route = |node: &Node| -> Result<String> { Ok(node.world.host().line("ip route get 10.77.0.2")?.text()) };
    let before = (route(&node)?, links(&node)?);
    for lie in ["gateway-of-a-pod", "gateway-of-the-next-pod"] {
        let mut conf = honest.clone();
        conf["ipam"]["lie"] = json!(lie);
        let error = node.call("ADD", &Attach::eth0("b"), &conf)?.error()?;
        ensure!(error.code == 101 && error.msg.contains("gateway"), "{lie}: {} {}", error.code, error.msg);
        ensure!((route(&node)?, links(&node)?) == before, "{lie}: the host changed: {}", route(&node)?);
        node.clean_of("b")?;
    }
    Ok(())
}

/// If IPAM names no gateway, a bridge uses the subnet's first address. A pod may have it if the operator declared
/// another gateway.
fn gateway_that_a_bridge_takes(guests: &Guests) -> Result<()> {
    let mut node = Node::with(&guests.get("hostile")?)?;
    let ranges = json!([[{ "subnet": "10.77.0.0/24", "gateway": "10.77.0.254" }]]);
    let lie = node.conf(&json!({ "ranges": ranges, "lie": "no-gateway" }));
    let error = node.call("ADD", &Attach::eth0("a"), &lie)?.error()?;
    ensure!(error.code == 101 && error.msg.contains("10.77.0.1,"), "{} {}", error.code, error.msg);
    node.clean_of("a")?;
    let honest = node.conf(&json!({ "ranges": ranges }));
    node.call("ADD", &Attach::eth0("a"), &honest)?.result()?;
    let address = node.world.host().line("ip -br address show own0")?.text();
    ensure!(address.contains("10.77.0.254/24"), "{address}");
    // Without a gateway on the host, a policy may leave it out.
    let mut layer2 = node.conf(&json!({ "ranges": ranges, "lie": "no-gateway" }));
    layer2["delegate"]["isGateway"] = json!(false);
    node.call("ADD", &Attach::eth0("b"), &layer2)?.result()?;
    Ok(())
}

/// Only the candidate that an ADD gets leads to a plan. Cases and replays judge the same one.
fn gateway_of_the_claimed_candidate(guests: &Guests) -> Result<()> {
    let mut node = Node::with(&guests.get("hostile")?)?;
    // A bridge takes 10.77.0.1 for the first candidate, which a pod may get, and 10.78.0.1 for the second.
    let ranges = json!([[{ "subnet": "10.77.0.0/24", "gateway": "10.77.0.254" }, { "subnet": "10.78.0.0/24" }]]);
    let twice = node.conf(&json!({ "ranges": ranges, "lie": "no-gateway-twice" }));
    let error = node.call("ADD", &Attach::eth0("a"), &twice)?.error()?;
    ensure!(error.code == 101 && error.msg.contains("10.77.0.1,"), "{} {}", error.code, error.msg);
    node.clean_of("a")?;
    let mut layer2 = node.conf(&json!({ "ranges": ranges, "lie": "no-gateway" }));
    layer2["delegate"]["isGateway"] = json!(false);
    node.call("ADD", &Attach::eth0("b"), &layer2)?.result()?;
    let result = node.call("ADD", &Attach::eth0("c"), &twice)?.result()?;
    ensure!(result.pointer("/ips/0/address") == Some(&json!("10.78.0.9/24")), "{result}");
    for (container, kind) in [("a", "refused"), ("c", "candidates")] {
        let same = node.world.weftctl(&["policy", "replay", &container_id(container)])?;
        ensure!(same.pointer("/0/same") == Some(&json!(true)), "{container}: {same}");
        ensure!(same.pointer("/0/recorded").is_some_and(|recorded| recorded.get(kind).is_some()), "{same}");
    }
    records::claimed_candidate(&node, &twice)
}

fn links(node: &Node) -> Result<String> {
    Ok(node.world.host().line("ip -br link")?.text())
}

/// A policy's text cannot write to a terminal or forge a line of a log.
fn control_characters(guests: &Guests) -> Result<()> {
    let mut node = Node::with(&guests.get("hostile")?)?;
    let conf = node.conf(&json!({ "lie": "control-characters" }));
    let reply = node.call("ADD", &Attach::eth0("a"), &conf)?;
    let error = reply.error()?;
    ensure!(error.code == 100, "code {} ({})", error.code, error.msg);
    ensure!(error.msg.contains("first line") && error.msg.contains("second"), "msg {:?}", error.msg);
    ensure!(!error.msg.chars().any(char::is_control), "msg {:?}", error.msg);
    ensure!(!reply.stderr.contains('\u{1b}'), "stderr {:?}", reply.stderr);
    Ok(())
}

/// A reason of megabytes is refused or cut; it is never stored or shown whole.
fn huge_reason(guests: &Guests) -> Result<()> {
    let mut node = Node::with(&guests.get("hostile")?)?;
    let conf = node.conf(&json!({ "lie": "huge-reason" }));
    let reply = node.call("ADD", &Attach::eth0("a"), &conf)?;
    ensure!(reply.stdout.len() < 16384 && reply.stderr.len() < 65536, "{} bytes", reply.stdout.len());
    if reply.ok() {
        let why = node.world.weftctl(&["explain", "cid-a"])?.to_string();
        ensure!(why.len() < 65536, "explain prints {} bytes", why.len());
    } else {
        ensure!(reply.error()?.code == 101, "{:?}", reply.error()?);
        node.clean_of("a")?;
    }
    node.call("DEL", &Attach::eth0("a"), &conf)?.quiet()
}

/// The error names the file; once it exists, ADD works.
fn missing_file(guests: &Guests) -> Result<()> {
    let mut node = Node::new()?;
    let conf = node.conf(&json!({}));
    let error = node.call("ADD", &Attach::eth0("a"), &conf)?.error()?;
    let path = node.policy.display().to_string();
    ensure!(error.msg.contains(&path) || error.details.contains(&path), "{error:?} does not name {path}");
    node.clean_of("a")?;
    fs::write(&node.policy, guests.get("low")?).context("write the policy")?;
    ensure!(node.add("a")? == "10.77.0.2/24", "with the file it works");
    node.del("a")
}

/// Bytes that are no component, and a core module, which is no component either.
fn no_component(guests: &Guests) -> Result<()> {
    for content in [&b"this is not WebAssembly"[..], b"", b"\0asm\x01\0\0\0"] {
        let mut node = Node::with(content)?;
        let conf = node.conf(&json!({}));
        let error = node.call("ADD", &Attach::eth0("a"), &conf)?.error()?;
        ensure!(matches!(error.code, 7 | 101), "code {} ({})", error.code, error.msg);
        let path = node.policy.display().to_string();
        ensure!(error.msg.contains(&path) || error.details.contains(&path), "{error:?} does not name {path}");
        node.clean_of("a")?;
        replace_by_rename(&node.policy, &guests.get("low")?)?;
        ensure!(node.add("a")? == "10.77.0.2/24", "with a policy it works");
        node.del("a")?;
    }
    Ok(())
}

/// DEL needs the journal alone: no policy, no compiled cache, no namespace, no prevResult.
fn del_without_policy(guests: &Guests) -> Result<()> {
    let mut node = Node::with(&guests.get("low")?)?;
    node.add("a")?;
    node.add("b")?;
    fs::remove_file(&node.policy).context("remove the policy")?;
    for dir in ["cache", "policies"] {
        fs::remove_dir_all(node.world.state().join(dir)).with_context(|| format!("remove {dir}"))?;
    }
    node.del("a")?;
    node.clean_of("a")?;
    node.world.remove_container("b");
    let bare = json!({ "cniVersion": "1.1.0", "name": "own", "type": "weft" });
    let mut call = node.world.prepare("DEL", &Attach::eth0("b"), &bare)?;
    call.netns = Some(String::new());
    node.world.run(&call, "weft")?.quiet()?;
    ensure!(node.world.claims()?.is_empty(), "claims are left");
    let state = observe::world(&node.world, &mut weft_kit::names::Names::default())?;
    ensure!(observe::random_links(&state).is_empty(), "links are left: {:?}", observe::random_links(&state));
    Ok(())
}

/// STATUS asks the policy whether it accepts its configuration.
fn status(guests: &Guests) -> Result<()> {
    let mut node = Node::with(&guests.get("high")?)?;
    let mut ask = |more: &Value| {
        let conf = node.conf(more);
        let mut call = node.world.prepare("STATUS", &Attach::eth0("a"), &conf)?;
        (call.container_id, call.netns, call.ifname) = (None, None, None);
        node.world.run(&call, "weft")
    };
    // A STATUS does not wait for the compiler; runtimes ask again.
    wait(PATIENCE, "the compiled policy", || Ok(ask(&json!({}))?.quiet().is_ok()))?;
    let error = ask(&json!({ "refuse-me": true }))?.error()?;
    ensure!(error.msg == "high does not like this", "msg {:?}", error.msg);
    // One address besides the gateway, and then none.
    let narrow = json!({ "ranges": [[{ "subnet": "10.77.0.0/30" }]] });
    ask(&narrow)?.quiet()?;
    let conf = node.conf(&narrow);
    node.call("ADD", &Attach::eth0("a"), &conf)?.result()?;
    let mut call = node.world.prepare("STATUS", &Attach::eth0("a"), &conf)?;
    (call.container_id, call.netns, call.ifname) = (None, None, None);
    let error = node.world.run(&call, "weft")?.error()?;
    ensure!(error.code == 50, "code {} ({})", error.code, error.msg);
    node.call("DEL", &Attach::eth0("a"), &conf)?.quiet()?;
    node.world.run(&call, "weft")?.quiet()
}

/// Returns the configuration with a key beside `ipam`.
fn with(conf: &Value, key: &str, value: &Value) -> Value {
    let mut conf = conf.clone();
    conf[key] = value.clone();
    conf
}

/// If the policy is missing or crashes, the fallback decides, and the trace says so. A refusal stays a refusal.
fn fallback_shipped(guests: &Guests) -> Result<()> {
    let mut node = Node::new()?;
    let conf = with(&node.conf(&json!({})), "fallback", &json!("host-local"));
    let result = node.call("ADD", &Attach::eth0("a"), &conf)?.result()?;
    ensure!(result.pointer("/ips/0/address") == Some(&json!("10.77.0.2/24")), "{result}");
    let why = node.world.weftctl(&["explain", "cid-a"])?.to_string();
    ensure!(why.contains("instead_of") && why.contains("does not exist"), "{why}");
    fs::write(&node.policy, guests.get("hostile")?)?;
    for lie in ["trap", "loop"] {
        let conf = with(&node.conf(&json!({ "lie": lie })), "fallback", &json!("host-local"));
        node.call("ADD", &Attach::eth0("b"), &conf)?.result()?;
        node.call("DEL", &Attach::eth0("b"), &conf)?.quiet()?;
    }
    let conf = with(&node.conf(&json!({ "lie": "outside" })), "fallback", &json!("host-local"));
    let error = node.call("ADD", &Attach::eth0("b"), &conf)?.error()?;
    ensure!(error.code == 101, "a decision that is refused is no fault: {error:?}");
    let conf = with(&node.conf(&json!({ "lie": "trap" })), "fallback", &json!("no-such-policy"));
    let error = node.call("ADD", &Attach::eth0("b"), &conf)?.error()?;
    ensure!(error.code == 101 && error.msg.contains("no-such-policy"), "{error:?}");
    node.clean_of("b")?;
    node.call("DEL", &Attach::eth0("a"), &conf)?.quiet()
}

/// weft keeps using the last component that worked when the file is replaced by an unusable one.
fn fallback_last_good(guests: &Guests) -> Result<()> {
    let mut node = Node::with(b"nothing yet")?;
    let conf = with(&node.conf(&json!({})), "fallback", &json!("last-good"));
    let error = node.call("ADD", &Attach::eth0("a"), &conf)?.error()?;
    ensure!(error.code == 101 && error.msg.contains("no policy has made a decision"), "{error:?}");
    replace_by_rename(&node.policy, &guests.get("low")?)?;
    node.call("ADD", &Attach::eth0("a"), &conf)?.result()?;
    replace_by_rename(&node.policy, b"not WebAssembly")?;
    let result = node.call("ADD", &Attach::eth0("b"), &conf)?.result()?;
    ensure!(result.pointer("/ips/0/address") == Some(&json!("10.77.0.3/24")), "{result}");
    let why = node.world.weftctl(&["explain", "cid-b"])?.to_string();
    ensure!(why.contains("last-good") && why.contains("not WebAssembly"), "{why}");
    for container in ["a", "b"] {
        node.call("DEL", &Attach::eth0(container), &conf)?.quiet()?;
    }
    Ok(())
}

/// A worker, which is a process of its own without a user, returns the same decision, trace and refusal.
fn isolated(guests: &Guests) -> Result<()> {
    let mut node = Node::with(&guests.get("high")?)?;
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
    node.call("STATUS", &Attach::eth0("c"), &conf)?.quiet()?;
    let replayed = node.world.weftctl(&["policy", "replay", &container_id("b")])?;
    ensure!(replayed.pointer("/0/same") == Some(&json!(true)), "{replayed}");
    node.del("a")?;
    node.del("b")
}

/// The policy of `monitor` gets the same request; weft records what it would have done, and does none of it.
fn monitor_compared(guests: &Guests) -> Result<()> {
    let mut node = Node::with(&guests.get("low")?)?;
    let other = node.world.scratch().join("other.wasm");
    fs::write(&other, guests.get("high")?)?;
    node.world.weftctl(&["policy", "compile", &other.display().to_string()])?;
    let reference = format!("file://{}", other.display());
    // As the agent makes it: from now on, calls count.
    let counters = node.world.state().join("counters");
    fs::write(&counters, "").context("make the counters")?;
    let monitored = with(&node.conf(&json!({})), "monitor", &json!({ "policy": reference }));
    let address = |node: &mut Node, container: &str, conf: &Value| -> Result<Value> {
        let result = node.call("ADD", &Attach::eth0(container), conf)?.result()?;
        result.pointer("/ips/0/address").cloned().context("an address")
    };
    ensure!(address(&mut node, "a", &monitored)? == json!("10.77.0.2/24"), "the network's own decides");
    let why = node.world.weftctl(&["explain", "cid-a"])?;
    let monitor = why.pointer("/0/monitor").context("a monitor")?;
    ensure!(monitor.pointer("/differences/0/part") == Some(&json!("addresses")), "{monitor}");
    ensure!(monitor.pointer("/differences/0/monitor") == Some(&json!("gives 10.77.0.254/24")), "{monitor}");
    ensure!(monitor.pointer("/outcome/decided/candidates/0/0") == Some(&json!("10.77.0.254/24")), "{monitor}");
    ensure!(node.world.claims()? == ["10.77.0.2"], "{:?}", node.world.claims());
    // The monitored policy does not see what the ADD then claimed.
    let same =
        with(&node.conf(&json!({})), "monitor", &json!({ "policy": format!("file://{}", node.policy.display()) }));
    ensure!(address(&mut node, "b", &same)? == json!("10.77.0.3/24"), "the next");
    let why = node.world.weftctl(&["explain", "cid-b"])?;
    ensure!(why.pointer("/0/monitor/differences").is_none(), "the same policy decides the same: {why}");
    // A refusal that the other policy would not have made.
    let mut strict = same.clone();
    strict["ipam"]["policy"] = json!(reference);
    let attach = Attach { container: "c", ifname: "net1", args: None };
    ensure!(node.call("ADD", &attach, &strict)?.error()?.code == 100, "high is for eth0 alone");
    let why = node.world.weftctl(&["explain", "cid-c"])?;
    let found = why.pointer("/0/failure/monitor/differences/0").context("a difference")?;
    ensure!(found["part"] == json!("answer") && found["monitor"] == json!("gives 10.77.0.4/24"), "{found}");
    // With one changed key it decides.
    let promoted = with(&node.conf(&json!({})), "monitor", &json!({ "policy": reference, "promoted": true }));
    ensure!(address(&mut node, "d", &promoted)? == json!("10.77.0.254/24"), "promoted");
    let why = node.world.weftctl(&["explain", "cid-d"])?;
    ensure!(why.pointer("/0/monitor/differences/0/monitor") == Some(&json!("gives 10.77.0.4/24")), "{why}");
    let own = format!("file://{}", node.policy.display());
    let counted = fs::read_to_string(&counters).context("read the counters")?;
    // A decision has its fuel as a fourth field.
    let fields = |line: &str| line.split('\t').take(3).collect::<Vec<_>>().join("\t");
    let of_policies: Vec<String> =
        counted.lines().filter_map(|line| line.strip_prefix("policy\town\t")).map(fields).collect();
    let expected = [
        format!("{own}\tactive\tdecided"),
        format!("{reference}\tmonitor\tdecided"),
        format!("{reference}\tcompared\tdifferent"),
        format!("{own}\tactive\tdecided"),
        format!("{own}\tmonitor\tdecided"),
        format!("{own}\tcompared\tsame"),
        format!("{reference}\tactive\tdenied"),
        format!("{own}\tmonitor\tdecided"),
        format!("{own}\tcompared\tdifferent"),
        format!("{reference}\tactive\tdecided"),
        format!("{own}\tmonitor\tdecided"),
        format!("{own}\tcompared\tdifferent"),
    ];
    ensure!(of_policies == expected, "{counted}");
    for container in ["a", "b", "d"] {
        node.del(container)?;
        node.clean_of(container)?;
    }
    Ok(())
}

/// A policy with keys of its own beside `host-local`, which refuses them: it has its own `ipam`, before and after it is promoted.
fn monitor_own_ipam(guests: &Guests) -> Result<()> {
    let mut node = Node::with(&guests.get("hostile")?)?;
    node.world.weftctl(&["policy", "compile", &node.policy.display().to_string()])?;
    let reference = format!("file://{}", node.policy.display());
    let network = |monitor: Value| {
        let mut conf = with(&node.conf(&json!({})), "monitor", &monitor);
        conf["ipam"] = json!({ "type": "host-local", "ranges": [[{ "subnet": "10.77.0.0/24" }]] });
        conf
    };
    let own = json!({ "ranges": [[{ "subnet": "10.77.0.0/24", "rangeStart": "10.77.0.100" }]], "lie": "none" });
    let watched = network(json!({ "policy": reference, "ipam": own }));
    let promoted = network(json!({ "policy": reference, "ipam": own, "promoted": true }));
    let mistaken = network(json!({ "policy": "host-local", "ipam": { "subnet": "10.77.0.0/24", "lie": "none" } }));
    let mut add = |container: &str, conf: &Value| -> Result<(Value, Value)> {
        let result = node.call("ADD", &Attach::eth0(container), conf)?.result()?;
        let why = node.world.weftctl(&["explain", &container_id(container)])?;
        let monitor = why.pointer("/0/monitor").context("a monitor")?.clone();
        Ok((result.pointer("/ips/0/address").cloned().context("an address")?, monitor))
    };
    let (address, monitor) = add("a", &watched)?;
    ensure!(address == json!("10.77.0.2/24"), "host-local decides by its own ranges: {address}");
    ensure!(monitor.pointer("/differences/0/monitor") == Some(&json!("gives 10.77.0.101/24")), "{monitor}");
    let (address, monitor) = add("b", &promoted)?;
    ensure!(address == json!("10.77.0.101/24"), "each keeps its configuration: {address}");
    ensure!(monitor.pointer("/differences/0/monitor") == Some(&json!("gives 10.77.0.3/24")), "{monitor}");
    let (_address, monitor) = add("c", &mistaken)?;
    let failed = monitor.pointer("/outcome/failed").and_then(Value::as_str).context("a failure")?;
    ensure!(failed.contains("unknown key \"lie\" in \"monitor.ipam\""), "{failed}");
    for container in ["a", "b", "c"] {
        node.call("DEL", &Attach::eth0(container), &watched)?.quiet()?;
        node.clean_of(container)?;
    }
    Ok(())
}

/// A monitored policy that is missing, traps, loops or lies changes no ADD, in any process, and the record says what it
/// did.
fn monitor_never_matters(guests: &Guests) -> Result<()> {
    let mut node = Node::with(&guests.get("low")?)?;
    let other = node.world.scratch().join("other.wasm");
    fs::write(&other, guests.get("hostile")?)?;
    node.world.weftctl(&["policy", "compile", &other.display().to_string()])?;
    let reference = format!("file://{}", other.display());
    for (lie, monitor, word) in [
        ("", "file:///nowhere.wasm", "does not exist"),
        ("trap", &reference, "crashed"),
        ("loop", &reference, "fuel"),
        ("memory", &reference, "memory"),
        ("outside", &reference, "203.0.113.7"),
    ] {
        for isolation in ["none", "worker"] {
            let text = json!({ "isolation": isolation }).to_string();
            fs::write(node.world.state().join("node.json"), text).context("write node.json")?;
            let conf = with(&node.conf(&json!({ "lie": lie })), "monitor", &json!({ "policy": monitor }));
            let result = node.call("ADD", &Attach::eth0("a"), &conf)?.result()?;
            ensure!(result.pointer("/ips/0/address") == Some(&json!("10.77.0.2/24")), "{lie}: {result}");
            let why = node.world.weftctl(&["explain", "cid-a"])?;
            let failed = why.pointer("/0/monitor/outcome/failed").and_then(Value::as_str).context("a failure")?;
            ensure!(failed.contains(word), "{lie}, {isolation}: {failed}");
            node.call("DEL", &Attach::eth0("a"), &conf)?.quiet()?;
            node.clean_of("a")?;
        }
    }
    Ok(())
}

/// A policy that is named by its digest comes from this node only, and has that digest.
fn pinned(guests: &Guests) -> Result<()> {
    let mut node = Node::with(&guests.get("high")?)?;
    let file = node.policy.display().to_string();
    let digest = node.world.weftctl(&["policy", "digest", &file])?;
    let digest = digest.get("digest").and_then(Value::as_str).context("a digest")?.to_owned();
    let reference = format!("configmap://kube-system/policies/high.wasm@{digest}");
    let named = |reference: &str| {
        let mut conf = node.conf(&json!({}));
        conf["ipam"]["policy"] = json!(reference);
        conf
    };
    let (conf, tag) = (named(&reference), named("oci://example.org/high:1"));
    let error = node.call("ADD", &Attach::eth0("a"), &tag)?.error()?;
    ensure!(error.code == 7 && error.msg.contains("has no digest"), "{error:?}");
    let error = node.call("ADD", &Attach::eth0("a"), &conf)?.error()?;
    ensure!(error.code == 7 && error.msg.contains("an ADD never fetches"), "{error:?}");
    fs::write(&node.policy, guests.get("low")?)?;
    ensure!(node.world.weftctl(&["policy", "add", &reference, &file]).is_err(), "another component is refused");
    fs::write(&node.policy, guests.get("high")?)?;
    node.world.weftctl(&["policy", "add", &reference, &file])?;
    let result = node.call("ADD", &Attach::eth0("a"), &conf)?.result()?;
    ensure!(result.pointer("/ips/0/address") == Some(&json!("10.77.0.254/24")), "{result}");
    let listed = node.world.weftctl(&["policy", "ls"])?.to_string();
    ensure!(listed.contains(&digest) && listed.contains("ready"), "{listed}");
    node.call("DEL", &Attach::eth0("a"), &conf)?.quiet()
}

/// A policy sets routes that its network allows, and no others.
fn routes(guests: &Guests) -> Result<()> {
    let mut node = Node::with(&guests.get("hostile")?)?;
    let conf = node.conf(&json!({ "lie": "route" }));
    let error = node.call("ADD", &Attach::eth0("a"), &conf)?.error()?;
    ensure!(error.code == 101 && error.msg.contains("169.254.169.254/32"), "{error:?}");
    let error = node.call("ADD", &Attach::eth0("a"), &node.conf(&json!({ "lie": "name-server" })))?.error()?;
    ensure!(error.code == 101 && error.msg.contains("evil.example"), "{error:?}");
    node.clean_of("a")?;
    let opened = with(&conf, "grants", &json!({ "routes": ["169.254.0.0/16"] }));
    let result = node.call("ADD", &Attach::eth0("a"), &opened)?.result()?;
    ensure!(result.to_string().contains("169.254.169.254/32"), "{result}");
    node.call("DEL", &Attach::eth0("a"), &opened)?.quiet()
}

/// A policy in a scripting language works with the default limits. The first ADD does not wait for its compiler.
fn script(language: &str) -> Result<()> {
    let mut node = Node::with(&build_script_guest(language)?)?;
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
        node.call("DEL", &Attach::eth0(container), &conf(json!({}), json!(null)))?.quiet()?;
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
        ensure!(reply.ok(), "{verb}: {}", String::from_utf8_lossy(&reply.stdout));
        let lines = fs::read_to_string(&log).context("read strace's log")?;
        seen += lines.lines().filter(|line| line.contains("execve(") && line.ends_with("= 0")).count();
    }
    Ok(seen)
}
