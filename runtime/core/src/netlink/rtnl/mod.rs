//! One routing netlink socket: requests out, answers or the kernel's refusal back.
//!
//! Invariants: a request counts as done only when the kernel's acknowledgement was seen (a socket that breaks down must
//! not look like success), and the kernel's own explanation of a refusal is kept.

mod address;
mod child;
mod link;
mod neighbour;
mod route;
mod rule;
mod socket;
mod tc;

pub(super) use self::socket::PromptSocket;
pub(super) use address::{Address, address_message, overlap};
pub(super) use child::Child;
pub(super) use link::{Link, Lookup, change, high_mac, port_flags, random_mac};
pub(super) use route::{DEFAULT_TABLE, RouteSpec, in_table, route_message};
pub(super) use rule::rule_message;
pub(super) use tc::{Qdisc, Tbf, ingress_message, qdisc_selector, redirect_message, redirect_targets, tbf_message};

use std::cell::Cell;
use std::rc::Rc;

use futures_util::StreamExt;
use netlink_packet_core::{
    ErrorMessage, NLM_F_ACK, NLM_F_ACK_TLVS, NLM_F_APPEND, NLM_F_CREATE, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_ECHO,
    NLM_F_EXCL, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload,
};
use nix::errno::Errno;
use rtnetlink::Handle;
use rtnetlink::packet_route::RouteNetlinkMessage;
use tokio::runtime::Runtime;

use super::error::Fault;

/// A dump that others changed things under is asked for again this often; then it is used as it is.
const DUMP_ATTEMPTS: usize = 5;

/// Header length of the request that an error message repeats, after which the kernel's attributes follow.
const ECHOED_HEADER: usize = 16;

/// `NLMSGERR_ATTR_MSG`: the explanation, a C string.
const ATTR_MSG: u16 = 1;

/// A routing netlink socket in one network namespace.
#[derive(Debug)]
pub(super) struct Rtnl {
    runtime: Rc<Runtime>,
    handle: Handle,
    sent: Cell<u32>,
}

/// How a request changes things.
#[derive(Debug, Clone, Copy)]
pub(in crate::netlink) enum How {
    /// Changes something that is there.
    Set,
    /// Makes something; an error if it is there.
    Create,
    /// Makes something; whether the same being there is an error is up to the kind of thing (routes).
    Append,
    /// As `Append`, behind the others of its kind: of routes to the same destination the first counts.
    Behind,
    /// Makes something, instead of what is in its place.
    Replace,
}

// === impl Rtnl ===

impl Rtnl {
    /// Has the runtime serve a socket.
    pub(super) fn serve(runtime: &Rc<Runtime>, socket: PromptSocket) -> Self {
        let (mut connection, handle, _multicast) = rtnetlink::from_socket(socket);
        // Otherwise an acknowledgement and a dead connection look the same to the requester.
        connection.set_forward_ack(true);
        connection.set_forward_done(true);
        runtime.spawn(connection);
        Self { runtime: Rc::clone(runtime), handle, sent: Cell::new(0) }
    }

    /// How many requests were sent so far.
    pub(super) fn sent(&self) -> u32 {
        self.sent.get()
    }

    /// Sends a request that changes something and waits for the acknowledgement.
    pub(in crate::netlink) fn change(&self, message: RouteNetlinkMessage, how: How) -> Result<(), Fault> {
        self.exchange(message, how.flags() | NLM_F_ACK).map(drop)
    }

    /// Like `change`, and asks for the thing as the kernel announces it. Kernels before 6.2 announce nothing.
    pub(super) fn change_echo(
        &self,
        message: RouteNetlinkMessage,
        how: How,
    ) -> Result<Option<RouteNetlinkMessage>, Fault> {
        self.exchange(message, how.flags() | NLM_F_ACK | NLM_F_ECHO).map(|answers| answers.into_iter().next())
    }

    /// Asks for one thing that the kernel shows by announcing it, which it does to the one who asks only on demand.
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

    /// One request and all that comes back for it. An inconsistent dump is `EINTR` unless `tolerant`.
    fn collect(
        &self,
        message: RouteNetlinkMessage,
        flags: u16,
        tolerant: bool,
    ) -> Result<Vec<RouteNetlinkMessage>, Fault> {
        let mut request = NetlinkMessage::from(message);
        request.header.flags = flags;
        self.sent.set(self.sent.get().wrapping_add(1));
        let mut handle = self.handle.clone();
        let mut answers = handle.request(request).map_err(|_closed| Fault::Broken("a closed connection"))?;
        let one = flags & (NLM_F_ACK | NLM_F_DUMP) == 0;
        self.runtime.block_on(async {
            let mut things = Vec::new();
            let mut torn = false;
            loop {
                let Some(answer) = answers.next().await else {
                    return Err(Fault::Broken("a closed connection"));
                };
                torn |= answer.header.flags & NLM_F_DUMP_INTR != 0;
                let explained = answer.header.flags & NLM_F_ACK_TLVS != 0;
                let ended = match answer.payload {
                    NetlinkPayload::InnerMessage(thing) => {
                        things.push(thing);
                        one
                    }
                    NetlinkPayload::Error(error) => refusal(&error, explained).map(|()| true)?,
                    NetlinkPayload::Done(done) if done.code == 0 => true,
                    NetlinkPayload::Done(done) => {
                        return Err(Fault::Refused(Errno::from_raw(done.code.saturating_abs()), None));
                    }
                    NetlinkPayload::Overrun(_) => return Err(Fault::Broken("an overrun")),
                    _ => false,
                };
                if ended {
                    break;
                }
            }
            if torn && !tolerant { Err(Fault::Refused(Errno::EINTR, None)) } else { Ok(things) }
        })
    }
}

/// Turns an error message into the refusal it may be; an acknowledgement has no code.
fn refusal(error: &ErrorMessage, explained: bool) -> Result<(), Fault> {
    let Some(code) = error.code else { return Ok(()) };
    let errno = Errno::from_raw(code.get().saturating_abs());
    let attributes = error.header.get(ECHOED_HEADER..).filter(|_| explained);
    Err(Fault::Refused(errno, attributes.and_then(explanation)))
}

/// `NLMSGERR_ATTR_MSG` among the attributes of an error message.
pub(super) fn explanation(mut attributes: &[u8]) -> Option<String> {
    while let [a, b, c, d, ..] = *attributes {
        let length = usize::from(u16::from_ne_bytes([a, b]));
        let value = attributes.get(4..length)?;
        if u16::from_ne_bytes([c, d]) == ATTR_MSG {
            let text = value.strip_suffix(&[0]).unwrap_or(value);
            return Some(String::from_utf8_lossy(text).into_owned());
        }
        attributes = attributes.get(length.next_multiple_of(4)..)?;
    }
    None
}

impl How {
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
