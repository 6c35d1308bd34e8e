//! The cluster ledger: addresses that are unique in a whole cluster, at one write per address.
//!
//! A claim is one small object per address with a name derived from the address, so the backend's create-if-absent is
//! the commit. `docs/cluster-ledger.md` has the rules and what goes wrong without each; `tests/model` checks them.
//!
//! This module is the agent's part: it sends the requests of intents that `weft` wrote (`grant`), gives back tombstones
//! (`drain`), finds unknown claims (`sweep`), manages cells for block mode (`cells`), detects a restore (`history`,
//! `doubt`), and writes claims again after it (`reassert`, `remark`).
//!
//! Invariants: nothing is sent for a nonce whose row is not an intent at that instant; every update and delete carries
//! uid and version of the object on which it was decided; a holder is removed only by its own machine, or when that
//! machine is fenced.

mod any;
pub mod backend;
mod block;
mod cells;
mod check;
mod clock;
mod conflict;
mod controller;
mod deleted;
mod doubt;
mod drain;
mod grant;
mod history;
mod looks;
mod machine;
mod object;
mod operate;
mod persist;
mod pool;
mod reassert;
mod record;
mod remark;
mod remembered;
mod rest;
mod round;
mod service;
mod sweep;
mod taken;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod tests_adopt;
#[cfg(test)]
mod tests_cells;
#[cfg(test)]
mod tests_cells_lost;
#[cfg(test)]
mod tests_conflict;
#[cfg(test)]
mod tests_doubt;
#[cfg(test)]
mod tests_late;
#[cfg(test)]
mod tests_machines;
#[cfg(test)]
mod tests_persist;
#[cfg(test)]
mod tests_rebuild;
#[cfg(test)]
mod tests_refused;
#[cfg(test)]
mod tests_sweep;
#[cfg(test)]
mod tests_unreadable;
mod unreadable;
pub mod whereabouts;

pub use any::{AnyBackend, BackendError};
pub use backend::kubernetes::ClientSource;
pub use block::{Block, BlockHolder, BlockSpec, LedgerDomain};
pub use cells::{CellError, reclaim};
pub use check::{CheckOptions, Checked, Finding, Kind, check};
pub use conflict::collect_conflicts;
pub use controller::{ControllerOptions, control};
pub use deleted::{Missing, reclaim_deleted};
pub use doubt::resolve_doubt;
pub use drain::{DrainError, Drained, UNANSWERED, drain};
pub use grant::{Grant, GrantError, Granted};
pub use history::{History, Mark, Position};
pub use looks::Looks;
pub use machine::machine_id;
pub use object::{
    Claim, ClaimOwner, ClaimSpec, ClaimState, Holder, Identity, LedgerNode, LedgerState, OtherMachine, Persistent,
    Sharing, address_of, claim_name,
};
pub use operate::{Has, Operation, Reach, describe, run_operation, who_has};
pub use persist::collect_orphans;
pub use pool::{CellsView, PoolReach, PoolView, Usage, look_at_pools};
pub use reassert::{Conflict, Reasserted, drop_intents, reassert};
pub use remark::{RewrittenClaims, rewrite_claims};
pub use remembered::{Claimed, Remembered};
pub use rest::Rests;
pub use round::Refusal;
pub use service::{ClaimDoor, Claimant, Claims, Gate};
pub use sweep::{Swept, reverse_sweep};

/// Returns the seconds since 1970, only for ages.
fn now() -> u64 {
    weft_core::facts::now().unwrap_or_default()
}
