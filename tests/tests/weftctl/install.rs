//! `install` and `uninstall`.

use super::*;

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

pub(super) fn install() -> Result<()> {
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
    ensure!(gone.status == Some(0), "{}", stdout_text(&gone));
    let left: Vec<_> = fs::read_dir(dirs.path("bin"))?.flatten().map(|entry| entry.file_name()).collect();
    ensure!(left.is_empty() && !Path::new(&dirs.path("state")).exists(), "left: {left:?}");
    Ok(())
}

/// What was said to `install` need not be said again.
pub(super) fn remembered() -> Result<()> {
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
    ensure!(gone.status == Some(0), "{}", stdout_text(&gone));
    let left: Vec<_> = fs::read_dir(&bin)?.flatten().map(|entry| entry.file_name()).collect();
    ensure!(left.is_empty() && !Path::new(&dirs.path("sbin/weftctl")).exists(), "left: {left:?}");
    ensure!(!Path::new(&dirs.path("state/installed.json")).exists(), "it remembers what is gone");
    Ok(())
}

/// An installation that does not fit says so in words, and is there once it does.
pub(super) fn full_install() -> Result<()> {
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

pub(super) fn other_plugins() -> Result<()> {
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
pub(super) fn copies_first() -> Result<()> {
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
pub(super) fn presets() -> Result<()> {
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
        ensure!(done.status == Some(0), "{preset}: {} {}", stdout_text(&done), done.stderr);
        for program in ["weft", "weft-pod", "weft-ipam", "weftctl"] {
            ensure!(Path::new(&here(bin)).join(program).exists(), "{preset}: no {program} in {bin}");
        }
        let file = Path::new(&here(conf)).join("00-weft.conflist");
        let list: Value = serde_json::from_slice(&fs::read(&file).with_context(|| format!("{preset}: {conf}"))?)?;
        ensure!(list["plugins"][0]["type"] == "weft-pod" && list["plugins"][0]["clusterNetwork"] == "main", "{list}");
        let gone = run(&place, &weftctl, &["--state-dir", &state, "uninstall"])?;
        ensure!(gone.status == Some(0), "{preset}: {} {}", stdout_text(&gone), gone.stderr);
        ensure!(!file.exists() && fs::read_dir(here(bin))?.next().is_none(), "{preset}: uninstall left something");
    }
    Ok(())
}

/// The CNI project's library sends STATUS and GC only to lists of version 1.1.0, and takes the version of the installed
/// list from `cniVersions`.
pub(super) fn status_by_libcni() -> Result<()> {
    let (_installation, mut world) = prepare_world()?;
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
    let said = format!("{} {}", stdout_text(&status), status.stderr);
    ensure!(status.status != Some(0) && said.contains("agent.sock"), "weft-pod was not asked: {said}");
    Ok(())
}

pub(super) fn installs_elsewhere() -> Result<()> {
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

pub(super) fn purge() -> Result<()> {
    let (installation, mut world) = prepare_world()?;
    ensure!(world.call("ADD", &Attach::eth0("a"), &conf())?.is_ok(), "ADD");
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
pub(super) fn uninstall_refuses() -> Result<()> {
    let (installation, mut world) = prepare_world()?;
    ensure!(world.call("ADD", &Attach::eth0("a"), &conf())?.is_ok(), "ADD");
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

/// A forced uninstall says what it leaves of running containers, and `gc` removes that when they have ended.
pub(super) fn gc_after_forced() -> Result<()> {
    let (installation, mut world) = prepare_world()?;
    ensure!(world.call("ADD", &Attach::eth0("a"), &with_port())?.is_ok(), "ADD");
    let state = world.state().display().to_string();
    let bin = world.scratch().join("bin");
    fs::create_dir(&bin)?;
    let dir = bin.display().to_string();
    let arguments = ["--state-dir", &state, "uninstall", "--force", "--bin-dir", &dir, "--ctl-dir", &dir];
    let forced = run(&world.place()?, &installation.weftctl(), &arguments)?;
    ensure!(forced.status == Some(0) && forced.stderr.contains("`weftctl gc`"), "{}", forced.stderr);
    let mapped = |world: &World| Ok::<_, anyhow::Error>(world.host().line("nft list ruleset")?.text().contains("8086"));
    ensure!(mapped(&world)?, "a running container lost its host port");
    world.remove_container("a");
    let collected = run(&world.place()?, &installation.weftctl(), &["--state-dir", &state, "gc"])?;
    ensure!(collected.status == Some(0) && !mapped(&world)?, "{} {}", stdout_text(&collected), collected.stderr);
    let again = run(&world.place()?, &installation.weftctl(), &arguments)?;
    ensure!(again.status == Some(0) && !again.stderr.contains("`weftctl gc`"), "{}", again.stderr);
    Ok(())
}
