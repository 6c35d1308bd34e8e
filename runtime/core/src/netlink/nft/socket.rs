//! The netfilter netlink socket: batches with one outcome per request, and queries.
//!
//! `wire` sends and receives. The kernel queues all answers to a datagram before `send` returns, so the answers to one
//! datagram must fit the receive buffer: a batch has at most [`Socket::capacity`] requests, and queries are sent a few
//! at a time.

use std::collections::{BTreeMap, HashSet};
use std::io;

use netlink_packet_core::{
    DefaultNla, NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_netfilter::nftables::{
    ChainMessage, GenMessage, NfTablesMessage, RuleAttribute, RuleMessage, SetElementList, SetElementMessage,
};
use netlink_packet_netfilter::none::ControlMessage;
use netlink_packet_netfilter::{NetfilterHeader, NetfilterMessage, NetfilterProtoFamily};
use nix::errno::Errno;

use super::answer::{self, FoundChain, FoundElement, FoundRule};
use super::table::{Item, Table};
use crate::netlink::fault::Fault;
use crate::netlink::wire::{NLMSG_DONE, NLMSG_ERROR, Refusal, Wire};

/// `NFNL_SUBSYS_NFTABLES`, which a batch names as its subsystem.
const SUBSYSTEM: u16 = 10;

/// `NFNL_MSG_BATCH_BEGIN` and its attribute `NFNL_BATCH_GENID`.
const BATCH_BEGIN: u8 = 16;
const BATCH_GENID: u16 = 1;

/// Maximum buffer space that the kernel charges for the answers to one request: an announcement in a buffer of slightly
/// more than a page (`NLMSG_GOODSIZE`), and an acknowledgement or a refusal.
const ANSWER_BYTES: usize = 6 << 10;

/// Requests of a batch if the receive buffer can be enlarged freely, and the minimum if it cannot.
const MOST: usize = 256;
const LEAST: usize = 8;

/// This number always works: the system's default receive buffer holds their answers.
pub(super) const FEW: usize = 16;

/// How often a transaction is retried after another one came in between.
pub(super) const ATTEMPTS: u32 = 32;

/// Queries per datagram.
const QUESTIONS: usize = 24;

/// The result of a batch.
#[derive(Debug, Default)]
pub(super) struct Transaction {
    /// One for each request.
    pub(super) outcomes: Vec<Outcome>,
    /// Set and key of the elements that the kernel announced as new; it does so for requests with `NLM_F_ECHO`.
    pub(super) announced: HashSet<(String, Vec<u8>)>,
}

/// The outcome of one request of a batch.
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
    /// Maximum requests of a batch; known after the first query.
    capacity: Option<usize>,
}

// === impl Outcome ===

impl Outcome {
    pub(super) fn is_absent(&self) -> bool {
        self.refused.as_ref().is_some_and(|(errno, _)| *errno == Errno::ENOENT)
    }

    /// Returns whether the key exists with another destination.
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
        Ok(Self { wire: Wire::netfilter()?, sequence: 0, sent: 0, capacity: None })
    }

    pub(super) fn sent(&self) -> u32 {
        self.sent
    }

    /// Returns the maximum number of requests in a batch such that all answers fit the receive buffer, which this
    /// enlarges. A process that may not exceed the system's limit sends smaller batches.
    pub(super) fn capacity(&mut self) -> usize {
        let wire = &self.wire;
        *self.capacity.get_or_insert_with(|| (wire.enlarge(MOST * ANSWER_BYTES) / ANSWER_BYTES).clamp(LEAST, MOST))
    }

    /// Executes one transaction. An error concerns the batch as a whole, an outcome one of its requests; if any is
    /// refused, nothing was changed. [`Fault::Lost`] means that it is unknown whether anything was changed.
    ///
    /// Only the last request asks for an acknowledgement: refusals are always sent, and the kernel sends all of them in
    /// order.
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
        let mut requests = BTreeMap::new();
        let mut last = begin;
        for (at, item) in items.iter().enumerate() {
            let ack = if at + 1 == items.len() { NLM_F_ACK } else { 0 };
            last = self.append(&mut bytes, item.message(), NLM_F_REQUEST | ack | item.flags);
            requests.insert(last, at);
        }
        self.append(&mut bytes, control(ControlMessage::BatchEnd), NLM_F_REQUEST);
        self.wire.send(&bytes)?;

        let mut done = Transaction { outcomes: vec![Outcome::default(); items.len()], announced: HashSet::new() };
        let mut buffer = Vec::new();
        let mut is_complete = items.is_empty();
        while !is_complete {
            let answers = match self.wire.receive(&mut buffer) {
                Err(Fault::Lost) => {
                    // Answers that are still queued belong to this batch, and would be mistaken for answers to the next
                    // one.
                    self.wire.drain();
                    return Err(Fault::Lost);
                }
                other => other?,
            };
            for answer in answers {
                let answer = answer?;
                let refused = answer.refusal()?;
                if answer.sequence == begin
                    && let Some((errno, hint)) = refused
                {
                    return Err(Fault::Refused(errno, hint));
                }
                if answer.kind != NLMSG_ERROR {
                    // Announcements have no sequence number; they precede the acknowledgement.
                    answer::elements(answer.whole, &mut done.announced);
                } else if let Some(outcome) = requests.get(&answer.sequence).and_then(|at| done.outcomes.get_mut(*at)) {
                    outcome.refused = refused;
                    is_complete |= answer.sequence == last;
                }
            }
        }
        Ok(done)
    }

    /// Returns whether the object of a query exists.
    pub(super) fn exists(&mut self, question: &Item) -> Result<bool, Fault> {
        Ok(self.ask_each(std::slice::from_ref(question), |_answer| ())?.iter().any(Option::is_some))
    }

    /// Applies `read` to the answer to each query; `None` if the object does not exist.
    pub(super) fn ask_each<T>(
        &mut self,
        questions: &[Item],
        read: impl Fn(&[u8]) -> T,
    ) -> Result<Vec<Option<T>>, Fault> {
        let mut found: Vec<Option<T>> = Vec::with_capacity(questions.len());
        for questions in questions.chunks(QUESTIONS) {
            let mut bytes = Vec::new();
            let mut open = BTreeMap::new();
            for question in questions {
                let sequence = self.append(&mut bytes, question.message(), NLM_F_REQUEST | question.flags);
                open.insert(sequence, found.len());
                found.push(None);
            }
            self.wire.send(&bytes)?;
            let mut buffer = Vec::new();
            while !open.is_empty() {
                for answer in self.wire.receive(&mut buffer)? {
                    let answer = answer?;
                    let Some(at) = open.remove(&answer.sequence) else { continue };
                    match answer.verdict() {
                        Err(fault) if fault.is_absent() => {}
                        verdict => {
                            verdict?;
                            if let Some(place) = found.get_mut(at) {
                                *place = Some(read(answer.whole));
                            }
                        }
                    }
                }
            }
        }
        Ok(found)
    }

    /// Applies `read` to each message of a dump. A dump that another transaction interrupted is inconsistent and is
    /// repeated.
    fn dump<T>(&mut self, item: &Item, read: impl Fn(&[u8]) -> Option<T>) -> Result<Vec<T>, Fault> {
        for _attempt in 0..ATTEMPTS {
            if let Some(things) = self.try_dump(item, &read)? {
                return Ok(things);
            }
        }
        Err(Fault::Broken("torn dumps"))
    }

    fn try_dump<T>(&mut self, item: &Item, read: &impl Fn(&[u8]) -> Option<T>) -> Result<Option<Vec<T>>, Fault> {
        let mut bytes = Vec::new();
        let sequence = self.append(&mut bytes, item.message(), NLM_F_REQUEST | NLM_F_DUMP);
        self.wire.send(&bytes)?;
        let mut things = Vec::new();
        let mut buffer = Vec::new();
        let mut is_torn = false;
        loop {
            for answer in self.wire.receive(&mut buffer)? {
                let answer = answer?;
                if answer.sequence != sequence {
                    continue;
                }
                answer.verdict()?;
                is_torn |= answer.has(NLM_F_DUMP_INTR);
                if answer.kind == NLMSG_DONE {
                    return Ok((!is_torn).then_some(things));
                }
                things.extend(read(answer.whole));
            }
        }
    }

    /// Returns the current number of the ruleset, which every transaction changes.
    pub(super) fn generation(&mut self) -> Result<u32, Fault> {
        // The kernel ignores the family.
        let message = NfTablesMessage::GetGen(GenMessage { attributes: Vec::new() });
        let answers = self.ask_each(&[Item { table: Table::Inet, message, flags: 0 }], answer::generation)?;
        answers.into_iter().flatten().flatten().next().ok_or(Fault::Broken("no generation"))
    }

    /// Returns the keys of all elements of a set.
    pub(super) fn dump_elements(&mut self, table: Table, set: &str) -> Result<HashSet<(String, Vec<u8>)>, Fault> {
        let attributes = vec![SetElementList::Table(table.name().to_owned()), SetElementList::Set(set.to_owned())];
        let message = NfTablesMessage::GetSetElement(SetElementMessage { attributes });
        let keys = self.dump(&Item { table, message, flags: 0 }, |message| {
            let mut keys = HashSet::new();
            answer::elements(message, &mut keys);
            Some(keys)
        })?;
        Ok(keys.into_iter().flatten().collect())
    }

    /// Returns the elements of a set; none if the set does not exist.
    pub(super) fn whole_elements(&mut self, table: Table, set: &str) -> Result<Vec<FoundElement>, Fault> {
        let attributes = vec![SetElementList::Table(table.name().to_owned()), SetElementList::Set(set.to_owned())];
        let message = NfTablesMessage::GetSetElement(SetElementMessage { attributes });
        match self.dump(&Item { table, message, flags: 0 }, |message| Some(answer::whole_elements(message))) {
            Err(fault) if fault.is_absent() => Ok(Vec::new()),
            other => Ok(other?.into_iter().flatten().collect()),
        }
    }

    /// Returns the rules of a chain in order; none if the chain does not exist.
    pub(super) fn rules(&mut self, table: Table, chain: &str) -> Result<Vec<FoundRule>, Fault> {
        match self.dump(&rules_question(table, chain), |message| answer::rule(message, chain)) {
            Err(fault) if fault.is_absent() => Ok(Vec::new()),
            other => other,
        }
    }

    /// Returns the chains of a table.
    pub(super) fn chains(&mut self, table: Table) -> Result<Vec<FoundChain>, Fault> {
        let message = NfTablesMessage::GetChain(ChainMessage { attributes: Vec::new() });
        self.dump(&Item { table, message, flags: 0 }, |message| {
            Some(answer::chain(message)).filter(|chain| chain.table == table.name())
        })
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

/// Returns the request that lists the rules of a chain.
fn rules_question(table: Table, chain: &str) -> Item {
    let attributes = vec![RuleAttribute::Table(table.name().to_owned()), RuleAttribute::Chain(chain.to_owned())];
    Item { table, message: NfTablesMessage::GetRule(RuleMessage { attributes }), flags: 0 }
}
