//! Names of things that several attachments may need, or that only one may have.

use std::collections::BTreeSet;

use rusqlite::params;

use super::Entry;
use super::names::{names, names_json, unshare};
use super::rows::{by_id, find};
use crate::plan::EXCLUSIVE;
use crate::store::{Key, NodeStore, Stop, StoreError};

// === impl NodeStore ===

impl NodeStore {
    /// Returns the names among `shared` that another entry holds too. The entry gives up its share of those, so that
    /// the other's DEL does not wait for this one's. It keeps exclusive names, and those that it alone holds, until it
    /// is deleted.
    ///
    /// # Errors
    /// The store cannot be read or written.
    pub fn give_up_shared(&mut self, key: &Key, shared: &[String]) -> Result<BTreeSet<String>, StoreError> {
        let elsewhere = self.shared_elsewhere(key, shared)?;
        let given_up: Vec<String> = elsewhere.iter().filter(|name| !name.starts_with(EXCLUSIVE)).cloned().collect();
        if !given_up.is_empty() {
            self.write("give up shared names", |conn| {
                let Some(id) = find(conn, key)? else { return Ok(()) };
                let held =
                    conn.query_row("SELECT shared FROM journal WHERE id = ?1", [id], |row| row.get::<_, String>(0))?;
                let mut held = names(&held)?;
                held.retain(|name| !given_up.contains(name));
                conn.execute("UPDATE journal SET shared = ?2 WHERE id = ?1", params![id, names_json(&held)?])?;
                Ok::<_, Stop<StoreError>>(unshare(conn, id, &given_up)?)
            })?;
        }
        Ok(elsewhere)
    }

    /// Returns the entries that hold a name.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn entries_sharing(&self, name: &str) -> Result<Vec<Entry>, StoreError> {
        self.read("look up a shared name", |conn| {
            let ids: Vec<i64> = conn
                .prepare_cached("SELECT entry FROM shared WHERE name = ?1")?
                .query_map([name], |row| row.get(0))?
                .collect::<Result<_, _>>()?;
            ids.into_iter().filter_map(|id| by_id(conn, id).transpose()).collect()
        })
    }

    /// Returns the names among `shared` that another entry holds too.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn shared_elsewhere(&self, key: &Key, shared: &[String]) -> Result<BTreeSet<String>, StoreError> {
        self.read("look up shared names", |conn| {
            let own = find(conn, key)?;
            let mut statement =
                conn.prepare_cached("SELECT EXISTS (SELECT 1 FROM shared WHERE name = ?1 AND entry IS NOT ?2)")?;
            let mut found = BTreeSet::new();
            for name in shared {
                if statement.query_row(params![name, own], |row| row.get(0))? {
                    found.insert(name.clone());
                }
            }
            Ok(found)
        })
    }
}
