//! Blocks: with all rules the protocol holds; without any one of them the checker finds the fault that the rule
//! prevents.

use weft_model::blocks::{Blocks, Faults};
use weft_model::checker::{Outcome, check};
use weft_model::rules::Rule;

/// Far above what the scenarios need.
const LIMIT: usize = 3_000_000;

const NONE: Faults = Faults { lose: 0, reboot: 0, reimage: 0, roll_back: 0, wipe: 0, restore: 0, false_fence: 0 };

/// Returns one pod on each of two nodes.
fn two_nodes() -> Blocks {
    Blocks::new(&[0, 1])
}

/// Returns a second pod on the first node, so that its cell is taken, returned and taken again.
fn second_pod_on_node() -> Blocks {
    Blocks::new(&[0, 1, 0]).faults(Faults { lose: 2, ..NONE })
}

fn rebooted() -> Blocks {
    two_nodes().faults(Faults { reboot: 1, reimage: 1, lose: 1, ..NONE })
}

fn rolled_back() -> Blocks {
    two_nodes().faults(Faults { reboot: 1, roll_back: 1, ..NONE })
}

fn wiped_node() -> Blocks {
    two_nodes().faults(Faults { wipe: 1, ..NONE })
}

fn restored() -> Blocks {
    two_nodes().faults(Faults { restore: 1, ..NONE })
}

#[track_caller]
fn expect_holds(blocks: &Blocks) {
    let outcome = check(blocks, LIMIT);
    assert!(matches!(outcome, Outcome::Holds { .. }), "{outcome}");
}

#[track_caller]
fn duplicates_without(rule: Rule, blocks: Blocks) {
    let outcome = check(&blocks.without_rule(rule), LIMIT);
    assert!(matches!(outcome, Outcome::Broken { .. }), "without {rule:?} a duplicate was to be found, but: {outcome}");
}

#[track_caller]
fn leaks_without(rule: Rule, blocks: Blocks) {
    let outcome = check(&blocks.without_rule(rule), LIMIT);
    assert!(matches!(outcome, Outcome::Leak { .. }), "without {rule:?} a leak was to be found, but: {outcome}");
}

// === with all rules ===

#[test]
fn cells_taken_and_returned() {
    expect_holds(&second_pod_on_node());
}

#[test]
fn reboot_and_reimage() {
    expect_holds(&rebooted());
}

#[test]
fn disk_rolled_back_after_a_return() {
    expect_holds(&rolled_back());
}

#[test]
fn store_moved_away() {
    expect_holds(&wiped_node());
}

#[test]
fn restore() {
    expect_holds(&restored());
}

#[test]
fn a_claim_beside_cells() {
    expect_holds(&two_nodes().by_claim(1));
}

// === each rule left out ===

#[test]
fn empty() {
    duplicates_without(Rule::Empty, two_nodes());
}

#[test]
fn no_unreturn() {
    duplicates_without(Rule::NoUnreturn, two_nodes());
}

#[test]
fn unconfirmed() {
    duplicates_without(Rule::Unconfirmed, rolled_back());
}

/// The controller's DELETE is delayed, the node boots, reads that it owns the cell, allocates, and the DELETE arrives.
#[test]
fn confirm_write() {
    duplicates_without(Rule::ConfirmWrite, rebooted());
}

#[test]
fn preconditions() {
    duplicates_without(Rule::Uid, rebooted());
    duplicates_without(Rule::ResourceVersion, rebooted());
}

#[test]
fn cells() {
    duplicates_without(Rule::Cells, two_nodes().by_claim(1));
}

#[test]
fn store_id() {
    duplicates_without(Rule::StoreId, wiped_node());
}

#[test]
fn fence() {
    duplicates_without(Rule::Fence, two_nodes());
}

#[test]
fn fence_ends() {
    duplicates_without(Rule::FenceEnds, two_nodes().faults(Faults { reboot: 1, ..NONE }));
}

#[test]
fn a_false_fence_duplicates_with_all_rules() {
    let outcome = check(&two_nodes().faults(Faults { false_fence: 1, ..NONE }), LIMIT);
    assert!(matches!(outcome, Outcome::Broken { .. }), "{outcome}");
}

#[test]
fn freeze() {
    duplicates_without(Rule::Freeze, restored());
    duplicates_without(Rule::Reassert, restored().without_rule(Rule::Freeze));
    duplicates_without(Rule::ConfirmStrict, restored());
}

#[test]
fn intent_first() {
    // The sweep returns a cell whose answer is still under way.
    duplicates_without(Rule::IntentFirst, two_nodes());
}

#[test]
fn reverse_sweep() {
    leaks_without(Rule::ReverseSweep, rebooted());
}
