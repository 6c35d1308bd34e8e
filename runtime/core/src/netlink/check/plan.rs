//! Compares a whole plan.

use super::{Difference, LaterChanges};
use crate::netlink::Executor;
use crate::netlink::error::NetlinkError;
use crate::netlink::ops::operation;
use crate::plan::{Op, Plan};

impl Executor {
    /// Compares an applied plan with what netlink shows.
    ///
    /// Sysctls of the container are ignored because the container may change them, except those on which the host
    /// depends.
    ///
    /// # Errors
    /// The kernel refuses to show something.
    pub fn check(&mut self, plan: &Plan) -> Result<Vec<Difference>, NetlinkError> {
        self.check_since(plan, &LaterChanges::default())
    }

    /// Like `check`, for a plan after which other plugins of the chain ran.
    ///
    /// # Errors
    /// As `check`.
    pub fn check_since(&mut self, plan: &Plan, since: &LaterChanges) -> Result<Vec<Difference>, NetlinkError> {
        let since = since.clone().with_ops(&plan.ops).with_link_index(plan.link_index);
        let mut differences = Vec::new();
        let lost = self.lost_filters(std::slice::from_ref(plan))?.into_iter().next().unwrap_or_default();
        for (at, op) in plan.ops.iter().enumerate() {
            if lost.contains(&at) {
                differences.push(Difference::of_filter(op));
            }
            operation(op).check(self, &since, &mut differences)?;
        }
        for difference in &mut differences {
            if let Difference::NoHostLink { name, bridge } = difference {
                *bridge = plan.ops.iter().find_map(|op| match op {
                    Op::BridgePort { link, bridge, .. } if link == name => Some(bridge.clone()),
                    _ => None,
                });
            }
        }
        Ok(differences)
    }

    /// Returns the errors that applying the plan would return because of the host's current state, as far as they can
    /// be detected. Changes nothing.
    ///
    /// # Errors
    /// As [`Executor::apply`].
    pub fn preflight(&self, plan: &Plan) -> Result<(), NetlinkError> {
        plan.ops.iter().try_for_each(|op| operation(op).preflight(self))
    }
}
