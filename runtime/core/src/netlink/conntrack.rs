//! Connection tracking: deletes UDP flows of host ports. The kernel determines the destination of a flow at its first
//! packet, so a flow that began before a port was mapped, or while another container had it, would keep its old
//! destination.
//!
//! Best effort: a kernel without the netlink interface of connection tracking has no flows, or no way to delete them.

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;

use netlink_packet_core::{
    DefaultNla, NLA_F_NESTED, NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload, Nla,
};
use netlink_packet_netfilter::conntrack::{ConntrackAttribute, ConntrackMessage, IPTuple, ProtoTuple, Tuple};
use netlink_packet_netfilter::{NetfilterHeader, NetfilterMessage, NetfilterMessageInner, NetfilterProtoFamily};

use super::fault::Fault;
use super::wire::{NLMSG_DONE, NLMSG_ERROR, Wire};
use crate::plan::{Family, HostPort, Protocol};

/// `CTA_ID`, `CTA_ZONE`, `CTA_FILTER`, and `CTA_FILTER_ORIG_FLAGS`: the protocol's number and the destination port.
const CTA_ID: u16 = 12;
const CTA_ZONE: u16 = 18;
const CTA_FILTER: u16 = 25;
const CTA_FILTER_ORIG_FLAGS: u16 = 1;
const BY_PROTOCOL: u32 = 1 << 3;
const BY_PORT: u32 = 1 << 5;

const UDP: u8 = 17;

/// Which flows to delete.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Flows {
    /// Those to any other destination than the container.
    Elsewhere,
    /// Those to the container.
    Here,
}

/// The relevant part of a tracked flow.
#[derive(Debug, Default)]
struct Flow {
    original: Vec<Tuple>,
    /// Identifies exactly this flow: identifier and zone, as the kernel wrote them.
    identity: Vec<ConntrackAttribute>,
    destination: Option<IpAddr>,
    port: Option<u16>,
    protocol: Option<u8>,
    /// The source of replies.
    answers_from: Option<IpAddr>,
}

/// Deletes flows of the UDP ports among these.
pub(super) fn forget<'a>(ports: impl Iterator<Item = &'a HostPort>, which: Flows) {
    let ports: Vec<&HostPort> = ports.filter(|port| port.protocol == Protocol::Udp).collect();
    if ports.is_empty() {
        return;
    }
    let Ok(mut conversation) = Conversation::open() else { return };
    for family in [Family::V4, Family::V6] {
        let of_family = ports.iter().copied().filter(|port| Family::from_ip(port.to.ip()) == family);
        if conversation.forget(family, &of_family.collect::<Vec<_>>(), which).is_err() {
            return;
        }
    }
}

/// A socket of connection tracking.
struct Conversation {
    wire: Wire,
    sequence: u32,
}

impl Conversation {
    fn open() -> io::Result<Self> {
        Ok(Self { wire: Wire::netfilter()?, sequence: 0 })
    }

    /// Deletes flows of several ports. The kernel walks all its flows for each query, so several ports are handled with
    /// one query for all UDP flows.
    fn forget(&mut self, family: Family, ports: &[&HostPort], which: Flows) -> Result<(), Fault> {
        let family = match family {
            Family::V4 => NetfilterProtoFamily::IPv4,
            Family::V6 => NetfilterProtoFamily::IPv6,
        };
        let question = match ports {
            [] => return Ok(()),
            [port] => filter(Some(port.host_port)),
            _ => filter(None),
        };
        let mut by_port: BTreeMap<u16, Vec<&HostPort>> = BTreeMap::new();
        for port in ports {
            by_port.entry(port.host_port).or_default().push(port);
        }
        // Kernels before 5.8 do not filter, and may refuse the request.
        let listed = match self.ask(family, ConntrackMessage::Get(question), NLM_F_DUMP) {
            Ok(listed) => listed,
            Err(_unfiltered) => self.ask(family, ConntrackMessage::Get(Vec::new()), NLM_F_DUMP)?,
        };
        let own = |flow: &Flow| {
            let ports = flow.port.and_then(|port| by_port.get(&port));
            ports.is_some_and(|ports| ports.iter().any(|port| flow.matches(port, which)))
        };
        let flows: Vec<Flow> = listed.into_iter().filter_map(Flow::read).filter(own).collect();
        for flow in flows {
            let mut attributes = vec![ConntrackAttribute::CtaTupleOrig(flow.original)];
            attributes.extend(flow.identity);
            // A flow that ended meanwhile needs no deletion.
            self.ask(family, ConntrackMessage::Delete(attributes), NLM_F_ACK).ok();
        }
        Ok(())
    }

    /// Sends one message and reads all answers to it.
    fn ask(
        &mut self,
        family: NetfilterProtoFamily,
        message: ConntrackMessage,
        flags: u16,
    ) -> Result<Vec<ConntrackMessage>, Fault> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | flags;
        header.sequence_number = self.sequence;
        let message = NetfilterMessage::new(NetfilterHeader::new(family, 0, 0), message);
        let mut message = NetlinkMessage::new(header, NetlinkPayload::from(message));
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        self.wire.send(&bytes)?;
        let mut found = Vec::new();
        let mut buffer = Vec::new();
        loop {
            for answer in self.wire.receive(&mut buffer)? {
                let answer = answer?;
                if answer.sequence != self.sequence {
                    continue;
                }
                if matches!(answer.kind, NLMSG_ERROR | NLMSG_DONE) {
                    return answer.verdict().map(|()| found);
                }
                // An unreadable message is newer than this program.
                if let Ok(message) = NetlinkMessage::<NetfilterMessage>::deserialize(answer.whole)
                    && let NetlinkPayload::InnerMessage(NetfilterMessage { inner, .. }) = message.payload
                    && let NetfilterMessageInner::Conntrack(thing) = inner
                {
                    found.push(thing);
                }
            }
        }
    }
}

/// Filters UDP flows to one port or to any.
fn filter(port: Option<u16>) -> Vec<ConntrackAttribute> {
    let bits = if port.is_some() { BY_PROTOCOL | BY_PORT } else { BY_PROTOCOL };
    let flags = DefaultNla::new(CTA_FILTER_ORIG_FLAGS, bits.to_ne_bytes().to_vec());
    let mut nested = vec![0; netlink_packet_core::Emitable::buffer_len(&flags)];
    netlink_packet_core::Emitable::emit(&flags, &mut nested);
    vec![
        ConntrackAttribute::CtaTupleOrig(vec![Tuple::Proto(vec![
            ProtoTuple::Protocol(UDP.into()),
            ProtoTuple::DestinationPort(port.unwrap_or_default()),
        ])]),
        ConntrackAttribute::Other(DefaultNla::new(CTA_FILTER | NLA_F_NESTED, nested)),
    ]
}

// === impl Flow ===

impl Flow {
    fn read(message: ConntrackMessage) -> Option<Self> {
        let ConntrackMessage::New(attributes) = message else { return None };
        let mut flow = Self::default();
        for attribute in attributes {
            match attribute {
                ConntrackAttribute::CtaTupleOrig(tuple) => {
                    for part in &tuple {
                        flow.read_tuple(part);
                    }
                    flow.original = tuple;
                }
                ConntrackAttribute::CtaTupleReply(tuple) => {
                    let addresses = tuple.into_iter().filter_map(|part| match part {
                        Tuple::Ip(addresses) => Some(addresses),
                        _ => None,
                    });
                    flow.answers_from = addresses.flatten().find_map(|address| match address {
                        IPTuple::SourceAddress(address) => Some(address),
                        _ => None,
                    });
                }
                ConntrackAttribute::Other(other) if matches!(other.kind(), CTA_ID | CTA_ZONE) => {
                    flow.identity.push(ConntrackAttribute::Other(other));
                }
                _ => {}
            }
        }
        Some(flow)
    }

    fn read_tuple(&mut self, part: &Tuple) {
        match part {
            Tuple::Ip(addresses) => {
                self.destination = addresses.iter().find_map(|address| match address {
                    IPTuple::DestinationAddress(address) => Some(*address),
                    _ => None,
                });
            }
            Tuple::Proto(fields) => {
                for field in fields {
                    match field {
                        ProtoTuple::Protocol(protocol) => self.protocol = Some((*protocol).into()),
                        ProtoTuple::DestinationPort(port) => self.port = Some(*port),
                        _ => {}
                    }
                }
            }
            Tuple::Other(_) | _ => {}
        }
    }

    fn matches(&self, port: &HostPort, which: Flows) -> bool {
        let here = self.answers_from == Some(port.to.ip());
        self.protocol == Some(UDP)
            && self.port == Some(port.host_port)
            && port.host_ip.is_none_or(|host| self.destination == Some(host))
            && here == (which == Flows::Here)
    }
}
