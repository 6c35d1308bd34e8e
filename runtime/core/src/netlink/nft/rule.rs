//! Rules of one attachment, for what sets cannot express. Each has a unique tag, stored where `nft` (in our tables) or
//! `iptables` (in its own) displays a comment. The tag finds the rule, whatever happened to the rules around it.

use std::collections::BTreeSet;

use netlink_packet_netfilter::nftables::Expressions;

use super::base_rules::CONDITIONAL;
use super::gate::{self, Gate};
use super::ports::PortChain;
use super::rule_message::addition;
use super::table::{Item, Table};

/// A rule of an attachment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::netlink) struct TaggedRule {
    pub(super) table: Table,
    pub(super) chain: String,
    pub(super) tag: String,
    pub(super) expressions: Vec<Expressions>,
    /// The variant for a kernel without iptables matches.
    pub(super) otherwise: Option<Vec<Expressions>>,
    /// The chains and rules that it needs around it.
    pub(super) gate: Option<Gate>,
    /// The port whose chain it is in.
    pub(super) port: Option<PortChain>,
}

/// Returns the chains of the ports that these rules are about.
pub(super) fn port_chains(rules: &[TaggedRule]) -> BTreeSet<PortChain> {
    rules.iter().filter_map(|rule| rule.port).collect()
}

// === impl TaggedRule ===

impl TaggedRule {
    /// Returns the chains in which it may be: its own, and the one that older versions used.
    pub(super) fn possible_chains(&self) -> impl Iterator<Item = &str> {
        let of_port = self.port.map(|_port| CONDITIONAL);
        let older = self.gate.as_ref().map(|_gate| gate::CHAIN).or(of_port);
        [self.chain.as_str()].into_iter().chain(older)
    }

    /// Returns the request that adds it.
    pub(super) fn addition(&self, plain: bool) -> Item {
        match &self.otherwise {
            Some(otherwise) if plain => addition(self.table, &self.chain, otherwise.clone(), Some(&self.tag)),
            Some(_) => addition(self.table, &self.chain, self.expressions.clone(), None),
            None => addition(self.table, &self.chain, self.expressions.clone(), Some(&self.tag)),
        }
    }
}
