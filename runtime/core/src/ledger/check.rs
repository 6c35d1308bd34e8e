//! Checks claims for contradictions, and the data derived from them for agreement.
//!
//! `claims` is the truth; `runs` and the counters of `ranges` are derived from it, so those can be rebuilt.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use rusqlite::{Connection, params};

use super::claim::{ACTIVE, CONFLICT, COOLDOWN, KEPT, state};
use super::remote;
use super::runs::{self, Run};
use crate::store::{self, Blob, Fault, Stored};

/// Runs per scope and family.
type Runs = BTreeMap<(String, u8), Vec<Run>>;

/// Adds all problems, one line each.
pub(crate) fn inspect(conn: &Connection, problems: &mut Vec<String>) -> Result<(), Fault> {
    claim_rows(conn, problems)?;
    remote::inspect(conn, problems)?;
    derived(conn, problems)
}

/// Rebuilds the derived data, and gives back cluster addresses of attachments that are not in the journal.
pub(crate) fn rebuild(conn: &Connection, now: u64) -> Result<(), Fault> {
    remote::end_strays(conn, now)?;
    conn.execute_batch("DELETE FROM runs")?;
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
        .execute(params![scope, store::family(first), Blob::new(first), Blob::new(last), taken])?;
    }
    Ok(())
}

/// Checks that each claim has the columns that its state needs.
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
            CONFLICT if until.is_none() || owner.is_none() || entry.is_some() => {
                Some("in conflict, but without an end, with nobody or with an entry")
            }
            KEPT if owner.is_none() || entry.is_some() => Some("kept, but for nobody or with an entry"),
            _ => None,
        };
        if let Some(wrong) = wrong {
            problems.push(format!("{address} in scope {scope:?} is {wrong}"));
        }
    }
    Ok(())
}

/// Checks that the derived data agrees with the claims.
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
            .get(&(scope.clone(), store::family(first)))
            .into_iter()
            .flatten()
            .map(|run| store::count(run.first.max(first), run.last.min(last)))
            .fold(0, u64::saturating_add);
        if counted != taken {
            problems
                .push(format!("range {first}-{last} in scope {scope:?} counts {taken} claims, there are {counted}"));
        }
    }
    Ok(())
}

/// Computes the runs from the claims.
fn runs_of_claims(conn: &Connection) -> Result<Runs, Fault> {
    let mut statement = conn.prepare("SELECT scope, address FROM claims ORDER BY scope, length(address), address")?;
    let mut rows = statement.query([])?;
    let mut runs = Runs::new();
    while let Some(row) = rows.next()? {
        let (scope, address): (String, IpAddr) = (row.get(0)?, row.get::<_, Stored>(1)?.0);
        let list = runs.entry((scope, store::family(address))).or_default();
        match list.last_mut() {
            Some(run) if store::next(run.last) == Some(address) => run.last = address,
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

/// Returns the declared ranges: scope, ends, counter.
fn ranges(conn: &Connection) -> Result<Vec<(String, IpAddr, IpAddr, u64)>, Fault> {
    let mut statement = conn.prepare("SELECT scope, first, last, taken FROM ranges")?;
    let rows = statement.query_map([], |row| {
        let taken = u64::try_from(row.get::<_, i64>(3)?).unwrap_or(u64::MAX);
        Ok((row.get(0)?, row.get::<_, Stored>(1)?.0, row.get::<_, Stored>(2)?.0, taken))
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}
