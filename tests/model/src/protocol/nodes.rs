//! Machines that go down, return, or lose their store; and the controller that reclaims what dead ones held.

use super::{Protocol, event, fault, step};
use crate::checker::Steps;
use crate::rules::Rule;
use crate::state::{Del, Phase, Request, Row, State, Sweep, contains, set_of_one};

impl Protocol {
    pub(super) fn node_steps(&self, state: &State, node: usize, steps: &mut Steps<State>) {
        if state.nodes[node].up { self.running(state, node, steps) } else { self.take_node_down(state, node, steps) }
    }

    fn running(&self, state: &State, node: usize, steps: &mut Steps<State>) {
        if state.left.reboot > 0 {
            steps.add(state, fault("node goes down", Some(node)), |next| {
                next.left.reboot -= 1;
                next.nodes[node].up = false;
                next.nodes[node].sweep = Sweep::Idle;
                for attempt in self.on_node(node) {
                    let attempt = &mut next.attempts[attempt];
                    if attempt.phase != Phase::Idle {
                        attempt.del = Del::Done;
                    }
                    if attempt.is_running() {
                        attempt.phase = Phase::Killed;
                    }
                    attempt.link = false;
                }
                true
            });
        }
        if state.left.wipe > 0 {
            steps.add(state, fault("the store is moved away while pods run", Some(node)), |next| {
                next.left.wipe -= 1;
                next.nodes[node].store += 1;
                for attempt in self.on_node(node) {
                    next.attempts[attempt].row = Row::None;
                }
                true
            });
        }
        if state.left.false_fence > 0 && !state.nodes[node].fenced {
            steps.add(state, fault("node is called fenced while it runs", Some(node)), |next| {
                next.left.false_fence -= 1;
                next.nodes[node].fenced = true;
                true
            });
        }
    }

    fn take_node_down(&self, state: &State, node: usize, steps: &mut Steps<State>) {
        if !state.nodes[node].fenced {
            steps.add(state, step("node is fenced", node), |next| {
                next.nodes[node].fenced = true;
                true
            });
        }
        steps.add(state, step("node boots: rows of the earlier boot -> tombstone", node), |next| {
            self.boot(next, node);
            true
        });
        if state.left.reimage > 0 {
            steps.add(state, fault("node boots with an empty store", Some(node)), |next| {
                next.left.reimage -= 1;
                self.boot(next, node);
                next.nodes[node].store += 1;
                for attempt in self.on_node(node) {
                    next.attempts[attempt].row = Row::None;
                }
                true
            });
        }
    }

    fn boot(&self, next: &mut State, node: usize) {
        let this = &mut next.nodes[node];
        (this.up, this.fenced, this.boot) = (true, false, this.boot + 1);
        for attempt in self.on_node(node) {
            let attempt = &mut next.attempts[attempt];
            if attempt.row != Row::None {
                attempt.row = Row::Tombstone;
            }
        }
    }

    /// The controller removes holders of fenced machines whose pod is gone, and claims whose owner is gone.
    pub(super) fn controller_steps(&self, state: &State, steps: &mut Steps<State>) {
        for (address, &claim) in state.api.claims.iter().enumerate().filter(|(_address, claim)| claim.uid != 0) {
            let is_dead = |&attempt: &usize| {
                let fenced = !self.has_rule(Rule::Fence) || state.nodes[self.node_of(attempt)].fenced;
                contains(claim.holders, attempt) && fenced && !state.pods[self.add(attempt).pod]
            };
            let gone = self.attempts().filter(is_dead).fold(0, |set, attempt| set | set_of_one(attempt));
            if gone != 0 {
                let label = event("controller removes a holder of a fenced machine", Some(address));
                steps.add(state, label, |next| next.send(self.removal(address, claim, gone)));
            }
            let owner_gone = self.0.ipam_claims && state.api.owner_gone[usize::from(claim.owner)];
            if owner_gone && (claim.holders == 0 || !self.has_rule(Rule::HoldersEmpty)) {
                let label = event("controller deletes the claim of an IPAMClaim that is gone", Some(address));
                let (uid, version) = (claim.uid, claim.version);
                steps.add(state, label, |next| next.send(Request::Delete { address: address as u8, uid, version }));
            }
        }
    }
}
