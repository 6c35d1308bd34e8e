//! Unix sockets with one deadline for everything: connecting, and every read and write.
//!
//! A timeout of a socket limits each call, so a peer that sends one byte at a time would never exceed it. And
//! connecting has no timeout at all: it waits as long as the listener's queue is full.

use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::{SocketAddr, UnixStream};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::socket::{self, AddressFamily, SockFlag, SockType, UnixAddr, setsockopt, sockopt};
use nix::sys::time::TimeVal;

/// A socket that is read and written until a deadline.
#[derive(Debug)]
pub(crate) struct DeadlineStream<'s> {
    pub(crate) socket: &'s UnixStream,
    pub(crate) deadline: Instant,
}

/// Connects to a socket.
pub(crate) fn connect(address: &SocketAddr, deadline: Instant) -> io::Result<UnixStream> {
    let address = match (address.as_pathname(), abstract_name(address)) {
        (Some(path), _) => UnixAddr::new(path)?,
        (None, Some(name)) => UnixAddr::new_abstract(name)?,
        (None, None) => return Err(ErrorKind::InvalidInput.into()),
    };
    let stream: OwnedFd = socket::socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    loop {
        let left = time_left(deadline)?;
        let seconds = i64::try_from(left.as_secs()).unwrap_or(i64::MAX);
        setsockopt(&stream, sockopt::SendTimeout, &TimeVal::new(seconds, i64::from(left.subsec_micros())))?;
        match socket::connect(stream.as_raw_fd(), &address) {
            Ok(()) => return Ok(stream.into()),
            // A full queue, or a signal: the time left decides.
            Err(Errno::EAGAIN | Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

fn abstract_name(address: &SocketAddr) -> Option<&[u8]> {
    std::os::linux::net::SocketAddrExt::as_abstract_name(address)
}

/// Returns whether a read, a write or a connection failed because there was no time left.
pub(crate) fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
}

/// Returns the time left, at least the shortest that a socket can be given.
fn time_left(deadline: Instant) -> io::Result<Duration> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() { Err(ErrorKind::TimedOut.into()) } else { Ok(left.max(Duration::from_micros(1))) }
}

// === impl Until ===

impl Read for DeadlineStream<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.socket.set_read_timeout(Some(time_left(self.deadline)?))?;
        self.socket.read(buffer)
    }
}

impl Write for DeadlineStream<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.socket.set_write_timeout(Some(time_left(self.deadline)?))?;
        self.socket.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use std::os::unix::net::UnixListener;

    use super::*;

    fn short_deadline() -> Instant {
        Instant::now() + Duration::from_millis(300)
    }

    #[test]
    fn a_peer_that_sends_a_byte_at_a_time_does_not_extend_the_deadline() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let trickle = std::thread::spawn(move || {
            for byte in *b"12345678" {
                std::thread::sleep(Duration::from_millis(100));
                // The reader may have given up.
                theirs.write_all(&[byte]).ok();
            }
        });
        // Longer than a byte takes, shorter than eight do.
        let error = DeadlineStream { socket: &ours, deadline: short_deadline() }.read_exact(&mut [0; 8]).unwrap_err();
        assert!(is_timeout(&error), "{error}");
        trickle.join().unwrap();
    }

    #[test]
    fn a_peer_that_reads_nothing_does_not_either() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let error =
            DeadlineStream { socket: &ours, deadline: short_deadline() }.write_all(&vec![0; 16 << 20]).unwrap_err();
        assert!(is_timeout(&error), "{error}");
    }

    #[test]
    fn a_listener_with_a_full_queue_is_not_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let listener = UnixListener::bind(&path).unwrap();
        // A queue of one, and nobody accepts.
        socket::listen(&listener, socket::Backlog::new(0).unwrap()).unwrap();
        let address = SocketAddr::from_pathname(&path).unwrap();
        let mut waiting = Vec::new();
        let error = loop {
            match connect(&address, short_deadline()) {
                Ok(stream) => waiting.push(stream),
                Err(error) => break error,
            }
        };
        assert!(is_timeout(&error) && !waiting.is_empty(), "{error}");
        drop(listener);
        let error = connect(&address, short_deadline()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
    }
}
