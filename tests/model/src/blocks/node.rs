//! A node: its cell's row, its requests to the API server, and its machine's faults.

use super::{Blocks, LAST_NONCE, LAST_VERSION, Node, Phase, Request, Row, State, fault, step};
use crate::checker::Steps;
use crate::rules::Rule;

impl Blocks {
    pub(super) fn cell_steps(&self, state: &State, node: usize, steps: &mut Steps<State>) {
        let this = state.nodes[node];
        let inside = self.on_node(node).any(|add| state.attachments[add].row);
        match this.row {
            Row::None => self.begin_taking(state, node, steps),
            Row::Taking if !this.waits => self.continue_taking(state, node, steps),
            Row::Unconfirmed => self.confirm(state, node, inside, steps),
            Row::Owned if !inside || !self.has_rule(Rule::Empty) => {
                become_row(state, node, ("cell: owned -> returning", Row::Returning), steps);
            }
            Row::Returning => self.returning(state, node, steps),
            Row::Taking | Row::Owned => {}
        }
        if this.waits && state.left.lose > 0 {
            steps.add(state, fault("the create times out and is still under way", Some(node)), |next| {
                next.left.lose -= 1;
                (next.nodes[node].waits, next.nodes[node].answer) = (false, None);
                true
            });
        }
        if let Some(accepted) = this.answer {
            steps.add(state, step("the answer to the create arrives", node), |next| {
                let this = &mut next.nodes[node];
                (this.waits, this.answer) = (false, None);
                if accepted && (this.row == Row::Taking || !self.has_rule(Rule::IntentFirst)) {
                    this.row = Row::Owned;
                }
                true
            });
        }
        self.sweep(state, node, steps);
        let has_it = this.row == Row::Owned || this.row == Row::Unconfirmed && inside;
        let restored = state.backup == super::Backup::Restored;
        if self.has_rule(Rule::Reassert) && restored && has_it && state.cell.uid == 0 {
            steps.add(state, step("re-assert", node), |next| next.send(create(this, node, true)));
        }
    }

    fn begin_taking(&self, state: &State, node: usize, steps: &mut Steps<State>) {
        let wanted = self.on_node(node).any(|add| state.attachments[add].phase == Phase::Before);
        if !wanted || state.last_nonce == LAST_NONCE || state.nodes[node].waits {
            return;
        }
        steps.add(state, step("cell: none -> taking", node), |next| {
            next.last_nonce += 1;
            let this = &mut next.nodes[node];
            this.nonce = next.last_nonce;
            if self.has_rule(Rule::IntentFirst) {
                this.row = Row::Taking;
                return true;
            }
            this.waits = true;
            let request = create(*this, node, false);
            next.send(request)
        });
    }

    fn continue_taking(&self, state: &State, node: usize, steps: &mut Steps<State>) {
        if state.cell.uid == 0 {
            steps.add(state, step("POST cell", node), |next| {
                next.nodes[node].waits = true;
                next.send(create(state.nodes[node], node, false))
            });
        } else if state.has_cell(node) {
            become_row(state, node, ("GET shows the own nonce: owned", Row::Owned), steps);
        }
        become_row(state, node, ("the take is given up", Row::Returning), steps);
    }

    /// Steps after a boot.
    fn confirm(&self, state: &State, node: usize, inside: bool, steps: &mut Steps<State>) {
        if !state.has_cell(node) {
            if !inside {
                become_row(state, node, ("the cell is not its own any more: dropped", Row::None), steps);
            }
        } else if !self.has_rule(Rule::ConfirmWrite) {
            become_row(state, node, ("cell: confirmed by a read", Row::Owned), steps);
        } else {
            if state.cell.version < LAST_VERSION {
                steps.add(state, step("PUT cell: the boot id", node), |next| next.send(update(state, node)));
            }
            if !inside {
                become_row(state, node, ("the cell is given back unconfirmed", Row::Returning), steps);
            }
        }
    }

    fn returning(&self, state: &State, node: usize, steps: &mut Steps<State>) {
        if state.has_cell(node) {
            steps.add(state, step("DELETE cell", node), |next| next.send(state.delete()));
            if !self.has_rule(Rule::NoUnreturn) {
                become_row(state, node, ("the cell is kept after all", Row::Owned), steps);
            }
        } else {
            become_row(state, node, ("cell: returning -> none", Row::None), steps);
        }
    }

    /// Finds a cell that names this node and that its store does not know.
    fn sweep(&self, state: &State, node: usize, steps: &mut Steps<State>) {
        let this = state.nodes[node];
        let unknown = this.row == Row::None || this.nonce != state.cell.nonce;
        let names_it = state.cell.uid != 0 && usize::from(state.cell.node) == node;
        // A cell of another store is kept while a link of it may exist.
        let links = self.on_node(node).any(|add| state.attachments[add].link);
        let may_judge = !self.has_rule(Rule::StoreId) || state.cell.store == this.store || !this.blind || !links;
        if self.has_rule(Rule::ReverseSweep) && names_it && unknown && may_judge {
            steps.add(state, step("reverse sweep: DELETE cell", node), |next| next.send(state.delete()));
        }
    }

    pub(super) fn faults_of(&self, state: &State, node: usize, steps: &mut Steps<State>) {
        let (this, left) = (state.nodes[node], state.left);
        if left.reboot > 0 {
            steps.add(state, fault("node goes down", Some(node)), |next| {
                next.left.reboot -= 1;
                next.nodes[node] = Node { up: false, waits: false, answer: None, blind: false, ..this };
                for add in self.on_node(node) {
                    let attachment = &mut next.attachments[add];
                    attachment.link = false;
                    if attachment.phase == Phase::Added {
                        attachment.phase = Phase::Deleted;
                    }
                }
                true
            });
        }
        if left.roll_back > 0 && this.copy.is_none() && this.row == Row::Owned {
            steps.add(state, fault("the node's disk is copied", Some(node)), |next| {
                next.nodes[node].copy = Some((this.row, this.nonce));
                true
            });
        }
        if left.wipe > 0 {
            steps.add(state, fault("the store is moved away while pods run", Some(node)), |next| {
                next.left.wipe -= 1;
                let store = this.store + 1;
                next.nodes[node] =
                    Node { row: Row::None, nonce: 0, store, waits: false, answer: None, blind: true, ..this };
                self.forget_rows(next, node);
                true
            });
        }
        if left.false_fence > 0 && !this.fenced {
            steps.add(state, fault("node is called fenced while it runs", Some(node)), |next| {
                next.left.false_fence -= 1;
                next.nodes[node].fenced = true;
                true
            });
        }
    }

    pub(super) fn boots(&self, state: &State, node: usize, steps: &mut Steps<State>) {
        let this = state.nodes[node];
        if !this.fenced {
            steps.add(state, step("node is fenced", node), |next| {
                next.nodes[node].fenced = true;
                true
            });
        }
        steps.add(state, step("node boots: its cell is unconfirmed", node), |next| {
            self.boot(next, node, (this.row, this.nonce));
            true
        });
        if state.left.reimage > 0 {
            steps.add(state, fault("node boots with an empty store", Some(node)), |next| {
                next.left.reimage -= 1;
                self.boot(next, node, (Row::None, 0));
                next.nodes[node].store += 1;
                true
            });
        }
        if let Some(copy) = this.copy.filter(|_copy| state.left.roll_back > 0) {
            steps.add(state, fault("node boots with its disk rolled back", Some(node)), |next| {
                next.left.roll_back -= 1;
                self.boot(next, node, copy);
                true
            });
        }
    }

    /// Boots with a cell's row as it is on disk; the rows inside are from an earlier boot.
    fn boot(&self, next: &mut State, node: usize, (row, nonce): (Row, u8)) {
        let row = match row {
            Row::Owned if self.has_rule(Rule::Unconfirmed) => Row::Unconfirmed,
            Row::Taking => Row::Returning,
            other => other,
        };
        let fenced = next.nodes[node].fenced && !self.has_rule(Rule::FenceEnds);
        next.nodes[node] = Node { up: true, fenced, row, nonce, ..next.nodes[node] };
        self.forget_rows(next, node);
    }

    fn forget_rows(&self, next: &mut State, node: usize) {
        for add in self.on_node(node) {
            next.attachments[add].row = false;
        }
    }
}

fn become_row(state: &State, node: usize, (transition, row): (&'static str, Row), steps: &mut Steps<State>) {
    steps.add(state, step(transition, node), |next| {
        next.nodes[node].row = row;
        true
    });
}

fn create(this: Node, node: usize, again: bool) -> Request {
    Request::Create { node: node as u8, nonce: this.nonce, store: this.store, again }
}

fn update(state: &State, node: usize) -> Request {
    let (uid, version) = (state.cell.uid, state.cell.version);
    Request::Update { node: node as u8, nonce: state.nodes[node].nonce, uid, version }
}
