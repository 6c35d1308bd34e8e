//! A network with a DHCP server and an agent, and functions that observe it.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use weft_kit::cni::Reply;
use weft_kit::dhcp::{self, Daemon, PATIENCE, Server, wait};
use weft_kit::programs::Installation;
use weft_kit::world::{Attach, Subject, World};

/// Ten addresses for two minutes, dnsmasq's shortest time.
pub(super) const RANGE: &str = "--dhcp-range=192.168.1.5,192.168.1.14,255.255.255.0,2m";
/// One address.
pub(super) const ONE: &str = "--dhcp-range=192.168.1.5,192.168.1.5,255.255.255.0,2m";
/// IPv6.
pub(super) const RANGE6: &str = "--dhcp-range=fd00:1::100,fd00:1::1ff,64,2m";
/// Options that make the client give up within seconds.
pub(super) const QUICK: &[&str] = &["--timeout", "2s", "--resendmax", "8s", "--resendtimeout", "4s"];

/// A world with a server, an agent, and a configuration that uses them.
pub(super) struct Lan {
    pub(super) world: std::cell::RefCell<World>,
    pub(super) server: std::cell::RefCell<Server>,
    pub(super) agent: std::cell::RefCell<Option<Daemon>>,
    pub(super) conf: Value,
    _installation: Installation,
}

impl Lan {
    pub(super) fn new(bridge: Option<&str>, options: &[&str], agent: &[&str]) -> Result<Self> {
        let installation = Installation::new()?;
        let world = World::new(&Subject::weft(&installation))?;
        let mut server = Server::connect(&world, bridge)?;
        server.start(options)?;
        let agent = dhcp::agent(&world, agent)?;
        let conf = json!({ "cniVersion": "1.1.0", "name": "lan", "type": "weft", "ipam": dhcp::ipam(&world),
                           "delegate": { "type": "bridge", "bridge": "br0" } });
        Ok(Self {
            world: world.into(),
            server: server.into(),
            agent: Some(agent).into(),
            conf,
            _installation: installation,
        })
    }

    /// Uses `weft` over a bridge, or the stock `bridge` by name.
    pub(super) fn bridge(kind: &str) -> Result<Self> {
        let dns = ["--dhcp-option=option:dns-server,192.168.1.53", "--dhcp-option=option:domain-name,lan.example"];
        let mut lan = Self::new(Some("br0"), &[&[RANGE], &dns[..]].concat(), &[])?;
        if kind == "bridge" {
            lan.conf = json!({ "cniVersion": "1.0.0", "name": "lan", "type": "bridge", "bridge": "br0",
                               "ipam": lan.conf["ipam"].clone() });
        }
        Ok(lan)
    }

    pub(super) fn macvlan() -> Result<Self> {
        let dns = ["--dhcp-option=option:dns-server,192.168.1.53", "--dhcp-option=option:domain-name,lan.example"];
        let mut lan = Self::new(None, &[&[RANGE], &dns[..]].concat(), &[])?;
        lan.conf["delegate"] = json!({ "type": "macvlan", "master": "up0" });
        Ok(lan)
    }

    pub(super) fn with_options(options: &[&str], agent: &[&str]) -> Result<Self> {
        Self::new(Some("br0"), options, agent)
    }

    pub(super) fn call(&self, verb: &str, container: &str, previous: Option<&Value>) -> Result<Reply> {
        let mut conf = self.conf.clone();
        if let Some(previous) = previous {
            conf["prevResult"] = previous.clone();
        }
        self.world.borrow_mut().call(verb, &Attach::eth0(container), &conf)
    }

    pub(super) fn add(&self, container: &str) -> Result<Value> {
        let reply = self.call("ADD", container, None)?;
        reply
            .result()
            .with_context(|| format!("ADD {container}\nserver: {}\nagent: {}", self.server.borrow().log(), self.log()))
    }

    pub(super) fn expect_quiet(&self, verb: &str, container: &str, previous: Option<&Value>) -> Result<()> {
        self.call(verb, container, previous)?
            .expect_quiet()
            .with_context(|| format!("{verb} {container}\nagent: {}", self.log()))
    }

    pub(super) fn log(&self) -> String {
        self.agent.borrow().as_ref().map(Daemon::log).unwrap_or_default()
    }

    pub(super) fn kill_agent(&self) {
        if let Some(agent) = self.agent.borrow_mut().take() {
            agent.kill();
        }
    }

    pub(super) fn start_agent(&self, options: &[&str]) -> Result<()> {
        *self.agent.borrow_mut() = Some(dhcp::agent(&self.world.borrow(), options)?);
        Ok(())
    }

    pub(super) fn status(&self) -> Result<Vec<Value>> {
        Ok(dhcp::status(&self.world.borrow())?.as_array().cloned().unwrap_or_default())
    }

    /// Makes a call and kills it after a while, as an impatient runtime does.
    pub(super) fn cut_short(&self, verb: &str, container: &str, after: Duration) -> Result<()> {
        let mut world = self.world.borrow_mut();
        let mut call = world.prepare(verb, &Attach::eth0(container), &self.conf)?;
        call.limit = after;
        let error = world.run(&call, "weft").err().map(|error| format!("{error:#}")).unwrap_or_default();
        ensure!(error.contains("did not end within"), "{error}");
        Ok(())
    }

    pub(super) fn inside(&self, container: &str, line: &str) -> Result<Value> {
        let output = self.world.borrow_mut().container(container)?.line(line)?;
        serde_json::from_str(&output.text()).with_context(|| format!("{line}: {}", output.text()))
    }

    pub(super) fn leases(&self) -> Vec<String> {
        self.server.borrow().leases()
    }

    /// Waits until the server's lease file has these entries: the server writes the file
    /// after it answers.
    pub(super) fn leases_become(&self, want: &[&str]) -> Result<()> {
        let outcome = wait(PATIENCE, "the server's lease file", || Ok(self.leases() == want));
        outcome.with_context(|| {
            format!("want {want:?}, have {:?}\n{}\n{}", self.leases(), self.server.borrow().log(), self.log())
        })
    }
}

/// Returns the address of a result, without its prefix length.
pub(super) fn address(result: &Value) -> Result<String> {
    let text =
        result.pointer("/ips/0/address").and_then(Value::as_str).with_context(|| format!("no address in {result}"))?;
    Ok(text.split('/').next().unwrap_or(text).to_owned())
}
