//! Well-behaved and misbehaving workers, each started by a process with a single thread, as a worker's parent must be.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, unsafe_code, reason = "tests")]

use std::io::{Read, Write};

use nix::sys::wait::{WaitStatus, waitpid};

use super::*;
use crate::exec::{left, reap};
use weft_host_abi::guest::LogLevel;

/// Runs a check in a copy of this process, which has a single thread; a panic of the check fails the test.
fn run_in_fork(check: impl FnOnce()) {
    let (mut said, say) = std::io::pipe().unwrap();
    // SAFETY: the copy has a single thread. The check needs no lock that another thread may have held: the C library
    // makes its own usable in the copy, and nothing is printed.
    match unsafe { fork() }.unwrap() {
        ForkResult::Child => {
            std::panic::set_hook(Box::new(move |info| {
                (&say).write_all(info.to_string().as_bytes()).ok();
            }));
            let passed = catch_unwind(AssertUnwindSafe(check)).is_ok();
            // SAFETY: takes a number.
            unsafe { libc::_exit(i32::from(!passed)) }
        }
        ForkResult::Parent { child } => {
            drop(say);
            let mut text = String::new();
            said.read_to_string(&mut text).unwrap();
            assert_eq!(waitpid(child, None).unwrap(), WaitStatus::Exited(child, 0), "{text}");
        }
    }
}

/// No file has this identity.
const NONE: (u64, u64) = (0, 0);

/// Limits short enough for a test that waits for them.
fn limits() -> Limits {
    Limits { fuel: 1, deadline: Duration::from_millis(10), calls: 8, ..Limits::default() }
}

fn evidence() -> Evidence {
    let log = vec![LogLine { level: LogLevel::Info, text: "a\u{1b}b".to_owned() }; 1000];
    Evidence { fuel: u64::MAX, memory: usize::MAX, calls: u32::MAX, log, ledger: Exchanges::default() }
}

/// A ledger with one taken address.
struct One;

impl LedgerView for One {
    fn claimed_by(&self, _address: IpAddr) -> Result<Option<ClaimInfo>, String> {
        Err("the disk is on fire".to_owned())
    }

    fn next_free(&self, _range: &Range, from: IpAddr) -> Result<Option<IpAddr>, String> {
        Ok(Some(from))
    }

    fn usage(&self, _range: &Range) -> Result<Usage, String> {
        Ok(Usage { size: 254, taken: 1 })
    }

    fn last_claimed(&self, _range: &Range) -> Result<Option<LastClaim>, String> {
        Ok(None)
    }

    fn held_by(&self, _owner: &str) -> Result<Vec<ClaimInfo>, String> {
        Ok(Vec::new())
    }
}

fn range() -> Range {
    let address = |text: &str| text.parse().unwrap();
    Range {
        subnet: "10.0.0.0/24".parse().unwrap(),
        first: address("10.0.0.1"),
        last: address("10.0.0.254"),
        gateway: None,
    }
}

fn asked() -> Asked {
    Asked::new(Box::new(One), None)
}

#[test]
fn a_worker_asks_and_answers() {
    run_in_fork(|| {
        let run = |asked: Asked| {
            let ledger = asked.ledger;
            let from: IpAddr = "10.0.0.9".parse().unwrap();
            let free = ledger.next_free(&range(), from).unwrap();
            let usage = ledger.usage(&range()).unwrap();
            let held = ledger.held_by("x").unwrap();
            let fault = ledger.claimed_by(from).unwrap_err();
            (Ok((free, usage, held, fault)), Evidence::default())
        };
        let (value, evidence) = call(asked(), &Limits::default(), NONE, run);
        let (free, usage, held, fault) = value.unwrap();
        assert_eq!((free, usage.taken, held.len()), (Some("10.0.0.9".parse().unwrap()), 1, 0));
        assert_eq!(fault, "the disk is on fire");
        assert_eq!(evidence.ledger.recorded.len(), 3, "what is recorded is what was answered here");
    });
}

#[test]
fn what_a_worker_says_of_itself_is_bounded() {
    run_in_fork(|| {
        let (value, evidence) = call(asked(), &limits(), NONE, |_asked| (Ok(1), evidence()));
        assert_eq!((value, evidence.fuel, evidence.calls), (Ok(1), 1, 9));
        assert_eq!(evidence.log.len(), limits().log_lines + 1);
        assert!(!evidence.log[0].text.contains('\u{1b}'), "{:?}", evidence.log[0]);
        let loud = Ending::Trap { what: "\u{1b}".repeat(9), said: None, source: "line\n".repeat(1000) };
        let (value, _evidence) = call::<()>(asked(), &limits(), NONE, |_asked| (Err(loud), Evidence::default()));
        let Err(Ending::Trap { what, source, .. }) = value else { panic!("{value:?}") };
        assert!(!what.contains('\u{1b}') && source.lines().count() < 100, "{what} {source}");
    });
}

/// The body of a worker.
type Work = fn(Asked) -> (Result<u8, Ending>, Evidence);

#[test]
fn a_worker_that_fails_is_an_error_and_is_gone() {
    let cases: [(Work, &str); 5] = [
        (|_asked| end(0), "without an answer"),
        (|_asked| std::process::abort(), "SIGABRT"),
        (|_asked| panic!("in the worker"), "without an answer"),
        (
            |_asked| loop {
                std::hint::spin_loop()
            },
            "does not answer",
        ),
        (
            |asked| {
                say_nonsense();
                drop(asked);
                end(0)
            },
            "its answer is malformed",
        ),
    ];
    for (run, words) in cases {
        run_in_fork(|| {
            let (value, _evidence) = call(asked(), &limits(), NONE, run);
            let Err(Ending::Worker(what)) = value else { panic!("{value:?}") };
            assert!(what.contains(words), "{what}");
            assert_eq!(waitpid(None, None), Err(Errno::ECHILD), "nothing is left of it");
        });
    }
}

#[test]
fn a_worker_that_answers_a_byte_at_a_time_is_ended() {
    run_in_fork(|| {
        let (socket, mut theirs) = UnixStream::pair().unwrap();
        let mut frame = Vec::new();
        let done = WorkerMessage::Done { value: Ok(1_u8), fuel: 0, memory: 0, calls: 0, log: Vec::new() };
        write_frame(&mut frame, &done).unwrap();
        // SAFETY: this process has one thread.
        let pid = match unsafe { fork() }.unwrap() {
            ForkResult::Child => {
                for byte in frame {
                    std::thread::sleep(Duration::from_millis(100));
                    theirs.write_all(&[byte]).ok();
                }
                end(0)
            }
            ForkResult::Parent { child } => child,
        };
        // The answer is one, but it takes longer than this waits.
        let (value, _evidence) = Worker { pid, socket, ledger: Box::new(One) }.answer::<u8>(&limits());
        let Err(Ending::Worker(what)) = value else { panic!("{value:?}") };
        assert!(what.contains("does not answer"), "{what}");
    });
}

#[test]
fn a_worker_that_asks_for_ever_is_ended() {
    run_in_fork(|| {
        let run = |asked: Asked| {
            let ledger = asked.ledger;
            while ledger.usage(&range()).is_ok() {}
            (Ok(()), Evidence::default())
        };
        let (value, evidence) = call(asked(), &limits(), NONE, run);
        assert_eq!((value, evidence.ledger.recorded.len()), (Err(Ending::Calls), 8));
    });
}

#[test]
fn a_worker_has_nothing_of_its_parent() {
    run_in_fork(|| {
        let file = std::fs::File::open("/etc/passwd").unwrap();
        let copies: Vec<OwnedFd> = (0..64).map(|_| file.try_clone().unwrap().into()).collect();
        // Shared memory, as SQLite uses it. SAFETY: a new mapping of one page.
        let page = unsafe {
            let flags = libc::MAP_SHARED | libc::MAP_ANONYMOUS;
            libc::mmap(std::ptr::null_mut(), 4096, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0)
        };
        let run = move |_asked: Asked| {
            let mut byte = [0_u8];
            // Other tests may have many files open. SAFETY: reads into a byte of ours.
            let open = (0..10_000).filter(|fd| unsafe { libc::read(*fd, byte.as_mut_ptr().cast(), 0) } == 0).count();
            // SAFETY: the address may be invalid; the kernel checks it.
            let mapped = unsafe { libc::syscall(libc::SYS_madvise, page, 4096, libc::MADV_NORMAL) } == 0;
            (Ok((open, mapped)), Evidence::default())
        };
        let (value, _evidence) = call(asked(), &Limits::default(), NONE, run);
        assert_eq!(value, Ok((1, false)), "its socket alone");
        drop(copies);
    });
}

#[test]
fn a_process_of_several_threads_makes_no_worker() {
    run_in_fork(|| {
        let (stop, wait) = std::sync::mpsc::channel::<()>();
        let thread = std::thread::spawn(move || wait.recv());
        let (value, _evidence) = call(asked(), &limits(), NONE, |_asked| (Ok(1), Evidence::default()));
        let Err(Ending::Engine(what)) = value else { panic!("{value:?}") };
        assert!(what.contains("1 threads do not end"), "{what}");
        drop(stop);
        thread.join().unwrap().unwrap_err();
        let (value, _evidence) = call(asked(), &limits(), NONE, |_asked| (Ok(1), Evidence::default()));
        assert_eq!(value, Ok(1));
    });
}

fn end(code: i32) -> ! {
    // SAFETY: takes a number.
    unsafe { libc::_exit(code) }
}

/// Writes what is no frame to whatever is open.
fn say_nonsense() {
    for fd in 0..1024 {
        // SAFETY: writes from a constant; what is not open refuses.
        unsafe { libc::write(fd, b"\x04\0\0\0nope".as_ptr().cast(), 8) };
    }
}

#[test]
#[ignore = "needs root, for a PID namespace"]
fn a_worker_that_cannot_end_is_left_and_reaped_later() {
    run_in_fork(|| {
        let sleeper = || {
            // SAFETY: this process has one thread, and the copy makes one system call.
            match unsafe { fork() }.unwrap() {
                ForkResult::Child => loop {
                    nix::unistd::pause();
                },
                ForkResult::Parent { child } => child,
            }
        };
        // The first process of a PID namespace cannot end before its other processes are reaped.
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWPID).unwrap();
        let (pid, other) = (sleeper(), sleeper());
        let (socket, _theirs) = UnixStream::pair().unwrap();
        let how = Worker { pid, socket, ledger: Box::new(One) }.end();
        assert!(how.contains("does not end"), "{how}");
        assert_eq!(*left(), [pid]);
        waitpid(other, None).unwrap();
        while !left().is_empty() {
            reap();
            std::thread::sleep(Duration::from_millis(1));
        }
        assert_eq!(waitpid(None, None), Err(Errno::ECHILD), "it was reaped");
    });
}
