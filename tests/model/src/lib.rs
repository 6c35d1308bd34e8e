//! The cluster ledger's protocol as an explicit-state model.
//!
//! The checker visits every state that a few ADDs, agents, nodes and one API server can reach, in any order of their
//! steps and with a limited number of faults. It reports the shortest trace to a state that breaks an invariant, and
//! every state from which a clean one can no longer be reached without further faults (a leak).
//!
//! Rules and transitions have the same names as the code in `runtime/agent/src/claim` and
//! `runtime/core/src/ledger/remote`. Each rule can be left out, and the tests show what then goes wrong.
//!
//! Actors step independently of one another, so an agent that is idle for a while also models a node that is cut off. A
//! request stays under way after its client gave up, and may be executed late or twice; answers may be lost.
//!
//! `blocks` is the protocol of cells of addresses that a machine allocates locally. Its transitions were modelled
//! before they were implemented.
//!
//! Not modelled: cooldown, dual stack, hints, the runtime's list of sandboxes, the order of the controller's reads, and
//! the state `Conflict`. For the protocol, `Conflict` is the delete of a drained tombstone, with the same
//! preconditions, after which nobody creates the name for a while. A later change to such a claim is a delete that
//! names the version that was read, or `holderless_yields`.

pub mod blocks;
pub mod checker;
mod protocol;
pub mod rules;
pub mod scenario;
mod state;

pub use protocol::Protocol;
