//! Makes SIGTERM and SIGINT awaitable.

use anyhow::Context as _;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Blocks both signals for this thread and all threads that it starts, and opens a descriptor that reports them.
pub(super) fn block() -> anyhow::Result<SignalFd> {
    let mut set = SigSet::empty();
    set.add(Signal::SIGTERM);
    set.add(Signal::SIGINT);
    set.thread_block().context("cannot block signals")?;
    SignalFd::with_flags(&set, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC).context("cannot open a signalfd")
}

/// Waits for either signal and returns its name.
pub(super) async fn wait(signals: SignalFd) -> anyhow::Result<&'static str> {
    #[expect(unsafe_code, reason = "AsyncFd requires that the descriptor stays open")]
    // SAFETY: a `SignalFd` owns its descriptor, always names the same one, and is moved in here, so it outlives the
    // registration.
    let ready = unsafe { AsyncFd::register_with_interest(signals, Interest::READABLE) };
    let ready = ready.context("cannot wait for signals")?;
    loop {
        let mut guard = ready.readable().await.context("cannot wait for signals")?;
        match ready.get_ref().read_signal().context("cannot read signals")? {
            Some(info) => {
                let number = i32::try_from(info.ssi_signo).unwrap_or_default();
                return Ok(Signal::try_from(number).map_or("a signal", Signal::as_str));
            }
            None => guard.clear_ready(),
        }
    }
}
