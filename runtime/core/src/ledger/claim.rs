//! Claiming: chooses the first free candidate of each want, and takes it for a journal entry.

use std::net::IpAddr;

use rusqlite::{Connection, OptionalExtension, params};
use weft_host_abi::types::ClaimState;

use super::ranges::Books;
use super::{ClaimAsk, Claimed};
use crate::store::{self, Blob, Fault};

/// `claims.state`.
pub(super) const ACTIVE: i64 = 0;
/// `claims.state`.
pub(super) const COOLDOWN: i64 = 1;
/// `claims.state`.
pub(super) const KEPT: i64 = 2;
/// `claims.state`.
pub(super) const CONFLICT: i64 = 3;

pub(super) fn state(code: i64) -> Result<ClaimState, Fault> {
    match code {
        ACTIVE => Ok(ClaimState::Active),
        COOLDOWN => Ok(ClaimState::Cooldown),
        KEPT => Ok(ClaimState::Kept),
        CONFLICT => Ok(ClaimState::Conflict),
        other => Err(Fault::Damaged(format!("a claim has state {other}, which does not exist"))),
    }
}

/// A candidate that was found free.
#[derive(Debug)]
pub(crate) struct Chosen {
    /// The address with its gateway.
    pub(crate) claimed: Claimed,
    /// It had no row, as opposed to a row that this attachment may take over.
    fresh: bool,
    /// It came from a declared range.
    declared: bool,
}

/// Every candidate of a want is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct AllTaken {
    /// The position of the want in the request.
    pub(crate) want: usize,
}

/// The state of a candidate in the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    Free,
    /// Kept for one of the identities, or rested long enough.
    Takeable,
    Taken,
}

/// Chooses the first free candidate of each want, or returns the position of the first want without one.
pub(crate) fn choose(conn: &Connection, ask: &ClaimAsk<'_>) -> Result<Result<Vec<Chosen>, AllTaken>, Fault> {
    let mut chosen: Vec<Chosen> = Vec::with_capacity(ask.wants.len());
    for (index, want) in ask.wants.iter().enumerate() {
        let mut found = None;
        for (candidate, range) in &want.candidates {
            let address = candidate.addr();
            if chosen.iter().any(|other| other.claimed.address.addr() == address) {
                continue;
            }
            let standing = read_standing(conn, ask, address)?;
            if standing != Standing::Taken {
                let claimed = Claimed { address: *candidate, gateway: want.gateway };
                found = Some(Chosen { claimed, fresh: standing == Standing::Free, declared: range.is_some() });
                break;
            }
        }
        let Some(found) = found else { return Ok(Err(AllTaken { want: index })) };
        chosen.push(found);
    }
    Ok(Ok(chosen))
}

/// Returns whether a cooldown, or the time of a conflict, is over. If it began in the future, the clock was ahead when
/// it was written: its true age is unknown, and its end may be years away.
pub(super) fn cooldown_is_over(since: i64, until: Option<i64>, now: u64) -> bool {
    let now = store::seconds(now);
    since > now || until.is_some_and(|until| until <= now)
}

/// Returns addresses that a cluster ledger granted: they belong to this attachment, whatever the node's own rows say.
pub(crate) fn granted(conn: &Connection, ask: &ClaimAsk<'_>, claimed: &[Claimed]) -> Result<Vec<Chosen>, Fault> {
    let declared = |claim: &Claimed| {
        let mut candidates = ask.wants.iter().flat_map(|want| &want.candidates);
        candidates.any(|(net, range)| *net == claim.address && range.is_some())
    };
    claimed
        .iter()
        .map(|claim| {
            let fresh = !exists(conn, ask.scope, claim.address.addr())?;
            Ok(Chosen { claimed: claim.clone(), fresh, declared: declared(claim) })
        })
        .collect()
}

fn read_standing(conn: &Connection, ask: &ClaimAsk<'_>, address: IpAddr) -> Result<Standing, Fault> {
    let row = conn
        .prepare_cached("SELECT state, until, owner, since FROM claims WHERE scope = ?1 AND address = ?2")?
        .query_row(params![ask.scope, Blob::new(address)], |row| {
            let owner: Option<String> = row.get(2)?;
            Ok((row.get::<_, i64>(0)?, row.get::<_, Option<i64>>(1)?, owner, row.get::<_, i64>(3)?))
        })
        .optional()?;
    let Some((code, until, owner, since)) = row else { return Ok(Standing::Free) };
    Ok(match state(code)? {
        ClaimState::Kept if owner.is_some_and(|owner| ask.identities.contains(&owner)) => Standing::Takeable,
        ClaimState::Cooldown | ClaimState::Conflict if cooldown_is_over(since, until, ask.now) => Standing::Takeable,
        ClaimState::Active | ClaimState::Kept | ClaimState::Cooldown | ClaimState::Conflict => Standing::Taken,
    })
}

/// Writes the claims of a journal entry.
pub(crate) fn take(conn: &Connection, ask: &ClaimAsk<'_>, id: i64, chosen: &[Chosen]) -> Result<(), Fault> {
    let mut books = Books::new(conn);
    for range in ask.wants.iter().flat_map(|want| &want.candidates).filter_map(|(_address, range)| range.as_ref()) {
        books.declare(ask.scope, range)?;
    }
    for (slot, choice) in chosen.iter().enumerate() {
        let address = choice.claimed.address.addr();
        write_claim(conn, ask.scope, address, (id, slot, ask.now))?;
        if choice.fresh {
            books.taken(ask.scope, address)?;
        }
        books.claimed(ask.scope, address, choice.declared.then_some(slot))?;
    }
    books.close()
}

/// Writes the row of an active claim, over the row of a released one if there is one.
pub(crate) fn write_claim(
    conn: &Connection,
    scope: &str,
    address: IpAddr,
    (entry, slot, now): (i64, usize, u64),
) -> Result<(), Fault> {
    let slot = i64::try_from(slot).unwrap_or(i64::MAX);
    conn.prepare_cached(
        "INSERT OR REPLACE INTO claims (scope, address, state, since, entry, slot) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
    )?
    .execute(params![scope, Blob::new(address), ACTIVE, store::seconds(now), entry, slot])?;
    Ok(())
}

/// Returns whether any claim has the address.
fn exists(conn: &Connection, scope: &str, address: IpAddr) -> Result<bool, Fault> {
    Ok(conn
        .prepare_cached("SELECT EXISTS (SELECT 1 FROM claims WHERE scope = ?1 AND address = ?2)")?
        .query_row(params![scope, Blob::new(address)], |row| row.get(0))?)
}

/// Returns the holder of an address: `None` if it is free, `Some(None)` if it is kept, rests or is in conflict,
/// otherwise its journal entry.
pub(crate) fn occupant(conn: &Connection, scope: &str, address: IpAddr) -> Result<Option<Option<i64>>, Fault> {
    Ok(conn
        .prepare_cached("SELECT entry FROM claims WHERE scope = ?1 AND address = ?2")?
        .query_row(params![scope, Blob::new(address)], |row| row.get(0))
        .optional()?)
}
