//! The netfilter netlink socket: batches with one outcome per message.
//!
//! Sending and receiving are `wire`'s.

use std::collections::BTreeMap;
use std::io;

use netlink_packet_core::{
    DefaultNla, NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_netfilter::nftables::{
    ChainAttribute, ChainMessage, DataAttribute, GenAttribute, GenMessage, ListAttribute, NfTablesMessage,
    SetElementAttribute, SetElementList, SetElementMessage,
};
use netlink_packet_netfilter::none::ControlMessage;
use netlink_packet_netfilter::{NetfilterHeader, NetfilterMessage, NetfilterMessageInner, NetfilterProtoFamily};
use nix::errno::Errno;

use super::Table;
use super::rule::{self, FoundRule};
use crate::netlink::error::Fault;
use crate::netlink::wire::{NLMSG_ERROR, Refusal, Wire};

/// `NFNL_SUBSYS_NFTABLES`, which a batch names as its subsystem.
const SUBSYSTEM: u16 = 10;

/// `NFNL_MSG_BATCH_BEGIN` and its attribute `NFNL_BATCH_GENID`.
const BATCH_BEGIN: u8 = 16;
const BATCH_GENID: u16 = 1;

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
    refused: Option<Refusal>,
}

/// The socket.
#[derive(Debug)]
pub(super) struct Socket {
    wire: Wire,
    sequence: u32,
    sent: u32,
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
        Ok(Self { wire: Wire::netfilter()?, sequence: 0, sent: 0 })
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
        self.wire.send(&bytes)?;

        let mut done = Transaction { outcomes: vec![Outcome::default(); items.len()], announced: Vec::new() };
        let mut buffer = Vec::new();
        while !open.is_empty() {
            for answer in self.wire.receive(&mut buffer)? {
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
        self.wire.send(&bytes)?;
        let mut things = Vec::new();
        let mut buffer = Vec::new();
        loop {
            for answer in self.wire.receive(&mut buffer)? {
                let answer = answer?;
                if answer.sequence != sequence {
                    continue;
                }
                answer.verdict()?;
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
