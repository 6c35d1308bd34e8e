//! CHECK: what of a plan netlink does not show. How one op is compared, its file in `ops` says.

mod children;
mod difference;
mod since;
mod step_difference;

pub use children::ChildDifference;
pub use difference::Difference;
pub use since::Since;
pub use step_difference::StepDifference;

use super::Executor;
use super::error::{Doing, NetlinkError};
use super::ops::operation;
use super::rtnl::{Link, Lookup};
use crate::plan::{LinkRef, Mac, Op, Plan};

/// What a container link was made as.
pub(super) struct Made {
    pub(super) kind: &'static str,
    /// Its chosen index, if it has one.
    pub(super) index: Option<u32>,
    pub(super) mac: Option<Mac>,
}

impl Executor {
    /// Compares a plan that was applied with what netlink shows.
    ///
    /// Sysctls of the container are its own business and not compared, except those the host depends on.
    ///
    /// # Errors
    /// The kernel refuses to show something.
    pub fn check(&mut self, plan: &Plan) -> Result<Vec<Difference>, NetlinkError> {
        self.check_since(plan, &Since::default())
    }

    /// As `check`, of a plan after which other plugins of the chain had their turn.
    ///
    /// # Errors
    /// As `check`.
    pub fn check_since(&mut self, plan: &Plan, since: &Since) -> Result<Vec<Difference>, NetlinkError> {
        let since = since.clone().and(&plan.ops).with_link_index(plan.link_index);
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

    /// Fails as applying the plan would because of what is on the host already, as far as that shows beforehand. Looks only.
    ///
    /// # Errors
    /// As [`Executor::apply`].
    pub fn foresee(&self, plan: &Plan) -> Result<(), NetlinkError> {
        plan.ops.iter().try_for_each(|op| operation(op).foresee(self))
    }

    /// Looks a link up; `None` where there is none.
    pub(super) fn look(&self, link: &LinkRef) -> Result<Option<Link>, NetlinkError> {
        let Some(rtnl) = self.rtnl(link.side) else {
            return Err(NetlinkError::NoContainer { op: format!("looking at {link}") });
        };
        rtnl.link(Lookup::Name(&link.name)).doing(|| format!("failed to lookup {link}"))
    }

    /// The container's link, if it is there and the one that was made.
    pub(super) fn check_container_link(
        &self,
        link: &LinkRef,
        made: &Made,
        found: &mut Vec<Difference>,
    ) -> Result<Option<Link>, NetlinkError> {
        let same = |there: &Link| there.kind == made.kind && made.index.is_none_or(|index| there.index == index);
        let there = self.look(link)?.filter(same);
        match (&there, made.mac) {
            (None, _) => found.push(Difference::NoContainerLink { name: link.name.clone() }),
            (Some(there), Some(want)) if there.mac != Some(want) => {
                found.push(Difference::Mac { link: link.clone(), want, have: there.mac });
            }
            _ => {}
        }
        Ok(there)
    }
}

/// Compares an MTU that was given.
pub(super) fn check_mtu(there: &Link, want: Option<u32>, found: &mut Vec<Difference>) {
    if let Some(want) = want.filter(|want| *want != there.mtu) {
        found.push(Difference::Child(ChildDifference::Mtu { link: there.name.clone(), want, have: there.mtu }));
    }
}
