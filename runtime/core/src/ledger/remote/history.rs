//! How far this node has seen the history of a cluster ledger. A history that is behind this point, or far ahead of it,
//! was restored from a backup.
//!
//! Written on each read of the ledger without a flush: after a power cut an older point is known, and nothing from that
//! boot is used any more.

use serde::{Deserialize, Serialize};

use crate::store::{self, NodeStore, Stop, StoreError};

/// The furthest point in a ledger's history that this node has seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Seen {
    /// The revision of the whole ledger; it grows with every write.
    pub revision: u64,
    /// When it was seen, in seconds since 1970.
    pub at: u64,
    /// Id of the etcd cluster; 0 if unknown.
    pub cluster: u64,
    /// Term of its leader; 0 if unknown.
    pub term: u64,
    /// The ledger's epoch.
    pub epoch: u64,
}

// === impl NodeStore ===

impl NodeStore {
    /// Returns how far this node has seen a ledger, if at all.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn seen(&self, ledger: &str) -> Result<Option<Seen>, StoreError> {
        let text = self.read("read how far a cluster ledger was seen", |conn| Ok(store::meta(conn, &key(ledger))?))?;
        // An unreadable value counts as unknown; the next read overwrites it.
        Ok(text.and_then(|text| serde_json::from_str(&text).ok()))
    }

    /// Records how far this node has seen a ledger.
    ///
    /// # Errors
    /// The store cannot be written.
    pub fn note_seen(&mut self, ledger: &str, seen: &Seen) -> Result<(), StoreError> {
        let text = serde_json::to_string(seen).unwrap_or_default();
        self.write("note how far a cluster ledger was seen", |conn| {
            store::set_meta(conn, &key(ledger), &text)?;
            Ok::<_, Stop<StoreError>>(())
        })
    }
}

/// Key in `meta`, before the ledger's text.
pub(super) const SEEN: &str = "seen ";

fn key(ledger: &str) -> String {
    format!("{SEEN}{ledger}")
}
