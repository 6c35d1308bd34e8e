//! How far this node has seen the history of a cluster ledger. A history that is behind it, or far ahead, was taken from a backup.
//!
//! Written with each look at the ledger and not flushed: after a power cut an older place is known, and nothing of that boot is
//! used any more.

use serde::{Deserialize, Serialize};

use crate::store::{self, NodeStore, Stop, StoreError};

/// The furthest place in a ledger's history that this node has seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Seen {
    /// The revision of the whole ledger; it grows with every write.
    pub revision: u64,
    /// When it was seen, in seconds since 1970.
    pub at: u64,
    /// Id of the etcd cluster; 0 where it is not known.
    pub cluster: u64,
    /// Term of its leader; 0 where it is not known.
    pub term: u64,
    /// The ledger's epoch.
    pub epoch: u64,
}

// === impl NodeStore ===

impl NodeStore {
    /// How far this node has seen a ledger, if it has seen it.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn seen(&self, ledger: &str) -> Result<Option<Seen>, StoreError> {
        let text = self.read("read how far a cluster ledger was seen", |conn| Ok(store::meta(conn, &key(ledger))?))?;
        // What cannot be read is not known: the next look writes it anew.
        Ok(text.and_then(|text| serde_json::from_str(&text).ok()))
    }

    /// Notes how far this node has seen a ledger.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub fn note_seen(&mut self, ledger: &str, seen: &Seen) -> Result<(), StoreError> {
        let text = serde_json::to_string(seen).unwrap_or_default();
        self.write("note how far a cluster ledger was seen", |conn| {
            store::set_meta(conn, &key(ledger), &text)?;
            Ok::<_, Stop<StoreError>>(())
        })
    }
}

fn key(ledger: &str) -> String {
    format!("seen {ledger}")
}
