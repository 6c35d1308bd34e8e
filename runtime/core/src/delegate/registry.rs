//! The built-in delegates by name, one line each.

use super::kind::Delegate;
use super::{bridge, dummy, host_device, ipvlan, loopback, macvlan, ptp, tap, vlan};

/// All delegates, by name.
const REGISTRY: &[&dyn Delegate] = &[
    &bridge::Bridge,
    &ptp::Ptp,
    &macvlan::Macvlan,
    &ipvlan::Ipvlan,
    &vlan::Vlan,
    &dummy::Dummy,
    &host_device::HostDevice,
    &tap::Tap,
    &loopback::Loopback,
];

/// Returns the built-in delegate of that name.
#[must_use]
pub fn find(kind: &str) -> Option<&'static dyn Delegate> {
    REGISTRY.iter().copied().find(|delegate| delegate.kind() == kind)
}

/// Returns the names of all built-in delegates.
pub fn kinds() -> impl Iterator<Item = &'static str> {
    REGISTRY.iter().map(|delegate| delegate.kind())
}
