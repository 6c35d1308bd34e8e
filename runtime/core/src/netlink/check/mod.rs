//! CHECK: reports what netlink no longer shows of a plan. Each file in `ops` compares its own
//! op.

mod children;
mod difference;
mod later_changes;
mod link;
mod plan;
mod step_difference;

pub use children::ChildDifference;
pub use difference::Difference;
pub use later_changes::LaterChanges;
pub use step_difference::StepDifference;

pub(super) use link::{Made, check_mtu};
