//! The clocks of this node. Ages of rows follow its clock when it is set (`NodeStore::follow_clock`).

use std::cell::RefCell;
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};
use weft_core::ledger::remote::Clock;
use weft_core::store::{NodeStore, StoreError};

use super::now;

/// What a look at the clocks shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Passed {
    /// By how many seconds the node's clock was set.
    pub(super) set: i64,
    /// How long ago this process looked last.
    pub(super) since: Duration,
}

/// This process's looks at the clocks.
#[derive(Debug, Default)]
pub(super) struct Clocks(Option<Clock>);

impl Clocks {
    /// Looks at both clocks, and moves the times of rows if the node's clock was set.
    pub(super) fn look(&mut self, store: &RefCell<NodeStore>) -> Result<Passed, StoreError> {
        self.look_at(store, Clock { now: now(), uptime: uptime() })
    }

    fn look_at(&mut self, store: &RefCell<NodeStore>, clock: Clock) -> Result<Passed, StoreError> {
        let set = store.borrow_mut().follow_clock(self.0, clock)?;
        let since = self.0.map_or(Duration::ZERO, |last| clock.uptime.saturating_sub(last.uptime));
        // Many small steps are as much as a large one.
        self.0 = Some(self.0.filter(|_last| set == 0).map_or(clock, |last| last.later(clock.uptime)));
        Ok(Passed { set, since })
    }
}

/// Returns the time since the boot, with the time in which the node slept.
fn uptime() -> Duration {
    clock_gettime(ClockId::CLOCK_BOOTTIME).map_or(Duration::ZERO, Duration::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_small_steps_are_one_large_one() {
        let dir = tempfile::tempdir().unwrap();
        let store = RefCell::new(NodeStore::open(dir.path(), "boot-1").unwrap());
        let mut clocks = Clocks::default();
        let mut set = Vec::new();
        for step in 0..5 {
            let clock = Clock { now: 1000 + 2 * step, uptime: Duration::from_secs(10 + step) };
            set.push(clocks.look_at(&store, clock).unwrap().set);
        }
        assert_eq!(set, [0, 0, 2, 0, 2]);
    }

    #[test]
    fn parts_of_seconds_do_not_add_up() {
        let dir = tempfile::tempdir().unwrap();
        let store = RefCell::new(NodeStore::open(dir.path(), "boot-1").unwrap());
        let mut clocks = Clocks::default();
        for look in 0..200 {
            let passed = Duration::from_millis(1900 * look);
            let clock = Clock { now: 1000 + (passed + Duration::from_millis(700)).as_secs(), uptime: passed };
            assert_eq!(clocks.look_at(&store, clock).unwrap().set, 0, "look {look}");
        }
    }
}
