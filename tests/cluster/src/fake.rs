//! A plugin that records its calls and answers by rules. One program under any name; its type is the name by which it
//! is called.
//!
//! For each call, in order: appends a record to the log; as `rec-X`, runs the stock plugin X with the same stdin and
//! environment and returns its answer; otherwise follows the first matching rule; without a rule, answers ADD with
//! `prevResult` or a result with increasing addresses, and everything else with success.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// The directory of rules and log. In a test's sandbox `/run` is private.
pub const DIR: &str = "/run/weft-fake";

/// The directory of the stock plugins that `rec-` names run.
const STOCK: &str = "/usr/lib/cni";

/// A recorded call.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Call {
    /// The name it was started as.
    #[serde(rename = "type")]
    pub kind: String,
    /// All `CNI_*` variables.
    pub env: BTreeMap<String, String>,
    /// Standard input.
    pub stdin: Value,
}

/// Which calls to answer, and how.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Rule {
    /// Which calls.
    #[serde(default)]
    pub when: When,
    /// What to do.
    #[serde(rename = "do", default)]
    pub action: Action,
}

/// Which calls a rule is for; an absent key matches all.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct When {
    /// The name it was started as.
    #[serde(rename = "type", default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// `CNI_COMMAND`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command: Option<String>,
    /// `CNI_IFNAME`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ifname: Option<String>,
    /// `name` of the configuration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Which of the calls that match the other keys, counting from 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nth: Option<usize>,
}

/// The actions of a rule, in the order of its keys.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Action {
    /// Sleeps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sleep_ms: Option<u64>,
    /// Arguments of commands `ip ...` in the sandbox's namespace.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ip: Vec<String>,
    /// A document for `runtimeConfig.CNIDeviceInfoFile`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub devinfo: Option<Value>,
    /// Text for stderr.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stderr: Option<String>,
    /// An error document; `cniVersion` is added.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<Value>,
    /// Text for stdout.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stdout: Option<String>,
    /// A result.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<Value>,
    /// The exit code, if not the usual one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit: Option<i32>,
}

// === the tests' side ===

/// Installs the plugin under names, with an empty log.
///
/// # Errors
/// Files cannot be written.
pub fn install(program: &Path, bin: &Path, names: &[&str]) -> Result<()> {
    fs::create_dir_all(bin).context("create the plugins' directory")?;
    for name in names {
        let link = bin.join(name);
        if !link.exists() {
            symlink(program, &link).with_context(|| format!("link {name}"))?;
        }
    }
    reset(&[])
}

/// Starts a new log, and sets rules.
///
/// # Errors
/// Files cannot be written.
pub fn reset(rules: &[Rule]) -> Result<()> {
    fs::create_dir_all(DIR).context("create the fake's directory")?;
    fs::write(path("log"), "").context("empty the log")?;
    set_rules(rules)
}

/// Sets rules; the log continues.
///
/// # Errors
/// The file cannot be written.
pub fn set_rules(rules: &[Rule]) -> Result<()> {
    fs::write(path("rules.json"), serde_json::to_vec(rules)?).context("write the rules")
}

/// Returns all calls since the log was started.
///
/// # Errors
/// The log cannot be read.
pub fn calls() -> Result<Vec<Call>> {
    let text = fs::read_to_string(path("log")).context("read the fake's log")?;
    text.lines().map(|line| serde_json::from_str(line).context("a line of the fake's log")).collect()
}

fn path(name: &str) -> PathBuf {
    Path::new(DIR).join(name)
}

// === the plugin's side ===

/// The plugin's `main`; returns its exit code.
///
/// # Errors
/// It cannot do its work.
pub fn run() -> Result<i32> {
    let name = std::env::args().next().unwrap_or_default();
    let kind = Path::new(&name).file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let mut stdin = Vec::new();
    std::io::stdin().read_to_end(&mut stdin).context("read stdin")?;
    let call = Call {
        kind,
        env: std::env::vars().filter(|(key, _)| key.starts_with("CNI_")).collect(),
        stdin: serde_json::from_slice(&stdin).unwrap_or(Value::Null),
    };
    let earlier = log(&call)?;
    if let Some(stock) = call.kind.strip_prefix("rec-") {
        return stock_plugin(stock, &stdin);
    }
    let rules: Vec<Rule> = serde_json::from_slice(&fs::read(path("rules.json")).context("read the rules")?)?;
    let rule = rules.iter().find(|rule| rule.when.matches(&call, &earlier));
    match rule {
        Some(rule) => rule.action.carry_out(&call),
        None => answer(&call, &earlier),
    }
}

/// Appends a call and returns the previous ones.
fn log(call: &Call) -> Result<Vec<Call>> {
    let file = OpenOptions::new().append(true).create(true).open(path("log")).context("open the log")?;
    let mut file =
        Flock::lock(file, FlockArg::LockExclusive).map_err(|(_file, error)| error).context("lock the log")?;
    let earlier = calls()?;
    file.write_all(format!("{}\n", serde_json::to_string(call)?).as_bytes()).context("write the log")?;
    Ok(earlier)
}

fn stock_plugin(name: &str, stdin: &[u8]) -> Result<i32> {
    let mut child = Command::new(Path::new(STOCK).join(name))
        .stdin(Stdio::piped())
        .spawn()
        .with_context(|| format!("run the stock plugin {name}"))?;
    if let Some(mut pipe) = child.stdin.take() {
        pipe.write_all(stdin).context("feed the stock plugin")?;
    }
    Ok(child.wait().context("wait for the stock plugin")?.code().unwrap_or(1))
}

fn answer(call: &Call, earlier: &[Call]) -> Result<i32> {
    let is_first = |call: &Call| call.env("CNI_COMMAND") == "ADD" && call.stdin.get("prevResult").is_none();
    match call.env("CNI_COMMAND") {
        "VERSION" => print(&json!({"cniVersion": "1.1.0",
            "supportedVersions": ["0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"]})),
        "ADD" => match call.stdin.get("prevResult") {
            Some(previous) => print(previous),
            None => {
                let n = earlier.iter().filter(|call| is_first(call)).count() + 1;
                let version = call.stdin.get("cniVersion").cloned().unwrap_or_else(|| json!(""));
                let mut ip = json!({"address": format!("10.77.0.{n}/24"), "interface": 0});
                if version.as_str().is_some_and(|version| version.starts_with("0.")) {
                    ip["version"] = json!("4");
                }
                print(&json!({
                    "cniVersion": version,
                    "interfaces": [{"name": call.env("CNI_IFNAME"), "mac": format!("02:00:00:00:00:{n:02x}"),
                                    "sandbox": call.env("CNI_NETNS")}],
                    "ips": [ip]}))
            }
        },
        _ => Ok(0),
    }
}

fn print(value: &Value) -> Result<i32> {
    std::io::stdout().write_all(value.to_string().as_bytes()).context("answer")?;
    Ok(0)
}

// === impl Call ===

impl Call {
    /// Returns a variable, or an empty text.
    #[must_use]
    pub fn env(&self, key: &str) -> &str {
        self.env.get(key).map(String::as_str).unwrap_or_default()
    }

    /// Returns type, verb and interface, for lists of calls.
    #[must_use]
    pub fn summary(&self) -> String {
        let (verb, ifname) = (self.env("CNI_COMMAND"), self.env("CNI_IFNAME"));
        if ifname.is_empty() { format!("{} {verb}", self.kind) } else { format!("{} {verb} {ifname}", self.kind) }
    }
}

// === impl When ===

impl When {
    fn matches(&self, call: &Call, earlier: &[Call]) -> bool {
        if !self.matches_once(call) {
            return false;
        }
        let before = || earlier.iter().filter(|call| self.matches_once(call)).count();
        self.nth.is_none_or(|nth| before() + 1 == nth)
    }

    fn matches_once(&self, call: &Call) -> bool {
        let is = |wanted: &Option<String>, found: &str| wanted.as_deref().is_none_or(|wanted| wanted == found);
        is(&self.kind, &call.kind)
            && is(&self.command, call.env("CNI_COMMAND"))
            && is(&self.ifname, call.env("CNI_IFNAME"))
            && is(&self.name, call.stdin.get("name").and_then(Value::as_str).unwrap_or_default())
    }
}

// === impl Action ===

impl Action {
    fn carry_out(&self, call: &Call) -> Result<i32> {
        let fill = |text: &str| {
            text.replace("@NETNS@", call.env("CNI_NETNS"))
                .replace("@IFNAME@", call.env("CNI_IFNAME"))
                .replace("@CNIVERSION@", call.stdin.get("cniVersion").and_then(Value::as_str).unwrap_or_default())
        };
        std::thread::sleep(Duration::from_millis(self.sleep_ms.unwrap_or(0)));
        for line in &self.ip {
            let line = fill(line);
            let status = Command::new("nsenter")
                .arg(format!("--net={}", call.env("CNI_NETNS")))
                .arg("ip")
                .args(line.split_whitespace())
                .status()
                .context("run ip")?;
            anyhow::ensure!(status.success(), "ip {line} failed");
        }
        if let (Some(info), Some(file)) = (&self.devinfo, call.stdin.pointer("/runtimeConfig/CNIDeviceInfoFile")) {
            let file = Path::new(file.as_str().unwrap_or_default());
            fs::create_dir_all(file.parent().unwrap_or(Path::new("/")))
                .context("create the device info's directory")?;
            fs::write(file, info.to_string()).context("write the device info")?;
        }
        if let Some(text) = &self.stderr {
            eprint_text(text)?;
        }
        let code = if let Some(error) = &self.error {
            let mut error = error.clone();
            error["cniVersion"] = call.stdin.get("cniVersion").cloned().unwrap_or_default();
            print(&error)?;
            1
        } else if let Some(text) = &self.stdout {
            std::io::stdout().write_all(text.as_bytes()).context("answer")?;
            0
        } else if let Some(result) = &self.result {
            std::io::stdout().write_all(fill(&result.to_string()).as_bytes()).context("answer")?;
            0
        } else {
            answer(call, &[])?
        };
        Ok(self.exit.unwrap_or(code))
    }
}

fn eprint_text(text: &str) -> Result<()> {
    std::io::stderr().write_all(format!("{text}\n").as_bytes()).context("write stderr")
}
