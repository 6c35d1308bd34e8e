//! Talks to a plugin through its pipes: writes its stdin and reads what it prints, without waiting for either for
//! longer than its time.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::process::{Child, ExitStatus};
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// How often to check a plugin that still has all pipes open.
const TICK: Duration = Duration::from_millis(20);

/// Maximum size of a plugin's answer.
pub(super) const ANSWER_LIMIT: usize = 16 << 20;

/// The output of a plugin that succeeded.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Answer {
    /// Its document.
    pub stdout: Vec<u8>,
    /// Lines for the log; empty if they went to our stderr.
    pub stderr: Vec<u8>,
}

/// How the communication with a plugin ended.
pub(crate) enum Ended {
    With(ExitStatus),
    Late,
    TooLarge,
}

/// Writes a program's stdin and reads its output, of which each part has at most `limit` bytes, until it ends or must be
/// killed.
pub(crate) fn talk(
    child: &mut Child,
    stdin: &[u8],
    (answer, limit): (&mut Answer, usize),
    deadline: Instant,
) -> io::Result<Ended> {
    let (mut input, mut output, mut errors) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let pipes = [input.as_ref().map(AsFd::as_fd), output.as_ref().map(AsFd::as_fd), errors.as_ref().map(AsFd::as_fd)];
    for fd in pipes.into_iter().flatten() {
        fcntl(fd, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    }
    let mut left = stdin;
    loop {
        if left.is_empty() {
            input = None;
        }
        if output.is_none() && errors.is_none() {
            // It has closed both, so it is about to end.
            input = None;
        }
        let now = Instant::now();
        if now >= deadline {
            return Ok(Ended::Late);
        }
        wait_for(
            &[
                (input.as_ref().map(AsFd::as_fd), PollFlags::POLLOUT),
                (output.as_ref().map(AsFd::as_fd), PollFlags::POLLIN),
                (errors.as_ref().map(AsFd::as_fd), PollFlags::POLLIN),
            ],
            TICK.min(deadline - now),
        )?;
        if let Some(pipe) = input.as_mut() {
            match pipe.write(left) {
                Ok(length) => left = left.get(length..).unwrap_or_default(),
                Err(error) if is_transient(&error) => {}
                // It does not read all of its stdin.
                Err(_broken) => input = None,
            }
        }
        if drain(output.as_mut(), &mut answer.stdout, limit)? {
            output = None;
        }
        if drain(errors.as_mut(), &mut answer.stderr, limit)? {
            errors = None;
        }
        if too_large(answer, limit) {
            return Ok(Ended::TooLarge);
        }
        if let Some(status) = child.try_wait()? {
            drain(output.as_mut(), &mut answer.stdout, limit)?;
            drain(errors.as_mut(), &mut answer.stderr, limit)?;
            return Ok(if too_large(answer, limit) { Ended::TooLarge } else { Ended::With(status) });
        }
    }
}

/// Waits until one of the pipes is ready, or for one tick.
fn wait_for(pipes: &[(Option<BorrowedFd<'_>>, PollFlags)], tick: Duration) -> io::Result<()> {
    let mut fds: Vec<PollFd<'_>> =
        pipes.iter().filter_map(|(fd, flags)| fd.map(|fd| PollFd::new(fd, *flags))).collect();
    let tick = if fds.is_empty() { Duration::from_millis(1) } else { tick };
    let timeout = PollTimeout::try_from(tick).unwrap_or(PollTimeout::from(20_u8));
    match poll(&mut fds, timeout) {
        Ok(_) | Err(nix::errno::Errno::EINTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Reads the available data. Returns whether the end was reached.
fn drain(pipe: Option<&mut impl Read>, into: &mut Vec<u8>, limit: usize) -> io::Result<bool> {
    let Some(pipe) = pipe else { return Ok(false) };
    let mut piece = [0; 8192];
    loop {
        match pipe.read(&mut piece) {
            Ok(0) => return Ok(true),
            Ok(length) => into.extend(piece.iter().take(length)),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if is_transient(&error) => return Ok(false),
            Err(error) => return Err(error),
        }
        // Endless output must not keep us here.
        if into.len() > limit {
            return Ok(false);
        }
    }
}

fn is_transient(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

fn too_large(answer: &Answer, limit: usize) -> bool {
    answer.stdout.len() > limit || answer.stderr.len() > limit
}
