//! Rebuilds a lost ledger: keeps what is left of the old store, and claims what is still running on the node.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use rusqlite::Connection;
use weft_host_abi::types::ReleaseRule;

use crate::journal::{self, Record};
use crate::ledger::{self, Books};
use crate::store::{Key, NodeStore, Stop, StoreError};

/// An attachment that is still running on the node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Running {
    /// Its key.
    pub key: Key,
    /// The scope in which its addresses are claimed.
    pub scope: String,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// What DEL needs to take it down.
    pub record: Record,
}

/// The result of a rebuild.
#[derive(Debug, Default)]
pub struct RebuildReport {
    /// Attachments that were missing in the journal.
    pub entries: usize,
    /// Addresses that were not claimed before.
    pub claims: usize,
    /// Addresses that another attachment holds in the ledger: (scope, address).
    pub taken: Vec<(String, IpAddr)>,
    /// The new paths of unreadable store files.
    pub moved: Vec<PathBuf>,
}

// === impl NodeStore ===

impl NodeStore {
    /// Makes a lost store usable again and adds these attachments. Everything readable of the old store is kept: a
    /// claim without an owner is released by DEL or GC, whereas an address handed out twice cannot be repaired. Files
    /// that are not a store are moved aside.
    ///
    /// # Errors
    /// The directory cannot be used, or the store cannot be written.
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
            // It is kept for somebody or rests, but it is in use now.
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
