//! What an author's commands say of a decision, compared with what an ADD did: cases, replays, exported records.

use super::*;

/// Lies that have trials of their own in this suite.
const MORE_LIES: &[(&str, &str)] = &[("route", "169.254.169.254/32"), ("name-server", "evil.example")];

/// Runs `weftctl`, which is to report a failure, and returns its document.
fn fails(node: &Node, arguments: &[&str]) -> Result<Value> {
    let (status, document) = run_weftctl(node, arguments)?;
    ensure!(status == Some(1), "{arguments:?} ended with {status:?}: {document}");
    Ok(document)
}

fn run_weftctl(node: &Node, arguments: &[&str]) -> Result<(Option<i32>, Value)> {
    let mut command = Command::new("/usr/local/bin/weftctl");
    command.arg("--json").arg("--state-dir").arg(node.world.state()).args(arguments);
    let output = process::output(&node.world.place()?, command, b"", LIMIT * 6)?;
    let document = serde_json::from_slice(&output.stdout);
    Ok((output.status, document.with_context(|| format!("{arguments:?}: {}{}", output.text(), output.stderr))?))
}

/// A directory with cases.
struct Project {
    dir: PathBuf,
}

impl Project {
    fn new(node: &Node, name: &str) -> Result<Self> {
        let dir = node.world.scratch().join(name);
        fs::create_dir_all(dir.join("cases")).context("create the project")?;
        Ok(Self { dir })
    }

    fn path(&self) -> String {
        self.dir.display().to_string()
    }

    fn cases(&self) -> String {
        self.dir.join("cases").display().to_string()
    }

    fn write(&self, name: &str, case: &Value) -> Result<()> {
        fs::write(self.dir.join("cases").join(format!("{name}.json")), case.to_string()).context("write a case")
    }

    fn read(&self, name: &str) -> Result<Value> {
        let text = fs::read(self.dir.join("cases").join(format!("{name}.json"))).context("read a case")?;
        Ok(serde_json::from_slice(&text)?)
    }
}

/// Whatever an ADD refuses, a case refuses, with the same words.
pub(super) fn cases(guests: &Guests) -> Result<()> {
    let node = Node::with_policy(&guests.get("hostile")?)?;
    let project = Project::new(&node, "project")?;
    let lies = || LIES.iter().map(|(lie, _codes, word)| (*lie, *word)).chain(MORE_LIES.iter().copied());
    for (lie, _word) in lies() {
        let claims = json!([{ "address": "10.77.0.2", "owner": "another" }]);
        project.write(lie, &json!({ "network": node.conf(&json!({ "lie": lie })), "claims": claims }))?;
    }
    // A bridge takes the first address as its gateway; a ptp link cannot do without one.
    let ranges = json!([[{ "subnet": "10.77.0.0/24", "gateway": "10.77.0.254" }]]);
    let without = node.conf(&json!({ "ranges": ranges, "lie": "no-gateway" }));
    project.write("on-a-bridge", &json!({ "network": without }))?;
    let ptp = with_key(&without, "delegate", &json!({ "type": "ptp" }));
    project.write("on-ptp", &json!({ "network": ptp }))?;
    let layer2 = with_key(&without, "delegate", &json!({ "type": "bridge", "bridge": "own0" }));
    project.write("honest-on-layer-2", &json!({ "network": layer2 }))?;
    let opened = json!({ "routes": ["169.254.0.0/16"] });
    project.write(
        "honest-route",
        &json!({ "network": with_key(&node.conf(&json!({ "lie": "route" })), "grants", &opened) }),
    )?;
    let policy = node.policy.display().to_string();
    node.world.weftctl(&["policy", "test", &project.path(), "--policy", &policy, "--update"])?;
    let more = [("on-a-bridge", "10.77.0.1,"), ("on-ptp", "needs a gateway")];
    for (lie, word) in lies().chain(more) {
        let expect = project.read(lie)?["expect"].clone();
        let text = ["refused", "error", "message"].iter().find_map(|key| expect.get(*key)?.as_str().map(str::to_owned));
        let text = text.with_context(|| format!("{lie} passes: {expect}"))?;
        ensure!(text.contains(word), "{lie}: no {word:?} in {text}");
        let is_refused = expect.get("refused").is_some();
        let ended = ["trap", "loop", "memory", "stack", "many-questions", "huge-denial"].contains(&lie);
        ensure!(is_refused != ended, "{lie}: {expect}");
        ensure!(!is_refused || !text.contains("policy \""), "a case that is moved expects another text: {text}");
    }
    for honest in ["honest-on-layer-2", "honest-route"] {
        let expect = project.read(honest)?["expect"].clone();
        ensure!(expect["addresses"] == json!(["10.77.0.9/24"]), "{honest}: {expect}");
    }
    // The first candidate that is free is claimed.
    fs::write(&node.policy, guests.get("high")?)?;
    let claims = json!([{ "address": "10.77.0.254", "owner": "another" }]);
    project.write("second", &json!({ "network": node.conf(&json!({})), "claims": claims }))?;
    let one = ["policy", "test", &project.path(), "--policy", &policy, "--filter", "second"];
    node.world.weftctl(&[&one[..], &["--update"]].concat())?;
    let expect = project.read("second")?["expect"].clone();
    ensure!(expect["addresses"] == json!(["10.77.0.253/24"]), "{expect}");
    Ok(())
}

/// A case whose first candidate is taken is judged by the second one.
pub(super) fn claimed_candidate(node: &Node, network: &Value) -> Result<()> {
    let project = Project::new(node, "claimed")?;
    let claims = json!([{ "address": "10.77.0.9", "owner": "another" }]);
    project.write("free", &json!({ "network": network }))?;
    project.write("taken", &json!({ "network": network, "claims": claims }))?;
    let policy = node.policy.display().to_string();
    node.world.weftctl(&["policy", "test", &project.path(), "--policy", &policy, "--update"])?;
    let expect = |name: &str| -> Result<Value> { Ok(project.read(name)?["expect"].clone()) };
    ensure!(expect("free")?["refused"].is_string(), "{}", expect("free")?);
    ensure!(expect("taken")?["addresses"] == json!(["10.78.0.9/24"]), "{}", expect("taken")?);
    Ok(())
}

/// A recorded decision replays to the same result, and another policy shows what it would have decided.
pub(super) fn replay(guests: &Guests) -> Result<()> {
    let mut node = Node::with_policy(&guests.get("low")?)?;
    node.add("a")?;
    let same = node.world.weftctl(&["policy", "replay", "cid-a"])?;
    ensure!(same.pointer("/0/same") == Some(&json!(true)), "{same}");
    let other = node.world.scratch().join("high.wasm").display().to_string();
    fs::write(&other, guests.get("high")?)?;
    let differs = fails(&node, &["policy", "replay", "cid-a", "--policy", &other])?;
    ensure!(differs.pointer("/0/same") == Some(&json!(false)), "{differs}");
    ensure!(differs.pointer("/0/recorded/candidates/0/0") == Some(&json!("10.77.0.2/24")), "{differs}");
    ensure!(differs.pointer("/0/replayed/candidates/0/0") == Some(&json!("10.77.0.254/24")), "{differs}");
    ensure!(differs.pointer("/0/replayed/error").is_none(), "{differs}");
    // A record that had to be shortened says so.
    let mut document = node.world.weftctl(&["explain", "cid-a"])?;
    ensure!(document.pointer("/0/truncated") == Some(&json!([])), "{document}");
    document[0]["truncated"] = json!(["annotations"]);
    let file = node.world.scratch().join("trace.json").display().to_string();
    fs::write(&file, document.to_string())?;
    let lacking = node.world.weftctl(&["policy", "replay", &file])?;
    ensure!(lacking.pointer("/0/truncated") == Some(&json!(["annotations"])), "{lacking}");
    node.del("a")
}

/// A decision that weft refused, and a call that failed, replay to the same result, and so do their exported cases.
pub(super) fn replay_of_what_failed(guests: &Guests) -> Result<()> {
    let mut node = Node::with_policy(&guests.get("hostile")?)?;
    let own = node.policy.display().to_string();
    let gateway = json!([[{ "subnet": "10.77.0.0/24", "gateway": "10.77.0.254" }]]);
    for (container, lie, ranges, kind) in [
        ("a", "outside", None, "refused"),
        ("b", "next-hop", None, "refused"),
        ("c", "route", None, "refused"),
        ("d", "gateway-of-the-next-pod", None, "refused"),
        ("e", "no-gateway", Some(&gateway), "refused"),
        ("f", "trap", None, "error"),
        ("g", "loop", None, "error"),
    ] {
        let mut conf = node.conf(&json!({ "lie": lie }));
        if let Some(ranges) = ranges {
            conf["ipam"]["ranges"] = ranges.clone();
        }
        ensure!(node.call("ADD", &Attach::eth0(container), &conf)?.error()?.code == 101, "{lie}");
        let id = container_id(container);
        let same = node.world.weftctl(&["policy", "replay", &id])?;
        ensure!(same.pointer("/0/same") == Some(&json!(true)), "{lie}: {same}");
        ensure!(same.pointer("/0/recorded").is_some_and(|recorded| recorded.get(kind).is_some()), "{lie}: {same}");
        let project = Project::new(&node, lie)?;
        let exported = node.world.weftctl(&["policy", "trace", "export", &id, "--out", &project.cases()])?;
        let path = exported.pointer("/written/0").and_then(Value::as_str).context("a file")?;
        let case: Value = serde_json::from_str(&fs::read_to_string(path)?)?;
        if kind == "refused" {
            ensure!(case.pointer("/expect/refused") == same.pointer("/0/recorded/refused"), "{lie}: {case}");
            node.world.weftctl(&["policy", "test", &project.path(), "--policy", &own]).context(lie)?;
        }
    }
    Ok(())
}

/// Replays, cases and exports have the limits of the network, whose policy may need more than the default.
pub(super) fn limits(guests: &Guests) -> Result<()> {
    let mut node = Node::with_policy(&guests.get("hostile")?)?;
    let own = node.policy.display().to_string();
    let busy = node.conf(&json!({ "lie": "busy" }));
    let error = node.call("ADD", &Attach::eth0("a"), &busy)?.error()?;
    ensure!(error.code == 101 && error.msg.contains("fuel"), "it fits into the default limits: {error:?}");
    let wide = with_key(&busy, "limits", &json!({ "fuel": 20_000_000_000_u64, "deadlineMs": 60_000 }));
    node.call("ADD", &Attach::eth0("b"), &wide)?.result()?;
    let same = node.world.weftctl(&["policy", "replay", "cid-b"])?;
    ensure!(same.pointer("/0/same") == Some(&json!(true)), "{same}");
    for redact in [false, true] {
        let project = Project::new(&node, &format!("redact-{redact}"))?;
        let cases = project.cases();
        let mut export = vec!["policy", "trace", "export", "cid-b", "--out", &cases];
        export.extend(redact.then_some("--redact"));
        let exported = node.world.weftctl(&export)?;
        ensure!(exported["leftOut"] == json!([]), "{exported}");
        let tested = node.world.weftctl(&["policy", "test", &project.path(), "--policy", &own])?;
        ensure!(tested.pointer("/0/ok") == Some(&json!(true)), "{tested}");
    }
    // A limit that it exceeds is repeated, too.
    let tight = with_key(&node.conf(&json!({ "lie": "none" })), "limits", &json!({ "fuel": 100 }));
    ensure!(node.call("ADD", &Attach::eth0("c"), &tight)?.error()?.code == 101, "100 units are enough");
    let same = node.world.weftctl(&["policy", "replay", "cid-c"])?;
    ensure!(same.pointer("/0/same") == Some(&json!(true)), "{same}");
    node.call("DEL", &Attach::eth0("b"), &wide)?.expect_quiet()
}

/// A node's records become cases of a project, with the original names and without them.
pub(super) fn trace_export(guests: &Guests) -> Result<()> {
    let mut node = Node::with_policy(&guests.get("low")?)?;
    node.add("a")?;
    let own = node.policy.display().to_string();
    let other = node.world.scratch().join("high.wasm").display().to_string();
    fs::write(&other, guests.get("high")?)?;
    for redact in [false, true] {
        let project = Project::new(&node, &format!("project-{redact}"))?;
        let (dir, cases) = (project.path(), project.cases());
        let mut export = vec!["policy", "trace", "export", "cid-a", "--out", &cases];
        export.extend(redact.then_some("--redact"));
        let exported = node.world.weftctl(&export)?;
        let path = exported.pointer("/written/0").and_then(Value::as_str).context("a file")?;
        let text = fs::read_to_string(path).context("read the case")?;
        let case: Value = serde_json::from_str(&text)?;
        ensure!(case.pointer("/expect/addresses/0") == Some(&json!("10.77.0.2/24")), "{case}");
        let asked = case.pointer("/recorded/asked").context("a question")?.to_string();
        ensure!(asked.contains("cid-a") != redact, "{asked}");
        let error = fails(&node, &export)?["error"].to_string();
        ensure!(error.contains("cannot write") && error.contains("exists"), "it is overwritten: {error}");
        let tested = node.world.weftctl(&["policy", "test", &dir, "--policy", &own])?;
        ensure!(tested.to_string().contains("\"ok\":true"), "{tested}");
        let tested = fails(&node, &["policy", "test", &dir, "--policy", &other])?;
        let why = tested.pointer("/0/why").and_then(Value::as_str).context("a difference")?;
        ensure!(why.contains("-    \"10.77.0.2/24\"") && why.contains("+    \"10.77.0.254/24\""), "{why}");
    }
    node.del("a")
}
