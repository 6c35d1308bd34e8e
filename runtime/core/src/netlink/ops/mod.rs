//! The ops: one file per kind implements applying, undoing, tearing down and checking ([`Operation`]). Also applies
//! plans.
//!
//! The aim is few round trips: a link is looked up once and cached, a new link is known from the kernel's announcement,
//! a port joins its bridge in the message that makes it, and all nftables elements of the plan are one transaction.

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
