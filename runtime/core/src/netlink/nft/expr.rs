//! The expressions of rules, in the form to which `nft` compiles them.
//!
//! Registers: a 16-byte one (`Reg1`..`Reg4`) consists of four 4-byte ones (`Reg32_00`..`Reg32_15`), and every field of
//! a concatenation fills whole 4-byte ones.

use netlink_packet_core::{DefaultNla, NLA_F_NESTED};
use netlink_packet_netfilter::nftables::{
    Bitwise, Cmp, DataAttribute, Expressions, Immediate, Lookup, Meta, MetaKey, Operator, Payload, Register, Verdict,
    VerdictAttribute,
};

use super::bytes::{emitted, octets};
use super::set::SetSpec;
use crate::plan::{Family, Protocol};

/// A rule.
pub(super) type Rule = Vec<Expressions>;

/// `NF_DROP` and `NF_ACCEPT`.
pub(super) const DROP: Verdict = Verdict::Other(0);
pub(super) const ACCEPT: Verdict = Verdict::Other(1);

/// Headers to which payload offsets are relative.
const LINK_LAYER: u32 = 0;
const NETWORK: u32 = 1;
const TRANSPORT: u32 = 2;

/// `RTN_LOCAL`: an address of this host.
const LOCAL: u32 = 2;

/// `IPS_DST_NAT`: the connection's destination was translated.
const DST_NAT: u32 = 1 << 5;

/// `NF_CT_STATE_BIT` of established and related.
const ANSWERS: u32 = (1 << 1) | (1 << 2);

/// `NFT_CT_*` keys.
const CT_STATE: u32 = 0;
const CT_STATUS: u32 = 2;
const CT_PROTO_DST: u32 = 12;

/// `NFTA_FIB_*`: register, result, flags; the result is the type of the destination's or the source's address.
const FIB_RESULT_ADDRTYPE: u32 = 3;
const FIB_SADDR: u32 = 1;
const FIB_DADDR: u32 = 2;

/// The source or the destination of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    Source,
    Destination,
}

pub(super) fn meta(key: MetaKey, to: Register) -> Expressions {
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

/// Loads an address from the IP header.
pub(super) fn address(family: Family, end: End, to: Register) -> Expressions {
    let (offset, length) = match (family, end) {
        (Family::V4, End::Source) => (12, 4),
        (Family::V4, End::Destination) => (16, 4),
        (Family::V6, End::Source) => (8, 16),
        (Family::V6, End::Destination) => (24, 16),
    };
    payload(NETWORK, offset, length, to)
}

/// Loads the first byte of the IPv6 destination address.
pub(super) fn first_byte_of_destination6(to: Register) -> Expressions {
    payload(NETWORK, 24, 1, to)
}

/// Loads the source address of the frame.
pub(super) fn ether_source(to: Register) -> Expressions {
    payload(LINK_LAYER, 6, 6, to)
}

/// Loads a port from the transport header; TCP, UDP and SCTP have them in the same place.
pub(super) fn port(end: End, to: Register) -> Expressions {
    let offset = match end {
        End::Source => 0,
        End::Destination => 2,
    };
    payload(TRANSPORT, offset, 2, to)
}

/// `meta nfproto`: the family, because chains of the inet family see both.
pub(super) fn family_is(family: Family) -> Rule {
    // `NFPROTO_IPV4`, `NFPROTO_IPV6`.
    let number = match family {
        Family::V4 => 2,
        Family::V6 => 10,
    };
    vec![meta(MetaKey::Nfproto, Register::Reg1), equal(vec![number])]
}

/// `meta l4proto`.
pub(super) fn protocol_is(protocol: Protocol) -> Rule {
    vec![meta(MetaKey::L4Proto, Register::Reg1), equal(vec![protocol.number()])]
}

pub(super) fn equal(value: Vec<u8>) -> Expressions {
    compare(Operator::Equal, value)
}

pub(super) fn compare(operator: Operator, value: Vec<u8>) -> Expressions {
    Expressions::Cmp(vec![
        Cmp::SourceRegister(Register::Reg1),
        Cmp::Op(operator),
        Cmp::Data(DataAttribute::Value(value)),
    ])
}

/// `reg 1 = reg 1 & mask`.
pub(super) fn mask(mask: Vec<u8>) -> Expressions {
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

/// Checks whether `reg 1` and following are (not) in a set.
pub(super) fn lookup(set: &SetSpec, inverted: bool) -> Expressions {
    let mut attributes = in_set(set);
    if inverted {
        // NFT_LOOKUP_F_INV
        attributes.push(Lookup::Flags(1));
    }
    Expressions::Lookup(attributes)
}

/// Loads the map's value for the key in `reg 1` and following; a missing key ends the rule.
fn mapped(map: &SetSpec) -> Expressions {
    let mut attributes = in_set(map);
    attributes.push(Lookup::DestinationRegister(Register::Reg1));
    Expressions::Lookup(attributes)
}

/// Continues where the map leads for the key in `reg 1` and following; a missing key ends the rule.
pub(super) fn verdict_by(map: &SetSpec) -> Expressions {
    let mut attributes = in_set(map);
    attributes.push(Lookup::DestinationRegister(Register::Verdict));
    Expressions::Lookup(attributes)
}

fn in_set(set: &SetSpec) -> Vec<Lookup> {
    // The set may be made in the same transaction; then its identifier finds it.
    vec![Lookup::Set(set.name.to_owned()), Lookup::SourceRegister(Register::Reg1), Lookup::SetId(set.id)]
}

pub(super) fn verdict(verdict: Verdict) -> Expressions {
    to_verdict(vec![VerdictAttribute::Code(verdict)])
}

pub(super) fn jump(chain: &str) -> Expressions {
    to_verdict(vec![VerdictAttribute::Code(Verdict::Jump), VerdictAttribute::Chain(chain.to_owned())])
}

fn to_verdict(verdict: Vec<VerdictAttribute>) -> Expressions {
    Expressions::Immediate(vec![
        Immediate::DestinationRegister(Register::Verdict),
        Immediate::Data(DataAttribute::Verdict(verdict)),
    ])
}

pub(super) fn masquerade() -> Expressions {
    other_expression("masq", Vec::new())
}

/// `fib daddr type local`: the packet is for an address of this host.
pub(super) fn for_this_host() -> Rule {
    vec![address_type(End::Destination), equal(LOCAL.to_ne_bytes().to_vec())]
}

/// `fib saddr type` or `fib daddr type`.
pub(super) fn address_type(end: End) -> Expressions {
    let flags = match end {
        End::Source => FIB_SADDR,
        End::Destination => FIB_DADDR,
    };
    other_expression("fib", vec![number(1, Register::Reg1.into()), number(2, FIB_RESULT_ADDRTYPE), number(3, flags)])
}

/// `ct status dnat`.
pub(super) fn was_redirected() -> Rule {
    ct_has(CT_STATUS, DST_NAT)
}

/// `ct state established,related`.
pub(super) fn is_answer() -> Rule {
    ct_has(CT_STATE, ANSWERS)
}

fn ct_has(key: u32, bits: u32) -> Rule {
    vec![
        other_expression("ct", vec![number(1, Register::Reg1.into()), number(2, key)]),
        mask(bits.to_ne_bytes().to_vec()),
        compare(Operator::NotEqual, vec![0; 4]),
    ]
}

/// `ct original proto-dst`: the port that the connection was made to.
pub(super) fn original_port(to: Register) -> Expressions {
    // NFTA_CT_DIRECTION: the original one.
    other_expression("ct", vec![number(1, to.into()), number(2, CT_PROTO_DST), DefaultNla::new(3, vec![0])])
}

/// `dnat to ... map`: the key is in `reg 1` and following, the map has address and port.
pub(super) fn redirect_by(family: Family, map: &SetSpec) -> Rule {
    // The port follows the address, in the next 4-byte register.
    let port = match family {
        Family::V4 => Register::Reg32_01,
        Family::V6 => Register::Reg2,
    };
    vec![mapped(map), dnat(family, port)]
}

/// `dnat to address:port`.
pub(super) fn redirect_to(to: std::net::SocketAddr) -> Rule {
    vec![
        load(Register::Reg1, octets(to.ip())),
        load(Register::Reg2, to.port().to_be_bytes().to_vec()),
        dnat(Family::from_ip(to.ip()), Register::Reg2),
    ]
}

fn load(to: Register, value: Vec<u8>) -> Expressions {
    Expressions::Immediate(vec![Immediate::DestinationRegister(to), Immediate::Data(DataAttribute::Value(value))])
}

fn dnat(family: Family, port: Register) -> Expressions {
    let family = match family {
        Family::V4 => 2,
        Family::V6 => 10,
    };
    // NFTA_NAT_TYPE (destination), _FAMILY, _REG_ADDR_MIN, _REG_PROTO_MIN.
    other_expression(
        "nat",
        vec![number(1, 1), number(2, family), number(3, Register::Reg1.into()), number(5, port.into())],
    )
}

/// A counter at zero, without which `iptables` displays no numbers.
pub(super) fn counter() -> Expressions {
    other_expression("counter", vec![DefaultNla::new(1, vec![0; 8]), DefaultNla::new(2, vec![0; 8])])
}

/// An iptables match, for tables that `iptables` reads: it understands these and only few native expressions.
pub(super) fn xt_match(name: &str, revision: u32, info: Vec<u8>) -> Expressions {
    let name = [name.as_bytes(), &[0]].concat();
    other_expression("match", vec![DefaultNla::new(1, name), number(2, revision), DefaultNla::new(3, info)])
}

/// Checks whether `reg 1` is (not) between two values.
pub(super) fn range(inverted: bool, first: Vec<u8>, last: Vec<u8>) -> Expressions {
    let data = |kind: u16, value: Vec<u8>| {
        // NFTA_DATA_VALUE.
        let inner = DefaultNla::new(1, value);
        DefaultNla::new(kind | NLA_F_NESTED, emitted(&inner))
    };
    other_expression(
        "range",
        vec![number(1, Register::Reg1.into()), number(2, u32::from(inverted)), data(3, first), data(4, last)],
    )
}

fn other_expression(name: &str, attributes: Vec<DefaultNla>) -> Expressions {
    Expressions::Other { expression_type: name.to_owned(), attributes }
}

fn number(kind: u16, value: u32) -> DefaultNla {
    DefaultNla::new(kind, value.to_be_bytes().to_vec())
}
