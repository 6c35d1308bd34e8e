//! Parses the kernel's nftables answers: only the attributes that weft needs, directly from the message. A node has
//! thousands of rules and elements; decoding all of each answer took a hundred times as long as the kernel needed to
//! write it.
//!
//! The numbers are `NFTA_*` of `include/uapi/linux/netfilter/nf_tables.h`:
//! <https://github.com/torvalds/linux/blob/master/include/uapi/linux/netfilter/nf_tables.h>

use std::collections::HashSet;

use netlink_packet_core::NLA_TYPE_MASK;

use crate::plan::Protocol;

/// `nlmsghdr` and `nfgenmsg`.
const HEADERS: usize = 20;

/// Length and kind of an attribute.
const ATTRIBUTE_HEADER: usize = 4;

const LIST_ELEM: u16 = 1;
const DATA_VALUE: u16 = 1;

const CHAIN_TABLE: u16 = 1;
const CHAIN_NAME: u16 = 3;
const CHAIN_USE: u16 = 6;

const RULE_CHAIN: u16 = 2;
const RULE_HANDLE: u16 = 3;
const RULE_EXPRESSIONS: u16 = 4;
const RULE_USERDATA: u16 = 7;
const EXPR_NAME: u16 = 1;
const EXPR_DATA: u16 = 2;

const ELEMENTS_SET: u16 = 2;
const ELEMENTS: u16 = 3;
const ELEMENT_KEY: u16 = 1;
const ELEMENT_DATA: u16 = 2;
const ELEMENT_KEY_END: u16 = 10;

const GENERATION_ID: u16 = 1;

const IMMEDIATE_DATA: u16 = 2;
const DATA_VERDICT: u16 = 2;
const VERDICT_CHAIN: u16 = 2;

const MATCH_NAME: u16 = 1;
const MATCH_INFO: u16 = 3;

const META_KEY: u16 = 2;
const META_L4PROTO: u32 = 16;
const CMP_DATA: u16 = 3;
const CMP_OP: u16 = 2;
const PAYLOAD_BASE: u16 = 2;
const PAYLOAD_OFFSET: u16 = 3;
const NETWORK_HEADER: u32 = 1;
const TRANSPORT_HEADER: u32 = 2;
/// Offset of the destination port in the transport header.
const DESTINATION_PORT: u32 = 2;
/// Offset of the protocol in the IPv4 header.
const PROTOCOL: u32 = 9;
/// Offsets of the destination address in the IPv4 and IPv6 headers.
const DESTINATION: [u32; 2] = [16, 24];

/// Type of a comment in a rule's user data (`NFTNL_UDATA_RULE_COMMENT`).
const UDATA_COMMENT: u8 = 0;

/// An existing chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct FoundChain {
    pub(super) table: String,
    pub(super) name: String,
    /// How many rules it has plus how many rules jump to it.
    pub(super) uses: u32,
}

/// An existing rule.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct FoundRule {
    pub(super) handle: u64,
    /// Its comment, as `nft` or `iptables` displays it.
    pub(super) tag: Option<String>,
    /// The chain to which it jumps.
    pub(super) jump: Option<String>,
    /// Its matches on host ports.
    pub(super) ports: PortMatch,
    /// The values that it loads: of a redirection, the address and the port.
    pub(super) values: Vec<Vec<u8>>,
}

/// An existing element.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct FoundElement {
    pub(super) key: Vec<u8>,
    /// Last key of an interval.
    pub(super) end: Option<Vec<u8>>,
    /// The destination of a map's element.
    pub(super) data: Option<Vec<u8>>,
}

/// A rule's matches, as far as they concern ports of the host.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct PortMatch {
    pub(super) protocol: Option<Protocol>,
    pub(super) ports: Vec<u16>,
    /// The destination address in packet form.
    pub(super) address: Option<Vec<u8>>,
}

/// Iterates over the attributes in a piece of a message: length, kind with two flag bits, value. Stops at a malformed
/// attribute.
fn attributes(bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let [a, b, c, d, ..] = *rest else { return None };
        let length = usize::from(u16::from_ne_bytes([a, b]));
        let value = rest.get(ATTRIBUTE_HEADER..length)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((u16::from_ne_bytes([c, d]) & NLA_TYPE_MASK, value))
    })
}

fn find(bytes: &[u8], kind: u16) -> Option<&[u8]> {
    attributes(bytes).find_map(|(found, value)| (found == kind).then_some(value))
}

fn body(message: &[u8]) -> &[u8] {
    message.get(HEADERS..).unwrap_or_default()
}

/// Reads a text up to its terminating zero.
fn text_until_zero(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(bytes.get(..end).unwrap_or_default()).into_owned()
}

fn number(bytes: &[u8]) -> Option<u32> {
    bytes.try_into().ok().map(u32::from_be_bytes)
}

/// Reads the number of the ruleset.
pub(super) fn generation(message: &[u8]) -> Option<u32> {
    find(body(message), GENERATION_ID).and_then(number)
}

/// A chain.
pub(super) fn chain(message: &[u8]) -> FoundChain {
    let mut found = FoundChain { table: String::new(), name: String::new(), uses: 0 };
    for (kind, value) in attributes(body(message)) {
        match kind {
            CHAIN_TABLE => found.table = text_until_zero(value),
            CHAIN_NAME => found.name = text_until_zero(value),
            CHAIN_USE => found.uses = number(value).unwrap_or_default(),
            _ => {}
        }
    }
    found
}

/// Adds set and key of the elements in a message.
pub(super) fn elements(message: &[u8], to: &mut HashSet<(String, Vec<u8>)>) {
    let mut set = String::new();
    for (kind, value) in attributes(body(message)) {
        match kind {
            ELEMENTS_SET => set = text_until_zero(value),
            ELEMENTS => to.extend(keys(value).map(|key| (set.clone(), key))),
            _ => {}
        }
    }
}

fn keys(list: &[u8]) -> impl Iterator<Item = Vec<u8>> {
    let elements = attributes(list).filter(|(kind, _)| *kind == LIST_ELEM);
    elements.filter_map(|(_, element)| find(find(element, ELEMENT_KEY)?, DATA_VALUE).map(<[u8]>::to_vec))
}

/// Reads the elements in a message.
pub(super) fn whole_elements(message: &[u8]) -> Vec<FoundElement> {
    let Some(list) = find(body(message), ELEMENTS) else { return Vec::new() };
    let read = |element, kind| find(find(element, kind)?, DATA_VALUE).map(<[u8]>::to_vec);
    let elements = attributes(list).filter(|(kind, _)| *kind == LIST_ELEM);
    let whole = |(_, element)| {
        let (end, data) = (read(element, ELEMENT_KEY_END), read(element, ELEMENT_DATA));
        Some(FoundElement { key: read(element, ELEMENT_KEY)?, end, data })
    };
    elements.filter_map(whole).collect()
}

/// Returns the destination of the first element in a message, if it has one.
pub(super) fn element_data(message: &[u8]) -> Option<Vec<u8>> {
    let element = find(find(body(message), ELEMENTS)?, LIST_ELEM)?;
    find(find(element, ELEMENT_DATA)?, DATA_VALUE).map(<[u8]>::to_vec)
}

/// Reads a rule of `chain`; older kernels also list those of other chains.
pub(super) fn rule(message: &[u8], chain: &str) -> Option<FoundRule> {
    let mut found = FoundRule::default();
    let mut of_chain = false;
    for (kind, value) in attributes(body(message)) {
        match kind {
            RULE_CHAIN => of_chain = text_until_zero(value) == chain,
            RULE_HANDLE => found.handle = value.try_into().ok().map(u64::from_be_bytes).unwrap_or_default(),
            RULE_USERDATA => found.tag = found.tag.or_else(|| comment(value)),
            RULE_EXPRESSIONS => expressions(value, &mut found),
            _ => {}
        }
    }
    of_chain.then_some(found)
}

/// What the last expression loaded, to which the next comparison refers.
#[derive(PartialEq, Eq)]
enum Loaded {
    Protocol,
    Port,
    Address,
    Other,
}

fn expressions(list: &[u8], found: &mut FoundRule) {
    let mut loaded = Loaded::Other;
    for (_, expression) in attributes(list) {
        let (Some(name), Some(data)) = (find(expression, EXPR_NAME), find(expression, EXPR_DATA)) else { continue };
        match name.strip_suffix(&[0]).unwrap_or(name) {
            b"match" => xt_match(data, found),
            b"immediate" => {
                let verdict = find(data, IMMEDIATE_DATA).and_then(|data| find(data, DATA_VERDICT));
                found.jump =
                    verdict.and_then(|verdict| find(verdict, VERDICT_CHAIN)).map(text_until_zero).or(found.jump.take());
                let value = find(data, IMMEDIATE_DATA).and_then(|data| find(data, DATA_VALUE));
                found.values.extend(value.map(<[u8]>::to_vec));
            }
            b"meta" if find(data, META_KEY).and_then(number) == Some(META_L4PROTO) => loaded = Loaded::Protocol,
            b"payload" => loaded = payload(data),
            b"cmp" => compare(data, &loaded, &mut found.ports),
            _ => {}
        }
    }
}

fn payload(data: &[u8]) -> Loaded {
    let read = |kind| find(data, kind).and_then(number);
    match (read(PAYLOAD_BASE), read(PAYLOAD_OFFSET)) {
        (Some(TRANSPORT_HEADER), Some(DESTINATION_PORT)) => Loaded::Port,
        (Some(NETWORK_HEADER), Some(offset)) if DESTINATION.contains(&offset) => Loaded::Address,
        // The form that `iptables` before 1.8.7 used.
        (Some(NETWORK_HEADER), Some(PROTOCOL)) => Loaded::Protocol,
        _ => Loaded::Other,
    }
}

fn compare(data: &[u8], loaded: &Loaded, ports: &mut PortMatch) {
    let is_equal = find(data, CMP_OP).and_then(number) == Some(0);
    let Some(value) = find(data, CMP_DATA).and_then(|data| find(data, DATA_VALUE)).filter(|_| is_equal) else { return };
    match loaded {
        Loaded::Protocol => {
            ports.protocol = value.first().and_then(|number| Protocol::from_number(*number)).or(ports.protocol);
        }
        Loaded::Port => ports.ports.extend(value.try_into().ok().map(u16::from_be_bytes)),
        Loaded::Address => ports.address = Some(value.to_vec()),
        Loaded::Other => {}
    }
}

fn xt_match(data: &[u8], found: &mut FoundRule) {
    let (Some(name), Some(info)) = (find(data, MATCH_NAME), find(data, MATCH_INFO)) else { return };
    match text_until_zero(name).as_str() {
        "comment" => found.tag = Some(text_until_zero(info)),
        "multiport" => found.ports.ports.extend(multiport(info)),
        // `struct xt_tcp` and `struct xt_udp`: source ports, destination ports, each first and last.
        "tcp" | "udp" => {
            let word = |at: usize| Some(u16::from_ne_bytes(info.get(at..at + 2)?.try_into().ok()?));
            if let (Some(first), Some(last)) = (word(4), word(6)) {
                found.ports.ports.extend((first == last).then_some(first));
            }
        }
        _ => {}
    }
}

/// Returns the destination ports of `struct xt_multiport_v1`: flags, count, up to 15 ports.
fn multiport(info: &[u8]) -> impl Iterator<Item = u16> {
    /// `XT_MULTIPORT_DESTINATION`.
    const DESTINATION: u8 = 1;
    let count = match info {
        [DESTINATION, count, ..] => usize::from(*count),
        _ => 0,
    };
    let ports = info.get(2..).unwrap_or_default().chunks_exact(2).take(count.min(15));
    ports.filter_map(|port| port.try_into().ok().map(u16::from_ne_bytes))
}

/// Reads a comment in `nft`'s form: type, length, text with a terminating zero.
pub(super) fn comment(data: &[u8]) -> Option<String> {
    let [UDATA_COMMENT, length, rest @ ..] = data else { return None };
    rest.get(..usize::from(*length)).map(text_until_zero)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn ports_of_multiport() {
        let mut info = vec![1, 2];
        info.extend([8080_u16.to_ne_bytes(), 8081_u16.to_ne_bytes()].concat());
        info.resize(48, 0);
        assert_eq!(multiport(&info).collect::<Vec<_>>(), [8080, 8081]);
        info[0] = 0;
        assert_eq!(multiport(&info).count(), 0, "source ports");
        assert_eq!(multiport(&[1, 200, 1]).count(), 0);
    }

    proptest! {
        /// Any input is read to its end.
        #[test]
        fn any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            chain(&bytes);
            rule(&bytes, "chain");
            elements(&bytes, &mut HashSet::new());
            whole_elements(&bytes);
            element_data(&bytes);
            generation(&bytes);
            comment(&bytes);
            multiport(&bytes).count();
        }
    }
}
