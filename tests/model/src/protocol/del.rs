//! DEL, and the runtime's steps around it.

use super::{Protocol, event, step};
use crate::checker::Steps;
use crate::rules::Rule;
use crate::state::{ADDS, Del, Phase, Row, State};

impl Protocol {
    pub(super) fn del_steps(&self, state: &State, attempt: usize, steps: &mut Steps<State>) {
        let this = state.attempts[attempt];
        match this.del {
            Del::None if this.phase != Phase::Idle => self.first_del_step(state, attempt, steps),
            Del::Half => steps.add(state, step("DEL, second step", attempt), |next| {
                let this = &mut next.attempts[attempt];
                this.del = Del::Done;
                if !self.has_rule(Rule::LinkFirst) {
                    this.link = false;
                } else if this.row != Row::None {
                    this.row = Row::Tombstone;
                }
                true
            }),
            _ => {}
        }
        if this.row == Row::Doomed && !this.is_running() {
            steps.add(state, step("doomed -> tombstone: lock free, links removed", attempt), |next| {
                let this = &mut next.attempts[attempt];
                (this.link, this.row) = (false, Row::Tombstone);
                true
            });
        }
        let over = this.del == Del::Done && !this.is_running();
        if over && this.link {
            steps.add(state, step("runtime removes the namespace", attempt), |next| {
                next.attempts[attempt].link = false;
                true
            });
        }
        if over && this.row == Row::Entry {
            steps.add(state, step("local sweep: entry -> doomed", attempt), |next| {
                next.attempts[attempt].row = Row::Doomed;
                true
            });
        }
    }

    fn first_del_step(&self, state: &State, attempt: usize, steps: &mut Steps<State>) {
        steps.add(state, step("DEL", attempt), |next| {
            let this = &mut next.attempts[attempt];
            if self.has_rule(Rule::AddLock) {
                (this.link, this.del) = (false, Del::Done);
                if matches!(this.row, Row::Intent | Row::Entry) {
                    this.row = Row::Doomed;
                }
            } else if self.has_rule(Rule::LinkFirst) {
                (this.link, this.del) = (false, Del::Half);
            } else {
                this.del = Del::Half;
                if this.row != Row::None {
                    this.row = Row::Tombstone;
                }
            }
            true
        });
    }

    /// Deletes pods and IPAMClaims from the API server.
    pub(super) fn owners_leave(&self, state: &State, steps: &mut Steps<State>) {
        for pod in 0..ADDS {
            if state.pods[pod] {
                steps.add(state, event("a Pod object is deleted", None), |next| {
                    next.pods[pod] = false;
                    true
                });
            }
            let owns = self.0.adds.iter().any(|add| add.owner == pod);
            if self.0.ipam_claims && owns && !state.api.owner_gone[pod] {
                steps.add(state, event("an IPAMClaim is deleted", None), |next| {
                    next.api.owner_gone[pod] = true;
                    true
                });
            }
        }
    }
}
