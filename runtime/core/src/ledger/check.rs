//! Looking for damage: what SQLite finds, and what breaks the invariants of this module.
//!
//! `claims` and `journal` are the truth; `runs`, the counters of `ranges` and `shared` are derived from them, so those can be
//! rebuilt.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use rusqlite::{Connection, params};

use super::addr::{self, Blob, Stored};
use super::claim::{ACTIVE, COOLDOWN, KEPT, state};
use super::runs::{self, Run};
use super::store::{Fault, NodeStore, Stop};
use super::{LedgerError, journal};

/// Runs per scope and family.
type Runs = BTreeMap<(String, u8), Vec<Run>>;

// === impl NodeStore ===

impl NodeStore {
    /// Everything that is wrong with the store, one line each; empty where all is well. Reads all of it.
    ///
    /// # Errors
    /// When the store is too damaged to be looked at.
    pub fn integrity(&self) -> Result<Vec<String>, LedgerError> {
        self.read("check the store", |conn| {
            // One transaction: other processes go on writing meanwhile.
            let fresh = conn.is_autocommit();
            if fresh {
                conn.execute_batch("BEGIN")?;
            }
            let found = inspect(conn);
            if fresh {
                conn.execute_batch("COMMIT")?;
            }
            found
        })
    }

    /// Rebuilds what is derived from claims and journal (runs, counters, shared names): the remedy where `integrity` finds
    /// only those to be off.
    ///
    /// # Errors
    /// When the store cannot be written, or the claims themselves cannot be read.
    pub fn repair(&mut self) -> Result<(), LedgerError> {
        self.write::<_, LedgerError>("rebuild the indexes", |conn| {
            conn.execute_batch("DELETE FROM runs; DELETE FROM shared")?;
            let wanted = runs_of_claims(conn)?;
            for ((scope, _family), list) in &wanted {
                for run in list {
                    runs::insert(conn, scope, *run)?;
                }
            }
            for (scope, first, last, _taken) in ranges(conn)? {
                let taken = i64::try_from(runs::taken(conn, &scope, first, last)?).unwrap_or(i64::MAX);
                conn.prepare_cached(
                    "UPDATE ranges SET taken = ?5 WHERE scope = ?1 AND family = ?2 AND first = ?3 AND last = ?4",
                )?
                .execute(params![
                    scope,
                    addr::family(first),
                    Blob::of(first),
                    Blob::of(last),
                    taken
                ])?;
            }
            for (name, entry) in shared_of_journal(conn)? {
                conn.prepare_cached("INSERT INTO shared (name, entry) VALUES (?1, ?2)")?
                    .execute(params![name, entry])?;
            }
            Ok::<(), Stop<LedgerError>>(())
        })
    }
}

fn inspect(conn: &Connection) -> Result<Vec<String>, Fault> {
    let mut problems: Vec<String> = conn
        .prepare("PRAGMA integrity_check(20)")?
        .query_map([], |row| row.get::<_, String>(0))?
        .filter(|line| !line.as_ref().is_ok_and(|line| line == "ok"))
        .collect::<Result<_, _>>()?;
    if !problems.is_empty() {
        return Ok(problems);
    }
    let mode: String = conn.query_row("PRAGMA journal_mode", [], |row| row.get(0))?;
    if mode != "wal" {
        problems.push(format!("the journal mode is {mode:?}, not \"wal\": somebody changed it by hand"));
    }
    claim_rows(conn, &mut problems)?;
    journal_rows(conn, &mut problems)?;
    derived(conn, &mut problems)?;
    Ok(problems)
}

/// Each claim has what its state asks for.
fn claim_rows(conn: &Connection, problems: &mut Vec<String>) -> Result<(), Fault> {
    let mut statement = conn.prepare(
        "SELECT c.scope, c.address, c.state, c.entry, j.id, c.slot, c.until, c.owner
         FROM claims c LEFT JOIN journal j ON j.id = c.entry",
    )?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let (scope, address): (String, IpAddr) = (row.get(0)?, row.get::<_, Stored>(1)?.0);
        let code: i64 = row.get(2)?;
        state(code)?;
        let (entry, found): (Option<i64>, Option<i64>) = (row.get(3)?, row.get(4)?);
        let slot: Option<i64> = row.get(5)?;
        let (until, owner): (Option<i64>, Option<String>) = (row.get(6)?, row.get(7)?);
        let wrong = match code {
            ACTIVE if entry.is_none() || entry != found => Some("active, but no journal entry has it"),
            ACTIVE if slot.is_none() || until.is_some() || owner.is_some() => {
                Some("active, with leftovers of a release")
            }
            COOLDOWN if until.is_none() || entry.is_some() => Some("resting, but without an end or with an entry"),
            KEPT if owner.is_none() || entry.is_some() || until.is_some() => {
                Some("kept, but for nobody, with an end or with an entry")
            }
            _ => None,
        };
        if let Some(wrong) = wrong {
            problems.push(format!("{address} in scope {scope:?} is {wrong}"));
        }
    }
    Ok(())
}

/// Each entry can be read.
fn journal_rows(conn: &Connection, problems: &mut Vec<String>) -> Result<(), Fault> {
    let ids: Vec<i64> = conn
        .prepare("SELECT id FROM journal ORDER BY id")?
        .query_map([], |row| row.get(0))?
        .collect::<Result<_, _>>()?;
    for id in ids {
        match journal::by_id(conn, id) {
            Ok(_entry) => {}
            Err(Fault::Damaged(detail)) => problems.push(format!("journal entry {id}: {detail}")),
            // Reading an entry takes nothing.
            Err(Fault::Taken { .. }) => {}
            Err(Fault::Sql(error)) => problems.push(format!("journal entry {id} cannot be read: {error}")),
        }
    }
    Ok(())
}

/// What is derived says what it is derived from.
fn derived(conn: &Connection, problems: &mut Vec<String>) -> Result<(), Fault> {
    let (wanted, found) = (runs_of_claims(conn)?, stored_runs(conn)?);
    let scopes: BTreeSet<_> = wanted.keys().chain(found.keys()).collect();
    for at @ (scope, family) in scopes {
        if wanted.get(at) != found.get(at) {
            problems
                .push(format!("the runs of taken IPv{family} addresses in scope {scope:?} do not match its claims"));
        }
    }
    for (scope, first, last, taken) in ranges(conn)? {
        let counted: u64 = wanted
            .get(&(scope.clone(), addr::family(first)))
            .into_iter()
            .flatten()
            .map(|run| addr::count(run.first.max(first), run.last.min(last)))
            .fold(0, u64::saturating_add);
        if counted != taken {
            problems
                .push(format!("range {first}-{last} in scope {scope:?} counts {taken} claims, there are {counted}"));
        }
    }
    let found: BTreeSet<(String, i64)> = conn
        .prepare("SELECT name, entry FROM shared")?
        .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect::<Result<_, _>>()?;
    if found != shared_of_journal(conn)? {
        problems.push("the index of shared names does not match the journal".to_owned());
    }
    Ok(())
}

/// The runs that the claims amount to.
fn runs_of_claims(conn: &Connection) -> Result<Runs, Fault> {
    let mut statement = conn.prepare("SELECT scope, address FROM claims ORDER BY scope, length(address), address")?;
    let mut rows = statement.query([])?;
    let mut runs = Runs::new();
    while let Some(row) = rows.next()? {
        let (scope, address): (String, IpAddr) = (row.get(0)?, row.get::<_, Stored>(1)?.0);
        let list = runs.entry((scope, addr::family(address))).or_default();
        match list.last_mut() {
            Some(run) if addr::next(run.last) == Some(address) => run.last = address,
            _ => list.push(Run { first: address, last: address }),
        }
    }
    Ok(runs)
}

fn stored_runs(conn: &Connection) -> Result<Runs, Fault> {
    let mut statement = conn.prepare("SELECT scope, family, first, last FROM runs ORDER BY scope, family, first")?;
    let mut rows = statement.query([])?;
    let mut runs = Runs::new();
    while let Some(row) = rows.next()? {
        let run = Run { first: row.get::<_, Stored>(2)?.0, last: row.get::<_, Stored>(3)?.0 };
        runs.entry((row.get(0)?, row.get(1)?)).or_default().push(run);
    }
    Ok(runs)
}

/// Declared ranges: scope, ends, counter.
fn ranges(conn: &Connection) -> Result<Vec<(String, IpAddr, IpAddr, u64)>, Fault> {
    let mut statement = conn.prepare("SELECT scope, first, last, taken FROM ranges")?;
    let rows = statement.query_map([], |row| {
        let taken = u64::try_from(row.get::<_, i64>(3)?).unwrap_or(u64::MAX);
        Ok((row.get(0)?, row.get::<_, Stored>(1)?.0, row.get::<_, Stored>(2)?.0, taken))
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}

fn shared_of_journal(conn: &Connection) -> Result<BTreeSet<(String, i64)>, Fault> {
    let mut statement = conn.prepare("SELECT id, shared FROM journal")?;
    let mut rows = statement.query([])?;
    let mut shared = BTreeSet::new();
    while let Some(row) = rows.next()? {
        let id: i64 = row.get(0)?;
        shared.extend(journal::names(&row.get::<_, String>(1)?)?.into_iter().map(|name| (name, id)));
    }
    Ok(shared)
}
