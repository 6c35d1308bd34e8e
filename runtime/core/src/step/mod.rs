//! Steps: what is done to a link that something else made (portmap, tuning, ...). Pure functions from configuration and the
//! result so far to ops. One file per kind, one line in `registry`.
//!
//! A step touches nothing: what it must know of the host it asks for (`needs`), what it wants done it returns (`plan`). The
//! same step serves a chained plugin of its name, where the links are there already, and an entry of `"steps"` of a
//! `weft` configuration, where the delegate's plan makes them just before.

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

use kind::mistyped;
pub use kind::{Previous, Step, StepError, StepInput, StepPlan};
pub use registry::{find, kinds};
