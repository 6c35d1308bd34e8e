//! Rules: they determine the table in which a packet's route is looked up.

use std::net::IpAddr;

use rtnetlink::packet_route::rule::{RuleAction, RuleAttribute, RuleHeader, RuleMessage};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};

use super::{ChangeMode, Rtnl};
use crate::netlink::fault::Fault;
use crate::plan::Family;

/// A rule according to the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::netlink) struct Rule {
    /// The table, if it names one.
    pub(in crate::netlink) table: Option<u32>,
    /// The source address, if that is its only condition.
    pub(in crate::netlink) source: Option<IpAddr>,
    /// The complete message, so that the rule can be identified exactly.
    pub(in crate::netlink) message: RuleMessage,
}

/// Returns a rule that looks up packets from an address in a table. The kernel gives it a priority before existing
/// ones.
pub(in crate::netlink) fn rule_message(source: IpAddr, table: u32) -> RuleMessage {
    let mut message = RuleMessage::default();
    message.header.family = if source.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    message.header.src_len = length(source);
    // Tables above 255 only fit the attribute.
    message.header.table = u8::try_from(table).unwrap_or(RuleHeader::default().table);
    message.header.action = RuleAction::ToTable;
    message.attributes.push(RuleAttribute::Source(source));
    message.attributes.push(RuleAttribute::Table(table));
    message
}

fn length(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

// === impl Rule ===

impl Rule {
    fn read(message: RuleMessage) -> Self {
        let header = &message.header;
        let mut table = Some(u32::from(header.table)).filter(|table| *table != 0);
        let mut source = None;
        let mut plain = header.action == RuleAction::ToTable && header.dst_len == 0 && header.tos == 0;
        for attribute in &message.attributes {
            match attribute {
                RuleAttribute::Table(value) => table = Some(*value),
                RuleAttribute::Source(address) => source = Some(*address),
                RuleAttribute::Priority(_) | RuleAttribute::Protocol(_) => {}
                // The kernel sends "no limit" with every rule.
                RuleAttribute::SuppressPrefixLen(u32::MAX) | RuleAttribute::SuppressIfGroup(u32::MAX) => {}
                RuleAttribute::Other(_) => {}
                _ => plain = false,
            }
        }
        let source = source.filter(|address| plain && header.src_len == length(*address));
        Self { table, source, message }
    }
}

// === impl Rtnl ===

impl Rtnl {
    /// Reads the rules of a family. A kernel without the family has none.
    pub(in crate::netlink) fn rules(&self, family: Family) -> Result<Vec<Rule>, Fault> {
        let mut message = RuleMessage::default();
        message.header.family = match family {
            Family::V4 => AddressFamily::Inet,
            Family::V6 => AddressFamily::Inet6,
        };
        let answers = match self.dump(RouteNetlinkMessage::GetRule(message)) {
            Err(fault) if fault.is_unsupported() => return Ok(Vec::new()),
            other => other?,
        };
        Ok(answers
            .into_iter()
            .filter_map(|answer| match answer {
                RouteNetlinkMessage::NewRule(message) => Some(Rule::read(message)),
                _ => None,
            })
            .collect())
    }

    /// Adds a rule. Returns its exact form, with the assigned priority.
    pub(in crate::netlink) fn add_rule(&self, message: RuleMessage) -> Result<RuleMessage, Fault> {
        match self.change_echo(RouteNetlinkMessage::NewRule(message.clone()), ChangeMode::Create)? {
            Some(RouteNetlinkMessage::NewRule(announced)) => Ok(announced),
            _ => Ok(message),
        }
    }

    /// Removes a rule. Returns `false` if it does not exist.
    pub(in crate::netlink) fn delete_rule(&self, message: RuleMessage) -> Result<bool, Fault> {
        match self.change(RouteNetlinkMessage::DelRule(message), ChangeMode::Set) {
            Ok(()) => Ok(true),
            Err(fault) if fault.is_absent() => Ok(false),
            Err(fault) => Err(fault),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn only_a_plain_rule_for_one_address_has_a_source() {
        for (source, table) in [("10.0.0.5", 100), ("fd00::5", 70_000)] {
            let source: IpAddr = source.parse().unwrap();
            let rule = Rule::read(rule_message(source, table));
            assert_eq!((rule.source, rule.table), (Some(source), Some(table)));
            let mut wider = rule_message(source, table);
            wider.header.src_len -= 8;
            assert_eq!(Rule::read(wider).source, None);
            let mut other = rule_message(source, table);
            other.attributes.push(RuleAttribute::FwMark(1));
            assert_eq!(Rule::read(other).source, None);
        }
    }
}
