//! The API server, the controller, and backup, restore and thaw.

use super::{Backup, Blocks, Cell, LAST_UID, LAST_VERSION, NODES, Request, Row, State, event, fault, step};
use crate::checker::Steps;
use crate::rules::Rule;

impl Blocks {
    pub(super) fn server_steps(&self, state: &State, steps: &mut Steps<State>) {
        for request in state.requests.iter().copied().flatten() {
            let mut done = state.clone();
            if let Some(slot) = done.requests.iter_mut().find(|slot| **slot == Some(request)) {
                *slot = None;
            }
            done.requests.sort_unstable();
            let accepted = self.execute(&mut done, request);
            let name = match (request, accepted) {
                (Request::Create { .. }, true) => "server creates the cell",
                (Request::Update { .. }, true) => "server updates the cell",
                (Request::Delete { .. }, true) => "server deletes the cell",
                (_, false) => "server refuses",
            };
            Self::answered(state, &mut done, request, accepted);
            steps.add(&done, event(name), |_next| true);
        }
    }

    fn execute(&self, next: &mut State, request: Request) -> bool {
        let frozen = next.frozen && self.has_rule(Rule::Freeze);
        let cell = &mut next.cell;
        let is_meant = |uid: u8, version: u8, cell: &Cell| {
            cell.uid != 0
                && (cell.uid == uid || !self.has_rule(Rule::Uid))
                && (cell.version == version || !self.has_rule(Rule::ResourceVersion))
        };
        match request {
            Request::Create { node, nonce, store, again } => {
                if cell.uid != 0 || frozen && !again || next.last_uid == LAST_UID {
                    return false;
                }
                next.last_uid += 1;
                *cell = Cell { uid: next.last_uid, version: 0, node, store, nonce };
                true
            }
            Request::Update { uid, version, .. } => {
                let accepted = is_meant(uid, version, cell);
                if accepted {
                    cell.version = (cell.version + 1).min(LAST_VERSION);
                }
                accepted
            }
            Request::Delete { uid, version } => {
                let accepted = is_meant(uid, version, cell);
                if accepted {
                    *cell = Cell::default();
                }
                accepted
            }
        }
    }

    /// Delivers the answer to the node that waits for it.
    fn answered(before: &State, done: &mut State, request: Request, accepted: bool) {
        match request {
            Request::Create { node, nonce, again: false, .. } => {
                let node = usize::from(node);
                if before.nodes[node].waits && before.nodes[node].nonce == nonce {
                    done.nodes[node].answer = Some(accepted);
                }
            }
            Request::Update { node, nonce, .. } => {
                let this = &mut done.nodes[usize::from(node)];
                if accepted && this.row == Row::Unconfirmed && this.nonce == nonce {
                    this.row = Row::Owned;
                }
            }
            Request::Create { .. } | Request::Delete { .. } => {}
        }
    }

    pub(super) fn controller_steps(&self, state: &State, steps: &mut Steps<State>) {
        let fenced = state.nodes[usize::from(state.cell.node)].fenced;
        if state.cell.uid != 0 && (fenced || !self.has_rule(Rule::Fence)) {
            steps.add(state, event("controller: DELETE cell of a fenced machine"), |next| next.send(state.delete()));
        }
    }

    pub(super) fn restore_steps(&self, state: &State, steps: &mut Steps<State>) {
        if state.left.restore > 0 {
            match state.backup {
                Backup::None => steps.add(state, fault("snapshot of etcd", None), |next| {
                    next.backup = Backup::Taken(state.cell);
                    true
                }),
                Backup::Taken(cell) => steps.add(state, fault("etcd is restored", None), |next| {
                    next.left.restore -= 1;
                    (next.cell, next.backup) = (cell, Backup::Restored);
                    next.frozen = self.has_rule(Rule::Freeze);
                    true
                }),
                Backup::Restored => {}
            }
        }
        if state.frozen {
            self.thaw(state, steps);
        }
    }

    fn thaw(&self, state: &State, steps: &mut Steps<State>) {
        let confirmed = |node: usize| state.confirmed & (1 << node) != 0;
        for node in (0..NODES).filter(|&node| state.nodes[node].up && !confirmed(node)) {
            let inside = self.on_node(node).any(|add| state.attachments[add].row);
            let row = state.nodes[node].row;
            let needs = row == Row::Owned || row == Row::Unconfirmed && inside;
            let is_there = state.has_cell(node) || state.cell.uid != 0 && !self.has_rule(Rule::ConfirmStrict);
            if needs && !is_there {
                continue;
            }
            steps.add(state, step("confirmedEpoch", node), |next| {
                next.confirmed |= 1 << node;
                let this = &mut next.nodes[node];
                if this.row == Row::Taking && self.has_rule(Rule::DropIntents) {
                    (this.row, this.waits, this.answer) = (Row::Returning, false, None);
                }
                if this.row == Row::Owned && self.has_rule(Rule::Unconfirmed) {
                    this.row = Row::Unconfirmed;
                }
                true
            });
        }
        if (0..NODES).all(|node| confirmed(node) || !state.nodes[node].up) {
            steps.add(state, event("thaw"), |next| {
                (next.frozen, next.confirmed) = (false, 0);
                true
            });
        }
    }
}
