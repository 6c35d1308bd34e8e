//! The socket itself: bytes out, datagrams of answers in.
//!
//! Routing netlink works a request off, and queues all answers to it, before `send` returns. So there is nothing to wait
//! for with epoll, and nothing for another task to do meanwhile: after a send the answers are simply read. A call makes a
//! dozen requests; an event loop around them took as long as the kernel did.

use std::io;
use std::os::fd::AsFd;

use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};
use nix::errno::Errno;
use nix::libc::MSG_DONTWAIT;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::netlink::error::Fault;

/// How long an answer may be late, should a kernel ever queue one after `send`.
const PATIENCE_MILLIS: u16 = 5_000;

/// More than any one datagram the kernel sends here: it cuts dumps at 32 KiB.
pub(super) const BUFFER: usize = 64 << 10;

/// A routing netlink socket. Stays in the network namespace it was opened in.
#[derive(Debug)]
pub(in crate::netlink) struct RouteSocket {
    socket: Socket,
}

impl RouteSocket {
    /// Opens one in the calling thread's network namespace.
    pub(in crate::netlink) fn open() -> io::Result<Self> {
        let socket = Socket::new(NETLINK_ROUTE)?;
        // Reasons for refusals, without the whole request repeated. Strict checking makes the kernel filter dumps. Kernels
        // before 4.20 lack the latter: dumps are filtered here too.
        socket.set_ext_ack(true)?;
        socket.set_cap_ack(true)?;
        socket.set_netlink_get_strict_chk(true).ok();
        Ok(Self { socket })
    }

    /// Sends one datagram to the kernel, which works it off before this returns.
    pub(super) fn send(&self, bytes: &[u8]) -> Result<(), Fault> {
        let sent = self.socket.send_to(bytes, &SocketAddr::new(0, 0), 0).map_err(|error| fault(&error))?;
        if sent == bytes.len() { Ok(()) } else { Err(Fault::Broken("a short write")) }
    }

    /// Reads one datagram into an empty buffer of [`BUFFER`] bytes.
    pub(super) fn receive(&self, buffer: &mut Vec<u8>) -> Result<(), Fault> {
        buffer.clear();
        let mut received = self.socket.recv(buffer, MSG_DONTWAIT);
        if matches!(&received, Err(error) if error.kind() == io::ErrorKind::WouldBlock) {
            self.wait()?;
            received = self.socket.recv(buffer, MSG_DONTWAIT);
        }
        match received {
            Ok(_length) => Ok(()),
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
