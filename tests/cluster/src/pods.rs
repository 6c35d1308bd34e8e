//! One node with `weft-pod`: its own network namespace, sandboxes, and calls as containerd makes them.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;
use tempfile::TempDir;
use weft_kit::cni::{Call, Reply};
use weft_kit::netns::NetNs;
use weft_kit::{programs, sandbox};

/// A node.
pub struct PodNode {
    netns: NetNs,
    scratch: TempDir,
    weft: PathBuf,
    state: PathBuf,
}

/// A pod's sandbox.
pub struct Sandbox {
    /// `CNI_CONTAINERID`.
    pub container_id: String,
    /// Its network namespace; `None` after it was removed.
    pub netns: Option<NetNs>,
    /// Its current or former path.
    pub path: String,
}

/// Writes a plugin as a shell script.
///
/// # Errors
/// It cannot be written.
pub fn executable(path: &Path, body: &str) -> Result<()> {
    fs::create_dir_all(path.parent().context("a directory")?).context("create a directory of plugins")?;
    fs::write(path, format!("#!/bin/sh\n{body}\n")).with_context(|| format!("write {}", path.display()))?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).with_context(|| format!("{}", path.display()))
}

impl PodNode {
    /// Makes a node with an empty journal. `state` is copied if given: installed policies.
    ///
    /// # Errors
    /// weft is not built, or the kernel refuses.
    pub fn new(state: Option<&Path>) -> Result<Self> {
        Self::running(&programs::weft().map_err(anyhow::Error::msg)?, state)
    }

    /// Like `new`, with another program instead of weft.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn running(weft: &Path, state: Option<&Path>) -> Result<Self> {
        let scratch = TempDir::new_in(sandbox::scratch()).context("scratch directory")?;
        let bin = scratch.path().join("bin");
        fs::create_dir(&bin).context("create bin")?;
        for name in ["weft-pod", "multus"] {
            symlink(weft, bin.join(name)).context("link weft-pod")?;
        }
        let own = scratch.path().join("state");
        match state {
            Some(from) => programs::copy_tree(from, &own)?,
            None => fs::create_dir(&own).context("create state")?,
        }
        let netns = NetNs::new("node")?;
        netns.line("ip link set lo up")?;
        Ok(Self { netns, weft: bin.join("weft-pod"), state: own, scratch })
    }

    /// Its network namespace.
    #[must_use]
    pub fn netns(&self) -> &NetNs {
        &self.netns
    }

    /// Its state directory.
    #[must_use]
    pub fn state(&self) -> &Path {
        &self.state
    }

    /// Scratch files.
    #[must_use]
    pub fn scratch(&self) -> &Path {
        self.scratch.path()
    }

    /// A new sandbox.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn sandbox(&self, container_id: &str) -> Result<Sandbox> {
        let netns = NetNs::new("pod")?;
        netns.line("ip link set lo up")?;
        let path = netns.path().display().to_string();
        Ok(Sandbox { container_id: container_id.to_owned(), netns: Some(netns), path })
    }

    /// Makes a call with exactly this environment.
    ///
    /// # Errors
    /// It cannot be run, or takes too long.
    pub fn call(&self, env: &BTreeMap<String, Option<String>>, stdin: &Value) -> Result<Reply> {
        let mut call = Call::new("", stdin);
        call.command = None;
        call.limit = Duration::from_secs(120);
        call.env = env.iter().filter_map(|(key, value)| Some((key.into(), value.as_ref()?.into()))).collect();
        call.env.push(("WEFT_STATE_DIR".into(), self.state.clone().into_os_string()));
        call.run(&self.weft, &self.netns.place())
    }

    /// Returns the usual environment of a verb for a pod, as containerd sets it.
    #[must_use]
    pub fn env(verb: &str, sandbox: &Sandbox, pod: (&str, &str, &str)) -> BTreeMap<String, Option<String>> {
        let (namespace, name, uid) = pod;
        let id = &sandbox.container_id;
        let mut env = BTreeMap::new();
        let mut set = |key: &str, value: String| env.insert(key.to_owned(), Some(value));
        set("CNI_COMMAND", verb.to_owned());
        set("CNI_PATH", "/opt/cni/bin".to_owned());
        if matches!(verb, "ADD" | "DEL" | "CHECK") {
            set("CNI_CONTAINERID", id.clone());
            set("CNI_NETNS", sandbox.path.clone());
            set("CNI_IFNAME", "eth0".to_owned());
            set(
                "CNI_ARGS",
                format!(
                    "IgnoreUnknown=1;K8S_POD_NAMESPACE={namespace};K8S_POD_NAME={name};\
                     K8S_POD_INFRA_CONTAINER_ID={id};K8S_POD_UID={uid}"
                ),
            );
        }
        env
    }
}
