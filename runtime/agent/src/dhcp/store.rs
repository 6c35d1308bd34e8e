//! Leases on disk: the agent's own SQLite file beside the ledger, which CNI calls never open
//! (docs/decisions/0009-dhcp-agent.md).
//!
//! Invariant: one agent per file. It holds the file's lock while it runs, so a second one fails at once.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use rusqlite::{Connection, OpenFlags, params};
use serde::{Deserialize, Serialize};
use weft_core::agent::Wish;
use weft_dhcp::{v4, v6};
use weft_host_abi::types::Attachment;

use super::clock;

/// Its name in the state directory.
const FILE: &str = "agent.db";
/// `PRAGMA user_version`.
const VERSION: i64 = 1;

const TABLES: &str = "
CREATE TABLE leases (
    container_id TEXT NOT NULL,
    network TEXT NOT NULL,
    ifname TEXT NOT NULL,
    family INTEGER NOT NULL,
    netns TEXT NOT NULL,
    identity TEXT NOT NULL,
    boot_id TEXT NOT NULL,
    mac BLOB NOT NULL,
    wish TEXT NOT NULL,
    lease TEXT NOT NULL,
    address TEXT NOT NULL,
    obtained INTEGER NOT NULL,
    expires INTEGER,
    PRIMARY KEY (container_id, network, ifname, family)
) WITHOUT ROWID;
PRAGMA user_version = 1;
";

/// A lease of either kind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum AnyLease {
    V4(v4::Lease),
    V6(v6::Lease),
}

impl AnyLease {
    pub(super) fn address(&self) -> std::net::IpAddr {
        match self {
            Self::V4(lease) => lease.address.into(),
            Self::V6(lease) => lease.address.into(),
        }
    }

    pub(super) fn obtained(&self) -> weft_dhcp::Millis {
        match self {
            Self::V4(lease) => lease.obtained,
            Self::V6(lease) => lease.obtained,
        }
    }

    pub(super) fn expires(&self) -> Option<weft_dhcp::Millis> {
        match self {
            Self::V4(lease) => lease.expires,
            Self::V6(lease) => lease.expires,
        }
    }

    fn family(&self) -> i64 {
        match self {
            Self::V4(_) => 4,
            Self::V6(_) => 6,
        }
    }
}

/// A lease with its place.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Row {
    pub(super) attachment: Attachment,
    /// Path of the namespace, from the agent's point of view.
    pub(super) netns: PathBuf,
    /// The identity of the namespace.
    pub(super) identity: String,
    pub(super) boot_id: String,
    pub(super) mac: [u8; 6],
    pub(super) wish: Wish,
    pub(super) lease: AnyLease,
}

/// The file.
#[derive(Debug)]
pub(crate) struct LeaseStore {
    conn: Connection,
    path: PathBuf,
}

impl LeaseStore {
    /// Opens the file, and creates it if it is missing.
    pub(crate) fn open(state: &Path) -> anyhow::Result<Self> {
        let path = state.join(FILE);
        let shown = path.display();
        weft_core::private::make_dir(state).with_context(|| format!("cannot make {}", state.display()))?;
        // SQLite would create it with the umask's mode.
        let file = std::os::unix::fs::OpenOptionsExt::mode(
            std::fs::OpenOptions::new().append(true).create(true),
            weft_core::private::FILE,
        )
        .open(&path);
        drop(file.with_context(|| format!("cannot make {shown}"))?);
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let conn = Connection::open_with_flags(&path, flags).with_context(|| format!("cannot open {shown}"))?;
        // A lease is meaningless after a power cut, which also ends its namespace. It only has to survive the end of
        // the agent.
        let prepared = conn.execute_batch(
            "PRAGMA busy_timeout = 0; PRAGMA locking_mode = EXCLUSIVE; PRAGMA synchronous = OFF; BEGIN EXCLUSIVE; COMMIT",
        );
        match prepared {
            Err(error) if error.sqlite_error_code() == Some(rusqlite::ErrorCode::DatabaseBusy) => {
                bail!("another agent has {shown} open; stop it, or use another --state-dir")
            }
            other => other.with_context(|| format!("cannot use {shown}"))?,
        }
        match conn.query_row("PRAGMA user_version", [], |row| row.get::<_, i64>(0))? {
            0 => conn.execute_batch(TABLES).with_context(|| format!("cannot make the tables of {shown}"))?,
            VERSION => {}
            newer => bail!("{shown} has format {newer}, and this weftctl knows {VERSION}; use a newer weftctl"),
        }
        Ok(Self { conn, path })
    }

    /// Writes a lease, replacing the previous one.
    pub(super) fn write_lease(&self, row: &Row) -> anyhow::Result<()> {
        let Attachment { network, container_id, ifname } = &row.attachment;
        let seconds = |at| i64::try_from(clock::wall(at)).unwrap_or(i64::MAX);
        self.conn
            .prepare_cached(
                "INSERT OR REPLACE INTO leases (container_id, network, ifname, family, netns, identity, boot_id, mac,
                                                wish, lease, address, obtained, expires)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13)",
            )?
            .execute(params![
                container_id,
                network,
                ifname,
                row.lease.family(),
                row.netns.to_string_lossy(),
                row.identity,
                row.boot_id,
                row.mac,
                serde_json::to_string(&row.wish)?,
                serde_json::to_string(&row.lease)?,
                row.lease.address().to_string(),
                seconds(row.lease.obtained()),
                row.lease.expires().map(seconds),
            ])
            .with_context(|| format!("cannot write to {}", self.path.display()))?;
        Ok(())
    }

    /// Removes a lease; a missing one is not an error.
    pub(super) fn remove(&self, attachment: &Attachment, is_v4: bool) -> anyhow::Result<()> {
        let Attachment { network, container_id, ifname } = attachment;
        self.conn
            .prepare_cached(
                "DELETE FROM leases WHERE container_id = ?1 AND network = ?2 AND ifname = ?3 AND family = ?4",
            )?
            .execute(params![container_id, network, ifname, if is_v4 { 4 } else { 6 }])
            .with_context(|| format!("cannot write to {}", self.path.display()))?;
        Ok(())
    }

    /// Returns all leases.
    pub(super) fn read_all(&self) -> anyhow::Result<Vec<Row>> {
        let mut statement = self.conn.prepare(
            "SELECT network, container_id, ifname, netns, identity, boot_id, mac, wish, lease FROM leases
             ORDER BY container_id, network, ifname, family",
        )?;
        let mut rows = statement.query([])?;
        let mut found = Vec::new();
        while let Some(row) = rows.next()? {
            let damaged = || format!("{} is damaged; move it away and restart the agent", self.path.display());
            found.push(Row {
                attachment: Attachment { network: row.get(0)?, container_id: row.get(1)?, ifname: row.get(2)? },
                netns: row.get::<_, String>(3)?.into(),
                identity: row.get(4)?,
                boot_id: row.get(5)?,
                mac: row.get(6)?,
                wish: serde_json::from_str(&row.get::<_, String>(7)?).with_context(damaged)?,
                lease: serde_json::from_str(&row.get::<_, String>(8)?).with_context(damaged)?,
            });
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn row(container: &str, lease: AnyLease) -> Row {
        Row {
            attachment: Attachment { network: "n".into(), container_id: container.into(), ifname: "eth0".into() },
            netns: "/run/netns/x".into(),
            identity: "4:7".to_owned(),
            boot_id: "boot".to_owned(),
            mac: [2, 0, 0, 0, 0, 1],
            wish: Wish { ipv4: true, provide: [(12, "a".to_owned())].into(), ..Wish::default() },
            lease,
        }
    }

    fn v4(expires: Option<u64>) -> AnyLease {
        AnyLease::V4(v4::Lease {
            address: "10.0.0.5".parse().unwrap(),
            server: "10.0.0.1".parse().unwrap(),
            server_mac: Some([2, 0, 0, 0, 0, 9]),
            obtained: 1_000,
            renew: Some(2_000),
            rebind: Some(3_000),
            expires,
            options: [(3, vec![10, 0, 0, 1])].into(),
        })
    }

    fn v6() -> AnyLease {
        AnyLease::V6(v6::Lease {
            address: "fd00::5".parse().unwrap(),
            server: vec![1, 2, 3],
            obtained: 5,
            renew: None,
            rebind: None,
            expires: None,
            name_servers: vec!["fd00::53".parse().unwrap()],
            search: vec!["lan".to_owned()],
        })
    }

    #[test]
    fn leases_survive_their_agent_and_a_second_agent_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let rows = [row("a", v4(Some(9_000))), row("a", v6()), row("b", v4(None))];
        {
            let store = LeaseStore::open(dir.path()).unwrap();
            for row in &rows {
                store.write_lease(&row.clone()).unwrap();
                store.write_lease(row).unwrap();
            }
            let second = LeaseStore::open(dir.path()).unwrap_err().to_string();
            assert!(second.contains("another agent has"), "{second}");
        }
        let store = LeaseStore::open(dir.path()).unwrap();
        assert_eq!(store.read_all().unwrap(), rows);
        store.remove(&rows[0].attachment, true).unwrap();
        store.remove(&rows[0].attachment, true).unwrap();
        assert_eq!(store.read_all().unwrap(), rows[1..]);
    }
}
