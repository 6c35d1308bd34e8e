//! Ages of rows when the node's clock is set: they are compared with the clock, but count the time since the boot.
//!
//! A row of a time that is still to come would never be old enough: its address would not be given back for years. A
//! jump ahead would end a cooldown, and the wait for a late request, at once. So the agent looks at both clocks every
//! second, and moves the rows with the node's clock.
//!
//! Invariant: an age may become smaller than the time that has passed, never larger.

use std::time::Duration;

use rusqlite::{Connection, params};

use super::history::{self, Seen};
use crate::store::{self, Fault, NodeStore, Stop, StoreError};

/// Tables with the columns that hold times.
const TIMES: [(&str, &str); 4] =
    [("remote", "created"), ("remote_addresses", "since"), ("cells", "since"), ("remote_ledgers", "used")];
/// Key in `meta`: the last look at both clocks.
const CLOCK: &str = "clock";
/// A smaller difference is no jump: both clocks are read one after the other, in whole seconds.
const JUMP: i64 = 1;

/// Both clocks at one instant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Clock {
    /// Seconds since 1970, as the node's clock says.
    pub now: u64,
    /// The time since the boot, which nobody can set.
    pub uptime: Duration,
}

impl Clock {
    /// Returns by how many seconds the node's clock is ahead of the time since the boot.
    fn offset(self) -> i64 {
        seconds(self.now).saturating_sub(seconds(self.uptime.as_secs()))
    }

    /// Returns both clocks at a later time since the boot, if the node's clock is not set until then.
    #[must_use]
    pub fn later(self, uptime: Duration) -> Self {
        // In whole seconds of both clocks, so that the offset stays the same however often this is called.
        Self { now: (self.now + uptime.as_secs()).saturating_sub(self.uptime.as_secs()), uptime }
    }
}

// === impl NodeStore ===

impl NodeStore {
    /// Moves the times of rows if the node's clock was set since the last look of this boot, by this process or an
    /// earlier one. `last` is this process's last look. Returns by how many seconds the clock was set.
    ///
    /// # Errors
    /// The store cannot be read or written.
    pub fn follow_clock(&mut self, last: Option<Clock>, clock: Clock) -> Result<i64, StoreError> {
        let boot_id = self.writable()?.to_owned();
        let last = match last {
            Some(last) => Some(last),
            None => self.read("read the last look at the clock", |conn| noted(conn, &boot_id))?,
        };
        let set = last.map_or(0, |last| clock.offset().saturating_sub(last.offset()));
        let set = if set.abs() > JUMP { set } else { 0 };
        let is_known = last.is_some_and(|_last| set == 0);
        if is_known && !self.read("look for times to come", |conn| is_ahead(conn, clock.now))? {
            return Ok(0);
        }
        // Rows of this time were written while nobody looked: perhaps by the new clock.
        let unseen = last.map_or(0, |last| clock.uptime.saturating_sub(last.uptime).as_secs() + 1);
        self.write("follow the node's clock", |conn| {
            shift(conn, (set, unseen), clock.now)?;
            let text = format!("{boot_id} {} {}", clock.now, clock.uptime.as_secs());
            store::set_meta(conn, CLOCK, &text)?;
            Ok::<_, Stop<StoreError>>(())
        })?;
        Ok(set)
    }
}

/// Returns the last look of this boot.
fn noted(conn: &Connection, boot_id: &str) -> Result<Option<Clock>, Fault> {
    let Some(text) = store::meta(conn, CLOCK)? else { return Ok(None) };
    let mut parts = text.split(' ');
    let is_this_boot = parts.next() == Some(boot_id);
    let mut number = || parts.next().and_then(|part| part.parse().ok());
    let clock = number().zip(number()).map(|(now, uptime)| Clock { now, uptime: Duration::from_secs(uptime) });
    Ok(clock.filter(|_clock| is_this_boot))
}

/// Returns whether a row has a time that is still to come.
fn is_ahead(conn: &Connection, now: u64) -> Result<bool, Fault> {
    for (table, column) in TIMES {
        let sql = format!("SELECT EXISTS (SELECT 1 FROM {table} WHERE {column} > ?1)");
        if conn.prepare_cached(&sql)?.query_row([store::seconds(now)], |row| row.get(0))? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Moves all times. After a step back, those of the last `unseen` seconds stay: they may be of the new clock, and
/// otherwise they only become younger. No time is later than now.
fn shift(conn: &Connection, (set, unseen): (i64, u64), now: u64) -> Result<(), Fault> {
    let now = seconds(now);
    let from = if set < 0 { now.saturating_sub(seconds(unseen)) } else { now };
    let moved = |time: i64| if time > from && time <= now { time } else { time.saturating_add(set).min(now) };
    for (table, column) in TIMES {
        let sql = format!(
            "UPDATE {table} SET {column} =
             CASE WHEN {column} > ?2 AND {column} <= ?3 THEN {column} ELSE min({column} + ?1, ?3) END"
        );
        conn.execute(&sql, params![set, from, now])?;
    }
    let mut statement = conn.prepare("SELECT key, value FROM meta WHERE key LIKE ?1")?;
    let rows = statement.query_map([format!("{}%", history::SEEN)], |row| Ok((row.get(0)?, row.get(1)?)))?;
    let rows: Vec<(String, String)> = rows.collect::<Result<_, _>>()?;
    for (key, text) in rows {
        let Ok(seen) = serde_json::from_str::<Seen>(&text) else { continue };
        let at = u64::try_from(moved(seconds(seen.at))).unwrap_or(0);
        store::set_meta(conn, &key, &serde_json::to_string(&Seen { at, ..seen }).unwrap_or(text))?;
    }
    Ok(())
}

fn seconds(seconds: u64) -> i64 {
    store::seconds(seconds)
}
