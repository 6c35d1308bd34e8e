//! The built-in steps by name, one line each.

use super::kind::Step;
use super::{bandwidth, default_route, firewall, portmap, sbr, tuning, vrf};

/// All steps, by name.
const REGISTRY: &[&dyn Step] = &[
    &portmap::Portmap,
    &firewall::Firewall,
    &tuning::Tuning,
    &bandwidth::Bandwidth,
    &sbr::Sbr,
    &vrf::Vrf,
    &default_route::DefaultRoute,
];

/// Returns the step of that name.
#[must_use]
pub fn find(kind: &str) -> Option<&'static dyn Step> {
    REGISTRY.iter().copied().find(|step| step.kind() == kind)
}

/// Returns the names of the steps that are stock plugins.
pub fn kinds() -> impl Iterator<Item = &'static str> {
    REGISTRY.iter().filter(|step| step.is_program()).map(|step| step.kind())
}
