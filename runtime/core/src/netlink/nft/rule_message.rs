//! The requests that add and delete a rule.

use netlink_packet_core::{DefaultNla, NLM_F_APPEND, NLM_F_CREATE};
use netlink_packet_netfilter::nftables::{Expressions, ListAttribute, NfTablesMessage, RuleAttribute, RuleMessage};

use super::expr::xt_match;
use super::table::{Item, Table};

/// Type of a comment in a rule's user data (`NFTNL_UDATA_RULE_COMMENT`).
const UDATA_COMMENT: u8 = 0;

/// Maximum length of an xt comment, with its terminating zero.
const XT_COMMENT: usize = 256;

/// Returns the request that adds a rule at the end of its chain.
pub(super) fn addition(table: Table, chain: &str, expressions: Vec<Expressions>, comment: Option<&str>) -> Item {
    let mut attributes = vec![
        RuleAttribute::Table(table.name().to_owned()),
        RuleAttribute::Chain(chain.to_owned()),
        RuleAttribute::Expressions(expressions.into_iter().map(ListAttribute::from).collect()),
    ];
    match comment {
        Some(text) => attributes.push(RuleAttribute::UserData(comment_data(text))),
        // Rules of iptables declare their protocol: all.
        None => {
            attributes.push(RuleAttribute::Compat(vec![DefaultNla::new(1, vec![0; 4]), DefaultNla::new(2, vec![0; 4])]))
        }
    }
    let message = NfTablesMessage::NewRule(RuleMessage { attributes });
    Item { table, message, flags: NLM_F_CREATE | NLM_F_APPEND }
}

/// Returns the request that deletes a rule.
pub(super) fn deletion(table: Table, chain: &str, handle: u64) -> Item {
    let attributes = vec![
        RuleAttribute::Table(table.name().to_owned()),
        RuleAttribute::Chain(chain.to_owned()),
        RuleAttribute::Handle(handle),
    ];
    Item { table, message: NfTablesMessage::DeleteRule(RuleMessage { attributes }), flags: 0 }
}

/// Formats a comment like `nft`: type, length, text with a terminating zero.
fn comment_data(text: &str) -> Vec<u8> {
    let length = u8::try_from(text.len() + 1).unwrap_or(u8::MAX);
    [&[UDATA_COMMENT, length], text.as_bytes(), &[0]].concat()
}

/// Returns the comment of a rule in a table of `iptables`: a match that is
/// always true.
pub(super) fn xt_comment(text: &str) -> Expressions {
    let mut info = text.as_bytes().to_vec();
    info.truncate(XT_COMMENT - 1);
    info.resize(XT_COMMENT, 0);
    xt_match("comment", 0, info)
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
