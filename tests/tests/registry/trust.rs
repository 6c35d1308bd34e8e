//! Signatures, rules and grants: each refusal names what is missing.

use std::fs;

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use weft_kit::registry::Minisign;

use super::node::{Node, REGISTRY, digest_of};

/// Writes the node's trust file.
pub(super) fn trust_file(node: &Node, keys: &Value, rules: &Value) -> Result<()> {
    let document = json!({ "version": 1, "keys": keys, "registries": rules });
    Ok(fs::write(node.world.state().join("trust.json"), document.to_string())?)
}

/// minisign keys: unsigned, signed by another key, signed, moved, changed. minisign itself verifies weftctl's
/// signature.
pub(super) fn minisign() -> Result<()> {
    let mut node = Node::new()?;
    let (team, other) = (Minisign::new(node.world.scratch(), "team")?, Minisign::new(node.world.scratch(), "other")?);
    let rules = json!([{ "prefix": format!("{REGISTRY}/net"), "allOf": ["team"] }]);
    trust_file(&node, &json!({ "team": { "minisign": team.public } }), &rules)?;
    let reference = node.push("host-local", &format!("{REGISTRY}/net/rack:1.0.0"), &[])?;
    let conf = node.conf("rack", &reference);
    node.refuses(
        &["pull", &reference],
        &["has no signature by team (minisign key", "it has no signature", "policy sign"],
    )?;
    node.run_policy_command(&["sign", &reference, "--key", &other.secret])?;
    node.refuses(&["pull", &reference], &["has no signature by team", "found: minisign key"])?;
    node.add_fails("a", &conf, &["an ADD never fetches"])?;

    node.run_policy_command(&["sign", &reference, "--key", &team.secret])?;
    let pulled = node.run_policy_command(&["pull", &reference])?;
    ensure!(pulled.contains("signed by team"), "{pulled}");
    node.adds("a", &conf)?;
    let verified = node.run_policy_command(&["verify", &reference, "--key", &team.file, "--key", &other.file])?;
    ensure!(verified.contains("is signed by minisign key"), "{verified}");

    // The second opinion: skopeo fetches manifest and signature, minisign verifies.
    let raw = node.run(&[
        "skopeo",
        "inspect",
        "--raw",
        "--tls-verify=false",
        &format!("docker://{REGISTRY}/net/rack:1.0.0"),
    ])?;
    let manifest = node.file("rack.json");
    fs::write(&manifest, &raw)?;
    let tag = format!("{}.minisig", digest_of(&reference)?.replace(':', "-"));
    let at = format!("docker://{REGISTRY}/net/rack:{tag}");
    let signatures: Value =
        serde_json::from_slice(&node.run(&["skopeo", "inspect", "--raw", "--tls-verify=false", &at])?)?;
    let digest = super::node::text_at(&signatures, "/layers/1/digest")?;
    let signature = node.file("rack.minisig");
    fs::copy(node.stored(&digest)?, &signature)?;
    let (manifest, signature) = (manifest.display().to_string(), signature.display().to_string());
    let said = node.run(&["minisign", "-V", "-P", &team.public, "-m", &manifest, "-x", &signature])?;
    ensure!(String::from_utf8_lossy(&said).contains("repository=net/rack"), "{}", String::from_utf8_lossy(&said));

    // A signature over other content, by the right key.
    let bad = node.push("by-label", &format!("{REGISTRY}/net/bad:1.0.0"), &[])?;
    node.run_policy_command(&["sign", &bad, "--signature", &signature])?;
    node.refuses(&["pull", &bad], &["by team", "is not valid", "were changed"])?;
    // The right manifest, with a comment for another repository: the signature was made for that one.
    let moved = node.push("host-local", &format!("{REGISTRY}/net/moved:1.0.0"), &[])?;
    ensure!(digest_of(&moved)? == digest_of(&reference)?, "the same bytes have the same digest");
    node.run_policy_command(&["sign", &moved, "--signature", &signature])?;
    node.refuses(&["verify", &moved], &["is not valid", "for the repository net/rack, not for net/moved"])?;
    // Signed on a machine that has the key and no network.
    let export = node.file("bad.json").display().to_string();
    let how = node.run_policy_command(&["sign", &bad, "--manifest", &export])?;
    ensure!(how.contains("repository=net/bad"), "{how}");
    let (comment, made) =
        (format!("repository=net/bad digest={}", digest_of(&bad)?), node.file("bad.minisig").display().to_string());
    node.run(&["minisign", "-S", "-W", "-s", &team.secret, "-m", &export, "-x", &made, "-t", &comment])?;
    node.run_policy_command(&["sign", &bad, "--signature", &made])?;
    node.run_policy_command(&["pull", &bad])?;

    // Before the registry is asked: it has no such policy.
    node.refuses(&["pull", &format!("{REGISTRY}/network/rack:1")], &["no rule in"])?;
    let elsewhere = node.push("host-local", &format!("{REGISTRY}/network/rack:1"), &[])?;
    node.refuses(&["pull", &elsewhere], &["no rule in", "matches", "network/rack"])?;
    Ok(())
}

/// The registry's tag was moved between push and sign: a signature is only for what the author means.
pub(super) fn sign_what_is_meant() -> Result<()> {
    let node = Node::new()?;
    let team = Minisign::new(node.world.scratch(), "team")?;
    let tag = format!("{REGISTRY}/net/rack:1");
    let mine = node.push("host-local", &tag, &[])?;
    let theirs = node.push("by-label", &tag, &[])?;
    let file = |policy: &str| node.shipped(policy).display().to_string();
    let exported = node.file("rack.json").display().to_string();
    for more in [["--key", &team.secret], ["--manifest", &exported]] {
        let sign = [&["sign", &tag], &more[..]].concat();
        node.refuses(&sign, &["has no digest", "the registry would choose", "--component"])?;
    }
    let swapped = ["sign", &tag, "--key", &team.secret, "--component", &file("host-local")];
    node.refuses(&swapped, &[digest_of(&theirs)?, "its component is sha256:", "host-local.wasm"])?;
    node.refuses(&["verify", &tag, "--key", &team.file], &["is not signed by"])?;
    node.run_policy_command(&["sign", &mine, "--key", &team.secret])?;
    node.run_policy_command(&["verify", &mine, "--key", &team.file])?;
    node.run_policy_command(&["sign", &tag, "--key", &team.secret, "--component", &file("by-label")])?;
    node.run_policy_command(&["verify", &tag, "--key", &team.file])?;
    Ok(())
}

/// A signature as `cosign sign --key` makes it, by openssl.
pub(super) fn cosign() -> Result<()> {
    let node = Node::new()?;
    let reference = node.push("host-local", &format!("{REGISTRY}/net/rack:1.0.0"), &[])?;
    let file = |name: &str| node.file(name).display().to_string();
    let (key, public, payload, signature) = (file("ci.key"), file("ci.pub"), file("payload"), file("payload.sig"));
    node.run(&["openssl", "genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", &key])?;
    node.run(&["openssl", "pkey", "-in", &key, "-pubout", "-out", &public])?;
    let sign = |digest: &str| -> Result<()> {
        let document = json!({ "critical": {
            "identity": { "docker-reference": format!("{REGISTRY}/net/rack") },
            "image": { "docker-manifest-digest": digest }, "type": "cosign container image signature",
        }, "optional": null });
        fs::write(&payload, document.to_string())?;
        node.run(&["openssl", "dgst", "-sha256", "-sign", &key, "-out", &signature, &payload])?;
        let base64 = String::from_utf8(node.run(&["base64", "-w", "0", &signature])?)?;
        let tag = format!("{REGISTRY}/net/rack:{}.sig", digest_of(&reference)?.replace(':', "-"));
        let layer = ("application/vnd.dev.cosign.simplesigning.v1+json", fs::read(&payload)?);
        let notes = json!({ "dev.cosignproject.cosign/signature": base64 });
        node.push_by_skopeo(&tag, ("application/vnd.oci.image.config.v1+json", b"{}"), (layer.0, &layer.1), notes)
    };
    let rules = json!([{ "prefix": REGISTRY, "anyOf": { "keys": ["ci"] } }]);
    trust_file(&node, &json!({ "ci": { "cosign": fs::read_to_string(&public)? } }), &rules)?;
    node.refuses(&["pull", &reference], &["is signed by 0 of the keys ci (cosign key"])?;
    sign(&format!("sha256:{}", "c".repeat(64)))?;
    node.refuses(&["pull", &reference], &["by ci", "it is of the manifest sha256:cccc"])?;
    sign(digest_of(&reference)?)?;
    node.run_policy_command(&["pull", &reference])?;
    node.run_policy_command(&["verify", &reference, "--key", &public])?;
    Ok(())
}

/// The rule must grant what a component imports; otherwise the policy is refused before the layer is pulled: the layer
/// is missing here.
pub(super) fn ungranted() -> Result<()> {
    let node = Node::new()?;
    let to = format!("{REGISTRY}/net/greedy:1");
    let config =
        json!({ "component": { "imports": ["weft:policy/log@0.1.1", "wasi:cli/stdout@0.2.6"], "exports": [] } });
    let kind = "application/vnd.wasm.config.v0+json";
    node.push_by_skopeo(
        &to,
        (kind, config.to_string().as_bytes()),
        ("application/wasm", b"no component"),
        Value::Null,
    )?;
    let rule = |grants: Value| json!([{ "prefix": REGISTRY, "unsigned": true, "minVersion": null, "grants": grants }]);
    trust_file(&node, &json!({}), &rule(json!(["wasi:clocks"])))?;
    node.refuses(&["pull", &to], &["imports wasi:cli/stdout@0.2.6", "does not grant", "\"grants\""])?;
    node.refuses(&["lock", &to], &["imports wasi:cli/stdout@0.2.6", "does not grant"])?;
    // With the grant it is pulled, and turns out to be no policy.
    trust_file(&node, &json!({}), &rule(json!(["wasi:cli"])))?;
    node.refuses(&["pull", &to], &["cannot be packed"])?;
    trust_file(&node, &json!({}), &json!([{ "prefix": REGISTRY, "unsigned": true, "minVersion": "2.0.0" }]))?;
    let old = node.push("host-local", &format!("{REGISTRY}/net/old:1.0.0"), &[])?;
    node.refuses(&["pull", &old], &["has version 1.0.0", "at least 2.0.0"])?;
    Ok(())
}
