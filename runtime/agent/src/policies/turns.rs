//! Turns to fetch and to compile: bounded in all and per namespace, so that nobody who may define a network in one
//! namespace holds up the networks of others.
//!
//! Invariants: a turn goes to a namespace with the fewest turns; among those, to a policy with the fewest failed tries,
//! in order. A policy that networks of several namespaces name may use the turn of any of them.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use tokio::sync::oneshot::{self, Sender};

/// Failed tries, and the order of asking.
type Place = (u32, u64);

/// The turns.
pub(super) struct Turns {
    all: usize,
    each: usize,
    line: RefCell<Line>,
}

#[derive(Default)]
struct Line {
    /// The namespaces whose networks name each policy.
    namespaces: BTreeMap<String, BTreeSet<String>>,
    /// How many turns each namespace has.
    running: BTreeMap<String, usize>,
    waiting: BTreeMap<Place, (String, Sender<Turn>)>,
    next: u64,
}

/// A turn, which ends on drop.
pub(super) struct Turn {
    turns: Rc<Turns>,
    namespace: String,
}

// === impl Turns ===

impl Turns {
    /// Creates so many turns in all, and so many for one namespace.
    pub(super) fn new(all: usize, each: usize) -> Rc<Self> {
        Rc::new(Self { all, each, line: RefCell::default() })
    }

    /// Sets the namespaces whose networks name each policy. Others get no turn.
    pub(super) fn name(self: &Rc<Self>, namespaces: BTreeMap<String, BTreeSet<String>>) {
        let mut line = self.line.borrow_mut();
        line.namespaces = namespaces;
        line.waiting.retain(|_place, (_reference, grant)| !grant.is_closed());
        drop(line);
        self.grant();
    }

    /// Waits for a turn.
    pub(super) async fn take(self: &Rc<Self>, reference: &str, tries: u32) -> Result<Turn, String> {
        let (grant, granted) = oneshot::channel();
        {
            let mut line = self.line.borrow_mut();
            let place = (tries, line.next);
            line.next += 1;
            line.waiting.insert(place, (reference.to_owned(), grant));
        }
        self.grant();
        granted.await.map_err(|_dropped| format!("no network names {reference} any more"))
    }

    /// Grants what is free.
    fn grant(self: &Rc<Self>) {
        loop {
            let mut line = self.line.borrow_mut();
            let Some((place, namespace)) = line.next_turn(self.all, self.each) else { return };
            let waited = line.waiting.remove(&place);
            *line.running.entry(namespace.clone()).or_default() += 1;
            drop(line);
            let turn = Turn { turns: Rc::clone(self), namespace };
            if let Some((_reference, grant)) = waited {
                // If nobody waits any more, the turn ends here.
                grant.send(turn).ok();
            }
        }
    }
}

// === impl Line ===

impl Line {
    /// Returns who is next, and in whose turn.
    fn next_turn(&self, all: usize, each: usize) -> Option<(Place, String)> {
        if self.running.values().sum::<usize>() >= all {
            return None;
        }
        let candidates = self.waiting.iter().filter_map(|(place, (reference, _grant))| {
            let count = |namespace: &String| self.running.get(namespace).copied().unwrap_or_default();
            let namespaces = self.namespaces.get(reference)?.iter();
            let (count, namespace) = namespaces.map(|namespace| (count(namespace), namespace)).min()?;
            (count < each).then_some((count, *place, namespace))
        });
        candidates.min().map(|(_count, place, namespace)| (place, namespace.clone()))
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut line = self.turns.line.borrow_mut();
        if let Some(count) = line.running.get_mut(&self.namespace) {
            *count -= 1;
            if *count == 0 {
                line.running.remove(&self.namespace);
            }
        }
        drop(line);
        self.turns.grant();
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use std::pin::Pin;
    use std::task::{Context, Poll, Waker};

    use super::*;

    type Taking = Pin<Box<dyn Future<Output = Result<Turn, String>>>>;

    /// Asks for a turn, as `NAMESPACE/POLICY`.
    fn ask(turns: &Rc<Turns>, name: &str, tries: u32) -> Taking {
        let (turns, name) = (Rc::clone(turns), name.to_owned());
        let mut taking: Taking = Box::pin(async move { turns.take(&name, tries).await });
        // Polled once to be in the line.
        if let Poll::Ready(turn) = poll(&mut taking) {
            return Box::pin(std::future::ready(turn));
        }
        taking
    }

    fn poll(taking: &mut Taking) -> Poll<Result<Turn, String>> {
        taking.as_mut().poll(&mut Context::from_waker(Waker::noop()))
    }

    fn poll_turn(taking: &mut Taking) -> Option<Turn> {
        match poll(taking) {
            Poll::Ready(turn) => Some(turn.unwrap()),
            Poll::Pending => None,
        }
    }

    fn named(turns: &Rc<Turns>, names: &[&str]) {
        let namespaces = |name: &str| {
            let (namespaces, _policy) = name.split_once('/').unwrap();
            namespaces.split('+').map(str::to_owned).collect()
        };
        turns.name(names.iter().map(|name| ((*name).to_owned(), namespaces(name))).collect());
    }

    #[test]
    fn one_namespace_cannot_hold_all_turns() {
        let turns = Turns::new(4, 2);
        let names: Vec<String> = (0..64).map(|number| format!("evil/{number}")).collect();
        let mut all: Vec<&str> = names.iter().map(String::as_str).collect();
        all.extend(["good/a", "other/b", "evil+good/c"]);
        named(&turns, &all);
        let mut evil: Vec<Taking> = names.iter().map(|name| ask(&turns, name, 0)).collect();
        let held: Vec<Turn> = evil.iter_mut().take(2).filter_map(poll_turn).collect();
        assert_eq!(held.len(), 2);
        assert!(evil.iter_mut().skip(2).all(|taking| poll_turn(taking).is_none()));
        // Named by two namespaces, it does not wait for the slower one.
        for name in ["good/a", "evil+good/c"] {
            assert!(poll_turn(&mut ask(&turns, name, 0)).is_some(), "{name}");
        }
        let (good, mut other) = (poll_turn(&mut ask(&turns, "good/a", 0)), ask(&turns, "other/b", 0));
        assert!(good.is_some() && poll_turn(&mut other).is_some());
    }

    #[test]
    fn the_namespace_with_fewest_turns_is_next_and_failed_policies_are_last() {
        let turns = Turns::new(2, 2);
        named(&turns, &["evil/1", "evil/2", "evil/3", "evil/4", "good/a"]);
        let [mut one, mut two, mut three, mut four] =
            [("evil/1", 0), ("evil/2", 0), ("evil/3", 7), ("evil/4", 0)].map(|(name, tries)| ask(&turns, name, tries));
        let mut good = ask(&turns, "good/a", 9);
        let (one, two) = (poll_turn(&mut one), poll_turn(&mut two));
        assert!(one.is_some() && two.is_some() && poll_turn(&mut good).is_none());
        drop(one);
        let good = poll_turn(&mut good);
        assert!(good.is_some() && poll_turn(&mut four).is_none(), "evil has a turn already");
        drop(good);
        let four = poll_turn(&mut four);
        assert!(four.is_some() && poll_turn(&mut three).is_none(), "it failed before");
        drop((two, four));
        assert!(poll_turn(&mut three).is_some());
    }

    #[test]
    fn aborted_and_unnamed_policies_hold_no_turn() {
        let turns = Turns::new(1, 1);
        named(&turns, &["a/1", "a/2", "a/3"]);
        let one = poll_turn(&mut ask(&turns, "a/1", 0));
        drop(ask(&turns, "a/2", 0));
        let mut unnamed = ask(&turns, "b/1", 0);
        let mut three = ask(&turns, "a/3", 0);
        drop(one);
        assert!(poll_turn(&mut unnamed).is_none());
        assert!(poll_turn(&mut three).is_some());
        // A turn that was granted and never used.
        let four = ask(&turns, "a/1", 0);
        drop(four);
        named(&turns, &["a/3", "b/1"]);
        assert!(poll_turn(&mut unnamed).is_some());
        assert!(poll_turn(&mut ask(&turns, "a/3", 0)).is_some());
    }
}
