//! Neighbour discovery: builds the IPv6 packets that ask for an address and announce it, and reads which host claims
//! one.
//!
//! <https://datatracker.ietf.org/doc/html/rfc4861>, <https://datatracker.ietf.org/doc/html/rfc4862#section-5.4>

use std::net::Ipv6Addr;

use crate::plan::Mac;

const ICMP: u8 = 58;
/// The hop limit of a packet that no router has forwarded.
const HOPS: u8 = 255;
const SOLICITATION: u8 = 135;
const ADVERTISEMENT: u8 = 136;
/// The advertisement overrides existing entries.
const OVERRIDE: u8 = 0x20;
/// The option that carries a hardware address, and its length in units of 8 bytes.
const TARGET_LINK: [u8; 2] = [2, 1];
/// Bytes of an IPv6 header, and of a message before its options.
const HEADER: usize = 40;
const MESSAGE: usize = 24;
/// All nodes of a link.
pub(super) const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

/// Returns the group that a host joins for each of its addresses.
pub(super) fn solicited_node(address: Ipv6Addr) -> Ipv6Addr {
    let [.., a, b, c] = address.octets();
    Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00 | u16::from(a), u16::from_be_bytes([b, c]))
}

/// Returns the hardware address of a group.
pub(super) fn group_mac(group: Ipv6Addr) -> Mac {
    let [.., a, b, c, d] = group.octets();
    Mac([0x33, 0x33, a, b, c, d])
}

/// Builds a probe for an address, from the unspecified address.
pub(super) fn probe(address: Ipv6Addr) -> Vec<u8> {
    packet((Ipv6Addr::UNSPECIFIED, solicited_node(address)), SOLICITATION, 0, address, &[])
}

/// Builds an announcement to all nodes that its sender has an address.
pub(super) fn announcement(own: Mac, address: Ipv6Addr) -> Vec<u8> {
    let option = [&TARGET_LINK[..], &own.0].concat();
    packet((address, ALL_NODES), ADVERTISEMENT, OVERRIDE, address, &option)
}

fn packet(
    (source, destination): (Ipv6Addr, Ipv6Addr),
    kind: u8,
    flags: u8,
    target: Ipv6Addr,
    options: &[u8],
) -> Vec<u8> {
    let mut message = [&[kind, 0, 0, 0, flags, 0, 0, 0][..], &target.octets(), options].concat();
    let [high, low] = (!sum(source, destination, &message)).to_be_bytes();
    if let [_kind, _code, first, second, ..] = &mut message[..] {
        (*first, *second) = (high, low);
    }
    let length = u16::try_from(message.len()).unwrap_or_default().to_be_bytes();
    let head = [0x60, 0, 0, 0, length[0], length[1], ICMP, HOPS];
    [&head[..], &source.octets(), &destination.octets(), &message].concat()
}

/// Returns the address that the sender of a packet has, or is about to take. `None` for other packets, and for those
/// that may come from another link.
pub(super) fn claimed(packet: &[u8]) -> Option<Ipv6Addr> {
    let (header, rest) = packet.split_first_chunk::<HEADER>()?;
    let [version, _, _, _, high, low, ICMP, HOPS, addresses @ ..] = header else { return None };
    let (source, destination) = addresses.split_first_chunk::<16>()?;
    let (source, destination) = (Ipv6Addr::from(*source), Ipv6Addr::from(*destination.first_chunk::<16>()?));
    // The rest is Ethernet padding.
    let message = rest.get(..usize::from(u16::from_be_bytes([*high, *low])))?;
    if version >> 4 != 6 || sum(source, destination, message) != u16::MAX {
        return None;
    }
    let (fixed, options) = message.split_first_chunk::<MESSAGE>()?;
    let [kind, 0, _, _, _, _, _, _, target @ ..] = fixed else { return None };
    let target = Ipv6Addr::from(*target.first_chunk::<16>()?);
    if target.is_multicast() || !are_sound(options) {
        return None;
    }
    let says = match *kind {
        ADVERTISEMENT => true,
        // With a source address, the sender wants to reach the target.
        SOLICITATION => source.is_unspecified() && destination == solicited_node(target),
        _ => false,
    };
    says.then_some(target)
}

/// Returns whether the options end where the packet does.
fn are_sound(mut options: &[u8]) -> bool {
    while let [_kind, units, ..] = options {
        match options.get(usize::from(*units) * 8..).filter(|_rest| *units != 0) {
            Some(rest) => options = rest,
            None => return false,
        }
    }
    options.is_empty()
}

/// Returns the one's complement sum of a message with its pseudo header: all ones if its checksum is right.
fn sum(source: Ipv6Addr, destination: Ipv6Addr, message: &[u8]) -> u16 {
    let words = |bytes: &[u8]| -> u32 {
        let at = |pair: &[u8], place: usize| pair.get(place).copied().unwrap_or(0);
        bytes.chunks(2).map(|pair| u32::from(u16::from_be_bytes([at(pair, 0), at(pair, 1)]))).sum()
    };
    let length = u32::try_from(message.len()).unwrap_or(u32::MAX);
    let mut sum = words(&source.octets()) + words(&destination.octets()) + words(&length.to_be_bytes());
    // A packet has at most 64 KiB, so this does not overflow.
    sum += u32::from(ICMP) + words(message);
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    u16::try_from(sum).unwrap_or(u16::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OTHER: Mac = Mac([2, 0, 0, 0, 0, 9]);

    fn address() -> Ipv6Addr {
        "fd00::1:2:3".parse().unwrap()
    }

    #[test]
    fn groups_are_those_of_the_standards() {
        let group = solicited_node("fd00::12:3456".parse().unwrap());
        assert_eq!(group, "ff02::1:ff12:3456".parse::<Ipv6Addr>().unwrap());
        assert_eq!(group_mac(group).to_string(), "33:33:ff:12:34:56");
        assert_eq!(group_mac(ALL_NODES).to_string(), "33:33:00:00:00:01");
    }

    #[test]
    fn who_has_or_takes_an_address_is_reported() {
        assert_eq!(claimed(&probe(address())), Some(address()));
        assert_eq!(claimed(&announcement(OTHER, address())), Some(address()));
        assert_eq!(claimed(&[&announcement(OTHER, address())[..], &[0; 6]].concat()), Some(address()));
    }

    #[test]
    fn a_solicitation_is_not_a_claim() {
        let from: Ipv6Addr = "fd00::9".parse().unwrap();
        assert_eq!(claimed(&packet((from, solicited_node(address())), SOLICITATION, 0, address(), &[])), None);
        assert_eq!(claimed(&packet((Ipv6Addr::UNSPECIFIED, ALL_NODES), SOLICITATION, 0, address(), &[])), None);
        // A router's advertisement.
        assert_eq!(claimed(&packet((from, ALL_NODES), 134, 0, address(), &[])), None);
        assert_eq!(claimed(&packet((from, ALL_NODES), ADVERTISEMENT, 0, ALL_NODES, &[])), None);
    }

    #[test]
    fn truncated_and_malformed_packets_say_nothing() {
        let sound = announcement(OTHER, address());
        for length in 0..sound.len() {
            assert_eq!(claimed(&sound[..length]), None, "{length} bytes");
        }
        // Every byte matters, except those without a checksum: traffic class and flow label.
        for place in (0..sound.len()).filter(|place| !(1..4).contains(place)) {
            let mut broken = sound.clone();
            broken[place] ^= 0x11;
            assert_eq!(claimed(&broken), None, "byte {place}");
        }
    }

    #[test]
    fn options_end_with_the_packet() {
        let with = |options: &[u8]| claimed(&packet((address(), ALL_NODES), ADVERTISEMENT, 0, address(), options));
        assert_eq!(with(&[14, 1, 0, 0, 0, 0, 0, 0]), Some(address()));
        assert_eq!(with(&[14, 0, 0, 0, 0, 0, 0, 0]), None);
        assert_eq!(with(&[14, 2, 0, 0, 0, 0, 0, 0]), None);
        assert_eq!(with(&[14]), None);
        assert_eq!(with(&[0xff; 8]), None);
    }
}
