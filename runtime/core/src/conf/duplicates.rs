//! `duplicates`: whether neighbours are asked for an address before it is given.

use serde_json::{Value, json};

use super::{ConfError, Object};

/// Keys of `duplicates`.
pub(super) const DUPLICATES: [&str; 2] = ["detect", "waitMs"];

/// How long neighbours may take to answer: on a wire of one site they do so in less than one.
const WAIT: u32 = 300;
const SHORTEST: u32 = 30;
const LONGEST: u32 = 5_000;

/// Neighbours are asked for an address before it is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DuplicatesConf {
    /// How long an answer is waited for, in milliseconds.
    pub wait_ms: u32,
}

impl DuplicatesConf {
    /// Reads the same of an AddressPool.
    ///
    /// # Errors
    /// As for a network.
    pub fn of_pool(duplicates: &Value) -> Result<Option<Self>, ConfError> {
        Self::read(&Object::from_value(json!({ "duplicates": duplicates }))?)
    }

    /// Reads `duplicates` of an object. `None`: nobody is asked.
    pub(super) fn read(object: &Object) -> Result<Option<Self>, ConfError> {
        let own = object.object_or_empty("duplicates")?;
        let wait_ms = own.u32("waitMs")?.unwrap_or(WAIT);
        if !(SHORTEST..=LONGEST).contains(&wait_ms) {
            let key = own.place("waitMs");
            return Err(ConfError::BadValue { key, value: wait_ms.to_string(), want: "30 to 5000" });
        }
        Ok(own.bool("detect")?.unwrap_or_default().then_some(Self { wait_ms }))
    }
}
