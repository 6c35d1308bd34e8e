//! The elements that stand for an attachment.

use std::net::IpAddr;

use ipnet::IpNet;
use netlink_packet_core::DefaultNla;
use netlink_packet_netfilter::nftables::{
    DataAttribute, ListAttribute, NfTablesMessage, SetElementAttribute, SetElementList, SetElementMessage,
};

use super::base::{MASQ4, MASQ4_LOCAL, MASQ6, MASQ6_LOCAL, SPOOF_MACS, SPOOF_PORTS, SetSpec};
use super::socket::Item;
use super::{ADD_FLAGS, TABLE, Table};
use crate::plan::{Mac, Op};

/// `IFNAMSIZ`: names in keys are padded with zeros to this length.
const IFNAMSIZ: usize = 16;

/// `NFTA_DATA_VALUE`, for the closing key, which the message crate leaves raw.
const DATA_VALUE: u16 = 1;

/// An element of a set of ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::netlink) struct Element {
    pub(in crate::netlink) table: Table,
    set: &'static str,
    key: Vec<u8>,
    /// Last key of an interval.
    end: Option<Vec<u8>>,
}

/// What is asked about an element.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    Add,
    Remove,
    Get,
}

/// The elements of an op; none for ops that have nothing to do with nftables.
pub(in crate::netlink) fn elements(op: &Op) -> Vec<Element> {
    match op {
        Op::Masquerade { address } => masquerade(*address),
        Op::MacSpoofCheck { link, mac } => spoof_check(link, *mac),
        _ => Vec::new(),
    }
}

/// The address is masqueraded, except to what lies in its own network.
fn masquerade(net: IpNet) -> Vec<Element> {
    let (all, local) = if net.addr().is_ipv4() { (&MASQ4, &MASQ4_LOCAL) } else { (&MASQ6, &MASQ6_LOCAL) };
    let address = octets(net.addr());
    let first = [address.clone(), octets(net.network())].concat();
    let last = [address.clone(), octets(net.broadcast())].concat();
    vec![Element::new(all, address, None), Element::new(local, first, Some(last))]
}

/// The port is checked, and this is the one MAC that it may send from.
fn spoof_check(link: &str, mac: Mac) -> Vec<Element> {
    let mut port = link.as_bytes().to_vec();
    port.resize(IFNAMSIZ, 0);
    let mut both = [port.as_slice(), &mac.0].concat();
    // Every field of a concatenation fills whole 32-bit registers.
    both.resize(both.len().next_multiple_of(4), 0);
    vec![Element::new(&SPOOF_PORTS, port, None), Element::new(&SPOOF_MACS, both, None)]
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

// === impl Element ===

impl Element {
    fn new(set: &SetSpec, key: Vec<u8>, end: Option<Vec<u8>>) -> Self {
        Self { table: set.table, set: set.name, key, end }
    }

    /// Whether this is the element of that set (no two tables have one of the same name) with that key.
    pub(super) fn is(&self, set: &str, key: &[u8]) -> bool {
        self.set == set && self.key == key
    }

    /// The request about it.
    pub(super) fn item(&self, change: Change) -> Item {
        let mut attributes = vec![SetElementAttribute::Key(DataAttribute::Value(self.key.clone()))];
        if let Some(end) = &self.end {
            attributes.push(SetElementAttribute::KeyEnd(vec![DefaultNla::new(DATA_VALUE, end.clone())]));
        }
        let list = SetElementMessage {
            attributes: vec![
                SetElementList::Table(TABLE.to_owned()),
                SetElementList::Set(self.set.to_owned()),
                SetElementList::Elements(vec![ListAttribute::Element(attributes)]),
            ],
        };
        let (message, flags) = match change {
            Change::Add => (NfTablesMessage::NewSetElement(list), ADD_FLAGS),
            Change::Remove => (NfTablesMessage::DeleteSetElement(list), 0),
            Change::Get => (NfTablesMessage::GetSetElement(list), 0),
        };
        Item { table: self.table, message, flags }
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
