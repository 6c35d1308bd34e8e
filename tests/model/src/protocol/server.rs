//! The API server: it executes requests, each atomically; and backup, restore and thaw.

use super::{Protocol, event, fault};
use crate::checker::Steps;
use crate::rules::Rule;
use crate::scenario::Freezer;
use crate::state::{Backup, Claim, Phase, Request, Row, Sender, State, contains, set_of_one};

/// Larger uids are not modelled.
const LAST_UID: u8 = 7;

impl Protocol {
    pub(super) fn server_steps(&self, state: &State, steps: &mut Steps<State>) {
        for request in state.requests.iter().copied().flatten() {
            let mut done = state.clone();
            let accepted = self.execute(&mut done, request);
            let address = match request {
                Request::Create { address, .. } | Request::Update { address, .. } | Request::Delete { address, .. } => {
                    usize::from(address)
                }
            };
            let name = match (request, accepted) {
                (Request::Create { .. }, true) => "server creates",
                (Request::Update { .. }, true) => "server updates",
                (Request::Delete { .. }, true) => "server deletes",
                (_, false) => "server refuses",
            };
            if accepted && state.left.double > 0 {
                steps.add(&done, fault("server executes a request that will come again", None), |next| {
                    next.left.double -= 1;
                    true
                });
            }
            done.receive(request);
            self.answer(state, done, (request, accepted), event(name, Some(address)), steps);
        }
    }

    fn execute(&self, next: &mut State, request: Request) -> bool {
        let frozen = next.frozen && self.has_rule(Rule::Freeze);
        match request {
            Request::Create { sender, address } => {
                let is_add = matches!(sender, Sender::Add(_));
                let (Sender::Add(attempt) | Sender::Reassert(attempt)) = sender else { return false };
                let attempt = usize::from(attempt);
                let taken = next.api.claims[usize::from(address)].uid != 0;
                if taken || frozen && is_add || next.last_uid == LAST_UID {
                    return false;
                }
                next.last_uid += 1;
                let owner = self.add(attempt).owner as u8;
                next.api.claims[usize::from(address)] =
                    Claim { uid: next.last_uid, version: 0, owner, holders: set_of_one(attempt) };
                true
            }
            Request::Update { sender, address, uid, version, holders } => {
                let claim = &mut next.api.claims[usize::from(address)];
                let current = claim.version == version || !self.has_rule(Rule::ResourceVersion);
                if claim.uid == 0 || claim.uid != uid || !current || frozen && matches!(sender, Sender::Add(_)) {
                    return false;
                }
                // Without the version, a removal applies to whatever claim exists.
                let merged = sender == Sender::Removal && !self.has_rule(Rule::ResourceVersion);
                claim.holders = if merged { claim.holders & holders } else { holders };
                claim.version = (claim.version + 1).min(LAST_UID);
                true
            }
            Request::Delete { address, uid, version } => {
                let claim = &mut next.api.claims[usize::from(address)];
                let same = claim.uid == uid || !self.has_rule(Rule::Uid);
                let current = claim.version == version || !self.has_rule(Rule::ResourceVersion);
                if claim.uid == 0 || !same || !current {
                    return false;
                }
                *claim = Claim::default();
                true
            }
        }
    }

    /// Delivers the answer to the ADD that waits for it, or loses it.
    fn answer(
        &self,
        before: &State,
        mut done: State,
        (request, accepted): (Request, bool),
        label: crate::checker::Label,
        steps: &mut Steps<State>,
    ) {
        let (Request::Create { sender: Sender::Add(attempt), address }
        | Request::Update { sender: Sender::Add(attempt), address, .. }) = request
        else {
            return steps.add(&done, label, |_next| true);
        };
        let attempt = usize::from(attempt);
        let node = self.node_of(attempt);
        let doubted = self.is_doubted(before, node);
        let this = done.attempts[attempt];
        if this.phase == Phase::Waiting && this.address == address {
            if before.left.lose > 0 && accepted {
                steps.add(&done, fault("server executes, the answer is lost", Some(attempt)), |next| {
                    next.left.lose -= 1;
                    next.attempts[attempt].phase = Phase::Deciding;
                    if doubted {
                        self.notice_restore(next, node);
                    }
                    true
                });
            }
            done.attempts[attempt].phase = match (doubted, accepted) {
                (true, _) => Phase::Failed,
                (false, true) => Phase::Granted,
                (false, false) => Phase::Deciding,
            };
        }
        steps.add(&done, label, |next| {
            if doubted {
                self.notice_restore(next, node);
            }
            true
        });
    }

    pub(super) fn restore_steps(&self, state: &State, steps: &mut Steps<State>) {
        if self.0.faults.restore == 0 {
            return;
        }
        let agents = self.0.freezer == Freezer::Agents;
        match state.backup {
            Backup::None => steps.add(state, fault("snapshot of etcd", None), |next| {
                (next.snapshot, next.backup) = (state.api, Backup::Taken);
                true
            }),
            Backup::Taken => steps.add(state, fault("etcd is restored", None), |next| {
                (next.api, next.snapshot) = (state.snapshot, Default::default());
                next.backup = Backup::Restored;
                next.frozen = self.has_rule(Rule::Freeze) && !agents;
                true
            }),
            Backup::Restored if agents => {
                for node in (0..self.0.nodes).filter(|&node| state.nodes[node].up && !contains(state.noticed, node)) {
                    steps.add(state, super::step("agent notices that the history went back", node), |next| {
                        self.notice_restore(next, node);
                        true
                    });
                }
            }
            Backup::Restored => {}
        }
        if state.frozen {
            self.thaw(state, steps);
        }
    }

    fn thaw(&self, state: &State, steps: &mut Steps<State>) {
        let knows = |node: usize| self.0.freezer == Freezer::Person || contains(state.noticed, node);
        for node in 0..self.0.nodes {
            let due = state.nodes[node].up && !contains(state.confirmed, node) && knows(node);
            if due && self.on_node(node).all(|attempt| self.is_reasserted(state, attempt)) {
                steps.add(state, super::step("confirmedEpoch", node), |next| {
                    next.confirmed |= set_of_one(node);
                    if self.has_rule(Rule::DropIntents) {
                        self.drop_intents(next, node);
                    }
                    true
                });
            }
        }
        if (0..self.0.nodes).all(|node| contains(state.confirmed, node) || !state.nodes[node].up) {
            steps.add(state, event("thaw", None), |next| {
                (next.frozen, next.thawed, next.confirmed) = (false, true, 0);
                true
            });
        }
    }

    fn is_reasserted(&self, state: &State, attempt: usize) -> bool {
        let this = state.attempts[attempt];
        if !matches!(this.row, Row::Entry | Row::Doomed) {
            return true;
        }
        let owner = self.add(attempt).owner;
        let claim = state.api.claims[usize::from(this.address)];
        let status = !self.0.ipam_claims
            || !self.has_rule(Rule::StatusAgain)
            || state.api.owner_gone[owner]
            || state.api.status[owner] == Some(this.address);
        let conflict = claim.uid != 0 && usize::from(claim.owner) != owner;
        self.is_held(claim, attempt) && status || !self.has_rule(Rule::ConfirmStrict) && conflict
    }
}
