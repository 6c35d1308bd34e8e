//! The table `meta`: single values of the whole store.

use rusqlite::{Connection, OptionalExtension};

/// Key in `meta`: how many commits claimed something.
pub(crate) const CLAIMED: &str = "claimed";

/// Key in `meta`: the boot in which the journal was last reaped.
pub(crate) const BOOT: &str = "boot_id";

/// Key in `meta`: the host's network namespace that ADD last saw.
pub(crate) const HOST: &str = "host_netns";

pub(crate) fn meta(conn: &Connection, key: &str) -> rusqlite::Result<Option<String>> {
    conn.query_row("SELECT value FROM meta WHERE key = ?1", [key], |row| row.get(0)).optional()
}

pub(crate) fn set_meta(conn: &Connection, key: &str, value: &str) -> rusqlite::Result<()> {
    conn.execute("INSERT OR REPLACE INTO meta (key, value) VALUES (?1, ?2)", [key, value]).map(|_rows| ())
}

/// Converts a time: SQLite's integers are 64-bit and signed.
pub(crate) fn seconds(now: u64) -> i64 {
    i64::try_from(now).unwrap_or(i64::MAX)
}
