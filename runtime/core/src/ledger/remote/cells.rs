//! Cells of a cluster ledger: spans of addresses that this machine has with one write, and gives out by itself.
//!
//! What lies inside are claims of the node's own ledger, in the scope of the domain; nothing here knows them one by one. The
//! rules (their names are those of the model in `tests/model`):
//! - `intent_first`: a cell is `taking`, on disk, before the first request for it leaves the node.
//! - `unconfirmed`: a cell lives one boot. After it, and after a freeze, it is confirmed by a write before anything is given out.
//! - `empty`: a cell is given back only when no claim lies inside, which the transaction that says so looks at.
//! - `no_unreturn`: a cell that is being given back never becomes owned again.
//!
//! The agent alone changes rows. `weft` reads which cells are owned, and again in the transaction that claims inside.

use std::net::IpAddr;

use rusqlite::{Connection, OptionalExtension, Row, params};

use super::intent::hex;
use super::types::{Versions, scope};
use crate::store::{self, Blob, Fault, NodeStore, Stop, StoreError, Stored};

/// How far a cell of this node is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CellState {
    /// It may have been asked for.
    Taking,
    /// This machine gives out its addresses.
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
    /// The pool that it was taken for, for people.
    pub pool: String,
    /// How far it is.
    pub state: CellState,
    /// The boot in which it was confirmed last.
    pub boot_id: String,
    /// A create was sent and not answered.
    pub is_unanswered: bool,
    /// Identity of the last version that this node wrote.
    pub versions: Option<Versions>,
    /// Seconds since 1970 of the last change of state.
    pub since: u64,
}

/// First and last address of something.
pub type Span = (IpAddr, IpAddr);

impl Cell {
    /// Whether it has addresses in common with a span.
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
    /// All cells of this node, by ledger, domain and address.
    ///
    /// # Errors
    /// When the store cannot be read.
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

    /// The cells of a domain that this machine may give addresses out from, by address.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn owned_cells(&self, ledger: &str, domain: &str) -> Result<Vec<Span>, StoreError> {
        let boot_id = self.boot_id().unwrap_or_default().to_owned();
        self.read("list cells of a cluster ledger", |conn| owned(conn, (ledger, domain), &boot_id))
    }

    /// `intent_first`: a cell that is about to be asked for, on disk.
    ///
    /// # Errors
    /// When the store cannot be written.
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

    /// `send_row`: notes that a create is about to be sent, if the cell is being taken at this instant. Says whether it is.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub fn note_taking(&mut self, nonce: &str) -> Result<bool, StoreError> {
        self.change("note a request for a cell", |conn| {
            let sql = "UPDATE cells SET unanswered = 1 WHERE nonce = ?1 AND state = 0";
            Ok(conn.prepare_cached(sql)?.execute([nonce])? == 1)
        })
    }

    /// The cluster has said in this boot that the cell is this nonce's. Says whether it is owned now: not where it is being given
    /// back meanwhile.
    ///
    /// # Errors
    /// When the store cannot be written.
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
    /// When the store cannot be written.
    pub fn note_cell(&mut self, nonce: &str, versions: &Versions) -> Result<(), StoreError> {
        self.change("note a version of a cell", |conn| {
            let sql = "UPDATE cells SET uid = ?2, version = ?3 WHERE nonce = ?1";
            conn.prepare_cached(sql)?.execute(params![nonce, versions.uid, versions.version])?;
            Ok(())
        })
    }

    /// `empty`: a cell is given back, unless a claim lies inside. Says whether it is.
    ///
    /// # Errors
    /// When the store cannot be written.
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

    /// The cluster does not have the cell for this node any more.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub fn forget_cell(&mut self, nonce: &str) -> Result<(), StoreError> {
        self.change("forget a cell", |conn| {
            conn.prepare_cached("DELETE FROM cells WHERE nonce = ?1")?.execute([nonce])?;
            Ok(())
        })
    }

    /// Nobody waits any more for a cell that was being taken, and owned ones of a ledger have to be confirmed again: after a freeze.
    ///
    /// # Errors
    /// When the store cannot be written.
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

    /// Somebody else has a cell: nothing more is given out from it.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub fn suspend_cell(&mut self, nonce: &str) -> Result<(), StoreError> {
        self.change("suspend a cell", |conn| {
            conn.prepare_cached("UPDATE cells SET state = 2 WHERE nonce = ?1 AND state = 1")?.execute([nonce])?;
            Ok(())
        })
    }

    /// Notes how large the cells of a domain are; 0: it has none.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub fn note_domain(&mut self, ledger: &str, domain: &str, cell_size: u32) -> Result<(), StoreError> {
        self.change("note a domain of a cluster ledger", |conn| {
            let sql = "INSERT OR REPLACE INTO domains (ledger, domain, cell_size) VALUES (?1, ?2, ?3)";
            conn.prepare_cached(sql)?.execute(params![ledger, domain, cell_size])?;
            Ok(())
        })
    }

    /// Domains of a ledger that this node has used, with the size of their cells.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn domains(&self, ledger: &str) -> Result<Vec<(String, u32)>, StoreError> {
        self.read("list domains of a cluster ledger", |conn| {
            let sql = "SELECT domain, cell_size FROM domains WHERE ledger = ?1 ORDER BY domain";
            let mut statement = conn.prepare_cached(sql)?;
            let rows = statement.query_map([ledger], |row| Ok((row.get(0)?, row.get(1)?)))?;
            Ok(rows.collect::<Result<_, _>>()?)
        })
    }

    /// At the start of the agent: what an earlier one was taking is given up, and what was owned before this boot is unconfirmed.
    ///
    /// # Errors
    /// When the store cannot be written.
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

    /// Owned cells of a ledger without a claim inside, oldest first.
    ///
    /// # Errors
    /// When the store cannot be read.
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

    /// Attachments of a boot that have addresses of a cell: address and container id.
    ///
    /// # Errors
    /// When the store cannot be read.
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

/// The cells of a domain that are owned, and confirmed in this boot.
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

/// No claim lies inside, whatever its state.
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
