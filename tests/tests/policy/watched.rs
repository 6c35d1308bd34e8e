//! A monitored policy that ends its process.

use super::*;

/// How long the monitored policy is looked for.
const PATIENCE: Duration = Duration::from_secs(30);

/// The monitored policy runs in a process of its own. If that dies, the ADD has succeeded all the same, and the record
/// says that the monitor failed.
pub(super) fn monitor_dies(guests: &Guests) -> Result<()> {
    let mut node = Node::with_policy(&guests.get("low")?)?;
    let other = node.world.scratch().join("other.wasm");
    fs::write(&other, guests.get("hostile")?)?;
    // A compiler would be a child, too.
    for policy in [&node.policy, &other] {
        node.world.weftctl(&["policy", "compile", &policy.display().to_string()])?;
    }
    let monitor = json!({ "policy": format!("file://{}", other.display()) });
    let conf = with_key(&node.conf(&json!({ "lie": "loop" })), "monitor", &monitor);
    // Without the end that this trial makes, it would loop for minutes.
    let conf = with_key(&conf, "limits", &json!({ "fuel": 1_000_000_000_000_u64, "deadlineMs": 600_000 }));
    let mut call = node.world.prepare("ADD", &Attach::eth0("monitored-to-death"), &conf)?;
    call.limit = LIMIT * 3;
    let (plugin, place) = (node.world.plugin("weft"), node.world.place()?);
    let reply = std::thread::scope(|scope| {
        let killer = scope.spawn(|| kill_worker("CNI_CONTAINERID=cid-monitored-to-death"));
        let reply = call.run(&plugin, &place);
        killer.join().map_err(|_panic| anyhow::Error::msg("the killer panicked"))??;
        reply
    })?;
    ensure!(reply.status == Some(0), "the ADD ended with {reply:?}");
    let result = reply.result()?;
    ensure!(result.pointer("/ips/0/address") == Some(&json!("10.77.0.2/24")), "{result}");
    let why = node.world.weftctl(&["explain", "cid-monitored-to-death"])?;
    let failed = why.pointer("/0/monitor/outcome/failed").and_then(Value::as_str).context("a failure")?;
    ensure!(failed.contains("worker"), "{failed}");
    node.call("DEL", &Attach::eth0("monitored-to-death"), &conf)?.expect_quiet()
}

/// Kills the child of the process that has this variable, and has printed its result by then.
fn kill_worker(variable: &str) -> Result<()> {
    let began = std::time::Instant::now();
    while began.elapsed() < PATIENCE {
        let ours: Vec<i32> = processes()?
            .into_iter()
            .filter(|(pid, _parent)| has_variable(*pid, variable))
            .map(|(pid, _)| pid)
            .collect();
        let worker = processes()?.into_iter().find(|(_pid, parent)| ours.contains(parent));
        // The policy that decides has no process; the one that is found is the monitor's.
        if let Some((pid, _parent)) = worker {
            nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL)?;
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    anyhow::bail!("the monitored policy has no process of its own")
}

/// Returns all processes with their parents.
fn processes() -> Result<Vec<(i32, i32)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")?.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        let stat = fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        let rest = stat.rsplit_once(')').map_or("", |(_name, rest)| rest);
        found.extend(rest.split_whitespace().nth(1).and_then(|parent| parent.parse().ok()).map(|parent| (pid, parent)));
    }
    Ok(found)
}

fn has_variable(pid: i32, variable: &str) -> bool {
    let environ = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
    environ.split(|byte| *byte == 0).any(|entry| entry == variable.as_bytes())
}
