//! Reads ops back from the elements and rules of attachments. A rebuilt ledger gets them, so that DEL removes what the
//! lost one knew.
//!
//! Limits: a chain of the operator that `firewall` jumps to is taken for the default one. The conditions of host ports
//! are not read back: the op finds and removes their rules, and would restore rules that never match.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;

use super::answer::{FoundElement, FoundRule};
use super::base_rules::CONDITIONAL;
use super::gate;
use super::ports::PortChain;
use super::set::{
    BY_PORT, HOSTIP4, HOSTIP6, HOSTPORT4, HOSTPORT6, ISOLATED, MASQ4_LOCAL, MASQ6_LOCAL, SAME_BRIDGE, SNAT4, SNAT6,
    SPOOF_MACS, SetSpec,
};
use super::{Nft, Table};
use crate::netlink::error::NetlinkError;
use crate::netlink::fault::{Doing, Fault};
use crate::plan::{Accept, Condition, Family, HostPort, Ingress, IngressPolicy, Mac, Op, Protocol, Subject};

/// `IFNAMSIZ`.
const IFNAMSIZ: usize = 16;

/// The default of `iptablesAdminChainName`.
const ADMIN: &str = "CNI-ADMIN";

/// What an element or rule names of its attachment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FilterOf {
    /// An address of the container.
    Address(IpAddr),
    /// The host's link.
    Link(String),
    /// The bridge, which other attachments share.
    Bridge(String),
}

/// Protocol, container's address and port, and host's port.
type Redirection = (Protocol, SocketAddr, u16);

impl Nft {
    /// Returns the ops whose elements or rules exist.
    pub(in crate::netlink) fn recover(&mut self) -> Result<Vec<(FilterOf, Op)>, NetlinkError> {
        self.recovered().doing(|| "failed to list nftables elements")
    }

    fn recovered(&mut self) -> Result<Vec<(FilterOf, Op)>, Fault> {
        let mut all = Vec::new();
        for (set, family) in [(&MASQ4_LOCAL, Family::V4), (&MASQ6_LOCAL, Family::V6)] {
            all.extend(self.elements(set)?.iter().filter_map(|element| masqueraded(element, family)));
        }
        for (set, policy) in [(&ISOLATED, Ingress::Isolated), (&SAME_BRIDGE, Ingress::SameBridge)] {
            let bridges = self.elements(set)?.into_iter().filter_map(|element| link_name(&element.key));
            all.extend(
                bridges.map(|bridge| {
                    (FilterOf::Bridge(bridge.clone()), Op::IngressPolicy(IngressPolicy { bridge, policy }))
                }),
            );
        }
        all.extend(self.elements(&SPOOF_MACS)?.iter().filter_map(checked_mac));
        for port in self.host_ports()? {
            all.push((FilterOf::Address(port.to.ip()), Op::HostPort(port)));
        }
        for family in [Family::V4, Family::V6] {
            all.extend(self.accepted(family)?);
        }
        Ok(all)
    }

    fn elements(&mut self, set: &SetSpec) -> Result<Vec<FoundElement>, Fault> {
        self.socket.whole_elements(set.part.table(), set.name)
    }

    /// Returns the host ports: those of the maps, and those with conditions.
    fn host_ports(&mut self) -> Result<Vec<HostPort>, Fault> {
        let mut sources: BTreeMap<Redirection, Vec<IpNet>> = BTreeMap::new();
        for (set, family) in [(&SNAT4, Family::V4), (&SNAT6, Family::V6)] {
            for element in self.elements(set)? {
                if let Some((redirection, net)) = source(&element, family) {
                    sources.entry(redirection).or_default().push(net);
                }
            }
        }
        let mut ports = self.conditional_ports()?;
        for (set, family) in [(&HOSTPORT4, Family::V4), (&HOSTPORT6, Family::V6)] {
            ports.extend(self.elements(set)?.iter().filter_map(|element| mapping(element, family, false)));
        }
        for (set, family) in [(&HOSTIP4, Family::V4), (&HOSTIP6, Family::V6)] {
            ports.extend(self.elements(set)?.iter().filter_map(|element| mapping(element, family, true)));
        }
        // Two mappings of one port to one place share their sources.
        let of = |port: &HostPort| (port.protocol, port.to, port.host_port);
        for port in &mut ports {
            port.masquerade = sources.get(&of(port)).cloned().unwrap_or_default();
        }
        sources.retain(|redirection, _nets| !ports.iter().any(|port| of(port) == *redirection));
        ports.extend(sources.into_iter().map(|((protocol, to, host_port), masquerade)| HostPort {
            masquerade,
            conditions: excluded_conditions(1, to),
            ..unconditional_host_port(protocol, host_port, to)
        }));
        Ok(ports)
    }

    fn conditional_ports(&mut self) -> Result<Vec<HostPort>, Fault> {
        let keys = self.elements(&BY_PORT)?;
        let mut chains: Vec<String> =
            keys.iter().filter_map(|element| PortChain::from_key(&element.key)).map(PortChain::name).collect();
        chains.push(CONDITIONAL.to_owned());
        let mut ports: BTreeMap<String, (HostPort, usize)> = BTreeMap::new();
        for chain in chains {
            for rule in self.socket.rules(Table::Inet, &chain)? {
                let Some((tag, port)) = conditional(&rule) else { continue };
                ports.entry(tag).or_insert((port, 0)).1 += 1;
            }
        }
        let whole = |(tag, (port, rules)): (String, (HostPort, usize))| {
            let conditions = excluded_conditions(rules, port.to);
            HostPort { tag, conditions, ..port }
        };
        Ok(ports.into_iter().map(whole).collect())
    }

    /// Returns the addresses that rules in a table of `iptables` accept.
    fn accepted(&mut self, family: Family) -> Result<Vec<(FilterOf, Op)>, Fault> {
        let table = Table::filter(family);
        let mut found = Vec::new();
        for chain in gate::rule_chains() {
            for rule in self.socket.rules(table, &chain)? {
                let tag = rule.tag.as_deref().and_then(|tag| tag.strip_suffix(super::accept::ANSWERS));
                let address = rule.ports.address.as_deref().and_then(address);
                let (Some(tag), Some(address)) = (tag.filter(|tag| tag.starts_with("weft ")), address) else {
                    continue;
                };
                let op = Accept { address, admin_chain: ADMIN.to_owned(), tag: tag.to_owned() };
                found.push((FilterOf::Address(address), Op::Accept(op)));
            }
        }
        Ok(found)
    }
}

/// Conditions with so many rules, none of which ever matches: no packet comes from port 0. The address tells the
/// mappings of several containers apart.
fn excluded_conditions(rules: usize, to: SocketAddr) -> Vec<Condition> {
    let source = Subject::Source { nets: vec![IpNet::from(to.ip())] };
    let port = Subject::SourcePort { ranges: vec![(0, 0); rules] };
    [source, port].map(|subject| Condition { subject, not: false }).into()
}

fn unconditional_host_port(protocol: Protocol, host_port: u16, to: SocketAddr) -> HostPort {
    HostPort {
        protocol,
        host_ip: None,
        host_port,
        to,
        masquerade: Vec::new(),
        conditions: Vec::new(),
        tag: String::new(),
    }
}

/// Returns tag and mapping of a rule with conditions.
fn conditional(rule: &FoundRule) -> Option<(String, HostPort)> {
    let tag = rule.tag.as_deref().filter(|tag| tag.starts_with("weft "))?;
    // One of several rules has its number behind the tag.
    let numbered = tag.strip_suffix(')').and_then(|tag| tag.rsplit_once(" ("));
    let tag = numbered.filter(|(_tag, number)| number.parse::<u16>().is_ok()).map_or(tag, |(tag, _number)| tag);
    let [to, port] = rule.values.as_slice() else { return None };
    let to = SocketAddr::new(address(to)?, u16::from_be_bytes(port.as_slice().try_into().ok()?));
    let (protocol, host_port) = (rule.ports.protocol?, *rule.ports.ports.last()?);
    Some((tag.to_owned(), unconditional_host_port(protocol, host_port, to)))
}

fn masqueraded(element: &FoundElement, family: Family) -> Option<(FilterOf, Op)> {
    let length = length(family);
    let address = address(element.key.get(..length)?)?;
    let (first, last) = (element.key.get(length..)?, element.end.as_ref().unwrap_or(&element.key).get(length..)?);
    let op = Op::Masquerade { address: IpNet::new(address, prefix(first, last)).ok()? };
    Some((FilterOf::Address(address), op))
}

fn checked_mac(element: &FoundElement) -> Option<(FilterOf, Op)> {
    let link = link_name(&element.key)?;
    let mac = Mac(element.key.get(IFNAMSIZ..IFNAMSIZ + 6)?.try_into().ok()?);
    Some((FilterOf::Link(link.clone()), Op::MacSpoofCheck { link, mac }))
}

/// Reads an element of a map: the host's address if it has one, protocol and port; then the container's.
fn mapping(element: &FoundElement, family: Family, has_address: bool) -> Option<HostPort> {
    let outer = if has_address { length(family) } else { 0 };
    let host_ip = if has_address { Some(address(element.key.get(..outer)?)?) } else { None };
    let protocol = Protocol::from_number(*element.key.get(outer)?)?;
    let host_port = number(&element.key, outer + 4)?;
    let data = element.data.as_ref()?;
    let to = SocketAddr::new(address(data.get(..length(family))?)?, number(data, length(family))?);
    Some(HostPort { host_ip, ..unconditional_host_port(protocol, host_port, to) })
}

/// Reads an element of the sources to masquerade: protocol, container's address and port, host's port, source.
fn source(element: &FoundElement, family: Family) -> Option<(Redirection, IpNet)> {
    let FoundElement { key, end, .. } = element;
    let length = length(family);
    let to = SocketAddr::new(address(key.get(4..4 + length)?)?, number(key, 4 + length)?);
    let redirection = (Protocol::from_number(*key.first()?)?, to, number(key, 8 + length)?);
    let (first, last) = (key.get(12 + length..)?, end.as_ref().unwrap_or(key).get(12 + length..)?);
    Some((redirection, IpNet::new(address(first)?, prefix(first, last)).ok()?))
}

fn length(family: Family) -> usize {
    match family {
        Family::V4 => 4,
        Family::V6 => 16,
    }
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from),
        16 => <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from),
        _ => None,
    }
}

fn number(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..at + 2)?.try_into().ok().map(u16::from_be_bytes)
}

/// Returns the name at the beginning of a key.
fn link_name(key: &[u8]) -> Option<String> {
    let name = key.get(..IFNAMSIZ)?.split(|byte| *byte == 0).next()?;
    String::from_utf8(name.to_vec()).ok().filter(|name| !name.is_empty())
}

/// Returns the length of the prefix that the first and the last address of a network have in common.
fn prefix(first: &[u8], last: &[u8]) -> u8 {
    let mut length = 0;
    for (a, b) in first.iter().zip(last) {
        let same = (a ^ b).leading_zeros();
        length += u8::try_from(same).unwrap_or(8);
        if same < 8 {
            break;
        }
    }
    length
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::super::element::elements;
    use super::*;

    fn found(op: &Op) -> Vec<FoundElement> {
        elements(op).iter().map(super::super::element::Element::found).collect()
    }

    #[test]
    fn what_is_written_is_read_back() {
        for (address, family) in [("10.1.2.3/23", Family::V4), ("fd00::5/64", Family::V6), ("10.1.2.3/32", Family::V4)]
        {
            let op = Op::Masquerade { address: address.parse().unwrap() };
            assert_eq!(masqueraded(&found(&op)[1], family).unwrap().1, op);
        }
        let op = Op::MacSpoofCheck { link: "veth7".to_owned(), mac: Mac([2, 0, 0, 0, 0, 9]) };
        assert_eq!(checked_mac(&found(&op)[1]), Some((FilterOf::Link("veth7".to_owned()), op)));
        for (to, host_ip, net) in [
            ("10.1.2.3:80", None, "10.1.2.0/24"),
            ("10.1.2.3:80", Some("192.0.2.1"), "127.0.0.1/32"),
            ("[fd00::5]:80", None, "fd00::/64"),
            ("[fd00::5]:80", Some("2001:db8::1"), "::/0"),
        ] {
            let port = HostPort {
                host_ip: host_ip.map(|text| text.parse().unwrap()),
                masquerade: vec![net.parse().unwrap()],
                ..unconditional_host_port(Protocol::Sctp, 8080, to.parse().unwrap())
            };
            let elements = found(&Op::HostPort(port.clone()));
            let family = Family::from_ip(port.to.ip());
            let read = mapping(&elements[0], family, host_ip.is_some()).unwrap();
            assert_eq!(HostPort { masquerade: port.masquerade.clone(), ..read }, port);
            let redirection = (Protocol::Sctp, port.to, 8080);
            assert_eq!(source(&elements[1], family), Some((redirection, net.parse().unwrap())));
        }
    }

    #[test]
    fn several_rules_of_a_mapping_have_one_tag() {
        let rule = |tag: &str| FoundRule {
            tag: Some(tag.to_owned()),
            ports: super::super::answer::PortMatch { protocol: Some(Protocol::Tcp), ports: vec![8080], address: None },
            values: vec![vec![10, 1, 2, 3], vec![0, 80]],
            ..FoundRule::default()
        };
        let read = |tag: &str| conditional(&rule(tag)).map(|(tag, port)| (tag, port.to.to_string(), port.host_port));
        let want = ("weft 0a eth0 of c on n".to_owned(), "10.1.2.3:80".to_owned(), 8080);
        assert_eq!(read("weft 0a eth0 of c on n"), Some(want.clone()));
        assert_eq!(read("weft 0a eth0 of c on n (12)"), Some(want));
        assert_eq!(read("weft 0a eth0 of c on n (x)").unwrap().0, "weft 0a eth0 of c on n (x)");
        assert_eq!(read("somebody's"), None);
    }
}
