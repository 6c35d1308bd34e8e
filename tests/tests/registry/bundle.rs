//! A site without a registry: one directory has policies, signatures and the lock file.

use std::fs;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use weft_kit::programs;
use weft_kit::registry::Minisign;

use super::node::{Node, REGISTRY, digest_of, text_at};
use super::trust::trust_file;

/// Saves a bundle here, and loads it where no registry exists; skopeo reads the same layout. Changes in transit are
/// refused.
pub(super) fn save_and_load() -> Result<()> {
    let node = Node::new()?;
    let key = Minisign::new(node.world.scratch(), "team")?;
    let tag = format!("{REGISTRY}/net/rack:stable");
    let reference = node.push("host-local", &tag, &["--version", "1.2.0"])?;
    node.run_policy_command(&["sign", &reference, "--key", &key.secret])?;
    let dir = node.file("bundle").display().to_string();
    let saved = node.run_policy_command(&["save", &dir, &tag])?;
    ensure!(saved.contains("with its signatures"), "{saved}");
    node.run_policy_command(&["save", &dir, &tag])?;
    let at = format!("oci:{dir}:{tag}");
    let copied = node.file("copied").display().to_string();
    node.run(&["skopeo", "--insecure-policy", "copy", "--quiet", &at, &format!("dir:{copied}")])?;
    let manifest: Value = serde_json::from_slice(&fs::read(format!("{copied}/manifest.json"))?)?;
    ensure!(text_at(&manifest, "/layers/0/mediaType")? == "application/wasm", "{manifest}");

    let mut far = Node::without_registry()?;
    let bundle = far.file("bundle");
    programs::copy_tree(&node.file("bundle"), &bundle)?;
    let bundle_text = bundle.display().to_string();
    let keys = json!({ "team": { "minisign": key.public } });
    trust_file(&far, &keys, &json!([{ "prefix": REGISTRY, "allOf": ["team"] }]))?;
    far.run_policy_command(&["load", &bundle_text])?;
    for name in [format!("oci://{tag}"), reference.clone()] {
        let conf = far.conf("rack", &name);
        far.adds("a", &conf)?;
    }

    // An older bundle does not set the tag back.
    let older = node.push("host-local", &tag, &["--version", "1.1.0"])?;
    node.run_policy_command(&["sign", &older, "--key", &key.secret])?;
    let old = node.file("old").display().to_string();
    node.run_policy_command(&["save", &old, &tag])?;
    far.refuses(&["load", &old], &["is a downgrade", "1.2.0", "1.1.0"])?;

    // A layer that was changed, and a signature that was taken out.
    let layer = text_at(&manifest, "/layers/0/digest")?;
    let blob = bundle.join("blobs/sha256").join(layer.strip_prefix("sha256:").context("a digest")?);
    let good = fs::read(&blob)?;
    fs::write(&blob, [good.as_slice(), b"x"].concat())?;
    far.refuses(&["load", &bundle_text], &["the layer of", "digest mismatch"])?;
    fs::remove_file(&blob)?;
    std::os::unix::fs::symlink("/etc/passwd", &blob)?;
    far.refuses(&["load", &bundle_text], &["cannot read"])?;
    fs::remove_file(&blob)?;
    fs::write(&blob, &good)?;
    let index = bundle.join("index.json");
    let mut document: Value = serde_json::from_slice(&fs::read(&index)?)?;
    let manifests = document.get_mut("manifests").and_then(Value::as_array_mut).context("manifests")?;
    manifests.retain(|entry| !entry.to_string().contains(".minisig"));
    fs::write(&index, document.to_string())?;
    far.refuses(&["load", &bundle_text], &["has no signature by team", "it has no signature"])?;
    // What was loaded before is still usable.
    let conf = far.conf("rack", &reference);
    far.adds("b", &conf)?;
    ensure!(digest_of(&reference)?.starts_with("sha256:"), "{reference}");
    Ok(())
}
