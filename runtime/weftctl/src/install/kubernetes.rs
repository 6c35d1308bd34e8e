//! `weftctl install --kubernetes`: the node's CNI configuration, and a manifest with a copy of every file, from which
//! the agent restores files that other installers change.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use clap::{Args, ValueEnum};
use serde_json::{Value, json};
use weft_agent::keep::{FileKind, InstallLock, KeptFile, Manifest};

use super::step::Step;
use super::{Program, leftovers};

/// How long to wait while the agent restores a file, or another weftctl is at work.
const PATIENCE: Duration = Duration::from_secs(120);

/// What `--kubernetes` needs to know.
#[derive(Debug, Args)]
pub(crate) struct KubernetesArgs {
    /// Also write the CNI configuration, as a Kubernetes node needs it.
    #[arg(long)]
    pub(super) kubernetes: bool,
    /// Use the directories of this Kubernetes distribution.
    #[arg(long, value_enum, requires = "kubernetes")]
    preset: Option<Preset>,
    /// Directory of CNI configurations [default: that of the preset].
    #[arg(long, value_name = "DIR", requires = "kubernetes")]
    conf_dir: Option<PathBuf>,
    /// File name of the configuration: the runtime uses the first one in lexical order.
    #[arg(long, value_name = "NAME", requires = "kubernetes", default_value = "00-weft.conflist")]
    conf_name: String,
    /// A configuration list to install as it is.
    #[arg(long, value_name = "FILE", requires = "kubernetes", conflicts_with = "default_network")]
    conf: Option<PathBuf>,
    /// The pods' default network: a NetworkAttachmentDefinition in kube-system, or a file of the configuration directory.
    /// weft-pod attaches it first, and then what a pod's annotations name.
    #[arg(long, value_name = "NAME", requires = "kubernetes")]
    default_network: Option<String>,
    /// Names of stock plugins to answer to as well; the plugins there are kept and put back by uninstall.
    #[arg(long, value_name = "NAME", value_delimiter = ',', requires = "kubernetes")]
    pub(super) take_over: Vec<String>,
}

/// Where distributions keep CNI plugins and configurations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Preset {
    /// kubeadm and most others: /opt/cni/bin, /etc/cni/net.d.
    Default,
    /// k3s.
    K3s,
    /// RKE2.
    Rke2,
    /// Talos Linux.
    Talos,
    /// Google Kubernetes Engine.
    Gke,
    /// OpenShift.
    Openshift,
}

impl Preset {
    /// Returns plugin directory and configuration directory.
    fn dirs(self) -> (&'static str, &'static str) {
        match self {
            // Since 1.23 RKE2 uses the usual ones; those of Talos are writable mounts.
            Self::Default | Self::Rke2 | Self::Talos => ("/opt/cni/bin", "/etc/cni/net.d"),
            Self::K3s => ("/var/lib/rancher/k3s/data/cni", "/var/lib/rancher/k3s/agent/etc/cni/net.d"),
            Self::Gke => ("/home/kubernetes/bin", "/etc/cni/net.d"),
            Self::Openshift => ("/var/lib/cni/bin", "/etc/kubernetes/cni/net.d"),
        }
    }
}

impl KubernetesArgs {
    /// Returns the plugin directory of a preset.
    pub(super) fn bin_dir(&self) -> Option<PathBuf> {
        self.preset.map(|preset| preset.dirs().0.into())
    }

    fn conf_path(&self) -> PathBuf {
        let (_bin, conf) = self.preset.unwrap_or(Preset::Default).dirs();
        self.conf_dir.clone().unwrap_or_else(|| conf.into()).join(&self.conf_name)
    }

    /// Returns the configuration's text.
    fn conf_text(&self) -> anyhow::Result<Vec<u8>> {
        if let Some(file) = &self.conf {
            let text = std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
            let value: Value =
                serde_json::from_slice(&text).with_context(|| format!("{} is not JSON", file.display()))?;
            let has_plugins = value.get("plugins").and_then(Value::as_array).is_some_and(|list| !list.is_empty());
            let is_named = value.get("name").and_then(Value::as_str).is_some_and(|name| !name.is_empty());
            ensure!(
                has_plugins && is_named,
                "{} is not a CNI configuration list: it needs \"name\" and \"plugins\"",
                file.display()
            );
            return Ok(text);
        }
        let Some(network) = &self.default_network else {
            bail!("name the pods' default network with --default-network, or a whole configuration with --conf")
        };
        // A path in the configuration directory, or the name of a NetworkAttachmentDefinition.
        let conf_dir = self.conf_path().parent().map(Path::to_owned).unwrap_or_default();
        let file = conf_dir.join(network);
        let cluster_network = if network.contains('.') { file.display().to_string() } else { network.clone() };
        // libcni up to 1.1 (containerd 1.6, 1.7) takes only `cniVersion`, and does not know 1.1.0. libcni from 1.2 takes the
        // highest version of both keys, and sends STATUS and GC only to lists of 1.1.0.
        let conf = json!({
            "cniVersion": "1.0.0",
            "cniVersions": ["1.0.0", "1.1.0"],
            "name": "weft-pod",
            "plugins": [{"type": "weft-pod", "clusterNetwork": cluster_network, "capabilities": {"portMappings": true, "bandwidth": true}}],
        });
        let mut text = serde_json::to_vec_pretty(&conf)?;
        text.push(b'\n');
        Ok(text)
    }

    /// Returns the steps of a Kubernetes node, around those that put programs and names in place. First come the copies
    /// and the manifest: from then on the agent restores what is going to be there, also if this process is killed. The
    /// configuration comes last: a runtime that sees it finds everything that it names.
    pub(super) fn steps(
        &self,
        state: &Path,
        programs: &[Program],
        names: &[PathBuf],
    ) -> anyhow::Result<(Vec<Step>, Vec<Step>)> {
        let conf = self.conf_path();
        let text = self.conf_text()?;
        let conf_dir = conf.parent().context("--conf-dir names no directory")?;
        let copies = Manifest::path(state).parent().map(Path::to_owned).unwrap_or_default();
        let mut before = vec![
            Step::directory(&copies, weft_core::private::DIRECTORY, true)?,
            Step::directory(conf_dir, 0o755, false)?,
        ];
        let mut manifest = Manifest { files: Vec::new(), names: names.to_vec() };
        let mut keep = |path: &Path, content: &[u8], kind, mode| -> anyhow::Result<Step> {
            let copy = Manifest::copy_path(state, path);
            manifest.files.push(KeptFile { path: path.to_owned(), kind, copy: copy.clone(), mode });
            Step::write(&copy, content, weft_core::private::FILE)
        };
        for program in programs {
            before.push(keep(&program.to, &program.content, FileKind::Program, 0o755)?);
        }
        before.push(keep(&conf, &text, FileKind::Conf, 0o644)?);
        let mut listed = serde_json::to_vec_pretty(&manifest)?;
        listed.push(b'\n');
        before.push(Step::write(&Manifest::path(state), &listed, weft_core::private::FILE)?);
        let mut after = vec![Step::write(&conf, &text, 0o644)?];
        // Somebody damaged it: this installation repairs it.
        if let Ok(Some(earlier)) = Manifest::read(state) {
            let sources: Vec<&Path> = programs.iter().map(|program| program.from.as_path()).collect();
            after.extend(leftovers::removal(&earlier, &manifest, &sources)?);
        }
        Ok((before, after))
    }
}

/// Waits for the lock on the installed files; `None` if there is no manifest.
pub(super) fn lock(state: &Path) -> anyhow::Result<Option<InstallLock>> {
    InstallLock::take(state, PATIENCE).with_context(|| format!("cannot lock {}", Manifest::path(state).display()))
}

/// Returns the steps that renew the agent's copies of these programs, if an earlier installation made some. Otherwise
/// the agent would put the old programs back.
pub(super) fn copies(state: &Path, programs: &[Program]) -> anyhow::Result<Vec<Step>> {
    let files = Manifest::read(state).ok().flatten().unwrap_or_default().files;
    let copies = programs.iter().filter_map(|program| {
        let file = files.iter().find(|file| leftovers::is_same(&file.path, &program.to))?;
        Some(Step::write(&file.copy, &program.content, weft_core::private::FILE))
    });
    copies.collect()
}

/// What `uninstall` does about an installation on a Kubernetes node.
#[derive(Debug, Default)]
pub(super) struct Removal {
    /// The first steps, after which the agent restores nothing and the runtime stops calling weft.
    pub(super) steps: Vec<Step>,
    /// The directory of `weft`.
    pub(super) bin: Option<PathBuf>,
    /// The directory of `weftctl`.
    pub(super) ctl: Option<PathBuf>,
}

/// Returns what `uninstall` removes first. The caller holds the lock.
pub(super) fn removal(state: &Path) -> anyhow::Result<Removal> {
    let manifest = Manifest::path(state);
    let Some(Manifest { files, .. }) =
        Manifest::read(state).with_context(|| format!("cannot read {}", manifest.display()))?
    else {
        return Ok(Removal::default());
    };
    let mut steps = vec![Step::remove_file(&manifest)?];
    for file in &files {
        if file.kind == FileKind::Conf {
            steps.push(Step::remove_file(&file.path)?);
        }
        steps.push(Step::remove_file(&file.copy)?);
    }
    let dir_of = |name: &str| {
        let file = files.iter().find(|file| file.kind == FileKind::Program && file.path.ends_with(name))?;
        file.path.parent().map(Path::to_owned)
    };
    Ok(Removal { bin: dir_of("weft"), ctl: dir_of("weftctl"), steps })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    fn args(default_network: Option<&str>, conf: Option<PathBuf>) -> KubernetesArgs {
        KubernetesArgs {
            kubernetes: true,
            preset: None,
            conf_dir: Some("/c".into()),
            conf_name: "00-weft.conflist".to_owned(),
            conf,
            default_network: default_network.map(str::to_owned),
            take_over: Vec::new(),
        }
    }

    #[test]
    fn a_default_network_is_a_definition_or_a_file_beside_ours() {
        let named =
            |network| -> Value { serde_json::from_slice(&args(Some(network), None).conf_text().unwrap()).unwrap() };
        assert_eq!(named("main")["plugins"][0]["clusterNetwork"], "main");
        assert_eq!(named("10-flannel.conflist")["plugins"][0]["clusterNetwork"], "/c/10-flannel.conflist");
        assert_eq!(named("main")["cniVersion"], "1.0.0", "for containerd 1.6");
        assert_eq!(named("main")["cniVersions"], json!(["1.0.0", "1.1.0"]), "without it nobody sends STATUS and GC");
        assert!(args(None, None).conf_text().is_err());
    }

    #[test]
    fn a_configuration_that_a_runtime_would_refuse_is_refused_here() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("conf");
        for text in ["", "{", "{}", r#"{"name": "a"}"#, r#"{"name": "a", "plugins": []}"#, r#"{"plugins": [{}]}"#] {
            std::fs::write(&file, text).unwrap();
            assert!(args(None, Some(file.clone())).conf_text().is_err(), "{text}");
        }
        std::fs::write(&file, r#"{"name": "a", "plugins": [{"type": "weft"}]}"#).unwrap();
        assert!(args(None, Some(file)).conf_text().is_ok());
    }

    #[test]
    fn the_chart_has_the_same_presets() {
        let helpers = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/helm/weft/templates/_helpers.tpl");
        let helpers = std::fs::read_to_string(helpers).unwrap();
        for preset in Preset::value_variants() {
            let name = preset.to_possible_value().unwrap().get_name().to_owned();
            let (bin, conf) = preset.dirs();
            for dir in [bin, conf] {
                assert!(helpers.contains(&format!("{name:?} {dir:?}")), "{name} {dir}");
            }
        }
    }

    #[test]
    fn the_manifest_lists_the_configuration_and_the_programs() {
        let dir = tempfile::tempdir().unwrap();
        let (state, conf_dir) = (dir.path().join("state"), dir.path().join("net.d"));
        std::fs::create_dir(&state).unwrap();
        let args = KubernetesArgs { conf_dir: Some(conf_dir.clone()), ..args(Some("main"), None) };
        let program =
            Program { from: "/src/weft".into(), to: dir.path().join("bin/weft"), content: b"program".to_vec() };
        let steps = || {
            let (before, after) =
                args.steps(&state, std::slice::from_ref(&program), &[dir.path().join("bin/weft-ipam")]).unwrap();
            before.into_iter().chain(after).collect::<Vec<Step>>()
        };
        for _again in 0..2 {
            steps().iter().for_each(|step| step.carry_out().unwrap());
        }
        let manifest = Manifest::read(&state).unwrap().unwrap();
        assert_eq!(manifest.files.len(), 2);
        for file in &manifest.files {
            assert!(file.copy.is_file(), "{}", file.copy.display());
        }
        assert_eq!(std::fs::read(conf_dir.join("00-weft.conflist")).unwrap(), args.conf_text().unwrap());
        assert!(steps().iter().all(|step| step.state(true) == "fine"));
        let Removal { steps, bin, .. } = removal(&state).unwrap();
        steps.iter().for_each(|step| step.carry_out().unwrap());
        assert_eq!(bin, Some(dir.path().join("bin")));
        assert_eq!(std::fs::read_dir(&conf_dir).unwrap().count(), 0);
        assert!(Manifest::read(&state).unwrap().is_none());
    }
}
