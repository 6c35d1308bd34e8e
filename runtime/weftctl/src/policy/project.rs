//! A policy's project: its author's directory. `weft-policy.json` describes it; a Rust crate needs none.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use weft_host_abi::contract;

/// The file that describes a project.
pub(super) const MANIFEST: &str = "weft-policy.json";

/// The language of a policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Language {
    /// Rust, built by cargo.
    Rust,
    /// JavaScript, built by componentize-qjs.
    Js,
    /// Python, built by componentize-py.
    Python,
    /// C, built by clang or zig.
    C,
}

/// What a policy decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Kind {
    /// Addresses.
    Ipam,
    /// The delegate.
    Delegate,
}

/// A project's manifest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Manifest {
    /// Name of the policy and of its component.
    pub(super) name: String,
    pub(super) language: Language,
    pub(super) kind: Kind,
}

/// A directory that builds a policy.
#[derive(Debug)]
pub(super) struct Project {
    pub(super) dir: PathBuf,
    /// `None` for a crate, or a workspace of several, without a manifest of ours.
    pub(super) manifest: Option<Manifest>,
}

// === impl Kind ===

impl Kind {
    /// Returns the contract's term for it.
    pub(super) fn of_contract(self) -> contract::Kind {
        match self {
            Self::Ipam => contract::Kind::Ipam,
            Self::Delegate => contract::Kind::Choice,
        }
    }
}

// === impl Language ===

impl Language {
    /// Returns the file that a person edits.
    pub(super) fn source(self) -> &'static str {
        match self {
            Self::Rust => "src/lib.rs",
            Self::Js => "policy.js",
            Self::Python => "policy.py",
            Self::C => "policy.c",
        }
    }

    /// Returns its usual name.
    pub(super) fn title(self) -> &'static str {
        match self {
            Self::Rust => "Rust",
            Self::Js => "JavaScript",
            Self::Python => "Python",
            Self::C => "C",
        }
    }
}

// === impl Project ===

impl Project {
    /// Reads the description of a directory.
    pub(super) fn open(dir: &Path) -> anyhow::Result<Self> {
        let path = dir.join(MANIFEST);
        let manifest = match fs::read(&path) {
            Ok(text) => {
                let manifest = serde_json::from_slice(&text);
                Some(manifest.with_context(|| format!("{} is not a manifest of a policy", path.display()))?)
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
            Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
        };
        if manifest.is_none() && !dir.join("Cargo.toml").is_file() {
            bail!(
                "{} is not a policy project: it has neither {MANIFEST} nor Cargo.toml; `weftctl policy new NAME` starts one",
                dir.display()
            );
        }
        Ok(Self { dir: dir.to_owned(), manifest })
    }

    /// Returns the directory of built and compiled files.
    pub(super) fn build_dir(&self) -> anyhow::Result<PathBuf> {
        let dir = self.dir.join("build");
        fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
        Ok(dir)
    }
}
