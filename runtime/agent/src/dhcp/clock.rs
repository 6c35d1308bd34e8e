//! The clock of leases: time since boot, including sleep. It restarts with every boot, and so do the users of leases.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::time::{ClockId, clock_gettime};
use weft_dhcp::Millis;

/// Returns the current time.
pub(super) fn now() -> Millis {
    // The clock exists since Linux 2.6.39.
    let Ok(time) = clock_gettime(ClockId::CLOCK_BOOTTIME) else { return 0 };
    u64::try_from(Duration::from(time).as_millis()).unwrap_or(Millis::MAX)
}

/// Converts a time of this clock to seconds since 1970, for people and for programs that read the store.
pub(super) fn wall(at: Millis) -> u64 {
    let now_wall = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let now = now();
    if at >= now { now_wall.saturating_add((at - now) / 1_000) } else { now_wall.saturating_sub((now - at) / 1_000) }
}

/// Returns a number that differs between moments and processes; it need not be secret.
pub(super) fn seed() -> u64 {
    let nanos = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos());
    let bits = u64::try_from(nanos & u128::from(u64::MAX)).unwrap_or_default();
    bits ^ (u64::from(std::process::id()) << 40)
}
