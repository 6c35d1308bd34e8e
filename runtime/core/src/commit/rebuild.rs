//! Rebuilds a lost ledger: keeps what is left of the old store, and claims what is still running on the node.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use rusqlite::Connection;
use weft_host_abi::types::ReleaseRule;

use crate::journal::{self, Entry, Record};
use crate::ledger::{self, Books};
use crate::store::{Key, NodeStore, Stop, StoreError};

/// An attachment that is still running on the node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Running {
    /// Its key.
    pub key: Key,
    /// The scopes in which its addresses are claimed; several if it is not known which one its network uses.
    pub scopes: Vec<String>,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// What DEL needs to take it down.
    pub record: Record,
}

/// Returns whether an attachment in the journal is gone, although the store has no record of its DEL.
type IsDead<'a> = &'a dyn Fn(&Entry) -> bool;

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
    /// that are not a store are moved aside. In cluster ledgers the store gets a new id, and its cells have to be
    /// confirmed.
    ///
    /// `is_dead` returns whether an attachment in the journal is gone although the store knows no DEL of it. Its
    /// addresses go to the attachment that has them now.
    ///
    /// # Errors
    /// The directory cannot be used, or the store cannot be written.
    pub fn rebuild(
        state_dir: &Path,
        boot_id: &str,
        now: u64,
        (running, is_dead): (&[Running], IsDead<'_>),
    ) -> Result<RebuildReport, StoreError> {
        let (mut store, moved) = Self::recover(state_dir, boot_id)?;
        let mut report = RebuildReport { moved, ..RebuildReport::default() };
        let count = store.write::<_, StoreError>("rebuild the ledger", |conn| {
            ledger::remote::distrust(conn, now)?;
            let mut books = Books::new(conn);
            for attachment in running {
                take_over(conn, &mut books, (attachment, is_dead), (boot_id, now), &mut report)?;
            }
            books.close()?;
            Ok::<_, Stop<StoreError>>(Self::count_past_mark(conn, state_dir, boot_id)?)
        })?;
        store.mark(count);
        // A new store id is on disk before a holder carries it.
        store.flush()?;
        Ok(report)
    }
}

fn take_over(
    conn: &Connection,
    books: &mut Books<'_>,
    (running, is_dead): (&Running, IsDead<'_>),
    (boot_id, now): (&str, u64),
    report: &mut RebuildReport,
) -> Result<(), Stop<StoreError>> {
    let Running { key, scopes, addresses, record } = running;
    let id = match journal::find(conn, key)? {
        Some(id) => id,
        None => {
            report.entries += 1;
            journal::insert(conn, key, record, &ReleaseRule::Free, (boot_id, now))?
        }
    };
    let held = journal::claims(conn, id)?;
    let mut slot = held.len();
    let wanted = scopes.iter().flat_map(|scope| addresses.iter().map(move |address| (scope, address)));
    for (scope, address) in wanted.filter(|(scope, address)| !held.iter().any(|(s, a)| s == *scope && a == *address)) {
        match ledger::occupant(conn, scope, *address)? {
            // It is kept for somebody or rests, but it is in use now.
            Some(None) => {}
            None => books.taken(scope, *address)?,
            Some(Some(other)) if journal::by_id(conn, other)?.is_none_or(|entry| is_dead(&entry)) => {}
            Some(Some(_other)) => {
                report.taken.push((scope.clone(), *address));
                continue;
            }
        }
        ledger::write_claim(conn, scope, *address, (id, slot, now))?;
        slot += 1;
        report.claims += 1;
    }
    Ok(())
}
