//! The socket under the connection: one that knows that the kernel answers at once.
//!
//! Routing netlink works a request off, and queues all answers to it, before `send` returns. So there is nothing to wait
//! for with epoll: after a send the answers are simply read. That halves the system calls per request, and leaves the
//! runtime without an I/O driver to set up.

use std::cell::Cell;
use std::io;
use std::os::fd::AsFd;
use std::task::{Context, Poll};

use bytes::BufMut;
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{AsyncSocket, Socket, SocketAddr};
use nix::libc::MSG_DONTWAIT;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// How long an answer may be late, should a kernel ever queue one after `send`.
const PATIENCE_MILLIS: u16 = 5_000;

/// A netlink socket whose answers are there when `send` returns.
#[derive(Debug)]
pub(in crate::netlink) struct PromptSocket {
    socket: Socket,
    /// Something was sent, and nothing has come back yet.
    owed: Cell<bool>,
}

impl PromptSocket {
    /// Opens one in the calling thread's network namespace, where it stays.
    pub(in crate::netlink) fn open() -> io::Result<Self> {
        let socket = Socket::new(NETLINK_ROUTE)?;
        // Reasons for refusals, without the whole request repeated. Strict checking makes the kernel filter dumps. Kernels
        // before 4.20 lack the latter: dumps are filtered here too.
        socket.set_ext_ack(true)?;
        socket.set_cap_ack(true)?;
        socket.set_netlink_get_strict_chk(true).ok();
        Ok(Self { socket, owed: Cell::new(false) })
    }

    fn sent(&self, cx: &Context<'_>, outcome: io::Result<usize>) -> Poll<io::Result<usize>> {
        self.owed.set(true);
        // The connection reads before it sends: have it come back for the answer.
        cx.waker().wake_by_ref();
        Poll::Ready(outcome)
    }

    fn receive<T>(&self, mut receive: impl FnMut() -> io::Result<T>) -> Poll<io::Result<T>> {
        let mut outcome = receive();
        if self.owed.get() && matches!(&outcome, Err(error) if error.kind() == io::ErrorKind::WouldBlock) {
            let mut readable = [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)];
            outcome = match poll(&mut readable, PollTimeout::from(PATIENCE_MILLIS)) {
                Ok(0) => Err(io::ErrorKind::TimedOut.into()),
                Ok(_) => receive(),
                Err(errno) => Err(errno.into()),
            };
        }
        match outcome {
            // Nothing is owed: the connection is polled again when something was sent.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Poll::Pending,
            outcome => {
                self.owed.set(false);
                Poll::Ready(outcome)
            }
        }
    }
}

impl AsyncSocket for PromptSocket {
    fn socket_ref(&self) -> &Socket {
        &self.socket
    }

    fn socket_mut(&mut self) -> &mut Socket {
        &mut self.socket
    }

    fn new(protocol: isize) -> io::Result<Self> {
        Ok(Self { socket: Socket::new(protocol)?, owed: Cell::new(false) })
    }

    fn poll_send(&self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.sent(cx, self.socket.send(bytes, 0))
    }

    fn poll_send_to(&self, cx: &mut Context<'_>, bytes: &[u8], to: &SocketAddr) -> Poll<io::Result<usize>> {
        self.sent(cx, self.socket.send_to(bytes, to, 0))
    }

    fn poll_recv<B: BufMut>(&self, _cx: &mut Context<'_>, buffer: &mut B) -> Poll<io::Result<()>> {
        self.receive(|| self.socket.recv(buffer, MSG_DONTWAIT).map(drop))
    }

    fn poll_recv_from<B: BufMut>(&self, _cx: &mut Context<'_>, buffer: &mut B) -> Poll<io::Result<SocketAddr>> {
        self.receive(|| self.socket.recv_from(buffer, MSG_DONTWAIT).map(|(_length, from)| from))
    }

    fn poll_recv_from_full(&self, _cx: &mut Context<'_>) -> Poll<io::Result<(Vec<u8>, SocketAddr)>> {
        self.receive(|| {
            let mut nothing = [0; 0];
            self.socket.recv_from(&mut nothing.as_mut_slice(), MSG_DONTWAIT | nix::libc::MSG_PEEK)?;
            self.socket.recv_from_full()
        })
    }
}
