//! Checks the Kubernetes side of the node: the installed files and their order, and the answers of the agent and
//! kubelet. `cluster` checks the API server.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use weft_agent::Source;
use weft_agent::inspect::podresources;
use weft_agent::keep::{FileKind, KeptFile, Manifest};
use weft_core::agent::health::{Health, HealthRequest};
use weft_core::agent::policy::{Policy, PolicyRequest, PolicyState};
use weft_core::agent::{SOCKET, ask};
use weft_core::exec::{self, PluginLocation};

use super::{DoctorArgs, Finding, cluster, default_network};

#[derive(Debug, Args)]
pub(crate) struct KubernetesArgs {
    /// The name of this node's Node object.
    #[arg(long, value_name = "NAME", env = "NODE_NAME")]
    node_name: Option<String>,
    /// Credentials for the API server [default: the service account of the pod that this runs in].
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// kubelet's directory.
    #[arg(long, value_name = "DIR", default_value = "/var/lib/kubelet")]
    kubelet_dir: PathBuf,
    /// The agent's socket.
    #[arg(long, value_name = "PATH", default_value = SOCKET)]
    agent_socket: PathBuf,
}

impl KubernetesArgs {
    /// Returns the credentials' source, if any.
    fn source(&self) -> Option<Source> {
        let in_pod = || std::env::var_os("KUBERNETES_SERVICE_HOST").map(|_host| Source::InCluster);
        self.kubeconfig.clone().map(Source::Kubeconfig).or_else(in_pod)
    }
}

/// Extensions of files that runtimes read.
const CONFIGURATIONS: [&str; 3] = ["conf", "conflist", "json"];

/// Time limit of the agent, which answers from memory.
const LIMIT: Duration = Duration::from_secs(3);

/// Returns findings, if weft was installed with `--kubernetes`, or credentials were named.
pub(super) fn check(args: &DoctorArgs, state: &Path) -> Vec<Finding> {
    let own = &args.kubernetes;
    let manifest = match Manifest::read(state) {
        Ok(manifest) => manifest,
        Err(error) => {
            let detail = format!("{}: {error}", Manifest::path(state).display());
            return vec![Finding::fail("installation", detail, "run `weftctl install --kubernetes` again")];
        }
    };
    if manifest.is_none() && own.kubeconfig.is_none() {
        return Vec::new();
    }
    let mut findings = Vec::new();
    for kept in manifest.iter().flat_map(|manifest| &manifest.files) {
        findings.push(file(kept));
        if kept.kind == FileKind::Conf {
            findings.extend(order(&kept.path));
            findings.extend(default_network::file(&kept.copy));
        }
    }
    findings.extend(agent(&own.agent_socket));
    findings.push(kubelet(&own.kubelet_dir));
    findings.extend(plugins(exec::current_place()));
    match own.source() {
        Some(source) => findings.extend(cluster::check(args, state, (&source, own.node_name.as_deref()))),
        None => findings.push(Finding::warn(
            "API server",
            "was not asked: no credentials",
            "name them with --kubeconfig, or run `weftctl doctor` in the agent's container",
        )),
    }
    findings
}

/// Checks whether other vendors' plugins can be called from here, as the sweep does.
fn plugins(place: Result<PluginLocation, String>) -> Option<Finding> {
    let remedy = "set agent.hostPID of the chart, or hostPID of the DaemonSet";
    place.err().map(|why| Finding::warn("other vendors' plugins", why, remedy))
}

/// Checks the order: the runtime uses the first file in lexical order.
fn order(ours: &Path) -> Option<Finding> {
    let dir = ours.parent()?;
    let mut names: Vec<PathBuf> = std::fs::read_dir(dir).ok()?.flatten().map(|entry| entry.path()).collect();
    names.retain(|path| path.extension().is_some_and(|ending| CONFIGURATIONS.iter().any(|known| ending == *known)));
    names.sort();
    let first = names.into_iter().next().filter(|first| first != ours)?;
    let detail = format!("the runtime uses {}, which comes before {}", first.display(), ours.display());
    Some(Finding::fail(
        "configuration",
        detail,
        "remove or rename that file, or stop the installer that writes it (Cilium: cni.exclusive=false)",
    ))
}

/// Checks kubelet's socket with device assignments; without it, its checkpoint file is used.
fn kubelet(dir: &Path) -> Finding {
    match podresources(dir) {
        Ok(pods) => Finding::ok("kubelet", format!("its podresources socket tells of {pods} pods")),
        Err(error) => Finding::warn(
            "kubelet",
            format!("its podresources socket does not answer, so devices come from its checkpoint: {error}"),
            "start kubelet, or name its directory with --kubelet-dir (of the agent, too)",
        ),
    }
}

fn file(file: &KeptFile) -> Finding {
    let what = match file.kind {
        FileKind::Conf => "configuration",
        FileKind::Program => "program",
    };
    let shown = file.path.display().to_string();
    match (std::fs::read(&file.path), std::fs::read(&file.copy)) {
        (Ok(there), Ok(copy)) if there == copy => Finding::ok(what, shown),
        (Ok(_), Ok(_)) => {
            let detail = format!("{shown} was changed by another program");
            Finding::fail(what, detail, "start `weftctl agent`, which puts it back, or stop the other installer")
        }
        (Err(error), _) => {
            let remedy = "start `weftctl agent`, which puts it back, or run `weftctl install --kubernetes` again";
            Finding::fail(what, format!("{shown}: {error}"), remedy)
        }
        (_, Err(error)) => {
            let detail = format!("{}: {error}", file.copy.display());
            Finding::warn(what, detail, "run `weftctl install --kubernetes` again")
        }
    }
}

fn agent(socket: &Path) -> Vec<Finding> {
    match ask::<Health>(socket, &HealthRequest {}, Some(LIMIT)) {
        Ok(health) if health.faults.is_empty() => {
            let node = health.node.map_or_else(|| "of no cluster".to_owned(), |node| format!("of node {node}"));
            [vec![Finding::ok("agent", format!("{} {node}, ready", health.version))], policies(socket)].concat()
        }
        Ok(health) => {
            let remedy = "see the agent's log and docs/kubernetes.md";
            health.faults.into_iter().map(|fault| Finding::fail("agent", fault, remedy)).collect()
        }
        Err(error) => {
            vec![Finding::fail(
                "agent",
                error.to_string(),
                "look at the DaemonSet weft in kube-system, or start `weftctl agent`",
            )]
        }
    }
}

/// Reports policies that networks name by digest and that the agent could not get.
fn policies(socket: &Path) -> Vec<Finding> {
    let Ok(reply) = ask::<Policy>(socket, &PolicyRequest {}, Some(LIMIT)) else { return Vec::new() };
    let failed = reply.policies.into_iter().filter_map(|row| match row.state {
        PolicyState::Failed { reason } => {
            let detail = format!("of {}: {reason}", row.networks.join(", "));
            Some(Finding::fail(format!("policy {}", row.reference), detail, "docs/registries.md, docs/trust.md"))
        }
        PolicyState::Fetching | PolicyState::Ready => None,
    });
    failed.collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::super::State;
    use super::*;

    #[test]
    fn a_changed_file_and_an_absent_agent_are_found() {
        let dir = tempfile::tempdir().unwrap();
        let (path, copy) = (dir.path().join("conf"), dir.path().join("copy"));
        std::fs::write(&path, "a").unwrap();
        std::fs::write(&copy, "a").unwrap();
        let kept = KeptFile { path: path.clone(), kind: FileKind::Conf, copy, mode: 0o644 };
        assert_eq!(file(&kept).state, State::Ok);
        std::fs::write(&path, "b").unwrap();
        assert_eq!(file(&kept).state, State::Fail);
        std::fs::remove_file(&path).unwrap();
        assert_eq!(file(&kept).state, State::Fail);
        let findings = agent(&dir.path().join("no.sock"));
        assert!(findings.len() == 1 && findings[0].state == State::Fail, "{findings:?}");
        // Without kubelet, only a warning: its checkpoint may suffice.
        assert_eq!(kubelet(dir.path()).state, State::Warn);
    }

    #[test]
    fn a_file_before_ours_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let ours = dir.path().join("00-weft.conflist");
        for name in ["00-weft.conflist", "10-site.conflist", "00-a.txt"] {
            std::fs::write(dir.path().join(name), "{}").unwrap();
        }
        assert!(order(&ours).is_none());
        std::fs::write(dir.path().join("00-other.conf"), "{}").unwrap();
        let other = order(&ours).unwrap();
        assert!(other.state == State::Fail && other.detail.contains("00-other.conf"), "{other:?}");
    }
}
