//! Lines for the host's log. The host bounds their length and number and escapes control characters.

use crate::bindings::weft::policy::log::{Level, write};

/// For debugging the policy.
pub fn debug(message: &str) {
    write(Level::Debug, message);
}

/// Worth knowing.
pub fn info(message: &str) {
    write(Level::Info, message);
}

/// Something is off, but the policy goes on.
pub fn warn(message: &str) {
    write(Level::Warn, message);
}

/// Sends panic messages to the log before the trap they end in: without it a panic is an anonymous `unreachable`.
#[doc(hidden)]
pub fn panics_too() {
    std::panic::set_hook(Box::new(|panic| warn(&panic.to_string())));
}
