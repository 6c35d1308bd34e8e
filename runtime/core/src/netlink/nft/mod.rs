//! nftables by netlink: transactions, and what weft keeps there.
//!
//! The rules are static (`base`); an attachment is only elements of their sets (`element`), so adding one is cheap,
//! repeating it changes nothing, and taking it away needs no search. All that one verb changes is one transaction: the
//! kernel takes all of it or nothing.
//!
//! The base is made by whoever first finds it missing. It stays when the last attachment goes, as an empty bridge does,
//! but a failed ADD takes the tables away that it made, unless another attachment moved in.

mod base;
mod element;
mod socket;

pub(super) use element::{Element, elements};

use std::collections::BTreeSet;

use netlink_packet_core::{NLM_F_CREATE, NLM_F_ECHO};
use netlink_packet_netfilter::nftables::{NfTablesMessage, TableAttribute, TableMessage};
use nix::errno::Errno;

use self::element::Change;
use self::socket::{Item, Outcome, Socket, Transaction};
use super::error::{Doing, Fault, NetlinkError};

/// How often a transaction is tried again after somebody else's came between.
const ATTEMPTS: u32 = 32;

/// Both tables have this name.
const TABLE: &str = "weft";

/// A table of ours, by its family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Table {
    /// Masquerading.
    Inet,
    /// Source MAC checks.
    Bridge,
}

/// What one transaction really changed; enough to take it back exactly.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Added {
    /// Elements that were not there before.
    pub(super) elements: Vec<Element>,
    /// Tables that were not there before.
    pub(super) tables: BTreeSet<Table>,
}

/// The nftables of one network namespace.
#[derive(Debug)]
pub(super) struct Nft {
    socket: Socket,
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

    /// Adds elements, and under them the base where it is missing. Elements that are there already stay.
    pub(super) fn add(&mut self, elements: &[Element]) -> Result<Added, NetlinkError> {
        let doing = || "failed to add nftables elements";
        let mut missing = BTreeSet::new();
        let mut collisions = 0;
        for _attempt in 0..ATTEMPTS {
            let base: Vec<Item> = missing.iter().flat_map(|table| base::items(*table)).collect();
            let first = base.len();
            let mut items = base;
            items.extend(elements.iter().map(|element| element.item(Change::Add)));
            let Transaction { outcomes, announced } = self.socket.transact(&items, None).doing(doing)?;
            let Some((at, fault)) = first_fault(&outcomes) else {
                let is_new = |element: &&Element| announced.iter().any(|(set, key)| element.is(set, key));
                let elements = elements.iter().filter(is_new).cloned().collect();
                return Ok(Added { elements, tables: missing });
            };
            // A refusal from the base: the table was made by somebody else in between, or is not as we make it.
            if at < first && fault.is_exists() {
                collisions += 1;
                missing.clear();
                continue;
            }
            let absent = outcomes[first..].iter().zip(elements).filter(|(outcome, _)| outcome.is_absent());
            let absent: BTreeSet<Table> = absent.map(|(_, element)| element.table).collect();
            if absent.is_empty() || absent.iter().all(|table| missing.contains(table)) {
                return Err(fault.doing(doing()));
            }
            // There and yet not there: a failed ADD made and removed it in between, or a set of ours is missing in it.
            for table in absent.iter().filter(|_| collisions > 0) {
                if self.is_foreign(*table)? {
                    return Err(NetlinkError::ForeignTable { family: table.family_name(), name: TABLE });
                }
            }
            missing.extend(absent);
        }
        Err(NetlinkError::Contended { doing: doing().to_owned(), attempts: ATTEMPTS })
    }

    /// Removes elements; those that are not there are no error.
    pub(super) fn remove(&mut self, elements: &[Element]) -> Result<(), NetlinkError> {
        self.take_away(elements, &BTreeSet::new(), None).map(drop)
    }

    /// Takes back what `add` did.
    pub(super) fn undo(&mut self, added: &Added) -> Result<(), NetlinkError> {
        for _attempt in 0..ATTEMPTS {
            // The generation holds off a transaction that comes between the look and the deletion.
            let generation = if added.tables.is_empty() { None } else { Some(self.generation()?) };
            let mut unused = BTreeSet::new();
            for table in &added.tables {
                if self.holds_only(*table, &added.elements)? {
                    unused.insert(*table);
                }
            }
            if self.take_away(&added.elements, &unused, generation)? {
                return Ok(());
            }
        }
        Err(NetlinkError::Contended { doing: "failed to remove nftables elements".to_owned(), attempts: ATTEMPTS })
    }

    /// Whether an element is there.
    pub(super) fn has(&mut self, element: &Element) -> Result<bool, NetlinkError> {
        self.socket.has(&element.item(Change::Get)).doing(|| "failed to look up an nftables element")
    }

    /// One transaction without `tables` and without `elements`; `false` when the generation was no longer that one.
    fn take_away(
        &mut self,
        elements: &[Element],
        tables: &BTreeSet<Table>,
        generation: Option<u32>,
    ) -> Result<bool, NetlinkError> {
        let doing = || "failed to remove nftables elements";
        let elements = elements.iter().filter(|element| !tables.contains(&element.table));
        let mut items: Vec<Item> = elements.map(|element| element.item(Change::Remove)).collect();
        items.extend(tables.iter().map(|table| table.deletion()));
        while !items.is_empty() {
            let outcomes = match self.socket.transact(&items, generation) {
                Err(Fault::Refused(Errno::ERESTART, _)) => return Ok(false),
                other => other.doing(doing)?.outcomes,
            };
            let Some((_, fault)) = first_fault(&outcomes) else { break };
            // One that is missing fails the whole transaction: go on without those. Every round has fewer.
            let before = items.len();
            let mut outcomes = outcomes.iter();
            items.retain(|_| !outcomes.next().is_some_and(Outcome::is_absent));
            if items.len() == before {
                return Err(fault.doing(doing()));
            }
        }
        Ok(true)
    }

    /// Whether a table of our name is there without one of our sets, all seen in one generation of the rules.
    fn is_foreign(&mut self, table: Table) -> Result<bool, NetlinkError> {
        let doing = || "failed to look at the nftables tables";
        let before = self.generation()?;
        let there = self.socket.has(&table.question()).doing(doing)?;
        let mut whole = true;
        for set in base::sets(table) {
            whole &= self.socket.has(&set.question()).doing(doing)?;
        }
        Ok(there && !whole && self.generation()? == before)
    }

    fn generation(&mut self) -> Result<u32, NetlinkError> {
        self.socket.generation().doing(|| "failed to read the nftables generation")
    }

    /// Whether a table's sets hold nothing but these.
    fn holds_only(&mut self, table: Table, elements: &[Element]) -> Result<bool, NetlinkError> {
        for set in base::sets(table) {
            let keys = match self.socket.dump_elements(table, set.name) {
                Err(fault) if fault.is_absent() => continue,
                other => other.doing(|| "failed to list nftables elements")?,
            };
            let ours = |key: &[u8]| elements.iter().any(|element| element.is(set.name, key));
            if !keys.iter().all(|key| ours(key)) {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

fn first_fault(outcomes: &[Outcome]) -> Option<(usize, Fault)> {
    outcomes.iter().enumerate().find_map(|(at, outcome)| Some((at, outcome.fault()?)))
}

// === impl Table ===

impl Table {
    /// As `nft` calls the family.
    fn family_name(self) -> &'static str {
        match self {
            Self::Inet => "inet",
            Self::Bridge => "bridge",
        }
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
        TableMessage { attributes: vec![TableAttribute::Name(TABLE.to_owned())] }
    }
}

/// Flags of a request that adds an element: no `NLM_F_EXCL`, so that one that is there is no error. The kernel echoes only
/// those that it really added.
const ADD_FLAGS: u16 = NLM_F_CREATE | NLM_F_ECHO;
