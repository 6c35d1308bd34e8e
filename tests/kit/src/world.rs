//! One scratch machine: a host network namespace, containers, an optional outside, and the state of one subject.
//!
//! Two worlds share nothing: every plugin call sees its own `/var/lib/cni`, and weft its own state directory.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::Value;
use tempfile::TempDir;

use crate::cni::{Call, Reply};
use crate::netns::NetNs;
use crate::process::{self, LIMIT, Place};
use crate::programs::{self, Installation};
use crate::sandbox;

/// The plugins under test.
#[derive(Debug, Clone)]
pub struct Subject {
    /// `reference`, `current` or `weft`.
    pub name: &'static str,
    /// The directory of the executables.
    pub bin: PathBuf,
    /// The initial state directory.
    pub state: Option<PathBuf>,
}

impl Subject {
    /// Returns Debian's plugins.
    ///
    /// # Errors
    /// They are not installed.
    pub fn reference() -> Result<Self> {
        Ok(Self { name: "reference", bin: programs::reference_dir().map_err(anyhow::Error::msg)?, state: None })
    }

    /// Returns the CNI project's current plugins.
    ///
    /// # Errors
    /// They are not built.
    pub fn current() -> Result<Self> {
        Ok(Self { name: "current", bin: programs::current_dir().map_err(anyhow::Error::msg)?, state: None })
    }

    /// Returns the installed weft.
    #[must_use]
    pub fn weft(installation: &Installation) -> Self {
        Self { name: "weft", bin: installation.bin().to_owned(), state: Some(installation.state().to_owned()) }
    }
}

/// The attachment of a call.
#[derive(Debug, Clone)]
pub struct Attach<'a> {
    /// The container: a name in this world, created on first use.
    pub container: &'a str,
    /// Interface name.
    pub ifname: &'a str,
    /// `CNI_ARGS`.
    pub args: Option<&'a str>,
}

impl<'a> Attach<'a> {
    /// Returns `eth0` of a container, without arguments.
    #[must_use]
    pub fn eth0(container: &'a str) -> Self {
        Self { container, ifname: "eth0", args: None }
    }
}

/// A scratch machine.
#[derive(Debug)]
pub struct World {
    subject: Subject,
    host: NetNs,
    outside: Option<NetNs>,
    containers: BTreeMap<String, NetNs>,
    scratch: TempDir,
    /// Directories in `CNI_PATH`, the subject's first.
    path: Vec<PathBuf>,
}

impl World {
    /// Makes a machine with an empty host and weft installed. The installation is deleted with the value.
    ///
    /// # Errors
    /// As `new`; also where weft or weftctl is not built.
    pub fn installed() -> Result<(Installation, Self)> {
        let installation = Installation::new()?;
        let world = Self::new(&Subject::weft(&installation))?;
        Ok((installation, world))
    }

    /// Makes a machine with an empty host and the subject installed.
    ///
    /// # Errors
    /// Not in a sandbox, or the kernel refuses.
    pub fn new(subject: &Subject) -> Result<Self> {
        let scratch = TempDir::new_in(sandbox::scratch()).context("scratch directory")?;
        fs::create_dir(scratch.path().join("cni")).context("create cni")?;
        let state = scratch.path().join("weft");
        match &subject.state {
            Some(from) => programs::copy_tree(from, &state)?,
            None => fs::create_dir(&state).context("create state")?,
        }
        let host = NetNs::new("host")?;
        host.line("ip link set lo up")?;
        let path = vec![subject.bin.clone()];
        Ok(Self { subject: subject.clone(), host, outside: None, containers: BTreeMap::new(), scratch, path })
    }

    /// Returns the host.
    #[must_use]
    pub fn host(&self) -> &NetNs {
        &self.host
    }

    /// Returns the scratch directory of this world.
    #[must_use]
    pub fn scratch(&self) -> &Path {
        self.scratch.path()
    }

    /// Returns weft's state directory.
    #[must_use]
    pub fn state(&self) -> PathBuf {
        self.scratch.path().join("weft")
    }

    /// Returns the directory that plugins see as `/var/lib/cni`.
    #[must_use]
    pub fn lib_cni(&self) -> PathBuf {
        self.scratch.path().join("cni")
    }

    /// Returns all containers made so far.
    #[must_use]
    pub fn containers(&self) -> &BTreeMap<String, NetNs> {
        &self.containers
    }

    /// Appends a directory to `CNI_PATH`.
    pub fn add_path(&mut self, dir: &Path) {
        self.path.push(dir.to_owned());
    }

    /// Returns a container's namespace, created on first use.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn container(&mut self, name: &str) -> Result<&NetNs> {
        if !self.containers.contains_key(name) {
            self.containers.insert(name.to_owned(), NetNs::new(name)?);
        }
        self.containers.get(name).context("a container just made")
    }

    /// Removes a container's namespace, like a runtime that kills a container before DEL.
    pub fn remove_container(&mut self, name: &str) {
        self.containers.remove(name);
    }

    /// Adds a namespace beyond the host: 203.0.113.2 and 2001:db8:ff::2 behind the host's `up0`. It has no route to
    /// container networks, so only masqueraded traffic is answered.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn add_outside(&mut self) -> Result<()> {
        let outside = NetNs::new("outside")?;
        outside.line("ip link set lo up")?;
        self.host.line(&format!("ip link add up0 type veth peer name out0 netns {}", outside.name()))?;
        self.host.line("ip address add 203.0.113.1/24 dev up0")?;
        self.host.line("ip address add 2001:db8:ff::1/64 dev up0 nodad")?;
        self.host.line("ip link set up0 up")?;
        outside.line("ip address add 203.0.113.2/24 dev out0")?;
        outside.line("ip address add 2001:db8:ff::2/64 dev out0 nodad")?;
        outside.line("ip link set out0 up")?;
        self.outside = Some(outside);
        Ok(())
    }

    /// Returns a namespace by the name that cases use: `host`, `outside`, or a container.
    ///
    /// # Errors
    /// A container cannot be made.
    pub fn netns(&mut self, name: &str) -> Result<&NetNs> {
        match name {
            "host" => Ok(&self.host),
            "outside" => self.outside.as_ref().context("this world has no outside"),
            container => self.container(container),
        }
    }

    /// Returns where plugins of this world run.
    ///
    /// # Errors
    /// A path with a zero byte.
    pub fn place(&self) -> Result<Place> {
        let mut place = self.host.place();
        let own = CString::new(self.lib_cni().as_os_str().as_bytes())?;
        place.binds.push((own, CString::new("/var/lib/cni")?));
        Ok(place)
    }

    /// Returns the directory of the subject's executables.
    #[must_use]
    pub fn plugins(&self) -> &Path {
        &self.subject.bin
    }

    /// Returns the executable of a plugin type.
    #[must_use]
    pub fn plugin(&self, kind: &str) -> PathBuf {
        let found = self.path.iter().map(|dir| dir.join(kind)).find(|path| path.is_file());
        found.unwrap_or_else(|| self.subject.bin.join(kind))
    }

    /// Returns the call that a runtime would make for an attachment.
    ///
    /// # Errors
    /// The container cannot be made.
    pub fn prepare(&mut self, verb: &str, attach: &Attach<'_>, conf: &Value) -> Result<Call> {
        let netns = self.container(attach.container)?.path().display().to_string();
        let mut call = Call::new(verb, conf);
        call.container_id = Some(container_id(attach.container));
        call.netns = Some(netns);
        call.ifname = Some(attach.ifname.to_owned());
        call.args = attach.args.map(str::to_owned);
        let dirs: Vec<_> = self.path.iter().map(|dir| dir.display().to_string()).collect();
        call.path = Some(dirs.join(":"));
        call.env.push(("WEFT_STATE_DIR".into(), self.state().into()));
        Ok(call)
    }

    /// Runs a call of the plugin in `conf.type`.
    ///
    /// # Errors
    /// The plugin cannot be run; a CNI error is a reply.
    pub fn run(&self, call: &Call, kind: &str) -> Result<Reply> {
        call.run(&self.plugin(kind), &self.place()?)
    }

    /// Prepares and runs a call of the plugin in `conf.type`.
    ///
    /// # Errors
    /// As `prepare` and `run`.
    pub fn call(&mut self, verb: &str, attach: &Attach<'_>, conf: &Value) -> Result<Reply> {
        let kind = conf.get("type").and_then(Value::as_str).context("conf has no type")?.to_owned();
        let call = self.prepare(verb, attach, conf)?;
        self.run(&call, &kind)
    }

    /// Runs the installed `weftctl` on this world's host and state, and parses its JSON.
    ///
    /// # Errors
    /// It fails, or prints no JSON.
    pub fn weftctl(&self, arguments: &[&str]) -> Result<Value> {
        let mut command = Command::new("/usr/local/bin/weftctl");
        command.arg("--json").arg("--state-dir").arg(self.state()).args(arguments);
        let output = process::output(&self.place()?, command, b"", LIMIT)?;
        let output = output.success(&format!("weftctl {}", arguments.join(" ")))?;
        serde_json::from_slice(&output.stdout).with_context(|| format!("weftctl printed {:?}", output.text()))
    }

    /// Returns the addresses claimed in weft's ledger, sorted.
    ///
    /// # Errors
    /// `weftctl ledger ls` fails.
    pub fn claims(&self) -> Result<Vec<String>> {
        let listed = self.weftctl(&["ledger", "ls"])?;
        let rows = listed.as_array().context("ledger ls prints a list")?;
        let mut addresses: Vec<String> =
            rows.iter().filter_map(|row| row.get("address")?.as_str()).map(str::to_owned).collect();
        addresses.sort();
        Ok(addresses)
    }

    /// Returns whether `from` gets an answer from `to`, within a second or two: a new address may need a moment.
    ///
    /// # Errors
    /// The namespace cannot be made.
    pub fn reaches(&mut self, from: &str, to: &str) -> Result<bool> {
        let netns = self.netns(from)?;
        Ok(netns.run(&["ping", "-n", "-q", "-i", "0.2", "-c", "1", "-W", "1", to]).is_ok()
            || netns.run(&["ping", "-n", "-q", "-i", "0.2", "-c", "3", "-w", "2", to]).is_ok())
    }
}

/// Returns the container id of a container, which is unique in a ruleset or a file.
#[must_use]
pub fn container_id(container: &str) -> String {
    format!("cid-{container}")
}
