//! What the executor knows about one kind of op.

use super::Session;
use crate::netlink::Executor;
use crate::netlink::check::{Difference, Since};
use crate::netlink::error::NetlinkError;
use crate::plan::Plan;

/// All that the executor knows about one kind of op. Its inverse it records when it is applied.
pub(in crate::netlink) trait Operation {
    /// Does it, and logs what takes it back.
    fn apply(&self, session: &mut Session<'_>) -> Result<(), NetlinkError>;

    /// Fails as `apply` would because of what is on the host already, as far as that shows beforehand. Looks only.
    fn foresee(&self, _executor: &Executor) -> Result<(), NetlinkError> {
        Ok(())
    }

    /// Whether applying it may change what is read of a link.
    fn changes_links(&self) -> bool {
        true
    }

    /// Removes what belongs to the attachment, for DEL and GC, which have the plan alone; missing is success. Nothing for what is
    /// shared, and for what goes away with a link of the plan.
    fn tear_down(&self, _executor: &mut Executor, _plan: &Plan) -> Result<(), NetlinkError> {
        Ok(())
    }

    /// Adds what netlink does not show of it. Nothing for what leaves no trace, or is the container's own business.
    fn check(
        &self,
        _executor: &mut Executor,
        _since: &Since,
        _found: &mut Vec<Difference>,
    ) -> Result<(), NetlinkError> {
        Ok(())
    }
}

impl<T: Operation + ?Sized> Operation for &T {
    fn apply(&self, session: &mut Session<'_>) -> Result<(), NetlinkError> {
        T::apply(self, session)
    }

    fn foresee(&self, executor: &Executor) -> Result<(), NetlinkError> {
        T::foresee(self, executor)
    }

    fn changes_links(&self) -> bool {
        T::changes_links(self)
    }

    fn tear_down(&self, executor: &mut Executor, plan: &Plan) -> Result<(), NetlinkError> {
        T::tear_down(self, executor, plan)
    }

    fn check(&self, executor: &mut Executor, since: &Since, found: &mut Vec<Difference>) -> Result<(), NetlinkError> {
        T::check(self, executor, since, found)
    }
}
