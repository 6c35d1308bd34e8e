//! A call in its own process, so that a fault of the engine does not affect a process of root. The worker is a copy of
//! this process that gives up everything (`confine.rs`), calls the policy, and answers over a socket. The ledger is not
//! copied; the worker forwards the policy's queries.
//!
//! ```text
//!  this process                                worker
//!   fork ------------------------------------>  close everything, confine, call
//!   <- question / answer ->                      ledger view
//!   <- Done{value or Ending, cost, log}          ends
//! ```
//! Invariants: the process forks while it has a single thread, so that no other thread's lock remains locked in the
//! copy. The worker keeps only its socket and the policy's code as descriptors, and no memory shared with this process.
//! It never returns into the caller's code. Its messages are bounded, counted and sanitised here, because the policy
//! may have written them. It has ended when `call` returns, unless the kernel does not let it end.

mod frame;

use std::fs::File;
use std::io::ErrorKind;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::libc;
use nix::sys::signal::{Signal, kill};
use nix::unistd::{ForkResult, Pid, fork, getpid};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use weft_host_abi::types::{ClaimInfo, LastClaim, LedgerView, Pod, Range, Usage};

use self::frame::{read_frame, write_frame};
use super::ctx::Asked;
use super::ended::Ending;
use super::{Evidence, Exchange, Exchanges, Limits, LogLine};
use crate::deadline::DeadlineStream;
use crate::exec::{Fate, GRACE, wait_for_end};
use crate::policy::confine::{Work, confine};
use crate::text::clean;

/// Bytes of a frame in addition to the policy's data.
const FRAME_OVERHEAD: usize = 64 << 10;

/// Units of fuel that the slowest machine executes per second.
const FUEL_PER_SECOND: u64 = 20_000_000;

/// How long to wait for other threads of this process to end.
const PATIENCE: Duration = Duration::from_secs(5);

/// A message from a worker.
#[derive(Debug, Serialize, Deserialize)]
enum WorkerMessage<T> {
    Ask(Question),
    Done { value: Result<T, Ending>, fuel: u64, memory: usize, calls: u32, log: Vec<LogLine> },
}

/// A ledger query.
#[derive(Debug, Serialize, Deserialize)]
enum Question {
    ClaimedBy(IpAddr),
    NextFree(Range, IpAddr),
    Usage(Range),
    LastClaimed(Range),
    HeldBy(String),
}

/// Makes a call in a worker, which executes `run`. `code` is the file (device and inode) with the policy's compiled
/// code. The engine maps it again for each instance, so the worker keeps it open for reading.
pub(super) fn call<T: Serialize + DeserializeOwned>(
    asked: Asked,
    limits: &Limits,
    code: (u64, u64),
    run: impl FnOnce(Asked) -> (Result<T, Ending>, Evidence),
) -> (Result<T, Ending>, Evidence) {
    match start(asked, code, run) {
        Ok(worker) => worker.answer(limits),
        Err(what) => (Err(Ending::Engine(what)), Evidence::default()),
    }
}

/// A running worker.
struct Worker {
    pid: Pid,
    socket: UnixStream,
    ledger: Box<dyn LedgerView + Send>,
}

#[expect(unsafe_code, reason = "a copy of a process can be made in no other way")]
fn start<T: Serialize>(
    asked: Asked,
    code: (u64, u64),
    run: impl FnOnce(Asked) -> (Result<T, Ending>, Evidence),
) -> Result<Worker, String> {
    let cannot = |error: std::io::Error| format!("cannot start its worker: {error}");
    let (socket, theirs) = UnixStream::pair().map_err(cannot)?;
    let parent = getpid();
    wait_until_alone()?;
    // SAFETY: after the wait above, this thread is the only one of its process, and only it could start another. So no
    // other thread holds a lock in the copy, and this thread holds none: memory can be allocated, and the whole library
    // can be used. The copy ends in `work`, without returning to a caller whose objects (the store among them) do not
    // belong to it.
    match unsafe { fork() }.map_err(|errno| cannot(errno.into()))? {
        ForkResult::Parent { child } => Ok(Worker { pid: child, socket, ledger: asked.ledger }),
        ForkResult::Child => work(OwnedFd::from(theirs).into(), code, (parent, asked.pod), run),
    }
}

/// Waits for the end of helper threads whose work is done.
fn wait_until_alone() -> Result<(), String> {
    let began = Instant::now();
    loop {
        // The directory has an entry for each thread, counted as a link in addition to the usual two.
        match std::fs::metadata("/proc/self/task").map(|tasks| tasks.nlink()) {
            Ok(3) => return Ok(()),
            Ok(_more) if began.elapsed() < PATIENCE => std::thread::sleep(Duration::from_micros(20)),
            Ok(more) => return Err(format!("cannot start its worker: {} threads do not end", more.saturating_sub(3))),
            Err(error) => return Err(format!("cannot start its worker: cannot count threads: {error}")),
        }
    }
}

/// Runs the worker.
#[expect(unsafe_code, reason = "exits without running destructors")]
fn work<T: Serialize>(
    socket: File,
    code: (u64, u64),
    (parent, pod): (Pid, Option<Pod>),
    run: impl FnOnce(Asked) -> (Result<T, Ending>, Evidence),
) -> ! {
    // As a file, it is read and written with calls that the filter allows.
    let socket = Arc::new(socket);
    let body = || {
        let confined = close_inherited_resources(socket.as_raw_fd(), code)
            .and_then(|()| confine(Work::Run, parent).map_err(|cause| cause.0));
        let (value, evidence) = match confined {
            Ok(()) => run(Asked::new(Box::new(FarLedger(socket.clone())), pod.as_ref())),
            Err(what) => (Err(Ending::Engine(format!("its worker is not safe: {what}"))), Evidence::default()),
        };
        let Evidence { fuel, memory, calls, log, ledger: _ } = evidence;
        // If nobody reads it, nobody waits for it.
        write_frame(socket.as_ref(), &WorkerMessage::Done { value, fuel, memory, calls, log }).ok();
    };
    // The waiting process sees the socket close.
    catch_unwind(AssertUnwindSafe(body)).ok();
    // SAFETY: takes a number and does not return. Destructors and handlers of the copied process must not run here.
    unsafe { libc::_exit(0) }
}

/// Closes all descriptors except the worker's socket and the policy's code, and unmaps memory shared with the original
/// process: above all the ledger's index, to which the copy could write.
fn close_inherited_resources(socket: RawFd, code: (u64, u64)) -> Result<(), String> {
    let cannot = |what: &'static str| move |error: std::io::Error| format!("cannot {what}: {error}");
    for (start, length) in shared_memory().map_err(cannot("tell what memory is shared"))? {
        unmap(start, length).map_err(|errno| format!("cannot unmap shared memory: {errno}"))?;
    }
    let mut kept = code_files(code).map_err(cannot("tell what is open"))?;
    kept.push(u32::try_from(socket).map_err(|_negative| "no socket".to_owned())?);
    kept.sort_unstable();
    let mut next = 0;
    for fd in kept {
        if next < fd {
            close_range(next, fd - 1).map_err(|errno| format!("cannot close what is open: {errno}"))?;
        }
        next = fd.saturating_add(1);
    }
    close_range(next, u32::MAX).map_err(|errno| format!("cannot close what is open: {errno}"))
}

/// Returns descriptors of the policy's code that are open only for reading.
fn code_files(code: (u64, u64)) -> std::io::Result<Vec<u32>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir("/proc/self/fd")? {
        let entry = entry?;
        let Some(fd) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        // The link's own mode shows how it is open. Skip descriptors closed meanwhile (the directory's).
        let Ok(link) = entry.metadata() else { continue };
        let is_code = std::fs::metadata(entry.path()).is_ok_and(|file| (file.dev(), file.ino()) == code);
        if is_code && link.mode() & 0o200 == 0 {
            files.push(fd);
        }
    }
    Ok(files)
}

/// Returns start and length of each shared mapping.
fn shared_memory() -> std::io::Result<Vec<(usize, usize)>> {
    let maps = std::fs::read("/proc/self/maps")?;
    let odd = || std::io::Error::from(ErrorKind::InvalidData);
    let mut shared = Vec::new();
    // Each line begins like this: 7f0000000000-7f0000008000 rw-s
    for line in maps.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        let mut words = line.split(|byte| *byte == b' ');
        let (addresses, rights) = (words.next().ok_or_else(odd)?, words.next().ok_or_else(odd)?);
        if rights.last() != Some(&b's') {
            continue;
        }
        let text = std::str::from_utf8(addresses).map_err(|_not_ascii| odd())?;
        let (start, end) = text.split_once('-').ok_or_else(odd)?;
        let number = |text: &str| usize::from_str_radix(text, 16).map_err(|_no_number| odd());
        let (start, end) = (number(start)?, number(end)?);
        shared.push((start, end.checked_sub(start).ok_or_else(odd)?));
    }
    Ok(shared)
}

#[expect(unsafe_code, reason = "unmaps memory that other code in this process may point to")]
fn unmap(start: usize, length: usize) -> Result<(), Errno> {
    // SAFETY: shared mappings here are SQLite's (its index and its file). The worker never uses the store again: its
    // only ledger is `FarLedger`, it drops nothing of the caller's, and it ends in `_exit`. Code and data of the
    // program and of policies are mapped privately.
    Errno::result(unsafe { libc::munmap(std::ptr::without_provenance_mut(start), length) }).map(drop)
}

#[expect(unsafe_code, reason = "closes descriptors that other code in this process owns")]
fn close_range(first: u32, last: u32) -> Result<(), Errno> {
    // SAFETY: takes three numbers. As above, owners of the descriptors are not used again.
    let closed = Errno::result(unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) });
    match closed {
        // Before Linux 5.9: close each possible descriptor.
        Err(Errno::ENOSYS) => {
            let (most, _hard) = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE)?;
            let end = last.min(u32::try_from(most).unwrap_or(u32::MAX));
            for fd in first..=end {
                // SAFETY: as above. Closing an unused number has no effect.
                unsafe { libc::close(i32::try_from(fd).unwrap_or(-1)) };
            }
            Ok(())
        }
        closed => closed.map(drop),
    }
}

/// The worker's ledger, which asks the original process.
struct FarLedger(Arc<File>);

impl FarLedger {
    fn ask<T>(&self, question: Question, answer: impl FnOnce(Exchange) -> Option<T>) -> Result<T, String> {
        let cannot = |error: std::io::Error| format!("the worker cannot ask: {error}");
        write_frame(self.0.as_ref(), &WorkerMessage::<()>::Ask(question)).map_err(cannot)?;
        let answered: Result<Exchange, String> = read_frame(self.0.as_ref(), usize::MAX).map_err(cannot)?;
        answer(answered?).ok_or_else(|| "an answer to another question".to_owned())
    }
}

impl LedgerView for FarLedger {
    fn claimed_by(&self, address: IpAddr) -> Result<Option<ClaimInfo>, String> {
        self.ask(Question::ClaimedBy(address), |exchange| match exchange {
            Exchange::ClaimedBy { answer, .. } => Some(answer),
            _ => None,
        })
    }

    fn next_free(&self, range: &Range, from: IpAddr) -> Result<Option<IpAddr>, String> {
        self.ask(Question::NextFree(range.clone(), from), |exchange| match exchange {
            Exchange::NextFree { answer, .. } => Some(answer),
            _ => None,
        })
    }

    fn usage(&self, range: &Range) -> Result<Usage, String> {
        self.ask(Question::Usage(range.clone()), |exchange| match exchange {
            Exchange::Usage { answer, .. } => Some(answer),
            _ => None,
        })
    }

    fn last_claimed(&self, range: &Range) -> Result<Option<LastClaim>, String> {
        self.ask(Question::LastClaimed(range.clone()), |exchange| match exchange {
            Exchange::LastClaimed { answer, .. } => Some(answer),
            _ => None,
        })
    }

    fn held_by(&self, owner: &str) -> Result<Vec<ClaimInfo>, String> {
        self.ask(Question::HeldBy(owner.to_owned()), |exchange| match exchange {
            Exchange::HeldBy { answer, .. } => Some(answer),
            _ => None,
        })
    }
}

// === impl Question ===

impl Question {
    fn put_to(self, ledger: &dyn LedgerView) -> Result<Exchange, String> {
        Ok(match self {
            Self::ClaimedBy(address) => Exchange::ClaimedBy { answer: ledger.claimed_by(address)?, address },
            Self::NextFree(range, from) => Exchange::NextFree { answer: ledger.next_free(&range, from)?, range, from },
            Self::Usage(range) => Exchange::Usage { answer: ledger.usage(&range)?, range },
            Self::LastClaimed(range) => Exchange::LastClaimed { answer: ledger.last_claimed(&range)?, range },
            Self::HeldBy(owner) => Exchange::HeldBy { answer: ledger.held_by(&owner)?, owner },
        })
    }
}

// === impl Worker ===

impl Worker {
    /// Answers the worker's queries until it is done, and ends it.
    fn answer<T: DeserializeOwned>(self, limits: &Limits) -> (Result<T, Ending>, Evidence) {
        // The worker itself enforces fuel and deadline; this limit is for a worker that is out of control.
        let patience = limits.deadline + Duration::from_secs(2 + limits.fuel / FUEL_PER_SECOND);
        let mut exchanges = Exchanges::default();
        let served = self.serve(limits, Instant::now() + patience, &mut exchanges);
        let status = self.end();
        let evidence = |fuel, memory, calls, log| Evidence { fuel, memory, calls, log, ledger: exchanges };
        match served {
            Ok(WorkerMessage::Done { value, fuel, memory, calls, log }) => {
                let value = value.map_err(|ending| ending.cleaned(limits));
                let memory = memory.min(limits.memory.saturating_mul(limits.memories));
                (
                    value,
                    evidence(
                        fuel.min(limits.fuel),
                        memory,
                        calls.min(limits.calls.saturating_add(1)),
                        tidy(log, limits),
                    ),
                )
            }
            Ok(WorkerMessage::Ask(_)) => (Err(Ending::Calls), evidence(0, 0, limits.calls, Vec::new())),
            Err(what) => (Err(Ending::Worker(format!("{what}{status}"))), evidence(0, 0, 0, Vec::new())),
        }
    }

    /// Returns the worker's last message: the outcome of the call, or a query beyond the limit.
    fn serve<T: DeserializeOwned>(
        &self,
        limits: &Limits,
        deadline: Instant,
        exchanges: &mut Exchanges,
    ) -> Result<WorkerMessage<T>, String> {
        let most = limits.call_bytes.saturating_mul(6).saturating_add(FRAME_OVERHEAD);
        let describe = |error: std::io::Error| match error.kind() {
            ErrorKind::WouldBlock | ErrorKind::TimedOut => "it does not answer".to_owned(),
            ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => {
                "it ended without an answer".to_owned()
            }
            _ => format!("its answer is malformed ({})", clean(&error.to_string(), limits.text_bytes)),
        };
        for asked in 0_u32.. {
            let mut socket = DeadlineStream { socket: &self.socket, deadline };
            let question = match read_frame(&mut socket, most).map_err(describe)? {
                WorkerMessage::Ask(question) if asked < limits.calls => question,
                last => return Ok(last),
            };
            let answer = question.put_to(self.ledger.as_ref());
            write_frame(&mut socket, &answer).map_err(describe)?;
            if let Ok(exchange) = answer {
                exchanges.record(exchange);
            }
        }
        Err("it exceeded the number of questions".to_owned())
    }

    /// Ends the worker if it is still running. Returns how it ended, if that is worth reporting.
    fn end(&self) -> String {
        kill(self.pid, Signal::SIGKILL).ok();
        match wait_for_end(self.pid, GRACE) {
            (Fate::Unended, _) => " (it does not end: it waits inside the kernel)".to_owned(),
            (Fate::Ended, Some(signal)) if signal != Signal::SIGKILL => format!(" ({signal})"),
            (Fate::Ended, _) => String::new(),
        }
    }
}

/// Makes a log from another process displayable.
fn tidy(log: Vec<LogLine>, limits: &Limits) -> Vec<LogLine> {
    let lines = log.into_iter().take(limits.log_lines.saturating_add(1));
    lines.map(|line| LogLine { text: clean(&line.text, limits.text_bytes), ..line }).collect()
}

#[cfg(test)]
mod tests;
