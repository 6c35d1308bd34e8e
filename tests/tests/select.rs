//! Delegate policies end to end: pods of one network get one delegate or another, a new file takes effect with the next
//! ADD, and a hostile policy's answers are refused within the limits. flannel's own program is in `flannel.rs`.

#[path = "select/labels.rs"]
mod labels;
#[path = "select/monitor.rs"]
mod monitor;

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use weft_kit::cni::Reply;
use weft_kit::programs::{Guests, Installation};
use weft_kit::sandbox;
use weft_kit::suite::{Need, Suite};
use weft_kit::world::{Attach, Subject, World, container_id};

use self::labels::{by_label, by_node_label};
use self::monitor::{cases, monitor, monitor_never_matters, monitor_own_select};

/// A lie of `pick-first`, the code of its error, and words of its `msg`.
const LIES: &[(&str, u64, &str)] = &[
    ("unknown-name", 101, "chose the delegate \"nosuch\", which is not declared (one, two)"),
    ("not-settable", 101, "set \"bridge\" of the delegate \"one\", which is not settable"),
    ("type", 101, "set \"type\" of the delegate \"one\", which is not settable"),
    ("not-json", 101, "set \"mtu\" to a text that is not JSON"),
    (
        "bad-value",
        101,
        "set mtu of the delegate \"one\", which then cannot be used: failed to load netconf: json: cannot",
    ),
    ("bad-ranges", 101, "set ipam.ranges of the delegate \"one\", which then cannot be used: invalid range set 0"),
    ("huge-name", 101, "returned more than"),
    ("huge-denial", 101, "returned more than"),
    ("many-settings", 101, "1000 settings, at most 64 are allowed"),
    ("trap", 101, "crashed"),
    ("loop", 101, "fuel"),
    ("memory", 101, "bytes of memory"),
    ("try-again", 11, "not yet"),
    ("no-one", 100, "nobody gets anything"),
];

fn main() -> ExitCode {
    sandbox::enter();
    let guests = Guests::default();
    let mut suite = Suite::new();
    let shipped = [Need::Sandbox, Need::Weft, Need::Weftctl];
    suite.test("by-label", &[&shipped[..], &[Need::LinkKind("macvlan")]].concat(), by_label);
    suite.test("by-node-label", &shipped, by_node_label);
    suite.test("check-and-plan", &shipped, check_and_plan);
    let needs = [Need::Sandbox, Need::Weft, Need::Weftctl, Need::Tool("cargo")];
    let mut test = |name: &str, body: fn(&Guests) -> Result<()>| {
        let guests = guests.clone();
        suite.test(name, &needs, move || body(&guests));
    };
    test("swap", swap);
    test("settings", settings);
    test("status", status);
    test("monitor", monitor);
    test("monitor/own-select", monitor_own_select);
    test("monitor/never-matters", monitor_never_matters);
    test("cases", cases);
    test("other-world", other_world);
    test("with-steps", with_steps);
    let with_reference = [&needs[..], &[Need::Reference]].concat();
    let own = guests.clone();
    suite.test("external", &with_reference, move || external(&own));
    for lie in LIES {
        let guests = guests.clone();
        suite.test(format!("hostile/{}", lie.0), &needs, move || hostile(&guests, lie));
    }
    suite.run_threads(Some(4))
}

/// A world with weft, and its network's policy file.
struct Node {
    world: World,
    policy: PathBuf,
}

impl Node {
    fn new() -> Result<Self> {
        let world = World::new(&Subject::weft(Installation::pristine()?))?;
        let policy = world.scratch().join("policy.wasm");
        Ok(Self { world, policy })
    }

    fn with_policy(component: &[u8]) -> Result<Self> {
        let node = Self::new()?;
        fs::write(&node.policy, component).context("write the policy")?;
        Ok(node)
    }

    /// Returns a network with two bridges; a policy may set some keys of the first.
    fn conf(&self, more: &Value) -> Value {
        let mut conf = json!({
            "cniVersion": "1.1.0", "name": "own", "type": "weft",
            "delegates": [
                { "name": "one", "type": "bridge", "bridge": "one0", "isGateway": true, "settable": ["mtu", "ipam.ranges"] },
                { "name": "two", "type": "bridge", "bridge": "two0",
                  "ipam": { "type": "host-local", "ranges": [[{ "subnet": "10.78.0.0/24" }]] } },
            ],
            "select": { "policy": format!("file://{}", self.policy.display()) },
            "ipam": { "type": "host-local", "ranges": [[{ "subnet": "10.77.0.0/24" }]] } });
        for (key, value) in more.as_object().into_iter().flatten() {
            conf["select"][key] = value.clone();
        }
        conf
    }

    fn call(&mut self, verb: &str, container: &str, conf: &Value) -> Result<Reply> {
        self.world.call(verb, &Attach::eth0(container), conf)
    }

    fn add(&mut self, container: &str, conf: &Value) -> Result<String> {
        let result = self.call("ADD", container, conf)?.result().with_context(|| format!("ADD {container}"))?;
        let address = result.pointer("/ips/0/address").and_then(Value::as_str);
        Ok(address.with_context(|| format!("no address in {result}"))?.to_owned())
    }

    /// Runs DEL as after a crash: with nothing but the name.
    fn del_bare(&mut self, container: &str, network: &str) -> Result<()> {
        let bare = json!({ "cniVersion": "1.1.0", "name": network, "type": "weft" });
        self.call("DEL", container, &bare)?.expect_quiet().with_context(|| format!("DEL {container}"))
    }

    fn ask_status(&mut self, conf: &Value) -> Result<Reply> {
        let mut call = self.world.prepare("STATUS", &Attach::eth0("a"), conf)?;
        (call.container_id, call.netns, call.ifname) = (None, None, None);
        self.world.run(&call, "weft")
    }

    fn explain(&self, container: &str) -> Result<Value> {
        self.world.weftctl(&["explain", &container_id(container)])
    }

    /// Returns `ip -d -j link show eth0` of a container.
    fn eth0(&mut self, container: &str) -> Result<Value> {
        let shown = self.world.container(container)?.line("ip -d -j link show eth0")?;
        let shown: Value = serde_json::from_slice(&shown.stdout).context("ip -j")?;
        shown.pointer("/0").cloned().context("no eth0")
    }

    fn links(&self) -> Result<String> {
        Ok(self.world.host().line("ip -br link")?.text())
    }
}

/// `weftctl` finds mistakes before a pod does, and shows what ADD would do.
fn check_and_plan() -> Result<()> {
    let mut node = Node::new()?;
    let file = node.world.scratch().join("conf.json");
    let sound =
        node.conf(&json!({ "policy": "by-label-delegate", "default": { "delegate": "one", "set": { "mtu": 1300 } } }));
    fs::write(&file, sound.to_string())?;
    let path = file.display().to_string();
    let checked = node.world.weftctl(&["policy", "check", &path])?;
    ensure!(checked["problems"] == json!([]), "{checked}");
    let netns = node.world.container("a")?.path().display().to_string();
    let plan = node.world.weftctl(&["plan", &path, "--netns", &netns])?;
    ensure!(plan.pointer("/choice/settings") == Some(&json!([["mtu", 1300]])), "{plan}");
    ensure!(plan.to_string().contains("one0"), "the plan is the chosen delegate's: {plan}");
    ensure!(node.world.claims()?.is_empty(), "nothing was claimed");

    let problems = |conf: &Value| -> Result<String> {
        fs::write(&file, conf.to_string())?;
        // Problems make the command fail, and are on its standard output as well.
        let mut command = std::process::Command::new("/usr/local/bin/weftctl");
        command.args(["--json", "--state-dir"]).arg(node.world.state()).args(["policy", "check", &path]);
        let output = weft_kit::process::output(&node.world.place()?, command, b"", weft_kit::process::LIMIT)?;
        ensure!(output.status == Some(1), "{}", output.text());
        Ok(output.text())
    };
    let mut wrong = sound.clone();
    wrong["select"]["default"] = json!({ "delegate": "one", "set": { "bridge": "x" } });
    let found = problems(&wrong)?;
    ensure!(found.contains("/default/set/bridge") && found.contains("does not list as settable"), "{found}");
    wrong["select"] = json!({ "policy": "by-label-delegate", "default": "one", "rulez": [] });
    let found = problems(&wrong)?;
    ensure!(found.contains("unknown key /rulez"), "{found}");
    let mut wrong = sound.clone();
    wrong["delegates"][1]["mtu"] = json!(-1);
    let found = problems(&wrong)?;
    ensure!(found.contains("invalid MTU -1"), "{found}");

    for name in ["flannel", "by-label-delegate"] {
        let shown = node.world.weftctl(&["policy", "inspect", name])?;
        ensure!(shown["kind"] == "delegate-policy" && shown["refused"].is_null(), "{shown}");
        let only_log = shown["imports"].as_array().is_some_and(|imports| {
            imports.iter().all(|import| import.as_str().is_some_and(|import| import.starts_with("weft:policy/")))
        });
        ensure!(only_log && shown.pointer("/schema/title") == Some(&json!(name)), "{shown}");
    }
    Ok(())
}

/// Between two ADDs only the file's content changes, and the new policy makes the next choice.
fn swap(guests: &Guests) -> Result<()> {
    let (first, last) = (guests.get("pick-first")?, guests.get("pick-last")?);
    let mut node = Node::with_policy(&first)?;
    let conf = node.conf(&json!({}));
    ensure!(node.add("a", &conf)? == "10.77.0.2/24", "the first");
    fs::write(&node.policy, &last)?;
    ensure!(node.add("b", &conf)? == "10.78.0.2/24", "the last");
    fs::write(&node.policy, &first)?;
    ensure!(node.add("c", &conf)? == "10.77.0.3/24", "the first again");
    for (container, reason) in [("a", "the first delegate"), ("b", "the last delegate")] {
        let why = node.explain(container)?;
        ensure!(why.pointer("/0/choice/reason") == Some(&json!(reason)), "{why}");
    }
    // DEL needs neither the policy nor the choice.
    fs::remove_file(&node.policy)?;
    for container in ["a", "b", "c"] {
        node.call("DEL", container, &conf)?.expect_quiet()?;
    }
    ensure!(node.world.claims()?.is_empty(), "claims are left");
    Ok(())
}

/// A value that the operator lets the policy set reaches the link, and a long reason, or one with control characters,
/// is cut.
fn settings(guests: &Guests) -> Result<()> {
    let mut node = Node::with_policy(&guests.get("pick-first")?)?;
    let set = node.conf(&json!({ "lie": "set" }));
    node.add("a", &set)?;
    ensure!(node.eth0("a")?["mtu"] == 1300, "{}", node.eth0("a")?);
    let loud = node.conf(&json!({ "lie": "long-reason" }));
    node.add("b", &loud)?;
    let why = node.explain("b")?;
    let reason = why.pointer("/0/choice/reason").and_then(Value::as_str).unwrap_or_default();
    ensure!(reason.len() < 600 && reason.starts_with("\\u{1b}[31mr"), "{reason:?}");
    node.del_bare("a", "own")?;
    node.del_bare("b", "own")
}

/// Checks how the host handles one wrong answer.
fn hostile(guests: &Guests, (lie, code, words): &(&str, u64, &str)) -> Result<()> {
    let mut node = Node::with_policy(&guests.get("pick-first")?)?;
    let honest = node.conf(&json!({}));
    ensure!(node.add("a", &honest)? == "10.77.0.2/24", "without a lie it is honest");
    let before = node.links()?;
    let conf = node.conf(&json!({ "lie": lie }));
    let error = node.call("ADD", "b", &conf)?.error()?;
    ensure!(error.code == *code, "code {} ({} / {})", error.code, error.msg, error.details);
    ensure!(error.msg.contains(words), "no {words:?} in {:?}", error.msg);
    ensure!(error.msg.len() < 4096 && !error.msg.contains('\n'), "msg {:?}", error.msg);
    ensure!(node.links()? == before && node.world.claims()? == ["10.77.0.2"], "something changed");
    node.call("DEL", "b", &conf)?.expect_quiet()?;
    ensure!(node.add("b", &honest)? == "10.77.0.3/24", "the next ADD works");
    node.del_bare("a", "own")?;
    node.del_bare("b", "own")
}

/// STATUS asks the policy about its configuration, and whether it would choose now.
fn status(guests: &Guests) -> Result<()> {
    let mut node = Node::with_policy(&guests.get("pick-first")?)?;
    let sound = node.conf(&json!({}));
    // A STATUS does not wait for the compiler; runtimes ask again.
    weft_kit::dhcp::wait(weft_kit::dhcp::PATIENCE, "the compiled policy", || {
        Ok(node.ask_status(&sound)?.expect_quiet().is_ok())
    })?;
    let refused = node.conf(&json!({ "refuse-me": true }));
    let error = node.ask_status(&refused)?.error()?;
    ensure!(error.code == 7 && error.msg == "pick-first does not like this beside 2 delegates", "{error:?}");
    let later = node.conf(&json!({ "lie": "try-again" }));
    let error = node.ask_status(&later)?.error()?;
    ensure!(error.code == 50 && error.msg == "not yet", "{error:?}");
    // A policy may deny a pod that has no labels and admit others.
    let choosy = node.conf(&json!({ "lie": "no-one" }));
    node.ask_status(&choosy)?.expect_quiet()?;
    // The chosen delegate is checked as if it were the only one.
    let mut full = sound.clone();
    full["ipam"]["ranges"] = json!([[{ "subnet": "10.77.0.0/30" }]]);
    node.add("a", &full)?;
    let error = node.ask_status(&full)?.error()?;
    ensure!(error.code == 50 && error.msg.contains("no IP addresses available"), "{error:?}");
    fs::remove_file(&node.policy)?;
    let error = node.ask_status(&sound)?.error()?;
    ensure!(error.code == 50 && error.msg.contains("does not exist"), "{error:?}");
    node.del_bare("a", "own")
}

/// Refuses a policy that picks addresses where one that picks a delegate is needed, and the other way round.
fn other_world(guests: &Guests) -> Result<()> {
    let mut node = Node::with_policy(&guests.get("low")?)?;
    let conf = node.conf(&json!({}));
    let error = node.call("ADD", "a", &conf)?.error()?;
    ensure!(error.code == 7 && error.msg.contains("set it in \"ipam\", not in \"select\""), "{error:?}");
    fs::write(&node.policy, guests.get("pick-first")?)?;
    ensure!(node.add("a", &conf)? == "10.77.0.2/24", "in its place it works");
    let mut wrong = json!({ "cniVersion": "1.1.0", "name": "own", "type": "weft", "delegate": { "type": "bridge" },
        "ipam": { "type": "wasm", "policy": format!("file://{}", node.policy.display()), "ranges": [[{ "subnet": "10.7.0.0/24" }]] } });
    let error = node.call("ADD", "b", &wrong)?.error()?;
    ensure!(error.code == 7 && error.msg.contains("set it in \"select\", not in \"ipam\""), "{error:?}");
    wrong["ipam"] = json!({ "type": "by-label-delegate", "ranges": [[{ "subnet": "10.7.0.0/24" }]] });
    let error = node.call("ADD", "b", &wrong)?.error()?;
    ensure!(error.code == 7 && error.msg.contains("the component is a delegate policy"), "{error:?}");
    let mut missing = conf.clone();
    missing["select"]["policy"] = json!("file:///nowhere/p.wasm");
    let error = node.call("ADD", "b", &missing)?.error()?;
    ensure!(error.code == 7 && error.msg.contains("/nowhere/p.wasm"), "{error:?}");
    node.del_bare("a", "own")
}

/// Steps belong to the network: they apply to whatever delegate is chosen.
fn with_steps(guests: &Guests) -> Result<()> {
    let mut node = Node::with_policy(&guests.get("pick-first")?)?;
    let mut conf = node.conf(&json!({}));
    conf["steps"] = json!([{ "type": "tuning", "mtu": 1350 }]);
    node.add("a", &conf)?;
    fs::write(&node.policy, guests.get("pick-last")?)?;
    ensure!(node.add("b", &conf)? == "10.78.0.2/24", "the last");
    for container in ["a", "b"] {
        let link = node.eth0(container)?;
        ensure!(link["mtu"] == 1350, "{container}: {link}");
    }
    conf["steps"] = json!([{ "type": "tuning", "mtuu": 1 }]);
    let error = node.call("ADD", "c", &conf)?.error()?;
    ensure!(error.code == 7 && error.msg.contains("unknown key \"mtuu\" in \"steps\""), "{error:?}");
    node.del_bare("a", "own")?;
    node.del_bare("b", "own")?;
    ensure!(node.world.claims()?.is_empty(), "claims are left");
    Ok(())
}

/// The chosen delegate may be another plugin: weft execs it, it calls weft for addresses, and DEL knows it.
fn external(guests: &Guests) -> Result<()> {
    let mut node = Node::with_policy(&guests.get("pick-last")?)?;
    let bin = node.world.scratch().join("plugins");
    fs::create_dir(&bin)?;
    std::os::unix::fs::symlink(node.world.plugin("weft"), bin.join("weft"))?;
    let bridge = weft_kit::programs::reference_dir().map_err(anyhow::Error::msg)?.join("bridge");
    fs::copy(bridge, bin.join("their-bridge"))?;
    node.world.add_path(&bin);
    let mut conf = node.conf(&json!({}));
    // The stock binary does not support CNI 1.1.0.
    conf["cniVersion"] = json!("1.0.0");
    conf["delegates"] = json!([
        { "name": "one", "type": "bridge", "bridge": "one0" },
        { "name": "theirs", "type": "their-bridge", "bridge": "their0" },
    ]);
    ensure!(node.add("a", &conf)? == "10.77.0.2/24", "by way of weft-ipam");
    node.world.host().line("ip link show their0").context("the other plugin made its bridge")?;
    let why = node.explain("a")?;
    let chosen = why.as_array().into_iter().flatten().find_map(|entry| entry.pointer("/choice/delegate"));
    ensure!(chosen == Some(&json!("theirs")), "{why}");
    let bare = json!({ "cniVersion": "1.0.0", "name": "own", "type": "weft" });
    node.call("DEL", "a", &bare)?.expect_quiet()?;
    ensure!(node.world.container("a")?.line("ip link show eth0").is_err(), "eth0 is left");
    ensure!(node.world.claims()?.is_empty(), "claims are left");
    Ok(())
}
