//! nftables by netlink: transactions, and what weft keeps there.
//!
//! The rules are static (`base`); an attachment is only elements of their sets (`element`), so adding one is cheap,
//! repeating it changes nothing, and taking it away needs no search. The exceptions are rules of attachments (`rule`): host
//! ports with conditions, and what is accepted in the table of `iptables` (`gate`). All that one verb changes is one
//! transaction: the kernel takes all of it or nothing.
//!
//! The base is made by whoever first finds a part of it missing. It stays when the last attachment goes, as an empty bridge
//! does, but a failed ADD takes away what of it it made, unless another attachment moved in.

mod add;
mod base;
mod condition;
mod element;
mod expr;
mod gate;
mod remove;
mod rule;
mod set;
mod socket;
mod table;

use std::collections::BTreeSet;

use netlink_packet_core::{NLM_F_CREATE, NLM_F_ECHO};

use self::element::{Change, Element};
use self::gate::{Built, Gate};
use self::rule::TaggedRule;
use self::socket::{Outcome, Socket};
use self::table::{Part, Table};
use super::error::{Doing, Fault, NetlinkError};
use crate::plan::Op;

/// How often a transaction is tried again after somebody else's came between.
const ATTEMPTS: u32 = 32;

/// What ops want to have in nftables.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Content {
    elements: Vec<Element>,
    rules: Vec<TaggedRule>,
    gates: BTreeSet<Gate>,
}

/// What one transaction really changed; enough to take it back exactly.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Added {
    /// Elements that were not there before.
    elements: Vec<Element>,
    /// Rules that were not there before.
    rules: Vec<TaggedRule>,
    /// Parts that were not there before.
    parts: BTreeSet<Part>,
    /// Tables that were not there before.
    tables: BTreeSet<Table>,
    /// Pieces of gates that were not there before.
    built: Vec<Built>,
}

/// The nftables of one network namespace.
#[derive(Debug)]
pub(super) struct Nft {
    socket: Socket,
}

// === impl Content ===

impl Content {
    /// What these ops want, each thing once.
    pub(super) fn of<'a>(ops: impl IntoIterator<Item = &'a Op>) -> Self {
        let ops: Vec<&Op> = ops.into_iter().collect();
        let mut elements: Vec<Element> = Vec::new();
        for element in ops.iter().flat_map(|op| element::elements(op)) {
            if !elements.contains(&element) {
                elements.push(element);
            }
        }
        let rules = ops.iter().flat_map(|op| rule::rules(op)).collect();
        Self { elements, rules, gates: gate::needed(ops.iter().copied()) }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.elements.is_empty() && self.rules.is_empty()
    }
}

// === impl Nft ===

impl Nft {
    /// Opens the socket in the calling thread's network namespace.
    pub(super) fn open() -> Result<Self, NetlinkError> {
        let socket = Socket::open().doing(|| "failed to open the netfilter netlink socket")?;
        Ok(Self { socket })
    }

    /// How many messages were sent so far.
    pub(super) fn sent(&self) -> u32 {
        self.socket.sent()
    }

    /// Whether all of it is there.
    pub(super) fn has(&mut self, content: &Content) -> Result<bool, NetlinkError> {
        let doing = || "failed to look up an nftables element";
        for element in &content.elements {
            let item = element.item(Change::Get);
            let there = match element.data() {
                None => self.socket.has(&item).doing(doing)?,
                Some(data) => self.socket.data(&item).doing(doing)?.as_deref() == Some(data),
            };
            if !there {
                return Ok(false);
            }
        }
        for rule in &content.rules {
            let there = self.socket.rules(rule.table, &rule.chain).doing(doing)?;
            if !there.iter().any(|found| found.tag.as_ref() == Some(&rule.tag)) {
                return Ok(false);
            }
        }
        for gate in &content.gates {
            if !gate.is_whole(&mut self.socket).doing(doing)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Whether any of the sets and maps has an element.
    pub(super) fn has_any(&mut self) -> Result<bool, NetlinkError> {
        for part in [Part::Masquerade, Part::HostPorts, Part::Ingress, Part::SpoofCheck] {
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

    fn generation(&mut self) -> Result<u32, NetlinkError> {
        self.socket.generation().doing(|| "failed to read the nftables generation")
    }
}

fn first_fault(outcomes: &[Outcome]) -> Option<(usize, Fault)> {
    outcomes.iter().enumerate().find_map(|(at, outcome)| Some((at, outcome.fault()?)))
}

/// Flags of a request that adds an element: no `NLM_F_EXCL`, so that one that is there is no error. The kernel echoes only
/// those that it really added.
const ADD_FLAGS: u16 = NLM_F_CREATE | NLM_F_ECHO;
