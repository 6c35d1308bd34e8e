//! The static tables: their sets, chains and rules. Written as `nft` would show them:
//!
//! ```text
//! table inet weft {
//!   set masq4       { type ipv4_addr; }
//!   set masq6       { type ipv6_addr; }
//!   set masq4_local { type ipv4_addr . ipv4_addr; flags interval; }
//!   set masq6_local { type ipv6_addr . ipv6_addr; flags interval; }
//!   chain postrouting {
//!     type nat hook postrouting priority srcnat; policy accept;
//!     ip daddr 224.0.0.0/4 return
//!     ip6 daddr ff00::/8 return
//!     ip saddr . ip daddr @masq4_local return
//!     ip saddr @masq4 masquerade
//!     ip6 saddr . ip6 daddr @masq6_local return
//!     ip6 saddr @masq6 masquerade
//!   }
//! }
//! table bridge weft {
//!   set spoof_ports { type ifname; }
//!   set spoof_macs  { type ifname . ether_addr; }
//!   chain prerouting {
//!     type filter hook prerouting priority -300; policy accept;
//!     iifname @spoof_ports iifname . ether saddr != @spoof_macs drop
//!   }
//! }
//! ```

use netlink_packet_core::{DefaultNla, NLA_F_NESTED, NLM_F_APPEND, NLM_F_CREATE, NLM_F_EXCL, Nla};
use netlink_packet_netfilter::nftables::{
    Bitwise, ChainAttribute, ChainMessage, Cmp, DataAttribute, Expressions, Hook, Immediate, InetHookNumber,
    ListAttribute, Lookup, Meta, MetaKey, NfTablesMessage, Operator, Payload, Register, RuleAttribute, RuleMessage,
    SetAttribute, SetDescription, SetFlags, SetMessage, Verdict, VerdictAttribute,
};

use super::socket::Item;
use super::{TABLE, Table};

/// What `nft` calls a set; the kernel keeps types and user data for it without looking at them.
#[derive(Debug)]
pub(super) struct SetSpec {
    pub(super) table: Table,
    pub(super) name: &'static str,
    /// Identifies the set inside the transaction that makes it.
    id: u32,
    fields: &'static [Field],
    interval: bool,
}

/// A data type of `nft`: its number there and its length in bytes.
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
const IFNAME: Field = Field { number: 41, length: 16, order: ByteOrder::Host };
/// Bits per type in the number of a concatenation.
const TYPE_BITS: u32 = 6;

const fn set(table: Table, name: &'static str, id: u32, fields: &'static [Field], interval: bool) -> SetSpec {
    SetSpec { table, name, id, fields, interval }
}

pub(super) const MASQ4: SetSpec = set(Table::Inet, "masq4", 1, &[IPV4], false);
pub(super) const MASQ6: SetSpec = set(Table::Inet, "masq6", 2, &[IPV6], false);
pub(super) const MASQ4_LOCAL: SetSpec = set(Table::Inet, "masq4_local", 3, &[IPV4, IPV4], true);
pub(super) const MASQ6_LOCAL: SetSpec = set(Table::Inet, "masq6_local", 4, &[IPV6, IPV6], true);
pub(super) const SPOOF_PORTS: SetSpec = set(Table::Bridge, "spoof_ports", 5, &[IFNAME], false);
pub(super) const SPOOF_MACS: SetSpec = set(Table::Bridge, "spoof_macs", 6, &[IFNAME, ETHER], false);

const INET_SETS: &[SetSpec] = &[MASQ4, MASQ6, MASQ4_LOCAL, MASQ6_LOCAL];
const BRIDGE_SETS: &[SetSpec] = &[SPOOF_PORTS, SPOOF_MACS];

/// `NF_ACCEPT` and `NF_DROP`.
const ACCEPT: u32 = 1;
const DROP: Verdict = Verdict::Other(0);

/// `NFPROTO_IPV4` and `NFPROTO_IPV6`, as `meta nfproto` yields them.
const NFPROTO_IPV4: u8 = 2;
const NFPROTO_IPV6: u8 = 10;

/// Headers that payload offsets count from.
const LINK_LAYER: u32 = 0;
const NETWORK: u32 = 1;

/// The sets of a table.
pub(super) fn sets(table: Table) -> &'static [SetSpec] {
    match table {
        Table::Inet => INET_SETS,
        Table::Bridge => BRIDGE_SETS,
    }
}

/// The requests that make a table with all that belongs in it. Fails if the table is there: rules would double otherwise.
pub(super) fn items(table: Table) -> Vec<Item> {
    let exclusive = NLM_F_CREATE | NLM_F_EXCL;
    let item = |message, flags| Item { table, message, flags };
    let mut items = vec![item(NfTablesMessage::NewTable(table.message()), exclusive)];
    items.extend(sets(table).iter().map(|set| item(NfTablesMessage::NewSet(set.message()), exclusive)));
    let (name, kind, hook, priority, rules) = match table {
        Table::Inet => ("postrouting", "nat", InetHookNumber::PostRouting, 100, inet_rules()),
        // The bridge family has the numbers of its hooks in common with the inet family.
        Table::Bridge => ("prerouting", "filter", InetHookNumber::PreRouting, -300, vec![spoof_rule()]),
    };
    let attributes = vec![
        ChainAttribute::Table(TABLE.to_owned()),
        ChainAttribute::Name(name.to_owned()),
        ChainAttribute::Hook(vec![Hook::Number(hook.into()), Hook::Priority(i32::cast_unsigned(priority))]),
        ChainAttribute::Policy(ACCEPT),
        ChainAttribute::Type(kind.to_owned()),
    ];
    items.push(item(NfTablesMessage::NewChain(ChainMessage { attributes }), exclusive));
    items.extend(rules.into_iter().map(|expressions| {
        let attributes = vec![
            RuleAttribute::Table(TABLE.to_owned()),
            RuleAttribute::Chain(name.to_owned()),
            RuleAttribute::Expressions(expressions.into_iter().map(ListAttribute::from).collect()),
        ];
        item(NfTablesMessage::NewRule(RuleMessage { attributes }), NLM_F_CREATE | NLM_F_APPEND)
    }));
    items
}

fn inet_rules() -> Vec<Vec<Expressions>> {
    let family = |protocol| vec![meta(MetaKey::Nfproto, Register::Reg1), equal(vec![protocol])];
    let rule = |protocol, rest: Vec<Expressions>| [family(protocol), rest].concat();
    // Source and destination address of IPv4: bytes 12 and 16; of IPv6: 8 and 24. A 16-byte register is four 4-byte ones.
    let source4 = payload(NETWORK, 12, 4, Register::Reg1);
    let target4 = payload(NETWORK, 16, 4, Register::Reg32_01);
    let source6 = payload(NETWORK, 8, 16, Register::Reg1);
    let target6 = payload(NETWORK, 24, 16, Register::Reg2);
    let returns = || verdict(Verdict::Return);
    vec![
        rule(
            NFPROTO_IPV4,
            vec![
                payload(NETWORK, 16, 4, Register::Reg1),
                mask(vec![0xf0, 0, 0, 0]),
                equal(vec![0xe0, 0, 0, 0]),
                returns(),
            ],
        ),
        rule(NFPROTO_IPV6, vec![payload(NETWORK, 24, 1, Register::Reg1), equal(vec![0xff]), returns()]),
        rule(NFPROTO_IPV4, vec![source4.clone(), target4, lookup(&MASQ4_LOCAL, false), returns()]),
        rule(NFPROTO_IPV4, vec![source4, lookup(&MASQ4, false), masquerade()]),
        rule(NFPROTO_IPV6, vec![source6.clone(), target6, lookup(&MASQ6_LOCAL, false), returns()]),
        rule(NFPROTO_IPV6, vec![source6, lookup(&MASQ6, false), masquerade()]),
    ]
}

fn spoof_rule() -> Vec<Expressions> {
    vec![
        meta(MetaKey::Iifname, Register::Reg1),
        lookup(&SPOOF_PORTS, false),
        meta(MetaKey::Iifname, Register::Reg1),
        payload(LINK_LAYER, 6, 6, Register::Reg2),
        lookup(&SPOOF_MACS, true),
        verdict(DROP),
    ]
}

fn meta(key: MetaKey, to: Register) -> Expressions {
    Expressions::Meta(vec![Meta::Key(key), Meta::DestinationRegister(to)])
}

fn payload(header: u32, offset: u32, length: u32, to: Register) -> Expressions {
    Expressions::Payload(vec![
        Payload::DestinationRegister(to),
        Payload::Base(header),
        Payload::Offset(offset),
        Payload::Len(length),
    ])
}

fn equal(value: Vec<u8>) -> Expressions {
    Expressions::Cmp(vec![
        Cmp::SourceRegister(Register::Reg1),
        Cmp::Op(Operator::Equal),
        Cmp::Data(DataAttribute::Value(value)),
    ])
}

/// `reg 1 = reg 1 & mask`.
fn mask(mask: Vec<u8>) -> Expressions {
    let zero = vec![0; mask.len()];
    let length = u32::try_from(mask.len()).unwrap_or(u32::MAX);
    Expressions::Bitwise(vec![
        Bitwise::SourceRegister(Register::Reg1),
        Bitwise::DestinationRegister(Register::Reg1),
        Bitwise::Length(length),
        Bitwise::Mask(DataAttribute::Value(mask)),
        Bitwise::Xor(DataAttribute::Value(zero)),
    ])
}

fn lookup(set: &SetSpec, inverted: bool) -> Expressions {
    let mut attributes = vec![
        Lookup::Set(set.name.to_owned()),
        Lookup::SourceRegister(Register::Reg1),
        // The set is made in the same transaction.
        Lookup::SetId(set.id),
    ];
    if inverted {
        // NFT_LOOKUP_F_INV
        attributes.push(Lookup::Flags(1));
    }
    Expressions::Lookup(attributes)
}

fn verdict(verdict: Verdict) -> Expressions {
    Expressions::Immediate(vec![
        Immediate::DestinationRegister(Register::Verdict),
        Immediate::Data(DataAttribute::Verdict(vec![VerdictAttribute::Code(verdict)])),
    ])
}

fn masquerade() -> Expressions {
    Expressions::Other { expression_type: "masq".to_owned(), attributes: Vec::new() }
}

// === impl SetSpec ===

impl SetSpec {
    /// The request that asks whether it is there.
    pub(super) fn question(&self) -> Item {
        let attributes = vec![SetAttribute::Table(TABLE.to_owned()), SetAttribute::Name(self.name.to_owned())];
        Item { table: self.table, message: NfTablesMessage::GetSet(SetMessage { attributes }), flags: 0 }
    }

    fn message(&self) -> SetMessage {
        let number = self.fields.iter().fold(0, |number, field| (number << TYPE_BITS) | field.number);
        let length = self.fields.iter().map(|field| field.length.next_multiple_of(4)).sum();
        let mut flags = SetFlags::empty();
        if self.interval {
            flags |= SetFlags::Interval;
        }
        let mut attributes = vec![
            SetAttribute::Table(TABLE.to_owned()),
            SetAttribute::Name(self.name.to_owned()),
            SetAttribute::KeyType(number),
            SetAttribute::KeyLen(length),
            SetAttribute::Id(self.id),
        ];
        if let [field] = self.fields {
            // Without it `nft` prints interface names backwards. Type 0 (NFTNL_UDATA_SET_KEYBYTEORDER), length, number.
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

impl Field {
    /// `NFTA_LIST_ELEM { NFTA_SET_FIELD_LEN }`, which the message crate leaves raw.
    fn nla(&self) -> DefaultNla {
        const LIST_ELEM: u16 = 1;
        const FIELD_LEN: u16 = 1;
        let field = DefaultNla::new(FIELD_LEN, self.length.to_be_bytes().to_vec());
        let mut nested = vec![0; field.value_len() + 4];
        netlink_packet_core::Emitable::emit(&field, &mut nested);
        DefaultNla::new(LIST_ELEM | NLA_F_NESTED, nested)
    }
}
