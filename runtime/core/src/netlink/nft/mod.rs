//! nftables over netlink: transactions, and weft's objects.
//!
//! The rules are static (`base`); an attachment only adds elements to their sets (`element`). Adding one is cheap,
//! repeating it changes nothing, and deleting it needs no search. Exceptions are rules of attachments (`rule`): host
//! ports with conditions (`ports`), and accepted addresses in the table of `iptables` (`gate`).
//!
//! A transaction is atomic, but its answers must fit the socket's buffer, so one attachment is one transaction only up
//! to some hundred elements. Larger ones are split into several ([`Content::batches`]), each with its own inverse.
//!
//! A part of the base is made when it is found missing. It is kept when the last attachment is removed, like an empty
//! bridge. A failed ADD deletes the parts that it made, unless another attachment uses them. It never deletes `localnet`,
//! because nothing in nftables shows who relies on it. If somebody deleted rules of the base (`nft flush table`), the
//! next ADD restores them.

mod accept;
mod add;
mod answer;
mod base;
mod base_rules;
mod bytes;
mod condition;
mod element;
mod expr;
mod gate;
mod listing;
mod ports;
mod recover;
mod remove;
mod rule;
mod rule_message;
mod rules;
mod set;
mod socket;
mod stock;
mod survey;
mod table;

use std::collections::{BTreeSet, HashSet};

pub use self::recover::FilterOf;

use self::element::{Change, Element};
use self::gate::{Built, Gate};
use self::listing::Listing;
use self::rule::TaggedRule;
use self::socket::{Outcome, Socket};
use self::table::{Part, Table};
use super::error::NetlinkError;
use super::fault::{Doing, Fault};
use crate::plan::Op;

/// The size of a rule, in elements.
const RULE_WEIGHT: usize = 4;

/// The objects that ops need in nftables.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Content {
    elements: Vec<Element>,
    rules: Vec<TaggedRule>,
    parts: BTreeSet<Part>,
}

/// The actual changes of one transaction; enough to undo it exactly.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Added {
    /// New elements.
    elements: Vec<Element>,
    /// New rules.
    rules: Vec<TaggedRule>,
    /// New parts.
    parts: BTreeSet<Part>,
    /// New tables.
    tables: BTreeSet<Table>,
    /// New pieces of gates.
    built: Vec<Built>,
}

/// The nftables of one network namespace.
#[derive(Debug)]
pub(super) struct Nft {
    socket: Socket,
}

// === impl Content ===

impl Content {
    /// Collects what these ops need, without duplicates.
    pub(super) fn from_ops<'a>(ops: impl IntoIterator<Item = &'a Op>) -> Self {
        let mut content = Self::default();
        let mut known = HashSet::new();
        for op in ops {
            content.parts.extend(Part::needed_by(op).iter().copied());
            content.elements.extend(element::elements(op).into_iter().filter(|element| known.insert(element.clone())));
            content.rules.extend(rules::rules(op));
        }
        content
    }

    pub(super) fn is_empty(&self) -> bool {
        self.elements.is_empty() && self.rules.is_empty() && self.parts.is_empty()
    }

    /// Returns the gates of its rules.
    fn gates(&self) -> BTreeSet<Gate> {
        self.rules.iter().filter_map(|rule| rule.gate.clone()).collect()
    }

    /// Splits it into transactions of about `most` requests.
    fn batches(self, most: usize) -> Vec<Self> {
        let Self { elements, rules, parts } = self;
        if elements.len() + rules.len() * RULE_WEIGHT <= most {
            return vec![Self { elements, rules, parts }];
        }
        // Each makes the parts that are still missing then.
        let empty = || Self { parts: parts.clone(), ..Self::default() };
        let elements = elements.chunks(most).map(|piece| Self { elements: piece.to_vec(), ..empty() });
        let rules = rules.chunks((most / RULE_WEIGHT).max(1)).map(|piece| Self { rules: piece.to_vec(), ..empty() });
        elements.chain(rules).collect()
    }
}

// === impl Added ===

impl Added {
    /// Returns only what was made around elements and rules.
    pub(super) fn base_only(self) -> Self {
        Self { elements: Vec::new(), rules: Vec::new(), ..self }
    }
}

// === impl Nft ===

impl Nft {
    /// Opens the socket in the calling thread's network namespace.
    pub(super) fn open() -> Result<Self, NetlinkError> {
        let socket = Socket::open().doing(|| "failed to open the netfilter netlink socket")?;
        Ok(Self { socket })
    }

    /// Returns how many messages were sent so far.
    pub(super) fn sent(&self) -> u32 {
        self.socket.sent()
    }

    /// Splits the content into transactions.
    pub(super) fn batches(&mut self, content: Content) -> Vec<Content> {
        let few = content.elements.len() + content.rules.len() * RULE_WEIGHT <= socket::FEW;
        if few { vec![content] } else { content.batches(self.socket.capacity()) }
    }

    /// Returns whether all of it exists.
    pub(super) fn has_content(&mut self, content: &Content) -> Result<bool, NetlinkError> {
        let doing = || "failed to look up an nftables element";
        Ok(self.missing_contents(std::slice::from_ref(content)).doing(doing)?.is_empty())
    }

    /// Returns the indexes of those that are incomplete.
    pub(super) fn missing(&mut self, contents: &[Content]) -> Result<BTreeSet<usize>, NetlinkError> {
        self.missing_contents(contents).doing(|| "failed to look up nftables elements and rules")
    }

    fn missing_contents(&mut self, contents: &[Content]) -> Result<BTreeSet<usize>, Fault> {
        let mut lacking = BTreeSet::new();
        let parts: BTreeSet<Part> = contents.iter().flat_map(|content| content.parts.iter().copied()).collect();
        let broken = self.survey(&parts)?.into_keys().collect::<BTreeSet<Part>>();
        let elements: Vec<(usize, &Element)> = contents
            .iter()
            .enumerate()
            .flat_map(|(at, content)| content.elements.iter().map(move |e| (at, e)))
            .collect();
        let questions: Vec<_> = elements.iter().map(|(_, element)| element.item(Change::Get)).collect();
        let found = self.socket.ask_each(&questions, answer::element_data)?;
        for ((at, element), found) in elements.iter().zip(found) {
            if !found.is_some_and(|data| element.data().is_none() || element.data() == data.as_deref()) {
                lacking.insert(*at);
            }
        }
        let mut listing = Listing::new(&mut self.socket);
        for (at, content) in contents.iter().enumerate() {
            let mut is_whole = true;
            let mut ports = rule::port_chains(&content.rules);
            for rule in &content.rules {
                let found = find_rule(&mut listing, rule)?.next().map(|(chain, _handle)| chain);
                is_whole &= found.is_some();
                // An older weft put it where no port's chain is needed.
                if found.is_some_and(|chain| chain != rule.chain) {
                    ports.retain(|port| Some(*port) != rule.port);
                }
            }
            let questions: Vec<_> = ports.iter().map(|port| port.question()).collect();
            is_whole &= listing.socket().ask_each(&questions, |_answer| ())?.iter().all(Option::is_some);
            let is_needed = |part: &&Part| **part != Part::Conditional || !ports.is_empty();
            is_whole &= !content.parts.iter().filter(is_needed).any(|part| broken.contains(part));
            for gate in content.gates() {
                is_whole &= gate.is_whole(&mut listing)?;
            }
            if !is_whole {
                lacking.insert(at);
            }
        }
        Ok(lacking)
    }

    /// Returns whether any of the sets and maps has an element.
    pub(super) fn has_any(&mut self) -> Result<bool, NetlinkError> {
        for part in [Part::Masquerade, Part::HostPorts, Part::Conditional, Part::Ingress, Part::SpoofCheck] {
            for set in part.sets() {
                match self.socket.dump_elements(part.table(), set.name) {
                    Ok(keys) if keys.is_empty() => {}
                    Ok(_keys) => return Ok(true),
                    Err(fault) if fault.is_absent() => {}
                    Err(fault) => return Err(fault.doing("failed to list nftables elements")),
                }
            }
        }
        Ok(false)
    }

    /// Returns the current number of the ruleset, which every transaction changes.
    pub(super) fn generation(&mut self) -> Result<u32, NetlinkError> {
        self.socket.generation().doing(|| "failed to read the nftables generation")
    }
}

/// Returns chain and handle of each rule with this tag.
fn find_rule<'a>(
    listing: &mut Listing<'_>,
    rule: &'a TaggedRule,
) -> Result<impl Iterator<Item = (&'a str, u64)> + use<'a>, Fault> {
    let mut found = Vec::new();
    for chain in rule.possible_chains() {
        let there = listing.rules(rule.table, chain)?.iter().filter(|there| there.tag.as_ref() == Some(&rule.tag));
        found.extend(there.map(|there| (chain, there.handle)));
        if !found.is_empty() {
            break;
        }
    }
    Ok(found.into_iter())
}

fn first_fault(outcomes: &[Outcome]) -> Option<(usize, Fault)> {
    outcomes.iter().enumerate().find_map(|(at, outcome)| Some((at, outcome.fault()?)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Op;

    #[test]
    fn batches_are_bounded_and_whole() {
        let address =
            |at: u8| Op::Masquerade { address: ipnet::IpNet::new([10, 0, 0, at].into(), 24).unwrap_or_default() };
        let ops: Vec<Op> = (1..=50).map(address).collect();
        let content = Content::from_ops(ops.iter().chain(&ops));
        assert_eq!(content.elements.len(), 100, "each once");
        let batches = content.clone().batches(16);
        assert!(batches.iter().all(|batch| batch.elements.len() <= 16));
        assert!(batches.iter().all(|batch| batch.parts == content.parts));
        let joined: Vec<Element> = batches.into_iter().flat_map(|batch| batch.elements).collect();
        assert_eq!(joined, content.elements);
    }
}
