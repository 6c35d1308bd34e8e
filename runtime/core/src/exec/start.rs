//! Starts a program, without waiting longer than a deadline for the file system that has it.
//!
//! Finding a file and executing it may never end: the kernel waits for a server that does not answer, and nothing
//! interrupts that. So a thread does both. If it is late, it is left behind, and kills what it has started after
//! all. If this process has ended by then, nobody writes the program's input, which is empty: a plugin refuses that.

use std::io;
use std::process::{Child, Command};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use super::end::{GRACE, kill};

/// Runs a job on a thread and waits for it until a deadline; `None` if it takes longer. What it returns too late goes
/// to `late`.
pub(crate) fn by_deadline<T: Send + 'static>(
    deadline: Instant,
    job: impl FnOnce() -> T + Send + 'static,
    late: impl FnOnce(T) + Send + 'static,
) -> io::Result<Option<T>> {
    // Nothing is buffered: what nobody takes comes back.
    let (report, reported) = mpsc::sync_channel(0);
    let work = move || {
        if let Err(unwanted) = report.send(job()) {
            late(unwanted.0);
        }
    };
    thread::Builder::new().name("start".to_owned()).spawn(work)?;
    match reported.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
        Ok(done) => Ok(Some(done)),
        Err(RecvTimeoutError::Timeout) => Ok(None),
        Err(RecvTimeoutError::Disconnected) => Err(io::Error::other("the thread that starts programs has ended")),
    }
}

/// Starts the program of a command, which a closure makes; `None` if that takes too long.
///
/// # Errors
/// Those of the closure; the program cannot be started.
pub(crate) fn start_by<E: From<io::Error> + Send + 'static>(
    deadline: Instant,
    make: impl FnOnce() -> Result<Command, E> + Send + 'static,
) -> Result<Option<Child>, E> {
    let job = move || spawn(&mut make()?, deadline).map_err(E::from);
    let late = |started: Result<Child, E>| {
        if let Ok(child) = started {
            kill(child, GRACE);
        }
    };
    by_deadline(deadline, job, late)?.transpose()
}

/// A binary that is being replaced cannot be executed for a moment ("text file busy"); like the reference runtime,
/// waits.
fn spawn(command: &mut Command, deadline: Instant) -> io::Result<Child> {
    const TRIES: u32 = 20;
    const PAUSE: Duration = Duration::from_millis(100);
    for _ in 0..TRIES {
        match command.spawn() {
            Err(error) if error.kind() == io::ErrorKind::ExecutableFileBusy && Instant::now() + PAUSE < deadline => {
                thread::sleep(PAUSE);
            }
            other => return other,
        }
    }
    command.spawn()
}
