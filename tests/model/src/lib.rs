//! The cluster ledger's protocol as an explicit-state model.
//!
//! The checker visits every state that a few ADDs, agents, nodes and one API server can reach, in any order of their steps
//! and with a bounded number of faults. It reports the shortest trace to a state that breaks an invariant, and every state
//! from which a clean one can no longer be reached without further faults (a leak).
//!
//! Rules and transitions have the names that the code in `runtime/agent/src/claim` and `runtime/core/src/ledger/remote` uses.
//! Each rule can be left out, and the tests show what goes wrong then.
//!
//! Actors step independently of one another, so an agent that is idle for a while is also a node that is cut off. A request
//! stays under way after its client gave up, and may be executed late or twice; answers may be lost.
//!
//! `blocks` is the protocol of cells of addresses that a machine gives out by itself. Its transitions stand here before they do in
//! the code.
//!
//! Not modelled: cooldown, dual stack, hints, the runtime's list of sandboxes, and the order of the controller's reads. Nor the state
//! `Conflict`: to the protocol it is the delete of a drained tombstone, with the same preconditions, after which nobody creates the
//! name for a while. What is done to such a claim later is a delete that names the version that was read, or `holderless_yields`.

pub mod blocks;
pub mod checker;
mod protocol;
pub mod rules;
pub mod scenario;
mod state;

pub use protocol::Protocol;
