//! Accepts traffic in the iptables tables. A packet passes if no base chain of the forward hook drops it, so accepting
//! it in weft's own table does not override a `FORWARD` chain with policy drop, as docker sets it. So weft adds these
//! rules to the tables `ip filter` and `ip6 filter` that `iptables` manages, besides those that the reference plugin
//! creates with `iptables`:
//!
//! ```text
//! -A FORWARD -m comment --comment "CNI firewall plugin rules" -j CNI-FORWARD            (first)
//! -A CNI-FORWARD -m comment --comment "CNI firewall plugin admin overrides" -j CNI-ADMIN (first)
//! -A CNI-FORWARD -d 0.0.0.3/0.0.0.15 -j WEFT-FORWARD-3
//! -A CNI-FORWARD -s 0.0.0.3/0.0.0.15 -j WEFT-FORWARD-3
//! -A WEFT-FORWARD-3 -d 10.1.2.3/32 -m conntrack --ctstate RELATED,ESTABLISHED -m comment --comment TAG -j ACCEPT
//! -A WEFT-FORWARD-3 -s 10.1.2.3/32 -m comment --comment TAG -j ACCEPT
//! ```
//!
//! `iptables` cannot read sets, and refuses to work on a table with expressions that it does not know. So these are
//! rules per address, with iptables matches. The kernel finds a rule only by its handle, so ADD and DEL list its chain.
//! The last four bits of an address select one of 16 chains, and a packet passes a sixteenth of the rules. The existing
//! state is read first; what is missing of the first four lines is added in the same transaction, on the condition that
//! nothing was changed since the read. Like the other chains, a chain is kept when its last address is removed.
//!
//! Not here: the tables of `iptables-legacy`, which are not accessible through nftables.

use std::collections::BTreeSet;

use netlink_packet_core::NLM_F_CREATE;
use netlink_packet_netfilter::nftables::{ChainAttribute, Hook, InetHookNumber, NfTablesMessage, Register};

use super::answer::FoundRule;
use super::base::{chain_item, chain_name, chain_question, plain_chain};
use super::bytes::octets;
use super::expr::{End, address, counter, equal, jump, mask};
use super::listing::Listing;
use super::rule_message::{addition, deletion, xt_comment};
use super::table::{Item, Table};
use crate::netlink::fault::Fault;
use crate::plan::{Accept, Family};

/// The chains of the first line.
const FORWARD: &str = "FORWARD";
pub(super) const CHAIN: &str = "CNI-FORWARD";

const FORWARD_COMMENT: &str = "CNI firewall plugin rules";
const ADMIN_COMMENT: &str = "CNI firewall plugin admin overrides";

/// The bits of an address's last byte that select the chain of its rules.
const BUCKET_BITS: u8 = 0x0f;

/// Returns the chains that can have rules of addresses: those of their last bits, and the one that older versions used.
pub(super) fn rule_chains() -> impl Iterator<Item = String> {
    (0..=BUCKET_BITS).map(bucket_name).chain([CHAIN.to_owned()])
}

fn bucket_name(bucket: u8) -> String {
    format!("WEFT-FORWARD-{bucket:x}")
}

/// The chains and rules that an address's rules need.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::netlink) struct Gate {
    table: Table,
    admin: String,
    bucket: u8,
}

/// The newly made pieces of a gate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::netlink) struct Built {
    gate: Gate,
    made: BTreeSet<Piece>,
}

/// A piece of a gate, in creation order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Piece {
    Table,
    Forward,
    Chain,
    Admin,
    Bucket,
    BucketJumps,
    AdminJump,
    Jump,
}

/// Returns a jump rule at the beginning of its chain.
fn jump_first(table: Table, chain: &str, target: &str, text: &str, plain: bool) -> Item {
    let last = vec![counter(), jump(target)];
    let item = if plain {
        addition(table, chain, last, Some(text))
    } else {
        addition(table, chain, [vec![xt_comment(text)], last].concat(), None)
    };
    Item { flags: NLM_F_CREATE, ..item }
}

fn jumps<'a>(rules: &'a [FoundRule], to: &'a str) -> impl Iterator<Item = &'a FoundRule> {
    rules.iter().filter(move |rule| rule.jump.as_deref() == Some(to))
}

// === impl Gate ===

impl Gate {
    /// Returns the gate that the rules of an accepted address need.
    pub(super) fn for_accept(accept: &Accept) -> Self {
        Self {
            table: Table::filter(Family::from_ip(accept.address)),
            admin: accept.admin_chain.clone(),
            bucket: octets(accept.address).last().copied().unwrap_or_default() & BUCKET_BITS,
        }
    }

    /// Returns its `iptables` table.
    pub(super) fn table(&self) -> Table {
        self.table
    }

    /// Returns the chain of the rules.
    pub(super) fn bucket_chain(&self) -> String {
        bucket_name(self.bucket)
    }

    /// Returns whether all its pieces exist.
    pub(super) fn is_whole(&self, listing: &mut Listing<'_>) -> Result<bool, Fault> {
        Ok(self.missing(listing)?.is_empty())
    }

    /// Returns the missing pieces.
    fn missing(&self, listing: &mut Listing<'_>) -> Result<BTreeSet<Piece>, Fault> {
        let mut missing = BTreeSet::new();
        if jumps(listing.rules(self.table, FORWARD)?, CHAIN).next().is_none() {
            missing.insert(Piece::Jump);
        }
        let inside = listing.rules(self.table, CHAIN)?;
        if jumps(inside, &self.admin).next().is_none() {
            missing.insert(Piece::AdminJump);
        }
        if jumps(inside, &self.bucket_chain()).count() < 2 {
            missing.insert(Piece::BucketJumps);
        }
        if missing.is_empty() {
            // Nothing can jump to a missing chain.
            return Ok(missing);
        }
        let (pieces, questions): (Vec<Piece>, Vec<Item>) = [
            (Piece::Table, self.table.question()),
            (Piece::Forward, chain_question(self.table, FORWARD)),
            (Piece::Chain, chain_question(self.table, CHAIN)),
            (Piece::Admin, chain_question(self.table, &self.admin)),
            (Piece::Bucket, chain_question(self.table, &self.bucket_chain())),
        ]
        .into_iter()
        .unzip();
        let there = listing.socket().ask_each(&questions, |_answer| ())?;
        missing.extend(pieces.into_iter().zip(there).filter(|(_, there)| there.is_none()).map(|(piece, _)| piece));
        Ok(missing)
    }

    /// Returns the requests that make the missing pieces, and those pieces. `before` has what the same transaction
    /// makes for other addresses.
    pub(super) fn build(
        &self,
        listing: &mut Listing<'_>,
        plain: bool,
        before: &[Built],
    ) -> Result<(Vec<Item>, Built), Fault> {
        let mut made = self.missing(listing)?;
        made.retain(|piece| !before.iter().any(|built| built.has_piece(self, *piece)));
        let mut items = Vec::new();
        for piece in &made {
            match piece {
                Piece::Table => items.push(self.table.creation()),
                Piece::Forward => items.push(self.forward()),
                Piece::Chain => items.push(plain_chain(self.table, CHAIN)),
                Piece::Admin => items.push(plain_chain(self.table, &self.admin)),
                Piece::Bucket => items.push(plain_chain(self.table, &self.bucket_chain())),
                Piece::BucketJumps => items.extend(self.bucket_jumps(plain)),
                Piece::AdminJump => items.push(jump_first(self.table, CHAIN, &self.admin, ADMIN_COMMENT, plain)),
                Piece::Jump => items.push(jump_first(self.table, FORWARD, CHAIN, FORWARD_COMMENT, plain)),
            }
        }
        Ok((items, Built { gate: self.clone(), made }))
    }

    /// Returns the base chain, in the form in which `iptables` makes it.
    fn forward(&self) -> Item {
        let mut message = chain_name(self.table, FORWARD);
        message.attributes.extend([
            ChainAttribute::Hook(vec![Hook::Number(InetHookNumber::Forward.into()), Hook::Priority(0)]),
            ChainAttribute::Policy(1),
            ChainAttribute::Type("filter".to_owned()),
        ]);
        chain_item(self.table, NfTablesMessage::NewChain(message), NLM_F_CREATE)
    }

    /// Returns the jumps to the chain of the address, by the last bits of the destination and of the source.
    fn bucket_jumps(&self, plain: bool) -> [Item; 2] {
        let family = if self.table == Table::filter(Family::V4) { Family::V4 } else { Family::V6 };
        let length = if family == Family::V4 { 4 } else { 16 };
        let last_byte = |byte: u8| [vec![0; length - 1], vec![byte]].concat();
        [End::Destination, End::Source].map(|end| {
            let rule = vec![
                address(family, end, Register::Reg1),
                mask(last_byte(BUCKET_BITS)),
                equal(last_byte(self.bucket)),
                counter(),
                jump(&self.bucket_chain()),
            ];
            addition(self.table, CHAIN, rule, plain.then_some("weft"))
        })
    }
}

// === impl Built ===

impl Built {
    pub(super) fn is_nothing(&self) -> bool {
        self.made.is_empty()
    }

    /// Returns whether the piece of a gate is among those made.
    fn has_piece(&self, gate: &Gate, piece: Piece) -> bool {
        let same = self.gate.table == gate.table
            && match piece {
                Piece::Admin | Piece::AdminJump => self.gate.admin == gate.admin,
                Piece::Bucket | Piece::BucketJumps => self.gate.bucket == gate.bucket,
                Piece::Table | Piece::Forward | Piece::Chain | Piece::Jump => true,
            };
        same && self.made.contains(&piece)
    }

    /// Returns the requests that delete what was made, unless somebody else uses it by now. `ours` are the tags of
    /// rules that are deleted in the same transaction, `all` everything that was made with it.
    pub(super) fn deletions(
        &self,
        listing: &mut Listing<'_>,
        ours: &BTreeSet<&str>,
        all: &[Self],
    ) -> Result<Vec<Item>, Fault> {
        let Self { gate, made } = self;
        let (table, admin, bucket) = (gate.table, gate.admin.as_str(), gate.bucket_chain());
        let is_ours = |rule: &FoundRule| rule.tag.as_ref().is_some_and(|tag| ours.contains(tag.as_str()));
        if !listing.rules(table, &bucket)?.iter().all(is_ours) {
            return Ok(Vec::new());
        }
        // The chains of addresses that are deleted with it.
        let mut buckets = BTreeSet::new();
        for built in all.iter().filter(|built| built.gate.table == table && built.made.contains(&Piece::BucketJumps)) {
            let chain = built.gate.bucket_chain();
            if listing.rules(table, &chain)?.iter().all(is_ours) {
                buckets.insert(chain);
            }
        }
        let inside = listing.rules(table, CHAIN)?.to_vec();
        // Others' rules, and jumps to chains of other addresses.
        let is_used = inside.iter().any(|rule| match &rule.jump {
            Some(to) => to != admin && !buckets.contains(to),
            None => !is_ours(rule),
        });
        let decided_by_admin = made.contains(&Piece::Admin) && !listing.rules(table, admin)?.is_empty();
        let outside = listing.rules(table, FORWARD)?.to_vec();
        let mut items = Vec::new();
        for piece in made.iter().rev() {
            match piece {
                Piece::BucketJumps => {
                    items.extend(jumps(&inside, &bucket).map(|rule| deletion(table, CHAIN, rule.handle)));
                }
                Piece::Bucket => items.push(chain_deletion(table, &bucket)),
                _ if is_used || decided_by_admin => {}
                Piece::Jump => {
                    items.extend(jumps(&outside, CHAIN).map(|rule| deletion(table, FORWARD, rule.handle)));
                }
                Piece::AdminJump => items.extend(jumps(&inside, admin).map(|rule| deletion(table, CHAIN, rule.handle))),
                Piece::Admin => items.push(chain_deletion(table, admin)),
                Piece::Chain => items.push(chain_deletion(table, CHAIN)),
                // It contains somebody else's rules now.
                Piece::Forward if outside.len() > 1 => return Ok(items),
                Piece::Forward => items.push(chain_deletion(table, FORWARD)),
                Piece::Table => {
                    let chains = listing.socket().chains(table)?;
                    let is_made = |name: &str| [FORWARD, CHAIN, admin].contains(&name) || buckets.contains(name);
                    if chains.iter().all(|chain| is_made(&chain.name)) {
                        items.push(table.deletion());
                    }
                }
            }
        }
        Ok(items)
    }
}

fn chain_deletion(table: Table, name: &str) -> Item {
    chain_item(table, NfTablesMessage::DeleteChain(chain_name(table, name)), 0)
}
