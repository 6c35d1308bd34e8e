//! CHECK: what of a plan netlink does not show. How one op is compared, its file in `ops` says.

mod children;
mod difference;
mod link;
mod plan;
mod since;
mod step_difference;

pub use children::ChildDifference;
pub use difference::Difference;
pub use since::Since;
pub use step_difference::StepDifference;

pub(super) use link::{Made, check_mtu};
