//! `doubt`: detects from a ledger's answers that it was restored from a backup.
//!
//! Every answer carries a revision of the whole ledger, which only grows. An answer belongs to another history if its
//! revision is lower than one seen before the request, or far higher than writes could explain (`etcdutl snapshot
//! restore --bump-revision`). etcd also returns the id of the cluster and the term of its leader.
//!
//! Invariant: a doubt remains until `accept` says that the ledger is frozen.

use std::cell::RefCell;
use std::time::{Duration, Instant};

use weft_core::ledger::remote::Seen;

/// A larger step cannot come from writes.
const JUMP: u64 = 100_000_000;
/// Nobody writes `JUMP` times within this time. After a longer absence, a jump may come from others' writes.
const AWAY: Duration = Duration::from_secs(3600);

/// The position of an answer in its history. 0 means unknown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Position {
    /// The revision.
    pub revision: u64,
    /// Id of the etcd cluster.
    pub cluster: u64,
    /// Term of its leader.
    pub term: u64,
    /// Whether the revision is that of a write made by this request.
    pub wrote: bool,
}

/// What was known when a request was sent. Answers may arrive in another order.
#[derive(Debug, Clone, Copy)]
pub struct Mark {
    round: u64,
    known: Option<Known>,
}

/// What was seen, and when by this process's own clock: the node's clock may be set at any time.
#[derive(Debug, Clone, Copy)]
struct Known {
    seen: Seen,
    /// How long ago it was seen when this process began to know it.
    away: Duration,
    since: Instant,
}

impl Known {
    /// Returns how long ago it was seen.
    fn age(&self, at: Instant) -> Duration {
        self.away + at.saturating_duration_since(self.since)
    }
}

/// What this client has seen of a ledger's history.
#[derive(Debug, Default)]
pub struct History(RefCell<Inner>);

#[derive(Debug, Default)]
struct Inner {
    known: Option<Known>,
    doubt: Option<String>,
    /// Whether a request was left unanswered since the last `mend`.
    broken: bool,
    /// Incremented by every `accept`.
    round: u64,
}

impl History {
    /// Continues from what an earlier process has seen. Only here does the node's clock count: nothing else says how long
    /// no process has looked.
    pub fn resume(&self, seen: Option<Seen>, now: u64) {
        let known =
            |seen: Seen| Known { seen, away: Duration::from_secs(now.saturating_sub(seen.at)), since: Instant::now() };
        self.0.borrow_mut().known = seen.map(known);
    }

    /// Returns what is known now, before a request is sent.
    pub fn mark(&self) -> Mark {
        let inner = self.0.borrow();
        Mark { round: inner.round, known: inner.known }
    }

    /// Compares an answer with what was known when its request was sent.
    pub fn answered(&self, mark: Mark, at: Position, now: u64) {
        self.answered_at(mark, at, (now, Instant::now()));
    }

    fn answered_at(&self, mark: Mark, at: Position, (now, instant): (u64, Instant)) {
        let mut inner = self.0.borrow_mut();
        // An answer from before a doubt was settled: its grant is dropped with all intents.
        if mark.round != inner.round || inner.doubt.is_some() || at.revision == 0 {
            return;
        }
        if let Some(why) = mark.known.and_then(|known| contradiction(&known.seen, at, known.age(instant))) {
            inner.doubt = Some(why);
            return;
        }
        let seen = inner.known.map(|known| known.seen).unwrap_or_default();
        if at.revision >= seen.revision {
            let cluster = if at.cluster == 0 { seen.cluster } else { at.cluster };
            let term = seen.term.max(at.term);
            let seen = Seen { revision: at.revision, at: now, cluster, term, epoch: seen.epoch };
            inner.known = Some(Known { seen, away: Duration::ZERO, since: instant });
        }
    }

    /// Records an unanswered request: the ledger has to be checked for a restore.
    pub fn failed(&self) {
        self.0.borrow_mut().broken = true;
    }

    /// Returns whether a request was left unanswered since `mend`.
    pub fn is_broken(&self) -> bool {
        self.0.borrow().broken
    }

    /// Records that the ledger is being checked.
    pub fn mark_checked(&self) {
        self.0.borrow_mut().broken = false;
    }

    /// Records other evidence that the ledger went back.
    pub fn suspect(&self, why: String) {
        self.0.borrow_mut().doubt.get_or_insert(why);
    }

    /// Returns why this may be another history.
    pub fn doubt(&self) -> Option<String> {
        self.0.borrow().doubt.clone()
    }

    /// Accepts this history from now on, because the ledger is frozen.
    pub fn accept(&self) {
        let mut inner = self.0.borrow_mut();
        *inner = Inner { known: None, doubt: None, broken: inner.broken, round: inner.round + 1 };
    }

    /// Records an epoch, and returns everything seen.
    pub fn observe_epoch(&self, epoch: u64) -> Seen {
        let mut inner = self.0.borrow_mut();
        let unknown = || Known { seen: Seen::default(), away: Duration::ZERO, since: Instant::now() };
        let known = inner.known.get_or_insert_with(unknown);
        known.seen.epoch = epoch;
        known.seen
    }

    /// Returns the last epoch seen.
    pub fn epoch(&self) -> u64 {
        self.0.borrow().known.map_or(0, |known| known.seen.epoch)
    }
}

/// Returns why an answer contradicts the history that was seen `age` ago.
fn contradiction(seen: &Seen, at: Position, age: Duration) -> Option<String> {
    let differs = |a: u64, b: u64| a != 0 && b != 0 && a != b;
    // A write is later than everything seen before it.
    let least = seen.revision + u64::from(at.wrote && seen.revision > 0);
    if at.revision < least {
        return Some(format!("its revision went back from {} to {}", seen.revision, at.revision));
    }
    if differs(seen.cluster, at.cluster) {
        return Some(format!("it is etcd cluster {:x}, and was {:x}", at.cluster, seen.cluster));
    }
    if at.term != 0 && at.term < seen.term {
        return Some(format!("the term of its leader went back from {} to {}", seen.term, at.term));
    }
    let is_jump = seen.revision > 0 && at.revision - seen.revision > JUMP;
    if is_jump && age <= AWAY {
        return Some(format!("its revision jumped from {} to {}", seen.revision, at.revision));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(revision: u64) -> Position {
        Position { revision, ..Position::default() }
    }

    fn write(revision: u64) -> Position {
        Position { wrote: true, ..read(revision) }
    }

    /// Returns a history that was seen up to revision 100.
    fn at_100() -> History {
        let history = History::default();
        history.answered(history.mark(), Position { cluster: 7, term: 3, ..read(100) }, 1000);
        history
    }

    #[test]
    fn a_history_that_goes_on_is_not_doubted() {
        let history = at_100();
        for position in [read(100), write(101), read(101), Position { cluster: 7, term: 3, ..write(200) }] {
            history.answered(history.mark(), position, 1001);
            assert_eq!(history.doubt(), None, "{position:?}");
        }
        assert_eq!(history.observe_epoch(2), Seen { revision: 200, at: 1001, cluster: 7, term: 3, epoch: 2 });
    }

    #[test]
    fn one_that_went_back_or_jumped_is() {
        for position in [
            read(99),
            write(100),
            read(100 + JUMP + 1),
            Position { cluster: 8, ..read(101) },
            Position { term: 2, ..read(101) },
        ] {
            let history = at_100();
            history.answered(history.mark(), position, 1001);
            assert!(history.doubt().is_some(), "{position:?}");
            // Later answers do not end the doubt.
            history.answered(history.mark(), read(5000), 1002);
            assert!(history.doubt().is_some(), "{position:?}");
        }
    }

    #[test]
    fn answers_may_overtake_each_other() {
        let history = at_100();
        let slow = history.mark();
        history.answered(history.mark(), write(102), 1001);
        history.answered(slow, write(101), 1001);
        assert_eq!((history.doubt(), history.observe_epoch(0).revision), (None, 102));
    }

    #[test]
    fn a_revision_jump_after_absence_is_accepted() {
        let history = at_100();
        let later = Instant::now() + AWAY + Duration::from_secs(1);
        history.answered_at(history.mark(), read(100 + JUMP + 1), (1000, later));
        assert_eq!(history.doubt(), None);
        // But no step back.
        history.answered(history.mark(), read(100), 9_000_000);
        assert!(history.doubt().is_some());
    }

    #[test]
    fn a_clock_that_is_set_ahead_is_no_absence() {
        let history = at_100();
        history.answered(history.mark(), read(100 + JUMP + 1), 1_000_000);
        assert!(history.doubt().is_some());
        // Only for a process that starts does the node's clock say how long nobody looked. A time to come is no absence.
        for (now, is_doubted) in [(1000 + 3601, false), (1000 + 60, true), (10, true)] {
            let history = History::default();
            history.resume(Some(Seen { revision: 100, at: 1000, ..Seen::default() }), now);
            history.answered(history.mark(), read(100 + JUMP + 1), now);
            assert_eq!(history.doubt().is_some(), is_doubted, "{now}");
        }
    }

    #[test]
    fn an_accepted_history_starts_anew() {
        let history = at_100();
        let before = history.mark();
        history.answered(history.mark(), read(50), 1001);
        history.accept();
        // Older answers are not compared with it, nor it with them.
        history.answered(before, read(120), 1001);
        history.answered(history.mark(), read(51), 1001);
        assert_eq!((history.doubt(), history.observe_epoch(1).revision), (None, 51));
    }
}
