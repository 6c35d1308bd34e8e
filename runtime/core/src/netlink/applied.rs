//! What applying a plan left behind: the links of the result, and how to take everything back.

use std::collections::{BTreeMap, BTreeSet};

use super::inverse::Logged;
use super::rtnl::Link;
use crate::plan::{LinkInfo, LinkRef};

/// A plan that was applied.
#[derive(Debug, Default)]
pub struct Applied {
    /// The links of `plan.result.interfaces`, read after the last op. Addresses are read only where the result asks for
    /// them (`observed_addresses`), since each link would cost a request more.
    pub links: BTreeMap<LinkRef, LinkInfo>,
    pub(super) log: Vec<Logged>,
    /// What was looked up and made, for an `extend`.
    pub(super) known: BTreeMap<LinkRef, Link>,
    pub(super) made: BTreeSet<LinkRef>,
}
