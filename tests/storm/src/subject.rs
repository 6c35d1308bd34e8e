//! The plugins under test: weft, the reference, or the fake; their features, and where they keep their claims.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use weft_bench::call::{Plugins, install_weft, names};
use weft_bench::scene::Scene;

const NAMES: &[&str] = &["bridge", "ptp", "macvlan", "host-local"];

/// The plugins to test.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum SubjectName {
    /// weft under the stock plugins' names.
    Weft,
    /// Debian's. They are not made for this: they lose addresses and leave links. They show what the storm can do.
    Reference,
    /// The storm's own, correct by default, with one bug on request. It shows that the storm notices bugs.
    Fake,
}

/// The bug of the fake.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Bug {
    /// Now and then, an ADD returns an address that another container has.
    DuplicateResult,
    /// Now and then, a link also gets an address that another container has, which no result shows.
    DuplicateLink,
    /// DEL leaves the link.
    LeakLink,
    /// DEL now and then leaves the claim.
    LeakClaim,
    /// A claim appears before it names its container: after a kill in between, it belongs to nobody, for ever.
    LoseOnKill,
    /// GC ignores the list.
    GcTakesAll,
    /// ADD fails where a killed one left something.
    NoRetry,
    /// DEL does not check whether an ADD is running: it frees the address that the ADD is about to set on a link. The
    /// fake always does this; only with this bug does the storm test it.
    NoLock,
}

/// The subject's binaries.
#[derive(Debug)]
pub(crate) struct Found {
    who: SubjectName,
    bug: Option<Bug>,
    binary: PathBuf,
    weftctl: PathBuf,
}

/// The subject, ready to be called.
#[derive(Debug)]
pub(crate) struct Subject {
    pub(crate) label: String,
    pub(crate) plugins: Plugins,
    /// The newest version that it supports.
    pub(crate) version: &'static str,
    /// Whether it supports GC.
    pub(crate) collects: bool,
    /// Whether the storm runs DELs and GCs concurrently with its ADDs.
    pub(crate) orphans: bool,
    ledger: Ledger,
}

/// Where claims are kept.
#[derive(Debug)]
enum Ledger {
    /// weft's database.
    Database(PathBuf),
    /// A directory with a file for each address.
    Files(PathBuf),
}

// === impl Subject ===

impl Subject {
    /// Finds the binaries, before anything is set up.
    ///
    /// # Errors
    /// If one is missing; the error says how to get it.
    pub(crate) fn find(who: SubjectName, bug: Option<Bug>) -> Result<Found> {
        let own = std::env::current_exe().context("find our own binary")?;
        let beside = |variable: &str, name: &str| {
            std::env::var_os(variable).map_or_else(|| own.with_file_name(name), PathBuf::from)
        };
        let weftctl = beside("WEFTCTL_BIN", "weftctl");
        let (binary, remedy) = match who {
            SubjectName::Weft => (
                beside("WEFT_BIN", &format!("../{}-unknown-linux-musl/release/weft", std::env::consts::ARCH)),
                "cargo weft && cargo weftctl",
            ),
            SubjectName::Reference => (reference().join("bridge"), "apt-get install containernetworking-plugins"),
            SubjectName::Fake => (own.with_file_name("weft-storm-fake"), "cargo build --release -p weft-storm"),
        };
        if !binary.is_file() || (who == SubjectName::Weft && !weftctl.is_file()) {
            bail!("there is no {}; get it: {remedy}", binary.display());
        }
        if bug.is_some() && who != SubjectName::Fake {
            bail!("only the fake has bugs that can be chosen");
        }
        Ok(Found { who, bug, binary, weftctl })
    }

    /// Returns what is left in the ledger, one line each, read without the subject's code.
    ///
    /// # Errors
    /// If it cannot be read.
    pub(crate) fn claims_left(&self) -> Result<Vec<String>> {
        match &self.ledger {
            Ledger::Database(file) => database_rows(file),
            Ledger::Files(dir) => address_files(dir),
        }
    }

    /// Returns the directory of host-local's files.
    pub(crate) fn data_dir(scene: &Scene) -> PathBuf {
        scene.dir().join("host-local")
    }
}

/// Returns the directory of the reference plugins.
fn reference() -> PathBuf {
    std::env::var_os("CNI_REFERENCE_DIR").map_or_else(|| PathBuf::from("/usr/lib/cni"), PathBuf::from)
}

// === impl Found ===

impl Found {
    /// Installs the subject's names and directories.
    ///
    /// # Errors
    /// If the scratch directory cannot be written, or `weftctl install` fails.
    pub(crate) fn install(self, scene: &Scene) -> Result<Subject> {
        let (bin, state) = (scene.dir().join("bin"), scene.dir().join("state"));
        let files = Subject::data_dir(scene);
        fs::create_dir_all(&files).with_context(|| format!("create {}", files.display()))?;
        match self.who {
            SubjectName::Reference => Ok(Subject {
                label: "reference".to_owned(),
                plugins: Plugins { dir: self.binary.parent().context("no directory")?.to_owned(), env: Vec::new() },
                version: "1.0.0",
                collects: false,
                orphans: false,
                ledger: Ledger::Files(files),
            }),
            SubjectName::Fake => {
                names(&bin, &self.binary, NAMES)?;
                let bug = self.bug.and_then(|bug| bug.to_possible_value()).map(|value| value.get_name().to_owned());
                let label = format!("fake ({})", bug.as_deref().unwrap_or("no bug"));
                let dir = files.join(crate::network::NAME);
                fs::create_dir_all(&dir).with_context(|| format!("create {}", dir.display()))?;
                let env = vec![("FAKE_BUG".to_owned(), bug.unwrap_or_default())];
                let plugins = Plugins { dir: bin, env };
                let orphans = self.bug == Some(Bug::NoLock);
                Ok(Subject { label, plugins, version: "1.1.0", collects: true, orphans, ledger: Ledger::Files(files) })
            }
            SubjectName::Weft => {
                let env = vec![("WEFT_STATE_DIR".to_owned(), state.display().to_string())];
                install_weft(&self.weftctl, &self.binary, scene.dir(), &env)?;
                Ok(Subject {
                    label: "weft".to_owned(),
                    plugins: Plugins { dir: bin, env },
                    version: "1.1.0",
                    collects: true,
                    orphans: true,
                    ledger: Ledger::Database(state.join("weft.db")),
                })
            }
        }
    }
}

/// Returns the rows of weft's ledger that should not outlive the last attachment, through the `sqlite3` program.
fn database_rows(file: &Path) -> Result<Vec<String>> {
    let mut left = Vec::new();
    let integrity = sqlite(file, "PRAGMA integrity_check")?;
    if integrity.trim() != "ok" {
        left.push(format!("the database is damaged: {integrity}"));
    }
    for table in ["journal", "claims", "runs", "shared"] {
        let rows = sqlite(file, &format!("SELECT count(*) FROM {table}"))?;
        if rows.trim() != "0" {
            left.push(format!("{} rows in {table}", rows.trim()));
        }
    }
    Ok(left)
}

fn sqlite(file: &Path, query: &str) -> Result<String> {
    let output = Command::new("sqlite3").arg(file).arg(query).output().context("start sqlite3 (Debian: sqlite3)")?;
    if !output.status.success() {
        bail!("sqlite3 {}: {}", file.display(), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Returns host-local's files that stand for an address.
fn address_files(dir: &Path) -> Result<Vec<String>> {
    let mut left = Vec::new();
    for network in fs::read_dir(dir).with_context(|| format!("read {}", dir.display()))? {
        for file in fs::read_dir(network?.path()).context("read a network's directory")? {
            let name = file?.file_name().to_string_lossy().into_owned();
            if name.parse::<std::net::IpAddr>().is_ok() {
                left.push(format!("a claim on {name}"));
            }
        }
    }
    Ok(left)
}
