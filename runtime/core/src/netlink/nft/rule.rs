//! Rules that belong to one attachment, for what sets cannot express. Each has a tag of its own, kept where `nft` (in our
//! tables) or `iptables` (in its) shows a comment: that is how it is found again, whatever happened to the rules around it.

use netlink_packet_core::{DefaultNla, NLM_F_APPEND, NLM_F_CREATE};
use netlink_packet_netfilter::nftables::{
    ExpressionAttribute, Expressions, ListAttribute, NfTablesMessage, RuleAttribute, RuleMessage,
};

use super::base::CONDITIONAL;
use super::socket::Item;
use super::{Table, condition, expr, gate};
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
}

/// A rule that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct FoundRule {
    pub(super) handle: u64,
    pub(super) tag: Option<String>,
    /// The chain it jumps to.
    pub(super) jump: Option<String>,
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

/// Reads a rule out of a listing of `chain`; older kernels list those of other chains too.
pub(super) fn read(message: NfTablesMessage, chain: &str) -> Option<FoundRule> {
    let NfTablesMessage::NewRule(RuleMessage { attributes }) = message else { return None };
    let mut found = FoundRule { handle: 0, tag: None, jump: None };
    let mut ours = false;
    for attribute in attributes {
        match attribute {
            RuleAttribute::Chain(name) => ours = name == chain,
            RuleAttribute::Handle(handle) => found.handle = handle,
            RuleAttribute::UserData(data) => found.tag = found.tag.or_else(|| read_comment(&data)),
            RuleAttribute::Expressions(expressions) => {
                for expression in expressions.into_iter().filter_map(data_of) {
                    read_expression(expression, &mut found);
                }
            }
            _ => {}
        }
    }
    ours.then_some(found)
}

fn data_of(element: ListAttribute<ExpressionAttribute>) -> Option<Expressions> {
    let ListAttribute::Element(attributes) = element else { return None };
    attributes.into_iter().find_map(|attribute| match attribute {
        ExpressionAttribute::Data(data) => Some(data),
        _ => None,
    })
}

fn read_expression(expression: Expressions, found: &mut FoundRule) {
    use netlink_packet_netfilter::nftables::{DataAttribute, Immediate, VerdictAttribute};
    match expression {
        Expressions::Other { expression_type, attributes } if expression_type == "match" => {
            if let Some(text) = expr::xt_comment(&attributes) {
                found.tag = Some(text);
            }
        }
        Expressions::Immediate(attributes) => {
            let verdicts = attributes.into_iter().filter_map(|attribute| match attribute {
                Immediate::Data(DataAttribute::Verdict(verdict)) => Some(verdict),
                _ => None,
            });
            found.jump = verdicts.flatten().find_map(|attribute| match attribute {
                VerdictAttribute::Chain(name) => Some(name),
                _ => None,
            });
        }
        _ => {}
    }
}

/// A comment as `nft` stores it: type, length, text with a zero at its end.
fn comment_data(text: &str) -> Vec<u8> {
    let length = u8::try_from(text.len() + 1).unwrap_or(u8::MAX);
    [&[UDATA_COMMENT, length], text.as_bytes(), &[0]].concat()
}

fn read_comment(data: &[u8]) -> Option<String> {
    let [UDATA_COMMENT, length, rest @ ..] = data else { return None };
    let text = rest.get(..usize::from(*length))?;
    let text = text.split(|byte| *byte == 0).next().unwrap_or_default();
    Some(String::from_utf8_lossy(text).into_owned())
}

// === impl TaggedRule ===

impl TaggedRule {
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
    use super::*;

    #[test]
    fn comments() {
        let data = comment_data("weft 0123");
        assert_eq!(data, b"\0\x0aweft 0123\0");
        assert_eq!(read_comment(&data).as_deref(), Some("weft 0123"));
        assert_eq!(read_comment(&[0, 200, b'x']), None);
        assert_eq!(read_comment(&[]), None);
    }
}
