//! A netlink socket without an event loop: sends bytes, receives datagrams, and parses the common part of all answers.
//!
//! The kernel executes a request, and queues all answers to it, before `send` returns. So there is nothing to wait for
//! with epoll, and no other task to run meanwhile: the answers are simply read after a send. A call makes a dozen
//! requests; an event loop took as long as the kernel.

use std::io;
use std::os::fd::AsFd;

use netlink_packet_core::{ErrorBuffer, NLM_F_ACK_TLVS, NetlinkBuffer, NlasIterator};
pub(super) use netlink_packet_core::{NLMSG_DONE, NLMSG_ERROR};
use netlink_sys::protocols::{NETLINK_NETFILTER, NETLINK_ROUTE};
use netlink_sys::{Socket, SocketAddr};
use nix::errno::Errno;
use nix::libc::MSG_DONTWAIT;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{getsockopt, setsockopt, sockopt};

use super::fault::Fault;

/// Time limit for an answer, in case a kernel queues one after `send`.
const PATIENCE_MILLIS: u16 = 5_000;

/// Larger than any datagram from the kernel: it splits dumps at 32 KiB.
const BUFFER: usize = 64 << 10;

/// Length of a message header, and of the request that an error repeats before its explanation.
const HEADER: usize = 16;

/// The problem with an answer that ends too early.
const CUT_OFF: &str = "a cut-off answer";

/// `NLMSGERR_ATTR_MSG`: the explanation, a C string.
const ATTR_MSG: u16 = 1;

/// A netlink socket. Stays in the network namespace in which it was opened.
#[derive(Debug)]
pub(super) struct Wire {
    socket: Socket,
}

/// A received message, parsed as far as all kinds are alike.
pub(super) struct Answer<'a> {
    pub(super) sequence: u32,
    pub(super) kind: u16,
    flags: u16,
    pub(super) whole: &'a [u8],
}

/// A refusal: its errno, and the kernel's explanation if there is one.
pub(super) type Refusal = (Errno, Option<String>);

// === impl Wire ===

impl Wire {
    /// Opens a routing netlink socket in the calling thread's network namespace.
    pub(super) fn route() -> io::Result<Self> {
        let wire = Self::open(NETLINK_ROUTE)?;
        // Makes the kernel filter dumps. Kernels before 4.20 cannot; dumps are also filtered here.
        wire.socket.set_netlink_get_strict_chk(true).ok();
        Ok(wire)
    }

    /// Opens a netfilter netlink socket in the calling thread's network namespace.
    ///
    /// Closing it waits until the kernel has freed the objects of earlier transactions, including those of others.
    pub(super) fn netfilter() -> io::Result<Self> {
        Self::open(NETLINK_NETFILTER)
    }

    fn open(protocol: isize) -> io::Result<Self> {
        let socket = Socket::new(protocol)?;
        // Request explanations of refusals, without a copy of the request.
        socket.set_ext_ack(true)?;
        socket.set_cap_ack(true)?;
        Ok(Self { socket })
    }

    /// Enlarges the receive buffer as requested, or up to the system's limit, and returns its size. The kernel doubles
    /// the requested value, and charges more than its length for each message (`SO_RCVBUF` in socket(7)).
    pub(super) fn enlarge(&self, bytes: usize) -> usize {
        let now = || getsockopt(&self.socket, sockopt::RcvBuf).unwrap_or_default();
        if now() < bytes {
            let half = bytes / 2;
            // Exceeding the system's limit is only possible in the first user namespace.
            setsockopt(&self.socket, sockopt::RcvBufForce, &half)
                .or_else(|_refused| setsockopt(&self.socket, sockopt::RcvBuf, &half))
                .ok();
        }
        now()
    }

    /// Discards all queued answers.
    pub(super) fn drain(&self) {
        let mut buffer: Vec<u8> = Vec::with_capacity(BUFFER);
        // An overrun is reported once, before the messages that were already queued.
        let mut overruns = 0;
        while overruns < 2 {
            buffer.clear();
            match self.socket.recv(&mut buffer, MSG_DONTWAIT) {
                Ok(_length) => {}
                Err(error) if error.raw_os_error() == Some(nix::libc::ENOBUFS) => overruns += 1,
                Err(_empty) => return,
            }
        }
    }

    /// Sends one datagram, which the kernel executes before this returns.
    pub(super) fn send(&self, bytes: &[u8]) -> Result<(), Fault> {
        let sent = self.socket.send_to(bytes, &SocketAddr::new(0, 0), 0).map_err(|error| fault(&error))?;
        if sent == bytes.len() { Ok(()) } else { Err(Fault::Broken("a short write")) }
    }

    /// Reads one datagram. The buffer can be reused.
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
            Err(error) if error.raw_os_error() == Some(nix::libc::ENOBUFS) => Err(Fault::Lost),
            Err(error) => Err(fault(&error)),
        }
    }

    fn wait(&self) -> Result<(), Fault> {
        loop {
            let mut readable = [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)];
            match poll(&mut readable, PollTimeout::from(PATIENCE_MILLIS)) {
                Ok(0) => return Err(Fault::Lost),
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
        let rest = std::mem::take(&mut self.rest);
        if rest.is_empty() {
            return None;
        }
        let Ok(message) = NetlinkBuffer::new_checked(rest) else { return Some(Err(Fault::Broken(CUT_OFF))) };
        let length = message.length() as usize;
        self.rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(Ok(Answer {
            kind: message.message_type(),
            flags: message.flags(),
            sequence: message.sequence_number(),
            whole: rest.get(..length).unwrap_or(rest),
        }))
    }
}

// === impl Answer ===

impl Answer<'_> {
    pub(super) fn has(&self, flag: u16) -> bool {
        self.flags & flag != 0
    }

    /// Returns the refusal, if it is one; `None` for acknowledgements, normal ends of dumps, and everything else.
    pub(super) fn refusal(&self) -> Result<Option<Refusal>, Fault> {
        if !matches!(self.kind, NLMSG_ERROR | NLMSG_DONE) {
            return Ok(None);
        }
        // Both start with a code, which is zero on success.
        let body = self.whole.get(HEADER..).and_then(|body| ErrorBuffer::new_checked(body).ok());
        let body = body.ok_or(Fault::Broken(CUT_OFF))?;
        let Some(code) = body.code() else { return Ok(None) };
        let explained = self.kind == NLMSG_ERROR && self.has(NLM_F_ACK_TLVS);
        let attributes = body.payload().get(HEADER..).filter(|_| explained);
        Ok(Some((Errno::from_raw(code.get().saturating_abs()), attributes.and_then(explanation))))
    }

    /// Returns `refusal` as an error.
    pub(super) fn verdict(&self) -> Result<(), Fault> {
        match self.refusal()? {
            None => Ok(()),
            Some((errno, hint)) => Err(Fault::Refused(errno, hint)),
        }
    }
}

/// Returns `NLMSGERR_ATTR_MSG` among the attributes of an error message.
fn explanation(attributes: &[u8]) -> Option<String> {
    let message = NlasIterator::new(attributes).map_while(Result::ok).find(|attribute| attribute.kind() == ATTR_MSG)?;
    let text = message.value();
    Some(String::from_utf8_lossy(text.strip_suffix(&[0]).unwrap_or(text)).into_owned())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use proptest::prelude::*;

    use super::*;

    fn ending(kind: u16, code: i32, flags: u16, attributes: &[u8]) -> Vec<u8> {
        let length = u32::try_from(36 + attributes.len()).unwrap();
        let mut bytes = length.to_ne_bytes().to_vec();
        bytes.extend([kind.to_ne_bytes(), flags.to_ne_bytes()].concat());
        bytes.extend([7, 0, 0, 0, 0, 0, 0, 0]);
        bytes.extend(code.to_ne_bytes());
        bytes.extend([0; HEADER]);
        bytes.extend(attributes);
        bytes
    }

    fn refusals(bytes: &[u8]) -> Vec<Option<Refusal>> {
        Answers { rest: bytes }.map(|answer| answer.unwrap().refusal().unwrap()).collect()
    }

    #[test]
    fn refusals_and_acknowledgements() {
        let text = [9, 0, 1, 0, b'w', b'h', b'y', b'!', 0, 0, 0, 0];
        let bytes = [
            ending(NLMSG_ERROR, 0, 0, &[]),
            ending(NLMSG_ERROR, -2, 0, &[]),
            ending(NLMSG_ERROR, -17, NLM_F_ACK_TLVS, &text),
            ending(NLMSG_ERROR, -1, 0, &text),
            ending(NLMSG_DONE, 0, 0, &[]),
            ending(NLMSG_DONE, -4, NLM_F_ACK_TLVS, &text),
        ];
        let wanted = [
            None,
            Some((Errno::ENOENT, None)),
            Some((Errno::EEXIST, Some("why!".to_owned()))),
            Some((Errno::EPERM, None)),
            None,
            Some((Errno::EINTR, None)),
        ];
        assert_eq!(refusals(&bytes.concat()), wanted);
    }

    #[test]
    fn truncated_datagrams_are_errors() {
        let whole = ending(NLMSG_ERROR, 0, 0, &[]);
        for length in 1..whole.len() {
            let answers: Vec<_> = Answers { rest: &whole[..length] }.collect();
            assert!(matches!(answers[..], [Err(Fault::Broken(_))]), "{length} bytes");
        }
        let mut short = whole;
        short.truncate(HEADER);
        short[0] = 16;
        assert!(Answers { rest: &short }.next().unwrap().unwrap().refusal().is_err());
    }

    proptest! {
        /// Any input is parsed or refused, and its end is reached.
        #[test]
        fn any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            for answer in (Answers { rest: &bytes }) {
                let Ok(answer) = answer else { break };
                answer.verdict().ok();
            }
            explanation(&bytes);
        }

        /// The same for inputs that look like error messages.
        #[test]
        fn any_error(code: i32, flags: u16, attributes in prop::collection::vec(any::<u8>(), 0..40)) {
            let bytes = ending(NLMSG_ERROR, code, flags, &attributes);
            let answers: Vec<_> = Answers { rest: &bytes }.map(|answer| answer.unwrap().refusal().unwrap()).collect();
            assert_eq!(answers.len(), 1);
            assert_eq!(answers[0].is_none(), code == 0);
        }
    }
}
