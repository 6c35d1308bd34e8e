//! Claims and cells whose content cannot be read, because a newer version or a person has written it: they are taken, and
//! nobody may take them over.

use std::net::{IpAddr, Ipv4Addr};

use weft_core::ledger::remote::{Owner, Versions};

use super::block::{Block, BlockHolder, BlockSpec, CELL};
use super::object::{Claim, ClaimOwner, ClaimSpec, ClaimState, Holder, Sharing, address_of};

/// `kind` of the owner, and id of the machine, of what cannot be read.
pub(super) const UNREADABLE: &str = "unreadable";

impl Claim {
    /// Returns a claim whose content cannot be read: its address is taken, and nobody may take it over.
    pub(super) fn unreadable(name: &str, versions: Versions) -> Self {
        let (domain, address) = split_claim_name(name);
        let owner = Owner { kind: UNREADABLE.to_owned(), uid: name.to_owned(), ..Owner::default() };
        let holder = Holder { machine: UNREADABLE.to_owned(), container_id: name.to_owned(), ..Holder::default() };
        let spec = ClaimSpec {
            domain,
            address,
            owner: ClaimOwner { owner, network: String::new(), interface: String::new(), slot: 0 },
            pool: String::new(),
            prefix: 0,
            state: ClaimState::Active,
            sharing: Sharing::Exclusive,
            rest_seconds: 0,
            in_use_by: None,
            holders: vec![holder],
        };
        Self { spec, versions, deleting: false }
    }

    /// Returns whether its content cannot be read.
    pub(super) fn is_unreadable(&self) -> bool {
        self.spec.owner.owner.kind == UNREADABLE
    }
}

/// Returns domain and address of a name of a claim. A name without an address has the unspecified one.
pub(super) fn split_claim_name(name: &str) -> (String, IpAddr) {
    let domain = name.rsplit_once('-').map_or(name, |(domain, _hex)| domain);
    (domain.to_owned(), address_of(domain, name).unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED)))
}

impl Block {
    /// Returns a cell whose content cannot be read: it is taken, and gives nothing out.
    pub(super) fn unreadable(name: &str, versions: Versions) -> Self {
        let (domain, first) = split_claim_name(name.strip_suffix(CELL).unwrap_or(name));
        let holder = BlockHolder { node: UNREADABLE.to_owned(), machine: UNREADABLE.to_owned(), ..Default::default() };
        let spec = BlockSpec { domain, first, size: 1, pool: String::new(), shared: false, holder: Some(holder) };
        Self { spec, versions }
    }
}
