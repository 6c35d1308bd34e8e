//! Steps: changes to a link that something else made (portmap, tuning, ...). Pure functions from configuration and
//! previous result to ops. Each kind has one file, and one line in `registry`.
//!
//! A step has no side effects: it declares the facts that it needs (`needs`), and returns what is to be done (`plan`).
//! The same step implements a chained plugin of its name, whose links already exist, and an entry of `"steps"` in a
//! `weft` configuration, where the delegate's plan makes the links just before.

mod bandwidth;
mod default_route;
mod firewall;
mod kind;
mod portmap;
mod registry;
mod sbr;
mod tag;
#[cfg(test)]
mod tests;
mod tuning;
mod vrf;

pub use bandwidth::ifb_name;
use kind::mistyped;
pub use kind::{Previous, Step, StepError, StepInput, StepPlan};
pub use registry::{find, kinds};
