//! Rules that belong to one attachment, for what sets cannot express. Each has a tag of its own, kept where `nft` (in our
//! tables) or `iptables` (in its) shows a comment: that is how it is found again, whatever happened to the rules around it.

use netlink_packet_netfilter::nftables::Expressions;

use super::gate::{self, Gate};
use super::rule_message::addition;
use super::table::{Item, Table};

/// A rule of an attachment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::netlink) struct TaggedRule {
    pub(super) table: Table,
    pub(super) chain: String,
    pub(super) tag: String,
    pub(super) expressions: Vec<Expressions>,
    /// For a kernel without the matches of iptables.
    pub(super) otherwise: Option<Vec<Expressions>>,
    /// What must be around it.
    pub(super) gate: Option<Gate>,
}

// === impl TaggedRule ===

impl TaggedRule {
    /// The chains it may be in: its own, and the one in which older versions put it.
    pub(super) fn places(&self) -> impl Iterator<Item = &str> {
        let older = self.gate.as_ref().map(|_gate| gate::CHAIN);
        [self.chain.as_str()].into_iter().chain(older)
    }

    /// The request that adds it.
    pub(super) fn addition(&self, plain: bool) -> Item {
        match &self.otherwise {
            Some(otherwise) if plain => addition(self.table, &self.chain, otherwise.clone(), Some(&self.tag)),
            Some(_) => addition(self.table, &self.chain, self.expressions.clone(), None),
            None => addition(self.table, &self.chain, self.expressions.clone(), Some(&self.tag)),
        }
    }
}
