//! Claiming: the one write transaction of an ADD. The first candidate of each want that is free is taken, the caller plans
//! with what was taken, and claims and journal entry appear together, or nothing does.

use std::net::IpAddr;

use rusqlite::{Connection, OptionalExtension, params};
use weft_host_abi::types::ClaimState;

use super::addr::Blob;
use super::ranges::Books;
use super::store::{Fault, NodeStore, Stop};
use super::{ClaimAsk, ClaimError, Claimed, LedgerError, Record, journal};

/// `claims.state`.
pub(super) const ACTIVE: i64 = 0;
/// `claims.state`.
pub(super) const COOLDOWN: i64 = 1;
/// `claims.state`.
pub(super) const KEPT: i64 = 2;

pub(super) fn state(code: i64) -> Result<ClaimState, Fault> {
    match code {
        ACTIVE => Ok(ClaimState::Active),
        COOLDOWN => Ok(ClaimState::Cooldown),
        KEPT => Ok(ClaimState::Kept),
        other => Err(Fault::Damaged(format!("a claim has state {other}, which does not exist"))),
    }
}

/// A candidate that was found free.
#[derive(Debug)]
struct Chosen {
    claimed: Claimed,
    /// It had no row, as opposed to one that this attachment may take over.
    fresh: bool,
    /// It came from a declared range.
    declared: bool,
}

/// What the store says about a candidate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    Free,
    /// Kept for one of the identities, or rested for long enough.
    Takeable,
    Taken,
}

// === impl NodeStore ===

impl NodeStore {
    /// Claims the first free candidate of each want and writes the journal entry, all or nothing.
    ///
    /// `record` is called once, inside the transaction, with what is being claimed: it plans and must be quick, may not use
    /// this store or a view of it, and an error from it leaves the store as it was. When this returns `Ok`, claims and entry
    /// survive `kill -9`; an entry with external plugins survives a power cut as well.
    ///
    /// # Errors
    /// `Lost` when all candidates of a want are taken, `Exists` when the key has an entry, `Record` with the caller's own
    /// error, `Ledger` when the store fails.
    pub fn claim<E>(
        &mut self,
        ask: &ClaimAsk<'_>,
        record: impl FnOnce(&[Claimed]) -> Result<Record, E>,
    ) -> Result<Vec<Claimed>, ClaimError<E>> {
        let boot_id = self.writable()?.to_owned();
        let mut outlives_the_boot = false;
        let claimed = self.write("claim addresses", |conn| {
            if let Some(id) = journal::find(conn, ask.key)? {
                let addresses = journal::claims(conn, id)?.into_iter().map(|(_scope, address)| address).collect();
                return Err(Stop::Tell(ClaimError::Exists { key: Box::new(ask.key.clone()), addresses }));
            }
            let chosen = choose(conn, ask)?;
            let claimed: Vec<Claimed> = chosen.iter().map(|choice| choice.claimed.clone()).collect();
            let record = record(&claimed).map_err(|error| Stop::Tell(ClaimError::Record(error)))?;
            outlives_the_boot = !record.externals.is_empty();
            let id = journal::insert(conn, ask.key, &record, ask.release, (&boot_id, ask.now))?;
            take(conn, ask, id, &chosen)?;
            Ok(claimed)
        })?;
        if outlives_the_boot {
            self.flush()?;
        }
        Ok(claimed)
    }
}

fn choose<E>(conn: &Connection, ask: &ClaimAsk<'_>) -> Result<Vec<Chosen>, Stop<ClaimError<E>>> {
    let mut chosen: Vec<Chosen> = Vec::with_capacity(ask.wants.len());
    for (index, want) in ask.wants.iter().enumerate() {
        let mut found = None;
        for (candidate, range) in &want.candidates {
            let address = candidate.addr();
            if chosen.iter().any(|other| other.claimed.address.addr() == address) {
                continue;
            }
            let standing = standing(conn, ask, address)?;
            if standing != Standing::Taken {
                let claimed = Claimed { address: *candidate, gateway: want.gateway };
                found = Some(Chosen { claimed, fresh: standing == Standing::Free, declared: range.is_some() });
                break;
            }
        }
        chosen.push(found.ok_or(Stop::Tell(ClaimError::Lost { want: index }))?);
    }
    Ok(chosen)
}

fn standing(conn: &Connection, ask: &ClaimAsk<'_>, address: IpAddr) -> Result<Standing, Fault> {
    let row = conn
        .prepare_cached("SELECT state, until, owner FROM claims WHERE scope = ?1 AND address = ?2")?
        .query_row(params![ask.scope, Blob::of(address)], |row| {
            Ok((row.get::<_, i64>(0)?, row.get::<_, Option<i64>>(1)?, row.get::<_, Option<String>>(2)?))
        })
        .optional()?;
    let Some((code, until, owner)) = row else { return Ok(Standing::Free) };
    Ok(match state(code)? {
        ClaimState::Kept if owner.is_some_and(|owner| ask.identities.contains(&owner)) => Standing::Takeable,
        ClaimState::Cooldown if until.is_some_and(|until| until <= journal::seconds(ask.now)) => Standing::Takeable,
        ClaimState::Active | ClaimState::Kept | ClaimState::Cooldown => Standing::Taken,
    })
}

fn take(conn: &Connection, ask: &ClaimAsk<'_>, id: i64, chosen: &[Chosen]) -> Result<(), Fault> {
    let mut books = Books::new(conn);
    for range in ask.wants.iter().flat_map(|want| &want.candidates).filter_map(|(_address, range)| range.as_ref()) {
        books.declare(ask.scope, range)?;
    }
    for (slot, choice) in chosen.iter().enumerate() {
        let address = choice.claimed.address.addr();
        put(conn, ask.scope, address, (id, slot, ask.now))?;
        if choice.fresh {
            books.taken(ask.scope, address)?;
        }
        books.claimed(ask.scope, address, choice.declared.then_some(slot))?;
    }
    books.close()
}

/// Writes the row of an active claim, over a released one where there is one.
pub(super) fn put(
    conn: &Connection,
    scope: &str,
    address: IpAddr,
    (entry, slot, now): (i64, usize, u64),
) -> Result<(), Fault> {
    let slot = i64::try_from(slot).unwrap_or(i64::MAX);
    conn.prepare_cached(
        "INSERT OR REPLACE INTO claims (scope, address, state, since, entry, slot) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
    )?
    .execute(params![scope, Blob::of(address), ACTIVE, journal::seconds(now), entry, slot])?;
    Ok(())
}

/// Whether any claim has the address.
pub(super) fn exists(conn: &Connection, scope: &str, address: IpAddr) -> Result<bool, Fault> {
    Ok(conn
        .prepare_cached("SELECT EXISTS (SELECT 1 FROM claims WHERE scope = ?1 AND address = ?2)")?
        .query_row(params![scope, Blob::of(address)], |row| row.get(0))?)
}

impl<E> From<LedgerError> for Stop<ClaimError<E>> {
    fn from(error: LedgerError) -> Self {
        Self::Tell(ClaimError::Ledger(error))
    }
}
