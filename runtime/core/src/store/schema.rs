//! The tables, their version, and the migrations between versions. `docs/ledger-format.md` explains them.
//!
//! Invariants: `application_id` identifies our files and `user_version` the version of their tables; a program never
//! opens a store of an unknown version for writing. A change of the tables is a new entry in `MIGRATIONS`; released
//! entries are never edited.

use rusqlite::Connection;

/// `PRAGMA application_id`: "weft".
pub(crate) const APPLICATION_ID: i64 = 0x7765_6674;

/// The version this program reads and writes.
pub(crate) const VERSION: i64 = MIGRATIONS.len() as i64;

/// Bytes in a page. A transaction touches about ten pages, whatever their size, and the log contains each of them in
/// full: with half of SQLite's usual size, twice as many transactions share the flush that writes the log back.
pub(crate) const PAGE_SIZE: i64 = 2048;

/// Entry `n` migrates a store from version `n` to `n + 1`. Each runs inside the transaction that also sets the version.
const MIGRATIONS: &[&str] = &[V1, V2, V3, V4, V5, V6, V7, V8];

/// Small columns come first, so that reading them never follows the overflow pages of the long texts.
const V1: &str = "
CREATE TABLE meta (
    key TEXT NOT NULL PRIMARY KEY,
    value TEXT NOT NULL
) WITHOUT ROWID;

CREATE TABLE journal (
    id INTEGER PRIMARY KEY,
    network TEXT NOT NULL,
    container_id TEXT NOT NULL,
    ifname TEXT NOT NULL,
    role INTEGER NOT NULL,
    created INTEGER NOT NULL,
    boot_id TEXT NOT NULL,
    release TEXT NOT NULL,
    shared TEXT NOT NULL,
    netns TEXT NOT NULL,
    plan TEXT NOT NULL,
    externals TEXT NOT NULL,
    trace TEXT NOT NULL
);
CREATE UNIQUE INDEX journal_key ON journal (container_id, network, ifname, role);

CREATE TABLE claims (
    scope TEXT NOT NULL,
    address BLOB NOT NULL,
    state INTEGER NOT NULL,
    since INTEGER NOT NULL,
    entry INTEGER,
    slot INTEGER,
    until INTEGER,
    owner TEXT,
    network TEXT,
    PRIMARY KEY (scope, address)
) WITHOUT ROWID;
CREATE INDEX claims_entry ON claims (entry, slot) WHERE entry IS NOT NULL;
CREATE INDEX claims_until ON claims (until) WHERE until IS NOT NULL;
CREATE INDEX claims_kept ON claims (owner, scope) WHERE state = 2;

CREATE TABLE runs (
    scope TEXT NOT NULL,
    family INTEGER NOT NULL,
    first BLOB NOT NULL,
    last BLOB NOT NULL,
    PRIMARY KEY (scope, family, first)
) WITHOUT ROWID;

CREATE TABLE ranges (
    scope TEXT NOT NULL,
    family INTEGER NOT NULL,
    first BLOB NOT NULL,
    last BLOB NOT NULL,
    taken INTEGER NOT NULL,
    used INTEGER NOT NULL,
    sequence INTEGER,
    address BLOB,
    PRIMARY KEY (scope, family, first, last)
) WITHOUT ROWID;

CREATE TABLE slots (
    scope TEXT NOT NULL,
    slot INTEGER NOT NULL,
    sequence INTEGER NOT NULL,
    address BLOB NOT NULL,
    PRIMARY KEY (scope, slot)
) WITHOUT ROWID;

CREATE TABLE shared (
    name TEXT NOT NULL,
    entry INTEGER NOT NULL,
    PRIMARY KEY (name, entry)
) WITHOUT ROWID;
";

/// Cooldowns that began in the future (the clock was set back), and imported files of host-local.
const V2: &str = "
CREATE INDEX claims_since ON claims (since) WHERE until IS NOT NULL;

CREATE TABLE imported (
    file TEXT NOT NULL PRIMARY KEY,
    contents TEXT NOT NULL
) WITHOUT ROWID;
";

/// Attachments that a DEL removed during their ADD.
const V3: &str = "
CREATE TABLE removal_marks (
    container_id TEXT NOT NULL,
    network TEXT NOT NULL,
    ifname TEXT NOT NULL,
    role INTEGER NOT NULL,
    since INTEGER NOT NULL,
    PRIMARY KEY (container_id, network, ifname, role)
) WITHOUT ROWID;
";

/// The node's claims in cluster ledgers (`ledger::remote`).
const V4: &str = "
CREATE TABLE remote (
    id INTEGER PRIMARY KEY,
    nonce TEXT NOT NULL UNIQUE,
    container_id TEXT NOT NULL,
    network TEXT NOT NULL,
    ifname TEXT NOT NULL,
    role INTEGER NOT NULL,
    boot_id TEXT NOT NULL,
    store_id TEXT NOT NULL,
    ledger TEXT NOT NULL,
    domain TEXT NOT NULL,
    owner TEXT NOT NULL,
    release TEXT NOT NULL,
    created INTEGER NOT NULL,
    entry INTEGER UNIQUE
);
CREATE INDEX remote_domain ON remote (domain);

CREATE TABLE remote_addresses (
    remote INTEGER NOT NULL,
    address BLOB NOT NULL,
    prefix INTEGER NOT NULL,
    want INTEGER NOT NULL,
    rank INTEGER NOT NULL,
    state INTEGER NOT NULL,
    answer INTEGER NOT NULL,
    uid TEXT,
    version TEXT,
    since INTEGER NOT NULL,
    PRIMARY KEY (remote, address)
) WITHOUT ROWID;
CREATE INDEX remote_addresses_state ON remote_addresses (state);
";

/// Cluster ledgers that this node uses: a restarted agent sweeps them even if no row names them any more.
const V5: &str = "
CREATE TABLE remote_ledgers (
    ledger TEXT NOT NULL PRIMARY KEY,
    used INTEGER NOT NULL
) WITHOUT ROWID;
INSERT INTO remote_ledgers (ledger, used) SELECT ledger, max(created) FROM remote GROUP BY ledger;
";

/// The host that answers on the wire for an address of a cluster ledger. One of this node's own claims may be in
/// conflict (state 3), which older programs do not know.
const V6: &str = "
ALTER TABLE remote_addresses ADD COLUMN in_use_by TEXT;
";

/// Cells of cluster ledgers: spans of addresses that this machine allocates by itself (`ledger::remote`).
const V7: &str = "
CREATE TABLE cells (
    nonce TEXT NOT NULL PRIMARY KEY,
    ledger TEXT NOT NULL,
    domain TEXT NOT NULL,
    first BLOB NOT NULL,
    last BLOB NOT NULL,
    pool TEXT NOT NULL,
    state INTEGER NOT NULL,
    boot_id TEXT NOT NULL,
    unanswered INTEGER NOT NULL,
    uid TEXT,
    version TEXT,
    since INTEGER NOT NULL,
    UNIQUE (ledger, domain, first)
) WITHOUT ROWID;

CREATE TABLE domains (
    ledger TEXT NOT NULL,
    domain TEXT NOT NULL,
    cell_size INTEGER NOT NULL,
    PRIMARY KEY (ledger, domain)
) WITHOUT ROWID;
";

/// Requests about an address of a cluster ledger that were never answered, even if a later one was.
const V8: &str = "
ALTER TABLE remote_addresses ADD COLUMN late INTEGER NOT NULL DEFAULT 0;
";

/// The file's identification.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stamp {
    pub(crate) application_id: i64,
    pub(crate) version: i64,
}

impl Stamp {
    /// Reads both numbers. They are in the file's first page, so this also detects a file that is not a database.
    pub(crate) fn read(conn: &Connection) -> rusqlite::Result<Self> {
        let pragma = |name: &str| conn.query_row(&format!("PRAGMA {name}"), [], |row| row.get(0));
        Ok(Self { version: pragma("user_version")?, application_id: pragma("application_id")? })
    }

    /// Returns whether the file is empty or has no stamp.
    pub(crate) fn is_blank(self) -> bool {
        self == Self { application_id: 0, version: 0 }
    }

    /// Returns whether the file is ours and has the tables that this program knows.
    pub(crate) fn is_current(self) -> bool {
        self == Self { application_id: APPLICATION_ID, version: VERSION }
    }
}

/// Migrates the tables from `version` to ours; the caller has an open write transaction.
pub(crate) fn migrate(conn: &Connection, version: i64) -> rusqlite::Result<()> {
    for step in MIGRATIONS.iter().skip(usize::try_from(version).unwrap_or(0)) {
        conn.execute_batch(step)?;
    }
    conn.execute_batch(&format!("PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {VERSION}"))
}
