//! A real control plane in a place of its own: etcd and kube-apiserver, from the one binary that `programs::kubernetes` finds.
//!
//! The API server makes its own certificate; users come from a file with tokens, and RBAC decides what each may do, so that a
//! test can run the agent with the rights of `deploy/kubernetes/rbac.yaml` and no others.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;
use weft_kit::dhcp::{Daemon, wait};
use weft_kit::process::{self, LIMIT, Place};
use weft_kit::{programs, sandbox};

/// How long the API server may take to come up.
const PATIENCE: Duration = Duration::from_secs(180);
/// Where etcd listens in the place, for clients.
pub const ETCD: &str = "127.0.0.1:2379";
/// The API server's port.
const PORT: u16 = 6443;

/// A user of the API server, with a token of its own.
#[derive(Debug, Clone, Copy)]
pub struct User {
    /// For file names.
    pub short: &'static str,
    /// As the API server knows it; a service account is `system:serviceaccount:NAMESPACE:NAME`.
    pub name: &'static str,
    /// Its group, if any.
    pub group: &'static str,
}

/// May do everything.
pub const ADMIN: User = User { short: "admin", name: "admin", group: "system:masters" };
/// The service account of weft's agent.
pub const AGENT: User = User { short: "agent", name: "system:serviceaccount:kube-system:weft", group: "" };

/// The service account of weft's controller.
pub const CONTROLLER: User =
    User { short: "controller", name: "system:serviceaccount:kube-system:weft-controller", group: "" };

/// See the module. Both programs end with the value.
pub struct ControlPlane {
    dir: TempDir,
    place: Place,
    address: String,
    etcd: Option<Daemon>,
    api: Option<Daemon>,
}

impl ControlPlane {
    /// Starts both in a place where `address` is there, and waits until the API server is ready.
    ///
    /// # Errors
    /// The binary is missing, or does not come up.
    pub fn start(place: &Place, address: &str, users: &[User]) -> Result<Self> {
        let dir = TempDir::new_in(sandbox::scratch()).context("a directory for the control plane")?;
        let binary = programs::kubernetes().map_err(anyhow::Error::msg)?;
        for name in ["etcd", "kube-apiserver", "kubectl"] {
            symlink(&binary, dir.path().join(name)).with_context(|| format!("link {name}"))?;
        }
        let tokens: Vec<String> = users.iter().map(line_of).collect();
        fs::write(dir.path().join("tokens.csv"), tokens.concat()).context("write the tokens")?;
        process::run(place, &["openssl", "genrsa", "-out", &path(&dir, "sa.key"), "2048"])?;
        let mut plane = Self { dir, place: place.clone(), address: address.to_owned(), etcd: None, api: None };
        plane.start_etcd()?;
        plane.start_api()?;
        for user in users {
            plane.write_kubeconfig(user)?;
        }
        plane.wait_until_ready()?;
        Ok(plane)
    }

    /// Waits until the API server says that it is ready.
    ///
    /// # Errors
    /// It does not.
    pub fn wait_until_ready(&self) -> Result<()> {
        let ready = || self.kubectl(&["get", "--raw", "/readyz"], "").map(|_ok| true).or(Ok(false));
        wait(PATIENCE, "the API server", ready).with_context(|| self.log())
    }

    /// Where etcd keeps its data.
    #[must_use]
    pub fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// Starts etcd on the data that are there.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start_etcd(&mut self) -> Result<()> {
        let (client, peer) = (format!("http://{ETCD}"), "http://127.0.0.1:2380");
        let argv = [
            path(&self.dir, "etcd"),
            "--name=one".to_owned(),
            format!("--data-dir={}", self.data().display()),
            format!("--listen-client-urls={client}"),
            format!("--advertise-client-urls={client}"),
            format!("--listen-peer-urls={peer}"),
            format!("--initial-advertise-peer-urls={peer}"),
            format!("--initial-cluster=one={peer}"),
        ];
        self.etcd = Some(Daemon::start(&self.place, &argv, &self.dir.path().join("etcd.log"))?);
        Ok(())
    }

    /// Starts the API server.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start_api(&mut self) -> Result<()> {
        let key = path(&self.dir, "sa.key");
        let argv = [
            path(&self.dir, "kube-apiserver"),
            format!("--etcd-servers=http://{ETCD}"),
            format!("--bind-address={}", self.address),
            format!("--advertise-address={}", self.address),
            format!("--secure-port={PORT}"),
            format!("--cert-dir={}", path(&self.dir, "tls")),
            format!("--token-auth-file={}", path(&self.dir, "tokens.csv")),
            "--authorization-mode=Node,RBAC".to_owned(),
            "--anonymous-auth=false".to_owned(),
            "--service-account-issuer=https://kubernetes.default.svc".to_owned(),
            format!("--service-account-key-file={key}"),
            format!("--service-account-signing-key-file={key}"),
            "--service-cluster-ip-range=10.96.0.0/16".to_owned(),
            "--endpoint-reconciler-type=none".to_owned(),
            "--profiling=false".to_owned(),
        ];
        self.api = Some(Daemon::start(&self.place, &argv, &self.dir.path().join("api.log"))?);
        Ok(())
    }

    /// Ends the API server without warning.
    pub fn kill_api(&mut self) {
        if let Some(api) = self.api.take() {
            api.kill();
        }
    }

    /// Ends etcd without warning.
    pub fn kill_etcd(&mut self) {
        if let Some(etcd) = self.etcd.take() {
            etcd.kill();
        }
    }

    /// Stops the API server where it is, or lets it go on.
    ///
    /// # Errors
    /// It does not run.
    pub fn signal_api(&self, signal: Signal) -> Result<()> {
        let api = self.api.as_ref().context("the API server does not run")?;
        Ok(kill(Pid::from_raw(api.pid().try_into()?), signal)?)
    }

    /// What both have logged last.
    #[must_use]
    pub fn log(&self) -> String {
        let last = |daemon: &Option<Daemon>| {
            let log = daemon.as_ref().map(Daemon::log).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            lines[lines.len().saturating_sub(15)..].join("\n")
        };
        format!("etcd: {}\nAPI server: {}", last(&self.etcd), last(&self.api))
    }

    /// The credentials of a user.
    #[must_use]
    pub fn kubeconfig(&self, user: &User) -> PathBuf {
        self.dir.path().join(format!("{}.kubeconfig", user.short))
    }

    /// kubectl as the administrator; what it prints.
    ///
    /// # Errors
    /// It fails; the text says what it said.
    pub fn kubectl(&self, arguments: &[&str], stdin: &str) -> Result<String> {
        let mut command = Command::new(self.dir.path().join("kubectl"));
        command.env("HOME", self.dir.path()).arg("--kubeconfig").arg(self.kubeconfig(&ADMIN)).args(arguments);
        let output = process::output(&self.place, command, stdin.as_bytes(), LIMIT)?;
        Ok(output.success(&format!("kubectl {}", arguments.join(" ")))?.text())
    }

    /// Applies a file of `deploy/`.
    ///
    /// # Errors
    /// The API server says no.
    pub fn apply(&self, file: &str) -> Result<()> {
        let file = programs::repository().join("deploy").join(file).display().to_string();
        self.kubectl(&["apply", "--server-side", "-f", &file], "").map(drop)
    }

    fn write_kubeconfig(&self, user: &User) -> Result<()> {
        let config = serde_json::json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "x",
            "clusters": [{"name": "c", "cluster": {
                "server": format!("https://{}:{PORT}", self.address),
                "certificate-authority": path(&self.dir, "tls/apiserver.crt"),
            }}],
            "users": [{"name": "u", "user": {"token": token_of(user)}}],
            "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
        });
        fs::write(self.kubeconfig(user), config.to_string()).context("write a kubeconfig")
    }
}

/// The API server is reached from the test's own namespaces alone, so its tokens need no secret.
fn token_of(user: &User) -> String {
    format!("token-of-{}", user.short)
}

fn line_of(user: &User) -> String {
    format!("{},{},{},{}\n", token_of(user), user.name, user.short, user.group)
}

fn path(dir: &TempDir, name: &str) -> String {
    Path::join(dir.path(), name).display().to_string()
}
