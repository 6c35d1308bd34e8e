//! The common context of work on cells.

use std::cell::RefCell;
use std::time::Duration;

use tokio::time::{Instant, sleep};
use weft_core::ledger::remote::Cell;
use weft_core::store::NodeStore;

use super::error::CellError;
use crate::claim::backend::Backend;
use crate::claim::object::Identity;
use crate::pause::Pause;

/// Pause between two requests to a ledger that does not answer.
const RETRY: Duration = Duration::from_millis(200);
const LONGEST_RETRY: Duration = Duration::from_secs(2);

/// A cluster ledger and this node's side of it.
pub(in crate::claim) struct CellWork<'a, B> {
    pub(in crate::claim) backend: &'a B,
    pub(in crate::claim) store: &'a RefCell<NodeStore>,
    pub(in crate::claim) identity: &'a Identity,
    /// The ledger's name in rows.
    pub(in crate::claim) ledger: &'a str,
}

/// Repeated tries until a deadline.
pub(super) struct Tries {
    deadline: Instant,
    pause: Pause,
}

impl Tries {
    pub(super) fn with_deadline(deadline: Instant) -> Self {
        Self { deadline, pause: Pause::new(RETRY, LONGEST_RETRY) }
    }

    /// Waits before the next try.
    pub(super) async fn wait(&mut self, trouble: String) -> Result<(), CellError> {
        let pause = self.pause.next();
        if Instant::now() + pause >= self.deadline {
            return Err(CellError::Deadline(trouble));
        }
        sleep(pause).await;
        Ok(())
    }
}

impl<B: Backend> CellWork<'_, B> {
    /// Returns this node's cells of the ledger.
    pub(super) fn cells(&self) -> Result<Vec<Cell>, CellError> {
        let mut cells = self.store.borrow().cells()?;
        cells.retain(|cell| cell.ledger == self.ledger);
        Ok(cells)
    }

    /// # Errors: the ledger may have been restored from a backup, so its answers must not be used (rule `doubt`).
    pub(super) fn certain(&self) -> Result<(), CellError> {
        self.backend.history().doubt().map_or(Ok(()), |why| Err(CellError::Doubt(why)))
    }
}
