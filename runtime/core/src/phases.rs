//! How long this process spends in each part of a call, for metrics. One process serves one call, so the sums are
//! global; work of several threads adds up.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// A part of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Waiting for a policy to be loaded, and for its answer.
    Policy,
    /// Claiming addresses: the node's ledger, or the agent and a cluster's ledger.
    Claim,
    /// Changing links, addresses, routes and the packet filter.
    Links,
    /// Waiting for other vendors' plugins.
    Plugins,
}

impl Phase {
    /// All phases, in the order of [`taken`].
    pub(crate) const ALL: [Self; 4] = [Self::Policy, Self::Claim, Self::Links, Self::Plugins];

    /// Returns its name in metrics.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Policy => "policy",
            Self::Claim => "claim",
            Self::Links => "links",
            Self::Plugins => "plugins",
        }
    }
}

/// Microseconds per phase.
static SPENT: [AtomicU64; 4] = [const { AtomicU64::new(0) }; 4];

/// Does some work and adds its time to a phase.
pub(crate) fn timed<T>(phase: Phase, work: impl FnOnce() -> T) -> T {
    let began = Instant::now();
    let done = work();
    let micros = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
    for (spent, _own) in SPENT.iter().zip(Phase::ALL).filter(|(_spent, own)| *own == phase) {
        spent.fetch_add(micros, Ordering::Relaxed);
    }
    done
}

/// Returns the time in each phase since the last call of this function.
pub(crate) fn taken() -> [Duration; 4] {
    SPENT.each_ref().map(|spent| Duration::from_micros(spent.swap(0, Ordering::Relaxed)))
}
