//! ADD, from its first step to its link.

use super::{Protocol, fault, step, step_at};
use crate::checker::Steps;
use crate::rules::Rule;
use crate::state::{Attempt, Claim, Del, Phase, Request, Row, Sender, State, contains, set_of_one};

impl Protocol {
    pub(super) fn add_steps(&self, state: &State, attempt: usize, steps: &mut Steps<State>) {
        let this = state.attempts[attempt];
        match this.phase {
            Phase::Idle if state.pods[self.add(attempt).pod] => {
                steps.add(state, step("ADD starts", attempt), |next| {
                    next.attempts[attempt].phase = Phase::Started;
                    true
                });
            }
            Phase::Started => self.started(state, attempt, steps),
            Phase::Deciding => self.deciding(state, attempt, steps),
            Phase::Waiting if state.left.lose > 0 => {
                steps.add(state, fault("the request times out and is still under way", Some(attempt)), |next| {
                    next.attempts[attempt].phase = Phase::Deciding;
                    next.left.lose -= 1;
                    true
                });
            }
            Phase::Granted => self.granted(state, attempt, steps),
            Phase::Committed => steps.add(state, step("links up", attempt), |next| {
                let this = &mut next.attempts[attempt];
                (this.link, this.phase) = (true, Phase::Done);
                true
            }),
            _ => {}
        }
        if this.is_running() && state.left.kill > 0 {
            steps.add(state, fault("ADD is killed", Some(attempt)), |next| {
                next.attempts[attempt].phase = Phase::Killed;
                next.left.kill -= 1;
                true
            });
        }
        if this.row == Row::Intent {
            steps.add(state, step("intent -> tombstone: too old", attempt), |next| {
                next.attempts[attempt].row = Row::Tombstone;
                true
            });
        }
    }

    /// none -> intent.
    fn started(&self, state: &State, attempt: usize, steps: &mut Steps<State>) {
        let this = state.attempts[attempt];
        if !(self.has_rule(Rule::DelMark) && this.del != Del::None) {
            let (pod, node) = (self.add(attempt).pod, self.node_of(attempt));
            let older = self.on_node(node).find(|&other| {
                other != attempt && self.add(other).pod == pod && state.attempts[other].row != Row::None
            });
            for address in 0..self.0.addresses {
                if self.may_intend(state, attempt, older, address) {
                    steps.add(state, step_at("none -> intent", attempt, address), |next| {
                        self.intend(next, attempt, older, address);
                        true
                    });
                }
            }
        }
        steps.add(state, step("ADD gives up: deadline", attempt), |next| {
            next.attempts[attempt].phase = Phase::Failed;
            true
        });
    }

    fn may_intend(&self, state: &State, attempt: usize, older: Option<usize>, address: usize) -> bool {
        if let Some(older) = older.filter(|_older| self.has_rule(Rule::Supersede)) {
            let older = &state.attempts[older];
            if usize::from(older.address) != address || self.has_rule(Rule::SupersedeWaits) && older.is_running() {
                return false;
            }
        }
        let status = state.api.status[self.add(attempt).owner];
        !self.0.ipam_claims || status.is_none_or(|status| usize::from(status) == address)
    }

    fn intend(&self, next: &mut State, attempt: usize, older: Option<usize>, address: usize) {
        if let Some(older) = older.filter(|_older| self.has_rule(Rule::Supersede)) {
            let deleted = next.attempts[attempt].del != Del::None;
            let older = &mut next.attempts[older];
            if deleted && older.del == Del::None {
                next.robbed = true;
            }
            older.link = false;
            older.row = if older.is_running() { Row::Doomed } else { Row::None };
        }
        let node = next.nodes[self.node_of(attempt)];
        let this = &mut next.attempts[attempt];
        *this = Attempt { phase: Phase::Deciding, address: address as u8, boot: node.boot, store: node.store, ..*this };
        if self.has_rule(Rule::IntentFirst) {
            this.row = Row::Intent;
        }
    }

    /// Reads the claim with a quorum read, for an ADD with an intent.
    fn deciding(&self, state: &State, attempt: usize, steps: &mut Steps<State>) {
        let this = state.attempts[attempt];
        if self.has_rule(Rule::SendRow) && self.has_rule(Rule::IntentFirst) && this.row != Row::Intent {
            steps.add(state, step("ADD gives up: its intent is gone", attempt), |next| {
                next.attempts[attempt].phase = Phase::Failed;
                true
            });
            return;
        }
        if self.is_doubted(state, self.node_of(attempt)) {
            return;
        }
        let (address, claim) = (this.address, state.api.claims[usize::from(this.address)]);
        if claim.uid == 0 {
            steps.add(state, step_at("POST claim", attempt, address.into()), |next| {
                next.attempts[attempt].phase = Phase::Waiting;
                next.send(Request::Create { sender: Sender::Add(attempt as u8), address })
            });
        } else if self.is_held(claim, attempt) {
            steps.add(state, step("GET shows the own nonce: granted", attempt), |next| {
                next.attempts[attempt].phase = Phase::Granted;
                true
            });
        } else if self.may_adopt(claim, attempt) {
            self.adopt(state, attempt, claim, steps);
        } else {
            self.lose_race(state, attempt, steps);
        }
        steps.add(state, step("ADD gives up: deadline", attempt), |next| {
            next.attempts[attempt].give_up();
            true
        });
    }

    fn may_adopt(&self, claim: Claim, attempt: usize) -> bool {
        let node = self.node_of(attempt);
        let own = usize::from(claim.owner) == self.add(attempt).owner;
        let here = self.attempts().all(|other| !contains(claim.holders, other) || self.node_of(other) == node);
        own && (self.0.ipam_claims || !self.has_rule(Rule::AdoptOwn) || here)
    }

    /// PUT claim: a pod's claim gets another holder; an IPAMClaim's gets one more, and loses those that this pod left
    /// on this node.
    fn adopt(&self, state: &State, attempt: usize, claim: Claim, steps: &mut Steps<State>) {
        let (add, node) = (self.add(attempt), self.node_of(attempt));
        let mut holders = if self.0.ipam_claims { claim.holders } else { 0 };
        for other in self.on_node(node).filter(|&other| self.add(other).pod == add.pod) {
            holders &= !set_of_one(other);
        }
        holders |= set_of_one(attempt);
        let address = state.attempts[attempt].address;
        let Claim { uid, version, .. } = claim;
        if self.has_rule(Rule::AdoptWrite) {
            steps.add(state, step_at("PUT claim: adopt", attempt, address.into()), |next| {
                next.attempts[attempt].phase = Phase::Waiting;
                let sender = Sender::Add(attempt as u8);
                next.send(Request::Update { sender, address, uid, version, holders })
            });
        } else {
            steps.add(state, step("adopted without a write", attempt), |next| {
                next.attempts[attempt].phase = Phase::Granted;
                true
            });
        }
    }

    /// Another owner has the address.
    fn lose_race(&self, state: &State, attempt: usize, steps: &mut Steps<State>) {
        let this = state.attempts[attempt];
        let requested = self.0.ipam_claims && state.api.status[self.add(attempt).owner] == Some(this.address);
        if self.0.addresses > 1 && !this.moved && !requested {
            steps.add(state, step("next candidate", attempt), |next| {
                let this = &mut next.attempts[attempt];
                (this.address, this.moved) = (1 - this.address, true);
                true
            });
        } else {
            steps.add(state, step("ADD gives up: no candidate left", attempt), |next| {
                next.attempts[attempt].give_up();
                true
            });
        }
    }

    /// PUT status.ips, then intent -> entry.
    fn granted(&self, state: &State, attempt: usize, steps: &mut Steps<State>) {
        let (owner, node) = (self.add(attempt).owner, self.node_of(attempt));
        let address = state.attempts[attempt].address;
        let status = state.api.status[owner];
        let ipam = self.0.ipam_claims;
        let refusal = if ipam && self.has_rule(Rule::OwnerLive) && state.api.owner_gone[owner] {
            Some("the IPAMClaim is gone")
        } else if ipam && self.has_rule(Rule::StatusCas) && status.is_some_and(|status| status != address) {
            Some("the IPAMClaim's status names another address")
        } else if ipam && self.has_rule(Rule::StatusFrozen) && state.frozen && status.is_none() {
            Some("the ledger is frozen")
        } else {
            None
        };
        if let Some(refusal) = refusal {
            steps.add(state, step(refusal, attempt), |next| {
                next.attempts[attempt].give_up();
                true
            });
        } else if ipam && status.is_none() && self.is_doubted(state, node) {
            steps.add(state, step("the status write shows that the history went back", attempt), |next| {
                next.attempts[attempt].phase = Phase::Failed;
                self.notice_restore(next, node);
                true
            });
        } else {
            steps.add(state, step("intent -> entry", attempt), |next| {
                let this = &mut next.attempts[attempt];
                let committed =
                    !self.has_rule(Rule::IntentFirst) || this.row == Row::Intent || !self.has_rule(Rule::CommitCas);
                this.phase = if committed { Phase::Committed } else { Phase::Failed };
                if committed {
                    this.row = Row::Entry;
                    if ipam && !state.api.owner_gone[owner] {
                        next.api.status[owner] = Some(address);
                    }
                }
                true
            });
        }
    }
}
