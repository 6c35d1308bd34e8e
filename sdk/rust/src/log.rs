//! Lines for the host's log. The host limits their length and number and escapes control characters. In unit tests on
//! the host, the lines are kept for `testing::logged`.

/// Logs a line for debugging the policy.
pub fn debug(message: &str) {
    imp::write(imp::Level::Debug, message);
}

/// Logs useful information.
pub fn info(message: &str) {
    imp::write(imp::Level::Info, message);
}

/// Logs something unusual that the policy can handle.
pub fn warn(message: &str) {
    imp::write(imp::Level::Warn, message);
}

/// Sends panic messages to the log before the resulting trap: otherwise, a panic is an anonymous `unreachable`.
#[doc(hidden)]
pub fn log_panics() {
    std::panic::set_hook(Box::new(|panic| warn(&panic.to_string())));
}

#[cfg(target_family = "wasm")]
mod imp {
    pub(super) use crate::bindings::weft::policy::log::{Level, write};
}

/// There is no host from which to import: the last lines of this thread are kept.
#[cfg(not(target_family = "wasm"))]
pub(crate) mod imp {
    use std::cell::RefCell;
    use std::collections::VecDeque;

    pub(super) use crate::bindings::weft::policy::log::Level;

    /// The host's limit.
    const LINES: usize = 64;

    thread_local! {
        static LOG: RefCell<VecDeque<String>> = const { RefCell::new(VecDeque::new()) };
    }

    pub(super) fn write(level: Level, message: &str) {
        let level = match level {
            Level::Debug => "debug",
            Level::Info => "info",
            Level::Warn => "warn",
        };
        LOG.with_borrow_mut(|log| {
            if log.len() == LINES {
                log.pop_front();
            }
            log.push_back(format!("{level}: {message}"));
        });
    }

    #[cfg(any(test, feature = "testing"))]
    pub(crate) fn take() -> Vec<String> {
        LOG.with_borrow_mut(|log| log.drain(..).collect())
    }
}
