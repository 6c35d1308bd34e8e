//! Removes content, and undoes additions: a missing object is not an error.

use std::collections::BTreeSet;

use nix::errno::Errno;

use super::element::Change;
use super::listing::Listing;
use super::ports::{self, PortChain};
use super::rule::{TaggedRule, port_chains};
use super::rule_message::deletion;
use super::socket::{ATTEMPTS, Outcome};
use super::table::{Item, Table};
use super::{Added, Content, Nft, Part, answer, find_rule, first_fault};
use crate::netlink::error::NetlinkError;
use crate::netlink::fault::{Doing, Fault};

const DOING_REMOVE: &str = "failed to remove nftables elements";

impl Nft {
    /// Removes elements and rules; a missing one is not an error.
    pub(in crate::netlink) fn remove(&mut self, content: &Content) -> Result<(), NetlinkError> {
        for _attempt in 1..ATTEMPTS {
            match self.try_to_remove(content) {
                // Another attachment has added a rule to a port's chain that was empty a moment ago.
                Err(error) if error.errno() == Some(Errno::EBUSY) => {}
                outcome => return outcome,
            }
        }
        self.try_to_remove(content)
    }

    fn try_to_remove(&mut self, content: &Content) -> Result<(), NetlinkError> {
        let doing = || DOING_REMOVE;
        // A key with another destination belongs to another attachment by now.
        let (keys, maps): (Vec<_>, Vec<_>) = content.elements.iter().partition(|element| element.data().is_none());
        let questions: Vec<Item> = maps.iter().map(|element| element.item(Change::Get)).collect();
        let found = self.socket.ask_each(&questions, answer::element_data).doing(doing)?;
        let ours = maps
            .into_iter()
            .zip(found)
            .filter(|(element, data)| data.as_ref().is_some_and(|data| data.as_deref() == element.data()));
        let elements = keys.into_iter().chain(ours.map(|(element, _)| element));
        let mut items: Vec<Item> = elements.map(|element| element.item(Change::Remove)).collect();
        let mut listing = Listing::new(&mut self.socket);
        items.extend(rule_deletions(&mut listing, &content.rules).doing(doing)?);
        let most = if items.len() <= super::socket::FEW { super::socket::FEW } else { self.socket.capacity() };
        items.chunks(most).try_for_each(|items| self.take_away(items.to_vec(), None).map(drop))
    }

    /// Undoes an `add`.
    pub(in crate::netlink) fn undo(&mut self, added: &Added) -> Result<(), NetlinkError> {
        let doing = || DOING_REMOVE;
        let of_base = !added.parts.is_empty() || !added.built.is_empty();
        for _attempt in 0..ATTEMPTS {
            // The generation prevents a transaction between the read and the deletion.
            let generation = if of_base { Some(self.generation()?) } else { None };
            let mut unused = BTreeSet::new();
            for part in &added.parts {
                if self.holds_only(*part, added)? {
                    unused.insert(*part);
                }
            }
            let kept = added.elements.iter().filter(|element| !unused.contains(&element.part));
            let mut items: Vec<Item> = kept.map(|element| element.item(Change::Remove)).collect();
            let tags: BTreeSet<&str> = added.rules.iter().map(|rule| rule.tag.as_str()).collect();
            let mut listing = Listing::new(&mut self.socket);
            items.extend(rule_deletions(&mut listing, &added.rules).doing(doing)?);
            for built in added.built.iter().rev() {
                items.extend(built.deletions(&mut listing, &tags, &added.built).doing(doing)?);
            }
            items.extend(self.part_deletions(&unused, added)?);
            match self.take_away(items, generation) {
                Ok(true) => return Ok(()),
                Ok(false) => {}
                Err(error) if error.errno() == Some(Errno::EBUSY) && !added.rules.is_empty() => {}
                Err(error) => return Err(error),
            }
        }
        Err(NetlinkError::Contended { doing: DOING_REMOVE.to_owned(), attempts: ATTEMPTS })
    }

    /// Returns the requests that delete parts, and those new tables that contain nothing else.
    fn part_deletions(&mut self, unused: &BTreeSet<Part>, added: &Added) -> Result<Vec<Item>, NetlinkError> {
        let mut items = Vec::new();
        let tables: BTreeSet<Table> = unused.iter().map(|part| part.table()).collect();
        for table in tables {
            let parts: Vec<Part> = unused.iter().copied().filter(|part| part.table() == table).collect();
            let mut chains: BTreeSet<String> =
                parts.iter().flat_map(|part| part.chain_names()).map(str::to_owned).collect();
            if unused.contains(&Part::Conditional) {
                chains.extend(port_chains(&added.rules).into_iter().map(PortChain::name));
            }
            let there = self.socket.chains(table).doing(|| DOING_REMOVE)?;
            if added.tables.contains(&table) && there.iter().all(|chain| chains.contains(&chain.name)) {
                items.push(table.deletion());
            } else {
                items.extend(parts.iter().flat_map(|part| part.deletions()));
            }
        }
        Ok(items)
    }

    /// Executes one transaction of deletions. Returns `false` if the generation has changed.
    fn take_away(&mut self, mut items: Vec<Item>, generation: Option<u32>) -> Result<bool, NetlinkError> {
        let mut lost = 0;
        while !items.is_empty() {
            let outcomes = match self.socket.transact(&items, generation) {
                Err(Fault::Refused(Errno::ERESTART, _)) => return Ok(false),
                // Whether or not it was executed: deleted objects are reported as missing next time.
                Err(Fault::Lost) if lost < ATTEMPTS && generation.is_none() => {
                    lost += 1;
                    continue;
                }
                // If it was executed, the next read finds nothing left to delete.
                Err(Fault::Lost) if generation.is_some() => return Ok(false),
                other => other.doing(|| DOING_REMOVE)?.outcomes,
            };
            let Some((_, fault)) = first_fault(&outcomes) else { break };
            // A missing object fails the whole transaction: continue without it. Every round has fewer.
            let before = items.len();
            let mut outcomes = outcomes.iter();
            items.retain(|_| !outcomes.next().is_some_and(Outcome::is_absent));
            if items.len() == before {
                return Err(fault.doing(DOING_REMOVE));
            }
        }
        Ok(true)
    }

    /// Returns whether a part contains only what was added. A part whose content does not show its users never does.
    fn holds_only(&mut self, part: Part, added: &Added) -> Result<bool, NetlinkError> {
        if !part.shows_users() {
            return Ok(false);
        }
        let doing = || "failed to list nftables elements";
        let ports = port_chains(&added.rules);
        let mut ours: BTreeSet<_> = added.elements.iter().map(super::element::Element::announcement).collect();
        ours.extend(ports.iter().map(|port| port.announcement()));
        for set in part.sets() {
            let keys = match self.socket.dump_elements(part.table(), set.name) {
                Err(fault) if fault.is_absent() => continue,
                other => other.doing(doing)?,
            };
            if !keys.iter().all(|key| ours.contains(key)) {
                return Ok(false);
            }
        }
        let of_ports = ports.into_iter().filter(|_port| part == Part::Conditional).map(PortChain::name);
        let ours: BTreeSet<&str> = added.rules.iter().map(|rule| rule.tag.as_str()).collect();
        for chain in part.open_chains().iter().map(|chain| (*chain).to_owned()).chain(of_ports) {
            let is_ours = |tag: &Option<String>| tag.as_deref().is_some_and(|tag| ours.contains(tag));
            if !self.socket.rules(part.table(), &chain).doing(doing)?.iter().all(|rule| is_ours(&rule.tag)) {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// Returns the requests that delete existing rules.
fn rule_deletions(listing: &mut Listing<'_>, rules: &[TaggedRule]) -> Result<Vec<Item>, Fault> {
    let mut items = Vec::new();
    for rule in rules {
        items.extend(find_rule(listing, rule)?.map(|(chain, handle)| deletion(rule.table, chain, handle)));
    }
    let tags = rules.iter().map(|rule| rule.tag.as_str()).collect();
    items.extend(ports::deletions(listing, &port_chains(rules), &tags)?);
    Ok(items)
}
