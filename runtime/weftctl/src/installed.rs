//! Where `weftctl install` put weft on this node: recorded in the state directory, so that later commands know it.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

/// Where plugins are by default.
pub(crate) const BIN_DIR: &str = "/opt/cni/bin";

/// In the state directory.
const FILE: &str = "installed.json";

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Installed {
    /// The directory of CNI plugins.
    pub(crate) bin_dir: PathBuf,
    /// The directory of weftctl.
    pub(crate) ctl_dir: PathBuf,
}

impl Installed {
    pub(crate) fn path(state: &Path) -> PathBuf {
        state.join(FILE)
    }

    /// `None` where nothing is installed, or by a weft that wrote nothing down, or where only root may know.
    pub(crate) fn read(state: &Path) -> Option<Self> {
        serde_json::from_slice(&std::fs::read(Self::path(state)).ok()?).ok()
    }

    /// The text of the record.
    pub(crate) fn record_text(bin_dir: &Path, ctl_dir: &Path) -> anyhow::Result<Vec<u8>> {
        let absolute = |dir: &Path| std::path::absolute(dir).context("cannot find the current directory");
        let mut text = serde_json::to_vec(&Self { bin_dir: absolute(bin_dir)?, ctl_dir: absolute(ctl_dir)? })?;
        text.push(b'\n');
        Ok(text)
    }
}

/// The directory of this node's CNI plugins, as it was installed.
pub(crate) fn bin_dir(state: &Path) -> PathBuf {
    Installed::read(state).map_or_else(|| BIN_DIR.into(), |installed| installed.bin_dir)
}

/// Directories to look for plugins in, that of the installation first.
pub(crate) fn plugin_dirs(state: &Path, usual: &[&str]) -> Vec<PathBuf> {
    let mut dirs: Vec<PathBuf> = Installed::read(state).map(|installed| installed.bin_dir).into_iter().collect();
    for dir in usual.iter().map(PathBuf::from) {
        if !dirs.contains(&dir) {
            dirs.push(dir);
        }
    }
    dirs
}
