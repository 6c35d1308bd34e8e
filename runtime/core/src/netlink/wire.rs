//! A netlink socket without an event loop: bytes out, datagrams of answers in, and what all kinds of answers have in common.
//!
//! The kernel works a request off, and queues all answers to it, before `send` returns. So there is nothing to wait for
//! with epoll, and nothing for another task to do meanwhile: after a send the answers are simply read. A call makes a dozen
//! requests; an event loop around them took as long as the kernel did.

use std::io;
use std::os::fd::AsFd;

use netlink_packet_core::NLM_F_ACK_TLVS;
use netlink_sys::protocols::{NETLINK_NETFILTER, NETLINK_ROUTE};
use netlink_sys::{Socket, SocketAddr};
use nix::errno::Errno;
use nix::libc::MSG_DONTWAIT;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::error::Fault;

/// How long an answer may be late, should a kernel ever queue one after `send`.
const PATIENCE_MILLIS: u16 = 5_000;

/// More than any one datagram the kernel sends: it cuts dumps at 32 KiB.
const BUFFER: usize = 64 << 10;

/// Kinds of messages that end the answers to a request.
pub(super) const NLMSG_ERROR: u16 = 2;
pub(super) const NLMSG_DONE: u16 = 3;

const HEADER: usize = 16;

/// `NLMSGERR_ATTR_MSG`: the explanation, a C string.
const ATTR_MSG: u16 = 1;

/// A netlink socket. Stays in the network namespace it was opened in.
#[derive(Debug)]
pub(super) struct Wire {
    socket: Socket,
}

/// One message that came back, taken apart as far as every kind has it.
pub(super) struct Answer<'a> {
    pub(super) sequence: u32,
    pub(super) kind: u16,
    flags: u16,
    pub(super) whole: &'a [u8],
}

/// A refusal: its number, and the kernel's own explanation where it has one.
pub(super) type Refusal = (Errno, Option<String>);

// === impl Wire ===

impl Wire {
    /// Opens a routing netlink socket in the calling thread's network namespace.
    pub(super) fn route() -> io::Result<Self> {
        let wire = Self::open(NETLINK_ROUTE)?;
        // Makes the kernel filter dumps. Kernels before 4.20 lack it: dumps are filtered here too.
        wire.socket.set_netlink_get_strict_chk(true).ok();
        Ok(wire)
    }

    /// Opens a netfilter netlink socket in the calling thread's network namespace.
    ///
    /// Closing it waits for what the kernel still has to clear away of earlier transactions, anybody's.
    pub(super) fn netfilter() -> io::Result<Self> {
        Self::open(NETLINK_NETFILTER)
    }

    fn open(protocol: isize) -> io::Result<Self> {
        let socket = Socket::new(protocol)?;
        // Reasons for refusals, without the whole request repeated.
        socket.set_ext_ack(true)?;
        socket.set_cap_ack(true)?;
        Ok(Self { socket })
    }

    /// Sends one datagram to the kernel, which works it off before this returns.
    pub(super) fn send(&self, bytes: &[u8]) -> Result<(), Fault> {
        let sent = self.socket.send_to(bytes, &SocketAddr::new(0, 0), 0).map_err(|error| fault(&error))?;
        if sent == bytes.len() { Ok(()) } else { Err(Fault::Broken("a short write")) }
    }

    /// Reads one datagram. The buffer may be used again and again.
    pub(super) fn receive<'a>(&self, buffer: &'a mut Vec<u8>) -> Result<Answers<'a>, Fault> {
        buffer.clear();
        buffer.reserve(BUFFER);
        let mut received = self.socket.recv(buffer, MSG_DONTWAIT);
        if matches!(&received, Err(error) if error.kind() == io::ErrorKind::WouldBlock) {
            self.wait()?;
            received = self.socket.recv(buffer, MSG_DONTWAIT);
        }
        match received {
            Ok(_length) => Ok(Answers { rest: buffer }),
            Err(error) if error.raw_os_error() == Some(nix::libc::ENOBUFS) => Err(Fault::Broken("an overrun")),
            Err(error) => Err(fault(&error)),
        }
    }

    fn wait(&self) -> Result<(), Fault> {
        loop {
            let mut readable = [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)];
            match poll(&mut readable, PollTimeout::from(PATIENCE_MILLIS)) {
                Ok(0) => return Err(Fault::Broken("no answer")),
                Ok(_) => return Ok(()),
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(Fault::Refused(errno, None)),
            }
        }
    }
}

fn fault(error: &io::Error) -> Fault {
    Fault::Refused(error.raw_os_error().map_or(Errno::EIO, Errno::from_raw), None)
}

// === impl Answers ===

/// The messages of one datagram.
pub(super) struct Answers<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Answers<'a> {
    type Item = Result<Answer<'a>, Fault>;

    fn next(&mut self) -> Option<Self::Item> {
        let &[a, b, c, d, e, f, g, h, i, j, k, l, ..] = self.rest else { return None };
        let length = u32::from_ne_bytes([a, b, c, d]) as usize;
        let Some(whole) = self.rest.get(..length).filter(|_| length >= HEADER) else {
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

// === impl Answer ===

impl Answer<'_> {
    pub(super) fn has(&self, flag: u16) -> bool {
        self.flags & flag != 0
    }

    /// The refusal it is; `None` for acknowledgements, ends of dumps where all is well, and everything else.
    pub(super) fn refusal(&self) -> Result<Option<Refusal>, Fault> {
        if !matches!(self.kind, NLMSG_ERROR | NLMSG_DONE) {
            return Ok(None);
        }
        // Both start with a code, which is zero where all is well.
        let Some(&[a, b, c, d]) = self.whole.get(HEADER..HEADER + 4) else {
            return Err(Fault::Broken("a cut-off answer"));
        };
        let code = i32::from_ne_bytes([a, b, c, d]);
        if code == 0 {
            return Ok(None);
        }
        // An error repeats the header of the request before it explains.
        let explained = self.kind == NLMSG_ERROR && self.has(NLM_F_ACK_TLVS);
        let attributes = self.whole.get(HEADER + 4 + HEADER..).filter(|_| explained);
        Ok(Some((Errno::from_raw(code.saturating_abs()), attributes.and_then(explanation))))
    }

    /// `refusal` as an error.
    pub(super) fn verdict(&self) -> Result<(), Fault> {
        match self.refusal()? {
            None => Ok(()),
            Some((errno, hint)) => Err(Fault::Refused(errno, hint)),
        }
    }
}

/// `NLMSGERR_ATTR_MSG` among the attributes of an error message.
fn explanation(mut attributes: &[u8]) -> Option<String> {
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
