//! One round in which claims and cells are given back. If the ledger refuses to delete one, the others
//! are still given back.

use super::backend::WriteError;
use super::drain::DrainError;

/// An object that the ledger refuses to write. The other objects are written all the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The object, for messages.
    pub what: String,
    /// Why.
    pub why: String,
}

/// The refusals of a round.
#[derive(Debug, Default)]
pub(super) struct Refusals(Vec<Refusal>);

impl Refusals {
    /// Returns what was done; `None` if the ledger refused it, which is noted.
    ///
    /// # Errors
    /// Any other failure.
    pub(super) fn keep<T>(
        &mut self,
        what: impl FnOnce() -> String,
        done: Result<T, impl Into<DrainError>>,
    ) -> Result<Option<T>, DrainError> {
        match done.map_err(Into::into) {
            Ok(done) => Ok(Some(done)),
            Err(DrainError::Write(WriteError::Refused(why))) => {
                self.0.push(Refusal { what: what(), why });
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Returns the refusals.
    pub(super) fn into_list(self) -> Vec<Refusal> {
        self.0
    }
}

/// The writes of a round.
#[derive(Debug, Default)]
pub(super) struct Round {
    removed: usize,
    refused: Option<WriteError>,
}

impl Round {
    /// Counts a write.
    ///
    /// # Errors
    /// The ledger does not answer, or is frozen: no further write would succeed.
    pub(super) fn count(&mut self, written: Result<usize, WriteError>) -> Result<(), DrainError> {
        match written {
            Ok(count) => self.removed += count,
            // It has been changed meanwhile; the next round reads it again.
            Err(WriteError::Conflict) => {}
            Err(error @ WriteError::Refused(_)) => drop(self.refused.get_or_insert(error)),
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    /// Ends the round. Returns how many were given back.
    ///
    /// # Errors
    /// The first refusal.
    pub(super) fn end(self) -> Result<usize, DrainError> {
        self.refused.map_or(Ok(self.removed), |error| Err(error.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_reported_after_all_others() {
        let mut round = Round::default();
        let refused = WriteError::Refused("a finalizer".to_owned());
        for written in [Ok(2), Err(refused.clone()), Err(WriteError::Conflict), Ok(1)] {
            assert!(round.count(written).is_ok());
        }
        assert_eq!(round.removed, 3);
        assert!(matches!(round.end(), Err(DrainError::Write(error)) if error == refused));
        assert!(Round::default().count(Err(WriteError::NoAnswer("late".to_owned()))).is_err());
    }
}
