//! What the host knows of the pod beside what the request says. A policy that uses it needs a host of contract 0.1.1 or newer.

use crate::Pair;
use crate::bindings::weft::policy::facts;

pub use crate::bindings::weft::policy::facts::FactSource;

/// Where the labels and annotations of the request come from.
#[must_use]
pub fn source() -> FactSource {
    facts::source()
}

/// Labels of the pod's namespace, sorted by key; none where the API server was not asked.
#[must_use]
pub fn namespace_labels() -> Vec<Pair> {
    facts::namespace_labels()
}
