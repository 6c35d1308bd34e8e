//! Contents that may be unreadable, for example because a newer version or a person wrote them.
//!
//! Invariant: an unreadable object hides no other one. A list leaves it out and notes it; its address counts as taken.

use std::cell::RefCell;
use std::collections::BTreeMap;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};
use serde_json::Value;

/// How many unreadable objects are noted.
const NOTED: usize = 100;

/// The content of an object.
#[derive(Debug, Clone)]
pub(super) enum Readable<T> {
    Yes(T),
    /// It cannot be read, and why.
    No(String),
}

impl<'de, T: DeserializeOwned> Deserialize<'de> for Readable<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let read = serde_json::from_value(Value::deserialize(deserializer)?);
        Ok(read.map_or_else(|error| Self::No(error.to_string()), Self::Yes))
    }
}

/// The unreadable objects that lists of one client have met: their names, and why.
#[derive(Debug, Default)]
pub(super) struct Unread(RefCell<BTreeMap<String, String>>);

impl Unread {
    /// Returns the content of a listed object, or notes it.
    pub(super) fn sort_out<T>(&self, name: &str, content: Readable<T>) -> Option<T> {
        match content {
            Readable::Yes(content) => Some(content),
            Readable::No(why) => {
                let mut noted = self.0.borrow_mut();
                if noted.len() < NOTED {
                    noted.insert(name.to_owned(), why);
                }
                None
            }
        }
    }

    /// Returns what was noted since the last call.
    pub(super) fn take(&self) -> Vec<(String, String)> {
        self.0.take().into_iter().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_read_is_left_out_and_noted() {
        let unread = Unread::default();
        let list = serde_json::from_str::<Vec<Readable<u8>>>(r#"[1, "x", 300, 2]"#).unwrap();
        let read = list.into_iter().enumerate().filter_map(|(index, one)| unread.sort_out(&format!("n-{index}"), one));
        assert_eq!(read.collect::<Vec<_>>(), [1, 2]);
        let noted = unread.take();
        assert_eq!(noted.iter().map(|(name, _why)| name.as_str()).collect::<Vec<_>>(), ["n-1", "n-2"]);
        assert!(noted[1].1.contains("300") && unread.take().is_empty(), "{noted:?}");
    }
}
