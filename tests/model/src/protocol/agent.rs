//! The agent: it drains tombstones, and re-asserts entries after a restore.

use super::{Protocol, step, step_at};
use crate::checker::Steps;
use crate::rules::Rule;
use crate::state::{Backup, Claim, Request, Row, Sender, State, contains, set_of_one};

impl Protocol {
    pub(super) fn agent_steps(&self, state: &State, attempt: usize, steps: &mut Steps<State>) {
        match state.attempts[attempt].row {
            Row::Tombstone => self.drain(state, attempt, steps),
            Row::Entry if self.0.faults.restore > 0 && state.backup == Backup::Restored => {
                self.status_again(state, attempt, steps);
                self.reassert(state, attempt, steps);
            }
            _ => {}
        }
    }

    fn drain(&self, state: &State, attempt: usize, steps: &mut Steps<State>) {
        let address = usize::from(state.attempts[attempt].address);
        let claim = state.api.claims[address];
        let acts = if self.has_rule(Rule::Nonce) { self.is_held(claim, attempt) } else { claim.uid != 0 };
        if acts {
            let label = step_at("drain: DELETE, or PUT without the own holder", attempt, address);
            steps.add(state, label, |next| next.send(self.drained(address, claim, attempt)));
        } else {
            steps.add(state, step("tombstone -> none", attempt), |next| {
                next.attempts[attempt].row = Row::None;
                true
            });
        }
    }

    /// A pod's claim has one holder and is deleted with it.
    fn drained(&self, address: usize, claim: Claim, attempt: usize) -> Request {
        let gone = if self.0.ipam_claims { set_of_one(attempt) } else { claim.holders };
        self.removal(address, claim, gone)
    }

    fn status_again(&self, state: &State, attempt: usize, steps: &mut Steps<State>) {
        let (owner, address) = (self.add(attempt).owner, state.attempts[attempt].address);
        let wanted = self.0.ipam_claims && self.has_rule(Rule::StatusAgain) && !state.api.owner_gone[owner];
        let held = self.is_held(state.api.claims[usize::from(address)], attempt);
        if wanted && held && state.api.status[owner] != Some(address) {
            steps.add(state, step("status.ips is written again", attempt), |next| {
                next.api.status[owner] = Some(address);
                true
            });
        }
    }

    fn reassert(&self, state: &State, attempt: usize, steps: &mut Steps<State>) {
        if !self.has_rule(Rule::Reassert) || state.attempts[attempt].is_running() {
            return;
        }
        let address = state.attempts[attempt].address;
        let claim = state.api.claims[usize::from(address)];
        let Claim { uid, version, holders, owner } = claim;
        let own = usize::from(owner) == self.add(attempt).owner;
        let sender = Sender::Reassert(attempt as u8);
        let request = if uid == 0 {
            Request::Create { sender, address }
        } else if own && !contains(holders, attempt) {
            let kept = if self.0.ipam_claims { holders } else { 0 };
            Request::Update { sender, address, uid, version, holders: kept | set_of_one(attempt) }
        } else if !own && self.0.ipam_claims && holders == 0 && self.has_rule(Rule::HolderlessYields) {
            Request::Delete { address, uid, version }
        } else {
            return;
        };
        steps.add(state, step_at("re-assert", attempt, address.into()), |next| next.send(request));
    }
}
