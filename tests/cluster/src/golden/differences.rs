//! The differences between `weft-pod` and Multus, with reasons, stored in
//! `tests/cluster/differences.json`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::Aspect;

/// A kind of difference.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Difference {
    /// The reason.
    pub reason: String,
    /// Cases, each with the differing aspects.
    pub cases: BTreeMap<String, BTreeSet<Aspect>>,
}

/// All of them.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Differences(pub Vec<Difference>);

impl Differences {
    /// Reads the list.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn read() -> Result<Self> {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("differences.json");
        let text = std::fs::read(&path).with_context(|| format!("read {}", path.display()))?;
        serde_json::from_slice(&text).with_context(|| format!("understand {}", path.display()))
    }

    /// Returns the aspects in which a case differs.
    #[must_use]
    pub fn for_case(&self, case: &str) -> BTreeSet<Aspect> {
        self.0.iter().filter_map(|difference| difference.cases.get(case)).flatten().copied().collect()
    }

    /// Cases that are listed.
    pub fn cases(&self) -> impl Iterator<Item = &str> {
        self.0.iter().flat_map(|difference| difference.cases.keys()).map(String::as_str)
    }
}
