//! The executor's interface to one kind of op.

use super::Session;
use crate::netlink::Executor;
use crate::netlink::check::{Difference, LaterChanges};
use crate::netlink::error::NetlinkError;
use crate::plan::Plan;

/// The executor's interface to one kind of op. `apply` records the inverse.
pub(in crate::netlink) trait Operation {
    /// Executes it, and logs its inverse.
    fn apply(&self, session: &mut Session<'_>) -> Result<(), NetlinkError>;

    /// Returns the error that `apply` would return because of the host's current state, as far as it can be detected.
    /// Changes nothing.
    fn preflight(&self, _executor: &Executor) -> Result<(), NetlinkError> {
        Ok(())
    }

    /// Returns whether applying it may change the properties of a link.
    fn changes_links(&self) -> bool {
        true
    }

    /// Removes what belongs to the attachment, for DEL and GC, which only have the plan; a missing object counts as
    /// success. Does nothing for shared objects, and for those that disappear with a link of the plan.
    fn tear_down(&self, _executor: &mut Executor, _plan: &Plan) -> Result<(), NetlinkError> {
        Ok(())
    }

    /// Adds the differences that netlink shows. Does nothing for ops that leave no trace, or that the container may
    /// change.
    fn check(
        &self,
        _executor: &mut Executor,
        _since: &LaterChanges,
        _found: &mut Vec<Difference>,
    ) -> Result<(), NetlinkError> {
        Ok(())
    }
}

impl<T: Operation + ?Sized> Operation for &T {
    fn apply(&self, session: &mut Session<'_>) -> Result<(), NetlinkError> {
        T::apply(self, session)
    }

    fn preflight(&self, executor: &Executor) -> Result<(), NetlinkError> {
        T::preflight(self, executor)
    }

    fn changes_links(&self) -> bool {
        T::changes_links(self)
    }

    fn tear_down(&self, executor: &mut Executor, plan: &Plan) -> Result<(), NetlinkError> {
        T::tear_down(self, executor, plan)
    }

    fn check(
        &self,
        executor: &mut Executor,
        since: &LaterChanges,
        found: &mut Vec<Difference>,
    ) -> Result<(), NetlinkError> {
        T::check(self, executor, since, found)
    }
}
