//! Delegate policies end to end: pods of one network get one delegate or another, a new file takes effect with the next
//! ADD, and a hostile policy's answers are refused within the limits. flannel's own program is in `flannel.rs`.

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

    fn with(component: &[u8]) -> Result<Self> {
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
        self.call("DEL", container, &bare)?.quiet().with_context(|| format!("DEL {container}"))
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

/// `select.monitor`: weft records what the other policy would have chosen, and does none of it; with one changed key it
/// decides.
fn monitor(guests: &Guests) -> Result<()> {
    let mut node = Node::with(&guests.get("pick-first")?)?;
    let other = node.world.scratch().join("other.wasm");
    fs::write(&other, guests.get("pick-last")?)?;
    node.world.weftctl(&["policy", "compile", &other.display().to_string()])?;
    let reference = format!("file://{}", other.display());
    let conf = node.conf(&json!({ "monitor": { "policy": reference } }));
    ensure!(node.add("a", &conf)? == "10.77.0.2/24", "the network's own decides");
    let why = node.explain("a")?;
    let watched = why.pointer("/0/choiceMonitor").context("a monitor")?;
    ensure!(watched.pointer("/outcome/chosen/delegate") == Some(&json!("two")), "{watched}");
    let found = json!([{ "part": "delegate", "active": "picks one", "monitor": "picks two" }]);
    ensure!(watched["differences"] == found, "{watched}");
    ensure!(!node.links()?.contains("two0"), "what is only watched makes no link");
    ensure!(
        why.pointer("/0/choice/request/config").is_some_and(|config| !config.to_string().contains("monitor")),
        "a policy is not told that it is watched: {why}"
    );
    // The same answer, and a refusal that the other policy would not have made.
    let same = node.conf(&json!({ "monitor": { "policy": format!("file://{}", node.policy.display()) } }));
    node.add("b", &same)?;
    let why = node.explain("b")?;
    ensure!(why.pointer("/0/choiceMonitor/outcome").is_some(), "{why}");
    ensure!(why.pointer("/0/choiceMonitor/differences").is_none(), "the same policy chooses the same: {why}");
    let strict = node.conf(&json!({ "lie": "no-one", "monitor": { "policy": reference } }));
    ensure!(node.call("ADD", "c", &strict)?.error()?.code == 100, "the network's own refuses");
    let why = node.explain("c")?;
    let found = why.pointer("/0/failure/monitor/differences/0").context("a difference")?;
    ensure!(found["part"] == json!("answer") && found["monitor"] == json!("picks two"), "{found}");
    let promoted = node.conf(&json!({ "monitor": { "policy": reference, "promoted": true } }));
    ensure!(node.add("d", &promoted)? == "10.78.0.2/24", "promoted");
    let why = node.explain("d")?;
    ensure!(why.pointer("/0/choiceMonitor/differences/0/monitor") == Some(&json!("picks one")), "{why}");
    let mut status = conf.clone();
    ensure!(node.ask_status(&status)?.quiet().is_ok(), "STATUS asks the network's own");
    status["select"]["monitor"]["polcy"] = json!("x");
    let error = node.call("ADD", "e", &status)?.error()?;
    ensure!(error.msg.contains("polcy") && error.msg.contains("did you mean"), "{error:?}");
    for container in ["a", "b", "d"] {
        node.del_bare(container, "own")?;
    }
    Ok(())
}

/// A monitored policy with a `select` object of its own sees that one and its files, before and after it is promoted.
/// `by-label-delegate`, which decides, refuses its keys.
fn monitor_own_select(guests: &Guests) -> Result<()> {
    let mut node = Node::with(&guests.get("pick-first")?)?;
    node.world.weftctl(&["policy", "compile", &node.policy.display().to_string()])?;
    let declared = node.world.scratch().join("table");
    fs::write(&declared, "rack 1")?;
    let monitor = json!({ "policy": format!("file://{}", node.policy.display()),
                          "select": { "lie": "set", "files": { "table": declared } } });
    let conf = |monitor: &Value, node: &Node| {
        let mut conf = node.conf(&json!({}));
        conf["select"] = json!({ "policy": "by-label-delegate", "default": "two", "monitor": monitor });
        conf
    };
    let watched = conf(&monitor, &node);
    ensure!(node.add("a", &watched)? == "10.78.0.2/24", "by-label-delegate decides by its own keys");
    let why = node.explain("a")?;
    let config = why.pointer("/0/choice/request/config").and_then(Value::as_str).context("a configuration")?;
    ensure!(!config.contains("lie") && !config.contains("monitor"), "{config}");
    ensure!(why.pointer("/0/choiceMonitor/outcome/chosen/delegate") == Some(&json!("one")), "{why}");
    ensure!(why.pointer("/0/choiceMonitor/outcome/chosen/settings") == Some(&json!([["mtu", 1300]])), "{why}");
    let mut promoted = monitor.clone();
    promoted["promoted"] = json!(true);
    let promoted = conf(&promoted, &node);
    ensure!(node.add("b", &promoted)? == "10.77.0.2/24", "each keeps its configuration");
    let why = node.explain("b")?;
    ensure!(why.pointer("/0/choice/request/files/0/content") == Some(&json!("rack 1")), "{why}");
    ensure!(why.pointer("/0/choice/settings") == Some(&json!([["mtu", 1300]])), "{why}");
    ensure!(why.pointer("/0/choiceMonitor/outcome/chosen/delegate") == Some(&json!("two")), "{why}");
    // Mistakes in it are found before, and change no ADD.
    let file = node.world.scratch().join("conf.json");
    let mistaken = conf(&json!({ "policy": "by-label-delegate", "select": { "default": "one", "rulez": [] } }), &node);
    fs::write(&file, mistaken.to_string())?;
    let mut command = std::process::Command::new("/usr/local/bin/weftctl");
    command.args(["--json", "--state-dir"]).arg(node.world.state()).args(["policy", "check"]).arg(&file);
    let output = weft_kit::process::output(&node.world.place()?, command, b"", weft_kit::process::LIMIT)?;
    ensure!(output.status == Some(1), "{}", output.text());
    ensure!(output.text().contains("rulez") && output.text().contains("select.monitor.select"), "{}", output.text());
    ensure!(node.add("c", &mistaken)? == "10.78.0.3/24", "a mistake of the monitor changes no ADD");
    let why = node.explain("c")?;
    let found = why.pointer("/0/choiceMonitor/differences/0").context("a difference")?;
    ensure!(found["part"] == json!("answer") && found["monitor"].to_string().contains("rulez"), "{found}");
    // A file that cannot be used is the monitor's failure.
    let mut unusable = monitor.clone();
    unusable["select"]["files"]["table"] = json!(node.world.scratch());
    ensure!(node.add("d", &conf(&unusable, &node))? == "10.78.0.4/24", "nor does a file that it cannot have");
    let why = node.explain("d")?;
    ensure!(why.pointer("/0/choiceMonitor/outcome/failed").is_some(), "{why}");
    for container in ["a", "b", "c", "d"] {
        node.del_bare(container, "own")?;
    }
    Ok(())
}

/// Whatever an ADD refuses, a case refuses, with the same words.
fn cases(guests: &Guests) -> Result<()> {
    let node = Node::with(&guests.get("pick-first")?)?;
    let project = node.world.scratch().join("project");
    fs::create_dir_all(project.join("cases"))?;
    let file = |lie: &str| project.join("cases").join(format!("{lie}.json"));
    for (lie, _code, _words) in LIES {
        fs::write(file(lie), json!({ "network": node.conf(&json!({ "lie": lie })) }).to_string())?;
    }
    fs::write(file("set"), json!({ "network": node.conf(&json!({ "lie": "set" })) }).to_string())?;
    let (dir, policy) = (project.display().to_string(), node.policy.display().to_string());
    node.world.weftctl(&["policy", "test", &dir, "--policy", &policy, "--update"])?;
    let expect = |lie: &str| -> Result<Value> {
        let case: Value = serde_json::from_slice(&fs::read(file(lie))?)?;
        Ok(case["expect"].clone())
    };
    for (lie, _code, words) in LIES {
        let expect = expect(lie)?;
        let text = ["refused", "error", "message"].iter().find_map(|key| expect.get(*key)?.as_str().map(str::to_owned));
        let text = text.with_context(|| format!("{lie} passes: {expect}"))?;
        ensure!(text.contains(words), "{lie}: no {words:?} in {text}");
    }
    let set = expect("set")?;
    ensure!(set == json!({ "delegate": "one", "settings": { "mtu": 1300 } }), "{set}");
    Ok(())
}

/// A monitored policy that is missing, traps, loops or makes an impossible choice changes no ADD; the record says what
/// it did.
fn monitor_never_matters(guests: &Guests) -> Result<()> {
    let mut node = Node::with(&guests.get("pick-last")?)?;
    let other = node.world.scratch().join("other.wasm");
    fs::write(&other, guests.get("pick-first")?)?;
    node.world.weftctl(&["policy", "compile", &other.display().to_string()])?;
    let reference = format!("file://{}", other.display());
    for (place, (lie, policy, word)) in [
        ("", "file:///nowhere.wasm", "does not exist"),
        ("trap", reference.as_str(), "crashed"),
        ("loop", &reference, "fuel"),
        ("unknown-name", &reference, "which is not declared"),
        ("bad-value", &reference, "json: cannot"),
    ]
    .into_iter()
    .enumerate()
    {
        let container = format!("c{place}");
        let conf = node.conf(&json!({ "lie": lie, "monitor": { "policy": policy } }));
        ensure!(node.add(&container, &conf)? == format!("10.78.0.{}/24", place + 2), "{lie}");
        let why = node.explain(&container)?;
        let failed = why.pointer("/0/choiceMonitor/outcome/failed").and_then(Value::as_str);
        ensure!(failed.is_some_and(|failed| failed.contains(word)), "{lie}: {why}");
        node.del_bare(&container, "own")?;
    }
    Ok(())
}

/// One network: pods of one label get a macvlan on the node's wire, others the bridge; a pod that matches nothing gets
/// nothing.
fn by_label() -> Result<()> {
    let mut node = Node::new()?;
    node.world.add_outside()?;
    let conf = |labels: Value, default: Value| {
        json!({
            "cniVersion": "1.1.0", "name": "mixed", "type": "weft",
            "delegates": [
                { "name": "nat", "type": "bridge", "bridge": "nat0", "isGateway": true, "settable": ["mtu"] },
                { "name": "lan", "type": "macvlan", "master": "up0", "settable": ["mtu"],
                  "ipam": { "type": "host-local", "ranges": [[{ "subnet": "203.0.113.0/24", "rangeStart": "203.0.113.10" }]] } },
            ],
            "select": { "policy": "by-label-delegate", "default": default,
                        "rules": [{ "match": { "pod": { "tier": "gold" } }, "delegate": "lan", "set": { "mtu": 1300 } }] },
            "ipam": { "type": "host-local", "ranges": [[{ "subnet": "10.77.0.0/24" }]] },
            "args": { "cni": { "labels": labels } } })
    };
    ensure!(
        node.add("gold", &conf(json!({ "tier": "gold" }), json!("nat")))? == "203.0.113.10/24",
        "gold is on the wire"
    );
    ensure!(
        node.add("tin", &conf(json!({ "tier": "tin" }), json!("nat")))? == "10.77.0.2/24",
        "tin is behind the bridge"
    );
    ensure!(node.add("bare", &conf(json!({}), json!("nat")))? == "10.77.0.3/24", "so is who has no label");
    let (gold, tin) = (node.eth0("gold")?, node.eth0("tin")?);
    ensure!(gold.pointer("/linkinfo/info_kind") == Some(&json!("macvlan")), "{gold}");
    ensure!(gold["mtu"] == 1300, "the rule sets the MTU: {gold}");
    ensure!(tin.pointer("/linkinfo/info_kind") == Some(&json!("veth")) && tin["mtu"] == 1500, "{tin}");
    ensure!(node.world.reaches("gold", "203.0.113.2")?, "gold reaches the outside");
    ensure!(
        node.world.reaches("tin", "10.77.0.1")? && node.world.reaches("tin", "10.77.0.3")?,
        "tin reaches its bridge"
    );
    let result = node.call("CHECK", "gold", &{
        let mut conf = conf(json!({}), json!("nat"));
        conf["prevResult"] = json!({ "cniVersion": "1.1.0", "ips": [{ "address": "203.0.113.10/24" }] });
        conf
    })?;
    result.quiet().context("CHECK goes by the journal, whatever the labels say now")?;

    let error = node.call("ADD", "iron", &conf(json!({ "tier": "iron" }), json!(null)))?.error()?;
    ensure!(error.code == 100 && error.msg.contains("labels of the pod (tier=iron)"), "{error:?}");
    let why = node.explain("gold")?;
    let chosen = |pointer: &str| why.pointer(&format!("/0/choice/{pointer}")).cloned().unwrap_or_default();
    ensure!(chosen("delegate") == "lan" && chosen("settings") == json!([["mtu", 1300]]), "{why}");
    ensure!(chosen("reason") == "/rules/0 (pod tier=gold) chose lan", "{why}");
    ensure!(chosen("digest").as_str().is_some_and(|digest| digest.starts_with("sha256:")), "{why}");
    ensure!(why.pointer("/0/decision/policy") == Some(&json!("host-local")), "and the addresses' policy: {why}");
    for container in ["gold", "tin", "bare", "iron"] {
        node.del_bare(container, "mixed")?;
        ensure!(node.world.container(container)?.line("ip link show eth0").is_err(), "{container} has an eth0");
    }
    ensure!(node.world.claims()?.is_empty(), "claims are left");
    Ok(())
}

/// The node's labels in the state directory count too.
fn by_node_label() -> Result<()> {
    let mut node = Node::new()?;
    let mut conf = node.conf(&json!({
        "policy": "by-label-delegate", "default": "one",
        "rules": [{ "match": { "node": { "rack": "b" } }, "delegate": "two" }] }));
    ensure!(node.add("a", &conf)? == "10.77.0.2/24", "a node without labels");
    fs::write(node.world.state().join("node.json"), r#"{"labels": {"rack": "b"}}"#)?;
    ensure!(node.add("b", &conf)? == "10.78.0.2/24", "rack b");
    conf["select"]["rules"][0]["delegate"] = json!("three");
    let error = node.call("ADD", "c", &conf)?.error()?;
    ensure!(error.code == 7 && error.msg.contains("names the delegate \"three\"; there are one, two"), "{error:?}");
    fs::write(node.world.state().join("node.json"), "{")?;
    let error = node.call("ADD", "c", &conf)?.error()?;
    ensure!(error.code == 5 && error.msg.contains("node.json"), "{error:?}");
    node.del_bare("a", "own")?;
    node.del_bare("b", "own")
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
    let mut node = Node::with(&first)?;
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
        node.call("DEL", container, &conf)?.quiet()?;
    }
    ensure!(node.world.claims()?.is_empty(), "claims are left");
    Ok(())
}

/// A value that the operator lets the policy set reaches the link, and a long reason, or one with control characters,
/// is cut.
fn settings(guests: &Guests) -> Result<()> {
    let mut node = Node::with(&guests.get("pick-first")?)?;
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
    let mut node = Node::with(&guests.get("pick-first")?)?;
    let honest = node.conf(&json!({}));
    ensure!(node.add("a", &honest)? == "10.77.0.2/24", "without a lie it is honest");
    let before = node.links()?;
    let conf = node.conf(&json!({ "lie": lie }));
    let error = node.call("ADD", "b", &conf)?.error()?;
    ensure!(error.code == *code, "code {} ({} / {})", error.code, error.msg, error.details);
    ensure!(error.msg.contains(words), "no {words:?} in {:?}", error.msg);
    ensure!(error.msg.len() < 4096 && !error.msg.contains('\n'), "msg {:?}", error.msg);
    ensure!(node.links()? == before && node.world.claims()? == ["10.77.0.2"], "something changed");
    node.call("DEL", "b", &conf)?.quiet()?;
    ensure!(node.add("b", &honest)? == "10.77.0.3/24", "the next ADD works");
    node.del_bare("a", "own")?;
    node.del_bare("b", "own")
}

/// STATUS asks the policy about its configuration, and whether it would choose now.
fn status(guests: &Guests) -> Result<()> {
    let mut node = Node::with(&guests.get("pick-first")?)?;
    let sound = node.conf(&json!({}));
    // A STATUS does not wait for the compiler; runtimes ask again.
    weft_kit::dhcp::wait(weft_kit::dhcp::PATIENCE, "the compiled policy", || {
        Ok(node.ask_status(&sound)?.quiet().is_ok())
    })?;
    let refused = node.conf(&json!({ "refuse-me": true }));
    let error = node.ask_status(&refused)?.error()?;
    ensure!(error.code == 7 && error.msg == "pick-first does not like this beside 2 delegates", "{error:?}");
    let later = node.conf(&json!({ "lie": "try-again" }));
    let error = node.ask_status(&later)?.error()?;
    ensure!(error.code == 50 && error.msg == "not yet", "{error:?}");
    // A policy may deny a pod that has no labels and admit others.
    let choosy = node.conf(&json!({ "lie": "no-one" }));
    node.ask_status(&choosy)?.quiet()?;
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
    let mut node = Node::with(&guests.get("low")?)?;
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
    let mut node = Node::with(&guests.get("pick-first")?)?;
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
    let mut node = Node::with(&guests.get("pick-last")?)?;
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
    node.call("DEL", "a", &bare)?.quiet()?;
    ensure!(node.world.container("a")?.line("ip link show eth0").is_err(), "eth0 is left");
    ensure!(node.world.claims()?.is_empty(), "claims are left");
    Ok(())
}
