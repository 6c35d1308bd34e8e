//! ADD and DEL inside a cell, as transactions of the node's store without a request; and the ADD that claims a single
//! address.

use super::{Attachment, Blocks, Phase, Row, State, step};
use crate::checker::Steps;
use crate::rules::Rule;

impl Blocks {
    pub(super) fn attachment_steps(&self, state: &State, add: usize, steps: &mut Steps<State>) {
        let this = state.attachments[add];
        if !state.nodes[self.adds[add]].up {
            return;
        }
        match this.phase {
            Phase::Before => self.begin(state, add, steps),
            Phase::Added => {
                if this.row && !this.link {
                    steps.add(state, step("links up", add), |next| {
                        next.attachments[add].link = true;
                        true
                    });
                }
                steps.add(state, step("DEL: links removed", add), |next| {
                    let this = &mut next.attachments[add];
                    (this.link, this.phase) = (false, Phase::Deleted);
                    true
                });
            }
            Phase::Deleted if this.row => steps.add(state, step("DEL: row removed", add), |next| {
                next.attachments[add].row = false;
                if self.by_claim == Some(add) {
                    next.claimed = false;
                }
                true
            }),
            Phase::Deleted => {}
        }
    }

    fn begin(&self, state: &State, add: usize, steps: &mut Steps<State>) {
        let added = Attachment { phase: Phase::Added, row: true, link: false };
        let node = self.adds[add];
        if self.by_claim == Some(add) {
            // A shared cell would allow it, but this cell belongs to a machine, or may belong to one later.
            if !self.has_rule(Rule::Cells) && !state.claimed {
                steps.add(state, step("POST claim of the address", add), |next| {
                    (next.attachments[add], next.claimed) = (added, true);
                    true
                });
            }
        } else {
            let free = self.on_node(node).all(|other| !state.attachments[other].row);
            let frozen = state.frozen && self.has_rule(Rule::Freeze);
            if state.nodes[node].row == Row::Owned && free && !frozen {
                steps.add(state, step("cell: local allocation", add), |next| {
                    next.attachments[add] = added;
                    true
                });
            }
        }
        steps.add(state, step("the pod is gone before its ADD", add), |next| {
            next.attachments[add].phase = Phase::Deleted;
            true
        });
    }
}
