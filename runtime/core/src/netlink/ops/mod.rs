//! The ops: one file for each kind, with how it is applied, undone, torn down and checked ([`Operation`]); and applying a plan.
//!
//! Few round trips is the point: a link is looked up once and remembered, a new one is known from the kernel's
//! announcement of it, a port joins its bridge in the message that makes it, and all nftables elements of the plan are one transaction.

mod address;
mod apply;
mod bridge;
mod children;
mod device;
mod filter;
mod link;
mod neighbour;
mod operation;
mod probe;
mod registry;
mod route;
mod sbr;
mod session;
mod shaping;
mod sysctls;
mod tap;
mod tuning;
mod vlan;
mod vrf;
mod wait;

use operation::Operation;
pub(super) use registry::operation;
use session::Session;
