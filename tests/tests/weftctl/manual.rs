//! What commands say: checks, mistakes, schemas, tables and manuals.

use super::by_hand::list;
use super::*;

pub(super) fn policy() -> Result<()> {
    let (installation, world) = prepare_world()?;
    let weftctl = installation.weftctl();
    let (table, document) = both_outputs(&world, &weftctl, &["policy", "inspect", "host-local"])?;
    ensure!(table.contains("reaches    nothing but the contract"), "{table}");
    let imports = document["imports"].as_array().context("imports")?;
    ensure!(
        imports.iter().all(|name| name.as_str().is_some_and(|name| name.starts_with("weft:policy/"))),
        "{imports:?}"
    );
    ensure!(document["schema"]["properties"].is_object() && document["refused"].is_null(), "{document:#}");
    let component = world.state().join("policies/host-local.wasm").display().to_string();
    let (_, compiled) = both_outputs(&world, &weftctl, &["policy", "compile", &component])?;
    ensure!(compiled["fresh"] == false, "{compiled:#}");
    let file = world.scratch().join("list.conflist");
    let mut list = json!({ "cniVersion": "1.1.0", "name": "ctl", "plugins": [conf()] });
    fs::write(&file, list.to_string())?;
    let path = file.display().to_string();
    let (table, checked) = both_outputs(&world, &weftctl, &["policy", "check", &path])?;
    ensure!(table.contains("no problem") && checked["plugins"] == 1, "{table} {checked:#}");
    list["plugins"][0]["delegate"]["no-such-key"] = json!(1);
    fs::write(&file, list.to_string())?;
    let state = world.state().display().to_string();
    let output = run(&world.place()?, &weftctl, &["--json", "--state-dir", &state, "policy", "check", &path])?;
    ensure!(output.status == Some(1), "accepted an unknown key");
    ensure!(
        json_of(&output)?["problems"][0]["message"].to_string().contains("no-such-key"),
        "{}",
        stdout_text(&output)
    );
    Ok(())
}

pub(super) fn doctor() -> Result<()> {
    let (installation, mut world) = prepare_world()?;
    ensure!(world.call("ADD", &Attach::eth0("a"), &conf())?.is_ok(), "ADD");
    let bin = installation.bin().display().to_string();
    let confs = world.scratch().join("net.d");
    fs::create_dir(&confs)?;
    let confs = confs.display().to_string();
    let arguments = ["doctor", "--bin-dir", &bin, "--conf-dir", &confs];
    let (table, findings) = both_outputs(&world, &installation.weftctl(), &arguments)?;
    ensure!(!table.contains("FAIL"), "{table}");
    let finding = |findings: &Value, what: &str| {
        findings
            .as_array()
            .into_iter()
            .flatten()
            .find(|one| one["what"].as_str().is_some_and(|text| text.contains(what)))
            .cloned()
    };
    ensure!(finding(&findings, "ledger").context("ledger")?["state"] == "ok", "{findings:#}");
    ensure!(finding(&findings, "nftables NAT").context("nftables")?["state"] == "ok", "{findings:#}");
    // It reports problems with a remedy, and the exit code says so.
    fs::set_permissions(world.state().join("cache"), fs::Permissions::from_mode(0o777))?;
    world.remove_container("a");
    let state = world.state().display().to_string();
    let all = [&["--json", "--state-dir", state.as_str()], arguments.as_slice()].concat();
    let output = run(&world.place()?, &installation.weftctl(), &all)?;
    ensure!(output.status == Some(1), "{}", stdout_text(&output));
    let findings = json_of(&output)?;
    let cache = finding(&findings, "/cache").context("cache")?;
    ensure!(
        cache["state"] == "fail" && cache["remedy"].as_str().is_some_and(|text| text.contains("chmod")),
        "{cache:#}"
    );
    let journal = finding(&findings, "journal").context("journal")?;
    ensure!(journal["state"] == "warn" && journal["detail"].to_string().contains("cid-a"), "{journal:#}");
    Ok(())
}

pub(super) fn mistakes() -> Result<()> {
    let (installation, world) = prepare_world()?;
    let state = world.state().display().to_string();
    let output =
        run(&world.place()?, &installation.weftctl(), &["--json", "--state-dir", &state, "explain", "nobody"])?;
    ensure!(output.status == Some(1), "exit code");
    ensure!(json_of(&output)?["error"].is_string(), "{}", stdout_text(&output));
    ensure!(output.stderr.starts_with("weftctl: "), "stderr");
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
fn conf_with_everything() -> Value {
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
pub(super) fn schema() -> Result<()> {
    let (installation, world) = prepare_world()?;
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
    shown.extend([conf(), list(), conf_with_everything(), chosen()]);
    for conf in &shown {
        let output = validate(conf)?;
        ensure!(output.status == Some(0), "{conf:#}: {} {}", stdout_text(&output), output.stderr);
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

pub(super) fn tables() -> Result<()> {
    let (installation, mut world) = prepare_world()?;
    for name in ["a", "b"] {
        ensure!(world.call("ADD", &Attach::eth0(name), &conf())?.is_ok(), "ADD {name}");
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
        let table = stdout_text(&run_with(
            &place,
            &weftctl,
            &[&["--state-dir", state.as_str()], command].concat(),
            &[columns],
        )?);
        ensure!(!table.is_empty(), "{command:?} printed nothing");
        let wide = table.lines().find(|line| line.chars().count() > 80);
        ensure!(wide.is_none(), "{command:?} is wider than 80 columns: {wide:?}");
        ensure!(!table.contains('\u{1b}'), "{command:?} prints colours into a pipe");
    }
    let line = format!("{} --state-dir {state} doctor --bin-dir /nonexistent", weftctl.display());
    let on_terminal = |more: &[(&str, &OsStr)]| -> Result<String> {
        let env = [&[("TERM", OsStr::new("xterm"))], more].concat();
        Ok(stdout_text(&run_with(&place, Path::new("script"), &["-qec", &line, "/dev/null"], &env)?))
    };
    let shown = on_terminal(&[])?;
    ensure!(shown.contains("\u{1b}[31mFAIL"), "no colours on a terminal: {shown}");
    let plain = on_terminal(&[("NO_COLOR", OsStr::new("1"))])?;
    ensure!(plain.contains("FAIL") && !plain.contains('\u{1b}'), "colours although NO_COLOR is set: {plain}");
    Ok(())
}

pub(super) fn manual() -> Result<()> {
    let (installation, world) = prepare_world()?;
    let (weftctl, place) = (installation.weftctl(), world.place()?);
    let script = world.scratch().join("weftctl.bash");
    fs::write(&script, run(&place, &weftctl, &["completion", "bash"])?.stdout)?;
    let complete = format!(
        "source {}; COMP_WORDS=(weftctl led); COMP_CWORD=1; _weftctl weftctl led weftctl; echo \"${{COMPREPLY[@]}}\"",
        script.display()
    );
    let completed = run(&place, Path::new("bash"), &["-c", &complete])?;
    ensure!(stdout_text(&completed).trim() == "ledger", "{} {}", stdout_text(&completed), completed.stderr);
    let page = stdout_text(&run(&place, &weftctl, &["man"])?);
    ensure!(page.contains(".TH weftctl 1") && page.contains("Exit codes"), "{page}");
    let dir = world.scratch().join("man");
    let written = run(&place, &weftctl, &["man", "--dir", &dir.display().to_string()])?;
    ensure!(written.status == Some(0), "{}", written.stderr);
    for page in ["weftctl.1", "weftctl-add.1", "weftctl-policy-check.1"] {
        ensure!(dir.join(page).is_file(), "no {page}");
    }
    Ok(())
}
