//! A real control plane in a private place: etcd and kube-apiserver, from the single binary that `programs::kubernetes`
//! finds.
//!
//! RBAC restricts each user, so that a test can run the agent with exactly the rights of `deploy/kubernetes/rbac.yaml`.

use std::os::unix::fs::symlink;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;
use tempfile::TempDir;
use weft_kit::dhcp::{Daemon, wait};
use weft_kit::process::{self, LIMIT, Place};
use weft_kit::{programs, sandbox};

use crate::api_server::{
    ADMIN, User, api_server_flags, etcd_flags, kubeconfig_path, restore_flags, write_kubeconfig, write_users,
};

/// How long the API server may take to start.
const PATIENCE: Duration = Duration::from_secs(180);
/// The API server's port.
const PORT: u16 = 6443;

/// The service account of weft's agent.
pub const AGENT: User = User::new("agent", "system:serviceaccount:kube-system:weft", "");

/// The service account of weft's controller.
pub const CONTROLLER: User = User::new("controller", "system:serviceaccount:kube-system:weft-controller", "");

/// A running control plane. Both programs end with the value.
pub struct ControlPlane {
    dir: TempDir,
    place: Place,
    address: String,
    etcd: Option<Daemon>,
    api: Option<Daemon>,
}

impl ControlPlane {
    /// Starts both in a place that has `address`, and waits until the API server is ready.
    ///
    /// # Errors
    /// The binary is missing, or does not start.
    pub fn start(place: &Place, address: &str, users: &[User]) -> Result<Self> {
        let dir = TempDir::new_in(sandbox::scratch()).context("a directory for the control plane")?;
        let binary = programs::kubernetes().map_err(anyhow::Error::msg)?;
        for name in ["etcd", "etcdutl", "kube-apiserver", "kubectl"] {
            symlink(&binary, dir.path().join(name)).with_context(|| format!("link {name}"))?;
        }
        write_users(dir.path(), &format!("https://{address}:{PORT}"), users)?;
        process::run(place, &["openssl", "genrsa", "-out", &path(&dir, "account.key"), "2048"])?;
        let mut plane = Self { dir, place: place.clone(), address: address.to_owned(), etcd: None, api: None };
        plane.start_etcd()?;
        plane.start_api()?;
        plane.wait_until_ready()?;
        Ok(plane)
    }

    /// Waits until the API server reports that it is ready.
    ///
    /// # Errors
    /// It does not.
    pub fn wait_until_ready(&self) -> Result<()> {
        let ready = || self.kubectl(&["get", "--raw", "/readyz"], "").map(|_ok| true).or(Ok(false));
        wait(PATIENCE, "the API server", ready).with_context(|| self.log())
    }

    /// Returns etcd's data directory.
    #[must_use]
    pub fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// Replaces etcd's data by a snapshot, whose next revision is beyond all that were used. etcd must not be running.
    ///
    /// # Errors
    /// The snapshot cannot be used.
    pub fn restore_snapshot(&self, snapshot: &Path, bump: u64) -> Result<()> {
        std::fs::remove_dir_all(self.data()).context("remove etcd's data")?;
        let (etcdutl, snapshot) = (path(&self.dir, "etcdutl"), snapshot.display().to_string());
        let argv =
            [vec![etcdutl, "snapshot".to_owned(), "restore".to_owned(), snapshot], restore_flags(&self.data(), bump)];
        process::run(&self.place, &argv.concat()).map(drop)
    }

    /// Starts etcd with the existing data.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start_etcd(&mut self) -> Result<()> {
        let argv = [vec![path(&self.dir, "etcd")], etcd_flags(&self.data())].concat();
        self.etcd = Some(Daemon::start(&self.place, &argv, &self.dir.path().join("etcd.log"))?);
        Ok(())
    }

    /// Starts the API server.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start_api(&mut self) -> Result<()> {
        let flags = api_server_flags(self.dir.path(), &self.address, &self.address, PORT);
        let argv = [vec![path(&self.dir, "kube-apiserver")], flags].concat();
        self.api = Some(Daemon::start(&self.place, &argv, &self.dir.path().join("api.log"))?);
        Ok(())
    }

    /// Kills the API server.
    pub fn kill_api(&mut self) {
        if let Some(api) = self.api.take() {
            api.kill();
        }
    }

    /// Kills etcd.
    pub fn kill_etcd(&mut self) {
        if let Some(etcd) = self.etcd.take() {
            etcd.kill();
        }
    }

    /// Stops or continues the API server.
    ///
    /// # Errors
    /// It is not running.
    pub fn signal_api(&self, signal: Signal) -> Result<()> {
        let api = self.api.as_ref().context("the API server does not run")?;
        Ok(kill(Pid::from_raw(api.pid().try_into()?), signal)?)
    }

    /// Stops or continues etcd.
    ///
    /// # Errors
    /// It is not running.
    pub fn signal_etcd(&self, signal: Signal) -> Result<()> {
        let etcd = self.etcd.as_ref().context("etcd does not run")?;
        Ok(kill(Pid::from_raw(etcd.pid().try_into()?), signal)?)
    }

    /// Returns the CPU times of both programs since their start.
    ///
    /// # Errors
    /// One of them does not run.
    pub fn cpu_times(&self) -> Result<Vec<(&'static str, Duration)>> {
        [("API server", &self.api), ("etcd", &self.etcd)]
            .into_iter()
            .map(|(what, program)| {
                let program = program.as_ref().with_context(|| format!("the {what} does not run"))?;
                Ok((what, program.cpu_time()?))
            })
            .collect()
    }

    /// Returns the end of both logs.
    #[must_use]
    pub fn log(&self) -> String {
        let last = |daemon: &Option<Daemon>| {
            let log = daemon.as_ref().map(Daemon::log).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            lines[lines.len().saturating_sub(15)..].join("\n")
        };
        format!("etcd: {}\nAPI server: {}", last(&self.etcd), last(&self.api))
    }

    /// Returns the credentials of a user.
    #[must_use]
    pub fn kubeconfig(&self, user: &User) -> PathBuf {
        kubeconfig_path(self.dir.path(), &user.short)
    }

    /// Runs kubectl as the administrator and returns its output.
    ///
    /// # Errors
    /// It fails; the error contains its message.
    pub fn kubectl(&self, arguments: &[&str], stdin: &str) -> Result<String> {
        let mut command = Command::new(self.dir.path().join("kubectl"));
        command.env("HOME", self.dir.path()).arg("--kubeconfig").arg(self.kubeconfig(&ADMIN)).args(arguments);
        let output = process::output(&self.place, command, stdin.as_bytes(), LIMIT)?;
        Ok(output.success(&format!("kubectl {}", arguments.join(" ")))?.text())
    }

    /// Starts `kubectl proxy` with a user's credentials, which serves a socket.
    ///
    /// # Errors
    /// It does not start.
    pub fn proxy(&self, user: &User, socket: &Path) -> Result<Daemon> {
        let argv = [
            path(&self.dir, "kubectl"),
            format!("--kubeconfig={}", self.kubeconfig(user).display()),
            "proxy".to_owned(),
            format!("--unix-socket={}", socket.display()),
        ];
        let proxy = Daemon::start(&self.place, &argv, &self.dir.path().join("proxy.log"))?;
        wait(PATIENCE, "kubectl proxy", || Ok(UnixStream::connect(socket).is_ok())).with_context(|| proxy.log())?;
        Ok(proxy)
    }

    /// Returns credentials that name a server, for a client behind a proxy.
    ///
    /// # Errors
    /// They cannot be written.
    pub fn kubeconfig_of(&self, server: &str) -> Result<PathBuf> {
        let kubeconfig = self.dir.path().join("proxied.kubeconfig");
        write_kubeconfig(&kubeconfig, &json!({"server": server}), &json!({}))?;
        Ok(kubeconfig)
    }

    /// Applies a file of `deploy/`.
    ///
    /// # Errors
    /// The API server says no.
    pub fn apply(&self, file: &str) -> Result<()> {
        let file = programs::repository().join("deploy").join(file).display().to_string();
        self.kubectl(&["apply", "--server-side", "-f", &file], "").map(drop)
    }
}

fn path(dir: &TempDir, name: &str) -> String {
    Path::join(dir.path(), name).display().to_string()
}
