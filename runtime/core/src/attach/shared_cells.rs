//! Cells that an ADD needs: shared cells, in which its addresses are claimed one by one, and the ranges without free
//! addresses.

use ipnet::IpNet;
use weft_host_abi::types::{RangeSet, Request};

use super::call::Call;
use super::cluster_agent::Cluster;
use super::cluster_view::Cells;
use super::error::AttachError;
use crate::agent::claim::ClaimReply;
use crate::ledger::remote::{Looks, Runs, Span};

/// How often an ADD asks for more cells.
pub(super) const CELLS: u32 = 8;

/// Shared cells that this ADD knows of.
#[derive(Default)]
pub(super) struct Shared {
    spans: Vec<Span>,
    asked: u32,
}

impl Shared {
    /// Returns what the policy sees. An address requested by name may lie anywhere: its cell is looked up, or made.
    pub(super) fn cells_for(&self, call: &Call, request: &Request) -> Cells {
        let declared = call.network.ipam.as_ref().map(|ipam| ipam.declared.as_slice()).unwrap_or_default();
        let requested = request.requested.iter().filter_map(|requested| requested.address);
        let named = requested.chain(declared.iter().map(IpNet::addr)).map(|address| (address, address));
        Cells { spans: self.spans.iter().copied().chain(named).collect(), looks: Looks::default() }
    }

    /// Asks for shared cells if the policy found no room. Returns whether there are more now.
    pub(super) fn grow(
        &mut self,
        cluster: &Cluster<'_>,
        call: &Call,
        looks: &Looks,
        others: &mut Runs,
    ) -> Result<bool, AttachError> {
        self.asked += 1;
        if self.asked > CELLS {
            return Ok(false);
        }
        let before = self.spans.len();
        for spans in exhausted_spans(call, looks) {
            let known = self.spans.iter().map(|(first, _last)| *first).collect();
            match cluster.cell(spans, true, known)? {
                ClaimReply::Shared { cells, taken } => {
                    self.spans.extend(cells);
                    taken.into_iter().for_each(|(first, last)| others.insert_run(first, last));
                }
                _no_cell => return Ok(false),
            }
            self.spans.sort_unstable();
            self.spans.dedup();
        }
        Ok(self.spans.len() > before)
    }
}

/// Returns the ranges of each set in which a policy found no room.
pub(super) fn exhausted_spans(call: &Call, looks: &Looks) -> Vec<Vec<Span>> {
    let sets = call.network.ipam.as_ref().map(|ipam| ipam.range_sets.as_slice()).unwrap_or_default();
    let spans = |set: &RangeSet| set.ranges.iter().map(|range| (range.first, range.last)).collect();
    looks.exhausted_sets(sets).into_iter().map(spans).collect()
}
