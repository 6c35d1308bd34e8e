//! A CNI plugin for testing the storm: a veth with an address from a directory of claims. Correct unless `FAKE_BUG`
//! names one of the bugs, each of which the storm must notice.
//!
//! It survives kills for three reasons: a claim appears in one step (link(2)) and names its container; the link's name
//! follows from the container's; DEL deletes the link before the claim.

#![allow(clippy::print_stdout, reason = "a plugin prints its result")]

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use serde_json::{Value, json};

/// The pool: 10.91.0.2 to 10.91.0.62.
const HOSTS: std::ops::RangeInclusive<u8> = 2..=62;

struct Fake {
    bug: String,
    container: String,
    netns: PathBuf,
    kind: String,
    claims: PathBuf,
    conf: Value,
}

fn main() -> ExitCode {
    match Fake::read().and_then(|fake| fake.run()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("{}", json!({ "code": 999, "msg": format!("{error:#}") }));
            ExitCode::FAILURE
        }
    }
}

impl Fake {
    fn read() -> Result<Self> {
        let variable = |name: &str| std::env::var(name).with_context(|| format!("no {name}"));
        let mut stdin = String::new();
        std::io::stdin().read_to_string(&mut stdin).context("read stdin")?;
        let conf: Value = serde_json::from_str(&stdin).context("read the configuration")?;
        let name = conf["name"].as_str().context("no name")?;
        let dir = conf["ipam"]["dataDir"].as_str().context("no dataDir")?;
        let program = std::env::args().next().context("no name of our own")?;
        let kind = Path::new(&program).file_name().unwrap_or_default().to_string_lossy().into_owned();
        let container = variable("CNI_CONTAINERID")?;
        // The calm before the storm must pass, or no storm would prove anything.
        let bug = if container.starts_with("calm-") { String::new() } else { variable("FAKE_BUG")? };
        Ok(Self {
            bug,
            container,
            netns: PathBuf::from(variable("CNI_NETNS")?),
            kind,
            claims: Path::new(dir).join(name),
            conf,
        })
    }

    fn run(&self) -> Result<()> {
        match std::env::var("CNI_COMMAND").context("no CNI_COMMAND")?.as_str() {
            "ADD" => self.add(),
            "DEL" => self.remove(&self.container),
            "CHECK" => Ok(()),
            "GC" => self.collect(),
            other => bail!("unknown CNI_COMMAND: {other}"),
        }
    }

    fn add(&self) -> Result<()> {
        if self.bug == "no-retry" && self.claims.read_dir()?.flatten().any(|file| is_torn(&file.path())) {
            bail!("a killed ADD is in my way");
        }
        let mut address = self.claim()?;
        let stolen = self.of_another(&address)?.filter(|_| self.fails_by_chance());
        if self.kind != "host-local" {
            self.connect(&address)?;
            if let (Some(stolen), "duplicate-link") = (&stolen, self.bug.as_str()) {
                // The host already has the other container's route; the storm reads the addresses in the netns.
                self.ip_in_netns(&["address", "add", &format!("{stolen}/26"), "dev", "eth0"])?;
            }
        }
        if let (Some(stolen), "duplicate-result") = (stolen, self.bug.as_str()) {
            address = stolen;
        }
        println!(
            "{}",
            json!({ "cniVersion": self.conf["cniVersion"], "ips": [{ "address": format!("{address}/26") }] })
        );
        Ok(())
    }

    /// Claims the lowest free address.
    fn claim(&self) -> Result<String> {
        let draft = self.claims.join(format!("draft-{}", self.container));
        fs::write(&draft, &self.container).context("write a draft")?;
        for host in HOSTS {
            let address = format!("10.91.0.{host}");
            let file = self.claims.join(&address);
            if self.bug == "lose-on-kill" {
                if fs::File::create_new(&file).is_ok() {
                    sleep(Duration::from_millis(1));
                    fs::write(&file, &self.container).context("write a claim")?;
                    fs::remove_file(&draft).context("remove a draft")?;
                    return Ok(address);
                }
            } else if fs::hard_link(&draft, &file).is_ok() {
                fs::remove_file(&draft).context("remove a draft")?;
                return Ok(address);
            }
        }
        Err(anyhow!("no IP addresses available"))
    }

    fn connect(&self, address: &str) -> Result<()> {
        let link = host_link(&self.container);
        let netns = self.netns.to_string_lossy();
        ip(&["link", "add", &link, "type", "veth", "peer", "name", "eth0", "netns", &netns])?;
        ip(&["link", "set", &link, "up"])?;
        self.ip_in_netns(&["link", "set", "eth0", "up"])?;
        self.ip_in_netns(&["address", "add", &format!("{address}/26"), "dev", "eth0"])
    }

    /// Deletes a container's link and claim if they exist.
    fn remove(&self, container: &str) -> Result<()> {
        let link = host_link(container);
        let there = Path::new("/sys/class/net").join(&link).exists();
        // A link that was deleted meanwhile, with its netns, is fine.
        if there && self.bug != "leak-link" && ip(&["link", "delete", &link]).is_err() {
            sleep(Duration::from_millis(20));
        }
        if self.bug == "leak-claim" && self.fails_by_chance() {
            return Ok(());
        }
        for file in fs::read_dir(&self.claims).context("read the claims")? {
            let path = file?.path();
            if fs::read_to_string(&path).is_ok_and(|owner| owner == container) {
                fs::remove_file(&path).context("remove a claim")?;
            }
        }
        Ok(())
    }

    fn collect(&self) -> Result<()> {
        let Some(valid) = self.conf["cni.dev/valid-attachments"].as_array() else { return Ok(()) };
        let valid: Vec<&str> = valid.iter().filter_map(|attachment| attachment["containerID"].as_str()).collect();
        for file in fs::read_dir(&self.claims).context("read the claims")? {
            let Ok(owner) = fs::read_to_string(file?.path()) else { continue };
            if !owner.is_empty() && (self.bug == "gc-takes-all" || !valid.contains(&owner.as_str())) {
                self.remove(&owner)?;
            }
        }
        Ok(())
    }

    /// Returns an address that another container has.
    fn of_another(&self, own: &str) -> Result<Option<String>> {
        let names = fs::read_dir(&self.claims).context("read the claims")?.flatten();
        let mut names = names.map(|file| file.file_name().to_string_lossy().into_owned());
        Ok(names.find(|name| name != own && name.starts_with("10.")))
    }

    /// Returns true for one call in four.
    fn fails_by_chance(&self) -> bool {
        std::process::id().is_multiple_of(4)
    }

    fn ip_in_netns(&self, arguments: &[&str]) -> Result<()> {
        let netns = self.netns.file_name().context("a netns without name")?.to_string_lossy();
        let mut all = vec!["-n", &netns];
        all.extend(arguments);
        ip(&all)
    }
}

/// Returns whether a claim names no container, or is a draft.
fn is_torn(file: &Path) -> bool {
    file.file_name().is_some_and(|name| name.to_string_lossy().starts_with("draft-"))
}

/// Returns the name of the host's end. Container ids of the storm are short and differ in every character of this.
fn host_link(container: &str) -> String {
    let mut name: String = format!("f{container}").chars().filter(char::is_ascii_alphanumeric).collect();
    name.truncate(15);
    name
}

fn ip(arguments: &[&str]) -> Result<()> {
    let output = Command::new("ip").args(arguments).output().context("start ip")?;
    if !output.status.success() {
        bail!("ip {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}
