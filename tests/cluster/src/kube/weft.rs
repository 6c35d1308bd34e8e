//! weft on the cluster, installed as an operator would: the image of `deploy/`, and its chart or its manifests.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde_json::json;
use weft_kit::process::{self, Place};
use weft_kit::programs::{self, repository, weft, weftctl};

use super::config::DEFAULT_NETWORK;
use crate::chart;

/// The name of the image.
const IMAGE: &str = "localhost/weft";
const TAG: &str = "test";

/// Makes the archive of weft's image.
pub(super) fn image(dir: &Path) -> Result<PathBuf> {
    let archive = dir.join("weft.tar");
    let text = |path: PathBuf| path.display().to_string();
    process::run(
        &Place::default(),
        &[
            &text(repository().join("deploy/image/build.sh")),
            "--libraries",
            "--weft",
            &text(weft().map_err(anyhow::Error::msg)?),
            "--weftctl",
            &text(weftctl().map_err(anyhow::Error::msg)?),
            "--name",
            &format!("{IMAGE}:{TAG}"),
            &text(archive.clone()),
        ],
    )?;
    Ok(archive)
}

/// Returns everything that installs weft, with the image's name and the default network filled in: the chart's output
/// if Helm is available, otherwise the manifests. The suite `deploy` checks that they are the same.
pub(super) fn manifests() -> Result<Vec<String>> {
    match programs::helm() {
        Ok(_helm) => Ok(vec![chart::render(&json!({
            "defaultNetwork": DEFAULT_NETWORK, "clusterLedger": true, "image": {"repository": IMAGE, "tag": TAG},
            // Trials wait for the sweep, which takes minutes by default.
            "agent": {"extraArgs": ["--sweep-interval=2s", "--sweep-grace=4s"]},
        }))?]),
        Err(_missing) => plain_manifests(),
    }
}

/// Returns every manifest of `deploy/`.
fn plain_manifests() -> Result<Vec<String>> {
    let mut texts = Vec::new();
    for dir in ["deploy/crds", "deploy/kubernetes"] {
        let dir = repository().join(dir);
        for entry in fs::read_dir(&dir).with_context(|| format!("read {}", dir.display()))? {
            let path = entry.context("read deploy")?.path();
            if path.extension().is_some_and(|extension| extension == "yaml") {
                texts.push(fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?);
            }
        }
    }
    for (from, to) in [
        ("image: localhost/weft:latest", format!("image: {IMAGE}:{TAG}")),
        ("--default-network=default", format!("--default-network={DEFAULT_NETWORK}")),
        // As above.
        ("- --sweep\n", "- --sweep\n            - --sweep-interval=2s\n            - --sweep-grace=4s\n".to_owned()),
    ] {
        ensure!(texts.iter().any(|text| text.contains(from)), "no manifest of deploy has {from:?}");
        texts.iter_mut().for_each(|text| *text = text.replace(from, &to));
    }
    Ok(texts)
}
