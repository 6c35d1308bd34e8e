//! The netfilter netlink socket: batches with one outcome per message.
//!
//! The kernel works a batch off, and queues all answers to it, before `send` returns. So answers are read without
//! waiting, and an answer that is missing is an error rather than a hang.

use std::collections::BTreeMap;
use std::io;

use netlink_packet_core::{
    DefaultNla, NLM_F_ACK, NLM_F_ACK_TLVS, NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_netfilter::nftables::{
    ChainAttribute, ChainMessage, DataAttribute, GenAttribute, GenMessage, ListAttribute, NfTablesMessage,
    SetElementAttribute, SetElementList, SetElementMessage,
};
use netlink_packet_netfilter::none::ControlMessage;
use netlink_packet_netfilter::{NetfilterHeader, NetfilterMessage, NetfilterMessageInner, NetfilterProtoFamily};
use netlink_sys::SocketAddr;
use netlink_sys::protocols::NETLINK_NETFILTER;
use nix::errno::Errno;
use nix::libc::MSG_DONTWAIT;

use super::Table;
use super::rule::{self, FoundRule};
use crate::netlink::error::Fault;
use crate::netlink::rtnl::explanation;

/// `NFNL_SUBSYS_NFTABLES`, which a batch names as its subsystem.
const SUBSYSTEM: u16 = 10;

/// `NFNL_MSG_BATCH_BEGIN` and its attribute `NFNL_BATCH_GENID`.
const BATCH_BEGIN: u8 = 16;
const BATCH_GENID: u16 = 1;

const NLMSG_ERROR: u16 = 2;
const NLMSG_HEADER: usize = 16;

/// More than any one datagram the kernel sends here.
const BUFFER: usize = 64 << 10;

/// One request.
#[derive(Debug, Clone)]
pub(super) struct Item {
    pub(super) table: Table,
    pub(super) message: NfTablesMessage,
    /// Besides `NLM_F_REQUEST` and `NLM_F_ACK`.
    pub(super) flags: u16,
}

/// What became of a batch.
#[derive(Debug, Default)]
pub(super) struct Transaction {
    /// One for each request.
    pub(super) outcomes: Vec<Outcome>,
    /// Set and key of the elements that the kernel tells of as new ones; it does for requests with `NLM_F_ECHO`.
    pub(super) announced: Vec<(String, Vec<u8>)>,
}

/// What became of one request of a batch.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Outcome {
    refused: Option<(Errno, Option<String>)>,
}

/// The socket.
#[derive(Debug)]
pub(super) struct Socket {
    socket: netlink_sys::Socket,
    sequence: u32,
    sent: u32,
}

/// One message that came back, taken apart as far as every kind has it.
struct Answer<'a> {
    sequence: u32,
    kind: u16,
    flags: u16,
    whole: &'a [u8],
}

// === impl Outcome ===

impl Outcome {
    pub(super) fn is_absent(&self) -> bool {
        self.refused.as_ref().is_some_and(|(errno, _)| *errno == Errno::ENOENT)
    }

    /// Whether the key is there and leads elsewhere.
    pub(super) fn is_clash(&self) -> bool {
        self.refused.as_ref().is_some_and(|(errno, _)| matches!(errno, Errno::EEXIST | Errno::EBUSY))
    }

    pub(super) fn fault(&self) -> Option<Fault> {
        self.refused.clone().map(|(errno, hint)| Fault::Refused(errno, hint))
    }
}

// === impl Socket ===

impl Socket {
    pub(super) fn open() -> io::Result<Self> {
        let socket = netlink_sys::Socket::new(NETLINK_NETFILTER)?;
        socket.set_ext_ack(true)?;
        socket.set_cap_ack(true)?;
        Ok(Self { socket, sequence: 0, sent: 0 })
    }

    pub(super) fn sent(&self) -> u32 {
        self.sent
    }

    /// One transaction. An error is about the batch as a whole, an outcome about one of its requests; any refused one
    /// means that nothing was changed.
    pub(super) fn transact(&mut self, items: &[Item], generation: Option<u32>) -> Result<Transaction, Fault> {
        let mut bytes = Vec::with_capacity(4096);
        let control =
            |inner| NetfilterMessage::new(NetfilterHeader::new(NetfilterProtoFamily::Unspec, 0, SUBSYSTEM), inner);
        let begin = match generation {
            None => ControlMessage::BatchBegin,
            Some(id) => ControlMessage::Other {
                message_type: BATCH_BEGIN,
                attributes: vec![DefaultNla::new(BATCH_GENID, id.to_be_bytes().to_vec())],
            },
        };
        let begin = self.append(&mut bytes, control(begin), NLM_F_REQUEST);
        let mut open = BTreeMap::new();
        for (at, item) in items.iter().enumerate() {
            let sequence = self.append(&mut bytes, item.message(), NLM_F_REQUEST | NLM_F_ACK | item.flags);
            open.insert(sequence, at);
        }
        self.append(&mut bytes, control(ControlMessage::BatchEnd), NLM_F_REQUEST);
        self.send(&bytes)?;

        let mut done = Transaction { outcomes: vec![Outcome::default(); items.len()], announced: Vec::new() };
        let mut buffer = Vec::with_capacity(BUFFER);
        while !open.is_empty() {
            for answer in self.receive(&mut buffer)? {
                let answer = answer?;
                let refused = answer.refusal()?;
                if answer.sequence == begin
                    && let Some((errno, hint)) = refused
                {
                    return Err(Fault::Refused(errno, hint));
                }
                if answer.kind != NLMSG_ERROR {
                    // Announcements have no sequence number; they come before the acknowledgements.
                    done.announced.extend(announced_elements(answer.whole)?);
                } else if let Some(outcome) = open.remove(&answer.sequence).and_then(|at| done.outcomes.get_mut(at)) {
                    outcome.refused = refused;
                }
            }
        }
        Ok(done)
    }

    /// Whether the thing that a question asks for is there.
    pub(super) fn has(&mut self, question: &Item) -> Result<bool, Fault> {
        match self.question(question.message(), NLM_F_REQUEST | question.flags) {
            Ok(_) => Ok(true),
            Err(fault) if fault.is_absent() => Ok(false),
            Err(fault) => Err(fault),
        }
    }

    /// Number of the ruleset as it is now; every transaction changes it.
    pub(super) fn generation(&mut self) -> Result<u32, Fault> {
        let question = NfTablesMessage::GetGen(GenMessage { attributes: Vec::new() });
        let header = NetfilterHeader::new(NetfilterProtoFamily::Unspec, 0, 0);
        let answers = self.question(NetfilterMessage::new(header, question), NLM_F_REQUEST)?;
        let id = answers.into_iter().find_map(|answer| match answer {
            NfTablesMessage::NewGen(GenMessage { attributes }) => {
                attributes.into_iter().find_map(|attribute| match attribute {
                    GenAttribute::Id(id) => Some(id),
                    _ => None,
                })
            }
            _ => None,
        });
        id.ok_or(Fault::Broken("no generation"))
    }

    /// The keys of all elements of a set.
    pub(super) fn dump_elements(&mut self, table: Table, set: &str) -> Result<Vec<Vec<u8>>, Fault> {
        let attributes = vec![SetElementList::Table(table.name().to_owned()), SetElementList::Set(set.to_owned())];
        let message = NfTablesMessage::GetSetElement(SetElementMessage { attributes });
        let item = Item { table, message, flags: 0 };
        let answers = self.question(item.message(), NLM_F_REQUEST | NLM_F_DUMP)?;
        Ok(answers.into_iter().flat_map(elements_of).map(|(_set, key)| key).collect())
    }

    /// The rules of a chain, in order; none where there is no such chain.
    pub(super) fn rules(&mut self, table: Table, chain: &str) -> Result<Vec<FoundRule>, Fault> {
        let item = rule::listing(table, chain);
        match self.question(item.message(), NLM_F_REQUEST | NLM_F_DUMP) {
            Err(fault) if fault.is_absent() => Ok(Vec::new()),
            other => Ok(other?.into_iter().filter_map(|answer| rule::read(answer, chain)).collect()),
        }
    }

    /// The names of the chains of a table.
    pub(super) fn chains(&mut self, table: Table) -> Result<Vec<String>, Fault> {
        let message = NfTablesMessage::GetChain(ChainMessage { attributes: Vec::new() });
        let item = Item { table, message, flags: 0 };
        let answers = self.question(item.message(), NLM_F_REQUEST | NLM_F_DUMP)?;
        let name = |answer| {
            let NfTablesMessage::NewChain(ChainMessage { attributes }) = answer else { return None };
            let (mut of, mut name) = (String::new(), None);
            for attribute in attributes {
                match attribute {
                    ChainAttribute::Table(table) => of = table,
                    ChainAttribute::Name(chain) => name = Some(chain),
                    _ => {}
                }
            }
            name.filter(|_| of == table.name())
        };
        Ok(answers.into_iter().filter_map(name).collect())
    }

    /// What a map has for the key of an element; `None` where it has no such key.
    pub(super) fn data(&mut self, question: &Item) -> Result<Option<Vec<u8>>, Fault> {
        match self.question(question.message(), NLM_F_REQUEST | question.flags) {
            Ok(answers) => Ok(answers.into_iter().find_map(data_of)),
            Err(fault) if fault.is_absent() => Ok(None),
            Err(fault) => Err(fault),
        }
    }

    /// Sends one message, and reads answers to it up to the last one.
    fn question(&mut self, message: NetfilterMessage, flags: u16) -> Result<Vec<NfTablesMessage>, Fault> {
        let mut bytes = Vec::new();
        let sequence = self.append(&mut bytes, message, flags);
        self.send(&bytes)?;
        let mut things = Vec::new();
        let mut buffer = Vec::with_capacity(BUFFER);
        loop {
            for answer in self.receive(&mut buffer)? {
                let answer = answer?;
                if answer.sequence != sequence {
                    continue;
                }
                if let Some((errno, hint)) = answer.refusal()? {
                    return Err(Fault::Refused(errno, hint));
                }
                match parse(answer.whole)? {
                    NetlinkPayload::Done(_) => return Ok(things),
                    NetlinkPayload::InnerMessage(NetfilterMessage {
                        inner: NetfilterMessageInner::NfTables(thing),
                        ..
                    }) => {
                        things.push(thing);
                        if flags & NLM_F_DUMP == 0 {
                            return Ok(things);
                        }
                    }
                    _ => return Err(Fault::Broken("an unexpected answer")),
                }
            }
        }
    }

    fn append(&mut self, bytes: &mut Vec<u8>, message: NetfilterMessage, flags: u16) -> u32 {
        self.sequence = self.sequence.wrapping_add(1);
        self.sent = self.sent.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        header.flags = flags;
        header.sequence_number = self.sequence;
        let mut message = NetlinkMessage::new(header, NetlinkPayload::from(message));
        message.finalize();
        let start = bytes.len();
        bytes.resize(start + message.buffer_len().next_multiple_of(4), 0);
        message.serialize(&mut bytes[start..]);
        self.sequence
    }

    fn send(&self, bytes: &[u8]) -> Result<(), Fault> {
        let sent = self.socket.send_to(bytes, &SocketAddr::new(0, 0), 0).map_err(|error| refused(&error))?;
        if sent == bytes.len() { Ok(()) } else { Err(Fault::Broken("a short write")) }
    }

    fn receive<'a>(&self, buffer: &'a mut Vec<u8>) -> Result<Answers<'a>, Fault> {
        buffer.clear();
        match self.socket.recv(buffer, MSG_DONTWAIT) {
            Ok(_) => Ok(Answers { rest: buffer }),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(Fault::Broken("no answer")),
            Err(error) => Err(refused(&error)),
        }
    }
}

fn refused(error: &io::Error) -> Fault {
    Fault::Refused(error.raw_os_error().map_or(Errno::EIO, Errno::from_raw), None)
}

fn parse(whole: &[u8]) -> Result<NetlinkPayload<NetfilterMessage>, Fault> {
    let parsed = NetlinkMessage::<NetfilterMessage>::deserialize(whole);
    parsed.map(|message| message.payload).map_err(|_decode| Fault::Broken("an unreadable answer"))
}

fn announced_elements(whole: &[u8]) -> Result<Vec<(String, Vec<u8>)>, Fault> {
    Ok(match parse(whole)? {
        NetlinkPayload::InnerMessage(NetfilterMessage { inner: NetfilterMessageInner::NfTables(thing), .. }) => {
            elements_of(thing)
        }
        _ => Vec::new(),
    })
}

/// Set and key of the elements a message lists.
fn elements_of(message: NfTablesMessage) -> Vec<(String, Vec<u8>)> {
    let NfTablesMessage::NewSetElement(SetElementMessage { attributes }) = message else { return Vec::new() };
    let (mut set, mut keys) = (String::new(), Vec::new());
    for attribute in attributes {
        match attribute {
            SetElementList::Set(name) => set = name,
            SetElementList::Elements(elements) => keys.extend(elements.into_iter().filter_map(key_of)),
            _ => {}
        }
    }
    keys.into_iter().map(|key| (set.clone(), key)).collect()
}

/// What the first element of a message leads to.
fn data_of(message: NfTablesMessage) -> Option<Vec<u8>> {
    let NfTablesMessage::NewSetElement(SetElementMessage { attributes }) = message else { return None };
    let lists = attributes.into_iter().filter_map(|attribute| match attribute {
        SetElementList::Elements(elements) => Some(elements),
        _ => None,
    });
    let elements = lists.flatten().filter_map(|element| match element {
        ListAttribute::Element(attributes) => Some(attributes),
        _ => None,
    });
    elements.flatten().find_map(|attribute| match attribute {
        SetElementAttribute::Data(DataAttribute::Value(data)) => Some(data),
        _ => None,
    })
}

fn key_of(element: ListAttribute<SetElementAttribute>) -> Option<Vec<u8>> {
    let ListAttribute::Element(attributes) = element else { return None };
    attributes.into_iter().find_map(|attribute| match attribute {
        SetElementAttribute::Key(DataAttribute::Value(key)) => Some(key),
        _ => None,
    })
}

// === impl Item ===

impl Item {
    fn message(&self) -> NetfilterMessage {
        let family = match self.table {
            Table::Inet => NetfilterProtoFamily::Inet,
            Table::Bridge => NetfilterProtoFamily::Bridge,
            Table::Filter4 => NetfilterProtoFamily::IPv4,
            Table::Filter6 => NetfilterProtoFamily::IPv6,
        };
        NetfilterMessage::new(NetfilterHeader::new(family, 0, 0), self.message.clone())
    }
}

// === impl Answer ===

/// The messages of one datagram.
struct Answers<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Answers<'a> {
    type Item = Result<Answer<'a>, Fault>;

    fn next(&mut self) -> Option<Self::Item> {
        let &[a, b, c, d, e, f, g, h, i, j, k, l, ..] = self.rest else { return None };
        let length = u32::from_ne_bytes([a, b, c, d]) as usize;
        let Some(whole) = self.rest.get(..length).filter(|_| length >= NLMSG_HEADER) else {
            self.rest = &[];
            return Some(Err(Fault::Broken("a cut-off answer")));
        };
        self.rest = self.rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(Ok(Answer {
            kind: u16::from_ne_bytes([e, f]),
            flags: u16::from_ne_bytes([g, h]),
            sequence: u32::from_ne_bytes([i, j, k, l]),
            whole,
        }))
    }
}

impl Answer<'_> {
    /// The refusal it is; `None` for acknowledgements and for everything else.
    fn refusal(&self) -> Result<Option<(Errno, Option<String>)>, Fault> {
        if self.kind != NLMSG_ERROR {
            return Ok(None);
        }
        let Some(&[a, b, c, d]) = self.whole.get(NLMSG_HEADER..NLMSG_HEADER + 4) else {
            return Err(Fault::Broken("a cut-off answer"));
        };
        let code = i32::from_ne_bytes([a, b, c, d]);
        if code == 0 {
            return Ok(None);
        }
        // The error repeats the header of the request; the kernel's attributes follow that.
        let attributes = self.whole.get(NLMSG_HEADER + 4 + NLMSG_HEADER..);
        let attributes = attributes.filter(|_| self.flags & NLM_F_ACK_TLVS != 0);
        Ok(Some((Errno::from_raw(code.saturating_abs()), attributes.and_then(explanation))))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

    use proptest::prelude::*;

    use super::*;

    fn error(code: i32, flags: u16, attributes: &[u8]) -> Vec<u8> {
        let length = u32::try_from(36 + attributes.len()).unwrap();
        let mut bytes = length.to_ne_bytes().to_vec();
        bytes.extend([NLMSG_ERROR.to_ne_bytes(), flags.to_ne_bytes()].concat());
        bytes.extend([7, 0, 0, 0, 0, 0, 0, 0]);
        bytes.extend(code.to_ne_bytes());
        bytes.extend([0; NLMSG_HEADER]);
        bytes.extend(attributes);
        bytes
    }

    fn refusals(bytes: &[u8]) -> Vec<Option<(Errno, Option<String>)>> {
        Answers { rest: bytes }.map(|answer| answer.unwrap().refusal().unwrap()).collect()
    }

    #[test]
    fn refusals_and_acknowledgements() {
        let text = [9, 0, 1, 0, b'w', b'h', b'y', b'!', 0, 0, 0, 0];
        let bytes =
            [error(0, 0, &[]), error(-2, 0, &[]), error(-17, NLM_F_ACK_TLVS, &text), error(-1, 0, &text)].concat();
        assert_eq!(
            refusals(&bytes),
            [
                None,
                Some((Errno::ENOENT, None)),
                Some((Errno::EEXIST, Some("why!".to_owned()))),
                Some((Errno::EPERM, None)),
            ]
        );
    }

    proptest! {
        /// Whatever comes in, it is taken apart or refused, and the end is reached.
        #[test]
        fn any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            for answer in (Answers { rest: &bytes }) {
                let Ok(answer) = answer else { break };
                answer.refusal().ok();
                parse(answer.whole).ok();
            }
            explanation(&bytes);
        }
    }
}
