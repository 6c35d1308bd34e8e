//! Cells of a cluster ledger: spans of addresses that this machine acquires with one write and then allocates by
//! itself.
//!
//! Addresses inside are claims of the node's own ledger, in the scope of the domain; this module does not know them
//! individually. The rules (their names are those of the model in `tests/model`):
//! - `intent_first`: a cell is `taking`, on disk, before the first request for it leaves the node.
//! - `unconfirmed`: a cell is valid for one boot. After a reboot or a freeze, a write confirms it before it is used
//!   again.
//! - `empty`: a cell is given back only if no claim lies inside, which the same transaction checks.
//! - `no_unreturn`: a cell that is being given back never becomes owned again.
//!
//! Only the agent changes rows. `weft` reads which cells are owned, and checks again in the transaction that claims
//! inside.

use std::net::IpAddr;

use rusqlite::{Connection, OptionalExtension, Row, params};

use super::intent::hex;
use super::types::{Versions, scope};
use crate::store::{self, Blob, Fault, NodeStore, Stop, StoreError, Stored};

/// The state of a cell of this node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CellState {
    /// It may have been requested.
    Taking,
    /// This machine allocates its addresses.
    Owned,
    /// Owned before the machine booted, or before a freeze.
    Unconfirmed,
    /// It has to be given back.
    Returning,
}

/// A cell of this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cell {
    /// 128 random bits in hex, made when it was taken.
    pub nonce: String,
    /// The cluster ledger, as the configuration names it (JSON).
    pub ledger: String,
    /// Its domain.
    pub domain: String,
    /// First address.
    pub first: IpAddr,
    /// Last address.
    pub last: IpAddr,
    /// The pool for which it was taken; informational.
    pub pool: String,
    /// Its state.
    pub state: CellState,
    /// The boot in which it was last confirmed.
    pub boot_id: String,
    /// A create was sent and has not been answered.
    pub is_unanswered: bool,
    /// Identity of the last version that this node wrote.
    pub versions: Option<Versions>,
    /// Seconds since 1970 of the last change of state.
    pub since: u64,
}

/// First and last address of a span.
pub type Span = (IpAddr, IpAddr);

impl Cell {
    /// Returns whether it shares addresses with a span.
    #[must_use]
    pub fn overlaps(&self, (first, last): Span) -> bool {
        first.is_ipv4() == self.first.is_ipv4() && first <= self.last && last >= self.first
    }
}

impl CellState {
    fn from_code(code: i64) -> Result<Self, Fault> {
        match code {
            0 => Ok(Self::Taking),
            1 => Ok(Self::Owned),
            2 => Ok(Self::Unconfirmed),
            3 => Ok(Self::Returning),
            other => Err(Fault::Damaged(format!("a cell of a cluster ledger has the unknown state {other}"))),
        }
    }
}

// === impl NodeStore ===

impl NodeStore {
    /// Returns all cells of this node, by ledger, domain and address.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn cells(&self) -> Result<Vec<Cell>, StoreError> {
        self.read("list cells of a cluster ledger", |conn| {
            let mut statement = conn.prepare_cached(
                "SELECT nonce, ledger, domain, first, last, pool, state, boot_id, unanswered, uid, version, since
                 FROM cells ORDER BY ledger, domain, length(first), first",
            )?;
            let rows = statement.query_map([], |row| Ok(read(row)))?;
            rows.map(|row| row?).collect()
        })
    }

    /// Returns the cells of a domain from which this machine may allocate addresses, by address.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn owned_cells(&self, ledger: &str, domain: &str) -> Result<Vec<Span>, StoreError> {
        let boot_id = self.boot_id().unwrap_or_default().to_owned();
        self.read("list cells of a cluster ledger", |conn| owned(conn, (ledger, domain), &boot_id))
    }

    /// `intent_first`: writes a cell that is about to be requested to disk.
    ///
    /// # Errors
    /// The store cannot be written.
    pub fn begin_taking(
        &mut self,
        (ledger, domain, pool): (&str, &str, &str),
        (first, last): Span,
        now: u64,
    ) -> Result<Cell, StoreError> {
        let boot_id = self.writable()?.to_owned();
        let cell = Cell {
            nonce: hex(),
            ledger: ledger.to_owned(),
            domain: domain.to_owned(),
            first,
            last,
            pool: pool.to_owned(),
            state: CellState::Taking,
            boot_id,
            is_unanswered: false,
            versions: None,
            since: now,
        };
        self.write("write down a cell that is taken", |conn| {
            conn.prepare_cached(
                "INSERT INTO cells (nonce, ledger, domain, first, last, pool, state, boot_id, unanswered, since)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, 0, ?7, 0, ?8)",
            )?
            .execute(params![
                cell.nonce,
                ledger,
                domain,
                Blob::new(first),
                Blob::new(last),
                pool,
                cell.boot_id,
                store::seconds(now)
            ])?;
            Ok::<_, Stop<StoreError>>(())
        })?;
        self.flush()?;
        Ok(cell)
    }

    /// `send_row`: notes that a create is about to be sent, if the cell is being taken at this instant. Returns whether
    /// it is.
    ///
    /// # Errors
    /// The store cannot be written.
    pub fn note_taking(&mut self, nonce: &str) -> Result<bool, StoreError> {
        self.change("note a request for a cell", |conn| {
            let sql = "UPDATE cells SET unanswered = 1 WHERE nonce = ?1 AND state = 0";
            Ok(conn.prepare_cached(sql)?.execute([nonce])? == 1)
        })
    }

    /// Notes that the cluster has confirmed in this boot that the cell belongs to this nonce. Returns whether it is
    /// owned now: it is not if it is being given back meanwhile.
    ///
    /// # Errors
    /// The store cannot be written.
    pub fn own_cell(&mut self, nonce: &str, versions: &Versions, now: u64) -> Result<bool, StoreError> {
        let boot_id = self.writable()?.to_owned();
        let owned = self.change("note a cell of this machine", |conn| {
            let sql = "UPDATE cells SET state = 1, boot_id = ?2, unanswered = 0, uid = ?3, version = ?4, since = ?5
                       WHERE nonce = ?1 AND state IN (0, 1, 2)";
            let values = params![nonce, boot_id, versions.uid, versions.version, store::seconds(now)];
            Ok(conn.prepare_cached(sql)?.execute(values)? == 1)
        })?;
        self.flush()?;
        Ok(owned)
    }

    /// Notes which version of a cell this node wrote, whatever its state.
    ///
    /// # Errors
    /// The store cannot be written.
    pub fn note_cell(&mut self, nonce: &str, versions: &Versions) -> Result<(), StoreError> {
        self.change("note a version of a cell", |conn| {
            let sql = "UPDATE cells SET uid = ?2, version = ?3 WHERE nonce = ?1";
            conn.prepare_cached(sql)?.execute(params![nonce, versions.uid, versions.version])?;
            Ok(())
        })
    }

    /// `empty`: gives a cell back, unless a claim lies inside. Returns whether it is given back.
    ///
    /// # Errors
    /// The store cannot be written.
    pub fn return_cell(&mut self, nonce: &str, now: u64) -> Result<bool, StoreError> {
        let returned = self.change("give a cell back", |conn| {
            let Some(cell) = find(conn, nonce)? else { return Ok(false) };
            if cell.state == CellState::Returning || !is_empty(conn, &cell)? {
                return Ok(false);
            }
            let sql = "UPDATE cells SET state = 3, since = ?2 WHERE nonce = ?1";
            Ok(conn.prepare_cached(sql)?.execute(params![nonce, store::seconds(now)])? == 1)
        })?;
        self.flush()?;
        Ok(returned)
    }

    /// Deletes a cell that the cluster no longer has for this node.
    ///
    /// # Errors
    /// The store cannot be written.
    pub fn forget_cell(&mut self, nonce: &str) -> Result<(), StoreError> {
        self.change("forget a cell", |conn| {
            conn.prepare_cached("DELETE FROM cells WHERE nonce = ?1")?.execute([nonce])?;
            Ok(())
        })
    }

    /// After a freeze: drops cells that were being taken, and requires a new confirmation of a ledger's owned ones.
    ///
    /// # Errors
    /// The store cannot be written.
    pub fn suspend_cells(&mut self, ledger: &str, now: u64) -> Result<(), StoreError> {
        self.change("suspend cells of a cluster ledger", |conn| {
            let sql =
                "UPDATE cells SET state = CASE state WHEN 0 THEN 3 ELSE 2 END, uid = NULL, version = NULL, since = ?2
                       WHERE ledger = ?1 AND state IN (0, 1)";
            conn.execute(sql, params![ledger, store::seconds(now)])?;
            conn.execute("UPDATE cells SET uid = NULL, version = NULL WHERE ledger = ?1", [ledger])?;
            Ok(())
        })?;
        self.flush()
    }

    /// Stops allocating from a cell that somebody else has.
    ///
    /// # Errors
    /// The store cannot be written.
    pub fn suspend_cell(&mut self, nonce: &str) -> Result<(), StoreError> {
        self.change("suspend a cell", |conn| {
            conn.prepare_cached("UPDATE cells SET state = 2 WHERE nonce = ?1 AND state = 1")?.execute([nonce])?;
            Ok(())
        })
    }

    /// Notes the cell size of a domain; 0 means that it has no cells.
    ///
    /// # Errors
    /// The store cannot be written.
    pub fn note_domain(&mut self, ledger: &str, domain: &str, cell_size: u32) -> Result<(), StoreError> {
        self.change("note a domain of a cluster ledger", |conn| {
            let sql = "INSERT OR REPLACE INTO domains (ledger, domain, cell_size) VALUES (?1, ?2, ?3)";
            conn.prepare_cached(sql)?.execute(params![ledger, domain, cell_size])?;
            Ok(())
        })
    }

    /// Returns the domains of a ledger that this node has used, with their cell sizes.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn domains(&self, ledger: &str) -> Result<Vec<(String, u32)>, StoreError> {
        self.read("list domains of a cluster ledger", |conn| {
            let sql = "SELECT domain, cell_size FROM domains WHERE ledger = ?1 ORDER BY domain";
            let mut statement = conn.prepare_cached(sql)?;
            let rows = statement.query_map([ledger], |row| Ok((row.get(0)?, row.get(1)?)))?;
            Ok(rows.collect::<Result<_, _>>()?)
        })
    }

    /// At the agent's start: drops what an earlier agent was taking, and marks cells owned before this boot as
    /// unconfirmed.
    ///
    /// # Errors
    /// The store cannot be written.
    pub fn resume_cells(&mut self, now: u64) -> Result<(), StoreError> {
        let boot_id = self.writable()?.to_owned();
        self.change("look at cells of an earlier boot", |conn| {
            conn.execute("UPDATE cells SET state = 3, since = ?1 WHERE state = 0", [store::seconds(now)])?;
            let sql = "UPDATE cells SET state = 2, since = ?1 WHERE state = 1 AND boot_id <> ?2";
            conn.execute(sql, params![store::seconds(now), boot_id])?;
            Ok(())
        })?;
        self.flush()
    }

    /// Returns owned cells of a ledger without a claim inside, oldest first.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn empty_cells(&self, ledger: &str) -> Result<Vec<Cell>, StoreError> {
        let cells = self.cells()?;
        self.read("look into cells", |conn| {
            let mut empty = Vec::new();
            for cell in cells.into_iter().filter(|cell| cell.ledger == ledger && cell.state == CellState::Owned) {
                if is_empty(conn, &cell)? {
                    empty.push(cell);
                }
            }
            empty.sort_by_key(|cell| cell.since);
            Ok(empty)
        })
    }

    /// Returns attachments of a boot with addresses of a cell: address and container id.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn inside(&self, cell: &Cell, boot_id: &str) -> Result<Vec<(IpAddr, String)>, StoreError> {
        self.read("look into a cell", |conn| {
            let mut statement = conn.prepare_cached(
                "SELECT c.address, j.container_id FROM claims c JOIN journal j ON j.id = c.entry
                 WHERE c.scope = ?1 AND c.address >= ?2 AND c.address <= ?3 AND length(c.address) = length(?2)
                   AND j.boot_id = ?4",
            )?;
            let values = params![scope(&cell.domain), Blob::new(cell.first), Blob::new(cell.last), boot_id];
            let rows = statement.query_map(values, |row| Ok((row.get::<_, Stored>(0)?.0, row.get(1)?)))?;
            Ok(rows.collect::<Result<_, _>>()?)
        })
    }

    /// One change of cells.
    fn change<T>(
        &mut self,
        action: &'static str,
        change: impl FnOnce(&Connection) -> Result<T, Fault>,
    ) -> Result<T, StoreError> {
        self.write(action, |conn| Ok::<_, Stop<StoreError>>(change(conn)?))
    }
}

/// Returns the owned cells of a domain that were confirmed in this boot.
pub(crate) fn owned(conn: &Connection, (ledger, domain): (&str, &str), boot_id: &str) -> Result<Vec<Span>, Fault> {
    let mut statement = conn.prepare_cached(
        "SELECT first, last FROM cells WHERE ledger = ?1 AND domain = ?2 AND state = 1 AND boot_id = ?3
         ORDER BY length(first), first",
    )?;
    let rows = statement.query_map(params![ledger, domain, boot_id], |row| {
        Ok((row.get::<_, Stored>(0)?.0, row.get::<_, Stored>(1)?.0))
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}

fn find(conn: &Connection, nonce: &str) -> Result<Option<Cell>, Fault> {
    conn.prepare_cached(
        "SELECT nonce, ledger, domain, first, last, pool, state, boot_id, unanswered, uid, version, since
         FROM cells WHERE nonce = ?1",
    )?
    .query_row([nonce], |row| Ok(read(row)))
    .optional()?
    .transpose()
}

/// Returns whether no claim lies inside, whatever its state.
fn is_empty(conn: &Connection, cell: &Cell) -> Result<bool, Fault> {
    let sql = "SELECT NOT EXISTS (SELECT 1 FROM claims WHERE scope = ?1 AND address >= ?2 AND address <= ?3
               AND length(address) = length(?2))";
    let values = params![scope(&cell.domain), Blob::new(cell.first), Blob::new(cell.last)];
    Ok(conn.prepare_cached(sql)?.query_row(values, |row| row.get(0))?)
}

fn read(row: &Row<'_>) -> Result<Cell, Fault> {
    let versions = match (row.get::<_, Option<String>>(9)?, row.get::<_, Option<String>>(10)?) {
        (Some(uid), Some(version)) => Some(Versions { uid, version }),
        _ => None,
    };
    Ok(Cell {
        nonce: row.get(0)?,
        ledger: row.get(1)?,
        domain: row.get(2)?,
        first: row.get::<_, Stored>(3)?.0,
        last: row.get::<_, Stored>(4)?.0,
        pool: row.get(5)?,
        state: CellState::from_code(row.get(6)?)?,
        boot_id: row.get(7)?,
        is_unanswered: row.get(8)?,
        versions,
        since: u64::try_from(row.get::<_, i64>(11)?).unwrap_or(0),
    })
}
