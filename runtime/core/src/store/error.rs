//! Errors of the store. Each message says which file is affected and what to
//! do.

use std::path::PathBuf;
use std::time::Duration;

use rusqlite::ErrorCode;
use weft_host_abi::types::Attachment;

use super::Key;
use crate::plan::EXCLUSIVE;

/// How long a process waits for another one's transaction.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);

/// Returns an exclusive name in readable form.
fn exclusive_name(name: &str) -> String {
    let name = name.strip_prefix(EXCLUSIVE).unwrap_or(name);
    match name.rsplit_once('/') {
        Some((what, "*")) => what.to_owned(),
        Some((what, which)) => format!("{what} address {which}"),
        None => name.to_owned(),
    }
}

/// A failure of the store.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The state directory or a file in it cannot be made or read.
    #[error(
        "cannot use the state directory {path:?}; check that it is a directory owned by root on a writable file system"
    )]
    Directory {
        /// The directory or file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// SQLite cannot open the file.
    #[error("cannot open the ledger {path:?}; check its owner and mode, and that its file system is writable")]
    Open {
        /// The store file.
        path: PathBuf,
        /// Why.
        #[source]
        source: rusqlite::Error,
    },
    /// The file is something else.
    #[error(
        "{path:?} is not a weft store; run `weftctl ledger rebuild`: it moves the file aside and rebuilds the ledger from the running containers"
    )]
    NotAStore {
        /// The store file.
        path: PathBuf,
        /// SQLite's error, if the file is not a database at all.
        #[source]
        source: Option<rusqlite::Error>,
    },
    /// Another attachment holds something that only one can have.
    #[error(
        "{} is taken by container {:?} ({} on network {:?})",
        exclusive_name(name), holder.container_id, holder.ifname, holder.network
    )]
    Taken {
        /// The shared name.
        name: String,
        /// The attachment.
        holder: Box<Attachment>,
    },
    /// The file has a second name, or is not a regular file.
    #[error(
        "{path:?} is not a regular file; move the store there (to store it elsewhere, make its directory a symbolic link)"
    )]
    Link {
        /// The store file.
        path: PathBuf,
    },
    /// An earlier store knew more.
    #[error(
        "the ledger {path:?} has lost data ({what}), so addresses of running pods could be allocated again. Run \
         `weftctl ledger rebuild` to rebuild it from the running containers, or reboot the node"
    )]
    Lost {
        /// The store file.
        path: PathBuf,
        /// The evidence.
        what: String,
    },
    /// A newer weft wrote the file.
    #[error("the ledger {path:?} has format {found}, but this weft supports formats up to {known}; use the newer weft")]
    Newer {
        /// The store file.
        path: PathBuf,
        /// Its version.
        found: i64,
        /// Ours.
        known: i64,
    },
    /// The file is older than this program, and cannot be upgraded because it
    /// is opened for reading.
    #[error(
        "the ledger {path:?} has format {found}, this weft reads {known}; any ADD or `weftctl ledger ls` as root upgrades it"
    )]
    Older {
        /// The store file.
        path: PathBuf,
        /// Its version.
        found: i64,
        /// Ours.
        known: i64,
    },
    /// Another process held the store for too long.
    #[error(
        "the ledger {path:?} was locked by another process for {seconds} s; look for a stuck weft or sqlite3 process"
    )]
    Busy {
        /// The store file.
        path: PathBuf,
        /// How long this process waited.
        seconds: u64,
    },
    /// The disk is full.
    #[error("no space left on the file system of the ledger {path:?}; free some space")]
    Full {
        /// The store file.
        path: PathBuf,
        /// What SQLite says.
        #[source]
        source: rusqlite::Error,
    },
    /// The file's contents contradict each other.
    #[error(
        "the ledger {path:?} is damaged ({detail}); run `weftctl ledger repair` to rebuild its indexes, or `weftctl ledger rebuild` to rebuild it from the running containers"
    )]
    Damaged {
        /// The store file.
        path: PathBuf,
        /// What was found.
        detail: String,
    },
    /// A statement failed.
    #[error("cannot {action} in the ledger {path:?}")]
    Sql {
        /// The store file.
        path: PathBuf,
        /// What was being done.
        action: &'static str,
        /// What SQLite says.
        #[source]
        source: rusqlite::Error,
    },
    /// A write to a store that is open for reading.
    #[error("cannot write the ledger {path:?}: it was opened for reading only, or its file system is read-only")]
    ReadOnly {
        /// The store file.
        path: PathBuf,
    },
    /// No journal entry matches.
    #[error(
        "the journal has no entry for interface {} of container {} on network {}",
        key.attachment.ifname, key.attachment.container_id, key.attachment.network
    )]
    NoEntry {
        /// Its key.
        key: Box<Key>,
    },
    /// A DEL of the attachment came while its ADD was at work.
    #[error(
        "interface {} of container {} on network {} was deleted while it was being added; everything was undone",
        key.attachment.ifname, key.attachment.container_id, key.attachment.network
    )]
    Removed {
        /// Its key.
        key: Box<Key>,
    },
}

/// Converts a failure of SQLite to an error.
pub(crate) fn explain_sql(path: PathBuf, action: &'static str, source: rusqlite::Error) -> StoreError {
    use rusqlite::Error;
    match source.sqlite_error_code() {
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
            return StoreError::Busy { path, seconds: PATIENCE.as_secs() };
        }
        Some(ErrorCode::DiskFull) => return StoreError::Full { path, source },
        Some(ErrorCode::NotADatabase) => return StoreError::NotAStore { path, source: Some(source) },
        Some(ErrorCode::DatabaseCorrupt) => return StoreError::Damaged { path, detail: source.to_string() },
        Some(ErrorCode::ReadOnly) => return StoreError::ReadOnly { path },
        _ => {}
    }
    match source {
        Error::FromSqlConversionFailure(..)
        | Error::IntegralValueOutOfRange(..)
        | Error::InvalidColumnType(..)
        | Error::Utf8Error(..) => StoreError::Damaged { path, detail: source.to_string() },
        source => StoreError::Sql { path, action, source },
    }
}
