//! nftables by netlink: transactions, and what weft keeps there.
//!
//! The rules are static (`base`); an attachment is only elements of their sets (`element`), so adding one is cheap,
//! repeating it changes nothing, and taking it away needs no search. The exceptions are rules of attachments (`rule`): host
//! ports with conditions, and what is accepted in the table of `iptables` (`gate`). All that one verb changes is one
//! transaction: the kernel takes all of it or nothing.
//!
//! The base is made by whoever first finds a part of it missing. It stays when the last attachment goes, as an empty bridge
//! does, but a failed ADD takes away what of it it made, unless another attachment moved in.

mod base;
mod condition;
mod element;
mod expr;
mod gate;
mod rule;
mod set;
mod socket;

use std::collections::BTreeSet;

use netlink_packet_core::{NLM_F_CREATE, NLM_F_ECHO};
use netlink_packet_netfilter::nftables::{NfTablesMessage, TableAttribute, TableMessage};
use nix::errno::Errno;

use self::element::{Change, Element};
use self::gate::{Built, Gate};
use self::rule::TaggedRule;
use self::socket::{Item, Outcome, Socket, Transaction};
use super::error::{Doing, Fault, NetlinkError};
use crate::plan::{Family, Op};

/// How often a transaction is tried again after somebody else's came between.
const ATTEMPTS: u32 = 32;

/// A table by its family; ours are called `weft`, those of `iptables` `filter`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Table {
    /// Masquerading, host ports, ingress policies.
    Inet,
    /// Source MAC checks.
    Bridge,
    /// The one of `iptables`.
    Filter4,
    /// The one of `ip6tables`.
    Filter6,
}

/// A part of the base, made as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Part {
    Masquerade,
    HostPorts,
    Ingress,
    SpoofCheck,
}

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

/// One try at a transaction: its requests, in order.
struct Attempt {
    base: Vec<Item>,
    elements: Vec<Item>,
    rules: Vec<Item>,
    /// Rules and pieces of gates among them.
    new_rules: Vec<TaggedRule>,
    built: Vec<Built>,
    new_tables: BTreeSet<Table>,
    /// Only as long as nothing was changed since this generation.
    generation: Option<u32>,
}

/// What comes after a try.
enum Next {
    Done(Added),
    /// Somebody came between: the very same again.
    Again,
    /// These parts are missing.
    Missing(BTreeSet<Part>),
    /// Somebody made parts meanwhile.
    Collision,
    /// The kernel has no matches of iptables.
    Plainly,
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

    /// Adds elements and rules, and under them the base where it is missing. What is there already stays.
    pub(super) fn add(&mut self, content: &Content) -> Result<Added, NetlinkError> {
        let mut missing = BTreeSet::new();
        let mut collisions = 0;
        let mut plain = false;
        for _attempt in 0..ATTEMPTS {
            let attempt = self.attempt(content, &missing, plain).doing(|| DOING_ADD)?;
            match self.try_to_add(content, attempt, &missing, plain)? {
                Next::Done(added) => return Ok(added),
                Next::Again => {}
                Next::Plainly => plain = true,
                Next::Collision => {
                    collisions += 1;
                    missing.clear();
                }
                Next::Missing(parts) => {
                    // There and yet not there: a failed ADD made and removed it in between, or a set of ours is missing in it.
                    for part in parts.iter().filter(|_| collisions > 0) {
                        if self.is_foreign(*part)? {
                            return Err(part.foreign());
                        }
                    }
                    missing.extend(parts);
                }
            }
        }
        Err(NetlinkError::Contended { doing: DOING_ADD.to_owned(), attempts: ATTEMPTS })
    }

    /// Looks at what is there of rules, which have no keys by which the kernel would know them, and says what to send.
    fn attempt(&mut self, content: &Content, missing: &BTreeSet<Part>, plain: bool) -> Result<Attempt, Fault> {
        let mut generation = None;
        let (mut built, mut new_rules, mut new_tables) = (Vec::new(), Vec::new(), BTreeSet::new());
        for table in missing.iter().map(|part| part.table()) {
            if !new_tables.contains(&table) && !self.socket.has(&table.question())? {
                new_tables.insert(table);
            }
        }
        let mut base: Vec<Item> = missing.iter().flat_map(|part| part.items()).collect();
        if !content.gates.is_empty() {
            let before = self.socket.generation()?;
            for gate in &content.gates {
                let (items, made) = gate.build(&mut self.socket, plain)?;
                generation = generation.or((!items.is_empty()).then_some(before));
                base.extend(items);
                built.push(made);
            }
        }
        for rule in &content.rules {
            let there = self.socket.rules(rule.table, &rule.chain)?;
            if !there.iter().any(|found| found.tag.as_ref() == Some(&rule.tag)) {
                new_rules.push(rule.clone());
            }
        }
        built.retain(|built| !built.is_nothing());
        Ok(Attempt {
            base,
            elements: content.elements.iter().map(|element| element.item(Change::Add)).collect(),
            rules: new_rules.iter().map(|rule| rule.addition(plain)).collect(),
            new_rules,
            built,
            new_tables,
            generation,
        })
    }

    fn try_to_add(
        &mut self,
        content: &Content,
        attempt: Attempt,
        missing: &BTreeSet<Part>,
        plain: bool,
    ) -> Result<Next, NetlinkError> {
        let Attempt { base, elements, rules, new_rules, built, new_tables, generation } = attempt;
        let (first, second) = (base.len(), base.len() + elements.len());
        let items = [base, elements, rules].concat();
        if items.is_empty() {
            return Ok(Next::Done(Added::default()));
        }
        let Transaction { outcomes, announced } = match self.socket.transact(&items, generation) {
            Err(Fault::Refused(Errno::ERESTART, _)) => return Ok(Next::Again),
            other => other.doing(|| DOING_ADD)?,
        };
        let Some((at, fault)) = first_fault(&outcomes) else {
            let is_new = |element: &&Element| announced.iter().any(|(set, key)| element.is(set, key));
            let elements = content.elements.iter().filter(is_new).cloned().collect();
            let parts = missing.clone();
            return Ok(Next::Done(Added { elements, rules: new_rules, parts, tables: new_tables, built }));
        };
        // A refusal from the base: the part was made by somebody else in between, or is not as we make it.
        if at < first && fault.is_exists() {
            return Ok(Next::Collision);
        }
        let absent = outcomes.iter().skip(first).zip(&content.elements).filter(|(outcome, _)| outcome.is_absent());
        let mut absent: BTreeSet<Part> = absent.map(|(_, element)| element.part).collect();
        let without_chain = outcomes.iter().skip(second).zip(&new_rules).filter(|(outcome, _)| outcome.is_absent());
        absent.extend(without_chain.filter(|(_, rule)| rule.table == Table::Inet).map(|_| Part::HostPorts));
        if !absent.is_empty() && !absent.iter().all(|part| missing.contains(part)) {
            return Ok(Next::Missing(absent));
        }
        // `ENOENT` for a rule with matches of iptables is about those.
        if !plain && !content.gates.is_empty() && fault.is_absent() {
            return Ok(Next::Plainly);
        }
        let clash = outcomes.get(first..second).unwrap_or_default().iter().zip(&content.elements);
        if let Some((_, element)) = clash.into_iter().find(|(outcome, _)| outcome.is_clash()) {
            return Err(NetlinkError::Taken { what: element.describe(), by: self.holder(element) });
        }
        Err(fault.doing(DOING_ADD))
    }

    /// Where a key of a map leads to now, for errors.
    fn holder(&mut self, element: &Element) -> String {
        let found = self.socket.data(&element.item(Change::Get)).ok().flatten();
        found.and_then(|data| element::destination(&data)).unwrap_or_else(|| "something else".to_owned())
    }

    /// Removes elements and rules; those that are not there are no error.
    pub(super) fn remove(&mut self, content: &Content) -> Result<(), NetlinkError> {
        let mut items: Vec<Item> = content.elements.iter().map(|element| element.item(Change::Remove)).collect();
        items.extend(self.rule_deletions(&content.rules)?);
        self.take_away(items, None).map(drop)
    }

    /// Takes back what `add` did.
    pub(super) fn undo(&mut self, added: &Added) -> Result<(), NetlinkError> {
        let of_base = !added.parts.is_empty() || !added.built.is_empty();
        for _attempt in 0..ATTEMPTS {
            // The generation holds off a transaction that comes between the look and the deletion.
            let generation = if of_base { Some(self.generation()?) } else { None };
            let mut unused = BTreeSet::new();
            for part in &added.parts {
                if self.holds_only(*part, added)? {
                    unused.insert(*part);
                }
            }
            let kept = added.elements.iter().filter(|element| !unused.contains(&element.part));
            let mut items: Vec<Item> = kept.map(|element| element.item(Change::Remove)).collect();
            let in_part = |rule: &&TaggedRule| rule.table == Table::Inet && unused.contains(&Part::HostPorts);
            let rules: Vec<TaggedRule> = added.rules.iter().filter(|rule| !in_part(rule)).cloned().collect();
            items.extend(self.rule_deletions(&rules)?);
            let tags: BTreeSet<&str> = added.rules.iter().map(|rule| rule.tag.as_str()).collect();
            for built in &added.built {
                items.extend(built.deletions(&mut self.socket, &tags).doing(|| DOING_REMOVE)?);
            }
            items.extend(self.part_deletions(&unused, &added.tables)?);
            if self.take_away(items, generation)? {
                return Ok(());
            }
        }
        Err(NetlinkError::Contended { doing: DOING_REMOVE.to_owned(), attempts: ATTEMPTS })
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

    /// The requests that delete rules, as far as they are there.
    fn rule_deletions(&mut self, rules: &[TaggedRule]) -> Result<Vec<Item>, NetlinkError> {
        let mut items = Vec::new();
        for rule in rules {
            let there = self.socket.rules(rule.table, &rule.chain).doing(|| DOING_REMOVE)?;
            let ours = there.iter().filter(|found| found.tag.as_ref() == Some(&rule.tag));
            items.extend(ours.map(|found| rule::deletion(rule.table, &rule.chain, found.handle)));
        }
        Ok(items)
    }

    /// The requests that delete parts, and with them those new tables in which nothing else is.
    fn part_deletions(&mut self, unused: &BTreeSet<Part>, new: &BTreeSet<Table>) -> Result<Vec<Item>, NetlinkError> {
        let mut items = Vec::new();
        let tables: BTreeSet<Table> = unused.iter().map(|part| part.table()).collect();
        for table in tables {
            let parts: Vec<Part> = unused.iter().copied().filter(|part| part.table() == table).collect();
            let chains: Vec<&str> = parts.iter().flat_map(|part| part.chain_names()).collect();
            let there = self.socket.chains(table).doing(|| DOING_REMOVE)?;
            if new.contains(&table) && there.iter().all(|chain| chains.contains(&chain.as_str())) {
                items.push(table.deletion());
            } else {
                items.extend(parts.iter().flat_map(|part| part.deletions()));
            }
        }
        Ok(items)
    }

    /// One transaction of deletions; `false` when the generation was no longer that one.
    fn take_away(&mut self, mut items: Vec<Item>, generation: Option<u32>) -> Result<bool, NetlinkError> {
        while !items.is_empty() {
            let outcomes = match self.socket.transact(&items, generation) {
                Err(Fault::Refused(Errno::ERESTART, _)) => return Ok(false),
                other => other.doing(|| DOING_REMOVE)?.outcomes,
            };
            let Some((_, fault)) = first_fault(&outcomes) else { break };
            // One that is missing fails the whole transaction: go on without those. Every round has fewer.
            let before = items.len();
            let mut outcomes = outcomes.iter();
            items.retain(|_| !outcomes.next().is_some_and(Outcome::is_absent));
            if items.len() == before {
                return Err(fault.doing(DOING_REMOVE));
            }
        }
        Ok(true)
    }

    /// Whether a part's first chain is there without one of its sets, or a set without the chain, all seen in one generation
    /// of the rules.
    fn is_foreign(&mut self, part: Part) -> Result<bool, NetlinkError> {
        let doing = || "failed to look at the nftables tables";
        let before = self.generation()?;
        let mut there = BTreeSet::from([self.socket.has(&part.question()).doing(doing)?]);
        for set in part.sets() {
            there.insert(self.socket.has(&set.question()).doing(doing)?);
        }
        Ok(there.len() > 1 && self.generation()? == before)
    }

    fn generation(&mut self) -> Result<u32, NetlinkError> {
        self.socket.generation().doing(|| "failed to read the nftables generation")
    }

    /// Whether a part holds nothing but what was added.
    fn holds_only(&mut self, part: Part, added: &Added) -> Result<bool, NetlinkError> {
        let doing = || "failed to list nftables elements";
        for set in part.sets() {
            let keys = match self.socket.dump_elements(part.table(), set.name) {
                Err(fault) if fault.is_absent() => continue,
                other => other.doing(doing)?,
            };
            let ours = |key: &[u8]| added.elements.iter().any(|element| element.is(set.name, key));
            if !keys.iter().all(|key| ours(key)) {
                return Ok(false);
            }
        }
        for chain in part.open_chains() {
            let ours = |tag: &Option<String>| added.rules.iter().any(|rule| Some(&rule.tag) == tag.as_ref());
            if !self.socket.rules(part.table(), chain).doing(doing)?.iter().all(|rule| ours(&rule.tag)) {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

fn first_fault(outcomes: &[Outcome]) -> Option<(usize, Fault)> {
    outcomes.iter().enumerate().find_map(|(at, outcome)| Some((at, outcome.fault()?)))
}

// === impl Part ===

impl Part {
    /// Where it is.
    fn table(self) -> Table {
        match self {
            Self::SpoofCheck => Table::Bridge,
            Self::Masquerade | Self::HostPorts | Self::Ingress => Table::Inet,
        }
    }

    fn foreign(self) -> NetlinkError {
        let table = self.table();
        NetlinkError::ForeignTable { family: table.family_name(), name: table.name() }
    }
}

// === impl Table ===

impl Table {
    /// The one of `iptables` or `ip6tables`.
    fn filter(family: Family) -> Self {
        match family {
            Family::V4 => Self::Filter4,
            Family::V6 => Self::Filter6,
        }
    }

    /// As `nft` calls the family.
    fn family_name(self) -> &'static str {
        match self {
            Self::Inet => "inet",
            Self::Bridge => "bridge",
            Self::Filter4 => "ip",
            Self::Filter6 => "ip6",
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Inet | Self::Bridge => "weft",
            Self::Filter4 | Self::Filter6 => "filter",
        }
    }

    /// The request to make it where it is missing.
    fn creation(self) -> Item {
        Item { table: self, message: NfTablesMessage::NewTable(self.message()), flags: NLM_F_CREATE }
    }

    /// The request to delete it with all that is in it.
    fn deletion(self) -> Item {
        Item { table: self, message: NfTablesMessage::DeleteTable(self.message()), flags: 0 }
    }

    /// The request that asks whether it is there.
    fn question(self) -> Item {
        Item { table: self, message: NfTablesMessage::GetTable(self.message()), flags: 0 }
    }

    fn message(self) -> TableMessage {
        TableMessage { attributes: vec![TableAttribute::Name(self.name().to_owned())] }
    }
}

const DOING_ADD: &str = "failed to add nftables elements";
const DOING_REMOVE: &str = "failed to remove nftables elements";

/// Flags of a request that adds an element: no `NLM_F_EXCL`, so that one that is there is no error. The kernel echoes only
/// those that it really added.
const ADD_FLAGS: u16 = NLM_F_CREATE | NLM_F_ECHO;
