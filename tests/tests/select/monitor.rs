//! Monitored delegate policies: they are asked beside the one that decides, are recorded and replayed, and change nothing.

use std::fs;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use weft_kit::programs::Guests;

use super::{LIES, Node};

/// `select.monitor`: weft records what the other policy would have chosen, and does none of it; with one changed key it
/// decides.
pub(super) fn monitor(guests: &Guests) -> Result<()> {
    let mut node = Node::with_policy(&guests.get("pick-first")?)?;
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
    ensure!(node.ask_status(&status)?.expect_quiet().is_ok(), "STATUS asks the network's own");
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
pub(super) fn monitor_own_select(guests: &Guests) -> Result<()> {
    let mut node = Node::with_policy(&guests.get("pick-first")?)?;
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
pub(super) fn cases(guests: &Guests) -> Result<()> {
    let node = Node::with_policy(&guests.get("pick-first")?)?;
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
pub(super) fn monitor_never_matters(guests: &Guests) -> Result<()> {
    let mut node = Node::with_policy(&guests.get("pick-last")?)?;
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
