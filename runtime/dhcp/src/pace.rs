//! How fast and how long a client sends requests, and its source of jitter.

use crate::Millis;

/// How many quick tries to make at the beginning.
const FAST_TRIES: u32 = 4;
/// Delay between quick tries.
const FAST_DELAY: Millis = 2_000;
/// The first of the doubling delays.
const SLOW_DELAY: Millis = 4_000;
/// Maximum deviation in either direction.
const JITTER: Millis = 1_000;

/// Times of an acquisition, as set by the stock daemon's flags.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    /// How long an accepted offer may stay unconfirmed before the client starts over.
    pub timeout: Millis,
    /// Maximum delay between two tries.
    pub resend_max: Millis,
    /// When the acquisition is abandoned.
    pub resend_timeout: Millis,
}

impl Default for Pace {
    fn default() -> Self {
        Self { timeout: 10_000, resend_max: 62_000, resend_timeout: 208_000 }
    }
}

impl Pace {
    /// Returns how long to wait after try number `tries` (starting at 0): a few quick ones, then
    /// doubling.
    pub(crate) fn delay(&self, tries: u32, jitter: &mut Jitter) -> Millis {
        let base = match tries.checked_sub(FAST_TRIES) {
            None => FAST_DELAY,
            Some(slow) => SLOW_DELAY.saturating_mul(1 << slow.min(20)).min(self.resend_max.max(FAST_DELAY)),
        };
        jitter.jittered(base, JITTER)
    }
}

/// Numbers that differ between clients and need not be secret, for delays and transaction ids.
#[derive(Debug, Clone)]
pub(crate) struct Jitter(u64);

impl Jitter {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// SplitMix64.
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub(crate) fn word(&mut self) -> u32 {
        (self.next() >> 32) as u32
    }

    /// Returns a uniform value between `base - spread` and `base + spread`.
    pub(crate) fn jittered(&mut self, base: Millis, spread: Millis) -> Millis {
        (base.saturating_add(self.next() % (2 * spread + 1))).saturating_sub(spread)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quick_tries_come_first_and_then_delays_double_up_to_the_maximum() {
        let pace = Pace { resend_max: 20_000, ..Pace::default() };
        let mut jitter = Jitter::new(7);
        let delays: Vec<Millis> = (0..9).map(|tries| pace.delay(tries, &mut jitter)).collect();
        for (delay, want) in delays.iter().zip([2_000, 2_000, 2_000, 2_000, 4_000, 8_000, 16_000, 20_000, 20_000_u64]) {
            assert!(delay.abs_diff(want) <= 1_000, "{delays:?}");
        }
    }
}
