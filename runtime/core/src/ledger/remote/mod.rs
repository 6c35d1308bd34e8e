//! The node's side of a cluster ledger: what this node has requested, holds, and still has to give back.
//!
//! A row per attachment carries a nonce; a row per address holds the state of that address. The rules (their names are
//! those of the model in `tests/model`):
//! - `intent_first`: nonce and every address that will be tried are on disk before the first request leaves the node.
//! - `send_row`: a request for an address is sent only if its row is an intent at that instant.
//! - `commit_cas`: an intent becomes an entry, together with the journal entry, only if it is still that intent.
//! - `link_first`: a row becomes a tombstone only in the transaction that deletes the journal entry, after the links.
//! - A tombstone is deleted when the cluster no longer has its nonce (`Drained`).
//! - Cells have rows and rules of their own (`cells`).
//!
//! `weft` writes intents and commits them; the agent sends, drains and sweeps. Neither relies on the other being alive.
//!
//! Not here: the cluster ledger itself and its protocol (the agent), journal entries (`commit`).

mod agent;
mod cell_view;
mod cells;
mod check;
mod clock;
mod history;
mod intent;
mod rows;
mod types;
mod view;

pub use cell_view::{CellView, Looks, is_in};
pub use cells::{Cell, CellState, Span};
pub use clock::Clock;
pub use history::Seen;
pub use intent::IntentAsk;
pub use types::{AddressState, Answer, Owner, RemoteAddress, RemoteRow, Versions, scope};
pub use view::{RemoteView, Runs};

pub(crate) use cells::owned;
pub(crate) use check::{end_strays, inspect};
pub(crate) use intent::{commit, distrust, granted, hex, insert};
pub(crate) use rows::{abandon, end, of_other_boots, release, release_one};
