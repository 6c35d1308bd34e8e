//! Pauses between tries: they double up to a limit, with jitter, so that agents that failed together do not retry
//! together.

use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::time::Duration;

/// The pauses of one retried action.
#[derive(Debug)]
pub(crate) struct Pause {
    next: Duration,
    most: Duration,
}

impl Pause {
    pub(crate) fn new(first: Duration, most: Duration) -> Self {
        Self { next: first, most }
    }

    /// Returns the next pause: between half and all of the value without jitter.
    pub(crate) fn next(&mut self) -> Duration {
        let whole = self.next;
        self.next = (whole * 2).min(self.most);
        jittered(whole)
    }
}

/// Returns between half and all of a time, so that many agents do not act together.
pub(crate) fn jittered(whole: Duration) -> Duration {
    whole.mul_f64(0.5 + fraction() / 2.0)
}

/// Returns a number from 0 to 1. The standard library's hashers have random keys.
#[expect(clippy::cast_precision_loss, reason = "jitter")]
fn fraction() -> f64 {
    RandomState::new().build_hasher().finish() as f64 / u64::MAX as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_a_limit_and_differ() {
        let mut pause = Pause::new(Duration::from_millis(100), Duration::from_secs(1));
        let pauses: Vec<Duration> = (0..20).map(|_| pause.next()).collect();
        assert!(pauses[0] >= Duration::from_millis(50) && pauses[0] <= Duration::from_millis(100));
        assert!(
            pauses[4..].iter().all(|pause| *pause >= Duration::from_millis(500) && *pause <= Duration::from_secs(1))
        );
        assert!(pauses[4..].windows(2).any(|pair| pair[0] != pair[1]));
    }
}
