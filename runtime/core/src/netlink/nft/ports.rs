//! Chains of host ports with conditions. Each port has a chain of its own, to which the map [`BY_PORT`] leads, so a
//! call reads the rules of its own ports, however many attachments have such rules.
//!
//! Making the chain and its element twice changes nothing, so an ADD does not look for them first. Both are deleted
//! with the last rule. If another attachment adds a rule meanwhile, the kernel refuses (`EBUSY`), and weft looks again.

use std::collections::BTreeSet;

use netlink_packet_core::{NLM_F_CREATE, NLM_F_NONREC};
use netlink_packet_netfilter::nftables::{
    DataAttribute, ListAttribute, NfTablesMessage, SetElementAttribute, SetElementList, SetElementMessage, Verdict,
    VerdictAttribute,
};

use super::Table;
use super::base::{chain_item, chain_name, plain_chain};
use super::listing::Listing;
use super::set::BY_PORT;
use super::table::Item;
use crate::netlink::fault::Fault;
use crate::plan::{HostPort, Protocol};

/// The chain of a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::netlink) struct PortChain {
    pub(super) protocol: Protocol,
    pub(super) port: u16,
}

// === impl PortChain ===

impl PortChain {
    /// Returns the chain of a mapping's rules.
    pub(super) fn from_mapping(mapping: &HostPort) -> Self {
        Self { protocol: mapping.protocol, port: mapping.host_port }
    }

    /// Returns the chain to which a key of the map leads.
    pub(super) fn from_key(key: &[u8]) -> Option<Self> {
        let [protocol, _, _, _, a, b, ..] = *key else { return None };
        Some(Self { protocol: Protocol::from_number(protocol)?, port: u16::from_be_bytes([a, b]) })
    }

    pub(super) fn name(self) -> String {
        format!("hostport_{}_{}", self.protocol, self.port)
    }

    fn key(self) -> Vec<u8> {
        let [a, b] = self.port.to_be_bytes();
        vec![self.protocol.number(), 0, 0, 0, a, b, 0, 0]
    }

    /// Returns set and key of its element, as the kernel announces them.
    pub(super) fn announcement(self) -> (String, Vec<u8>) {
        (BY_PORT.name.to_owned(), self.key())
    }

    /// Returns the request that asks whether it can be reached.
    pub(super) fn question(self) -> Item {
        Item { table: Table::Inet, message: NfTablesMessage::GetSetElement(self.element(false)), flags: 0 }
    }

    /// Returns the requests that make it and its element.
    pub(super) fn creations(self) -> [Item; 2] {
        let element = NfTablesMessage::NewSetElement(self.element(true));
        [plain_chain(Table::Inet, &self.name()), Item { table: Table::Inet, message: element, flags: NLM_F_CREATE }]
    }

    /// Returns the requests that delete its element and the chain, unless the chain has a rule by then.
    fn deletions(self) -> [Item; 2] {
        let element = NfTablesMessage::DeleteSetElement(self.element(false));
        let chain = NfTablesMessage::DeleteChain(chain_name(Table::Inet, &self.name()));
        [Item { table: Table::Inet, message: element, flags: 0 }, chain_item(Table::Inet, chain, NLM_F_NONREC)]
    }

    fn element(self, with_verdict: bool) -> SetElementMessage {
        let mut attributes = vec![SetElementAttribute::Key(DataAttribute::Value(self.key()))];
        if with_verdict {
            let jump = vec![VerdictAttribute::Code(Verdict::Jump), VerdictAttribute::Chain(self.name())];
            attributes.push(SetElementAttribute::Data(DataAttribute::Verdict(jump)));
        }
        SetElementMessage {
            attributes: vec![
                SetElementList::Table(Table::Inet.name().to_owned()),
                SetElementList::Set(BY_PORT.name.to_owned()),
                SetElementList::Elements(vec![ListAttribute::Element(attributes)]),
            ],
        }
    }
}

/// Returns the requests that delete those of these chains in which nothing is left once the rules with these tags are
/// deleted.
pub(super) fn deletions(
    listing: &mut Listing<'_>,
    chains: &BTreeSet<PortChain>,
    tags: &BTreeSet<&str>,
) -> Result<Vec<Item>, Fault> {
    let mut items = Vec::new();
    for chain in chains {
        let there = listing.rules(Table::Inet, &chain.name())?;
        let only_ours = there.iter().all(|rule| rule.tag.as_deref().is_some_and(|tag| tags.contains(tag)));
        // Somebody may have deleted the rules and left the chain.
        if only_ours && (!there.is_empty() || listing.socket().exists(&chain.question())?) {
            items.extend(chain.deletions());
        }
    }
    Ok(items)
}
