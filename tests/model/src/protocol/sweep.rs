//! The reverse sweep removes holders that name this machine and that its store does not know.

use super::{Protocol, step, step_at};
use crate::checker::Steps;
use crate::rules::Rule;
use crate::state::{Claim, Del, Node, Row, Set, State, Sweep, contains, set_of_one};

impl Protocol {
    pub(super) fn sweep_steps(&self, state: &State, node: usize, steps: &mut Steps<State>) {
        let Node { up: true, sweep, .. } = state.nodes[node] else { return };
        if !self.has_rule(Rule::ReverseSweep) {
            return;
        }
        match (sweep, self.has_rule(Rule::ListFirst)) {
            (Sweep::Idle, true) => self.list(state, node, steps),
            (Sweep::Listed { address, claim }, true) => {
                let address = usize::from(address);
                let gone = self.unknown(state, node, address, claim, None);
                steps.add(state, step_at("reverse sweep looks into its store", node, address), |next| {
                    next.nodes[node].sweep = Sweep::Idle;
                    if gone != 0 {
                        next.send(self.removal(address, claim, gone));
                    }
                    true
                });
            }
            (Sweep::Idle, false) => {
                let known = self.on_node(node).filter(|&attempt| state.attempts[attempt].row != Row::None);
                let known = known.fold(0, |set, attempt| set | set_of_one(attempt));
                steps.add(state, step("reverse sweep looks into its store", node), |next| {
                    next.nodes[node].sweep = Sweep::Looked { known };
                    true
                });
            }
            (Sweep::Looked { known }, false) => self.list_last(state, node, known, steps),
            _ => {}
        }
    }

    /// Lists first. Both preconditions refuse a removal whose claim has changed since, so listing and looking can be
    /// one step, which saves states.
    fn list(&self, state: &State, node: usize, steps: &mut Steps<State>) {
        let one_step = self.has_rule(Rule::Uid) && self.has_rule(Rule::ResourceVersion);
        for (address, &claim) in state.api.claims.iter().enumerate() {
            let ours = self.attempts().any(|attempt| self.names(claim, attempt, node));
            if claim.uid == 0 || !ours {
                continue;
            }
            if !one_step {
                steps.add(state, step_at("reverse sweep lists", node, address), |next| {
                    next.nodes[node].sweep = Sweep::Listed { address: address as u8, claim };
                    true
                });
                continue;
            }
            let gone = self.unknown(state, node, address, claim, None);
            if gone != 0 {
                steps.add(state, step_at("reverse sweep removes", node, address), |next| {
                    next.send(self.removal(address, claim, gone))
                });
            }
        }
    }

    /// Lists after it has looked, which is the wrong order.
    fn list_last(&self, state: &State, node: usize, known: Set, steps: &mut Steps<State>) {
        for (address, &claim) in state.api.claims.iter().enumerate() {
            let gone = self.unknown(state, node, address, claim, Some(known));
            if claim.uid != 0 && gone != 0 {
                steps.add(state, step_at("reverse sweep removes", node, address), |next| {
                    next.nodes[node].sweep = Sweep::Idle;
                    next.send(self.removal(address, claim, gone))
                });
            }
        }
        steps.add(state, step("reverse sweep ends", node), |next| {
            next.nodes[node].sweep = Sweep::Idle;
            true
        });
    }

    /// Returns whether the claim has this attempt as a holder, under the node's name.
    fn names(&self, claim: Claim, attempt: usize, node: usize) -> bool {
        contains(claim.holders, attempt) && self.name(self.node_of(attempt)) == self.name(node)
    }

    /// Returns the claim's holders that the node may judge and its store does not know.
    fn unknown(&self, state: &State, node: usize, address: usize, claim: Claim, known: Option<Set>) -> Set {
        let here = state.nodes[node];
        let is_gone = |&attempt: &usize| {
            let holder = state.attempts[attempt];
            let same_machine = self.node_of(attempt) == node;
            let has_row = match known {
                Some(known) => contains(known, attempt),
                None => same_machine && holder.row != Row::None && usize::from(holder.address) == address,
            };
            let may_judge = if same_machine {
                // A foreign store id from this boot: removed only when the sandbox is really gone.
                let over = !holder.is_running() && !holder.link && holder.del == Del::Done;
                !self.has_rule(Rule::StoreId) || holder.store == here.store || holder.boot != here.boot || over
            } else {
                !self.has_rule(Rule::MachineId)
            };
            self.names(claim, attempt, node) && !has_row && may_judge
        };
        self.attempts().filter(is_gone).fold(0, |set, attempt| set | set_of_one(attempt))
    }
}
