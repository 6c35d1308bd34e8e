//! Removing, and taking back what was added: what is not there is no error.

use std::collections::BTreeSet;

use nix::errno::Errno;

use super::element::Change;
use super::rule::{self, TaggedRule};
use super::socket::{Item, Outcome};
use super::{ATTEMPTS, Added, Content, Nft, Part, Table, first_fault};
use crate::netlink::error::{Doing, Fault, NetlinkError};

const DOING_REMOVE: &str = "failed to remove nftables elements";

impl Nft {
    /// Removes elements and rules; those that are not there are no error.
    pub(in crate::netlink) fn remove(&mut self, content: &Content) -> Result<(), NetlinkError> {
        let mut items = Vec::new();
        for element in &content.elements {
            // A key that leads elsewhere is somebody else's by now.
            let ours = match element.data() {
                None => true,
                Some(data) => {
                    let found = self.socket.data(&element.item(Change::Get)).doing(|| DOING_REMOVE)?;
                    found.as_deref() == Some(data)
                }
            };
            items.extend(ours.then(|| element.item(Change::Remove)));
        }
        items.extend(self.rule_deletions(&content.rules)?);
        self.take_away(items, None).map(drop)
    }

    /// Takes back what `add` did.
    pub(in crate::netlink) fn undo(&mut self, added: &Added) -> Result<(), NetlinkError> {
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
