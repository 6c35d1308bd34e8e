//! Decides which imported claims an import may remove.
//!
//! Invariant: an import removes a claim only if it has read the object that the claim came from (same namespace, same
//! domain) and the address is not in it. An object that is missing or unreadable says nothing about its addresses, so
//! their claims stay.

use std::collections::BTreeMap;

use super::objects::{RESERVATION, ReadObjects};
use super::{ImportOptions, names};
use crate::claim::object::ClaimSpec;

/// What one import has read.
#[derive(Debug)]
pub(super) struct Source {
    namespace: String,
    /// The domain of networks without `network_name`.
    domain: String,
    /// Network of each IPPool that was read, by the text that claims have (`IPPool NAME`).
    pools: BTreeMap<String, String>,
    reservations: bool,
    is_complete: bool,
}

// === impl Source ===

impl Source {
    pub(super) fn new(said: &ReadObjects, options: &ImportOptions) -> Self {
        Self {
            namespace: options.namespace.clone(),
            domain: options.domain.clone(),
            pools: said.pools.clone(),
            reservations: said.reservations,
            is_complete: said.unreadable.is_empty(),
        }
    }

    /// Returns whether an imported claim came from this namespace.
    pub(super) fn is_source_of(&self, spec: &ClaimSpec) -> bool {
        spec.holders.iter().any(|holder| holder.store_id == self.namespace)
    }

    /// Returns why an imported claim of this namespace must stay although no allocation was found; `None` if it may
    /// go.
    pub(super) fn reason_to_keep(&self, spec: &ClaimSpec) -> Option<String> {
        let object = &spec.owner.network;
        let network = match object.strip_prefix(RESERVATION) {
            Some(_name) if !self.reservations || self.pools.is_empty() => {
                return Some(format!("no reservations or no IPPools are in the namespace {}", self.namespace));
            }
            // Its object is gone by now, so the network comes from its name.
            Some(name) if name.trim() == names::of_address("", spec.address) => "",
            Some(_name) => spec.domain.as_str(),
            None => match self.pools.get(object) {
                Some(network) => network.as_str(),
                None => return Some(format!("{object} was not found or is unreadable")),
            },
        };
        let domain = if network.is_empty() { self.domain.as_str() } else { network };
        if domain != spec.domain {
            return Some(format!("this import is for the domain {domain}"));
        }
        (!self.is_complete).then(|| "other objects are unreadable".to_owned())
    }
}
