//! What a policy must not do: each lie is refused, and the next ADD works.

use super::*;

/// Checks how the host handles one wrong answer, in this process or in a worker.
pub(super) fn hostile(guests: &Guests, (lie, codes, word): &Lie, in_worker: bool) -> Result<()> {
    let mut node = Node::with_policy(&guests.get("hostile")?)?;
    if in_worker {
        node.isolate()?;
    }
    ensure!(node.add("a")? == "10.77.0.2/24", "without a lie it is honest");
    let before = links(&node)?;
    let conf = node.conf(&json!({ "lie": lie }));
    let error = node.call("ADD", &Attach::eth0("b"), &conf)?.error()?;
    ensure!(codes.contains(&error.code), "code {} ({} / {})", error.code, error.msg, error.details);
    ensure!(
        error.msg.contains(word) || error.details.contains(word),
        "no {word:?} in {} / {}",
        error.msg,
        error.details
    );
    ensure!(error.msg.len() < 4096 && error.details.len() < 16384, "an error of {} bytes", error.msg.len());
    ensure!(!error.msg.contains('\n'), "msg has several lines: {:?}", error.msg);
    node.clean_of("b")?;
    ensure!(links(&node)? == before, "host links changed");
    ensure!(node.world.claims()? == ["10.77.0.2"], "claims {:?}", node.world.claims());
    // DEL after a failed ADD, as runtimes call it, and then ADD works again.
    node.call("DEL", &Attach::eth0("b"), &conf)?.expect_quiet()?;
    ensure!(node.add("b")? == "10.77.0.3/24", "the next ADD works");
    ensure!(node.world.reaches("b", "10.77.0.2")?, "and its container is reachable");
    node.del("a")?;
    node.del("b")
}

/// With ptp the host end has the gateway's address, and each pod's address is routed to its own link: a policy cannot
/// redirect another pod's traffic with its address.
pub(super) fn gateway_on_ptp(guests: &Guests) -> Result<()> {
    let mut node = Node::with_policy(&guests.get("hostile")?)?;
    let mut honest = node.conf(&json!({}));
    honest["delegate"] = json!({ "type": "ptp" });
    node.call("ADD", &Attach::eth0("a"), &honest)?.result()?;
    let route = |node: &Node| -> Result<String> { Ok(node.world.host().line("ip route get 10.77.0.2")?.text()) };
    let before = (route(&node)?, links(&node)?);
    for lie in ["gateway-of-a-pod", "gateway-of-the-next-pod"] {
        let mut conf = honest.clone();
        conf["ipam"]["lie"] = json!(lie);
        let error = node.call("ADD", &Attach::eth0("b"), &conf)?.error()?;
        ensure!(error.code == 101 && error.msg.contains("gateway"), "{lie}: {} {}", error.code, error.msg);
        ensure!((route(&node)?, links(&node)?) == before, "{lie}: the host changed: {}", route(&node)?);
        node.clean_of("b")?;
    }
    Ok(())
}

/// If IPAM names no gateway, a bridge uses the subnet's first address. A pod may have it if the operator declared
/// another gateway.
pub(super) fn gateway_that_a_bridge_takes(guests: &Guests) -> Result<()> {
    let mut node = Node::with_policy(&guests.get("hostile")?)?;
    let ranges = json!([[{ "subnet": "10.77.0.0/24", "gateway": "10.77.0.254" }]]);
    let lie = node.conf(&json!({ "ranges": ranges, "lie": "no-gateway" }));
    let error = node.call("ADD", &Attach::eth0("a"), &lie)?.error()?;
    ensure!(error.code == 101 && error.msg.contains("10.77.0.1,"), "{} {}", error.code, error.msg);
    node.clean_of("a")?;
    let honest = node.conf(&json!({ "ranges": ranges }));
    node.call("ADD", &Attach::eth0("a"), &honest)?.result()?;
    let address = node.world.host().line("ip -br address show own0")?.text();
    ensure!(address.contains("10.77.0.254/24"), "{address}");
    // Without a gateway on the host, a policy may leave it out.
    let mut layer2 = node.conf(&json!({ "ranges": ranges, "lie": "no-gateway" }));
    layer2["delegate"]["isGateway"] = json!(false);
    node.call("ADD", &Attach::eth0("b"), &layer2)?.result()?;
    Ok(())
}

/// Only the candidate that an ADD gets leads to a plan. Cases and replays judge the same one.
pub(super) fn gateway_of_the_claimed_candidate(guests: &Guests) -> Result<()> {
    let mut node = Node::with_policy(&guests.get("hostile")?)?;
    // A bridge takes 10.77.0.1 for the first candidate, which a pod may get, and 10.78.0.1 for the second.
    let ranges = json!([[{ "subnet": "10.77.0.0/24", "gateway": "10.77.0.254" }, { "subnet": "10.78.0.0/24" }]]);
    let twice = node.conf(&json!({ "ranges": ranges, "lie": "no-gateway-twice" }));
    let error = node.call("ADD", &Attach::eth0("a"), &twice)?.error()?;
    ensure!(error.code == 101 && error.msg.contains("10.77.0.1,"), "{} {}", error.code, error.msg);
    node.clean_of("a")?;
    let mut layer2 = node.conf(&json!({ "ranges": ranges, "lie": "no-gateway" }));
    layer2["delegate"]["isGateway"] = json!(false);
    node.call("ADD", &Attach::eth0("b"), &layer2)?.result()?;
    let result = node.call("ADD", &Attach::eth0("c"), &twice)?.result()?;
    ensure!(result.pointer("/ips/0/address") == Some(&json!("10.78.0.9/24")), "{result}");
    for (container, kind) in [("a", "refused"), ("c", "candidates")] {
        let same = node.world.weftctl(&["policy", "replay", &container_id(container)])?;
        ensure!(same.pointer("/0/same") == Some(&json!(true)), "{container}: {same}");
        ensure!(same.pointer("/0/recorded").is_some_and(|recorded| recorded.get(kind).is_some()), "{same}");
    }
    records::claimed_candidate(&node, &twice)
}

fn links(node: &Node) -> Result<String> {
    Ok(node.world.host().line("ip -br link")?.text())
}

/// A policy's text cannot write to a terminal or forge a line of a log.
pub(super) fn control_characters(guests: &Guests) -> Result<()> {
    let mut node = Node::with_policy(&guests.get("hostile")?)?;
    let conf = node.conf(&json!({ "lie": "control-characters" }));
    let reply = node.call("ADD", &Attach::eth0("a"), &conf)?;
    let error = reply.error()?;
    ensure!(error.code == 100, "code {} ({})", error.code, error.msg);
    ensure!(error.msg.contains("first line") && error.msg.contains("second"), "msg {:?}", error.msg);
    ensure!(!error.msg.chars().any(char::is_control), "msg {:?}", error.msg);
    ensure!(!reply.stderr.contains('\u{1b}'), "stderr {:?}", reply.stderr);
    Ok(())
}

/// A reason of megabytes is refused or cut; it is never stored or shown whole.
pub(super) fn huge_reason(guests: &Guests) -> Result<()> {
    let mut node = Node::with_policy(&guests.get("hostile")?)?;
    let conf = node.conf(&json!({ "lie": "huge-reason" }));
    let reply = node.call("ADD", &Attach::eth0("a"), &conf)?;
    ensure!(reply.stdout.len() < 16384 && reply.stderr.len() < 65536, "{} bytes", reply.stdout.len());
    if reply.is_ok() {
        let why = node.world.weftctl(&["explain", "cid-a"])?.to_string();
        ensure!(why.len() < 65536, "explain prints {} bytes", why.len());
    } else {
        ensure!(reply.error()?.code == 101, "{:?}", reply.error()?);
        node.clean_of("a")?;
    }
    node.call("DEL", &Attach::eth0("a"), &conf)?.expect_quiet()
}

/// A policy sets routes that its network allows, and no others.
pub(super) fn routes(guests: &Guests) -> Result<()> {
    let mut node = Node::with_policy(&guests.get("hostile")?)?;
    let conf = node.conf(&json!({ "lie": "route" }));
    let error = node.call("ADD", &Attach::eth0("a"), &conf)?.error()?;
    ensure!(error.code == 101 && error.msg.contains("169.254.169.254/32"), "{error:?}");
    let error = node.call("ADD", &Attach::eth0("a"), &node.conf(&json!({ "lie": "name-server" })))?.error()?;
    ensure!(error.code == 101 && error.msg.contains("evil.example"), "{error:?}");
    node.clean_of("a")?;
    let opened = with_key(&conf, "grants", &json!({ "routes": ["169.254.0.0/16"] }));
    let result = node.call("ADD", &Attach::eth0("a"), &opened)?.result()?;
    ensure!(result.to_string().contains("169.254.169.254/32"), "{result}");
    node.call("DEL", &Attach::eth0("a"), &opened)?.expect_quiet()
}
