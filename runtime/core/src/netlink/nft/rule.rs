//! Rules that belong to one attachment, for what sets cannot express. Each has a tag of its own, kept where `nft` (in our
//! tables) or `iptables` (in its) shows a comment: that is how it is found again, whatever happened to the rules around it.

use netlink_packet_core::{DefaultNla, NLM_F_APPEND, NLM_F_CREATE};
use netlink_packet_netfilter::nftables::{Expressions, ListAttribute, NfTablesMessage, RuleAttribute, RuleMessage};

use super::base::CONDITIONAL;
use super::gate::Gate;
use super::socket::Item;
use super::{Table, condition, gate};
use crate::plan::Op;

/// Type of a comment in a rule's user data (`NFTNL_UDATA_RULE_COMMENT`).
const UDATA_COMMENT: u8 = 0;

/// What an xt comment has room for, with the zero at its end.
pub(super) const XT_COMMENT: usize = 256;

/// A rule of an attachment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::netlink) struct TaggedRule {
    pub(super) table: Table,
    pub(super) chain: String,
    pub(super) tag: String,
    pub(super) expressions: Vec<Expressions>,
    /// For a kernel without the matches of iptables.
    pub(super) otherwise: Option<Vec<Expressions>>,
    /// What must be around it.
    pub(super) gate: Option<Gate>,
}

/// The rules of an op; none for ops that are elements only.
pub(super) fn rules(op: &Op) -> Vec<TaggedRule> {
    match op {
        Op::HostPort(port) if !port.conditions.is_empty() => {
            let variants = condition::rules(port);
            let tag = |at: usize| if at == 0 { port.tag.clone() } else { format!("{} ({})", port.tag, at + 1) };
            let rule = |(at, expressions)| TaggedRule {
                table: Table::Inet,
                chain: CONDITIONAL.to_owned(),
                tag: tag(at),
                expressions,
                otherwise: None,
                gate: None,
            };
            variants.into_iter().enumerate().map(rule).collect()
        }
        Op::Accept(accept) => gate::rules(accept),
        _ => Vec::new(),
    }
}

/// The request that adds a rule at the end of its chain.
pub(super) fn addition(table: Table, chain: &str, expressions: Vec<Expressions>, comment: Option<&str>) -> Item {
    let mut attributes = vec![
        RuleAttribute::Table(table.name().to_owned()),
        RuleAttribute::Chain(chain.to_owned()),
        RuleAttribute::Expressions(expressions.into_iter().map(ListAttribute::from).collect()),
    ];
    match comment {
        Some(text) => attributes.push(RuleAttribute::UserData(comment_data(text))),
        // Rules of iptables say which protocol they are about: all.
        None => {
            attributes.push(RuleAttribute::Compat(vec![DefaultNla::new(1, vec![0; 4]), DefaultNla::new(2, vec![0; 4])]))
        }
    }
    let message = NfTablesMessage::NewRule(RuleMessage { attributes });
    Item { table, message, flags: NLM_F_CREATE | NLM_F_APPEND }
}

/// The request that lists the rules of a chain.
pub(super) fn listing(table: Table, chain: &str) -> Item {
    let attributes = vec![RuleAttribute::Table(table.name().to_owned()), RuleAttribute::Chain(chain.to_owned())];
    Item { table, message: NfTablesMessage::GetRule(RuleMessage { attributes }), flags: 0 }
}

/// The request that deletes a rule.
pub(super) fn deletion(table: Table, chain: &str, handle: u64) -> Item {
    let attributes = vec![
        RuleAttribute::Table(table.name().to_owned()),
        RuleAttribute::Chain(chain.to_owned()),
        RuleAttribute::Handle(handle),
    ];
    Item { table, message: NfTablesMessage::DeleteRule(RuleMessage { attributes }), flags: 0 }
}

/// A comment as `nft` stores it: type, length, text with a zero at its end.
fn comment_data(text: &str) -> Vec<u8> {
    let length = u8::try_from(text.len() + 1).unwrap_or(u8::MAX);
    [&[UDATA_COMMENT, length], text.as_bytes(), &[0]].concat()
}

// === impl TaggedRule ===

impl TaggedRule {
    /// The chains it may be in: its own, and the one in which older versions put it.
    pub(super) fn places(&self) -> impl Iterator<Item = &str> {
        let older = self.gate.as_ref().map(|_gate| gate::CHAIN);
        [self.chain.as_str()].into_iter().chain(older)
    }

    /// The request that adds it.
    pub(super) fn addition(&self, plain: bool) -> Item {
        match &self.otherwise {
            Some(otherwise) if plain => addition(self.table, &self.chain, otherwise.clone(), Some(&self.tag)),
            Some(_) => addition(self.table, &self.chain, self.expressions.clone(), None),
            None => addition(self.table, &self.chain, self.expressions.clone(), Some(&self.tag)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::answer;
    use super::*;

    #[test]
    fn comments() {
        let data = comment_data("weft 0123");
        assert_eq!(data, b"\0\x0aweft 0123\0");
        assert_eq!(answer::comment(&data).as_deref(), Some("weft 0123"));
        assert_eq!(answer::comment(&[0, 200, b'x']), None);
        assert_eq!(answer::comment(&[]), None);
    }
}
