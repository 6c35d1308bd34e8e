//! Making a ledger that was lost true again: what is left of the old store stays, and what still runs on the node is claimed.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use rusqlite::Connection;
use weft_host_abi::types::ReleaseRule;

use crate::journal::{self, Record};
use crate::ledger::{self, Books};
use crate::store::{Key, NodeStore, Stop, StoreError};

/// An attachment that still runs on the node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Running {
    /// Its key.
    pub key: Key,
    /// The scope its addresses are claimed in.
    pub scope: String,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// What DEL needs to take it down.
    pub record: Record,
}

/// What was taken over.
#[derive(Debug, Default)]
pub struct RebuildReport {
    /// Attachments that the journal did not know.
    pub entries: usize,
    /// Addresses that were not claimed.
    pub claims: usize,
    /// Addresses that another attachment has in the ledger: (scope, address).
    pub taken: Vec<(String, IpAddr)>,
    /// Where the files of a store that cannot be read were moved.
    pub moved: Vec<PathBuf>,
}

// === impl NodeStore ===

impl NodeStore {
    /// Makes a lost store one that can be used again, with these attachments in it. What can be read of the old one stays: an
    /// address that is taken for nobody is given back by DEL or GC, one that is handed out twice is not. Files that are no store
    /// are moved aside.
    ///
    /// # Errors
    /// When the directory cannot be used, or the store cannot be written.
    pub fn rebuild(
        state_dir: &Path,
        boot_id: &str,
        now: u64,
        running: &[Running],
    ) -> Result<RebuildReport, StoreError> {
        let (mut store, moved) = Self::recover(state_dir, boot_id)?;
        let mut report = RebuildReport { moved, ..RebuildReport::default() };
        let count = store.write::<_, StoreError>("rebuild the ledger", |conn| {
            let mut books = Books::new(conn);
            for attachment in running {
                take_over(conn, &mut books, attachment, (boot_id, now), &mut report)?;
            }
            books.close()?;
            Ok::<_, Stop<StoreError>>(Self::count_past_mark(conn, state_dir, boot_id)?)
        })?;
        store.mark(count);
        Ok(report)
    }
}

fn take_over(
    conn: &Connection,
    books: &mut Books<'_>,
    running: &Running,
    (boot_id, now): (&str, u64),
    report: &mut RebuildReport,
) -> Result<(), Stop<StoreError>> {
    let Running { key, scope, addresses, record } = running;
    let id = match journal::find(conn, key)? {
        Some(id) => id,
        None => {
            report.entries += 1;
            journal::insert(conn, key, record, &ReleaseRule::Free, (boot_id, now))?
        }
    };
    let held = journal::claims(conn, id)?;
    let mut slot = held.len();
    for address in addresses.iter().filter(|address| !held.iter().any(|(_scope, other)| other == *address)) {
        match ledger::occupant(conn, scope, *address)? {
            // Kept for somebody, or resting: it is in use all the same.
            Some(None) => {}
            None => books.taken(scope, *address)?,
            Some(Some(_other)) => {
                report.taken.push((scope.clone(), *address));
                continue;
            }
        }
        ledger::put(conn, scope, *address, (id, slot, now))?;
        slot += 1;
        report.claims += 1;
    }
    Ok(())
}
