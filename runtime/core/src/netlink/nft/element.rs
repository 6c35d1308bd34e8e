//! The elements of one attachment, and those that attachments share.

use std::net::IpAddr;

use ipnet::IpNet;
use netlink_packet_core::DefaultNla;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_ECHO};
use netlink_packet_netfilter::nftables::{
    DataAttribute, ListAttribute, NfTablesMessage, SetElementAttribute, SetElementList, SetElementMessage,
};

use super::bytes::octets;
use super::set::{
    GUARDED, HOSTIP4, HOSTIP6, HOSTPORT4, HOSTPORT6, ISOLATED, MASQ4, MASQ4_LOCAL, MASQ6, MASQ6_LOCAL, SAME_BRIDGE,
    SNAT4, SNAT6, SPOOF_MACS, SPOOF_PORTS, SetSpec,
};
use super::table::{Item, Part};
use crate::plan::{HostPort, Ingress, IngressPolicy, Mac, Op};

/// Flags of a request that adds an element: without `NLM_F_EXCL`, an existing one is not an error. The kernel echoes
/// only those that it really added.
const ADD_FLAGS: u16 = NLM_F_CREATE | NLM_F_ECHO;

/// `IFNAMSIZ`: names in keys are padded with zeros to this length.
const IFNAMSIZ: usize = 16;

/// `NFTA_DATA_VALUE`, for the closing key, for which the message crate has no type.
const DATA_VALUE: u16 = 1;

/// An element of a set of ours.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(in crate::netlink) struct Element {
    pub(super) part: Part,
    set: &'static str,
    key: Vec<u8>,
    /// Last key of an interval.
    end: Option<Vec<u8>>,
    /// The destination of a map's element.
    data: Option<Vec<u8>>,
}

/// What to do with an element.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    Add,
    Remove,
    Get,
}

/// Returns the elements of an op; none for ops without nftables elements.
pub(super) fn elements(op: &Op) -> Vec<Element> {
    match op {
        Op::Masquerade { address } => masquerade(*address),
        Op::MacSpoofCheck { link, mac } => spoof_check(link, *mac),
        Op::HostPort(port) => host_port(port),
        Op::IngressPolicy(policy) => ingress(policy),
        _ => Vec::new(),
    }
}

/// Masquerades the address, except to destinations in its own network.
fn masquerade(net: IpNet) -> Vec<Element> {
    let (all, local) = if net.addr().is_ipv4() { (&MASQ4, &MASQ4_LOCAL) } else { (&MASQ6, &MASQ6_LOCAL) };
    let address = octets(net.addr());
    let first = [address.clone(), octets(net.network())].concat();
    let last = [address.clone(), octets(net.broadcast())].concat();
    vec![Element::new(all, address, None), Element::new(local, first, Some(last))]
}

/// Checks the port, and allows only this MAC.
fn spoof_check(link: &str, mac: Mac) -> Vec<Element> {
    let port = link_name(link);
    let both = concatenated(&[&port, &mac.0]);
    vec![Element::new(&SPOOF_PORTS, port, None), Element::new(&SPOOF_MACS, both, None)]
}

/// Maps the port, unless a rule with conditions matches first, and masquerades its connections.
fn host_port(port: &HostPort) -> Vec<Element> {
    let v4 = port.to.is_ipv4();
    let protocol = [port.protocol.number()];
    let (outer, inner) = (port.host_port.to_be_bytes(), port.to.port().to_be_bytes());
    let to = octets(port.to.ip());
    let mut elements = Vec::new();
    if port.conditions.is_empty() {
        let (map, key) = match port.host_ip {
            Some(address) => {
                (if v4 { &HOSTIP4 } else { &HOSTIP6 }, concatenated(&[&octets(address), &protocol, &outer]))
            }
            None => (if v4 { &HOSTPORT4 } else { &HOSTPORT6 }, concatenated(&[&protocol, &outer])),
        };
        elements.push(Element { data: Some(concatenated(&[&to, &inner])), ..Element::new(map, key, None) });
    }
    let key = |source: IpAddr| concatenated(&[&protocol, &to, &inner, &outer, &octets(source)]);
    let snat = if v4 { &SNAT4 } else { &SNAT6 };
    let sources = port.masquerade.iter();
    elements.extend(sources.map(|net| Element::new(snat, key(net.network()), Some(key(net.broadcast())))));
    elements
}

fn ingress(policy: &IngressPolicy) -> Vec<Element> {
    let bridge = link_name(&policy.bridge);
    let within = match policy.policy {
        Ingress::Isolated => &ISOLATED,
        Ingress::SameBridge => &SAME_BRIDGE,
    };
    let both = concatenated(&[&bridge, &bridge]);
    vec![Element::new(within, both, None), Element::new(&GUARDED, bridge, None)]
}

/// Returns a link's name as a key.
fn link_name(name: &str) -> Vec<u8> {
    let mut padded = name.as_bytes().to_vec();
    padded.resize(IFNAMSIZ, 0);
    padded
}

/// Concatenates fields; each fills whole 32-bit registers.
fn concatenated(fields: &[&[u8]]) -> Vec<u8> {
    let mut all = Vec::new();
    for field in fields {
        all.extend_from_slice(field);
        all.resize(all.len().next_multiple_of(4), 0);
    }
    all
}

/// Returns the destination address and port of a map's element.
pub(super) fn destination(data: &[u8]) -> Option<String> {
    let (address, port): (IpAddr, &[u8]) = match data.len() {
        8 => (<[u8; 4]>::try_from(data.get(..4)?).ok()?.into(), data.get(4..6)?),
        20 => (<[u8; 16]>::try_from(data.get(..16)?).ok()?.into(), data.get(16..18)?),
        _ => return None,
    };
    let port = u16::from_be_bytes(port.try_into().ok()?);
    Some(std::net::SocketAddr::new(address, port).to_string())
}

// === impl Element ===

impl Element {
    fn new(set: &SetSpec, key: Vec<u8>, end: Option<Vec<u8>>) -> Self {
        Self { part: set.part, set: set.name, key, end, data: None }
    }

    /// Returns it as the kernel lists it.
    #[cfg(test)]
    pub(super) fn found(&self) -> super::answer::FoundElement {
        super::answer::FoundElement { key: self.key.clone(), end: self.end.clone(), data: self.data.clone() }
    }

    /// Returns its destination, if it is in a map.
    pub(super) fn data(&self) -> Option<&[u8]> {
        self.data.as_deref()
    }

    /// Describes it for the error that somebody else has it.
    pub(super) fn describe(&self) -> String {
        let from_end = |at: usize| self.key.len().checked_sub(at).and_then(|start| self.key.get(start..));
        // Keys of maps end with protocol and port, each in its own register.
        match (&self.data, from_end(8)) {
            (Some(_), Some(&[protocol, _, _, _, a, b, ..])) => {
                let port = u16::from_be_bytes([a, b]);
                let name = match protocol {
                    6 => "tcp",
                    17 => "udp",
                    132 => "sctp",
                    _ => "protocol",
                };
                format!("host port {port}/{name}")
            }
            _ => format!("an element of {}", self.set),
        }
    }

    /// Returns set (unique across tables) and key, as the kernel announces them.
    pub(super) fn announcement(&self) -> (String, Vec<u8>) {
        (self.set.to_owned(), self.key.clone())
    }

    /// Returns the request for it. Only a new element includes the destination: the key suffices to find one.
    pub(super) fn item(&self, change: Change) -> Item {
        let mut attributes = vec![SetElementAttribute::Key(DataAttribute::Value(self.key.clone()))];
        if let Some(end) = &self.end {
            attributes.push(SetElementAttribute::KeyEnd(vec![DefaultNla::new(DATA_VALUE, end.clone())]));
        }
        if let Some(data) = self.data.as_ref().filter(|_| change == Change::Add) {
            attributes.push(SetElementAttribute::Data(DataAttribute::Value(data.clone())));
        }
        let list = SetElementMessage {
            attributes: vec![
                SetElementList::Table(self.part.table().name().to_owned()),
                SetElementList::Set(self.set.to_owned()),
                SetElementList::Elements(vec![ListAttribute::Element(attributes)]),
            ],
        };
        let (message, flags) = match change {
            Change::Add => (NfTablesMessage::NewSetElement(list), ADD_FLAGS),
            Change::Remove => (NfTablesMessage::DeleteSetElement(list), 0),
            Change::Get => (NfTablesMessage::GetSetElement(list), 0),
        };
        Item { table: self.part.table(), message, flags }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Key = (&'static str, Vec<u8>, Option<Vec<u8>>);

    fn keys(op: &Op) -> Vec<Key> {
        elements(op).into_iter().map(|element| (element.set, element.key, element.end)).collect()
    }

    #[test]
    fn masqueraded_addresses() {
        let op = Op::Masquerade { address: IpNet::new([10, 1, 2, 3].into(), 23).unwrap_or_default() };
        let local = (vec![10, 1, 2, 3, 10, 1, 2, 0], vec![10, 1, 2, 3, 10, 1, 3, 255]);
        assert_eq!(keys(&op), [("masq4", vec![10, 1, 2, 3], None), ("masq4_local", local.0, Some(local.1))]);
    }

    #[test]
    fn checked_macs() {
        let op = Op::MacSpoofCheck { link: "eth7".to_owned(), mac: Mac([2, 0, 0, 0, 0, 9]) };
        let mut port = b"eth7".to_vec();
        port.resize(16, 0);
        let both = [port.as_slice(), &[2, 0, 0, 0, 0, 9, 0, 0]].concat();
        assert_eq!(keys(&op), [("spoof_ports", port, None), ("spoof_macs", both, None)]);
    }

    #[test]
    fn other_ops_have_none() {
        assert!(keys(&Op::PinMac { link: "weft0".to_owned() }).is_empty());
    }
}
