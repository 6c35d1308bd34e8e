//! Errors of the ledger. Each message says what to do.

use std::net::IpAddr;
use std::path::PathBuf;

use crate::store::StoreError;

/// A failure of the ledger.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// The address is not claimed.
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
    #[error("network {network:?} cannot be a directory name, so it cannot be exported to host-local")]
    BadNetworkName {
        /// The network.
        network: String,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}
