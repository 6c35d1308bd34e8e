//! Commands that look at attachments, and those that remove them.

use super::*;

pub(super) fn plan() -> Result<()> {
    let (installation, mut world) = prepare_world()?;
    let netns = world.container("a")?.path().display().to_string();
    let file = world.scratch().join("conf.json");
    fs::write(&file, conf().to_string())?;
    let file = file.display().to_string();
    let before = world.host().line("ip -j link")?.text();
    let (table, document) = both_outputs(&world, &installation.weftctl(), &["plan", &file, "--netns", &netns])?;
    ensure!(table.contains("create veth eth0") && table.contains("nothing was changed"), "{table}");
    let ops = document["plan"]["ops"].as_array().context("ops")?;
    ensure!(ops.iter().any(|op| op["op"] == "ensure-bridge" && op["name"] == "ctl0"), "{document:#}");
    ensure!(document["decision"]["reason"].is_string(), "no decision in {document:#}");
    ensure!(world.host().line("ip -j link")?.text() == before, "the host changed");
    ensure!(!world.state().join("weft.db").exists(), "a ledger was made");
    Ok(())
}

pub(super) fn explain() -> Result<()> {
    let (installation, mut world) = prepare_world()?;
    ensure!(world.call("ADD", &Attach::eth0("a"), &conf())?.is_ok(), "ADD");
    let (table, document) = both_outputs(&world, &installation.weftctl(), &["explain", "cid-a"])?;
    for part in ["10.63.0.2", "host-local (sha256:", "because", "candidate", "fuel"] {
        ensure!(table.contains(part), "no {part:?} in {table}");
    }
    let decision = &document[0]["decision"];
    ensure!(decision["claimed"] == json!(["10.63.0.2/24"]) && decision["fuel"].as_u64() > Some(0), "{document:#}");
    let (by_address, _) = both_outputs(&world, &installation.weftctl(), &["explain", "10.63.0.2"])?;
    ensure!(by_address == table, "by address: {by_address}");
    Ok(())
}

/// A list: each plugin on what those before it would make, as far as that is known.
pub(super) fn plan_list() -> Result<()> {
    let (installation, mut world) = prepare_world()?;
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
    let (text, document) = both_outputs(&world, &weftctl, &words)?;
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
    let (text, document) = both_outputs(&world, &weftctl, &words)?;
    ensure!(
        text.contains("only it knows its plan") && text.contains("as if \"another-vendors\" changed nothing"),
        "{text}"
    );
    ensure!(document["plugins"][1]["plan"].is_null(), "{document:#}");
    list(&[&other, &portmap])?;
    let (text, _) = both_outputs(&world, &weftctl, &words)?;
    ensure!(text.contains("depends on what \"another-vendors\" makes"), "{text}");
    Ok(())
}

/// Failed ADDs in a table that fits, each failure of a pod once however often it was tried; as JSON one by one.
pub(super) fn failures() -> Result<()> {
    let (installation, mut world) = prepare_world()?;
    let weftctl = installation.weftctl();
    let (table, document) = both_outputs(&world, &weftctl, &["failures"])?;
    ensure!(table.trim() == "nothing to show" && document == json!([]), "{table} {document}");
    let mut full = conf();
    full["ipam"]["ranges"] = json!([[{ "subnet": "10.63.0.0/30" }]]);
    ensure!(world.call("ADD", &Attach::eth0("a"), &full)?.is_ok(), "ADD");
    for (container, args) in [("b", Some("K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web")), ("c", None)] {
        for _again in 0..2 {
            let attach = Attach { args, ..Attach::eth0(container) };
            ensure!(world.call("ADD", &attach, &full)?.error()?.code == 102, "the pool is full");
        }
    }
    let (table, document) = both_outputs(&world, &weftctl, &["failures"])?;
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
    let (_, of_pod) = both_outputs(&world, &weftctl, &["failures", "--pod", "web"])?;
    ensure!(of_pod.as_array().is_some_and(|rows| rows.len() == 2), "{of_pod:#}");
    let mut unread = conf();
    unread["delagate"] = json!({});
    let attach = Attach { args: Some("K8S_POD_NAMESPACE=shop;K8S_POD_NAME=db"), ..Attach::eth0("d") };
    world.call("ADD", &attach, &unread)?.error()?;
    let (table, _) = both_outputs(&world, &weftctl, &["failures", "--pod", "shop/db"])?;
    ensure!(table.contains("delagate") && table.contains("ctl"), "a configuration that cannot be read: {table}");
    let (table, _) = both_outputs(&world, &weftctl, &["failures", "--network", "other"])?;
    ensure!(table.trim() == "nothing to show", "{table}");
    Ok(())
}

pub(super) fn ps_and_gc() -> Result<()> {
    let (installation, mut world) = prepare_world()?;
    for name in ["a", "b"] {
        ensure!(world.call("ADD", &Attach::eth0(name), &conf())?.is_ok(), "ADD {name}");
    }
    let weftctl = installation.weftctl();
    let (table, document) = both_outputs(&world, &weftctl, &["ps"])?;
    ensure!(table.contains("10.63.0.2") && table.contains("yes"), "{table}");
    ensure!(table.lines().all(|line| line.chars().count() <= 80), "wider than 80 columns:\n{table}");
    ensure!(document[0]["alive"] == "yes" && document[0]["addresses"][0] == "10.63.0.2", "{document:#}");
    let (table, pools) = both_outputs(&world, &weftctl, &["pools"])?;
    ensure!(table.contains("2 of 253") && pools[0]["taken"] == 2, "the gateway is not given out: {table}");
    let state = world.state().display().to_string();
    let refused = run(&world.place()?, &weftctl, &["--state-dir", &state, "detach", "cid-a"])?;
    ensure!(refused.status == Some(1) && refused.stderr.contains("--force"), "{}", refused.stderr);
    world.remove_container("a");
    let (_, dead) = both_outputs(&world, &weftctl, &["ps", "--dead"])?;
    ensure!(dead.as_array().is_some_and(|rows| rows.len() == 1), "{dead:#}");
    let (table, _) = both_outputs(&world, &weftctl, &["gc", "--dry-run"])?;
    ensure!(table.contains("would be removed") && world.claims()?.len() == 2, "{table}");
    let gone = run(&world.place()?, &weftctl, &["--state-dir", &state, "gc"])?;
    ensure!(gone.status == Some(0) && world.claims()?.len() == 1, "{} {}", stdout_text(&gone), gone.stderr);
    let detached = run(&world.place()?, &weftctl, &["--state-dir", &state, "detach", "cid-b", "--force"])?;
    ensure!(detached.status == Some(0) && world.claims()?.is_empty(), "{} {}", stdout_text(&detached), detached.stderr);
    let inside = world.container("b")?.line("ip -j link")?.text();
    ensure!(!inside.contains("eth0"), "the link is left: {inside}");
    Ok(())
}

/// A pool is full when no address is left to give: its gateway is none. Where nothing is attached any more, the configuration says
/// which that is.
pub(super) fn pool_sizes() -> Result<()> {
    let (installation, mut world) = prepare_world()?;
    let weftctl = installation.weftctl();
    let mut small = conf();
    small["ipam"]["ranges"] = json!([[{ "subnet": "10.63.0.0/29" }]]);
    let names = ["a", "b", "c", "d", "e"];
    for name in names {
        ensure!(world.call("ADD", &Attach::eth0(name), &small)?.is_ok(), "ADD {name}");
    }
    ensure!(world.call("ADD", &Attach::eth0("f"), &small)?.error()?.code == 102, "a sixth");
    let confs = world.scratch().join("confs");
    fs::create_dir(&confs)?;
    let ls = ["pool", "ls", "--conf-dir", &confs.display().to_string()];
    let (table, pools) = both_outputs(&world, &weftctl, &ls)?;
    ensure!(table.contains("5 of 5") && table.contains("100%"), "{table}");
    ensure!(pools[0]["size"] == 5 && pools[0]["gateway"] == "10.63.0.1", "{pools:#}");
    for name in names {
        ensure!(world.call("DEL", &Attach::eth0(name), &small)?.is_ok(), "DEL {name}");
    }
    fs::write(confs.join("10-ctl.conf"), small.to_string())?;
    let (table, _) = both_outputs(&world, &weftctl, &ls)?;
    ensure!(table.contains("0 of 5"), "{table}");
    Ok(())
}

/// A container that has labels and no pod is shown by its id, as one without either.
pub(super) fn no_pod() -> Result<()> {
    let (installation, mut world) = prepare_world()?;
    let mut labelled = conf();
    labelled["args"] = json!({ "cni": { "labels": { "tier": "gold" } } });
    ensure!(world.call("ADD", &Attach::eth0("a"), &labelled)?.is_ok(), "ADD");
    let weftctl = installation.weftctl();
    let (table, document) = both_outputs(&world, &weftctl, &["ps"])?;
    let row: Vec<&str> = table.lines().nth(1).context("a row")?.split_whitespace().collect();
    ensure!(row[0] == "cid-a" && document[0]["pod"].is_null(), "{table} {document:#}");
    let (line, document) = both_outputs(&world, &weftctl, &["who-has", "10.63.0.2"])?;
    ensure!(line.contains("eth0 of container cid-a, "), "{line}");
    ensure!(document[0]["attachment"]["pod"].is_null(), "{document:#}");
    let (why, _) = both_outputs(&world, &weftctl, &["explain", "cid-a"])?;
    ensure!(why.contains("pod         - tier=gold"), "{why}");
    Ok(())
}

/// CHECK of what was never added says that, with code 3; of what was added, that the runtime forgot the result.
pub(super) fn check_of_nothing() -> Result<()> {
    let (_installation, mut world) = prepare_world()?;
    let steps =
        json!({ "cniVersion": "1.1.0", "name": "ctl", "type": "weft", "steps": [{ "type": "tuning", "mtu": 1400 }] });
    for conf in [&conf(), &steps] {
        let error = world.call("CHECK", &Attach::eth0("a"), conf)?.error()?;
        ensure!(error.code == 3 && error.msg.contains("it was never added here"), "{} {}", error.code, error.msg);
    }
    ensure!(world.call("ADD", &Attach::eth0("a"), &conf())?.is_ok(), "ADD");
    let error = world.call("CHECK", &Attach::eth0("a"), &conf())?.error()?;
    ensure!(error.code == 7 && error.msg.contains("has to pass the result"), "{} {}", error.code, error.msg);
    let stock = json!({ "cniVersion": "1.0.0", "name": "ctl", "type": "bridge", "bridge": "ctl0" });
    let error = world.call("CHECK", &Attach::eth0("b"), &stock)?.error()?;
    ensure!(error.msg == "Required prevResult missing", "the stock plugin's text: {}", error.msg);
    Ok(())
}

/// A pipe that nobody reads ends the program as it ends any other.
pub(super) fn broken_pipe() -> Result<()> {
    let installation = Installation::new()?;
    let script =
        format!("{} doctor | head -1 >/dev/null; {0} --help | head -1 >/dev/null", installation.weftctl().display());
    let output = Command::new("sh").args(["-c", &script]).output()?;
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(!stderr.contains("panicked"), "{stderr}");
    Ok(())
}

/// What a chained plugin did has an entry of its own, but is no attachment of its own.
pub(super) fn one_row() -> Result<()> {
    let (installation, mut world) = prepare_world()?;
    let weftctl = installation.weftctl();
    let reply = world.call("ADD", &Attach::eth0("a"), &conf())?;
    ensure!(reply.is_ok(), "ADD");
    let mut chained =
        json!({ "cniVersion": "1.1.0", "name": "ctl", "type": "portmap", "capabilities": { "portMappings": true } });
    chained["runtimeConfig"] = with_port()["runtimeConfig"].clone();
    chained["prevResult"] = reply.json()?;
    ensure!(world.call("ADD", &Attach::eth0("a"), &chained)?.is_ok(), "ADD of portmap");
    let (table, document) = both_outputs(&world, &weftctl, &["ps"])?;
    ensure!(table.lines().count() == 2, "a head and one row: {table}");
    ensure!(table.contains("10.63.0.2  8086:80/tcp"), "{table}");
    ensure!(document.as_array().is_some_and(|entries| entries.len() == 2), "JSON has every entry: {document:#}");
    Ok(())
}
