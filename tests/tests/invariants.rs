//! Invariants of ARCHITECTURE.md that are visible only from outside: the order of journal and kernel, and what DEL and
//! GC need.

use std::fs;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use weft_kit::cni::{Call, expect_ok};
use weft_kit::names::Names;
use weft_kit::observe;
use weft_kit::process::{self, Place};
use weft_kit::sandbox;
use weft_kit::suite::{Need, Suite};
use weft_kit::world::{Attach, World};

fn main() -> ExitCode {
    sandbox::enter();
    let needs = [Need::Sandbox, Need::Weft, Need::Weftctl, Need::Tool("sqlite3")];
    let strace = [Need::Sandbox, Need::Weft, Need::Weftctl, Need::Tool("strace")];
    let mut suite = Suite::new();
    suite.test("journal_before_change", &strace, journal_before_change);
    suite.test("ledger_outlives_link", &strace, ledger_outlives_link);
    suite.test("no_change_without_a_journal", &needs, no_change_without_a_journal);
    suite.test("del_needs_the_journal_alone", &needs, del_needs_the_journal_alone);
    suite.test("gc_needs_the_journal_alone", &needs, gc_needs_the_journal_alone);
    suite.test("del_goes_on_past_failures", &needs, del_goes_on_past_failures);
    suite.test("a_reboot_releases_what_the_old_boot_left", &needs, reboot);
    suite.test("a_fault_stays_with_what_names_it", &needs, fault_stays);
    suite.test("a_reused_netns_path_is_left_alone", &needs, reused_path);
    suite.test("other_plugins_get_no_reused_netns_path", &needs, reused_path_of_others);
    suite.test("a_device_that_came_home_is_found", &needs, device_that_came_home);
    suite.run()
}

fn conf() -> Value {
    json!({ "cniVersion": "1.1.0", "name": "inv", "type": "weft",
            "delegate": { "type": "bridge", "bridge": "inv0", "isGateway": true, "ipMasq": true },
            "ipam": { "type": "host-local", "ranges": [[{ "subnet": "10.62.0.0/24" }]] } })
}

/// Returns the system calls of one call, in order, with decoded netlink messages and file names.
fn traced(world: &mut World, verb: &str) -> Result<Vec<String>> {
    let call = world.prepare(verb, &Attach::eth0("pod"), &conf())?;
    let log = world.scratch().join(format!("{verb}.strace"));
    let script = world.scratch().join(format!("{verb}.sh"));
    let body = format!(
        "#!/bin/sh\nexec strace -f -y -s 64 -e trace=sendto,sendmsg,pwrite64,fdatasync,fsync,execve -o {} {}\n",
        log.display(),
        world.plugin("weft").display()
    );
    fs::write(&script, body).context("write the script")?;
    process::run(&Place::default(), &["chmod".to_owned(), "755".to_owned(), script.display().to_string()])?;
    expect_ok(&call.run(&script, &world.place()?)?, verb)?;
    Ok(fs::read_to_string(&log).context("read the trace")?.lines().map(str::to_owned).collect())
}

fn first_match(trace: &[String], what: &str, matches: impl Fn(&str) -> bool) -> Result<usize> {
    trace.iter().position(|line| matches(line)).with_context(|| format!("no {what} in\n{}", trace.join("\n")))
}

fn last_match(trace: &[String], what: &str, matches: impl Fn(&str) -> bool) -> Result<usize> {
    trace.iter().rposition(|line| matches(line)).with_context(|| format!("no {what} in\n{}", trace.join("\n")))
}

/// Invariants 1 and 2 on ADD: the whole journal is written before the first link is made, and nothing is written after.
fn journal_before_change() -> Result<()> {
    let (_installation, mut world) = World::installed()?;
    // The first call creates the store, which writes as well.
    expect_ok(&world.call("ADD", &Attach::eth0("first"), &conf())?, "first ADD")?;
    let trace = traced(&mut world, "ADD")?;
    let is_write = |line: &str| line.contains("pwrite64") && line.contains("weft.db-wal");
    let written = last_match(&trace, "write of the log", is_write)?;
    let changed = first_match(&trace, "RTM_NEWLINK", |line| line.contains("RTM_NEWLINK"))?;
    ensure!(written < changed, "changed the node before the journal was written:\n{}", trace.join("\n"));
    no_other_program(&trace)
}

/// Invariant 2 on DEL: the link is deleted before the ledger is written.
fn ledger_outlives_link() -> Result<()> {
    let (_installation, mut world) = World::installed()?;
    expect_ok(&world.call("ADD", &Attach::eth0("pod"), &conf())?, "ADD")?;
    let trace = traced(&mut world, "DEL")?;
    let unlinked = last_match(&trace, "RTM_DELLINK", |line| line.contains("RTM_DELLINK"))?;
    let released =
        first_match(&trace, "write of the log", |line| line.contains("pwrite64") && line.contains("weft.db-wal"))?;
    ensure!(unlinked < released, "released the address before it was off the link:\n{}", trace.join("\n"));
    no_other_program(&trace)
}

/// Checks that one process does everything.
fn no_other_program(trace: &[String]) -> Result<()> {
    let started: Vec<_> = trace.iter().filter(|line| line.contains("execve(")).collect();
    ensure!(started.len() == 1, "other programs were started: {started:?}");
    Ok(())
}

fn kernel(world: &World) -> Result<Value> {
    observe::wait_until_settled(world)?;
    let mut names = Names::default();
    let state = observe::world_state(world, &mut names)?;
    Ok(names.value(&state))
}

/// Invariant 1: without a writable journal, nothing changes.
fn no_change_without_a_journal() -> Result<()> {
    let (_installation, mut world) = World::installed()?;
    world.container("pod")?;
    fs::write(world.state().join("weft.db"), "this is no store").context("spoil the store")?;
    let before = kernel(&world)?;
    let error = world.call("ADD", &Attach::eth0("pod"), &conf())?.error()?;
    ensure!(error.code == 5 && error.msg.contains("weft.db"), "{}: {}", error.code, error.msg);
    ensure!(before == kernel(&world)?, "the node changed");
    Ok(())
}

/// Returns the host's links except `lo` and the bridge, which DEL leaves as the stock plugin does.
fn left_on_host(world: &World) -> Result<Vec<String>> {
    let links: Value = serde_json::from_str(&world.host().line("ip -j link")?.text())?;
    let names = links.as_array().into_iter().flatten().filter_map(|link| link["ifname"].as_str().map(str::to_owned));
    Ok(names.filter(|name| name != "lo" && name != "inv0").collect())
}

fn query(state: &Path, sql: &str) -> Result<String> {
    let store = state.join("weft.db").display().to_string();
    let argv = ["sqlite3".to_owned(), store, sql.to_owned()];
    Ok(process::run(&Place::default(), &argv)?.text().trim().to_owned())
}

/// Checks that links, masquerading and ledger are as if the attachment had never existed.
fn is_clean(world: &World) -> Result<()> {
    let links = left_on_host(world)?;
    ensure!(links.is_empty(), "links left: {links:?}");
    let rules = world.host().line("nft list ruleset")?.text();
    ensure!(!rules.contains("10.62.0."), "nftables elements left:\n{rules}");
    let rows = query(&world.state(), "SELECT (SELECT count(*) FROM journal) + (SELECT count(*) FROM claims)")?;
    ensure!(rows == "0", "{rows} rows left in the ledger");
    Ok(())
}

/// Removes what a node may have lost by DEL: policies, cache, the netns, and everything in the configuration but its
/// name.
fn lose_everything(world: &mut World, container: &str) -> Result<()> {
    fs::remove_dir_all(world.state().join("policies")).context("remove the policies")?;
    fs::remove_dir_all(world.state().join("cache")).context("remove the cache")?;
    world.remove_container(container);
    Ok(())
}

/// Invariant 14: networks whose policy is missing, is no component or has no addresses left fail, each with its own
/// code, and another network works.
fn fault_stays() -> Result<()> {
    let (_installation, mut world) = World::installed()?;
    let spoilt = world.scratch().join("spoilt.wasm");
    fs::write(&spoilt, "this is no component").context("write a policy")?;
    let with = |name: &str, ipam: Value| {
        let mut conf = conf();
        conf["name"] = json!(name);
        conf["ipam"] = ipam;
        conf
    };
    let range = |subnet: &str| json!([[{"subnet": subnet}]]);
    let wasm = |path: &Path, subnet: &str| json!({"type": "wasm", "policy": format!("file://{}", path.display()), "ranges": range(subnet)});
    let faulty = [
        with("missing", wasm(&world.scratch().join("nowhere.wasm"), "10.63.0.0/24")),
        with("spoilt", wasm(&spoilt, "10.64.0.0/24")),
        with("full", json!({"type": "host-local", "ranges": [[{"subnet": "10.65.0.0/30", "rangeEnd": "10.65.0.1"}]]})),
        with("wrong", json!({"type": "host-local", "rnages": range("10.66.0.0/24")})),
    ];
    for (round, faulty) in faulty.iter().enumerate() {
        let names = [format!("bad-{round}"), format!("good-{round}")];
        let (bad, good) = (Attach::eth0(&names[0]), Attach::eth0(&names[1]));
        let error = world.call("ADD", &bad, faulty)?.error()?;
        ensure!(error.code >= 5, "{}: {error:?}", faulty["name"]);
        expect_ok(&world.call("ADD", &good, &conf())?, "ADD of another network")?;
        expect_ok(&world.call("DEL", &bad, faulty)?, "DEL of the one that failed")?;
        expect_ok(&world.call("DEL", &good, &conf())?, "DEL of the other")?;
    }
    is_clean(&world)
}

/// Invariant 4.
fn del_needs_the_journal_alone() -> Result<()> {
    let (_installation, mut world) = World::installed()?;
    expect_ok(&world.call("ADD", &Attach::eth0("pod"), &conf())?, "ADD")?;
    let mut call = world.prepare("DEL", &Attach::eth0("pod"), &json!({ "cniVersion": "1.1.0", "name": "inv" }))?;
    call.netns = None;
    lose_everything(&mut world, "pod")?;
    for round in ["DEL", "DEL again"] {
        expect_ok(&world.run(&call, "weft")?, round)?;
        is_clean(&world)?;
    }
    // A configuration that ADD would refuse.
    let broken = json!({ "cniVersion": "1.1.0", "name": "inv", "type": "weft", "no-such-key": 1, "ipam": 7 });
    expect_ok(&world.call("DEL", &Attach::eth0("other"), &broken)?, "DEL with a broken configuration")
}

fn gc_call(world: &World, valid: &Value) -> Call {
    let mut call =
        Call::new("GC", &json!({ "cniVersion": "1.1.0", "name": "inv", "cni.dev/valid-attachments": valid }));
    call.path = Some(world.plugins().display().to_string());
    call.env.push(("WEFT_STATE_DIR".into(), world.state().into()));
    call
}

fn gc_needs_the_journal_alone() -> Result<()> {
    let (_installation, mut world) = World::installed()?;
    for container in ["stays", "goes", "went"] {
        expect_ok(&world.call("ADD", &Attach::eth0(container), &conf())?, container)?;
    }
    lose_everything(&mut world, "went")?;
    let valid = json!([{ "containerID": "cid-stays", "ifname": "eth0" }]);
    let call = gc_call(&world, &valid);
    expect_ok(&world.run(&call, "weft")?, "GC")?;
    let left = query(&world.state(), "SELECT container_id FROM journal")?;
    ensure!(left == "cid-stays", "journal after GC: {left}");
    ensure!(world.reaches("stays", "10.62.0.1")?, "GC cut the attachment that stays");
    ensure!(world.container("goes")?.line("ip link show eth0").is_err(), "the link of the one that goes is there");
    let call = gc_call(&world, &json!([]));
    expect_ok(&world.run(&call, "weft")?, "GC of everything")?;
    is_clean(&world)
}

/// GC reports a failure, does the rest, and finishes when it is repeated.
fn del_goes_on_past_failures() -> Result<()> {
    let (_installation, mut world) = World::installed()?;
    let conf = json!({ "cniVersion": "1.0.0", "name": "inv", "type": "bridge", "bridge": "inv0",
                       "ipam": { "type": "ext-ipam" } });
    let plugin = world.scratch().join("plugins");
    fs::create_dir(&plugin)?;
    let answer = r#"{"cniVersion":"1.0.0","ips":[{"address":"10.62.0.9/24"}]}"#;
    let script = |del: &str| {
        format!("#!/bin/sh\ncat >/dev/null\ncase $CNI_COMMAND in ADD) echo '{answer}';; DEL) {del};; esac\n")
    };
    let write = |body: String| -> Result<()> {
        let path = plugin.join("ext-ipam");
        fs::write(&path, body)?;
        process::run(&Place::default(), &["chmod", "755", &path.display().to_string()])?;
        Ok(())
    };
    write(script("echo '{\"code\":11,\"msg\":\"not now\"}'; exit 1"))?;
    world.add_path(&plugin);
    expect_ok(&world.call("ADD", &Attach::eth0("pod"), &conf)?, "ADD")?;
    let error = world.call("DEL", &Attach::eth0("pod"), &conf)?.error()?;
    ensure!(error.code == 104 && error.msg.contains("not now"), "{} {}", error.code, error.msg);
    ensure!(left_on_host(&world)?.is_empty(), "the link had to go although the IPAM plugin failed");
    ensure!(query(&world.state(), "SELECT count(*) FROM journal")? == "1", "the journal forgot what is left");
    write(script("exit 0"))?;
    expect_ok(&world.call("DEL", &Attach::eth0("pod"), &conf)?, "DEL again")?;
    is_clean(&world)
}

fn reboot() -> Result<()> {
    let (_installation, mut world) = World::installed()?;
    let capacity = json!({ "cniVersion": "1.1.0", "name": "inv", "type": "weft",
        "delegate": { "type": "bridge", "bridge": "inv0" },
        "ipam": { "type": "host-local", "ranges": [[{ "subnet": "10.62.0.0/24", "rangeStart": "10.62.0.10", "rangeEnd": "10.62.0.11" }]] } });
    for container in ["a", "b"] {
        expect_ok(&world.call("ADD", &Attach::eth0(container), &capacity)?, container)?;
    }
    let full = world.call("ADD", &Attach::eth0("c"), &capacity)?.error()?;
    ensure!(full.code == 102, "{} {}", full.code, full.msg);
    // The state of the store at the first call of the next boot.
    query(
        &world.state(),
        "UPDATE journal SET boot_id = 'the-boot-before'; UPDATE meta SET value = 'the-boot-before' WHERE key = 'boot_id' OR key = 'boot'",
    )?;
    for container in ["a", "b"] {
        world.remove_container(container);
    }
    expect_ok(&world.call("ADD", &Attach::eth0("c"), &capacity)?, "ADD after the reboot")?;
    let left = query(&world.state(), "SELECT container_id FROM journal")?;
    ensure!(left == "cid-c", "journal after the reboot: {left}");
    Ok(())
}

/// DEL with a path that now names another container's namespace must not touch that container.
fn reused_path() -> Result<()> {
    let (_installation, mut world) = World::installed()?;
    let conf = json!({ "cniVersion": "1.1.0", "name": "inv", "type": "weft", "delegate": { "type": "macvlan", "master": "up0" },
                       "ipam": { "type": "host-local", "ranges": [[{ "subnet": "10.62.0.0/24" }]] } });
    world.host().line("ip link add up0 type veth peer name up1")?;
    world.host().line("ip link set up0 up")?;
    expect_ok(&world.call("ADD", &Attach::eth0("old"), &conf)?, "ADD old")?;
    let old = world.prepare("DEL", &Attach::eth0("old"), &conf)?;
    world.remove_container("old");
    expect_ok(&world.call("ADD", &Attach::eth0("new"), &conf)?, "ADD new")?;
    let mut del = old;
    del.netns = Some(world.container("new")?.path().display().to_string());
    expect_ok(&world.run(&del, "weft")?, "DEL old by the new one's path")?;
    if world.container("new")?.line("ip link show eth0").is_err() {
        bail!("DEL of the old attachment deleted the new container's link");
    }
    Ok(())
}

/// Another vendor's plugin acts in whatever namespace it is told.
fn reused_path_of_others() -> Result<()> {
    let (_installation, mut world) = World::installed()?;
    let (dir, log) = (world.scratch().join("plugins"), world.scratch().join("theirs.log"));
    fs::create_dir_all(&dir).context("make the directory")?;
    let script = format!(
        "#!/bin/sh\ncat > /dev/null\necho \"$CNI_COMMAND $CNI_NETNS\" >> {}\n\
         [ $CNI_COMMAND = DEL ] || echo '{{\"cniVersion\": \"1.1.0\", \"ips\": [{{\"address\": \"10.62.7.2/24\"}}]}}'\n",
        log.display()
    );
    fs::write(dir.join("theirs"), script).context("write the plugin")?;
    let file = dir.join("theirs").display().to_string();
    process::run(&Place::default(), &["chmod".to_owned(), "755".to_owned(), file])?;
    world.add_path(&dir);
    let by_ipam = json!({ "cniVersion": "1.1.0", "name": "inv", "type": "weft", "delegate": { "type": "bridge", "bridge": "inv0" },
                          "ipam": { "type": "theirs" } });
    let by_delegate = json!({ "cniVersion": "1.1.0", "name": "inv", "type": "weft", "delegate": { "type": "theirs" } });
    for conf in [by_ipam, by_delegate] {
        for is_reused in [true, false] {
            let (old, new) = (Attach::eth0("old"), Attach::eth0("new"));
            expect_ok(&world.call("ADD", &old, &conf)?, "ADD")?;
            fs::write(&log, "").context("empty the log")?;
            let mut del = world.prepare("DEL", &old, &conf)?;
            let own = del.netns.clone().context("a path")?;
            if is_reused {
                del.netns = world.prepare("DEL", &new, &conf)?.netns;
            }
            expect_ok(&world.run(&del, "weft")?, "DEL")?;
            let said = fs::read_to_string(&log).context("read the log")?;
            let want = if is_reused { "DEL \n".to_owned() } else { format!("DEL {own}\n") };
            ensure!(said == want, "{conf}: {said:?} instead of {want:?}");
        }
    }
    Ok(())
}

/// When a namespace ends before its DEL, the kernel returns the device to the host under any name. The next ADD finds
/// it by the journal.
fn device_that_came_home() -> Result<()> {
    let (_installation, mut world) = World::installed()?;
    let conf = json!({ "cniVersion": "1.1.0", "name": "inv", "type": "weft",
                       "delegate": { "type": "host-device", "device": "dev0" } });
    world.host().line("ip link add dev0 type veth peer name peer0")?;
    let home = world.host().path().display().to_string();
    expect_ok(&world.call("ADD", &Attach::eth0("old"), &conf)?, "ADD old")?;
    let old = world.container("old")?;
    for line in ["ip link set eth0 down", "ip link set eth0 name dev37", &format!("ip link set dev37 netns {home}")] {
        old.line(line)?;
    }
    world.remove_container("old");
    expect_ok(&world.call("ADD", &Attach::eth0("new"), &conf)?, "ADD new")?;
    ensure!(world.container("new")?.line("ip link show eth0").is_ok(), "the new container has the device");
    Ok(())
}
