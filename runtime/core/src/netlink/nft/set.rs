//! Sets and maps: their types, and the requests that make them.

use netlink_packet_core::{DefaultNla, NLA_F_NESTED};
use netlink_packet_netfilter::nftables::{NfTablesMessage, SetAttribute, SetDescription, SetFlags, SetMessage};

use super::Part;
use super::bytes::emitted;
use super::table::Item;

/// `nft`'s properties of a set or a map; the kernel stores types and user data without interpreting them.
#[derive(Debug)]
pub(super) struct SetSpec {
    pub(super) part: Part,
    pub(super) name: &'static str,
    /// Identifies the set inside the transaction that makes it.
    pub(super) id: u32,
    fields: &'static [Field],
    /// The type of a map's values.
    data: &'static [Field],
    interval: bool,
}

/// A data type of `nft`: its number and its length in bytes.
#[derive(Debug)]
struct Field {
    number: u32,
    length: u32,
    order: ByteOrder,
}

/// `nft`'s byte orders.
#[derive(Debug, Clone, Copy)]
enum ByteOrder {
    Host = 1,
    Network = 2,
}

const IPV4: Field = Field { number: 7, length: 4, order: ByteOrder::Network };
const IPV6: Field = Field { number: 8, length: 16, order: ByteOrder::Network };
const ETHER: Field = Field { number: 9, length: 6, order: ByteOrder::Network };
const PROTOCOL: Field = Field { number: 12, length: 1, order: ByteOrder::Network };
const PORT: Field = Field { number: 13, length: 2, order: ByteOrder::Network };
const IFNAME: Field = Field { number: 41, length: 16, order: ByteOrder::Host };
/// `NFT_DATA_VERDICT`; the kernel knows its length.
const VERDICT: Field = Field { number: 0xffff_ff00, length: 16, order: ByteOrder::Host };
/// Bits per type in the number of a concatenation.
const TYPE_BITS: u32 = 6;

const fn set(part: Part, name: &'static str, id: u32, fields: &'static [Field], interval: bool) -> SetSpec {
    SetSpec { part, name, id, fields, data: &[], interval }
}

const fn map(name: &'static str, id: u32, fields: &'static [Field], data: &'static [Field]) -> SetSpec {
    SetSpec { part: Part::HostPorts, name, id, fields, data, interval: false }
}

pub(super) const MASQ4: SetSpec = set(Part::Masquerade, "masq4", 1, &[IPV4], false);
pub(super) const MASQ6: SetSpec = set(Part::Masquerade, "masq6", 2, &[IPV6], false);
pub(super) const MASQ4_LOCAL: SetSpec = set(Part::Masquerade, "masq4_local", 3, &[IPV4, IPV4], true);
pub(super) const MASQ6_LOCAL: SetSpec = set(Part::Masquerade, "masq6_local", 4, &[IPV6, IPV6], true);
pub(super) const SPOOF_PORTS: SetSpec = set(Part::SpoofCheck, "spoof_ports", 5, &[IFNAME], false);
pub(super) const SPOOF_MACS: SetSpec = set(Part::SpoofCheck, "spoof_macs", 6, &[IFNAME, ETHER], false);
pub(super) const HOSTPORT4: SetSpec = map("hostport4", 7, &[PROTOCOL, PORT], &[IPV4, PORT]);
pub(super) const HOSTPORT6: SetSpec = map("hostport6", 8, &[PROTOCOL, PORT], &[IPV6, PORT]);
pub(super) const HOSTIP4: SetSpec = map("hostip4", 9, &[IPV4, PROTOCOL, PORT], &[IPV4, PORT]);
pub(super) const HOSTIP6: SetSpec = map("hostip6", 10, &[IPV6, PROTOCOL, PORT], &[IPV6, PORT]);
/// Container's address and port, host's port, source.
pub(super) const SNAT4: SetSpec = set(Part::HostPorts, "hostport_snat4", 11, &[PROTOCOL, IPV4, PORT, PORT, IPV4], true);
pub(super) const SNAT6: SetSpec = set(Part::HostPorts, "hostport_snat6", 12, &[PROTOCOL, IPV6, PORT, PORT, IPV6], true);
pub(super) const ISOLATED: SetSpec = set(Part::Ingress, "isolated", 13, &[IFNAME, IFNAME], false);
pub(super) const SAME_BRIDGE: SetSpec = set(Part::Ingress, "same_bridge", 14, &[IFNAME, IFNAME], false);
pub(super) const GUARDED: SetSpec = set(Part::Ingress, "guarded", 15, &[IFNAME], false);
/// Leads to the rules of ports with conditions.
pub(super) const BY_PORT: SetSpec =
    SetSpec { part: Part::Conditional, ..map("conditional_ports", 16, &[PROTOCOL, PORT], &[VERDICT]) };

// === impl SetSpec ===

impl SetSpec {
    /// Returns the request that makes it.
    pub(super) fn creation(&self, flags: u16) -> Item {
        Item { table: self.part.table(), message: NfTablesMessage::NewSet(self.message()), flags }
    }

    /// Returns the request that asks whether it exists.
    pub(super) fn question(&self) -> Item {
        Item { table: self.part.table(), message: NfTablesMessage::GetSet(self.name_only()), flags: 0 }
    }

    /// Returns the request that deletes it.
    pub(super) fn deletion(&self) -> Item {
        Item { table: self.part.table(), message: NfTablesMessage::DeleteSet(self.name_only()), flags: 0 }
    }

    fn name_only(&self) -> SetMessage {
        let table = SetAttribute::Table(self.part.table().name().to_owned());
        SetMessage { attributes: vec![table, SetAttribute::Name(self.name.to_owned())] }
    }

    fn message(&self) -> SetMessage {
        let mut flags = SetFlags::empty();
        if self.interval {
            flags |= SetFlags::Interval;
        }
        let mut attributes = self.name_only().attributes;
        attributes.extend([
            SetAttribute::KeyType(number(self.fields)),
            SetAttribute::KeyLen(length(self.fields)),
            SetAttribute::Id(self.id),
        ]);
        if !self.data.is_empty() {
            flags |= SetFlags::Map;
            attributes.extend([SetAttribute::DataType(number(self.data)), SetAttribute::DataLen(length(self.data))]);
        }
        if let [field] = self.fields {
            // Without it, `nft` prints interface names reversed. Type 0 (NFTNL_UDATA_SET_KEYBYTEORDER), length, number.
            let order = (field.order as u32).to_ne_bytes();
            attributes.push(SetAttribute::UserData([&[0, 4], order.as_slice()].concat()));
        } else {
            flags |= SetFlags::Concat;
            attributes.push(SetAttribute::Description(vec![SetDescription::Concat(
                self.fields.iter().map(Field::nla).collect(),
            )]));
        }
        attributes.push(SetAttribute::Flags(flags));
        SetMessage { attributes }
    }
}

fn number(fields: &[Field]) -> u32 {
    fields.iter().fold(0, |number, field| (number << TYPE_BITS) | field.number)
}

fn length(fields: &[Field]) -> u32 {
    // A single value has its own length; in a concatenation it fills whole registers.
    match fields {
        [field] => field.length,
        fields => fields.iter().map(|field| field.length.next_multiple_of(4)).sum(),
    }
}

impl Field {
    /// `NFTA_LIST_ELEM { NFTA_SET_FIELD_LEN }`, for which the message crate has no type.
    fn nla(&self) -> DefaultNla {
        const LIST_ELEM: u16 = 1;
        const FIELD_LEN: u16 = 1;
        let field = DefaultNla::new(FIELD_LEN, self.length.to_be_bytes().to_vec());
        DefaultNla::new(LIST_ELEM | NLA_F_NESTED, emitted(&field))
    }
}
