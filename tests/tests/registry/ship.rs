//! From a component to a registry, and from the registry to an address.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use weft_kit::registry::{self, Certificates};

use super::node::{Node, REGISTRY, digest_of, sha256, text_at};

const CONFIG: &str = "application/vnd.wasm.config.v0+json";

/// Push, inspect, pull, ADD, remove. skopeo sees the same manifest, and the imports without the layer.
pub(super) fn round_trip() -> Result<()> {
    let mut node = Node::new()?;
    let to = format!("{REGISTRY}/net/rack:1.2.0");
    let reference = node.push("host-local", &to, &["--annotation", "org.opencontainers.image.title=rack"])?;
    ensure!(reference.starts_with(&format!("oci://{to}@sha256:")), "{reference}");
    ensure!(
        node.push("host-local", &to, &["--annotation", "org.opencontainers.image.title=rack"])? == reference,
        "the same bytes have the same digest"
    );

    let raw = node.run(&["skopeo", "inspect", "--raw", "--tls-verify=false", &format!("docker://{to}")])?;
    fs::write(node.file("manifest.json"), &raw)?;
    let digest = digest_of(&reference)?.to_owned();
    ensure!(format!("sha256:{}", sha256(&node.file("manifest.json"))?) == digest, "skopeo has another manifest");
    let manifest: Value = serde_json::from_slice(&raw)?;
    ensure!(text_at(&manifest, "/config/mediaType")? == CONFIG, "{manifest}");
    ensure!(text_at(&manifest, "/layers/0/mediaType")? == "application/wasm", "{manifest}");
    ensure!(text_at(&manifest, "/annotations/org.opencontainers.image.version")? == "1.2.0", "{manifest}");
    let config =
        node.run(&["skopeo", "inspect", "--config", "--raw", "--tls-verify=false", &format!("docker://{to}")])?;
    let config: Value = serde_json::from_slice(&config)?;
    ensure!(
        config.pointer("/component/imports").is_some_and(|imports| imports.to_string().contains("weft:policy/ledger")),
        "{config}"
    );
    ensure!(config.get("layerDigests") == Some(&json!([manifest.pointer("/layers/0/digest")])), "{config}");

    // Without the layer, the component's imports are still known.
    let layer = node.stored(&text_at(&manifest, "/layers/0/digest")?)?;
    fs::rename(&layer, layer.with_extension("away"))?;
    let inspected = node.run_policy_command(&["inspect", &to])?;
    ensure!(inspected.contains("nothing but the contract") && inspected.contains("1.2.0"), "{inspected}");
    fs::rename(layer.with_extension("away"), &layer)?;

    for form in [
        to.clone(),
        format!("oci://{to}"),
        format!("docker://{to}"),
        format!("registry://{to}"),
        reference.clone(),
        format!("{REGISTRY}/net/rack@{digest}"),
    ] {
        ensure!(node.run_policy_command(&["digest", &form])?.trim() == digest, "{form}");
    }
    node.refuses(&["pull", "net/rack:1.2.0"], &["has no registry"])?;
    let listed = node.run_policy_command(&["ls", &format!("{REGISTRY}/net/rack")])?;
    ensure!(listed.contains(&format!("oci://{to}")), "{listed}");

    let copy = node.file("copy.wasm");
    node.run_policy_command(&["pull", &to, "-o", &copy.display().to_string()])?;
    ensure!(fs::read(&copy)? == fs::read(node.shipped("host-local"))?, "the component came back changed");

    let conf = node.conf("rack", &reference);
    node.add_fails("a", &conf, &["an ADD never fetches"])?;
    node.run_policy_command(&["pull", &reference])?;
    node.stop_registry();
    node.adds("a", &conf)?;
    let listed = node.listed(&reference)?;
    ensure!(text_at(&listed, "/state")? == "ready", "{listed}");
    ensure!(text_at(&listed, "/digest")? == text_at(&manifest, "/layers/0/digest")?, "{listed}");
    node.run_policy_command(&["rm", &reference])?;
    ensure!(node.listed(&reference).is_err(), "it is removed");
    node.add_fails("b", &conf, &["an ADD never fetches"])?;
    node.refuses(&["rm", &reference], &["is not on this node"])?;
    Ok(())
}

/// The lock file resolves a tag without a digest, and does not go back.
pub(super) fn tag_and_lock_file() -> Result<()> {
    let mut node = Node::new()?;
    let stable = format!("{REGISTRY}/net/rack:stable");
    let first = node.push("host-local", &stable, &["--version", "1.9.0"])?;
    let conf = node.conf("rack", &format!("oci://{stable}"));
    node.add_fails("a", &conf, &["has no digest", "weftctl policy pull"])?;
    node.run_policy_command(&["pull", &stable])?;
    node.adds("a", &conf)?;

    // The tag moves on; the node follows on request.
    let second = node.push("by-label", &stable, &["--version", "v1.10.0"])?;
    ensure!(first != second, "two policies have one digest");
    node.adds("b", &conf)?;
    let pulled = node.run_policy_command(&["pull", &stable])?;
    ensure!(pulled.contains(digest_of(&first)?), "it does not say what it was: {pulled}");

    // A tag that is moved back does not lead the node to an older version.
    node.push("host-local", &stable, &["--version", "1.9.0"])?;
    node.refuses(&["pull", &stable], &["is a downgrade", "1.10.0", "--allow-downgrade"])?;
    let lock = fs::read_to_string(node.world.state().join("policies/lock.json"))?;
    ensure!(lock.contains(digest_of(&second)?), "{lock}");
    node.run_policy_command(&["pull", &stable, "--allow-downgrade"])?;
    node.adds("c", &conf)?;

    // A lock file of a project, without a node.
    let file = node.file("policies.lock").display().to_string();
    node.run_policy_command(&["lock", "--lock", &file, &stable])?;
    let lock: Value = serde_json::from_slice(&fs::read(&file)?)?;
    let locked = lock.pointer("/policies").and_then(|policies| policies.get(format!("oci://{stable}")));
    ensure!(locked == Some(&json!({ "digest": digest_of(&first)?, "version": "1.9.0" })), "{lock}");
    node.refuses(&["lock", &first], &["has a digest"])?;
    Ok(())
}

/// A tag that is a version keeps its policy, and a tag without a version is said to be unprotected.
pub(super) fn version_tags() -> Result<()> {
    let node = Node::new()?;
    let file = |policy: &str| node.shipped(policy).display().to_string();
    let (first, second) = (file("host-local"), file("by-label"));
    for tag in ["1.2.0", "v1.3.0"] {
        let to = format!("{REGISTRY}/net/rack:{tag}");
        let said = node.run_policy_command(&["push", &first, &to])?;
        ensure!(!said.contains("moved back"), "{said}");
        let digest = node.run_policy_command(&["digest", &to])?;
        node.run_policy_command(&["push", &first, &to])?;
        node.refuses(&["push", &second, &to], &["is in the registry already", digest.trim(), "--force"])?;
        ensure!(node.run_policy_command(&["digest", &to])? == digest, "{to} was replaced");
        let inspected = node.run_policy_command(&["inspect", &to])?;
        ensure!(inspected.contains(&format!("version    {}", tag.trim_start_matches('v'))), "{inspected}");
        node.run_policy_command(&["push", &second, &to, "--force"])?;
        ensure!(node.run_policy_command(&["digest", &to])? != digest, "{to} was not replaced");
    }
    let stable = format!("{REGISTRY}/net/rack:stable");
    node.refuses(&["push", &first, &stable, "--version", "1.10"], &["--version \"1.10\" is no version"])?;
    for arguments in [&["push", &first, &stable][..], &["pull", &stable], &["lock", &stable]] {
        let said = node.run_policy_command(arguments)?;
        ensure!(said.contains("it has no version") && said.contains("can be moved back"), "{said}");
    }
    let said = node.run_policy_command(&["push", &first, &stable, "--version", "1.10.0"])?;
    ensure!(!said.contains("moved back"), "{said}");
    Ok(())
}

/// docker's configuration: `auths`, and a helper per registry.
pub(super) fn credentials() -> Result<()> {
    let mut node = Node::without_registry()?;
    let wants_password = registry::password(node.world.scratch(), "team", "secret")?;
    node.start_registry(REGISTRY, &wants_password)?;
    let file = node.shipped("host-local").display().to_string();
    let to = format!("{REGISTRY}/net/rack:1");
    let push = ["push", file.as_str(), to.as_str()];
    let dir = node.file("docker");
    fs::create_dir(&dir)?;
    let docker = dir.display().to_string();
    let docker_config = ("DOCKER_CONFIG", docker.as_str());
    let (ok, said) = node.policy(&[docker_config], &push)?;
    ensure!(!ok && said.contains("refuses access to net/rack") && said.contains("docker login"), "{said}");
    // The base64 of "team:wrong" and "team:secret".
    for (auth, good) in [("dGVhbTp3cm9uZw==", false), ("dGVhbTpzZWNyZXQ=", true)] {
        fs::write(dir.join("config.json"), json!({ "auths": { REGISTRY: { "auth": auth } } }).to_string())?;
        let (ok, said) = node.policy(&[docker_config], &push)?;
        ensure!(ok == good, "{auth}: {said}");
    }
    fs::write(dir.join("config.json"), json!({ "credHelpers": { REGISTRY: "test" } }).to_string())?;
    let helper = dir.join("docker-credential-test");
    fs::write(
        &helper,
        "#!/bin/sh\nread -r server\nprintf '{\"ServerURL\": \"%s\", \"Username\": \"team\", \"Secret\": \"secret\"}' \"$server\"\n",
    )?;
    fs::set_permissions(&helper, fs::Permissions::from_mode(0o755))?;
    let path = format!("{docker}:{}", std::env::var("PATH")?);
    let with_helper = [docker_config, ("PATH", path.as_str())];
    let (ok, said) = node.policy(&with_helper, &["digest", &to])?;
    ensure!(ok && said.starts_with("sha256:"), "{said}");
    // One helper for all, and what `docker login` writes beside it.
    let store = json!({ "credsStore": "test", "auths": { REGISTRY: {} } });
    fs::write(dir.join("config.json"), store.to_string())?;
    let (ok, said) = node.policy(&with_helper, &["digest", &to])?;
    ensure!(ok && said.starts_with("sha256:"), "{said}");
    let (ok, said) = node.policy(&[docker_config], &["digest", &to])?;
    ensure!(!ok && said.contains("cannot use docker's credentials"), "the helper is not there: {said}");
    Ok(())
}

/// Plain HTTP is allowed for this machine, and for registries that the operator lists.
pub(super) fn plain_http() -> Result<()> {
    let mut node = Node::without_registry()?;
    node.add_address()?;
    node.start_registry("192.0.2.1:5000", "")?;
    let to = "192.0.2.1:5000/net/rack:1";
    let file = node.shipped("host-local").display().to_string();
    node.refuses(&["push", &file, to], &["cannot be reached"])?;
    node.run_policy_command(&["push", &file, to, "--plain-http", "192.0.2.1:5000"])?;
    let digest = node.run_policy_command(&["digest", to, "--plain-http", "192.0.2.1:5000"])?;
    ensure!(digest.starts_with("sha256:"), "{digest}");
    Ok(())
}

/// A registry whose certificate comes from the site's own authority is refused until that authority is named, on the
/// command line and for the agent.
pub(super) fn tls() -> Result<()> {
    let mut node = Node::without_registry()?;
    node.add_address()?;
    let certificates = Certificates::new(node.world.scratch(), "IP:192.0.2.1")?;
    let Certificates { ca, key, .. } = &certificates;
    node.start_tls_registry("192.0.2.1:5000", &certificates)?;
    let to = "192.0.2.1:5000/net/rack:1";
    let file = node.shipped("host-local").display().to_string();
    node.refuses(&["push", &file, to], &["cannot be reached", "certificate"])?;
    node.refuses(&["push", &file, to, "--registry-ca", key], &["no certificate in PEM"])?;
    let reference = node.run_policy_command(&["push", &file, to, "--registry-ca", ca])?;
    let reference = reference.split_whitespace().find(|word| word.starts_with("oci://")).context("a reference")?;
    let conf = node.conf("rack", reference);
    node.write_network("rack", &conf)?;
    let agent = node.start_agent()?;
    node.wait_for_policy(&agent, reference, "certificate")?;
    agent.stop()?;
    let agent = node.start_agent_with(&["--registry-ca", ca])?;
    node.wait_for_policy(&agent, reference, "ready")?;
    node.adds("a", &conf)?;
    agent.stop()
}

/// A registry with TLS names a token server without. It is not asked for a token, and does not see the password, whether
/// the policy is read or sent.
pub(super) fn token_server_without_tls() -> Result<()> {
    let mut node = Node::without_registry()?;
    node.add_address()?;
    let certificates = Certificates::new(node.world.scratch(), "IP:192.0.2.1")?;
    let witness = node.start_recording_server("tokens", "192.0.2.1:5001", r#"{"token": "x"}"#, None)?;
    let more = registry::token_server("http://192.0.2.1:5001/token", &certificates);
    node.start_tls_registry_with("192.0.2.1:5000", &certificates, &more)?;
    let dir = node.file("docker");
    fs::create_dir(&dir)?;
    // The base64 of "team:secret".
    let auths = json!({ "auths": { "192.0.2.1:5000": { "auth": "dGVhbTpzZWNyZXQ=" } } });
    fs::write(dir.join("config.json"), auths.to_string())?;
    let docker = dir.display().to_string();
    let (file, to) = (node.shipped("host-local").display().to_string(), "192.0.2.1:5000/net/rack:1");
    let pinned = format!("{to}@sha256:{}", "a".repeat(64));
    let signature = node.file("x.minisig").display().to_string();
    for arguments in [
        &["digest", to][..],
        &["push", &file, to],
        &["push", &file, "192.0.2.1:5000/net/rack:1.0.0"],
        &["sign", &pinned, "--signature", &signature],
        &["push", &file, to, "--plain-http", "192.0.2.1:5001"],
    ] {
        for environment in [&[][..], &[("DOCKER_CONFIG", docker.as_str())]] {
            let (ok, said) = node.policy(environment, &[arguments, &["--registry-ca", &certificates.ca]].concat())?;
            let is_said = said.contains("it leads to http://192.0.2.1:5001, which has no TLS");
            ensure!(!ok && is_said, "{}: {said}", arguments.join(" "));
        }
    }
    ensure!(witness.asked()?.is_empty(), "{}", witness.asked()?);
    Ok(())
}

/// A registry with TLS sends its clients to other servers of the node. They are not asked, and the agent's message has
/// nothing of them.
pub(super) fn redirects_to_the_node() -> Result<()> {
    let node = Node::without_registry()?;
    node.add_address()?;
    let certificates = Certificates::new(node.world.scratch(), "IP:192.0.2.1,IP:127.0.0.1")?;
    let ca = certificates.ca.as_str();
    let plain = node.start_recording_server("plain", "127.0.0.1:8080", "the secret", None)?;
    let with_tls = node.start_recording_server("with-tls", "127.0.0.1:8443", "the secret", Some(&certificates))?;
    for (port, to, part) in [
        (5000, "http://127.0.0.1:8080/secret", "which has no TLS"),
        (5001, "https://127.0.0.1:8443/secret", "which is on this machine or its link"),
    ] {
        let address = format!("192.0.2.1:{port}");
        let hostile = node.start_recording_server(&format!("hostile-{port}"), &address, to, Some(&certificates))?;
        let reference = format!("oci://{address}/net/rack:1@sha256:{}", "a".repeat(64));
        node.refuses(&["digest", &reference, "--registry-ca", ca], &["is not followed", part])?;
        node.write_network("rack", &node.conf("rack", &reference))?;
        let agent = node.start_agent_with(&["--registry-ca", ca])?;
        node.wait_for_policy(&agent, &reference, part)?;
        agent.stop()?;
        ensure!(hostile.asked()?.contains("/v2/net/rack/manifests/sha256:"), "{}", hostile.asked()?);
    }
    for witness in [plain, with_tls] {
        ensure!(witness.asked()?.is_empty(), "{}", witness.asked()?);
    }
    // A redirect to a server elsewhere is how registries deliver blobs.
    let elsewhere = node.start_recording_server("elsewhere", "192.0.2.1:9443", "a document", Some(&certificates))?;
    let _usual =
        node.start_recording_server("usual", "192.0.2.1:5002", "https://192.0.2.1:9443/blob", Some(&certificates))?;
    let digest = node.run_policy_command(&["digest", "192.0.2.1:5002/net/rack:1", "--registry-ca", ca])?;
    fs::write(node.file("document"), "a document")?;
    ensure!(digest.trim() == format!("sha256:{}", sha256(&node.file("document"))?), "{digest}");
    ensure!(elsewhere.asked()?.contains("GET /blob None"), "{}", elsewhere.asked()?);
    Ok(())
}

/// A layer or manifest that somebody changed in the registry is refused.
pub(super) fn tampered_layer() -> Result<()> {
    let mut node = Node::new()?;
    let good = node.push("host-local", &format!("{REGISTRY}/net/good:1"), &[])?;
    let bad = node.push("by-label", &format!("{REGISTRY}/net/bad:1"), &[])?;
    let manifest: Value = serde_json::from_slice(&fs::read(node.stored(digest_of(&bad)?)?)?)?;
    let layer = node.stored(&text_at(&manifest, "/layers/0/digest")?)?;
    registry::tamper(&layer)?;
    node.refuses(&["pull", &bad], &["the layer of", "digest mismatch", &text_at(&manifest, "/layers/0/digest")?])?;
    let stored = node.stored(digest_of(&bad)?)?;
    let changed = String::from_utf8(fs::read(&stored)?)?.replace("application/wasm", "application/wasn");
    fs::write(&stored, changed)?;
    node.refuses(&["pull", &bad], &["the manifest of", "digest mismatch", digest_of(&bad)?])?;
    // Other policies are not affected.
    node.run_policy_command(&["pull", &good])?;
    let conf = node.conf("good", &good);
    node.adds("a", &conf)?;
    let conf = node.conf("bad", &bad);
    node.add_fails("b", &conf, &["an ADD never fetches"])
}

/// Refuses a configuration that lists other imports than the component has.
pub(super) fn imports_that_lie() -> Result<()> {
    let node = Node::new()?;
    let to = format!("{REGISTRY}/net/liar:1");
    let config =
        json!({ "architecture": "wasm", "os": "wasip2", "component": { "imports": [], "exports": [] } }).to_string();
    let component = fs::read(node.shipped("host-local"))?;
    node.push_by_skopeo(&to, (CONFIG, config.as_bytes()), ("application/wasm", &component), Value::Null)?;
    node.refuses(&["pull", &to], &["lists the imports nothing", "weft:policy/ledger", "do not use it"])?;
    // A container image is not a policy.
    let image = "application/vnd.oci.image.config.v1+json";
    let layer = ("application/vnd.oci.image.layer.v1.tar", b"no".as_slice());
    node.push_by_skopeo(&to, (image, b"{}"), layer, Value::Null)?;
    node.refuses(&["pull", &to], &["its layer is application/vnd.oci.image.layer.v1.tar"])?;
    Ok(())
}
