//! The host's knowledge of the pod besides the request. A policy that uses it needs a host of contract 0.1.1 or newer.
//! In unit tests on the host, the answers are those of `testing::set_facts`.

use crate::Pair;

pub use crate::bindings::weft::policy::facts::FactSource;

/// Returns the source of the request's labels and annotations.
#[must_use]
pub fn source() -> FactSource {
    imp::source()
}

/// Returns the labels of the pod's namespace, sorted by key; none if the API server was not asked.
#[must_use]
pub fn namespace_labels() -> Vec<Pair> {
    imp::namespace_labels()
}

#[cfg(target_family = "wasm")]
mod imp {
    pub(super) use crate::bindings::weft::policy::facts::{namespace_labels, source};
}

/// There is no host from which to import.
#[cfg(not(target_family = "wasm"))]
pub(crate) mod imp {
    use std::cell::RefCell;

    use super::FactSource;
    use crate::Pair;

    thread_local! {
        static FACTS: RefCell<(FactSource, Vec<Pair>)> = const { RefCell::new((FactSource::Runtime, Vec::new())) };
    }

    pub(super) fn source() -> FactSource {
        FACTS.with_borrow(|facts| facts.0)
    }

    pub(super) fn namespace_labels() -> Vec<Pair> {
        FACTS.with_borrow(|facts| facts.1.clone())
    }

    #[cfg(any(test, feature = "testing"))]
    pub(crate) fn set(source: FactSource, namespace_labels: Vec<Pair>) {
        FACTS.set((source, namespace_labels));
    }
}
