//! Host ports with conditions as rules, because sets cannot express them.

use std::net::IpAddr;

use ipnet::IpNet;
use netlink_packet_netfilter::nftables::{MetaKey, Operator, Register};

use super::bytes::octets;
use super::expr::{
    End, Rule, address, address_type, compare, equal, family_is, mask, meta, port, protocol_is, range, redirect_to,
};
use crate::plan::{Condition, Family, HostPort, Subject};

/// `IFNAMSIZ`.
const IFNAMSIZ: usize = 16;

/// Returns the rules of a mapping: one for every combination of values of conditions with several values. For a negated
/// condition no value may match, which a single rule can express.
pub(super) fn rules(mapping: &HostPort) -> Vec<Rule> {
    let family = Family::from_ip(mapping.to.ip());
    let mut start = family_is(family);
    if let Some(host) = mapping.host_ip {
        start.extend([address(family, End::Destination, Register::Reg1), equal(octets(host))]);
    }
    let mut variants = vec![start];
    for condition in &mapping.conditions {
        let alternatives = alternatives(condition, family);
        let choices: Vec<Rule> = if condition.not { vec![alternatives.concat()] } else { alternatives };
        variants = variants
            .iter()
            .flat_map(|variant| choices.iter().map(|choice| [variant.as_slice(), choice.as_slice()].concat()))
            .collect();
    }
    let port = [port(End::Destination, Register::Reg1), equal(mapping.host_port.to_be_bytes().to_vec())];
    let end = [protocol_is(mapping.protocol), port.to_vec(), redirect_to(mapping.to)].concat();
    variants.into_iter().map(|variant| [variant, end.clone()].concat()).collect()
}

/// Returns the expressions for each value of a condition.
fn alternatives(condition: &Condition, family: Family) -> Vec<Rule> {
    let not = condition.not;
    match &condition.subject {
        Subject::Source { nets } => nets.iter().map(|net| in_net(family, End::Source, *net, not)).collect(),
        Subject::Destination { nets } => nets.iter().map(|net| in_net(family, End::Destination, *net, not)).collect(),
        Subject::Input { links } => links.iter().map(|link| match_link_name(MetaKey::Iifname, link, not)).collect(),
        Subject::Output { links } => links.iter().map(|link| match_link_name(MetaKey::Oifname, link, not)).collect(),
        Subject::Mark { value, mask: bits } => {
            let masked = mask(bits.to_ne_bytes().to_vec());
            vec![vec![
                meta(MetaKey::Mark, Register::Reg1),
                masked,
                compare(operator(not), value.to_ne_bytes().to_vec()),
            ]]
        }
        Subject::SourceType { kind } => {
            vec![vec![address_type(End::Source), compare(operator(not), u32::from(*kind).to_ne_bytes().to_vec())]]
        }
        Subject::SourcePort { ranges } => {
            let between = |(first, last): &(u16, u16)| {
                let bounds = (first.to_be_bytes().to_vec(), last.to_be_bytes().to_vec());
                vec![port(End::Source, Register::Reg1), range(not, bounds.0, bounds.1)]
            };
            ranges.iter().map(between).collect()
        }
    }
}

fn operator(not: bool) -> Operator {
    if not { Operator::NotEqual } else { Operator::Equal }
}

fn in_net(family: Family, end: End, net: IpNet, not: bool) -> Rule {
    let mut rule = vec![address(family, end, Register::Reg1)];
    if net.prefix_len() < net.max_prefix_len() {
        rule.push(mask(octets(net.netmask())));
    }
    let network: IpAddr = net.network();
    rule.push(compare(operator(not), octets(network)));
    rule
}

/// Matches a link's name, or its prefix if it ends in `*`.
fn match_link_name(key: MetaKey, link: &str, not: bool) -> Rule {
    let name = match link.strip_suffix('*') {
        Some(start) => start.as_bytes().to_vec(),
        None => {
            let mut whole = link.as_bytes().to_vec();
            whole.resize(IFNAMSIZ, 0);
            whole
        }
    };
    vec![meta(key, Register::Reg1), compare(operator(not), name)]
}
