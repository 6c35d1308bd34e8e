//! One routing netlink socket: sends requests, and returns answers or the kernel's refusal.
//!
//! Invariants: a request counts as done only after the kernel's acknowledgement (a broken socket must not look like
//! success), and the kernel's own explanation of a refusal is kept.

mod address;
mod child;
mod link;
mod neighbour;
mod nsid;
mod route;
mod rule;
mod tc;

pub(super) use address::{Address, address_message, overlap, without_detection};
pub(super) use child::Child;
pub(super) use link::{Link, Lookup, Nsid, change, high_mac, port_flags, random_mac};
pub(super) use route::{DEFAULT_TABLE, RouteSpec, in_table, route_message};
pub(super) use rule::rule_message;
pub(super) use tc::{Qdisc, Tbf, ingress_message, qdisc_selector, redirect_message, redirect_targets, tbf_message};

use std::cell::{Cell, RefCell};

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_APPEND, NLM_F_CREATE, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_ECHO, NLM_F_EXCL, NLM_F_REPLACE,
    NLM_F_REQUEST, NetlinkMessage, NetlinkPayload,
};
use nix::errno::Errno;
use rtnetlink::packet_route::RouteNetlinkMessage;

use super::fault::Fault;
use super::wire::{Answer, NLMSG_DONE, NLMSG_ERROR, Wire};

/// How often a dump is repeated that changes interrupted; then it is used as it is.
const DUMP_ATTEMPTS: usize = 5;

/// A routing netlink socket in one network namespace.
#[derive(Debug)]
pub(super) struct Rtnl {
    socket: Wire,
    /// Of the last request; also the number of requests.
    sequence: Cell<u32>,
    buffer: RefCell<Vec<u8>>,
}

/// How a request changes something.
#[derive(Debug, Clone, Copy)]
pub(in crate::netlink) enum ChangeMode {
    /// Changes an existing object.
    Set,
    /// Creates an object; an existing one is an error.
    Create,
    /// Creates an object; whether an existing one is an error depends on its kind (routes).
    Append,
    /// Like `Append`, but after others of its kind: among routes to the same destination, the first one counts.
    Behind,
    /// Creates an object, or replaces an existing one.
    Replace,
}

// === impl Rtnl ===

impl Rtnl {
    /// Sends requests over a socket, in whichever namespace it was opened.
    pub(super) fn on_socket(socket: Wire) -> Self {
        Self { socket, sequence: Cell::new(0), buffer: RefCell::new(Vec::new()) }
    }

    /// Returns how many requests were sent so far.
    pub(super) fn sent(&self) -> u32 {
        self.sequence.get()
    }

    /// Sends a request that changes something and waits for the acknowledgement.
    pub(in crate::netlink) fn change(&self, message: RouteNetlinkMessage, how: ChangeMode) -> Result<(), Fault> {
        self.exchange(message, how.flags() | NLM_F_ACK).map(drop)
    }

    /// Like `change`, and returns the object as the kernel announces it. Kernels before 6.2 announce nothing.
    pub(super) fn change_echo(
        &self,
        message: RouteNetlinkMessage,
        how: ChangeMode,
    ) -> Result<Option<RouteNetlinkMessage>, Fault> {
        self.exchange(message, how.flags() | NLM_F_ACK | NLM_F_ECHO).map(|answers| answers.into_iter().next())
    }

    /// Requests one object that the kernel returns as an announcement, which it only sends to the requester on demand.
    pub(super) fn ask_echo(&self, message: RouteNetlinkMessage) -> Result<Vec<RouteNetlinkMessage>, Fault> {
        self.exchange(message, NLM_F_REQUEST | NLM_F_ACK | NLM_F_ECHO)
    }

    /// Asks for one thing.
    pub(super) fn get(&self, message: RouteNetlinkMessage) -> Result<RouteNetlinkMessage, Fault> {
        let answers = self.exchange(message, NLM_F_REQUEST)?;
        answers.into_iter().next().ok_or(Fault::Broken("no answer"))
    }

    /// Asks for all things that match.
    pub(super) fn dump(&self, message: RouteNetlinkMessage) -> Result<Vec<RouteNetlinkMessage>, Fault> {
        for _attempt in 1..DUMP_ATTEMPTS {
            match self.exchange(message.clone(), NLM_F_REQUEST | NLM_F_DUMP) {
                Err(Fault::Refused(Errno::EINTR, _)) => {}
                outcome => return outcome,
            }
        }
        self.collect(message, NLM_F_REQUEST | NLM_F_DUMP, true)
    }

    fn exchange(&self, message: RouteNetlinkMessage, flags: u16) -> Result<Vec<RouteNetlinkMessage>, Fault> {
        self.collect(message, flags, false)
    }

    /// Sends one request and collects the answers. An inconsistent dump is `EINTR` unless `tolerant`.
    fn collect(
        &self,
        message: RouteNetlinkMessage,
        flags: u16,
        tolerant: bool,
    ) -> Result<Vec<RouteNetlinkMessage>, Fault> {
        let sequence = self.send(message, flags)?;
        let one = flags & (NLM_F_ACK | NLM_F_DUMP) == 0;
        let mut buffer = self.buffer.borrow_mut();
        let (mut things, mut torn) = (Vec::new(), false);
        loop {
            for answer in self.socket.receive(&mut buffer)? {
                let answer = answer?;
                if answer.sequence != sequence {
                    continue;
                }
                torn |= answer.has(NLM_F_DUMP_INTR);
                let ended = match answer.kind {
                    NLMSG_ERROR | NLMSG_DONE => answer.verdict().map(|()| true)?,
                    _ => {
                        // In a dump, skip unreadable objects: they are newer than this program.
                        match parse_message(&answer) {
                            Err(fault) if one => return Err(fault),
                            thing => things.extend(thing.ok()),
                        }
                        one
                    }
                };
                if ended {
                    return if torn && !tolerant { Err(Fault::Refused(Errno::EINTR, None)) } else { Ok(things) };
                }
            }
        }
    }

    /// Sends a request and returns its sequence number.
    fn send(&self, message: RouteNetlinkMessage, flags: u16) -> Result<u32, Fault> {
        let sequence = self.sequence.get().wrapping_add(1);
        self.sequence.set(sequence);
        let mut request = NetlinkMessage::from(message);
        request.header.flags = flags;
        request.header.sequence_number = sequence;
        request.finalize();
        let mut bytes = vec![0; request.buffer_len()];
        request.serialize(&mut bytes);
        self.socket.send(&bytes).map(|()| sequence)
    }
}

fn parse_message(answer: &Answer<'_>) -> Result<RouteNetlinkMessage, Fault> {
    match NetlinkMessage::<RouteNetlinkMessage>::deserialize(answer.whole) {
        Ok(NetlinkMessage { payload: NetlinkPayload::InnerMessage(thing), .. }) => Ok(thing),
        _ => Err(Fault::Broken("an unreadable answer")),
    }
}

impl ChangeMode {
    fn flags(self) -> u16 {
        NLM_F_REQUEST
            | match self {
                Self::Set => 0,
                Self::Create => NLM_F_CREATE | NLM_F_EXCL,
                Self::Append => NLM_F_CREATE,
                Self::Behind => NLM_F_CREATE | NLM_F_APPEND,
                Self::Replace => NLM_F_CREATE | NLM_F_REPLACE,
            }
    }
}
