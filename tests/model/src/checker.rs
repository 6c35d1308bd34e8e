//! Breadth-first search over all states, so that traces are shortest, and a backward pass for leaks.

use std::collections::HashMap;
use std::fmt;
use std::hash::{BuildHasher, Hash, RandomState};

/// A transition's name, its subject, and its address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Label {
    /// Name of the transition.
    pub transition: &'static str,
    /// Number of the attempt or node.
    pub subject: Option<usize>,
    /// Number of the address.
    pub address: Option<usize>,
    /// A fault, as opposed to the work of the protocol or a normal event around it.
    pub fault: bool,
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.fault {
            f.write_str("fault: ")?;
        }
        f.write_str(self.transition)?;
        if let Some(subject) = self.subject {
            write!(f, " {subject}")?;
        }
        match self.address {
            Some(address) => write!(f, " (address {address})"),
            None => Ok(()),
        }
    }
}

/// The successors of a state.
#[derive(Debug)]
pub struct Steps<S>(Vec<(Label, S)>);

impl<S: Clone> Steps<S> {
    /// Adds the state that `change` makes of `from`, unless `change` returns that the step is not possible.
    pub fn add(&mut self, from: &S, label: Label, change: impl FnOnce(&mut S) -> bool) {
        let mut next = from.clone();
        if change(&mut next) {
            self.0.push((label, next));
        }
    }
}

/// A system to check.
pub trait Model {
    /// A state of the whole system.
    type State: Clone + Eq + Hash;

    /// Returns the initial state.
    fn start(&self) -> Self::State;

    /// Adds all possible next states.
    fn steps(&self, state: &Self::State, steps: &mut Steps<Self::State>);

    /// Returns the invariant that a state breaks.
    fn broken(&self, state: &Self::State) -> Option<&'static str>;

    /// Returns whether nothing is left.
    fn is_clean(&self, state: &Self::State) -> bool;
}

/// The result of a search.
#[derive(Debug)]
pub enum Outcome {
    /// Every state keeps the invariants, and a clean state can be reached from it.
    Holds {
        /// The number of states.
        states: usize,
    },
    /// A state breaks an invariant.
    Broken {
        /// The invariant.
        invariant: &'static str,
        /// The steps to the state.
        trace: Vec<Label>,
    },
    /// No clean state can be reached from a state without a fault.
    Leak {
        /// The steps to the state.
        trace: Vec<Label>,
    },
    /// There are more states than the limit.
    TooMany,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (what, trace) = match self {
            Self::Holds { states } => return write!(f, "holds in all {states} states"),
            Self::TooMany => return f.write_str("more states than the limit"),
            Self::Broken { invariant, trace } => (*invariant, trace),
            Self::Leak { trace } => ("leak: no clean state can be reached any more", trace),
        };
        f.write_str(what)?;
        for (number, label) in trace.iter().enumerate() {
            write!(f, "\n  {}. {label}", number + 1)?;
        }
        Ok(())
    }
}

/// Visits every state, up to `limit` of them.
pub fn check<M: Model>(model: &M, limit: usize) -> Outcome {
    let mut search = Search::new(model);
    let mut current = 0;
    while let Some(state) = search.states.get(current).cloned() {
        if search.states.len() > limit {
            return Outcome::TooMany;
        }
        let mut steps = Steps(Vec::new());
        model.steps(&state, &mut steps);
        for (label, next) in steps.0 {
            let (id, new) = search.visit(next, current);
            if new && let Some(invariant) = search.states.get(id).and_then(|state| model.broken(state)) {
                return Outcome::Broken { invariant, trace: search.trace(id) };
            }
            if !label.fault {
                search.backward.push((id, current));
            }
        }
        current += 1;
    }
    match search.first_leak() {
        Some(id) => Outcome::Leak { trace: search.trace(id) },
        None => Outcome::Holds { states: search.states.len() },
    }
}

struct Search<'a, M: Model> {
    model: &'a M,
    /// Numbers of states by two independent 64-bit hashes, so that each state is stored once.
    ids: HashMap<(u64, u64), usize>,
    hashers: (RandomState, RandomState),
    states: Vec<M::State>,
    /// The state from which each state was first reached.
    parents: Vec<usize>,
    /// (to, from) of every step without a fault.
    backward: Vec<(usize, usize)>,
}

impl<'a, M: Model> Search<'a, M> {
    fn new(model: &'a M) -> Self {
        let mut search = Self {
            model,
            ids: HashMap::new(),
            hashers: (RandomState::new(), RandomState::new()),
            states: Vec::new(),
            parents: Vec::new(),
            backward: Vec::new(),
        };
        search.visit(model.start(), 0);
        search
    }

    /// Returns the number of a state, and whether it is new.
    fn visit(&mut self, state: M::State, parent: usize) -> (usize, bool) {
        let print = (self.hashers.0.hash_one(&state), self.hashers.1.hash_one(&state));
        let next = self.states.len();
        let id = *self.ids.entry(print).or_insert(next);
        if id == next {
            self.states.push(state);
            self.parents.push(parent);
        }
        (id, id == next)
    }

    /// Returns the first state from which no clean state can be reached without a fault.
    fn first_leak(&mut self) -> Option<usize> {
        self.backward.sort_unstable();
        self.backward.dedup();
        let mut reaches: Vec<bool> = self.states.iter().map(|state| self.model.is_clean(state)).collect();
        let mut queue: Vec<usize> = (0..reaches.len()).filter(|&id| reaches.get(id) == Some(&true)).collect();
        while let Some(id) = queue.pop() {
            let begin = self.backward.partition_point(|&(to, _from)| to < id);
            for &(_to, from) in self.backward.iter().skip(begin).take_while(|&&(to, _from)| to == id) {
                if let Some(reached @ false) = reaches.get_mut(from) {
                    *reached = true;
                    queue.push(from);
                }
            }
        }
        reaches.iter().position(|reached| !reached)
    }

    /// Returns the steps to a state.
    fn trace(&self, mut id: usize) -> Vec<Label> {
        let mut trace = Vec::new();
        while id != 0 {
            let (Some(state), Some(&parent)) = (self.states.get(id), self.parents.get(id)) else { break };
            let mut steps = Steps(Vec::new());
            if let Some(from) = self.states.get(parent) {
                self.model.steps(from, &mut steps);
            }
            trace.extend(steps.0.into_iter().find(|(_label, next)| next == state).map(|(label, _next)| label));
            id = parent;
        }
        trace.reverse();
        trace
    }
}
