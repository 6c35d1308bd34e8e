//! Agents of single trials, beside the one that all trials share; and the cluster ledger, which only some trials use.

use std::os::unix::net::UnixStream;
use std::path::Path;

use anyhow::{Context, Result};
use weft_kit::dhcp::{Daemon, wait};
use weft_kit::netns::NetNs;
use weft_kit::process::{self, Place};
use weft_kit::programs::weftctl;

use super::{MANAGEMENT, PATIENCE, RealApi, kubeconfig_path, manifest};

impl RealApi {
    /// Starts an agent with the same rights and these arguments, as that of a node, with a state directory and a socket.
    ///
    /// # Errors
    /// It does not start.
    pub fn agent(&self, place: &Place, (state, socket): (&Path, &Path), node: &str, more: &[&str]) -> Result<Daemon> {
        let mut argv = vec![
            weftctl().map_err(anyhow::Error::msg)?.display().to_string(),
            format!("--state-dir={}", state.display()),
            "agent".to_owned(),
            format!("--socket={}", socket.display()),
            format!("--node-name={node}"),
            format!("--kubeconfig={}", kubeconfig_path(self.dir.path(), "agent").display()),
        ];
        argv.extend(more.iter().map(|argument| (*argument).to_owned()));
        let agent = Daemon::start(place, &argv, &socket.with_extension("log"))?;
        wait(PATIENCE, "the agent", || Ok(UnixStream::connect(socket).is_ok())).with_context(|| agent.log())?;
        Ok(agent)
    }

    /// Connects a node to the API server.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn connect(&self, node: &NetNs) -> Result<()> {
        let number = {
            let mut state = self.lock();
            state.connected += 1;
            state.connected
        };
        let far = format!("near-{number}");
        let control = self.plane.netns();
        control.line(&format!("ip link add {far} type veth peer name up0 netns {}", node.name()))?;
        control.line(&format!("ip link set {far} master {MANAGEMENT} up"))?;
        node.line(&format!("ip address add 10.99.0.{}/24 dev up0", 100 + number))?;
        node.line("ip link set up0 up").map(drop)
    }

    /// Makes the API server serve the cluster ledger and IPAMClaims, with the agents' rights on them.
    ///
    /// # Errors
    /// It refuses.
    pub fn serve_ledger(&self) -> Result<()> {
        if std::mem::replace(&mut self.lock().has_ledger, true) {
            return Ok(());
        }
        for file in
            ["deploy/crds/ipamclaims.yaml", "deploy/crds/ipam.weft.dev.yaml", "deploy/kubernetes/rbac-ledger.yaml"]
        {
            self.plane.kubectl().apply_text(&manifest(file)?)?;
        }
        self.bind("weft-agent-ledger")?;
        let names = ["addressclaims", "ledgerstates", "ledgernodes", "addresspools", "addressblocks", "ledgerdomains"];
        let served =
            |name: &&str| Ok(self.rest.call("GET", &format!("/apis/ipam.weft.dev/v1alpha1/{name}"), None)?.0 == 200);
        names.iter().try_for_each(|name| wait(PATIENCE, name, || served(name)))
    }

    /// Runs `weftctl` with all rights, and returns its output.
    ///
    /// # Errors
    /// It fails.
    pub fn weftctl(&self, arguments: &[&str]) -> Result<String> {
        let weftctl = weftctl().map_err(anyhow::Error::msg)?.display().to_string();
        let kubeconfig = kubeconfig_path(self.dir.path(), "admin").display().to_string();
        let argv = [&[weftctl.as_str()], arguments, &["--kubeconfig", &kubeconfig]].concat();
        Ok(process::run(&self.plane.netns().place(), &argv)?.text())
    }
}
