//! The record of an applied plan: the links of the result, and how to take everything back.

use std::collections::{BTreeMap, BTreeSet};

use super::inverse::Logged;
use super::rtnl::Link;
use crate::plan::{LinkInfo, LinkRef};

/// An applied plan.
#[derive(Debug, Default)]
pub struct Applied {
    /// The links of `plan.result.interfaces`, read after the last op. Addresses are only read if the result needs them
    /// (`observed_addresses`), because each link would cost another request.
    pub links: BTreeMap<LinkRef, LinkInfo>,
    pub(super) log: Vec<Logged>,
    /// Links that were looked up and made, for an `extend`.
    pub(super) known: BTreeMap<LinkRef, Link>,
    pub(super) made: BTreeSet<LinkRef>,
}
