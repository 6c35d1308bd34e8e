//! Policies that cannot be used, and what decides then.

use super::*;

/// The error names the file; once it exists, ADD works.
pub(super) fn missing_file(guests: &Guests) -> Result<()> {
    let mut node = Node::new()?;
    let conf = node.conf(&json!({}));
    let error = node.call("ADD", &Attach::eth0("a"), &conf)?.error()?;
    let path = node.policy.display().to_string();
    ensure!(error.msg.contains(&path) || error.details.contains(&path), "{error:?} does not name {path}");
    node.clean_of("a")?;
    fs::write(&node.policy, guests.get("low")?).context("write the policy")?;
    ensure!(node.add("a")? == "10.77.0.2/24", "with the file it works");
    node.del("a")
}

/// Bytes that are no component, and a core module, which is no component either.
pub(super) fn no_component(guests: &Guests) -> Result<()> {
    for content in [&b"this is not WebAssembly"[..], b"", b"\0asm\x01\0\0\0"] {
        let mut node = Node::with_policy(content)?;
        let conf = node.conf(&json!({}));
        let error = node.call("ADD", &Attach::eth0("a"), &conf)?.error()?;
        ensure!(matches!(error.code, 7 | 101), "code {} ({})", error.code, error.msg);
        let path = node.policy.display().to_string();
        ensure!(error.msg.contains(&path) || error.details.contains(&path), "{error:?} does not name {path}");
        node.clean_of("a")?;
        replace_by_rename(&node.policy, &guests.get("low")?)?;
        ensure!(node.add("a")? == "10.77.0.2/24", "with a policy it works");
        node.del("a")?;
    }
    Ok(())
}

/// DEL needs the journal alone: no policy, no compiled cache, no namespace, no prevResult.
pub(super) fn del_without_policy(guests: &Guests) -> Result<()> {
    let mut node = Node::with_policy(&guests.get("low")?)?;
    node.add("a")?;
    node.add("b")?;
    fs::remove_file(&node.policy).context("remove the policy")?;
    for dir in ["cache", "policies"] {
        fs::remove_dir_all(node.world.state().join(dir)).with_context(|| format!("remove {dir}"))?;
    }
    node.del("a")?;
    node.clean_of("a")?;
    node.world.remove_container("b");
    let bare = json!({ "cniVersion": "1.1.0", "name": "own", "type": "weft" });
    let mut call = node.world.prepare("DEL", &Attach::eth0("b"), &bare)?;
    call.netns = Some(String::new());
    node.world.run(&call, "weft")?.expect_quiet()?;
    ensure!(node.world.claims()?.is_empty(), "claims are left");
    let state = observe::world_state(&node.world, &mut weft_kit::names::Names::default())?;
    ensure!(observe::random_links(&state).is_empty(), "links are left: {:?}", observe::random_links(&state));
    Ok(())
}

/// STATUS asks the policy whether it accepts its configuration.
pub(super) fn status(guests: &Guests) -> Result<()> {
    let mut node = Node::with_policy(&guests.get("high")?)?;
    let mut ask = |more: &Value| {
        let conf = node.conf(more);
        let mut call = node.world.prepare("STATUS", &Attach::eth0("a"), &conf)?;
        (call.container_id, call.netns, call.ifname) = (None, None, None);
        node.world.run(&call, "weft")
    };
    // A STATUS does not wait for the compiler; runtimes ask again.
    wait(PATIENCE, "the compiled policy", || Ok(ask(&json!({}))?.expect_quiet().is_ok()))?;
    let error = ask(&json!({ "refuse-me": true }))?.error()?;
    ensure!(error.msg == "high does not like this", "msg {:?}", error.msg);
    // One address besides the gateway, and then none.
    let narrow = json!({ "ranges": [[{ "subnet": "10.77.0.0/30" }]] });
    ask(&narrow)?.expect_quiet()?;
    let conf = node.conf(&narrow);
    node.call("ADD", &Attach::eth0("a"), &conf)?.result()?;
    let mut call = node.world.prepare("STATUS", &Attach::eth0("a"), &conf)?;
    (call.container_id, call.netns, call.ifname) = (None, None, None);
    let error = node.world.run(&call, "weft")?.error()?;
    ensure!(error.code == 50, "code {} ({})", error.code, error.msg);
    node.call("DEL", &Attach::eth0("a"), &conf)?.expect_quiet()?;
    node.world.run(&call, "weft")?.expect_quiet()
}

/// If the policy is missing or crashes, the fallback decides, and the trace says so. A refusal stays a refusal.
pub(super) fn fallback_shipped(guests: &Guests) -> Result<()> {
    let mut node = Node::new()?;
    let conf = with_key(&node.conf(&json!({})), "fallback", &json!("host-local"));
    let result = node.call("ADD", &Attach::eth0("a"), &conf)?.result()?;
    ensure!(result.pointer("/ips/0/address") == Some(&json!("10.77.0.2/24")), "{result}");
    let why = node.world.weftctl(&["explain", "cid-a"])?.to_string();
    ensure!(why.contains("instead_of") && why.contains("does not exist"), "{why}");
    fs::write(&node.policy, guests.get("hostile")?)?;
    for lie in ["trap", "loop"] {
        let conf = with_key(&node.conf(&json!({ "lie": lie })), "fallback", &json!("host-local"));
        node.call("ADD", &Attach::eth0("b"), &conf)?.result()?;
        node.call("DEL", &Attach::eth0("b"), &conf)?.expect_quiet()?;
    }
    let conf = with_key(&node.conf(&json!({ "lie": "outside" })), "fallback", &json!("host-local"));
    let error = node.call("ADD", &Attach::eth0("b"), &conf)?.error()?;
    ensure!(error.code == 101, "a decision that is refused is no fault: {error:?}");
    let conf = with_key(&node.conf(&json!({ "lie": "trap" })), "fallback", &json!("no-such-policy"));
    let error = node.call("ADD", &Attach::eth0("b"), &conf)?.error()?;
    ensure!(error.code == 101 && error.msg.contains("no-such-policy"), "{error:?}");
    node.clean_of("b")?;
    node.call("DEL", &Attach::eth0("a"), &conf)?.expect_quiet()
}

/// weft keeps using the last component that worked when the file is replaced by an unusable one.
pub(super) fn fallback_last_good(guests: &Guests) -> Result<()> {
    let mut node = Node::with_policy(b"nothing yet")?;
    let conf = with_key(&node.conf(&json!({})), "fallback", &json!("last-good"));
    let error = node.call("ADD", &Attach::eth0("a"), &conf)?.error()?;
    ensure!(error.code == 101 && error.msg.contains("no policy has made a decision"), "{error:?}");
    replace_by_rename(&node.policy, &guests.get("low")?)?;
    node.call("ADD", &Attach::eth0("a"), &conf)?.result()?;
    replace_by_rename(&node.policy, b"not WebAssembly")?;
    let result = node.call("ADD", &Attach::eth0("b"), &conf)?.result()?;
    ensure!(result.pointer("/ips/0/address") == Some(&json!("10.77.0.3/24")), "{result}");
    let why = node.world.weftctl(&["explain", "cid-b"])?.to_string();
    ensure!(why.contains("last-good") && why.contains("not WebAssembly"), "{why}");
    for container in ["a", "b"] {
        node.call("DEL", &Attach::eth0(container), &conf)?.expect_quiet()?;
    }
    Ok(())
}

/// A policy that is named by its digest comes from this node only, and has that digest.
pub(super) fn pinned(guests: &Guests) -> Result<()> {
    let mut node = Node::with_policy(&guests.get("high")?)?;
    let file = node.policy.display().to_string();
    let digest = node.world.weftctl(&["policy", "digest", &file])?;
    let digest = digest.get("digest").and_then(Value::as_str).context("a digest")?.to_owned();
    let reference = format!("configmap://kube-system/policies/high.wasm@{digest}");
    let named = |reference: &str| {
        let mut conf = node.conf(&json!({}));
        conf["ipam"]["policy"] = json!(reference);
        conf
    };
    let (conf, tag) = (named(&reference), named("oci://example.org/high:1"));
    let error = node.call("ADD", &Attach::eth0("a"), &tag)?.error()?;
    ensure!(error.code == 7 && error.msg.contains("has no digest"), "{error:?}");
    let error = node.call("ADD", &Attach::eth0("a"), &conf)?.error()?;
    ensure!(error.code == 7 && error.msg.contains("an ADD never fetches"), "{error:?}");
    fs::write(&node.policy, guests.get("low")?)?;
    ensure!(node.world.weftctl(&["policy", "add", &reference, &file]).is_err(), "another component is refused");
    fs::write(&node.policy, guests.get("high")?)?;
    node.world.weftctl(&["policy", "add", &reference, &file])?;
    let result = node.call("ADD", &Attach::eth0("a"), &conf)?.result()?;
    ensure!(result.pointer("/ips/0/address") == Some(&json!("10.77.0.254/24")), "{result}");
    let listed = node.world.weftctl(&["policy", "ls"])?.to_string();
    ensure!(listed.contains(&digest) && listed.contains("ready"), "{listed}");
    node.call("DEL", &Attach::eth0("a"), &conf)?.expect_quiet()
}
