//! `duplicates`: whether to probe neighbours for an address before it is used.

use serde_json::{Value, json};

use super::{ConfError, Object};

/// Keys of `duplicates`.
pub(super) const DUPLICATES: [&str; 2] = ["detect", "waitMs"];

/// Default time for neighbours to answer: on a local network they need less than one
/// millisecond.
const WAIT: u32 = 300;
const SHORTEST: u32 = 30;
const LONGEST: u32 = 5_000;

/// Probe neighbours for an address before it is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DuplicatesConf {
    /// How long to wait for an answer, in milliseconds.
    pub wait_ms: u32,
}

impl DuplicatesConf {
    /// Reads `duplicates` of an AddressPool.
    ///
    /// # Errors
    /// As for a network.
    pub fn of_pool(duplicates: &Value) -> Result<Option<Self>, ConfError> {
        Self::read(&Object::from_value(json!({ "duplicates": duplicates }))?)
    }

    /// Reads `duplicates` of an object. `None`: no probes.
    pub(super) fn read(object: &Object) -> Result<Option<Self>, ConfError> {
        let own = object.object_or_empty("duplicates")?;
        let wait_ms = own.u32("waitMs")?.unwrap_or(WAIT);
        if !(SHORTEST..=LONGEST).contains(&wait_ms) {
            let key = own.path_text("waitMs");
            return Err(ConfError::BadValue { key, value: wait_ms.to_string(), want: "30 to 5000" });
        }
        Ok(own.bool("detect")?.unwrap_or_default().then_some(Self { wait_ms }))
    }
}
