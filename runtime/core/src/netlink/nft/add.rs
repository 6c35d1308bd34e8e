//! Adds content in one transaction, and retries it when another one comes in between.

use std::collections::{BTreeMap, BTreeSet};

use nix::errno::Errno;

use super::element::{self, Change, Element};
use super::listing::Listing;
use super::ports::PortChain;
use super::rule::TaggedRule;
use super::socket::{ATTEMPTS, Transaction};
use super::survey::Condition;
use super::table::Item;
use super::{Added, Content, Nft, Part, find_rule, first_fault};
use crate::netlink::error::NetlinkError;
use crate::netlink::fault::{Doing, Fault};

const DOING_ADD: &str = "failed to add nftables elements";

/// One attempt at a transaction: its requests, in order.
struct Attempt {
    base: Vec<Item>,
    elements: Vec<Item>,
    rules: Vec<Item>,
    /// What it adds if it succeeds, except elements.
    new: Added,
    /// Valid only if nothing was changed since this generation.
    generation: Option<u32>,
}

/// The next action after an attempt.
enum Next {
    Done(Added),
    /// Another transaction came in between: read again.
    Again,
    /// The answer was lost, and either all or nothing of this was done.
    Unknown(Added),
    /// The kernel has no iptables matches.
    Plainly,
}

impl Nft {
    /// Adds elements and rules, and the base if it is missing. Existing objects are kept.
    ///
    /// If the answer to a transaction is lost, it may have been executed. The state is then read: if all objects exist,
    /// the transaction made them; otherwise the kernel did nothing, and it is retried.
    pub(in crate::netlink) fn add(&mut self, content: &Content) -> Result<Added, NetlinkError> {
        let mut plain = false;
        let mut collisions = BTreeMap::new();
        let mut unknown: Option<Added> = None;
        for _attempt in 0..ATTEMPTS {
            if let Some(added) = unknown.take()
                && self.has_content(content)?
            {
                return Ok(added);
            }
            let attempt = self.attempt(content, plain)?;
            let missing = attempt.new.parts.clone();
            match self.try_to_add(content, attempt, plain)? {
                Next::Done(added) => return Ok(added),
                Next::Unknown(added) => unknown = Some(added),
                Next::Plainly => plain = true,
                Next::Again => {
                    // The part appears to exist and not to exist: a failed ADD made and removed it in between, or it
                    // differs from weft's.
                    for part in content.parts.iter().copied().chain(missing) {
                        let seen = collisions.entry(part).or_insert(0_u32);
                        *seen += 1;
                        if *seen > 1 && self.is_foreign(part)? {
                            return Err(part.foreign());
                        }
                    }
                }
            }
        }
        Err(NetlinkError::Contended { doing: DOING_ADD.to_owned(), attempts: ATTEMPTS })
    }

    /// Reads the existing parts of the base and the existing rules (rules have no keys that the kernel could check),
    /// and returns what to send.
    fn attempt(&mut self, content: &Content, plain: bool) -> Result<Attempt, NetlinkError> {
        let doing = || DOING_ADD;
        let before = self.generation()?;
        let wrong = self.survey(&content.parts).doing(doing)?;
        let mut generation = None;
        let mut new = Added::default();
        let mut base = Vec::new();
        for (part, condition) in wrong {
            match condition {
                Condition::Missing => {
                    let table = part.table();
                    if !new.tables.contains(&table) && !self.socket.exists(&table.question()).doing(doing)? {
                        new.tables.insert(table);
                    }
                    base.extend(part.items());
                    new.parts.insert(part);
                }
                Condition::Emptied if self.is_foreign(part)? => return Err(part.foreign()),
                Condition::Emptied => {
                    generation = Some(before);
                    base.extend(part.rules_again());
                }
            }
        }
        let mut listing = Listing::new(&mut self.socket);
        for gate in content.gates() {
            let (items, made) = gate.build(&mut listing, plain, &new.built).doing(doing)?;
            generation = generation.or((!items.is_empty()).then_some(before));
            base.extend(items);
            if !made.is_nothing() {
                new.built.push(made);
            }
        }
        let mut ports = BTreeSet::new();
        for rule in &content.rules {
            let found = find_rule(&mut listing, rule).doing(doing)?.next().map(|(chain, _handle)| chain);
            if found.is_none() {
                new.rules.push(rule.clone());
            }
            // An older weft put it where no port's chain is needed.
            ports.extend(rule.port.filter(|_port| found.is_none_or(|chain| chain == rule.chain)));
        }
        base.extend(ports.into_iter().flat_map(PortChain::creations));
        let elements = content.elements.iter().map(|element| element.item(Change::Add)).collect();
        let rules = new.rules.iter().map(|rule| rule.addition(plain)).collect();
        Ok(Attempt { base, elements, rules, new, generation })
    }

    fn try_to_add(&mut self, content: &Content, attempt: Attempt, plain: bool) -> Result<Next, NetlinkError> {
        let Attempt { base, elements, rules, new, generation } = attempt;
        let (first, second) = (base.len(), base.len() + elements.len());
        let items = [base, elements, rules].concat();
        if items.is_empty() {
            return Ok(Next::Done(Added::default()));
        }
        let Transaction { outcomes, announced } = match self.socket.transact(&items, generation) {
            Err(Fault::Refused(Errno::ERESTART, _)) => return Ok(Next::Again),
            Err(Fault::Lost) => return Ok(Next::Unknown(Added { elements: content.elements.clone(), ..new })),
            other => other.doing(|| DOING_ADD)?,
        };
        let Some((at, fault)) = first_fault(&outcomes) else {
            let is_new = |element: &&Element| announced.contains(&element.announcement());
            let elements = content.elements.iter().filter(is_new).cloned().collect();
            return Ok(Next::Done(Added { elements, ..new }));
        };
        // The refusal concerns the base: somebody else made the part in between, or it differs from weft's.
        if at < first && (fault.is_exists() || fault.is_absent()) && new.built.is_empty() {
            return Ok(Next::Again);
        }
        for part in new.parts.iter().filter(|_| at < first) {
            if self.is_foreign(*part)? {
                return Err(part.foreign());
            }
        }
        let between = |from: usize, to: usize| outcomes.get(from..to).unwrap_or_default().iter();
        let lost_chain = |(outcome, rule): (&super::Outcome, &TaggedRule)| outcome.is_absent() && rule.gate.is_none();
        if between(first, second).any(super::Outcome::is_absent)
            || between(second, outcomes.len()).zip(&new.rules).any(lost_chain)
        {
            return Ok(Next::Again);
        }
        // For a rule with iptables matches, `ENOENT` refers to those matches.
        if !plain && content.rules.iter().any(|rule| rule.gate.is_some()) && fault.is_absent() {
            return Ok(Next::Plainly);
        }
        if let Some((_, element)) =
            between(first, second).zip(&content.elements).find(|(outcome, _)| outcome.is_clash())
        {
            return Err(NetlinkError::Taken { what: element.describe(), by: self.holder(element) });
        }
        Err(fault.doing(DOING_ADD))
    }

    /// Returns the current destination of a map's key, for errors.
    fn holder(&mut self, element: &Element) -> String {
        let found = self.socket.ask_each(&[element.item(Change::Get)], super::answer::element_data);
        let data = found.unwrap_or_default().into_iter().flatten().flatten().next();
        data.and_then(|data| element::destination(&data)).unwrap_or_else(|| "something else".to_owned())
    }

    /// Returns whether a part's first chain exists without one of its sets, or a set without the chain, all seen in one
    /// generation of the rules.
    fn is_foreign(&mut self, part: Part) -> Result<bool, NetlinkError> {
        let before = self.generation()?;
        let questions: Vec<Item> =
            [part.question()].into_iter().chain(part.sets().iter().map(super::set::SetSpec::question)).collect();
        let there = self.socket.ask_each(&questions, |_answer| ()).doing(|| "failed to look at the nftables tables")?;
        let kinds: BTreeSet<bool> = there.iter().map(Option::is_some).collect();
        Ok(kinds.len() > 1 && self.generation()? == before)
    }
}
