//! What a policy's view of the ledger has besides this node's own claims: what others have in a cluster ledger, and in block mode
//! the cells that addresses may come from.

use weft_host_abi::types::LedgerView;

use crate::ledger::View;
use crate::ledger::remote::{CellView, Looks, RemoteView, Runs, Span};

/// See the module.
#[derive(Debug, Clone, Default)]
pub(super) struct Beside {
    /// What is known to be taken.
    pub(super) taken: Runs,
    /// In block mode; without it every address may come from anywhere.
    pub(super) cells: Option<Cells>,
}

/// Where addresses may come from.
#[derive(Debug, Clone, Default)]
pub(super) struct Cells {
    pub(super) spans: Vec<Span>,
    /// Where the policy looks for room.
    pub(super) looks: Looks,
}

impl Beside {
    /// The view of the node's own claims with this over it.
    pub(super) fn over(self, own: View) -> Box<dyn LedgerView + Send> {
        match self.cells {
            Some(Cells { spans, looks }) => Box::new(CellView::new(RemoteView::new(own, self.taken), spans, looks)),
            None if self.taken == Runs::default() => Box::new(own),
            None => Box::new(RemoteView::new(own, self.taken)),
        }
    }
}
