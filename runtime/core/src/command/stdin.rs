//! Reads stdin with a time limit: a runtime that never closes it must not block weft, and with it the runtime's locks,
//! for ever.

use std::io::{self, Read};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::read;

/// Time limit for all of stdin. A runtime has the configuration at hand when it starts a plugin.
const PATIENCE: Duration = Duration::from_secs(10);

/// The process's stdin, without a buffer of its own. Reading fails with `TimedOut` after the time limit.
#[derive(Debug, Default)]
pub(super) struct Stdin {
    deadline: Option<Instant>,
}

impl Read for Stdin {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let deadline = *self.deadline.get_or_insert_with(|| Instant::now() + PATIENCE);
        let stdin = io::stdin();
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
            let mut fds = [PollFd::new(stdin.as_fd(), PollFlags::POLLIN)];
            match poll(&mut fds, timeout) {
                Ok(0) => {
                    let text = format!("nothing more came within {} seconds", PATIENCE.as_secs());
                    return Err(io::Error::new(io::ErrorKind::TimedOut, text));
                }
                Ok(_ready) => match read(stdin.as_fd(), buffer) {
                    Err(Errno::EINTR) => {}
                    outcome => return Ok(outcome?),
                },
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }
}
