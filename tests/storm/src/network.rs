//! The networks of the storm: small pools, so that addresses are soon reused.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::process::Command;
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use serde_json::{Value, json};
use weft_bench::scene::Scene;

use crate::devices::Devices;
use crate::subject::Subject;

/// The network's name.
pub(crate) const NAME: &str = "storm";

/// The number of addresses for containers: a /26 without network, broadcast and gateway.
pub(crate) const POOL: usize = 61;

/// The delegate of the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Kind {
    /// A bridge with gateway, masquerading, and a check of MAC addresses.
    Bridge,
    /// Point to point, with masquerading.
    Ptp,
    /// macvlan on a parent.
    Macvlan,
    /// A tap device, as for a virtual machine.
    Tap,
    /// A device of the host, one for each container.
    HostDevice,
    /// weft's own: point to point, and steps in the same process.
    Steps,
    /// Addresses only.
    Ipam,
}

/// A network that is ready for attachments.
#[derive(Debug)]
pub(crate) struct Network {
    pub(crate) kind: Kind,
    conf: Value,
    devices: Devices,
    ports: Mutex<BTreeMap<String, usize>>,
}

// === impl Network ===

impl Network {
    /// Makes what the network needs on the host, and its configuration.
    ///
    /// # Errors
    /// If the parent cannot be made.
    pub(crate) fn new(kind: Kind, subject: &Subject, scene: &Scene) -> Result<Self> {
        ip(&["link", "set", "lo", "up"])?;
        let mut conf = json!({
            "cniVersion": subject.version,
            "name": NAME,
            "type": kind.plugin(),
            "ipam": {
                "type": "host-local",
                "dataDir": Subject::data_dir(scene),
                "ranges": [[{ "subnet": "10.91.0.0/26" }]],
            },
        });
        let own = match kind {
            Kind::Bridge => json!({
                "bridge": "storm0", "isGateway": true, "isDefaultGateway": true, "ipMasq": true, "macspoofchk": true,
            }),
            Kind::Ptp => json!({ "ipMasq": true }),
            Kind::Macvlan => {
                // Not every kernel has dummy links; one end of a veth pair serves as a parent.
                ip(&["link", "add", "parent0", "type", "veth", "peer", "name", "parent1"])?;
                ip(&["link", "set", "parent0", "up"])?;
                ip(&["link", "set", "parent1", "up"])?;
                json!({ "master": "parent0", "mode": "bridge" })
            }
            Kind::Tap => json!({ "mtu": 1400 }),
            // Each call names its device.
            Kind::HostDevice => json!({ "device": "none" }),
            Kind::Steps => json!({
                "delegate": { "type": "ptp" },
                "steps": [
                    { "type": "tuning", "mtu": 1400, "sysctl": { "net.ipv4.conf.IFNAME.arp_filter": "1" } },
                    { "type": "bandwidth", "ingressRate": 80_000_000, "ingressBurst": 8_000_000,
                      "egressRate": 80_000_000, "egressBurst": 8_000_000 },
                    { "type": "default-route", "drop": ["4"] },
                    { "type": "sbr" },
                    { "type": "firewall" },
                    // Each call has its own ports.
                    { "type": "portmap" },
                ],
            }),
            Kind::Ipam => json!({}),
        };
        if let (Some(conf), Value::Object(own)) = (conf.as_object_mut(), own) {
            conf.extend(own);
        }
        Ok(Self { kind, conf, devices: Devices::default(), ports: Mutex::default() })
    }

    /// Returns the stdin of a call.
    pub(crate) fn conf(&self) -> String {
        self.conf.to_string()
    }

    /// Returns a configuration as a container's calls have it.
    pub(crate) fn conf_of<'a>(&self, conf: &'a str, container: &str) -> Result<Cow<'a, str>> {
        let (key, own) = match self.kind {
            Kind::HostDevice => ("device", self.devices.find(container)?.into()),
            Kind::Steps => ("runtimeConfig", json!({ "portMappings": [self.port_of(container)] })),
            _ => return Ok(Cow::Borrowed(conf)),
        };
        let mut value: Value = serde_json::from_str(conf).context("read a configuration")?;
        value[key] = own;
        Ok(Cow::Owned(value.to_string()))
    }

    /// Returns a host port that none of the last sixty thousand containers has.
    fn port_of(&self, container: &str) -> Value {
        let mut ports = self.ports.lock().unwrap_or_else(PoisonError::into_inner);
        let next = ports.len();
        let port = 1024 + *ports.entry(container.to_owned()).or_insert(next) % 60_000;
        json!({ "hostPort": port, "containerPort": 80, "protocol": "tcp" })
    }

    /// Deletes what a container had on the host, and returns whether all of it existed.
    pub(crate) fn take_away(&self, container: &str) -> Result<bool> {
        self.devices.take_away(container)
    }

    /// Returns the configuration with the result of the ADD.
    pub(crate) fn with_result(&self, result: &str) -> Result<String> {
        let result: Value = serde_json::from_str(result).context("read a result")?;
        Ok(self.with_key("prevResult", result))
    }

    /// Returns the configuration for GC, with the attachments (container ids) that live.
    pub(crate) fn with_valid(&self, containers: &[String]) -> String {
        let valid = containers.iter().map(|id| json!({ "containerID": id, "ifname": "eth0" }));
        self.with_key("cni.dev/valid-attachments", valid.collect())
    }

    fn with_key(&self, key: &str, value: Value) -> String {
        let mut conf = self.conf.clone();
        if let Some(conf) = conf.as_object_mut() {
            conf.insert(key.to_owned(), value);
        }
        conf.to_string()
    }
}

// === impl Kind ===

impl Kind {
    /// Returns the plugin to call.
    pub(crate) fn plugin(self) -> &'static str {
        match self {
            Self::Bridge => "bridge",
            Self::Ptp => "ptp",
            Self::Macvlan => "macvlan",
            Self::Tap => "tap",
            Self::HostDevice => "host-device",
            Self::Steps => "weft",
            Self::Ipam => "host-local",
        }
    }

    /// Returns whether containers get a link.
    pub(crate) fn has_links(self) -> bool {
        self != Self::Ipam
    }
}

/// Runs `ip`.
pub(crate) fn ip(arguments: &[&str]) -> Result<String> {
    let output = Command::new("ip").args(arguments).output().context("start ip (Debian: iproute2)")?;
    if !output.status.success() {
        bail!("ip {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
