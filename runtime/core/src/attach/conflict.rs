//! Addresses that somebody on the wire uses although the ledger gave them out. The attempt is undone completely, each
//! such address is marked in the ledger, and the policy is asked for others.
//!
//! Invariants: an address is marked in the transaction that takes back the journal entry which claimed it. An
//! irreplaceable address is not marked, so that the next try probes it again.

use std::net::IpAddr;

use weft_host_abi::types::{ClaimState, Denial, ReleaseRule};

use super::call::Call;
use super::decide::Decided;
use super::error::AttachError;
use super::node::Node;
use super::notice::Notice;
use crate::cni::CniResult;
use crate::ledger::Claimed;
use crate::netlink::{NetlinkError, in_use};
use crate::plan::Mac;

/// How many attempts of an ADD may meet a conflict. More are no accident: the range is in use.
const MOST: usize = 4;

/// Addresses, each with the hardware address of the host that answers for it.
pub(super) type InUse = Vec<(IpAddr, Mac)>;

/// Makes an attachment, and picks other addresses if somebody on the wire has the given ones.
pub(super) fn retry_on_conflict<'n>(
    node: &mut Node<'n>,
    call: &Call,
    mut attach: impl FnMut(&mut Node<'n>, &Call) -> Result<CniResult, AttachError>,
) -> Result<CniResult, AttachError> {
    let before = node.watched.len();
    let mut found = InUse::new();
    for _attempt in 0..MOST {
        let added = attach(node, call);
        if let Err(AttachError::InUse { by } | AttachError::WantedInUse { by }) = &added {
            node.log.counts.conflicts(&call.network.name, by.len());
            node.log.add_notice(Notice::Conflict(format!("{} on network {:?}", in_use(by), call.network.name)));
        }
        match added {
            Err(AttachError::InUse { by }) => {
                node.log(&format!("{} on network {:?}: marked, and another is taken", in_use(&by), call.network.name));
                found.extend(by);
                // A monitored policy is compared with the decision that counts.
                node.watched.truncate(before);
            }
            Err(error) if !found.is_empty() && is_for_want_of_addresses(&error) => {
                return Err(AttachError::Conflicts { by: found, cause: Some(Box::new(error)) });
            }
            other => return other,
        }
    }
    Err(AttachError::Conflicts { by: found, cause: None })
}

fn is_for_want_of_addresses(error: &AttachError) -> bool {
    matches!(
        error,
        AttachError::Denied { denial: Denial::Exhausted(_), .. }
            | AttachError::NoCell { .. }
            | AttachError::OffersTaken { .. }
            | AttachError::TakenInCluster { .. }
            | AttachError::Contended { .. }
    )
}

/// Returns the claimed addresses that cannot be replaced: those requested by name, those listed one by one in the
/// configuration, and those kept for the pod.
pub(super) fn irreplaceable(call: &Call, decided: &Decided, claimed: &[Claimed]) -> Vec<IpAddr> {
    let request = decided.request();
    let keeps = matches!(decided.release, ReleaseRule::Keep(_));
    let candidates = || decided.wants.iter().flat_map(|want| &want.candidates);
    let is_irreplaceable = |address: &IpAddr| {
        let asked_for = request.requested.iter().any(|asked| asked.address == Some(*address));
        let named = candidates().any(|(net, range)| net.addr() == *address && range.is_none());
        let kept = keeps && request.held.iter().any(|held| held.address == *address && held.state == ClaimState::Kept);
        asked_for || named || kept
    };
    if call.network.terms.duplicates.is_none() {
        return Vec::new();
    }
    claimed.iter().map(|claim| claim.address.addr()).filter(is_irreplaceable).collect()
}

/// Returns why an attempt failed, and the addresses to mark as a consequence.
pub(super) fn judge(cause: AttachError, irreplaceable: &[IpAddr]) -> (AttachError, InUse) {
    let AttachError::Op { source: NetlinkError::InUse { by, .. }, .. } = cause else { return (cause, InUse::new()) };
    let wanted: InUse = by.iter().filter(|(address, _mac)| irreplaceable.contains(address)).copied().collect();
    if wanted.is_empty() {
        (AttachError::InUse { by: by.clone() }, by)
    } else {
        (AttachError::WantedInUse { by: wanted }, InUse::new())
    }
}
