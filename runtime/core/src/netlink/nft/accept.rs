//! The rules that accept an address in a table of `iptables`; `gate` makes the chains around them.

use netlink_packet_netfilter::nftables::{Expressions, Register};

use super::bytes::octets;
use super::expr::{self, End, Rule, address, counter, equal, is_answer, verdict, xt_match};
use super::gate::Gate;
use super::rule::TaggedRule;
use super::rule_message::xt_comment;
use crate::plan::{Accept, Family};

/// `struct xt_conntrack_mtinfo3` padded to 8 bytes, its `match_flags` and `state_mask`, and `XT_CONNTRACK_STATE` and the bits
/// of RELATED and ESTABLISHED in them.
const CONNTRACK_SIZE: usize = 168;
const CONNTRACK_FLAGS: usize = 146;
const CONNTRACK_STATES: usize = 150;
const XT_CONNTRACK_STATE: u16 = 1;
const XT_ANSWERS: u16 = 6;

/// Follows the tag of the rule for answers.
pub(super) const ANSWERS: &str = " (answers)";

/// Returns the two rules of an address.
pub(super) fn rules(accept: &Accept) -> Vec<TaggedRule> {
    let family = Family::from_ip(accept.address);
    let gate = Gate::for_accept(accept);
    let rule = |end, tag: String, matches: Rule, natively: Rule| {
        let subject = vec![address(family, end, Register::Reg1), equal(octets(accept.address))];
        let last = vec![counter(), verdict(expr::ACCEPT)];
        TaggedRule {
            table: gate.table(),
            chain: gate.bucket_chain(),
            expressions: [subject.clone(), matches, vec![xt_comment(&tag)], last.clone()].concat(),
            otherwise: Some([subject, natively, last].concat()),
            tag,
            gate: Some(gate.clone()),
            port: None,
        }
    };
    vec![
        rule(End::Destination, format!("{}{ANSWERS}", accept.tag), vec![answers()], is_answer()),
        rule(End::Source, accept.tag.clone(), Vec::new(), Vec::new()),
    ]
}

/// `-m conntrack --ctstate RELATED,ESTABLISHED`.
fn answers() -> Expressions {
    let mut info = vec![0; CONNTRACK_SIZE];
    for (at, value) in [(CONNTRACK_FLAGS, XT_CONNTRACK_STATE), (CONNTRACK_STATES, XT_ANSWERS)] {
        info.iter_mut().skip(at).zip(value.to_ne_bytes()).for_each(|(to, from)| *to = from);
    }
    xt_match("conntrack", 3, info)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The same bytes that `iptables` writes.
    #[test]
    fn conntrack_match() {
        let attributes = match answers() {
            Expressions::Other { attributes, .. } => attributes,
            _ => Vec::new(),
        };
        let bytes: Vec<u8> = attributes.iter().flat_map(super::super::bytes::emitted).collect();
        let info = &bytes[bytes.len() - CONNTRACK_SIZE..];
        let set: Vec<(usize, u8)> = info.iter().copied().enumerate().filter(|(_, byte)| *byte != 0).collect();
        assert_eq!(set, [(146, 1), (150, 6)]);
    }
}
