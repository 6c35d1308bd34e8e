//! Adding: one transaction, tried again when somebody else's comes between or a part of the base is missing.

use std::collections::BTreeSet;

use nix::errno::Errno;

use super::element::{self, Change, Element};
use super::gate::Built;
use super::rule::TaggedRule;
use super::socket::{Item, Transaction};
use super::{ATTEMPTS, Added, Content, Nft, Part, Table, first_fault};
use crate::netlink::error::{Doing, Fault, NetlinkError};

const DOING_ADD: &str = "failed to add nftables elements";

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

impl Nft {
    /// Adds elements and rules, and under them the base where it is missing. What is there already stays.
    pub(in crate::netlink) fn add(&mut self, content: &Content) -> Result<Added, NetlinkError> {
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
        for part in missing.iter().filter(|_| at < first) {
            if self.is_foreign(*part)? {
                return Err(part.foreign());
            }
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
}
