//! A second policy beside the one that decides.

use super::*;

/// The policy of `monitor` gets the same request; weft records what it would have done, and does none of it.
pub(super) fn monitor_compared(guests: &Guests) -> Result<()> {
    let mut node = Node::with_policy(&guests.get("low")?)?;
    let other = node.world.scratch().join("other.wasm");
    fs::write(&other, guests.get("high")?)?;
    node.world.weftctl(&["policy", "compile", &other.display().to_string()])?;
    let reference = format!("file://{}", other.display());
    // As the agent makes it: from now on, calls count.
    let counters = node.world.state().join("counters");
    fs::write(&counters, "").context("make the counters")?;
    let monitored = with_key(&node.conf(&json!({})), "monitor", &json!({ "policy": reference }));
    let address = |node: &mut Node, container: &str, conf: &Value| -> Result<Value> {
        let result = node.call("ADD", &Attach::eth0(container), conf)?.result()?;
        result.pointer("/ips/0/address").cloned().context("an address")
    };
    ensure!(address(&mut node, "a", &monitored)? == json!("10.77.0.2/24"), "the network's own decides");
    let why = node.world.weftctl(&["explain", "cid-a"])?;
    let monitor = why.pointer("/0/monitor").context("a monitor")?;
    ensure!(monitor.pointer("/differences/0/part") == Some(&json!("addresses")), "{monitor}");
    ensure!(monitor.pointer("/differences/0/monitor") == Some(&json!("gives 10.77.0.254/24")), "{monitor}");
    ensure!(monitor.pointer("/outcome/decided/candidates/0/0") == Some(&json!("10.77.0.254/24")), "{monitor}");
    ensure!(node.world.claims()? == ["10.77.0.2"], "{:?}", node.world.claims());
    // The monitored policy does not see what the ADD then claimed.
    let same =
        with_key(&node.conf(&json!({})), "monitor", &json!({ "policy": format!("file://{}", node.policy.display()) }));
    ensure!(address(&mut node, "b", &same)? == json!("10.77.0.3/24"), "the next");
    let why = node.world.weftctl(&["explain", "cid-b"])?;
    ensure!(why.pointer("/0/monitor/differences").is_none(), "the same policy decides the same: {why}");
    // A refusal that the other policy would not have made.
    let mut strict = same.clone();
    strict["ipam"]["policy"] = json!(reference);
    let attach = Attach { container: "c", ifname: "net1", args: None };
    ensure!(node.call("ADD", &attach, &strict)?.error()?.code == 100, "high is for eth0 alone");
    let why = node.world.weftctl(&["explain", "cid-c"])?;
    let found = why.pointer("/0/failure/monitor/differences/0").context("a difference")?;
    ensure!(found["part"] == json!("answer") && found["monitor"] == json!("gives 10.77.0.4/24"), "{found}");
    // With one changed key it decides.
    let promoted = with_key(&node.conf(&json!({})), "monitor", &json!({ "policy": reference, "promoted": true }));
    ensure!(address(&mut node, "d", &promoted)? == json!("10.77.0.254/24"), "promoted");
    let why = node.world.weftctl(&["explain", "cid-d"])?;
    ensure!(why.pointer("/0/monitor/differences/0/monitor") == Some(&json!("gives 10.77.0.4/24")), "{why}");
    let own = format!("file://{}", node.policy.display());
    let counted = fs::read_to_string(&counters).context("read the counters")?;
    // A decision has its fuel as a fourth field.
    let fields = |line: &str| line.split('\t').take(3).collect::<Vec<_>>().join("\t");
    let of_policies: Vec<String> =
        counted.lines().filter_map(|line| line.strip_prefix("policy\town\t")).map(fields).collect();
    let expected = [
        format!("{own}\tactive\tdecided"),
        format!("{reference}\tmonitor\tdecided"),
        format!("{reference}\tcompared\tdifferent"),
        format!("{own}\tactive\tdecided"),
        format!("{own}\tmonitor\tdecided"),
        format!("{own}\tcompared\tsame"),
        format!("{reference}\tactive\tdenied"),
        format!("{own}\tmonitor\tdecided"),
        format!("{own}\tcompared\tdifferent"),
        format!("{reference}\tactive\tdecided"),
        format!("{own}\tmonitor\tdecided"),
        format!("{own}\tcompared\tdifferent"),
    ];
    ensure!(of_policies == expected, "{counted}");
    for container in ["a", "b", "d"] {
        node.del(container)?;
        node.clean_of(container)?;
    }
    Ok(())
}

/// A policy with keys of its own beside `host-local`, which refuses them: it has its own `ipam`, before and after it is promoted.
pub(super) fn monitor_own_ipam(guests: &Guests) -> Result<()> {
    let mut node = Node::with_policy(&guests.get("hostile")?)?;
    node.world.weftctl(&["policy", "compile", &node.policy.display().to_string()])?;
    let reference = format!("file://{}", node.policy.display());
    let network = |monitor: Value| {
        let mut conf = with_key(&node.conf(&json!({})), "monitor", &monitor);
        conf["ipam"] = json!({ "type": "host-local", "ranges": [[{ "subnet": "10.77.0.0/24" }]] });
        conf
    };
    let own = json!({ "ranges": [[{ "subnet": "10.77.0.0/24", "rangeStart": "10.77.0.100" }]], "lie": "none" });
    let watched = network(json!({ "policy": reference, "ipam": own }));
    let promoted = network(json!({ "policy": reference, "ipam": own, "promoted": true }));
    let mistaken = network(json!({ "policy": "host-local", "ipam": { "subnet": "10.77.0.0/24", "lie": "none" } }));
    let mut add = |container: &str, conf: &Value| -> Result<(Value, Value)> {
        let result = node.call("ADD", &Attach::eth0(container), conf)?.result()?;
        let why = node.world.weftctl(&["explain", &container_id(container)])?;
        let monitor = why.pointer("/0/monitor").context("a monitor")?.clone();
        Ok((result.pointer("/ips/0/address").cloned().context("an address")?, monitor))
    };
    let (address, monitor) = add("a", &watched)?;
    ensure!(address == json!("10.77.0.2/24"), "host-local decides by its own ranges: {address}");
    ensure!(monitor.pointer("/differences/0/monitor") == Some(&json!("gives 10.77.0.101/24")), "{monitor}");
    let (address, monitor) = add("b", &promoted)?;
    ensure!(address == json!("10.77.0.101/24"), "each keeps its configuration: {address}");
    ensure!(monitor.pointer("/differences/0/monitor") == Some(&json!("gives 10.77.0.3/24")), "{monitor}");
    let (_address, monitor) = add("c", &mistaken)?;
    let failed = monitor.pointer("/outcome/failed").and_then(Value::as_str).context("a failure")?;
    ensure!(failed.contains("unknown key \"lie\" in \"monitor.ipam\""), "{failed}");
    for container in ["a", "b", "c"] {
        node.call("DEL", &Attach::eth0(container), &watched)?.expect_quiet()?;
        node.clean_of(container)?;
    }
    Ok(())
}

/// A monitored policy that is missing, traps, loops or lies changes no ADD, in any process, and the record says what it
/// did.
pub(super) fn monitor_never_matters(guests: &Guests) -> Result<()> {
    let mut node = Node::with_policy(&guests.get("low")?)?;
    let other = node.world.scratch().join("other.wasm");
    fs::write(&other, guests.get("hostile")?)?;
    node.world.weftctl(&["policy", "compile", &other.display().to_string()])?;
    let reference = format!("file://{}", other.display());
    for (lie, monitor, word) in [
        ("", "file:///nowhere.wasm", "does not exist"),
        ("trap", &reference, "crashed"),
        ("loop", &reference, "fuel"),
        ("memory", &reference, "memory"),
        ("outside", &reference, "203.0.113.7"),
    ] {
        for isolation in ["none", "worker"] {
            let text = json!({ "isolation": isolation }).to_string();
            fs::write(node.world.state().join("node.json"), text).context("write node.json")?;
            let conf = with_key(&node.conf(&json!({ "lie": lie })), "monitor", &json!({ "policy": monitor }));
            let result = node.call("ADD", &Attach::eth0("a"), &conf)?.result()?;
            ensure!(result.pointer("/ips/0/address") == Some(&json!("10.77.0.2/24")), "{lie}: {result}");
            let why = node.world.weftctl(&["explain", "cid-a"])?;
            let failed = why.pointer("/0/monitor/outcome/failed").and_then(Value::as_str).context("a failure")?;
            ensure!(failed.contains(word), "{lie}, {isolation}: {failed}");
            node.call("DEL", &Attach::eth0("a"), &conf)?.expect_quiet()?;
            node.clean_of("a")?;
        }
    }
    Ok(())
}
