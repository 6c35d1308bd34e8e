//! Addresses that somebody on the wire has although the ledger gave them: the attempt is undone whole, each such address is marked
//! in the ledger, and the policy is asked for others.
//!
//! Invariants: an address is marked in the transaction that takes back the journal entry which claimed it; one for which no
//! other would do is not marked, so that the next try asks its neighbours again.

use std::net::IpAddr;

use weft_host_abi::types::{ClaimState, Denial, ReleaseRule};

use super::call::Call;
use super::decide::Decided;
use super::error::AttachError;
use super::node::Node;
use crate::agent::counters;
use crate::cni::CniResult;
use crate::ledger::Claimed;
use crate::netlink::{NetlinkError, in_use};
use crate::plan::Mac;

/// So many attempts of an ADD may meet somebody else's address. More are no accident: the range is in use.
const MOST: usize = 4;

/// Addresses with the hardware address of who answers for each.
pub(super) type InUse = Vec<(IpAddr, Mac)>;

/// Makes an attachment, with other addresses where somebody on the wire has those that were given.
pub(super) fn around<'n>(
    node: &mut Node<'n>,
    call: &Call,
    mut attach: impl FnMut(&mut Node<'n>, &Call) -> Result<CniResult, AttachError>,
) -> Result<CniResult, AttachError> {
    let before = node.watched.len();
    let mut found = InUse::new();
    for _attempt in 0..MOST {
        let added = attach(node, call);
        if let Err(AttachError::InUse { by } | AttachError::WantedInUse { by }) = &added {
            counters::count_conflicts(&node.context.state_dir, &call.network.name, by.len());
        }
        match added {
            Err(AttachError::InUse { by }) => {
                node.log(&format!("{} on network {:?}: marked, and another is taken", in_use(&by), call.network.name));
                found.extend(by);
                // What a monitored policy is compared with is the decision that counts.
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

/// Of claimed addresses, those for which no other would do: that were asked for, that the configuration names one by one, or that
/// were kept for the pod.
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

/// Why an attempt failed, and the addresses to mark for it.
pub(super) fn judge(cause: AttachError, irreplaceable: &[IpAddr]) -> (AttachError, InUse) {
    let AttachError::Op { source: NetlinkError::InUse { by, .. }, .. } = cause else { return (cause, InUse::new()) };
    let wanted: InUse = by.iter().filter(|(address, _mac)| irreplaceable.contains(address)).copied().collect();
    if wanted.is_empty() {
        (AttachError::InUse { by: by.clone() }, by)
    } else {
        (AttachError::WantedInUse { by: wanted }, InUse::new())
    }
}
