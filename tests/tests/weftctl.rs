//! The operator's tool, as an operator uses it: every command, as a table and as JSON, on a scratch machine.

use std::ffi::{CString, OsStr};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use weft_kit::process::{self, Output, Place};
use weft_kit::programs::{self, Installation};
use weft_kit::sandbox;
use weft_kit::suite::{Need, Suite};
use weft_kit::world::{Attach, Subject, World};

fn main() -> ExitCode {
    sandbox::enter();
    let needs = [Need::Sandbox, Need::Weft, Need::Weftctl];
    let mut suite = Suite::new();
    suite.test("install_is_idempotent_and_uninstall_leaves_nothing", &needs, install);
    suite.test("install_is_remembered", &needs, remembered);
    suite.test("install_on_a_full_disk", &needs, full_install);
    suite.test("install_leaves_other_plugins_alone_unless_told", &needs, other_plugins);
    suite.test("a_node_gets_the_agents_copies_before_the_programs", &needs, copies_first);
    suite.test("a_second_install_removes_what_the_first_one_had_elsewhere", &needs, elsewhere);
    suite.test("every_preset_installs_where_its_distribution_looks", &needs, presets);
    suite.test("purge_refuses_while_attachments_exist", &needs, purge);
    suite.test("uninstall_refuses_while_attachments_exist", &needs, uninstall_refuses);
    suite.test("plan_changes_nothing", &needs, plan);
    suite.test("plan_takes_a_list", &needs, plan_list);
    suite.test("explain_says_why", &needs, explain);
    suite.test("failures_are_listed", &needs, failures);
    suite.test("ledger_ls_and_release", &needs, ledger);
    suite.test("ledger_import_and_export_round_trip", &needs, import_export);
    suite.test("a_lost_ledger_is_refused_and_rebuilt", &needs, lost_ledger);
    suite.test("a_lost_ledger_is_refused_whatever_the_attachment_is", &needs, lost_of_every_kind);
    suite.test("a_lost_ledger_is_refused_for_what_only_the_runtime_knows", &needs, lost_in_the_cache);
    suite.test("a_node_beside_another_may_have_a_first_ledger", &needs, not_lost);
    suite.test("a_rebuilt_ledger_knows_the_packet_filter", &needs, rebuilt_filters);
    suite.test("a_healthy_ledger_is_not_moved_aside", &needs, healthy_ledger);
    suite.test("del_and_gc_on_a_full_disk", &needs, full_disk);
    suite.test("del_and_gc_of_a_large_ledger_on_a_full_disk", &needs, full_disk_of_a_large_ledger);
    suite.test("ps_pools_gc_and_detach", &needs, ps_and_gc);
    suite.test("a_full_pool_is_shown_as_full", &needs, pool_sizes);
    suite.test("check_of_what_was_never_added", &needs, check_of_nothing);
    suite.test("a_container_without_a_pod_has_its_id", &needs, no_pod);
    suite.test("a_pipe_that_nobody_reads_is_no_panic", &needs, broken_pipe);
    suite.test("import_and_export_honour_data_dir", &needs, data_dir);
    suite.test("policy_inspect_compile_check", &needs, policy);
    suite.test("doctor_finds_what_is_wrong", &needs, doctor);
    suite.test("mistakes_are_told_on_stderr_and_in_json", &needs, mistakes);
    suite.test("add_check_and_del_by_hand", &needs, by_hand);
    suite.test("by_hand_beside_cnitool", &[&needs[..], &[Need::Current]].concat(), beside_cnitool);
    suite.test("libcni_sends_status_to_the_installed_list", &[&needs[..], &[Need::Current]].concat(), status_by_libcni);
    suite.test("schema_for_editors", &[&needs[..], &[Need::Tool("jsonschema")]].concat(), schema);
    suite.test("tables_fit_and_colours_are_for_terminals", &needs, tables);
    suite.test("completion_and_man_pages", &needs, manual);
    suite.run()
}

fn conf() -> Value {
    json!({ "cniVersion": "1.1.0", "name": "ctl", "type": "weft",
            "delegate": { "type": "bridge", "bridge": "ctl0", "isGateway": true },
            "ipam": { "type": "host-local", "ranges": [[{ "subnet": "10.63.0.0/24" }]] } })
}

/// Runs a command; a failure is a valid outcome.
fn run(place: &Place, program: &Path, arguments: &[&str]) -> Result<Output> {
    run_with(place, program, arguments, &[])
}

/// Like [`run`], with environment variables.
fn run_with(place: &Place, program: &Path, arguments: &[&str], env: &[(&str, &OsStr)]) -> Result<Output> {
    let mut command = Command::new(program);
    command.args(arguments).envs(env.iter().copied());
    process::output(place, command, b"", Duration::from_secs(120))
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn json_of(output: &Output) -> Result<Value> {
    serde_json::from_slice(&output.stdout).with_context(|| format!("not one JSON document: {}", text(output)))
}

/// Returns both forms of a command's output: the table, and the document.
fn both(world: &World, weftctl: &Path, arguments: &[&str]) -> Result<(String, Value)> {
    let state = world.state().display().to_string();
    let arguments = [&["--state-dir", state.as_str()], arguments].concat();
    let place = world.place()?;
    let table = run(&place, weftctl, &arguments)?;
    let document = run(&place, weftctl, &[&["--json"], arguments.as_slice()].concat())?;
    ensure!(table.status == Some(0), "{arguments:?}: {} {}", text(&table), table.stderr);
    Ok((text(&table), json_of(&document)?))
}

fn world() -> Result<(Installation, World)> {
    let installation = Installation::new()?;
    let world = World::new(&Subject::weft(&installation))?;
    Ok((installation, world))
}

struct Dirs {
    root: tempfile::TempDir,
}

impl Dirs {
    fn new() -> Result<Self> {
        Ok(Self { root: tempfile::TempDir::new_in(sandbox::scratch())? })
    }

    fn path(&self, name: &str) -> String {
        self.root.path().join(name).display().to_string()
    }

    fn install(&self, more: &[&str]) -> Result<Output> {
        let weft = programs::weft().map_err(anyhow::Error::msg)?.display().to_string();
        let (bin, sbin, state) = (self.path("bin"), self.path("sbin"), self.path("state"));
        let base = ["--json", "--state-dir", &state, "install", "--weft", &weft, "--bin-dir", &bin, "--ctl-dir", &sbin];
        run(&Place::default(), &programs::weftctl().map_err(anyhow::Error::msg)?, &[&base, more].concat())
    }

    fn uninstall(&self, more: &[&str]) -> Result<Output> {
        let (bin, sbin, state) = (self.path("bin"), self.path("sbin"), self.path("state"));
        let base = ["--json", "--state-dir", &state, "uninstall", "--bin-dir", &bin, "--ctl-dir", &sbin];
        run(&Place::default(), &programs::weftctl().map_err(anyhow::Error::msg)?, &[&base, more].concat())
    }
}

fn states(output: &Output) -> Result<Vec<String>> {
    let steps = json_of(output)?;
    let states = steps.as_array().into_iter().flatten().filter_map(|step| step["state"].as_str().map(str::to_owned));
    Ok(states.collect())
}

fn mode(path: &str) -> Result<u32> {
    Ok(fs::metadata(path).with_context(|| path.to_owned())?.permissions().mode() & 0o7777)
}

fn install() -> Result<()> {
    let dirs = Dirs::new()?;
    let dry = states(&dirs.install(&["--dry-run"])?)?;
    ensure!(dry.iter().any(|state| state == "to do") && !Path::new(&dirs.path("bin")).exists(), "dry run: {dry:?}");
    let first = states(&dirs.install(&[])?)?;
    ensure!(first.iter().all(|state| state == "done"), "first: {first:?}");
    ensure!(first.len() == dry.len(), "the dry run shows other steps");
    let again = states(&dirs.install(&[])?)?;
    ensure!(again.iter().all(|state| state == "fine"), "again: {again:?}");
    ensure!((mode(&dirs.path("state"))?, mode(&dirs.path("state/cache"))?) == (0o700, 0o700), "directory modes");
    ensure!(mode(&dirs.path("state/policies/host-local.wasm"))? == 0o600, "policy mode");
    // It corrects a mode that was loosened.
    fs::set_permissions(dirs.path("state"), fs::Permissions::from_mode(0o755))?;
    ensure!(states(&dirs.install(&[])?)?.iter().filter(|state| *state == "done").count() == 1, "mode repaired");
    ensure!(mode(&dirs.path("state"))? == 0o700, "mode repaired");
    let gone = dirs.uninstall(&["--purge"])?;
    ensure!(gone.status == Some(0), "{}", text(&gone));
    let left: Vec<_> = fs::read_dir(dirs.path("bin"))?.flatten().map(|entry| entry.file_name()).collect();
    ensure!(left.is_empty() && !Path::new(&dirs.path("state")).exists(), "left: {left:?}");
    Ok(())
}

/// What was said to `install` need not be said again.
fn remembered() -> Result<()> {
    let dirs = Dirs::new()?;
    ensure!(dirs.install(&[])?.status == Some(0), "install");
    let (bin, state, confs) = (dirs.path("bin"), dirs.path("state"), dirs.path("confs"));
    let weftctl = programs::weftctl().map_err(anyhow::Error::msg)?;
    let plain =
        |words: &[&str]| run(&Place::default(), &weftctl, &[&["--json", "--state-dir", &state], words].concat());
    let findings = json_of(&plain(&["doctor", "--conf-dir", &confs])?)?;
    let of_binary =
        findings.as_array().into_iter().flatten().find(|finding| finding["what"] == format!("binary {bin}/weft"));
    ensure!(of_binary.is_some_and(|finding| finding["state"] == "ok"), "doctor looks elsewhere: {findings:#}");
    let weft = programs::weft().map_err(anyhow::Error::msg)?.display().to_string();
    let again = states(&plain(&["install", "--weft", &weft])?)?;
    ensure!(again.iter().all(|state| state == "fine"), "it is installed elsewhere: {again:?}");
    let conf = dirs.path("one.conf");
    fs::write(&conf, json!({ "cniVersion": "1.0.0", "name": "one", "type": "loopback" }).to_string())?;
    let checked = plain(&["check", &conf, "--netns", "/proc/self/ns/net"])?;
    ensure!(
        !checked.stderr.contains("failed to find plugin") && !checked.stderr.contains("/opt"),
        "{}",
        checked.stderr
    );
    let gone = plain(&["uninstall"])?;
    ensure!(gone.status == Some(0), "{}", text(&gone));
    let left: Vec<_> = fs::read_dir(&bin)?.flatten().map(|entry| entry.file_name()).collect();
    ensure!(left.is_empty() && !Path::new(&dirs.path("sbin/weftctl")).exists(), "left: {left:?}");
    ensure!(!Path::new(&dirs.path("state/installed.json")).exists(), "it remembers what is gone");
    Ok(())
}

/// An installation that does not fit says so in words, and is there once it does.
fn full_install() -> Result<()> {
    let dirs = Dirs::new()?;
    let bin = dirs.path("bin");
    fs::create_dir(&bin)?;
    let sh = |script: String| Command::new("sh").args(["-c", &script]).status();
    ensure!(sh(format!("mount -t tmpfs -o size=256k weft-full {bin}"))?.success(), "mount");
    let refused = dirs.install(&[]);
    ensure!(sh(format!("umount {bin}"))?.success(), "umount");
    let refused = refused?;
    let said = format!("cannot write file {bin}/weft (mode 755): the disk is full; make room");
    ensure!(refused.status == Some(1) && refused.stderr.contains(&said), "{}", refused.stderr);
    ensure!(dirs.install(&[])?.status == Some(0), "with room");
    Ok(())
}

fn other_plugins() -> Result<()> {
    let dirs = Dirs::new()?;
    fs::create_dir(dirs.path("bin"))?;
    let bridge = dirs.path("bin/bridge");
    fs::write(&bridge, "somebody else's")?;
    dirs.install(&[])?;
    ensure!(fs::read_to_string(&bridge)? == "somebody else's", "overwrote another plugin");
    dirs.install(&["--replace"])?;
    ensure!(fs::read_link(&bridge)?.ends_with("weft"), "--replace did not put weft in charge");
    dirs.uninstall(&[])?;
    ensure!(fs::read_to_string(&bridge)? == "somebody else's", "uninstall did not bring the other plugin back");
    ensure!(Path::new(&dirs.path("state/policies")).exists(), "uninstall without --purge removed the state");
    Ok(())
}

/// The order keeps an agent from restoring the old programs, and a runtime from reading a configuration too early.
fn copies_first() -> Result<()> {
    let dirs = Dirs::new()?;
    let conf_dir = dirs.path("net.d");
    let node = ["--kubernetes", "--conf-dir", &conf_dir, "--default-network", "main"];
    let steps = json_of(&dirs.install(&[&node[..], &["--dry-run"]].concat())?)?;
    let steps: Vec<&str> = steps.as_array().into_iter().flatten().filter_map(|step| step["step"].as_str()).collect();
    let at = |part: &str| {
        let found = steps.iter().position(|step| step.contains(part));
        found.with_context(|| format!("no {part} in {steps:#?}"))
    };
    let order = ["compile ", "install/weft ", "manifest.json", "bin/weft ", "bin/weft-pod ", "net.d/00-weft.conflist "];
    let places = order.into_iter().map(at).collect::<Result<Vec<_>>>()?;
    ensure!(places.is_sorted(), "{steps:#?}");
    ensure!(at("install/weftctl ")? < at("sbin/weftctl ")?, "{steps:#?}");
    Ok(())
}

/// Directories of the machine that presets write to, replaced by directories of this trial.
const OF_PRESETS: [&str; 6] = ["/opt/cni", "/etc/cni", "/etc/kubernetes", "/var/lib/rancher", "/var/lib/cni", "/home"];

/// Each preset puts programs and configuration where the runtimes of its distribution look, and takes them away again.
fn presets() -> Result<()> {
    let (usual, k3s) = ("/etc/cni/net.d", "/var/lib/rancher/k3s/agent/etc/cni/net.d");
    for (preset, bin, conf) in [
        ("default", "/opt/cni/bin", usual),
        ("rke2", "/opt/cni/bin", usual),
        ("talos", "/opt/cni/bin", usual),
        ("k3s", "/var/lib/rancher/k3s/data/cni", k3s),
        ("gke", "/home/kubernetes/bin", usual),
        ("openshift", "/var/lib/cni/bin", "/etc/kubernetes/cni/net.d"),
    ] {
        let dirs = Dirs::new()?;
        let mut place = Place::default();
        for dir in OF_PRESETS {
            fs::create_dir_all(dir)?;
            let own = dirs.path(dir.trim_start_matches('/'));
            fs::create_dir_all(&own)?;
            place.binds.push((CString::new(own)?, CString::new(dir)?));
        }
        let here = |path: &str| dirs.path(path.trim_start_matches('/'));
        let (state, weft) = (dirs.path("state"), programs::weft().map_err(anyhow::Error::msg)?.display().to_string());
        let weftctl = programs::weftctl().map_err(anyhow::Error::msg)?;
        let node = ["--kubernetes", "--preset", preset, "--default-network", "main"];
        let install = [&["--state-dir", &state, "install", "--weft", &weft][..], &node].concat();
        let done = run(&place, &weftctl, &install)?;
        ensure!(done.status == Some(0), "{preset}: {} {}", text(&done), done.stderr);
        for program in ["weft", "weft-pod", "weft-ipam", "weftctl"] {
            ensure!(Path::new(&here(bin)).join(program).exists(), "{preset}: no {program} in {bin}");
        }
        let file = Path::new(&here(conf)).join("00-weft.conflist");
        let list: Value = serde_json::from_slice(&fs::read(&file).with_context(|| format!("{preset}: {conf}"))?)?;
        ensure!(list["plugins"][0]["type"] == "weft-pod" && list["plugins"][0]["clusterNetwork"] == "main", "{list}");
        let gone = run(&place, &weftctl, &["--state-dir", &state, "uninstall"])?;
        ensure!(gone.status == Some(0), "{preset}: {} {}", text(&gone), gone.stderr);
        ensure!(!file.exists() && fs::read_dir(here(bin))?.next().is_none(), "{preset}: uninstall left something");
    }
    Ok(())
}

/// The CNI project's library sends STATUS and GC only to lists of version 1.1.0, and takes the version of the installed
/// list from `cniVersions`.
fn status_by_libcni() -> Result<()> {
    let (_installation, mut world) = world()?;
    let cnitool = programs::current_dir().map_err(anyhow::Error::msg)?.join("cnitool");
    let dirs = Dirs::new()?;
    let conf_dir = dirs.path("net.d");
    let installed = dirs.install(&["--kubernetes", "--conf-dir", &conf_dir, "--default-network", "main"])?;
    ensure!(installed.status == Some(0), "{}", installed.stderr);
    let netns = world.container("pod")?.path().display().to_string();
    let (state, bin) = (world.state(), dirs.path("bin"));
    let env =
        [("WEFT_STATE_DIR", state.as_os_str()), ("CNI_PATH", OsStr::new(&bin)), ("NETCONFPATH", OsStr::new(&conf_dir))];
    // No agent runs, so no ADD would work.
    let status = run_with(&world.place()?, &cnitool, &["status", "weft-pod", &netns], &env)?;
    let said = format!("{} {}", text(&status), status.stderr);
    ensure!(status.status != Some(0) && said.contains("agent.sock"), "weft-pod was not asked: {said}");
    Ok(())
}

fn elsewhere() -> Result<()> {
    let dirs = Dirs::new()?;
    let conf_dir = dirs.path("net.d");
    let install = |weft: &Path, more: &[&str]| -> Result<()> {
        let weft = weft.display().to_string();
        let (bin, state) = (dirs.path("bin"), dirs.path("state"));
        let base = ["--state-dir", &state, "install", "--weft", &weft, "--ctl-dir", &bin];
        let done = run(&Place::default(), &programs::weftctl().map_err(anyhow::Error::msg)?, &[&base, more].concat())?;
        ensure!(done.status == Some(0), "{more:?}: {}", done.stderr);
        Ok(())
    };
    let (bin, other) = (dirs.path("bin"), dirs.path("other"));
    let node = ["--kubernetes", "--conf-dir", &conf_dir, "--default-network", "main"];
    let old = programs::weft().map_err(anyhow::Error::msg)?;
    install(&old, &[&node[..], &["--bin-dir", &bin]].concat())?;
    ensure!(
        Path::new(&conf_dir).join("00-weft.conflist").exists() && Path::new(&bin).join("weft-pod").exists(),
        "first"
    );
    install(&old, &[&node[..], &["--bin-dir", &other, "--conf-name", "10-weft.conflist"]].concat())?;
    let names = |dir: &str| -> Result<Vec<String>> {
        let mut names: Vec<String> =
            fs::read_dir(dir)?.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        Ok(names)
    };
    ensure!(names(&conf_dir)? == ["10-weft.conflist"], "configurations: {:?}", names(&conf_dir)?);
    ensure!(names(&bin)? == ["weftctl"], "programs: {:?}", names(&bin)?);
    ensure!(names(&dirs.path("state/install"))? == ["10-weft.conflist", "manifest.json", "weft", "weftctl"], "copies");
    // Without --kubernetes, the agent's copy changes with the program.
    let new = dirs.root.path().join("weft.new");
    fs::write(&new, "another program")?;
    install(&new, &["--bin-dir", &other])?;
    for file in [&format!("{other}/weft"), &dirs.path("state/install/weft")] {
        ensure!(fs::read_to_string(file).is_ok_and(|text| text == "another program"), "{file} is the old one");
    }
    let gone = run(
        &Place::default(),
        &programs::weftctl().map_err(anyhow::Error::msg)?,
        &["--state-dir", &dirs.path("state"), "uninstall"],
    )?;
    ensure!(gone.status == Some(0), "uninstall: {}", gone.stderr);
    for dir in [&conf_dir, &bin, &other] {
        ensure!(names(dir)?.is_empty(), "left in {dir}: {:?}", names(dir)?);
    }
    Ok(())
}

fn purge() -> Result<()> {
    let (installation, mut world) = world()?;
    ensure!(world.call("ADD", &Attach::eth0("a"), &conf())?.ok(), "ADD");
    let state = world.state().display().to_string();
    let bin = world.scratch().join("bin").display().to_string();
    let arguments = ["--state-dir", &state, "uninstall", "--purge", "--bin-dir", &bin, "--ctl-dir", &bin];
    let output = run(&world.place()?, &installation.weftctl(), &arguments)?;
    ensure!(output.status == Some(1), "purged with an attachment");
    ensure!(output.stderr.contains("1 attachments"), "stderr");
    ensure!(world.state().join("weft.db").exists(), "the ledger is gone");
    Ok(())
}

/// Without `--purge` too, and for attachments that a lost ledger does not know.
fn uninstall_refuses() -> Result<()> {
    let (installation, mut world) = world()?;
    ensure!(world.call("ADD", &Attach::eth0("a"), &conf())?.ok(), "ADD");
    let state = world.state().display().to_string();
    let bin = world.scratch().join("bin");
    fs::create_dir(&bin)?;
    fs::write(bin.join("weft"), "weft")?;
    let dir = bin.display().to_string();
    let arguments = ["--state-dir", &state, "uninstall", "--bin-dir", &dir, "--ctl-dir", &dir];
    let refused = |what: &str| -> Result<()> {
        let output = run(&world.place()?, &installation.weftctl(), &arguments)?;
        ensure!(output.status == Some(1), "{what}: uninstalled with an attachment");
        for part in ["cid-a", "Drain the node", "--force"] {
            ensure!(output.stderr.contains(part), "{what}: no {part:?} in {}", output.stderr);
        }
        ensure!(bin.join("weft").exists(), "{what}: the program is gone");
        Ok(())
    };
    refused("with a ledger")?;
    for name in ["weft.db", "weft.db-wal", "weft.db-shm", "ledger.mark"] {
        fs::remove_file(world.state().join(name))?;
    }
    refused("without")?;
    let forced = run(&world.place()?, &installation.weftctl(), &[&arguments[..], &["--force"]].concat())?;
    ensure!(forced.status == Some(0) && !bin.join("weft").exists(), "{}", forced.stderr);
    Ok(())
}

fn plan() -> Result<()> {
    let (installation, mut world) = world()?;
    let netns = world.container("a")?.path().display().to_string();
    let file = world.scratch().join("conf.json");
    fs::write(&file, conf().to_string())?;
    let file = file.display().to_string();
    let before = world.host().line("ip -j link")?.text();
    let (table, document) = both(&world, &installation.weftctl(), &["plan", &file, "--netns", &netns])?;
    ensure!(table.contains("create veth eth0") && table.contains("nothing was changed"), "{table}");
    let ops = document["plan"]["ops"].as_array().context("ops")?;
    ensure!(ops.iter().any(|op| op["op"] == "ensure-bridge" && op["name"] == "ctl0"), "{document:#}");
    ensure!(document["decision"]["reason"].is_string(), "no decision in {document:#}");
    ensure!(world.host().line("ip -j link")?.text() == before, "the host changed");
    ensure!(!world.state().join("weft.db").exists(), "a ledger was made");
    Ok(())
}

fn explain() -> Result<()> {
    let (installation, mut world) = world()?;
    ensure!(world.call("ADD", &Attach::eth0("a"), &conf())?.ok(), "ADD");
    let (table, document) = both(&world, &installation.weftctl(), &["explain", "cid-a"])?;
    for part in ["10.63.0.2", "host-local (sha256:", "because", "candidate", "fuel"] {
        ensure!(table.contains(part), "no {part:?} in {table}");
    }
    let decision = &document[0]["decision"];
    ensure!(decision["claimed"] == json!(["10.63.0.2/24"]) && decision["fuel"].as_u64() > Some(0), "{document:#}");
    let (by_address, _) = both(&world, &installation.weftctl(), &["explain", "10.63.0.2"])?;
    ensure!(by_address == table, "by address: {by_address}");
    Ok(())
}

/// A list: each plugin on what those before it would make, as far as that is known.
fn plan_list() -> Result<()> {
    let (installation, mut world) = world()?;
    let weftctl = installation.weftctl();
    let netns = world.container("a")?.path().display().to_string();
    let file = world.scratch().join("list.conflist").display().to_string();
    let bridge = json!({ "type": "bridge", "bridge": "ctl0", "isGateway": true,
                         "ipam": { "type": "host-local", "ranges": [[{ "subnet": "10.63.0.0/24" }]] } });
    let portmap = json!({ "type": "portmap", "capabilities": { "portMappings": true } });
    let tuning = json!({ "type": "tuning", "mtu": 1400 });
    let other = json!({ "type": "another-vendors" });
    let list = |plugins: &[&Value]| {
        let list = json!({ "cniVersion": "1.0.0", "name": "ctl", "plugins": plugins });
        fs::write(&file, list.to_string())
    };
    let ports = r#"{"portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]}"#;
    let words = ["plan", &file, "--netns", &netns, "--cap-args", ports];
    list(&[&bridge, &portmap, &tuning])?;
    let before = world.host().line("ip -j link")?.text();
    let (text, document) = both(&world, &weftctl, &words)?;
    for part in ["plugin 1 of 3: bridge", "plugin 2 of 3: portmap", "plugin 3 of 3: tuning", "8080", "1400"] {
        ensure!(text.contains(part), "{part}: {text}");
    }
    ensure!(text.matches("nothing was changed").count() == 1, "{text}");
    let plugins = document["plugins"].as_array().context("plugins")?;
    let made = |at: usize| plugins[at]["plan"]["ops"].as_array().map_or(0, Vec::len);
    ensure!(plugins.len() == 3 && (0..3).all(|at| made(at) > 0), "{document:#}");
    ensure!(plugins[1]["plan"]["ops"].to_string().contains("10.63.0.2"), "the address of the first: {document:#}");
    ensure!(world.host().line("ip -j link")?.text() == before, "the host changed");
    list(&[&bridge, &other, &portmap])?;
    let (text, document) = both(&world, &weftctl, &words)?;
    ensure!(
        text.contains("only it knows its plan") && text.contains("as if \"another-vendors\" changed nothing"),
        "{text}"
    );
    ensure!(document["plugins"][1]["plan"].is_null(), "{document:#}");
    list(&[&other, &portmap])?;
    let (text, _) = both(&world, &weftctl, &words)?;
    ensure!(text.contains("depends on what \"another-vendors\" makes"), "{text}");
    Ok(())
}

/// Failed ADDs in a table that fits, each failure of a pod once however often it was tried; as JSON one by one.
fn failures() -> Result<()> {
    let (installation, mut world) = world()?;
    let weftctl = installation.weftctl();
    let (table, document) = both(&world, &weftctl, &["failures"])?;
    ensure!(table.trim() == "nothing to show" && document == json!([]), "{table} {document}");
    let mut full = conf();
    full["ipam"]["ranges"] = json!([[{ "subnet": "10.63.0.0/30" }]]);
    ensure!(world.call("ADD", &Attach::eth0("a"), &full)?.ok(), "ADD");
    for (container, args) in [("b", Some("K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web")), ("c", None)] {
        for _again in 0..2 {
            let attach = Attach { args, ..Attach::eth0(container) };
            ensure!(world.call("ADD", &attach, &full)?.error()?.code == 102, "the pool is full");
        }
    }
    let (table, document) = both(&world, &weftctl, &["failures"])?;
    let rows = document.as_array().context("a list")?;
    ensure!(rows.len() == 4, "{document:#}");
    let known = [&rows[3]["pod"], &rows[3]["network"], &rows[3]["ifname"], &rows[3]["containerID"], &rows[3]["code"]];
    ensure!(known == [&json!("shop/web"), &json!("ctl"), &json!("eth0"), &json!("cid-b"), &json!(102)], "{document:#}");
    ensure!(rows[0]["containerID"] == "cid-c" && rows[0]["pod"].is_null(), "the latest first: {document:#}");
    ensure!(rows.iter().all(|row| row["msg"].as_str().is_some_and(|msg| !msg.is_empty())), "{document:#}");
    let lines: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
    ensure!(lines[0] == ["LAST", "TIMES", "POD", "NETWORK", "IF", "CODE", "MESSAGE"], "{table}");
    let starts = |line: &&Vec<&str>, who: &str| line.get(1..6) == Some(&["2", who, "ctl", "eth0", "102"][..]);
    for who in ["cid-c", "shop/web"] {
        ensure!(lines.iter().filter(|line| starts(line, who)).count() == 1, "{who}: {table}");
    }
    let (_, of_pod) = both(&world, &weftctl, &["failures", "--pod", "web"])?;
    ensure!(of_pod.as_array().is_some_and(|rows| rows.len() == 2), "{of_pod:#}");
    let mut unread = conf();
    unread["delagate"] = json!({});
    let attach = Attach { args: Some("K8S_POD_NAMESPACE=shop;K8S_POD_NAME=db"), ..Attach::eth0("d") };
    world.call("ADD", &attach, &unread)?.error()?;
    let (table, _) = both(&world, &weftctl, &["failures", "--pod", "shop/db"])?;
    ensure!(table.contains("delagate") && table.contains("ctl"), "a configuration that cannot be read: {table}");
    let (table, _) = both(&world, &weftctl, &["failures", "--network", "other"])?;
    ensure!(table.trim() == "nothing to show", "{table}");
    Ok(())
}

fn ledger() -> Result<()> {
    let (installation, mut world) = world()?;
    // Addresses that no other test has on a link: releasing one searches all namespaces.
    let mut conf = conf();
    conf["ipam"]["ranges"] = json!([[{ "subnet": "10.65.0.0/24" }]]);
    ensure!(world.call("ADD", &Attach::eth0("a"), &conf)?.ok(), "ADD");
    let (table, document) = both(&world, &installation.weftctl(), &["ledger", "ls"])?;
    ensure!(table.contains("10.65.0.2") && table.contains("cid-a"), "{table}");
    ensure!(document[0]["state"] == "active" && document[0]["address"] == "10.65.0.2", "{document:#}");
    let state = world.state().display().to_string();
    let release = ["--state-dir", &state, "ledger", "release", "ctl", "10.65.0.2"];
    let refused = run(&world.place()?, &installation.weftctl(), &release)?;
    ensure!(refused.status == Some(1), "released an address in use");
    ensure!(refused.stderr.contains("--force"), "no remedy");
    world.remove_container("a");
    let released = run(&world.place()?, &installation.weftctl(), &release)?;
    ensure!(released.status == Some(0), "{}", released.stderr);
    let (table, _) = both(&world, &installation.weftctl(), &["ledger", "ls"])?;
    ensure!(!table.contains("10.65.0.2"), "{table}");
    Ok(())
}

fn import_export() -> Result<()> {
    let (installation, mut world) = world()?;
    let stock = world.scratch().join("stock/ctl");
    fs::create_dir_all(&stock)?;
    fs::write(stock.join("10.63.0.7"), "cid-a\r\neth0")?;
    fs::write(stock.join("last_reserved_ip.0"), "10.63.0.7")?;
    fs::write(stock.join("lock"), "")?;
    let dir = stock.display().to_string();
    let (_, imported) = both(&world, &installation.weftctl(), &["ledger", "import", "host-local", &dir])?;
    ensure!(imported[0]["network"] == "ctl" && imported[0]["already"] == 1, "the second import: {imported:#}");
    let back = world.scratch().join("back").display().to_string();
    both(&world, &installation.weftctl(), &["ledger", "export", "host-local", &back])?;
    let file = Path::new(&back).join("ctl/10.63.0.7");
    ensure!(fs::read_to_string(&file)? == "cid-a\r\neth0", "the exported file differs");
    ensure!(fs::read_to_string(Path::new(&back).join("ctl/last_reserved_ip.0"))? == "10.63.0.7", "cursor");
    // The next ADD continues after the imported cursor, and DEL of the imported attachment frees its address.
    let reply = world.call("ADD", &Attach::eth0("b"), &conf())?;
    ensure!(reply.json()?["ips"][0]["address"] == "10.63.0.8/24", "{}", String::from_utf8_lossy(&reply.stdout));
    ensure!(world.call("DEL", &Attach::eth0("a"), &conf())?.ok(), "DEL of the imported attachment");
    let (table, _) = both(&world, &installation.weftctl(), &["ledger", "ls"])?;
    ensure!(!table.contains("10.63.0.7"), "{table}");
    Ok(())
}

fn policy() -> Result<()> {
    let (installation, world) = world()?;
    let weftctl = installation.weftctl();
    let (table, document) = both(&world, &weftctl, &["policy", "inspect", "host-local"])?;
    ensure!(table.contains("reaches    nothing but the contract"), "{table}");
    let imports = document["imports"].as_array().context("imports")?;
    ensure!(
        imports.iter().all(|name| name.as_str().is_some_and(|name| name.starts_with("weft:policy/"))),
        "{imports:?}"
    );
    ensure!(document["schema"]["properties"].is_object() && document["refused"].is_null(), "{document:#}");
    let component = world.state().join("policies/host-local.wasm").display().to_string();
    let (_, compiled) = both(&world, &weftctl, &["policy", "compile", &component])?;
    ensure!(compiled["fresh"] == false, "{compiled:#}");
    let file = world.scratch().join("list.conflist");
    let mut list = json!({ "cniVersion": "1.1.0", "name": "ctl", "plugins": [conf()] });
    fs::write(&file, list.to_string())?;
    let path = file.display().to_string();
    let (table, checked) = both(&world, &weftctl, &["policy", "check", &path])?;
    ensure!(table.contains("no problem") && checked["plugins"] == 1, "{table} {checked:#}");
    list["plugins"][0]["delegate"]["no-such-key"] = json!(1);
    fs::write(&file, list.to_string())?;
    let state = world.state().display().to_string();
    let output = run(&world.place()?, &weftctl, &["--json", "--state-dir", &state, "policy", "check", &path])?;
    ensure!(output.status == Some(1), "accepted an unknown key");
    ensure!(json_of(&output)?["problems"][0]["message"].to_string().contains("no-such-key"), "{}", text(&output));
    Ok(())
}

fn doctor() -> Result<()> {
    let (installation, mut world) = world()?;
    ensure!(world.call("ADD", &Attach::eth0("a"), &conf())?.ok(), "ADD");
    let bin = installation.bin().display().to_string();
    let confs = world.scratch().join("net.d");
    fs::create_dir(&confs)?;
    let confs = confs.display().to_string();
    let arguments = ["doctor", "--bin-dir", &bin, "--conf-dir", &confs];
    let (table, findings) = both(&world, &installation.weftctl(), &arguments)?;
    ensure!(!table.contains("FAIL"), "{table}");
    let of = |findings: &Value, what: &str| {
        findings
            .as_array()
            .into_iter()
            .flatten()
            .find(|one| one["what"].as_str().is_some_and(|text| text.contains(what)))
            .cloned()
    };
    ensure!(of(&findings, "ledger").context("ledger")?["state"] == "ok", "{findings:#}");
    ensure!(of(&findings, "nftables NAT").context("nftables")?["state"] == "ok", "{findings:#}");
    // It reports problems with a remedy, and the exit code says so.
    fs::set_permissions(world.state().join("cache"), fs::Permissions::from_mode(0o777))?;
    world.remove_container("a");
    let state = world.state().display().to_string();
    let all = [&["--json", "--state-dir", state.as_str()], arguments.as_slice()].concat();
    let output = run(&world.place()?, &installation.weftctl(), &all)?;
    ensure!(output.status == Some(1), "{}", text(&output));
    let findings = json_of(&output)?;
    let cache = of(&findings, "/cache").context("cache")?;
    ensure!(
        cache["state"] == "fail" && cache["remedy"].as_str().is_some_and(|text| text.contains("chmod")),
        "{cache:#}"
    );
    let journal = of(&findings, "journal").context("journal")?;
    ensure!(journal["state"] == "warn" && journal["detail"].to_string().contains("cid-a"), "{journal:#}");
    Ok(())
}

fn mistakes() -> Result<()> {
    let (installation, world) = world()?;
    let state = world.state().display().to_string();
    let output =
        run(&world.place()?, &installation.weftctl(), &["--json", "--state-dir", &state, "explain", "nobody"])?;
    ensure!(output.status == Some(1), "exit code");
    ensure!(json_of(&output)?["error"].is_string(), "{}", text(&output));
    ensure!(output.stderr.starts_with("weftctl: "), "stderr");
    Ok(())
}

/// Returns the address that an ADD allocated.
fn address(reply: &weft_kit::cni::Reply) -> Result<String> {
    let document = reply.json()?;
    let address = document["ips"][0]["address"].as_str();
    Ok(address.with_context(|| format!("no address: {document:#}"))?.to_owned())
}

/// Every way to lose the store: ADD fails, `rebuild` takes over what runs, and DEL removes it.
fn lost_ledger() -> Result<()> {
    // Trials run at once and see each other's named namespaces, so the network has a name of its own.
    let mut conf = conf();
    conf["name"] = json!("lost");
    type Lose<'a> = &'a dyn Fn(&Path) -> std::io::Result<()>;
    let ways: [(&str, Lose<'_>); 4] = [
        ("the log and the marker deleted", &|state| {
            fs::remove_file(state.join("weft.db-wal"))?;
            fs::remove_file(state.join("ledger.mark"))
        }),
        ("the log deleted", &|state| fs::remove_file(state.join("weft.db-wal"))),
        ("the file truncated", &|state| fs::write(state.join("weft.db"), "")),
        ("all of it deleted", &|state| {
            for name in ["weft.db", "weft.db-wal", "weft.db-shm", "ledger.mark"] {
                fs::remove_file(state.join(name))?;
            }
            Ok(())
        }),
    ];
    for (way, lose) in ways {
        let (installation, mut world) = world()?;
        let first: Vec<String> = ["a", "b"]
            .iter()
            .map(|name| address(&world.call("ADD", &Attach::eth0(name), &conf)?))
            .collect::<Result<_>>()?;
        ensure!(first == ["10.63.0.2/24", "10.63.0.3/24"], "{first:?}");
        let links: Value = serde_json::from_str(&world.host().line("ip -j link")?.text())?;
        let labels = links.as_array().into_iter().flatten().filter_map(|link| link["ifalias"].as_str());
        ensure!(labels.filter(|label| label.starts_with("weft:lost/cid-")).count() == 2, "no labels: {links:#}");
        lose(&world.state()).with_context(|| way.to_owned())?;
        let refused = world.call("ADD", &Attach::eth0("c"), &conf)?;
        ensure!(!refused.ok(), "{way}: an address was handed out");
        let error = refused.json()?;
        ensure!(error["code"] == 5, "{way}: {error:#}");
        ensure!(error.to_string().contains("weftctl ledger rebuild"), "{way}: {error:#}");
        let state = world.state().display().to_string();
        let doctor = run(&world.place()?, &installation.weftctl(), &["--state-dir", &state, "doctor"])?;
        ensure!(text(&doctor).contains("weftctl ledger rebuild"), "{way}: doctor says nothing: {}", text(&doctor));
        let confs = world.scratch().join("confs");
        fs::create_dir(&confs)?;
        let dir = confs.display().to_string();
        // Trials run at once, and others leave results in the usual directory.
        let cache = world.scratch().join("results").display().to_string();
        let rebuild = ["--json", "--state-dir", &state, "ledger", "rebuild", "--conf-dir", &dir, "--cni-cache", &cache];
        let refused = run(&world.place()?, &installation.weftctl(), &rebuild)?;
        ensure!(refused.status == Some(1) && refused.stderr.contains("--scope"), "{way}: {}", refused.stderr);
        fs::write(confs.join("10-lost.conf"), conf.to_string())?;
        let rebuilt = run(&world.place()?, &installation.weftctl(), &rebuild)?;
        ensure!(rebuilt.status == Some(0), "{way}: {}", rebuilt.stderr);
        ensure!(json_of(&rebuilt)?["claims"] == 2, "{way}: {}", text(&rebuilt));
        let third = address(&world.call("ADD", &Attach::eth0("c"), &conf)?)?;
        ensure!(third == "10.63.0.4/24", "{way}: {third}");
        let (_, who) = both(&world, &installation.weftctl(), &["who-has", "10.63.0.2"])?;
        ensure!(who[0]["attachment"]["containerID"] == "cid-a", "{way}: {who:#}");
        for name in ["a", "b", "c"] {
            ensure!(world.call("DEL", &Attach::eth0(name), &conf)?.ok(), "{way}: DEL {name}");
        }
        ensure!(world.claims()?.is_empty(), "{way}: claims are left");
        let links = world.host().line("ip -j link")?.text();
        ensure!(!links.contains("weft:lost"), "{way}: links are left: {links}");
    }
    Ok(())
}

fn lose_all(state: &Path) -> Result<()> {
    for name in ["weft.db", "weft.db-wal", "weft.db-shm", "ledger.mark"] {
        fs::remove_file(state.join(name)).with_context(|| name.to_owned())?;
    }
    Ok(())
}

/// Checks that an ADD is refused because the ledger is lost, and that doctor says how to go on.
fn is_refused(world: &mut World, installation: &Installation, conf: &Value, what: &str) -> Result<()> {
    let refused = world.call("ADD", &Attach::eth0("late"), conf)?;
    ensure!(!refused.ok(), "{what}: an address was handed out: {}", String::from_utf8_lossy(&refused.stdout));
    let error = refused.json()?;
    ensure!(error["code"] == 5 && error.to_string().contains("weftctl ledger rebuild"), "{what}: {error:#}");
    ensure!(error.to_string().contains(what), "{what} is not named: {error:#}");
    ensure!(!world.state().join("weft.db").exists(), "{what}: a ledger was made");
    let state = world.state().display().to_string();
    let doctor = run(&world.place()?, &installation.weftctl(), &["--state-dir", &state, "doctor"])?;
    ensure!(text(&doctor).contains("weftctl ledger rebuild"), "{what}: doctor says nothing: {}", text(&doctor));
    Ok(())
}

/// Links that the host does not have: their labels are in the containers.
fn lost_of_every_kind() -> Result<()> {
    let ipam = json!({ "type": "host-local", "ranges": [[{ "subnet": "10.63.0.0/24" }]] });
    for (kind, delegate) in [
        ("macvlan", json!({ "type": "macvlan", "master": "up0" })),
        ("ipvlan", json!({ "type": "ipvlan", "master": "up0" })),
        ("vlan", json!({ "type": "vlan", "master": "up0", "vlanId": 33 })),
        ("dummy", json!({ "type": "dummy" })),
        ("tap", json!({ "type": "tap" })),
    ] {
        if weft_kit::netns::kernel_lacks(kind).is_some() || (kind == "tap" && !Path::new("/dev/net/tun").exists()) {
            continue;
        }
        let (installation, mut world) = world()?;
        world.add_outside()?;
        let conf = json!({ "cniVersion": "1.1.0", "name": format!("lost-{kind}"), "type": "weft", "delegate": delegate,
                           "ipam": ipam });
        let first = address(&world.call("ADD", &Attach::eth0("a"), &conf)?)?;
        ensure!(first == "10.63.0.2/24", "{kind}: {first}");
        lose_all(&world.state())?;
        is_refused(&mut world, &installation, &conf, &format!("weft:lost-{kind}/cid-a/eth0"))?;
        // Once nothing is there any more, a new one may be made. The kernel takes links down in the background.
        world.remove_container("a");
        weft_kit::dhcp::wait(Duration::from_secs(60), kind, || {
            Ok(world.call("ADD", &Attach::eth0("late"), &conf)?.ok())
        })?;
    }
    Ok(())
}

/// Writes what libcni would have in its cache.
fn remember(world: &World, network: &str, plugin: &Value, address: &str) -> Result<()> {
    let dir = world.lib_cni().join("results");
    fs::create_dir_all(&dir)?;
    let config = json!({ "cniVersion": "1.0.0", "name": network, "plugins": [plugin] });
    let result = json!({ "cniVersion": "1.0.0", "ips": [{ "address": address, "interface": 0 }],
                         "interfaces": [{ "name": "eth0", "sandbox": "/run/netns/x" }] });
    let entry = json!({ "kind": "cniCacheV1", "containerId": "cid-a", "ifName": "eth0", "networkName": network,
                        "config": base64(config.to_string().as_bytes()), "result": result });
    fs::write(dir.join(format!("{network}-cid-a-eth0")), entry.to_string())?;
    Ok(())
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let all = chunk.iter().chain(&[0, 0]).take(3).fold(0_usize, |all, byte| (all << 8) | usize::from(*byte));
        for at in 0..4 {
            let digit = char::from(DIGITS[(all >> (18 - 6 * at)) & 63]);
            text.push(if at <= chunk.len() { digit } else { '=' });
        }
    }
    text
}

/// A device of the host, and addresses of weft for another plugin's link: only libcni's cache has them.
fn lost_in_the_cache() -> Result<()> {
    let ipam = json!({ "type": "host-local", "ranges": [[{ "subnet": "10.62.0.0/24" }]] });
    let (installation, mut world) = world()?;
    world.host().line("ip link add d0 type veth peer name peer0")?;
    let device =
        json!({ "cniVersion": "1.0.0", "name": "device", "type": "host-device", "device": "d0", "ipam": ipam });
    let first = address(&world.call("ADD", &Attach::eth0("a"), &device)?)?;
    remember(&world, "device", &device, &first)?;
    lose_all(&world.state())?;
    is_refused(&mut world, &installation, &device, "eth0 of container cid-a on network")?;

    let (installation, mut world) = self::world()?;
    let ipam = json!({ "type": "weft-ipam", "policy": "host-local", "ranges": [[{ "subnet": "10.61.0.0/24" }]] });
    let other = json!({ "cniVersion": "1.0.0", "name": "other", "type": "theirs", "ipam": ipam });
    let call = world.prepare("ADD", &Attach::eth0("a"), &other)?;
    let first = address(&world.run(&call, "weft-ipam")?)?;
    world.container("a")?.line("ip link add eth0 type bridge")?;
    world.container("a")?.line(&format!("ip address add {first} dev eth0"))?;
    remember(&world, "other", &other, &first)?;
    lose_all(&world.state())?;
    let weft = json!({ "cniVersion": "1.0.0", "name": "other", "type": "weft-ipam", "ipam": ipam });
    is_refused(&mut world, &installation, &weft, "eth0 of container cid-a on network")
}

/// What another host made is none of this one's, nor what the stock plugins made before weft came.
fn not_lost() -> Result<()> {
    let ipam = json!({ "type": "host-local", "ranges": [[{ "subnet": "10.63.0.0/24" }]] });
    let (_installation, mut other) = world()?;
    other.add_outside()?;
    let delegates = [json!({ "type": "macvlan", "master": "up0" }), json!({ "type": "dummy" })];
    for (name, delegate) in ["a", "b"].into_iter().zip(delegates) {
        if weft_kit::netns::kernel_lacks(delegate["type"].as_str().context("type")?).is_some() {
            continue;
        }
        let conf =
            json!({ "cniVersion": "1.1.0", "name": "beside", "type": "weft", "delegate": delegate, "ipam": ipam });
        ensure!(other.call("ADD", &Attach::eth0(name), &conf)?.ok(), "ADD on the other host");
    }
    let (_installation, mut world) = world()?;
    let stock = json!({ "type": "bridge", "ipam": { "type": "host-local", "subnet": "10.60.0.0/24" } });
    world.container("a")?.line("ip link add eth0 type bridge")?;
    world.container("a")?.line("ip address add 10.60.0.2/24 dev eth0")?;
    remember(&world, "stock", &stock, "10.60.0.2/24")?;
    let files = world.lib_cni().join("networks/stock");
    fs::create_dir_all(&files)?;
    fs::write(files.join("10.60.0.2"), "cid-a\r\neth0")?;
    ensure!(address(&world.call("ADD", &Attach::eth0("b"), &conf())?)? == "10.63.0.2/24", "the first ADD");
    Ok(())
}

/// DEL removes what nftables had for an attachment, and the rebuild what it had for none.
fn rebuilt_filters() -> Result<()> {
    let (installation, mut world) = world()?;
    world.host().line("ip link set lo up")?;
    let with_ports = |port: u16, conditions: &Value| {
        let mut conf = conf();
        conf["name"] = json!("filters");
        conf["delegate"]["ipMasq"] = json!(true);
        conf["delegate"]["macspoofchk"] = json!(true);
        conf["steps"] = json!([{ "type": "portmap", "conditionsV4": conditions },
                               { "type": "firewall", "ingressPolicy": "same-bridge" }]);
        conf["runtimeConfig"] =
            json!({ "portMappings": [{ "hostPort": port, "containerPort": 80, "protocol": "tcp" }] });
        conf
    };
    let (plain, conditional) = (json!([]), json!(["ip saddr { 192.0.2.0/24, 198.51.100.0/24 }"]));
    let confs = [
        ("a", with_ports(8080, &plain)),
        ("b", with_ports(8081, &conditional)),
        ("gone", with_ports(8082, &plain)),
        ("gone2", with_ports(8083, &conditional)),
    ];
    for (name, conf) in &confs {
        let reply = world.call("ADD", &Attach::eth0(name), conf)?;
        ensure!(reply.ok(), "ADD {name}: {}", String::from_utf8_lossy(&reply.stdout));
    }
    world.remove_container("gone");
    world.remove_container("gone2");
    let no_links = || Ok(world.host().line("ip -o link show type veth")?.text().lines().count() == 2);
    weft_kit::dhcp::wait(Duration::from_secs(60), "the links of dead containers go", no_links)?;
    lose_all(&world.state())?;
    let dir = world.scratch().join("confs");
    fs::create_dir(&dir)?;
    fs::write(dir.join("10-filters.conf"), confs[0].1.to_string())?;
    let dir = dir.display().to_string();
    let cache = world.scratch().join("none").display().to_string();
    let arguments = ["ledger", "rebuild", "--conf-dir", &dir, "--cni-cache", &cache];
    let state = world.state().display().to_string();
    let all = [&["--json", "--state-dir", state.as_str()], &arguments[..]].concat();
    let rebuilt = run(&world.place()?, &installation.weftctl(), &all)?;
    ensure!(rebuilt.status == Some(0), "{}", rebuilt.stderr);
    let document = json_of(&rebuilt)?;
    ensure!(document["claims"] == 2, "{document:#}");
    let removed = document["removed"].to_string();
    ensure!(removed.contains("8082/tcp") && removed.contains("8083/tcp"), "{removed}");
    ensure!(!removed.contains("8080") && !removed.contains("8081"), "{removed}");
    let rules = |world: &World| Ok::<_, anyhow::Error>(world.host().line("nft list ruleset")?.text());
    let after = rules(&world)?;
    for gone in ["8082", "8083", "10.63.0.4", "10.63.0.5"] {
        ensure!(!after.contains(gone), "{gone} is left: {after}");
    }
    ensure!(after.contains("tcp . 8080 : 10.63.0.2 . 80") && after.contains("192.0.2.0/24"), "{after}");
    // A port that is taken is refused with the container that has it.
    let taken = world.call("ADD", &Attach::eth0("c"), &confs[0].1)?.error()?;
    ensure!(taken.code == 106 && taken.msg.contains("cid-a"), "{taken:?}");
    ensure!(world.call("DEL", &Attach::eth0("c"), &confs[0].1)?.ok(), "DEL c");
    for (name, conf) in &confs[..2] {
        ensure!(world.call("DEL", &Attach::eth0(name), conf)?.ok(), "DEL {name}");
    }
    let left = rules(&world)?;
    ensure!(!left.contains("elements") && !left.contains("10.63.0.") && !left.contains("hostport_tcp"), "{left}");
    ensure!(world.claims()?.is_empty(), "claims are left");
    Ok(())
}

/// A ledger that this weft cannot open is not one that is lost: doctor and rebuild leave it alone.
fn healthy_ledger() -> Result<()> {
    let (installation, mut world) = world()?;
    ensure!(world.call("ADD", &Attach::eth0("a"), &conf())?.ok(), "ADD");
    let state = world.state().display().to_string();
    // GC writes the log back.
    let mut gc = conf();
    gc["cni.dev/valid-attachments"] = json!([{ "containerID": "cid-a", "ifname": "eth0" }]);
    ensure!(world.call("GC", &Attach::eth0("a"), &gc)?.ok(), "GC");
    for name in ["weft.db-wal", "weft.db-shm"] {
        fs::remove_file(world.state().join(name))?;
    }
    // `user_version` of the header (https://sqlite.org/fileformat2.html).
    let file = world.state().join("weft.db");
    let mut bytes = fs::read(&file)?;
    bytes.get_mut(60..64).context("a header")?.copy_from_slice(&9999_u32.to_be_bytes());
    fs::write(&file, &bytes)?;
    let doctor = run(&world.place()?, &installation.weftctl(), &["--json", "--state-dir", &state, "doctor"])?;
    let findings = json_of(&doctor)?;
    let mut ledger = findings.as_array().into_iter().flatten().filter(|one| one["what"] == "ledger");
    let finding = ledger.next().context("a finding")?;
    ensure!(finding["state"] == "fail" && finding["remedy"] == "", "{finding:#}");
    ensure!(finding["detail"].to_string().contains("format 9999"), "{finding:#}");
    let confs = world.scratch().join("confs");
    fs::create_dir(&confs)?;
    fs::write(confs.join("10.conf"), conf().to_string())?;
    let (dir, cache) = (confs.display().to_string(), world.scratch().join("none").display().to_string());
    let rebuild =
        ["--state-dir", &state, "ledger", "rebuild", "--every-scope", "--conf-dir", &dir, "--cni-cache", &cache];
    let refused = run(&world.place()?, &installation.weftctl(), &rebuild)?;
    ensure!(refused.status == Some(1) && refused.stderr.contains("9999"), "{} {}", text(&refused), refused.stderr);
    ensure!(fs::read(&file)? == bytes, "the ledger is another");
    ensure!(!world.state().join("weft.db.lost-1").exists(), "moved aside");
    // What is no store is.
    fs::write(&file, "no store".repeat(1000))?;
    let doctor = run(&world.place()?, &installation.weftctl(), &["--json", "--state-dir", &state, "doctor"])?;
    let findings = json_of(&doctor)?;
    let mut ledger = findings.as_array().into_iter().flatten().filter(|one| one["what"] == "ledger");
    let remedy = ledger.next().context("a finding")?["remedy"].clone();
    ensure!(remedy == "weftctl ledger rebuild", "{remedy}");
    let rebuilt = run(&world.place()?, &installation.weftctl(), &rebuild)?;
    ensure!(rebuilt.status == Some(0), "{}", rebuilt.stderr);
    Ok(())
}

/// Far more is in the ledger than what a new one reserves, and the disk is full.
fn full_disk_of_a_large_ledger() -> Result<()> {
    let (_installation, mut world) = world()?;
    let (state, copy) = (world.state(), world.scratch().join("copy"));
    let sh = |script: String| -> Result<()> {
        let output = Command::new("sh").args(["-c", &script]).output()?;
        ensure!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    };
    let (at, copy) = (state.display(), copy.display());
    sh(format!("cp -a {at} {copy} && mount -t tmpfs -o size=48m,mode=700 weft-full {at} && cp -a {copy}/. {at}/"))?;
    let conf = |first: u16, count: u16| {
        let mut conf = conf();
        let port = |at| json!({ "hostPort": first + at, "containerPort": 80, "protocol": "tcp" });
        conf["steps"] = json!([{ "type": "portmap", "snat": false }]);
        conf["runtimeConfig"] = json!({ "portMappings": (0..count).map(port).collect::<Vec<_>>() });
        conf
    };
    let size = |name: &str| fs::metadata(state.join(name)).map(|meta| meta.len());
    let mut evict = || -> Result<()> {
        // Each of these is written back at once, because it fills the log.
        let mut pods: Vec<(String, Value)> =
            (0..40).map(|number| (format!("p{number}"), conf(1000 + 500 * number, 500))).collect();
        for (name, conf) in &pods {
            let reply = world.call("ADD", &Attach::eth0(name), conf)?;
            ensure!(reply.ok(), "ADD {name}: {}", String::from_utf8_lossy(&reply.stdout));
        }
        ensure!(size("weft.db")? > 3 << 20, "the ledger has only {} bytes", size("weft.db")?);
        // These lengthen the ledger, and are in the log when the disk is full.
        for number in 0..20 {
            let (name, conf) = (format!("q{number}"), conf(40_000 + 50 * number, 50));
            ensure!(world.call("ADD", &Attach::eth0(&name), &conf)?.ok(), "ADD {name}");
            pods.insert(0, (name, conf));
            if (100 << 10..200 << 10).contains(&size("weft.db-wal")?) {
                break;
            }
        }
        ensure!(size("weft.db-wal")? >= 100 << 10, "the log is empty");
        drop(Command::new("dd").args(["if=/dev/zero", &format!("of={at}/fill"), "bs=4k"]).output()?);
        ensure!(fs::write(state.join("more"), vec![1; 8192]).is_err(), "the disk is not full");
        pods.reverse();
        for (name, conf) in pods.iter().skip(4) {
            let reply = world.call("DEL", &Attach::eth0(name), conf)?;
            ensure!(reply.ok(), "DEL {name}: {}", String::from_utf8_lossy(&reply.stdout));
        }
        let mut gc = conf(1000, 1);
        gc["cni.dev/valid-attachments"] = json!([]);
        let reply = world.call("GC", &Attach::eth0("p0"), &gc)?;
        ensure!(reply.ok(), "GC: {}", String::from_utf8_lossy(&reply.stdout));
        ensure!(world.claims()?.is_empty(), "claims are left");
        Ok(())
    };
    let outcome = evict();
    sh(format!("umount {at}"))?;
    outcome
}

/// kubelet evicts pods when the disk is full: what they hold must be released then.
fn full_disk() -> Result<()> {
    let (_installation, mut world) = world()?;
    let (state, copy) = (world.state(), world.scratch().join("copy"));
    let sh = |script: String| -> Result<()> {
        let output = Command::new("sh").args(["-c", &script]).output()?;
        ensure!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    };
    let (at, copy) = (state.display(), copy.display());
    sh(format!("cp -a {at} {copy} && mount -t tmpfs -o size=32m,mode=700 weft-full {at} && cp -a {copy}/. {at}/"))?;
    let mut evict = || -> Result<()> {
        let names = ["a", "b", "c", "d", "e", "f", "g", "h"];
        for name in names {
            ensure!(world.call("ADD", &Attach::eth0(name), &conf())?.ok(), "ADD {name}");
        }
        drop(Command::new("dd").args(["if=/dev/zero", &format!("of={at}/fill"), "bs=4k"]).output()?);
        ensure!(fs::write(state.join("more"), vec![1; 8192]).is_err(), "the disk is not full");
        for name in &names[..4] {
            let reply = world.call("DEL", &Attach::eth0(name), &conf())?;
            ensure!(reply.ok(), "DEL {name}: {}", String::from_utf8_lossy(&reply.stdout));
        }
        let mut gc = conf();
        gc["cni.dev/valid-attachments"] = json!([]);
        let reply = world.call("GC", &Attach::eth0("a"), &gc)?;
        ensure!(reply.ok(), "GC: {}", String::from_utf8_lossy(&reply.stdout));
        ensure!(world.claims()?.is_empty(), "claims are left");
        Ok(())
    };
    let outcome = evict();
    sh(format!("umount {at}"))?;
    outcome
}

fn ps_and_gc() -> Result<()> {
    let (installation, mut world) = world()?;
    for name in ["a", "b"] {
        ensure!(world.call("ADD", &Attach::eth0(name), &conf())?.ok(), "ADD {name}");
    }
    let weftctl = installation.weftctl();
    let (table, document) = both(&world, &weftctl, &["ps"])?;
    ensure!(table.contains("10.63.0.2") && table.contains("yes"), "{table}");
    ensure!(table.lines().all(|line| line.chars().count() <= 80), "wider than 80 columns:\n{table}");
    ensure!(document[0]["alive"] == "yes" && document[0]["addresses"][0] == "10.63.0.2", "{document:#}");
    let (table, pools) = both(&world, &weftctl, &["pools"])?;
    ensure!(table.contains("2 of 253") && pools[0]["taken"] == 2, "the gateway is not given out: {table}");
    let state = world.state().display().to_string();
    let refused = run(&world.place()?, &weftctl, &["--state-dir", &state, "detach", "cid-a"])?;
    ensure!(refused.status == Some(1) && refused.stderr.contains("--force"), "{}", refused.stderr);
    world.remove_container("a");
    let (_, dead) = both(&world, &weftctl, &["ps", "--dead"])?;
    ensure!(dead.as_array().is_some_and(|rows| rows.len() == 1), "{dead:#}");
    let (table, _) = both(&world, &weftctl, &["gc", "--dry-run"])?;
    ensure!(table.contains("would be removed") && world.claims()?.len() == 2, "{table}");
    let gone = run(&world.place()?, &weftctl, &["--state-dir", &state, "gc"])?;
    ensure!(gone.status == Some(0) && world.claims()?.len() == 1, "{} {}", text(&gone), gone.stderr);
    let detached = run(&world.place()?, &weftctl, &["--state-dir", &state, "detach", "cid-b", "--force"])?;
    ensure!(detached.status == Some(0) && world.claims()?.is_empty(), "{} {}", text(&detached), detached.stderr);
    let inside = world.container("b")?.line("ip -j link")?.text();
    ensure!(!inside.contains("eth0"), "the link is left: {inside}");
    Ok(())
}

/// A pool is full when no address is left to give: its gateway is none. Where nothing is attached any more, the configuration says
/// which that is.
fn pool_sizes() -> Result<()> {
    let (installation, mut world) = world()?;
    let weftctl = installation.weftctl();
    let mut small = conf();
    small["ipam"]["ranges"] = json!([[{ "subnet": "10.63.0.0/29" }]]);
    let names = ["a", "b", "c", "d", "e"];
    for name in names {
        ensure!(world.call("ADD", &Attach::eth0(name), &small)?.ok(), "ADD {name}");
    }
    ensure!(world.call("ADD", &Attach::eth0("f"), &small)?.error()?.code == 102, "a sixth");
    let confs = world.scratch().join("confs");
    fs::create_dir(&confs)?;
    let ls = ["pool", "ls", "--conf-dir", &confs.display().to_string()];
    let (table, pools) = both(&world, &weftctl, &ls)?;
    ensure!(table.contains("5 of 5") && table.contains("100%"), "{table}");
    ensure!(pools[0]["size"] == 5 && pools[0]["gateway"] == "10.63.0.1", "{pools:#}");
    for name in names {
        ensure!(world.call("DEL", &Attach::eth0(name), &small)?.ok(), "DEL {name}");
    }
    fs::write(confs.join("10-ctl.conf"), small.to_string())?;
    let (table, _) = both(&world, &weftctl, &ls)?;
    ensure!(table.contains("0 of 5"), "{table}");
    Ok(())
}

/// A container that has labels and no pod is shown by its id, as one without either.
fn no_pod() -> Result<()> {
    let (installation, mut world) = world()?;
    let mut labelled = conf();
    labelled["args"] = json!({ "cni": { "labels": { "tier": "gold" } } });
    ensure!(world.call("ADD", &Attach::eth0("a"), &labelled)?.ok(), "ADD");
    let weftctl = installation.weftctl();
    let (table, document) = both(&world, &weftctl, &["ps"])?;
    let row: Vec<&str> = table.lines().nth(1).context("a row")?.split_whitespace().collect();
    ensure!(row[0] == "cid-a" && document[0]["pod"].is_null(), "{table} {document:#}");
    let (line, document) = both(&world, &weftctl, &["who-has", "10.63.0.2"])?;
    ensure!(line.contains("eth0 of container cid-a, "), "{line}");
    ensure!(document[0]["attachment"]["pod"].is_null(), "{document:#}");
    let (why, _) = both(&world, &weftctl, &["explain", "cid-a"])?;
    ensure!(why.contains("pod         - tier=gold"), "{why}");
    Ok(())
}

/// CHECK of what was never added says that, with code 3; of what was added, that the runtime forgot the result.
fn check_of_nothing() -> Result<()> {
    let (_installation, mut world) = world()?;
    let steps =
        json!({ "cniVersion": "1.1.0", "name": "ctl", "type": "weft", "steps": [{ "type": "tuning", "mtu": 1400 }] });
    for conf in [&conf(), &steps] {
        let error = world.call("CHECK", &Attach::eth0("a"), conf)?.error()?;
        ensure!(error.code == 3 && error.msg.contains("it was never added here"), "{} {}", error.code, error.msg);
    }
    ensure!(world.call("ADD", &Attach::eth0("a"), &conf())?.ok(), "ADD");
    let error = world.call("CHECK", &Attach::eth0("a"), &conf())?.error()?;
    ensure!(error.code == 7 && error.msg.contains("has to pass the result"), "{} {}", error.code, error.msg);
    let stock = json!({ "cniVersion": "1.0.0", "name": "ctl", "type": "bridge", "bridge": "ctl0" });
    let error = world.call("CHECK", &Attach::eth0("b"), &stock)?.error()?;
    ensure!(error.msg == "Required prevResult missing", "the stock plugin's text: {}", error.msg);
    Ok(())
}

/// A pipe that nobody reads ends the program as it ends any other.
fn broken_pipe() -> Result<()> {
    let installation = Installation::new()?;
    let script =
        format!("{} doctor | head -1 >/dev/null; {0} --help | head -1 >/dev/null", installation.weftctl().display());
    let output = Command::new("sh").args(["-c", &script]).output()?;
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(!stderr.contains("panicked"), "{stderr}");
    Ok(())
}

/// A network with its own `dataDir` keeps its addresses through an import, and gets its files back where the stock
/// plugin looks.
fn data_dir() -> Result<()> {
    let (installation, mut world) = world()?;
    let data = world.scratch().join("data");
    let mut conf = conf();
    conf["ipam"]["dataDir"] = json!(data.display().to_string());
    fs::create_dir_all(data.join("ctl"))?;
    for address in ["10.63.0.2", "10.63.0.3"] {
        fs::write(data.join("ctl").join(address), "stock\r\neth0")?;
    }
    both(&world, &installation.weftctl(), &["ledger", "import", "host-local", &data.display().to_string()])?;
    let given = address(&world.call("ADD", &Attach::eth0("a"), &conf)?)?;
    ensure!(given == "10.63.0.4/24", "an imported address was handed out: {given}");
    both(&world, &installation.weftctl(), &["ledger", "export", "host-local"])?;
    ensure!(fs::read_to_string(data.join("ctl/10.63.0.4"))? == "cid-a\r\neth0", "not where the stock plugin looks");
    Ok(())
}

/// Returns a list with a capability, which only portmap declares.
fn list() -> Value {
    json!({ "cniVersion": "1.0.0", "name": "hand", "plugins": [
        { "type": "bridge", "bridge": "hand0", "isGateway": true,
          "ipam": { "type": "host-local", "ranges": [[{ "subnet": "10.65.0.0/24" }]] } },
        { "type": "portmap", "capabilities": { "portMappings": true } } ] })
}

const PORTS: &str = r#"{"portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}], "mac": "x"}"#;

/// Makes a call as a person types it.
fn call_by_hand(world: &mut World, verb: &str, conf: &Path, more: &[&str]) -> Result<Output> {
    let netns = world.container("pod")?.path().display().to_string();
    let (bin, state) = (world.plugins().display().to_string(), world.state());
    let conf = conf.display().to_string();
    let words = [&[verb, conf.as_str(), "--netns", &netns, "--bin-dir", &bin, "--cap-args", PORTS], more].concat();
    let weftctl = programs::weftctl().map_err(anyhow::Error::msg)?;
    run_with(&world.place()?, &weftctl, &words, &[("WEFT_STATE_DIR", state.as_os_str())])
}

fn by_hand() -> Result<()> {
    let (_installation, mut world) = world()?;
    let conf = world.scratch().join("hand.conflist");
    fs::write(&conf, list().to_string())?;
    let id = ["--container-id", "by-hand"];
    let never = call_by_hand(&mut world, "check", &conf, &id)?;
    ensure!(never.status == Some(1) && never.stderr.contains("was it added, with the same"), "{}", never.stderr);
    let added = call_by_hand(&mut world, "add", &conf, &id)?;
    ensure!(added.status == Some(0), "{}", added.stderr);
    ensure!(json_of(&added)?["ips"][0]["address"] == "10.65.0.2/24", "{}", text(&added));
    let ports = world.host().line("nft list ruleset")?.text();
    ensure!(ports.contains("8080"), "the host port is not there: {ports}");
    let cached = world.lib_cni().join("results/hand-by-hand-eth0");
    let document: Value = serde_json::from_slice(&fs::read(&cached).context("the cached result")?)?;
    ensure!(document["result"] == json_of(&added)? && document["kind"] == "cniCacheV1", "{document:#}");
    ensure!(fs::metadata(&cached)?.permissions().mode() & 0o777 == 0o600, "others can read it");
    let checked = call_by_hand(&mut world, "check", &conf, &id)?;
    ensure!(checked.status == Some(0) && checked.stdout.is_empty(), "{} {}", text(&checked), checked.stderr);
    world.container("pod")?.line("ip address flush dev eth0")?;
    let differs = call_by_hand(&mut world, "check", &conf, &id)?;
    ensure!(
        differs.status == Some(1) && differs.stderr.contains("type=\"bridge\" failed (check): code "),
        "{}",
        differs.stderr
    );
    for _ in 0..2 {
        let deleted = call_by_hand(&mut world, "del", &conf, &id)?;
        ensure!(deleted.status == Some(0) && deleted.stdout.is_empty(), "{}", deleted.stderr);
        ensure!(world.claims()?.is_empty() && !cached.exists(), "something is left");
    }
    // The second plugin fails: what the first one made stays until DEL, as with a runtime.
    let mut broken = list();
    broken["plugins"][1]["markMasqBit"] = json!(99);
    fs::write(&conf, broken.to_string())?;
    let failed = call_by_hand(&mut world, "add", &conf, &id)?;
    ensure!(failed.status == Some(1) && failed.stderr.contains("type=\"portmap\" failed (add)"), "{}", failed.stderr);
    ensure!(failed.stderr.contains("`weftctl del` removes it") && world.claims()?.len() == 1, "{}", failed.stderr);
    let deleted = call_by_hand(&mut world, "del", &conf, &id)?;
    ensure!(deleted.status == Some(0) && world.claims()?.is_empty(), "{}", deleted.stderr);
    Ok(())
}

/// weftctl checks and deletes what the reference tool adds, and the other way round; both cache the same.
fn beside_cnitool() -> Result<()> {
    let (_installation, mut world) = world()?;
    let cnitool = programs::current_dir().map_err(anyhow::Error::msg)?.join("cnitool");
    let conf = world.scratch().join("hand.conflist");
    fs::write(&conf, list().to_string())?;
    let netns = world.container("pod")?.path().display().to_string();
    let reference = |world: &World, verb: &str| -> Result<Output> {
        let state = world.state();
        let env = [
            ("WEFT_STATE_DIR", state.as_os_str()),
            ("CNI_PATH", world.plugins().as_os_str()),
            ("NETCONFPATH", world.scratch().as_os_str()),
            ("CAP_ARGS", OsStr::new(PORTS)),
        ];
        let done = run_with(&world.place()?, &cnitool, &[verb, "hand", &netns], &env)?;
        ensure!(done.status == Some(0), "cnitool {verb}: {} {}", text(&done), done.stderr);
        Ok(done)
    };
    let ours = |world: &mut World, verb: &str| -> Result<Output> {
        let done = call_by_hand(world, verb, &conf, &[])?;
        ensure!(done.status == Some(0), "weftctl {verb}: {} {}", text(&done), done.stderr);
        Ok(done)
    };
    let cached = |world: &World| -> Result<Value> {
        let files: Vec<_> = fs::read_dir(world.lib_cni().join("results"))?.collect::<Result<_, _>>()?;
        ensure!(files.len() == 1, "{} files", files.len());
        let mut document: Value = serde_json::from_slice(&fs::read(files[0].path())?)?;
        let name = files[0].file_name().to_string_lossy().into_owned();
        // These values are random, or the next address.
        document["result"].take();
        document["file"] = json!(name);
        Ok(document)
    };
    reference(&world, "add")?;
    let theirs = cached(&world)?;
    ours(&mut world, "check")?;
    ours(&mut world, "del")?;
    ensure!(world.claims()?.is_empty(), "claims {:?}", world.claims()?);
    ours(&mut world, "add")?;
    ensure!(cached(&world)? == theirs, "weftctl caches {:#}, cnitool {theirs:#}", cached(&world)?);
    reference(&world, "check")?;
    reference(&world, "del")?;
    ensure!(world.claims()?.is_empty(), "claims {:?}", world.claims()?);
    Ok(())
}

/// Returns the `"type": "weft"` configurations of the documentation.
fn documented() -> Result<Vec<Value>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(programs::repository().join("docs"))? {
        let path = entry?.path();
        if !path.is_file() {
            continue;
        }
        let page = fs::read_to_string(&path)?;
        let blocks = page.split("```json\n").skip(1).filter_map(|rest| rest.split("```").next());
        let confs = blocks.filter_map(|block| serde_json::from_str::<Value>(block).ok());
        found.extend(confs.filter(|conf| conf["type"] == "weft" || conf["plugins"].is_array()));
    }
    Ok(found)
}

/// Returns a configuration with every kind of object.
fn everything() -> Value {
    json!({ "cniVersion": "1.1.0", "name": "all", "type": "weft", "disableCheck": false, "cni.dev/attachments": [],
            "delegate": { "type": "macvlan", "master": "eth1", "mode": "bridge", "mtu": null },
            "ipam": { "type": "cluster-wide", "ranges": [[{ "subnet": "10.0.0.0/16" }]] },
            "steps": [{ "type": "portmap", "snat": true }, { "type": "tuning", "sysctl": { "net.core.somaxconn": "500" } }],
            "ledger": { "type": "etcd", "endpoints": ["https://127.0.0.1:2379"], "deadlineMs": 1000 },
            "limits": { "fuel": 1000, "memoryMiB": 8 }, "grants": { "wasi": true, "routes": ["10.0.0.0/8"] },
            "fallback": "last-good", "monitor": { "policy": "by-label", "ipam": { "default": "a",
            "ranges": [{ "name": "a", "ranges": [{ "subnet": "10.0.0.0/16" }] }] } }, "dns": { "nameservers": ["10.0.0.53"] } })
}

/// Returns a configuration where one policy picks the delegate, and a policy that weft does not know decides the
/// addresses.
fn chosen() -> Value {
    json!({ "cniVersion": "1.1.0", "name": "two", "type": "weft",
            "delegates": [{ "name": "nat", "type": "bridge", "bridge": "nat0", "settable": ["mtu"] },
                          { "name": "other", "type": "ovs", "tag": 5, "ipam": {} }],
            "select": { "policy": "by-label-delegate", "default": "nat" },
            "ipam": { "type": "wasm", "policy": "file:///p.wasm", "anything": { "at": "all" } } })
}

/// An independent validator accepts the documentation's configurations, and finds what `policy check` finds.
fn schema() -> Result<()> {
    let (installation, world) = world()?;
    let printed = run(&world.place()?, &installation.weftctl(), &["schema"])?;
    json_of(&printed)?;
    let file = world.scratch().join("schema.json");
    fs::write(&file, &printed.stdout)?;
    let validate = |conf: &Value| -> Result<Output> {
        let instance = world.scratch().join("conf.json");
        fs::write(&instance, conf.to_string())?;
        let (instance, schema) = (instance.display().to_string(), file.display().to_string());
        let tool = programs::tool("jsonschema").map_err(anyhow::Error::msg)?;
        run(&world.place()?, &tool, &["--instance", &instance, &schema])
    };
    let mut shown = documented()?;
    ensure!(!shown.is_empty(), "the documentation has no configuration");
    shown.extend([conf(), list(), everything(), chosen()]);
    for conf in &shown {
        let output = validate(conf)?;
        ensure!(output.status == Some(0), "{conf:#}: {} {}", text(&output), output.stderr);
    }
    let mistakes: &[(&str, Value)] = &[
        ("/delegate/isGatway", json!(true)),
        ("/delegate/mtu", json!("1500")),
        ("/ipam/rangeStrt", json!("10.0.0.1")),
        ("/ipam/ranges", json!([[{ "subnet": "10.0.0.0/24", "gatway": "10.0.0.1" }]])),
        ("/limits", json!({ "fuell": 1 })),
        ("/cniVersion", json!("7.0.0")),
        ("/monitor", json!({ "policy": "by-label", "ipam": { "ranges": [], "rules": 5 } })),
        ("/monitor", json!({ "policy": "host-local", "ipam": { "rangs": [] } })),
        ("/delagate", json!({})),
        ("/steps", json!([{ "type": "portmap", "snt": true }])),
        ("/ledger", json!({ "type": "etdc" })),
    ];
    for (at, value) in mistakes {
        let mut wrong = conf();
        let (parent, key) = at.rsplit_once('/').context("a pointer")?;
        wrong.pointer_mut(parent).context("a parent")?[key] = value.clone();
        ensure!(validate(&wrong)?.status != Some(0), "{at} = {value} is not found");
    }
    Ok(())
}

fn tables() -> Result<()> {
    let (installation, mut world) = world()?;
    for name in ["a", "b"] {
        ensure!(world.call("ADD", &Attach::eth0(name), &conf())?.ok(), "ADD {name}");
    }
    let mut wrong = conf();
    wrong["delegate"]["mtu"] = json!("wide");
    world.call("ADD", &Attach::eth0("c"), &wrong)?.error()?;
    let weftctl = installation.weftctl();
    let state = world.state().display().to_string();
    let place = world.place()?;
    let columns = ("COLUMNS", OsStr::new("80"));
    let doctor = ["doctor", "--bin-dir", "/nonexistent"];
    for command in [&["ps"][..], &["failures"], &["pools"], &["pods"], &["ledger", "ls"], &["policy", "ls"], &doctor] {
        let table =
            text(&run_with(&place, &weftctl, &[&["--state-dir", state.as_str()], command].concat(), &[columns])?);
        ensure!(!table.is_empty(), "{command:?} printed nothing");
        let wide = table.lines().find(|line| line.chars().count() > 80);
        ensure!(wide.is_none(), "{command:?} is wider than 80 columns: {wide:?}");
        ensure!(!table.contains('\u{1b}'), "{command:?} prints colours into a pipe");
    }
    let line = format!("{} --state-dir {state} doctor --bin-dir /nonexistent", weftctl.display());
    let on_terminal = |more: &[(&str, &OsStr)]| -> Result<String> {
        let env = [&[("TERM", OsStr::new("xterm"))], more].concat();
        Ok(text(&run_with(&place, Path::new("script"), &["-qec", &line, "/dev/null"], &env)?))
    };
    let shown = on_terminal(&[])?;
    ensure!(shown.contains("\u{1b}[31mFAIL"), "no colours on a terminal: {shown}");
    let plain = on_terminal(&[("NO_COLOR", OsStr::new("1"))])?;
    ensure!(plain.contains("FAIL") && !plain.contains('\u{1b}'), "colours although NO_COLOR is set: {plain}");
    Ok(())
}

fn manual() -> Result<()> {
    let (installation, world) = world()?;
    let (weftctl, place) = (installation.weftctl(), world.place()?);
    let script = world.scratch().join("weftctl.bash");
    fs::write(&script, run(&place, &weftctl, &["completion", "bash"])?.stdout)?;
    let complete = format!(
        "source {}; COMP_WORDS=(weftctl led); COMP_CWORD=1; _weftctl weftctl led weftctl; echo \"${{COMPREPLY[@]}}\"",
        script.display()
    );
    let completed = run(&place, Path::new("bash"), &["-c", &complete])?;
    ensure!(text(&completed).trim() == "ledger", "{} {}", text(&completed), completed.stderr);
    let page = text(&run(&place, &weftctl, &["man"])?);
    ensure!(page.contains(".TH weftctl 1") && page.contains("Exit codes"), "{page}");
    let dir = world.scratch().join("man");
    let written = run(&place, &weftctl, &["man", "--dir", &dir.display().to_string()])?;
    ensure!(written.status == Some(0), "{}", written.stderr);
    for page in ["weftctl.1", "weftctl-add.1", "weftctl-policy-check.1"] {
        ensure!(dir.join(page).is_file(), "no {page}");
    }
    Ok(())
}
