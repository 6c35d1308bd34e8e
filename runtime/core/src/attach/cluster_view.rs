//! The part of a policy's ledger view that does not come from this node's own claims: addresses that others have in a
//! cluster ledger, and in block mode the cells that addresses may come from.

use weft_host_abi::types::LedgerView;

use crate::ledger::View;
use crate::ledger::remote::{CellView, Looks, RemoteView, Runs, Span};

/// The additional part of the view; see the module.
#[derive(Debug, Clone, Default)]
pub(super) struct ClusterView {
    /// Addresses that are known to be taken.
    pub(super) taken: Runs,
    /// The cells, in block mode. `None`: addresses may come from anywhere.
    pub(super) cells: Option<Cells>,
}

/// The cells that addresses may come from.
#[derive(Debug, Clone, Default)]
pub(super) struct Cells {
    pub(super) spans: Vec<Span>,
    /// Records where the policy looks for free addresses.
    pub(super) looks: Looks,
}

impl ClusterView {
    /// Forgets where a policy looked whose answer is not used.
    pub(super) fn forget_looks(&self) {
        if let Some(cells) = &self.cells {
            cells.looks.forget();
        }
    }

    /// Returns the view of the node's own claims, extended by this.
    pub(super) fn extend_view(self, own: View) -> Box<dyn LedgerView + Send> {
        match self.cells {
            Some(Cells { spans, looks }) => Box::new(CellView::new(RemoteView::new(own, self.taken), spans, looks)),
            None if self.taken == Runs::default() => Box::new(own),
            None => Box::new(RemoteView::new(own, self.taken)),
        }
    }
}
