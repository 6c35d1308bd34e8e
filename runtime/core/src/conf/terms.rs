//! `limits`, `grants`, `ledger`, `duplicates` and `fallback`: how policies run, where claims are stored, and how decisions
//! are safeguarded.

use std::path::PathBuf;

use ipnet::IpNet;

use super::{ConfError, DuplicatesConf, LedgerKind, Object};

/// Keys of `limits`.
pub(super) const LIMITS: [&str; 3] = ["fuel", "memoryMiB", "deadlineMs"];

/// Keys of `grants`.
pub(super) const GRANTS: [&str; 3] = ["wasi", "data", "routes"];

/// How policies run, where claims are stored, and how decisions are safeguarded.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Terms {
    /// Limits of policy calls.
    pub limits: LimitsConf,
    /// What policies may use beyond the contract.
    pub grants: GrantsConf,
    /// Where claims are stored.
    pub ledger: LedgerKind,
    /// Whether to probe neighbours for an address before it is used.
    pub duplicates: Option<DuplicatesConf>,
    /// What replaces a policy that cannot be used.
    pub fallback: FallbackConf,
}

/// Limits of a policy call; `None` means the default.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LimitsConf {
    /// Fuel: roughly, the number of instructions.
    pub fuel: Option<u64>,
    /// Memory in MiB.
    pub memory_mib: Option<u32>,
    /// Time in milliseconds.
    pub deadline_ms: Option<u32>,
}

/// What the operator grants a policy beyond the contract.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct GrantsConf {
    /// Whether it may import WASI (with an empty context).
    pub wasi: bool,
    /// A directory that it may read.
    pub data: Option<PathBuf>,
    /// Prefixes inside which it may make its own routes, besides default routes and declared ones.
    pub routes: Vec<IpNet>,
}

/// What replaces a network's policy that cannot be used: its component is missing on this node or does not compile, or
/// its call traps or runs out of fuel or time. A refusal is an answer and never leads here.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum FallbackConf {
    /// Nothing: ADD fails.
    #[default]
    Fail,
    /// The component that last decided in this network.
    LastGood,
    /// A shipped policy.
    Shipped(String),
}

impl LimitsConf {
    /// Reads `limits` of an object.
    pub(super) fn read(object: &Object) -> Result<Self, ConfError> {
        let limits = object.object_or_empty("limits")?;
        let zero = |key: &str| ConfError::BadValue {
            key: limits.path_text(key),
            value: "0".to_owned(),
            want: "greater than 0",
        };
        let read = Self {
            fuel: limits.u64("fuel")?,
            memory_mib: limits.u32("memoryMiB")?,
            deadline_ms: limits.u32("deadlineMs")?,
        };
        if read.fuel == Some(0) {
            return Err(zero("fuel"));
        }
        if read.memory_mib == Some(0) {
            return Err(zero("memoryMiB"));
        }
        if read.deadline_ms == Some(0) {
            return Err(zero("deadlineMs"));
        }
        Ok(read)
    }
}

impl GrantsConf {
    /// Reads `grants` of an object.
    pub(super) fn read(object: &Object) -> Result<Self, ConfError> {
        let grants = object.object_or_empty("grants")?;
        let data = grants.text("data")?.map(PathBuf::from);
        if let Some(dir) = data.as_ref().filter(|dir| !dir.is_absolute()) {
            let value = dir.to_string_lossy().into_owned();
            return Err(ConfError::BadValue { key: grants.path_text("data"), value, want: "an absolute path" });
        }
        let routes = grants.strings("routes")?.unwrap_or_default().into_iter().map(|text| {
            let prefix = text.parse::<IpNet>().map(|prefix| prefix.trunc());
            let want = "prefixes such as 10.0.0.0/8";
            prefix.map_err(|_no_prefix| ConfError::BadValue { key: grants.path_text("routes"), value: text, want })
        });
        let routes = routes.collect::<Result<_, _>>()?;
        Ok(Self { wasi: grants.bool("wasi")?.unwrap_or_default(), data, routes })
    }
}

impl FallbackConf {
    /// Reads `fallback` of an object.
    pub(super) fn read(object: &Object) -> Result<Self, ConfError> {
        Ok(match object.text("fallback")? {
            None | Some("fail") => Self::Fail,
            Some("last-good") => Self::LastGood,
            Some(name) if !name.is_empty() && !name.contains([':', '/']) => Self::Shipped(name.to_owned()),
            Some(other) => {
                let want = "\"fail\", \"last-good\" or the name of a shipped policy";
                return Err(ConfError::BadValue { key: object.path_text("fallback"), value: other.to_owned(), want });
            }
        })
    }
}
