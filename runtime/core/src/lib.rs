//! weft's library. Only `attach` knows all the parts.
//!
//! ```text
//!  stdin JSON + CNI_* env
//!    |  cni        pure: wire format, versions, error codes
//!    |  conf       pure: the network that the configuration describes
//!  Call{verb, attachment, network}
//!    |  facts      read only: pod and node, links (netlink), claims (ledger view)
//!  Request
//!    |  policy     WASM, sandboxed, pure: Request -> Decision, with a read-only view of the ledger
//!  Decision
//!    |  verify     the host distrusts it
//!    |  ledger     claim + journal in one atomic commit
//!  Claim
//!    |  delegate   pure: conf + claim -> Plan(Vec<Op>); steps add their ops
//!  Plan
//!    |  netlink    apply, each op with its inverse in an undo log
//!  Applied -> CNI result JSON on stdout
//! ```

pub mod agent;
pub mod attach;
pub(crate) mod background;
pub mod cni;
pub mod command;
pub mod commit;
pub mod conf;
pub(crate) mod deadline;
pub mod delegate;
pub mod exec;
pub mod facts;
pub mod journal;
pub(crate) mod keys;
pub mod ledger;
pub mod log;
pub mod netlink;
pub(crate) mod phases;
pub mod plan;
pub mod pod;
pub mod policy;
pub mod private;
pub(crate) mod random;
pub mod step;
pub mod store;
pub(crate) mod text;
