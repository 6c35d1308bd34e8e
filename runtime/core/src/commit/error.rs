//! Why a claim was not made.

use std::net::IpAddr;

use crate::store::{Key, StoreError};

/// Why a claim was not made.
#[derive(Debug, thiserror::Error)]
pub enum ClaimError<E> {
    /// Every candidate of a want is taken; ask the policy again.
    #[error("every address proposed for address number {want} is taken by now")]
    Lost {
        /// The position of the want in the request.
        want: usize,
    },
    /// The attachment already has a journal entry.
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
    /// The intent was dropped before it could become an entry.
    #[error("the request for an address was withdrawn while the cluster ledger answered; try again")]
    Withdrawn,
    /// The caller's record could not be made.
    #[error("cannot plan the attachment")]
    Record(#[source] E),
    /// The store failed.
    #[error("cannot write the claim")]
    Ledger(#[source] StoreError),
}

impl<E> From<StoreError> for ClaimError<E> {
    fn from(error: StoreError) -> Self {
        Self::Ledger(error)
    }
}
