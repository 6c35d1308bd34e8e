//! The rules of an op.

use super::ports::PortChain;
use super::rule::TaggedRule;
use super::table::Table;
use super::{accept, condition};
use crate::plan::Op;

/// Returns the rules of an op; none for ops that only have elements.
pub(super) fn rules(op: &Op) -> Vec<TaggedRule> {
    match op {
        Op::HostPort(port) if !port.conditions.is_empty() => {
            let variants = condition::rules(port);
            let tag = |at: usize| if at == 0 { port.tag.clone() } else { format!("{} ({})", port.tag, at + 1) };
            let chain = PortChain::from_mapping(port);
            let rule = |(at, expressions)| TaggedRule {
                table: Table::Inet,
                chain: chain.name(),
                tag: tag(at),
                expressions,
                otherwise: None,
                gate: None,
                port: Some(chain),
            };
            variants.into_iter().enumerate().map(rule).collect()
        }
        Op::Accept(accept) => accept::rules(accept),
        _ => Vec::new(),
    }
}
