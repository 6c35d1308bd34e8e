//! `weftctl add`, `check` and `del`, as a person types them.

use super::*;

/// Returns a list with a capability, which only portmap declares.
pub(super) fn list() -> Value {
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

pub(super) fn by_hand() -> Result<()> {
    let (_installation, mut world) = prepare_world()?;
    let conf = world.scratch().join("hand.conflist");
    fs::write(&conf, list().to_string())?;
    let id = ["--container-id", "by-hand"];
    let never = call_by_hand(&mut world, "check", &conf, &id)?;
    ensure!(never.status == Some(1) && never.stderr.contains("was it added, with the same"), "{}", never.stderr);
    let added = call_by_hand(&mut world, "add", &conf, &id)?;
    ensure!(added.status == Some(0), "{}", added.stderr);
    ensure!(json_of(&added)?["ips"][0]["address"] == "10.65.0.2/24", "{}", stdout_text(&added));
    let ports = world.host().line("nft list ruleset")?.text();
    ensure!(ports.contains("8080"), "the host port is not there: {ports}");
    let cached = world.lib_cni().join("results/hand-by-hand-eth0");
    let document: Value = serde_json::from_slice(&fs::read(&cached).context("the cached result")?)?;
    ensure!(document["result"] == json_of(&added)? && document["kind"] == "cniCacheV1", "{document:#}");
    ensure!(fs::metadata(&cached)?.permissions().mode() & 0o777 == 0o600, "others can read it");
    let checked = call_by_hand(&mut world, "check", &conf, &id)?;
    ensure!(checked.status == Some(0) && checked.stdout.is_empty(), "{} {}", stdout_text(&checked), checked.stderr);
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
pub(super) fn beside_cnitool() -> Result<()> {
    let (_installation, mut world) = prepare_world()?;
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
        ensure!(done.status == Some(0), "cnitool {verb}: {} {}", stdout_text(&done), done.stderr);
        Ok(done)
    };
    let ours = |world: &mut World, verb: &str| -> Result<Output> {
        let done = call_by_hand(world, verb, &conf, &[])?;
        ensure!(done.status == Some(0), "weftctl {verb}: {} {}", stdout_text(&done), done.stderr);
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
