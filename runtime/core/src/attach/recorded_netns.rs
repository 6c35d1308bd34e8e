//! What the journal has of a container's network namespace, besides its path.

use crate::plan::Plan;

/// Identifies a namespace.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct RecordedNetns<'a> {
    /// Its identity (`netlink::netns_identity`). `None` in entries of earlier versions.
    pub(crate) container: Option<&'a str>,
    /// Its cookie (`netlink::netns_cookie`). `None` in entries of earlier versions, and on kernels without cookies.
    pub(crate) cookie: Option<u64>,
}

impl<'a> RecordedNetns<'a> {
    /// Returns what a plan has.
    pub(super) fn of_plan(plan: &'a Plan) -> Self {
        Self { container: plan.container.as_deref(), cookie: plan.cookie }
    }
}
