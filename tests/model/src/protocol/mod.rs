//! The transitions, one file per actor, and the invariants.

mod add;
mod agent;
mod del;
mod nodes;
mod server;
mod sweep;

use crate::checker::{Label, Model, Steps};
use crate::rules::Rule;
use crate::scenario::{Add, Freezer, Scenario};
use crate::state::{ADDS, Backup, Claim, NODES, Request, Row, Sender, Set, State, contains, set_of_one};

/// The protocol for a scenario.
#[derive(Debug, Clone)]
pub struct Protocol(Scenario);

/// Returns the label of an attempt's step.
fn step(transition: &'static str, attempt: usize) -> Label {
    Label { transition, subject: Some(attempt), address: None, fault: false }
}

/// Returns the label of a step of an attempt or node that concerns an address.
fn step_at(transition: &'static str, subject: usize, address: usize) -> Label {
    Label { transition, subject: Some(subject), address: Some(address), fault: false }
}

/// Returns the label of a step that concerns only the API server.
fn event(transition: &'static str, address: Option<usize>) -> Label {
    Label { transition, subject: None, address, fault: false }
}

fn fault(transition: &'static str, subject: Option<usize>) -> Label {
    Label { transition, subject, address: None, fault: true }
}

impl Protocol {
    /// Creates the protocol for a scenario.
    #[must_use]
    pub fn new(scenario: Scenario) -> Self {
        assert!(scenario.adds.len() <= ADDS && scenario.nodes <= NODES, "the scenario is larger than a state");
        Self(scenario)
    }

    fn has_rule(&self, rule: Rule) -> bool {
        self.0.rules.has(rule)
    }

    fn attempts(&self) -> std::ops::Range<usize> {
        0..self.0.adds.len()
    }

    fn add(&self, attempt: usize) -> Add {
        self.0.adds[attempt]
    }

    fn node_of(&self, attempt: usize) -> usize {
        self.add(attempt).node
    }

    /// Returns the name of a node.
    fn name(&self, node: usize) -> usize {
        if self.0.one_name { 0 } else { node }
    }

    /// Returns the attempts of a node.
    fn on_node(&self, node: usize) -> impl Iterator<Item = usize> {
        self.attempts().filter(move |&attempt| self.node_of(attempt) == node)
    }

    /// Returns whether the claim belongs to this attempt's owner and names the attempt as a holder.
    fn is_held(&self, claim: Claim, attempt: usize) -> bool {
        claim.uid != 0 && usize::from(claim.owner) == self.add(attempt).owner && contains(claim.holders, attempt)
    }

    /// Returns whether the answer shows the node's agent that the history went back, which it did not know.
    fn is_doubted(&self, state: &State, node: usize) -> bool {
        self.0.freezer == Freezer::Agents
            && self.has_rule(Rule::Doubt)
            && state.backup == Backup::Restored
            && !contains(state.noticed, node)
    }

    /// The agent learns that the history went back: it freezes the ledger and gives up all intents.
    fn notice_restore(&self, state: &mut State, node: usize) {
        state.noticed |= set_of_one(node);
        if !state.thawed {
            state.frozen = true;
        }
        self.drop_intents(state, node);
    }

    fn drop_intents(&self, state: &mut State, node: usize) {
        for attempt in self.on_node(node) {
            if state.attempts[attempt].row == Row::Intent {
                state.attempts[attempt].row = Row::Tombstone;
            }
        }
    }

    /// Returns the request that removes holders from a claim: with the last holder, a pod's claim is deleted too.
    fn removal(&self, address: usize, claim: Claim, gone: Set) -> Request {
        let address = address as u8;
        let holders = claim.holders & !gone;
        if holders == 0 && !self.0.ipam_claims {
            Request::Delete { address, uid: claim.uid, version: claim.version }
        } else {
            let Claim { uid, version, .. } = claim;
            Request::Update { sender: Sender::Removal, address, uid, version, holders }
        }
    }
}

impl Model for Protocol {
    type State = State;

    fn start(&self) -> State {
        let mut state = State { left: self.0.faults, ..State::default() };
        for add in &self.0.adds {
            state.pods[add.pod] = true;
        }
        for node in 0..self.0.nodes {
            let node = &mut state.nodes[node];
            (node.up, node.boot, node.store) = (true, 1, 1);
        }
        state
    }

    fn broken(&self, state: &State) -> Option<&'static str> {
        let links = || self.attempts().filter(|&attempt| state.attempts[attempt].link);
        for one in links() {
            for other in links().filter(|&other| other < one) {
                let same_address = state.attempts[one].address == state.attempts[other].address;
                let same_owner = self.add(one).owner == self.add(other).owner;
                match (same_address, same_owner) {
                    (true, false) => return Some("duplicate: links of two owners have one address"),
                    (true, true) if !self.0.ipam_claims => return Some("twins: two links of one pod have one address"),
                    (false, true) if self.0.ipam_claims => return Some("split: one IPAMClaim has two addresses"),
                    _ => {}
                }
            }
        }
        if state.robbed {
            return Some("robbed: the ADD of a deleted sandbox took a running sandbox's link");
        }
        // After a restore or a false fence, a link may be without its claim for a while; it still must not be a
        // duplicate.
        if self.0.report_unclaimed && self.0.faults.restore == 0 && self.0.faults.false_fence == 0 {
            let unclaimed = |attempt: usize| {
                let claim = state.api.claims[usize::from(state.attempts[attempt].address)];
                claim.uid == 0 || usize::from(claim.owner) != self.add(attempt).owner
            };
            if links().any(unclaimed) {
                return Some("unclaimed: a link's claim is gone or somebody else's");
            }
        }
        None
    }

    fn is_clean(&self, state: &State) -> bool {
        let over = |attempt: usize| {
            let attempt = &state.attempts[attempt];
            attempt.row == Row::None && !attempt.link && !attempt.is_running()
        };
        state.requests.iter().all(Option::is_none)
            && state.api.claims.iter().all(|claim| claim.uid == 0)
            && self.attempts().all(over)
            && !state.frozen
    }

    fn steps(&self, state: &State, steps: &mut Steps<State>) {
        self.owners_leave(state, steps);
        for attempt in self.attempts() {
            if state.nodes[self.node_of(attempt)].up {
                self.add_steps(state, attempt, steps);
                self.del_steps(state, attempt, steps);
                self.agent_steps(state, attempt, steps);
            }
        }
        for node in 0..self.0.nodes {
            self.sweep_steps(state, node, steps);
            self.node_steps(state, node, steps);
        }
        self.controller_steps(state, steps);
        self.server_steps(state, steps);
        self.restore_steps(state, steps);
    }
}
