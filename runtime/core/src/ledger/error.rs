//! What can go wrong with the store. Each text says which file and what to do.

use std::net::IpAddr;
use std::path::PathBuf;

use weft_host_abi::types::Attachment;

use super::Key;
use crate::plan::EXCLUSIVE;

/// An exclusive name as people would say it.
fn told(name: &str) -> String {
    let name = name.strip_prefix(EXCLUSIVE).unwrap_or(name);
    match name.rsplit_once('/') {
        Some((what, "*")) => what.to_owned(),
        Some((what, which)) => format!("{what} address {which}"),
        None => name.to_owned(),
    }
}

/// A failure of the ledger or the journal.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// The state directory or a file in it cannot be made or read.
    #[error(
        "cannot use the state directory {path:?}; check that it is a directory of root's on a writable file system"
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
    #[error("{path:?} is not a weft store; move it away, then bring its claims back with `weftctl ledger import`")]
    NotAStore {
        /// The store file.
        path: PathBuf,
        /// What SQLite says, where it is not a database at all.
        #[source]
        source: Option<rusqlite::Error>,
    },
    /// Another attachment has what only one can have.
    #[error(
        "{} is taken by container {:?} ({} on network {:?})",
        told(name), holder.container_id, holder.ifname, holder.network
    )]
    Taken {
        /// The shared name.
        name: String,
        /// The attachment.
        holder: Box<Attachment>,
    },
    /// A newer weft wrote the file.
    #[error("the ledger {path:?} has format {found}, this weft knows up to {known}; run the newer weft again")]
    Newer {
        /// The store file.
        path: PathBuf,
        /// Its version.
        found: i64,
        /// Ours.
        known: i64,
    },
    /// The file is older than this program, and may not be written now.
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
    #[error("no space left for the ledger {path:?}; free some on its file system")]
    Full {
        /// The store file.
        path: PathBuf,
        /// What SQLite says.
        #[source]
        source: rusqlite::Error,
    },
    /// The file's contents contradict each other.
    #[error(
        "the ledger {path:?} is damaged ({detail}); move it away, then bring its claims back with `weftctl ledger import`"
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
    /// A write where only reading is possible.
    #[error("cannot write the ledger {path:?}: it was opened for reading only, or its file system is read-only")]
    ReadOnly {
        /// The store file.
        path: PathBuf,
    },
    /// There is no journal entry to update.
    #[error(
        "the journal has no entry for interface {} of container {} on network {}",
        key.attachment.ifname, key.attachment.container_id, key.attachment.network
    )]
    NoEntry {
        /// Its key.
        key: Box<Key>,
    },
    /// Nothing claims the address.
    #[error("{address} is not claimed in scope {scope:?}; `weftctl ledger ls` lists what is")]
    NotClaimed {
        /// The scope.
        scope: String,
        /// The address.
        address: IpAddr,
    },
    /// An attachment uses the address.
    #[error(
        "{address} in scope {scope:?} is used by container {container_id}; delete that container, or force the release"
    )]
    InUse {
        /// The scope.
        scope: String,
        /// The address.
        address: IpAddr,
        /// Who uses it.
        container_id: String,
    },
    /// A directory of host-local cannot be read or written.
    #[error("cannot {action} {path:?}")]
    HostLocal {
        /// What was being done.
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A directory does not look like one of host-local's.
    #[error(
        "{path:?} holds neither host-local files nor directories of networks; name a network's directory or its parent"
    )]
    NotHostLocal {
        /// The directory.
        path: PathBuf,
    },
    /// A network cannot be a directory name.
    #[error("network {network:?} cannot be the name of a directory, so host-local cannot have it")]
    BadNetworkName {
        /// The network.
        network: String,
    },
}

/// Why a claim was not made.
#[derive(Debug, thiserror::Error)]
pub enum ClaimError<E> {
    /// Every candidate of a want is taken; the policy must be asked again.
    #[error("every address proposed for address number {want} is taken by now")]
    Lost {
        /// Its place in the ask.
        want: usize,
    },
    /// The attachment has a journal entry already.
    #[error(
        "interface {} of container {} is attached to network {} already; delete that attachment first",
        key.attachment.ifname, key.attachment.container_id, key.attachment.network
    )]
    Exists {
        /// The key.
        key: Box<Key>,
        /// What the existing entry holds.
        addresses: Vec<IpAddr>,
    },
    /// The caller's record could not be made.
    #[error("cannot plan the attachment")]
    Record(#[source] E),
    /// The store failed.
    #[error("cannot write the claim")]
    Ledger(#[source] LedgerError),
}

/// Why an entry was not amended.
#[derive(Debug, thiserror::Error)]
pub enum AmendError<E> {
    /// The caller's own error.
    #[error("cannot amend the journal entry")]
    Change(#[source] E),
    /// The store failed.
    #[error("cannot write the journal entry")]
    Ledger(#[source] LedgerError),
}

impl<E> From<LedgerError> for AmendError<E> {
    fn from(error: LedgerError) -> Self {
        Self::Ledger(error)
    }
}

impl<E> From<LedgerError> for ClaimError<E> {
    fn from(error: LedgerError) -> Self {
        Self::Ledger(error)
    }
}
