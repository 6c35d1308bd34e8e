//! Kubernetes as one program that is called by the names of its parts.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// The names of the parts; the last two, a device plugin and a driver of resource claims, are for tests.
const PARTS: [&str; 8] = [
    "etcd",
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
    "kubelet",
    "kubectl",
    "device-plugin",
    "claim-driver",
];

/// A directory with a link for every part.
#[derive(Debug, Clone)]
pub(super) struct Programs(PathBuf);

impl Programs {
    /// Makes the links.
    pub(super) fn link(dir: &Path) -> Result<Self> {
        let program = weft_kit::programs::kubernetes().map_err(anyhow::Error::msg)?;
        fs::create_dir_all(dir).context("create the directory of Kubernetes' programs")?;
        for part in PARTS {
            symlink(&program, dir.join(part)).with_context(|| format!("link {part}"))?;
        }
        Ok(Self(dir.to_owned()))
    }

    /// A part's path.
    pub(super) fn path(&self, part: &str) -> String {
        self.0.join(part).display().to_string()
    }
}
