//! The steps of a policy author, outside the repository: `weftctl policy new` in each language, a build and cases that
//! pass at once, a thousand calls in one instance, and an address on an interface.

#[path = "author/building.rs"]
mod building;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tempfile::TempDir;
use weft_kit::dhcp::{Daemon, PATIENCE, wait};
use weft_kit::process::{self, Place};
use weft_kit::programs::{self, Installation};
use weft_kit::sandbox;
use weft_kit::suite::{Need, Suite};
use weft_kit::world::{Attach, Subject, World};

/// A hang is an error; a slow machine is not.
const LIMIT: Duration = Duration::from_secs(1800);

/// How often a policy is called in one instance.
const CALLS: u64 = 1000;

fn main() -> ExitCode {
    sandbox::enter();
    let mut suite = Suite::new();
    let needs = |tool| [Need::Sandbox, Need::Weft, Need::Weftctl, Need::Tool(tool)];
    for (language, tool) in
        [("rust", "cargo"), ("js", "componentize-qjs"), ("python", "componentize-py"), ("c", "clang")]
    {
        suite.test(format!("ipam/{language}"), &needs(tool), move || ipam(language));
        suite.test(format!("delegate/{language}"), &needs(tool), move || delegate(language));
    }
    suite.test("ipam/c-by-zig", &needs("python-zig"), building::by_zig);
    suite.test("rust-tests-of-its-own", &needs("cargo"), building::rust_tests_of_its_own);
    suite.test("sdk-is-a-package", &needs("cargo"), building::sdk_is_a_package);
    suite.test("cases/difference-and-update", &needs("clang"), difference_and_update);
    suite.test("cases/check-asks-the-schema", &[Need::Sandbox, Need::Weftctl], check_asks_the_schema);
    suite.test("cases/budget", &needs("clang"), budget);
    suite.test("cases/traps-and-lies", &[Need::Sandbox, Need::Weftctl, Need::Tool("cargo")], traps_and_lies);
    suite.test("watch", &needs("clang"), watch);
    suite.test("new/refuses", &[Need::Sandbox, Need::Weftctl], new_refuses);
    suite.test("inspect/without-root", &[Need::Sandbox, Need::Weftctl, Need::Tool("setpriv")], inspect_without_root);
    suite.test("build/missing-tool", &[Need::Sandbox, Need::Weftctl], building::missing_tool);
    suite.test("build/replaced-meanwhile", &needs("clang"), building::replaced_meanwhile);
    suite.test("build/wasi", &needs("clang"), building::wasi_is_refused);
    // Cargo runs one build at a time, and the others would use up the memory.
    suite.run_threads(Some(2))
}

/// A new project, far from the repository.
struct Project {
    _scratch: TempDir,
    dir: PathBuf,
}

impl Project {
    fn new(language: &str, kind: &str) -> Result<Self> {
        let scratch = TempDir::new_in(sandbox::scratch()).context("scratch directory")?;
        let dir = scratch.path().join("my-policy");
        let project = Self { _scratch: scratch, dir };
        let parent = project.dir.parent().context("it has a parent")?;
        let made = weftctl(parent, &["policy", "new", "my-policy", "--lang", language, "--kind", kind])?;
        ensure!(made.0, "{}", made.1);
        if language == "rust" {
            // One target directory for all crates of this suite, so that dependencies are compiled once.
            let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("author");
            fs::create_dir_all(&target)?;
            symlink(target, project.dir.join("target"))?;
        }
        Ok(project)
    }

    /// Runs `weftctl` in the project. Returns whether it succeeded, and its output.
    fn weftctl(&self, arguments: &[&str]) -> Result<(bool, String)> {
        weftctl(&self.dir, arguments)
    }

    fn passes(&self) -> Result<()> {
        let (ok, text) = self.weftctl(&["policy", "test"])?;
        ensure!(ok && text.contains(" passed, 0 failed"), "{text}");
        Ok(())
    }

    /// Calls the policy a thousand times in one instance: no call fails, and memory hardly grows.
    fn stands_a_thousand_calls(&self) -> Result<()> {
        let mut command = Command::new(programs::weftctl().map_err(anyhow::Error::msg)?);
        command.args(["--json", "policy", "bench", "--calls", &CALLS.to_string()]).current_dir(&self.dir);
        let output = process::output(&Place::default(), command, b"", LIMIT)?.success("weftctl policy bench")?;
        let report: Value = serde_json::from_slice(&output.stdout).with_context(|| output.text())?;
        ensure!(report["calls"] == json!(CALLS), "{report}");
        let bytes = |key: &str| report[key].as_u64().with_context(|| format!("{key} in {report}"));
        // A garbage collector may run late, but a leak of every request would exceed this.
        let (one, all) = (bytes("memory")?, bytes("memoryAfterAll")?);
        ensure!(all <= one + (4 << 20), "{one} bytes after one call, {all} after {CALLS}");
        ensure!(report["fuel"]["max"].as_u64().is_some_and(|fuel| fuel > 0), "{report}");
        Ok(())
    }

    /// Installs the built component where the project's network names it.
    fn installed(&self, world: &World) -> Result<Value> {
        let file = world.scratch().join("my-policy.wasm");
        let (ok, text) = self.weftctl(&["policy", "build", "--out", &file.display().to_string()])?;
        ensure!(ok, "{text}");
        world.weftctl(&["policy", "compile", &file.display().to_string()])?;
        let inspected = world.weftctl(&["policy", "inspect", &file.display().to_string()])?;
        let imports = inspected["imports"].as_array().context("imports")?;
        let of_contract = |name: &Value| name.as_str().is_some_and(|name| name.starts_with("weft:policy/"));
        ensure!(imports.iter().all(of_contract), "it reaches {imports:?}");
        let network = fs::read_to_string(self.dir.join("network.json"))?;
        Ok(serde_json::from_str(&network.replace("/etc/weft/my-policy.wasm", &file.display().to_string()))?)
    }
}

fn weftctl(dir: &Path, arguments: &[&str]) -> Result<(bool, String)> {
    let mut command = Command::new(programs::weftctl().map_err(anyhow::Error::msg)?);
    command.args(arguments).current_dir(dir);
    let output = process::output(&Place::default(), command, b"", LIMIT)?;
    Ok((output.status == Some(0), format!("{}{}", output.text(), output.stderr)))
}

fn prepare_world() -> Result<(Installation, World)> {
    let installation = Installation::new()?;
    let world = World::new(&Subject::weft(&installation))?;
    Ok((installation, world))
}

/// Returns the addresses of a container's interface, as `ip` prints them.
fn addresses(world: &mut World, container: &str) -> Result<Vec<String>> {
    let output = world.netns(container)?.line("ip -j addr show dev eth0")?;
    let links: Value = serde_json::from_slice(&output.stdout)?;
    let infos = links[0]["addr_info"].as_array().context("addresses")?;
    let global = infos.iter().filter(|info| info["scope"] == "global");
    Ok(global.map(|info| format!("{}/{}", info["local"].as_str().unwrap_or_default(), info["prefixlen"])).collect())
}

fn ipam(language: &str) -> Result<()> {
    let project = Project::new(language, "ipam")?;
    project.passes()?;
    project.stands_a_thousand_calls()?;
    let (_installation, mut world) = prepare_world()?;
    let conf = project.installed(&world)?;
    for (container, expected) in [("a", ["10.77.0.2/29", "fd00:77::2/64"]), ("b", ["10.77.0.3/29", "fd00:77::3/64"])] {
        world.call("ADD", &Attach::eth0(container), &conf)?.result().with_context(|| format!("ADD {container}"))?;
        let found = addresses(&mut world, container)?;
        ensure!(expected.iter().all(|address| found.iter().any(|it| it == address)), "{container} has {found:?}");
    }
    for container in ["a", "b"] {
        world.call("DEL", &Attach::eth0(container), &conf)?.expect_quiet()?;
    }
    ensure!(world.claims()?.is_empty(), "claims are left");
    Ok(())
}

fn delegate(language: &str) -> Result<()> {
    let project = Project::new(language, "delegate")?;
    project.passes()?;
    project.stands_a_thousand_calls()?;
    let (_installation, mut world) = prepare_world()?;
    let mut conf = project.installed(&world)?;
    for (container, label, expected) in
        [("a", json!({}), "10.77.0.2/24"), ("b", json!({ "network": "isolated" }), "10.78.0.2/24")]
    {
        conf["args"] = json!({ "cni": { "labels": label } });
        world.call("ADD", &Attach::eth0(container), &conf)?.result().with_context(|| format!("ADD {container}"))?;
        let found = addresses(&mut world, container)?;
        ensure!(found.iter().any(|it| it == expected), "{container} has {found:?}");
    }
    for container in ["a", "b"] {
        world.call("DEL", &Attach::eth0(container), &conf)?.expect_quiet()?;
    }
    Ok(())
}

/// A case with a wrong expectation fails with a difference that shows both; `--update` writes the new expectation.
fn difference_and_update() -> Result<()> {
    let project = Project::new("c", "ipam")?;
    let case = project.dir.join("cases/next-free.json");
    let text = fs::read_to_string(&case)?.replace("10.77.0.4/29", "10.77.0.6/29");
    fs::write(&case, &text)?;
    let (ok, said) = project.weftctl(&["policy", "test"])?;
    ensure!(!ok && said.contains("1 failed"), "{said}");
    ensure!(said.contains("-    \"10.77.0.6/29\"") && said.contains("+    \"10.77.0.4/29\""), "{said}");
    let (ok, said) = project.weftctl(&["policy", "test", "--filter", "full"])?;
    ensure!(ok && said.contains("1 passed, 0 failed"), "{said}");
    let (ok, said) = project.weftctl(&["policy", "test", "--update"])?;
    ensure!(ok && said.contains("updated"), "{said}");
    let now: Value = serde_json::from_slice(&fs::read(&case)?)?;
    ensure!(now["expect"] == json!({ "addresses": ["10.77.0.4/29", "fd00:77::3/64"] }), "{now}");
    ensure!(now["about"] == "addresses in use are skipped", "the rest of the case is as it was: {now}");
    project.passes()?;
    fs::write(project.dir.join("cases/new.json"), r#"{"pod": {"namespace": "default", "name": "x"}}"#)?;
    let (ok, said) = project.weftctl(&["policy", "test"])?;
    ensure!(!ok && said.contains("no \"expect\""), "{said}");
    fs::write(project.dir.join("cases/new.json"), r#"{"pods": {}}"#)?;
    let (ok, said) = project.weftctl(&["policy", "test"])?;
    ensure!(!ok && said.contains("cases/new.json") && said.contains("unknown field `pods`"), "{said}");
    Ok(())
}

/// Somebody else than root inspects a shipped policy, and a component of theirs, on a node whose state they cannot read.
fn inspect_without_root() -> Result<()> {
    use std::os::unix::fs::{PermissionsExt, chown};
    let scratch = TempDir::new_in(sandbox::scratch()).context("scratch directory")?;
    let dir = scratch.path();
    fs::set_permissions(dir, fs::Permissions::from_mode(0o755))?;
    let (state, home) = (dir.join("state"), dir.join("home"));
    fs::create_dir(&state)?;
    fs::set_permissions(&state, fs::Permissions::from_mode(0o700))?;
    fs::create_dir(&home)?;
    let inspect = |policy: &str| -> Result<Value> {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]);
        command
            .arg(dir.join("weftctl"))
            .args(["--json", "--state-dir"])
            .arg(&state)
            .args(["policy", "inspect", policy]);
        command.env("HOME", &home).env_remove("XDG_CACHE_HOME").current_dir(&home);
        let output = process::output(&Place::default(), command, b"", LIMIT)?.success("weftctl policy inspect")?;
        serde_json::from_slice(&output.stdout).with_context(|| output.text())
    };
    fs::copy(programs::weftctl().map_err(anyhow::Error::msg)?, dir.join("weftctl")).context("copy weftctl")?;
    chown(&home, Some(65534), Some(65534))?;
    let shipped = inspect("by-label")?;
    ensure!(shipped["refused"].is_null() && shipped["schema"]["properties"]["rules"].is_object(), "{shipped:#}");
    let written = shipped["path"].as_str().context("a path")?.to_owned();
    let component = home.join("own.wasm");
    fs::copy(written, &component)?;
    fs::set_permissions(&component, fs::Permissions::from_mode(0o644))?;
    let own = inspect("./own.wasm")?;
    ensure!(own["digest"] == shipped["digest"] && own["refused"].is_null(), "{own:#}");
    ensure!(fs::read_dir(&state)?.count() == 0, "it wrote into the node's state");
    Ok(())
}

fn merged(mut object: Value, more: &Value) -> Value {
    for (key, value) in more.as_object().into_iter().flatten() {
        object[key] = value.clone();
    }
    object
}

/// What `policy check` would find of a configuration, a case finds: a key that the schema does not list, and a wrong type.
fn check_asks_the_schema() -> Result<()> {
    let scratch = TempDir::new_in(sandbox::scratch()).context("scratch directory")?;
    let dir = scratch.path();
    fs::create_dir(dir.join("cases"))?;
    fs::write(dir.join("cases/conf.json"), json!({ "check": true, "expect": { "problems": [] } }).to_string())?;
    let state = dir.join("state").display().to_string();
    let network = |conf: Value| {
        let whole = merged(json!({ "cniVersion": "1.1.0", "name": "n", "type": "weft" }), &conf);
        fs::write(dir.join("network.json"), whole.to_string())
    };
    let addresses = |own: &Value| {
        let sets = json!([{ "name": "a", "ranges": [{ "subnet": "10.0.0.0/24" }] }]);
        let ipam = merged(json!({ "type": "by-label", "ranges": sets, "default": "a" }), own);
        json!({ "delegate": { "type": "bridge" }, "ipam": ipam })
    };
    let delegates = |own: &Value| {
        let select = merged(json!({ "policy": "by-label-delegate", "default": "lan", "rules": [] }), own);
        json!({ "delegates": [{ "name": "lan", "type": "bridge" }], "select": select })
    };
    let asks = |policy: &str, of: &dyn Fn(&Value) -> Value, object: &str| -> Result<()> {
        let test = || weftctl(dir, &["--state-dir", &state, "policy", "test", "--policy", policy]);
        network(of(&json!({})))?;
        let (ok, said) = test()?;
        ensure!(ok && said.contains("1 passed, 0 failed"), "{said}");
        network(of(&json!({ "defult": "a", "rules": 5 })))?;
        let (ok, said) = test()?;
        let unknown = format!("unknown key \\\"defult\\\" in \\\"{object}\\\": did you mean \\\"default\\\"?");
        ensure!(!ok && said.contains(&unknown) && said.contains("/rules"), "{unknown}: {said}");
        Ok(())
    };
    asks("by-label", &addresses, "ipam")?;
    asks("by-label-delegate", &delegates, "select")
}

/// `watch` builds and tests at once, and again when a case or the source changes. It survives an error in the source.
fn watch() -> Result<()> {
    let project = Project::new("c", "ipam")?;
    let program = programs::weftctl().map_err(anyhow::Error::msg)?.display().to_string();
    let dir = project.dir.display().to_string();
    let argv = [program, "policy".into(), "watch".into(), dir];
    let watcher = Daemon::start(&Place::default(), &argv, &project.dir.with_extension("log"))?;
    let round = |number: usize, words: &[&str]| {
        wait(PATIENCE, "a round of the watcher", || Ok(watcher.log().matches("waiting for changes").count() >= number))
            .with_context(|| watcher.log())?;
        let log = watcher.log();
        let last = log.rsplit("a file changed").next().unwrap_or_default().to_owned();
        ensure!(words.iter().all(|word| last.contains(word)), "round {number} does not say {words:?}: {last}");
        ensure!(log.matches("waiting for changes").count() == number, "nothing changed, and it tested again: {log}");
        anyhow::Ok(())
    };
    round(1, &[" passed, 0 failed"])?;
    let case = project.dir.join("cases/next-free.json");
    let text = fs::read_to_string(&case)?;
    fs::write(&case, text.replace("10.77.0.4/29", "10.77.0.6/29"))?;
    round(2, &["next-free FAILED", "1 failed"])?;
    fs::write(&case, &text)?;
    round(3, &[" passed, 0 failed"])?;
    let source = project.dir.join("policy.c");
    let text = fs::read_to_string(&source)?;
    fs::write(&source, format!("{text}\nthis is no C\n"))?;
    round(4, &["clang failed", "policy.c"])?;
    // As an editor saves: it writes another file and renames it.
    fs::write(source.with_extension("new"), &text)?;
    fs::rename(source.with_extension("new"), &source)?;
    wait(PATIENCE, "the mended source", || {
        Ok(watcher.log().rsplit("a file changed").next().is_some_and(|last| last.contains(" passed, 0 failed")))
    })
    .with_context(|| watcher.log())?;
    watcher.kill();
    Ok(())
}

fn budget() -> Result<()> {
    let project = Project::new("c", "ipam")?;
    let case = json!({ "pod": { "name": "a" }, "expect": { "addresses": ["10.77.0.2/29", "fd00:77::2/64"] },
                       "budget": { "fuel": 10, "memory": 1024 } });
    fs::write(project.dir.join("cases/greedy.json"), case.to_string())?;
    let (ok, said) = project.weftctl(&["policy", "test"])?;
    ensure!(!ok && said.contains("the budget is 10") && said.contains("the budget is 1024"), "{said}");
    Ok(())
}

/// A case rejects what a node would reject.
fn traps_and_lies() -> Result<()> {
    let component = programs::build_guest("hostile")?;
    let scratch = TempDir::new_in(sandbox::scratch()).context("scratch directory")?;
    fs::create_dir(scratch.path().join("cases"))?;
    let file = scratch.path().join("hostile.wasm");
    fs::write(&file, component)?;
    for (lie, key, word) in [
        ("outside", "refused", "203.0.113.7"),
        ("gateway", "refused", "10.77.0.1"),
        ("loop", "error", "fuel"),
        ("trap", "error", ""),
    ] {
        let network = json!({ "cniVersion": "1.1.0", "name": "own", "type": "weft", "delegate": { "type": "dummy" },
            "ipam": { "type": "wasm", "policy": "file:///x.wasm", "ranges": [[{ "subnet": "10.77.0.0/24" }]], "lie": lie } });
        let case = json!({ "network": network, "expect": { "addresses": ["10.77.0.2/24"] } });
        fs::write(scratch.path().join("cases/lie.json"), case.to_string())?;
        let state = scratch.path().join("state").display().to_string();
        let (ok, said) = weftctl(
            scratch.path(),
            &["--state-dir", &state, "policy", "test", "--policy", &file.display().to_string()],
        )?;
        ensure!(!ok && said.contains(&format!("\"{key}\"")) && said.contains(word), "{lie}: {said}");
    }
    Ok(())
}

fn new_refuses() -> Result<()> {
    let scratch = TempDir::new_in(sandbox::scratch()).context("scratch directory")?;
    let (ok, said) = weftctl(scratch.path(), &["policy", "new", "Not_A_Name"])?;
    ensure!(!ok && said.contains("lower-case letters, digits and dashes"), "{said}");
    fs::create_dir(scratch.path().join("full"))?;
    fs::write(scratch.path().join("full/mine"), "precious")?;
    let (ok, said) = weftctl(scratch.path(), &["policy", "new", "full", "--lang", "js"])?;
    ensure!(!ok && said.contains("is not empty"), "{said}");
    ensure!(fs::read_dir(scratch.path().join("full"))?.count() == 1, "something was written");
    let (ok, said) = weftctl(scratch.path(), &["policy", "build", "full"])?;
    ensure!(!ok && said.contains("weftctl policy new"), "{said}");
    Ok(())
}
