//! What a program can only do below Rust's runtime: detect that it was started without stdout, and print a last message
//! when a signal ends it.
//!
//! Invariant: the handler only uses constants and one flag, and makes only system calls that
//! [signal-safety(7)](https://man7.org/linux/man-pages/man7/signal-safety.7.html) lists.

#![expect(unsafe_code, reason = "signal handlers and code before main are; SAFETY is argued at each")]

use std::sync::atomic::{AtomicBool, Ordering};

/// Rust's runtime opens /dev/null in place of a closed stdout, so this is checked before it starts.
static STDOUT_CLOSED: AtomicBool = AtomicBool::new(false);

/// Whether the document was printed, or is being printed.
static PRINTED: AtomicBool = AtomicBool::new(false);

extern "C" fn look_at_stdout() {
    // SAFETY: asks about a descriptor, open or not.
    let flags = unsafe { libc::fcntl(1, libc::F_GETFD) };
    STDOUT_CLOSED.store(flags == -1, Ordering::Relaxed);
}

#[used]
#[unsafe(link_section = ".init_array")]
// SAFETY: the C library calls each pointer of this section once before `main`, on the only thread. The function does
// not need Rust's runtime.
static BEFORE_MAIN: extern "C" fn() = look_at_stdout;

/// Returns whether the process was started with stdout closed, in which case a result would be lost.
pub(crate) fn is_stdout_closed() -> bool {
    STDOUT_CLOSED.load(Ordering::Relaxed)
}

/// From here on the process prints its document itself.
pub(crate) fn before_print() {
    PRINTED.store(true, Ordering::Relaxed);
}

const OUT_OF_MEMORY: &[u8] =
    b"{\n    \"code\": 5,\n    \"msg\": \"weft was ended by SIGABRT, most likely because the node has no memory left; \
    DEL cleans up what this call left\"\n}";
const FAULT: &[u8] = b"{\n    \"code\": 999,\n    \"msg\": \"weft was ended by a memory fault: please report it; \
    DEL cleans up what this call left\"\n}";

extern "C" fn last_word(signal: libc::c_int) {
    if !PRINTED.swap(true, Ordering::Relaxed) {
        let text = if signal == libc::SIGABRT { OUT_OF_MEMORY } else { FAULT };
        // SAFETY: write(2) on a constant; a failure has no consequences.
        unsafe { libc::write(1, text.as_ptr().cast(), text.len()) };
    }
    // SAFETY: both are async-signal-safe. With the default action the signal ends the process when the handler returns,
    // or when the failed instruction is executed again.
    unsafe {
        libc::signal(signal, libc::SIG_DFL);
        libc::raise(signal);
    }
}

/// Installs the handler for faults that end the process. Rust's runtime has allocated a stack for handlers by now.
pub(crate) fn install() {
    for signal in [libc::SIGSEGV, libc::SIGBUS, libc::SIGILL, libc::SIGFPE, libc::SIGABRT] {
        // SAFETY: all zeroes is a valid sigaction: no flags, no signals blocked.
        let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
        action.sa_sigaction = last_word as extern "C" fn(libc::c_int) as usize;
        action.sa_flags = libc::SA_ONSTACK;
        // SAFETY: the action is valid, and the handler is safe to run at any instruction (see the module).
        unsafe { libc::sigaction(signal, &raw const action, std::ptr::null_mut()) };
    }
}
