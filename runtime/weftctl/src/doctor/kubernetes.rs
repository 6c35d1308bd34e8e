//! The Kubernetes side: what the node's agent says, and whether the installed files are in place.

use std::path::Path;
use std::time::Duration;

use weft_agent::keep::{FileKind, KeptFile, Manifest};
use weft_core::agent::health::{Health, HealthRequest};
use weft_core::agent::{SOCKET, ask};

use super::Finding;

/// How long the agent may take: it answers from memory.
const LIMIT: Duration = Duration::from_secs(3);

/// Findings, where weft was installed with `--kubernetes`.
pub(super) fn look(state: &Path) -> Vec<Finding> {
    let manifest = match Manifest::read(state) {
        Ok(None) => return Vec::new(),
        Ok(Some(manifest)) => manifest,
        Err(error) => {
            let detail = format!("{}: {error}", Manifest::path(state).display());
            return vec![Finding::fail("installation", detail, "run `weftctl install --kubernetes` again")];
        }
    };
    let mut findings: Vec<Finding> = manifest.files.iter().map(file).collect();
    findings.extend(agent(Path::new(SOCKET)));
    findings
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
            vec![Finding::ok("agent", format!("{} {node}, ready", health.version))]
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
        // Not a Kubernetes node: nothing to say.
        assert!(look(dir.path()).is_empty());
    }
}
