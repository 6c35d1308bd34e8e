//! Data-driven cases: a directory each under `tests/cases`.
//!
//! ```text
//! about.md       one line: what the case is about
//! conf.json      the PluginConf, or a list of them (`plugins`) that is run as libcni does; `$SCRATCH` is a directory of the run
//! env.json       optional: CNI versions, arguments, preparations, steps (`Env`)
//! want.json      optional: values that both transcripts must have, by JSON pointer
//! differs.json   optional: where weft means to differ from the reference, each with a reason
//! ```
//! A case runs once for each of its CNI versions. The run's *transcript* has what every call answered and what the kernel
//! had; each reference's and weft's must be equal but for the listed differences, and a listed difference must exist.

mod chain;
mod compare;
mod leftovers;
mod page;
mod script;

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde::Deserialize;
use serde_json::Value;

use crate::talk::Protocol;

pub use compare::{Difference, differences, judge};
pub use page::differences_page;
pub use script::run;

/// All CNI versions that both references know.
pub const REFERENCE_VERSIONS: &[&str] = &["0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0"];

/// One case.
#[derive(Debug, Clone)]
pub struct Case {
    /// Name of its directory.
    pub name: String,
    /// One line about its subject.
    pub about: String,
    /// The configuration, as text with placeholders.
    pub conf: String,
    /// Everything else about the run.
    pub env: Env,
    /// Values the transcripts must have, by JSON pointer.
    pub want: BTreeMap<String, Value>,
    /// Intended differences.
    pub differs: Vec<Differs>,
}

/// `env.json`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Env {
    /// CNI versions to run, or `["all"]`.
    pub versions: Vec<String>,
    /// `CNI_ARGS` of every call that names none.
    pub args: Option<String>,
    /// The executable to call where it is not `conf.type`: an IPAM plugin called directly.
    pub plugin: Option<String>,
    /// Interface name of every call that names none.
    pub ifname: String,
    /// Whether there is a namespace beyond the host.
    pub outside: bool,
    /// Kinds of links the kernel must know.
    pub kinds: Vec<String>,
    /// Files in `$SCRATCH`, by name.
    pub files: BTreeMap<String, String>,
    /// Preparations.
    pub setup: Vec<Run>,
    /// The steps; by default ADD, CHECK, DEL, DEL, twice.
    pub steps: Option<Vec<Step>>,
    /// Parts of observations that are not compared (`host/nft`), with the reason.
    pub ignore: BTreeMap<String, String>,
}

impl Default for Env {
    fn default() -> Self {
        Self {
            versions: vec!["1.0.0".to_owned()],
            args: None,
            plugin: None,
            ifname: "eth0".to_owned(),
            outside: false,
            kinds: Vec::new(),
            files: BTreeMap::new(),
            setup: Vec::new(),
            steps: None,
            ignore: BTreeMap::new(),
        }
    }
}

/// A command line in a namespace.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Run {
    /// `host`, `outside` or a container.
    #[serde(rename = "in")]
    pub place: String,
    /// The words.
    pub line: String,
}

/// A ping.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ping {
    /// `host`, `outside` or a container.
    pub from: String,
    /// An address.
    pub to: String,
}

/// A server that runs until the end, and answers with the address it sees.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Serve {
    /// `host`, `outside` or a container.
    #[serde(rename = "in")]
    pub place: String,
    /// Address and port.
    pub at: SocketAddr,
    /// `tcp` or `udp`.
    #[serde(default)]
    pub protocol: Protocol,
}

/// A question to a server; the answer is the address that the server sees.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ask {
    /// `host`, `outside` or a container.
    pub from: String,
    /// Address and port.
    pub to: SocketAddr,
    /// `tcp` or `udp`.
    #[serde(default)]
    pub protocol: Protocol,
}

/// One step: exactly one of the keys up to `remove`, and details of a call.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Step {
    /// ADD of a container.
    pub add: Option<String>,
    /// CHECK of a container.
    pub check: Option<String>,
    /// DEL of a container.
    pub del: Option<String>,
    /// Looks at the kernel.
    pub observe: bool,
    /// Checks whether an address answers.
    pub ping: Option<Ping>,
    /// Starts a server.
    pub serve: Option<Serve>,
    /// Asks a server which address it sees, if it can be reached.
    pub ask: Option<Ask>,
    /// Runs a command line, which must succeed.
    pub run: Option<Run>,
    /// Removes a container's namespace.
    pub remove: Option<String>,
    /// Details of a call: `CNI_ARGS`.
    pub args: Option<String>,
    /// Interface name.
    pub ifname: Option<String>,
    /// Merged into the configuration (JSON merge patch); for a list, by the plugins' types.
    pub conf: Option<Value>,
    /// `CNI_NETNS` instead of the container's.
    pub netns: Option<String>,
    /// Omit the `prevResult` that a runtime would pass.
    pub bare: bool,
    /// The subjects whose call must fail.
    pub fails: Fails,
    /// Only from this CNI version on.
    pub since: Option<String>,
}

/// The subjects whose call must fail.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fails {
    /// None.
    #[default]
    No,
    /// All.
    Yes,
    /// The references'.
    Reference,
    /// Debian's reference's alone.
    Debian,
    /// The current reference's alone.
    Current,
    /// weft's alone.
    Weft,
    /// All but Debian's reference's.
    NotDebian,
    /// All but the current reference's.
    NotCurrent,
}

/// A reference.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub enum Edition {
    /// Debian's.
    #[serde(rename = "1.1.1")]
    Debian,
    /// The CNI project's current one.
    #[serde(rename = "1.10.0")]
    Current,
}

impl Edition {
    /// Returns its version.
    #[must_use]
    pub fn version(self) -> &'static str {
        match self {
            Self::Debian => "1.1.1",
            Self::Current => "1.10.0",
        }
    }
}

impl Fails {
    /// Returns whether the call of this subject must fail.
    #[must_use]
    pub fn applies(self, subject: &str) -> bool {
        match self {
            Self::No => false,
            Self::Yes => true,
            Self::Reference => subject != "weft",
            Self::Debian => subject == "reference",
            Self::Current => subject == "current",
            Self::Weft => subject == "weft",
            Self::NotDebian => subject != "reference",
            Self::NotCurrent => subject != "current",
        }
    }
}

/// An intended difference.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Differs {
    /// JSON pointer into the transcript; `*` stands for any part of one segment, `**` for any number of segments.
    pub at: String,
    /// Why weft differs.
    pub why: String,
    /// Whether it may be missing in a run (if it depends on timing).
    #[serde(default)]
    pub sometimes: bool,
    /// The value that weft must have; without it, any value other than the reference's.
    #[serde(default)]
    pub weft: Option<Value>,
    /// The CNI versions with the difference; all if empty.
    #[serde(default)]
    pub versions: Vec<String>,
    /// The reference with the difference; both if `None`.
    #[serde(default)]
    pub reference: Option<Edition>,
}

impl Case {
    /// Returns the types of the plugins it calls.
    ///
    /// # Errors
    /// The configuration cannot be understood.
    pub fn kinds(&self) -> Result<Vec<String>> {
        let chain = chain::Chain::read(&self.conf, "1.0.0")?;
        Ok(chain.kinds().map(str::to_owned).collect())
    }

    /// Returns the CNI versions for which it runs.
    #[must_use]
    pub fn versions(&self) -> Vec<String> {
        if self.env.versions.iter().any(|version| version == "all") {
            return REFERENCE_VERSIONS.iter().map(|version| (*version).to_owned()).collect();
        }
        self.env.versions.clone()
    }
}

/// Returns the directory of the cases.
#[must_use]
pub fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).with_file_name("cases")
}

/// Returns differences that apply to all cases, from `tests/cases/differs.json`.
///
/// # Errors
/// The file cannot be read or understood.
pub fn general_differences() -> Result<Vec<Differs>> {
    optional(&directory().join("differs.json")).map(Option::unwrap_or_default)
}

/// Returns all cases, sorted by name.
///
/// # Errors
/// A case cannot be read or understood.
pub fn load_all() -> Result<Vec<Case>> {
    let mut cases = Vec::new();
    for entry in fs::read_dir(directory()).context("read tests/cases")? {
        let path = entry.context("read tests/cases")?.path();
        if path.is_dir() {
            cases.push(load(&path).with_context(|| format!("case {}", path.display()))?);
        }
    }
    cases.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(cases)
}

fn load(dir: &Path) -> Result<Case> {
    let read = |name: &str| fs::read_to_string(dir.join(name)).with_context(|| format!("read {name}"));
    let about = read("about.md")?.trim().to_owned();
    if about.is_empty() || about.lines().count() != 1 {
        bail!("about.md is to have one line");
    }
    Ok(Case {
        name: dir.file_name().unwrap_or_default().to_string_lossy().into_owned(),
        about,
        conf: read("conf.json")?,
        env: optional(&dir.join("env.json"))?.unwrap_or_default(),
        want: optional(&dir.join("want.json"))?.unwrap_or_default(),
        differs: optional(&dir.join("differs.json"))?.unwrap_or_default(),
    })
}

fn optional<T: for<'de> Deserialize<'de>>(path: &Path) -> Result<Option<T>> {
    if !path.exists() {
        return Ok(None);
    }
    let text = fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
    serde_json::from_str(&text).map(Some).with_context(|| format!("understand {}", path.display()))
}
