//! The clock of leases: since boot, sleep included. It starts anew with every boot, and so does everything a lease is for.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::time::{ClockId, clock_gettime};
use weft_dhcp::Millis;

/// Now.
pub(super) fn now() -> Millis {
    // The clock has been there since Linux 2.6.39.
    let Ok(time) = clock_gettime(ClockId::CLOCK_BOOTTIME) else { return 0 };
    u64::try_from(Duration::from(time).as_millis()).unwrap_or(Millis::MAX)
}

/// Seconds since 1970 at a time of the clock of leases: for people, and for programs that read the store.
pub(super) fn wall(at: Millis) -> u64 {
    let now_wall = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let now = now();
    if at >= now { now_wall.saturating_add((at - now) / 1_000) } else { now_wall.saturating_sub((now - at) / 1_000) }
}

/// A number that differs from one moment and process to the next; it need not be secret.
pub(super) fn seed() -> u64 {
    let nanos = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos());
    let bits = u64::try_from(nanos & u128::from(u64::MAX)).unwrap_or_default();
    bits ^ (u64::from(std::process::id()) << 40)
}
