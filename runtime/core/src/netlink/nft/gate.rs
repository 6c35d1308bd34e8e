//! Accepting where it counts. A packet passes when no base chain of the forward hook drops it, so accepting in a table of
//! ours means nothing to a `FORWARD` chain with policy drop, as docker leaves one. Hence this, in the tables `ip filter` and
//! `ip6 filter` that `iptables` manages, exactly as the reference plugin makes `iptables` write it:
//!
//! ```text
//! -A FORWARD -m comment --comment "CNI firewall plugin rules" -j CNI-FORWARD            (first)
//! -A CNI-FORWARD -m comment --comment "CNI firewall plugin admin overrides" -j CNI-ADMIN (first)
//! -A CNI-FORWARD -d 10.1.2.3/32 -m conntrack --ctstate RELATED,ESTABLISHED -m comment --comment TAG -j ACCEPT
//! -A CNI-FORWARD -s 10.1.2.3/32 -m comment --comment TAG -j ACCEPT
//! ```
//!
//! `iptables` reads no sets, and refuses to work on a table with expressions that it does not know. So these are rules
//! for each address, with the matches of iptables. What is there is looked at first; what is missing of the first two lines
//! is added in the one transaction, on the condition that nothing was changed since the look.
//!
//! Not here: the tables of `iptables-legacy`, which nftables cannot reach.

use std::collections::BTreeSet;
use std::net::IpAddr;

use netlink_packet_core::NLM_F_CREATE;
use netlink_packet_netfilter::nftables::{
    ChainAttribute, Expressions, Hook, InetHookNumber, NfTablesMessage, Register,
};

use super::Table;
use super::base::{chain_item, chain_name, plain_chain};
use super::expr::{self, End, Rule, address, counter, equal, is_answer, jump, octets, verdict, xt_match};
use super::rule::{FoundRule, TaggedRule, XT_COMMENT, addition, deletion};
use super::socket::{Item, Socket};
use crate::netlink::error::Fault;
use crate::plan::{Accept, Family, Op};

/// The chains of the first line.
const FORWARD: &str = "FORWARD";
const CHAIN: &str = "CNI-FORWARD";

const FORWARD_COMMENT: &str = "CNI firewall plugin rules";
const ADMIN_COMMENT: &str = "CNI firewall plugin admin overrides";

/// `struct xt_conntrack_mtinfo3` padded to 8 bytes, its `match_flags` and `state_mask`, and `XT_CONNTRACK_STATE` and the bits
/// of RELATED and ESTABLISHED in them.
const CONNTRACK_SIZE: usize = 168;
const CONNTRACK_FLAGS: usize = 146;
const CONNTRACK_STATES: usize = 150;
const XT_CONNTRACK_STATE: u16 = 1;
const XT_ANSWERS: u16 = 6;

/// What rules of a family need around them.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Gate {
    table: Table,
    admin: String,
}

/// What of a gate was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::netlink) struct Built {
    gate: Gate,
    made: BTreeSet<Piece>,
}

/// A piece of a gate, in the order in which they are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Piece {
    Table,
    Forward,
    Chain,
    Admin,
    AdminJump,
    Jump,
}

/// The two rules of an address.
pub(super) fn rules(accept: &Accept) -> Vec<TaggedRule> {
    let family = Family::of(accept.address);
    let rule = |end, tag: String, matches: Rule, natively: Rule| {
        let subject = is_address(family, end, accept.address);
        let last = vec![counter(), verdict(expr::ACCEPT)];
        TaggedRule {
            table: Table::filter(family),
            chain: CHAIN.to_owned(),
            expressions: [subject.clone(), matches, vec![comment(&tag)], last.clone()].concat(),
            otherwise: Some([subject, natively, last].concat()),
            tag,
        }
    };
    vec![
        rule(End::Destination, format!("{} (answers)", accept.tag), vec![answers()], is_answer()),
        rule(End::Source, accept.tag.clone(), Vec::new(), Vec::new()),
    ]
}

/// The gates that ops need.
pub(super) fn needed<'a>(ops: impl Iterator<Item = &'a Op>) -> BTreeSet<Gate> {
    let gate = |op| match op {
        &Op::Accept(Accept { address, ref admin_chain, .. }) => {
            Some(Gate { table: Table::filter(Family::of(address)), admin: admin_chain.clone() })
        }
        _ => None,
    };
    ops.filter_map(gate).collect()
}

fn is_address(family: Family, end: End, value: IpAddr) -> Rule {
    vec![address(family, end, Register::Reg1), equal(octets(value))]
}

fn comment(text: &str) -> Expressions {
    let mut info = text.as_bytes().to_vec();
    info.truncate(XT_COMMENT - 1);
    info.resize(XT_COMMENT, 0);
    xt_match("comment", 0, info)
}

/// `-m conntrack --ctstate RELATED,ESTABLISHED`.
fn answers() -> Expressions {
    let mut info = vec![0; CONNTRACK_SIZE];
    for (at, value) in [(CONNTRACK_FLAGS, XT_CONNTRACK_STATE), (CONNTRACK_STATES, XT_ANSWERS)] {
        info.iter_mut().skip(at).zip(value.to_ne_bytes()).for_each(|(to, from)| *to = from);
    }
    xt_match("conntrack", 3, info)
}

/// A rule that jumps, at the beginning of its chain.
fn jump_first(table: Table, chain: &str, target: &str, says: &str, plain: bool) -> Item {
    let last = vec![counter(), jump(target)];
    let item = if plain {
        addition(table, chain, last, Some(says))
    } else {
        addition(table, chain, [vec![comment(says)], last].concat(), None)
    };
    Item { flags: NLM_F_CREATE, ..item }
}

// === impl Gate ===

impl Gate {
    /// Whether its pieces are all there.
    pub(super) fn is_whole(&self, socket: &mut Socket) -> Result<bool, Fault> {
        Ok(self.missing(socket)?.is_empty())
    }

    /// The pieces that are missing.
    fn missing(&self, socket: &mut Socket) -> Result<BTreeSet<Piece>, Fault> {
        let jumps = |rules: &[FoundRule], to: &str| rules.iter().any(|rule| rule.jump.as_deref() == Some(to));
        let mut missing = BTreeSet::new();
        if !jumps(&socket.rules(self.table, FORWARD)?, CHAIN) {
            missing.insert(Piece::Jump);
        }
        if !jumps(&socket.rules(self.table, CHAIN)?, &self.admin) {
            missing.insert(Piece::AdminJump);
        }
        if missing.is_empty() {
            // Nothing can jump to a chain that is not there.
            return Ok(missing);
        }
        for (piece, question) in [
            (Piece::Table, self.table.question()),
            (Piece::Forward, self.question(FORWARD)),
            (Piece::Chain, self.question(CHAIN)),
            (Piece::Admin, self.question(&self.admin)),
        ] {
            if !socket.has(&question)? {
                missing.insert(piece);
            }
        }
        Ok(missing)
    }

    fn question(&self, chain: &str) -> Item {
        chain_item(self.table, NfTablesMessage::GetChain(chain_name(self.table, chain)), 0)
    }

    /// The requests that make what is missing, and what that is.
    pub(super) fn build(&self, socket: &mut Socket, plain: bool) -> Result<(Vec<Item>, Built), Fault> {
        let made = self.missing(socket)?;
        let items = made.iter().map(|piece| match piece {
            Piece::Table => self.table.creation(),
            Piece::Forward => self.forward(),
            Piece::Chain => plain_chain(self.table, CHAIN),
            Piece::Admin => plain_chain(self.table, &self.admin),
            Piece::AdminJump => jump_first(self.table, CHAIN, &self.admin, ADMIN_COMMENT, plain),
            Piece::Jump => jump_first(self.table, FORWARD, CHAIN, FORWARD_COMMENT, plain),
        });
        Ok((items.collect(), Built { gate: self.clone(), made }))
    }

    /// The base chain, as `iptables` makes it.
    fn forward(&self) -> Item {
        let mut message = chain_name(self.table, FORWARD);
        message.attributes.extend([
            ChainAttribute::Hook(vec![Hook::Number(InetHookNumber::Forward.into()), Hook::Priority(0)]),
            ChainAttribute::Policy(1),
            ChainAttribute::Type("filter".to_owned()),
        ]);
        chain_item(self.table, NfTablesMessage::NewChain(message), NLM_F_CREATE)
    }
}

// === impl Built ===

impl Built {
    pub(super) fn is_nothing(&self) -> bool {
        self.made.is_empty()
    }

    /// The requests that take back what was made, as far as nobody else uses it by now. `ours` are the tags of rules that go
    /// in the same transaction.
    pub(super) fn deletions(&self, socket: &mut Socket, ours: &BTreeSet<&str>) -> Result<Vec<Item>, Fault> {
        let Self { gate: Gate { table, admin }, made } = self;
        let of_others = |rule: &FoundRule| match (&rule.tag, &rule.jump) {
            (_, Some(to)) => to != admin,
            (Some(tag), None) => !ours.contains(tag.as_str()),
            (None, None) => true,
        };
        let inside = socket.rules(*table, CHAIN)?;
        let decided_by_admin = made.contains(&Piece::Admin) && !socket.rules(*table, admin)?.is_empty();
        if decided_by_admin || inside.iter().any(of_others) {
            return Ok(Vec::new());
        }
        let outside = socket.rules(*table, FORWARD)?;
        let jump_of = |rules: &[FoundRule], to: &str| {
            rules.iter().find(|rule| rule.jump.as_deref() == Some(to)).map(|rule| rule.handle)
        };
        let mut items = Vec::new();
        for piece in made.iter().rev() {
            match piece {
                Piece::Jump => items.extend(jump_of(&outside, CHAIN).map(|at| deletion(*table, FORWARD, at))),
                Piece::AdminJump => items.extend(jump_of(&inside, admin).map(|at| deletion(*table, CHAIN, at))),
                Piece::Admin => items.push(chain_deletion(*table, admin)),
                Piece::Chain => items.push(chain_deletion(*table, CHAIN)),
                // Somebody else's rules came into it.
                Piece::Forward if outside.len() > 1 => return Ok(items),
                Piece::Forward => items.push(chain_deletion(*table, FORWARD)),
                Piece::Table => {
                    let chains = [FORWARD, CHAIN, admin.as_str()];
                    if socket.chains(*table)?.iter().all(|chain| chains.contains(&chain.as_str())) {
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

#[cfg(test)]
mod tests {
    use super::*;

    /// As `iptables` wrote it.
    #[test]
    fn conntrack_match() {
        let attributes = match answers() {
            Expressions::Other { attributes, .. } => attributes,
            _ => Vec::new(),
        };
        let bytes: Vec<u8> = attributes.iter().flat_map(expr::emitted).collect();
        let info = &bytes[bytes.len() - CONNTRACK_SIZE..];
        let set: Vec<(usize, u8)> = info.iter().copied().enumerate().filter(|(_, byte)| *byte != 0).collect();
        assert_eq!(set, [(146, 1), (150, 6)]);
    }
}
