//! The executor: applies plans to the kernel, undoes them, tears them down, and checks them.
//!
//! It only uses netlink and `/proc/sys` (and D-Bus, for firewalld), and never starts a process. One [`Executor`] serves
//! one invocation and opens its sockets once. The container's sockets, and the sysctl directories of its links, are
//! opened on a separate thread that enters the container's network namespace and ends.
//!
//! Invariants:
//! - An op that changes something records its exact inverse in the undo log before the next op runs. A failed ADD
//!   leaves the host in its previous state, whichever op failed.
//! - The properties of a link that the plan made disappear with the link, and need no inverse.
//! - Undo keeps what others may rely on by now (a bridge with another port, forwarding): breaking a neighbour is worse
//!   than leaving something behind.
//! - Teardown needs only the plan, assumes nothing, and identifies a link by properties that the container cannot set
//!   (`locate`).
//!
//! Not here: the contents of a plan (`delegate`), and when it is applied (`attach`).

mod applied;
mod batch_delete;
mod check;
mod conntrack;
mod container_access;
mod device;
mod errno;
mod error;
mod error_kind;
mod evidence;
mod executor;
mod fault;
mod firewalld;
mod found;
mod identity;
mod inverse;
mod locate;
mod lock;
mod netns;
mod netns_fault;
mod nft;
mod observe;
mod ops;
mod presence;
mod probe;
mod rtnl;
mod sharing;
mod survey;
mod sysctl;
mod sysfs;
mod teardown;
mod tun;
mod undo;
mod wire;

pub use crate::background::Job;
pub use applied::Applied;
pub use check::{ChildDifference, Difference, LaterChanges, StepDifference};
pub use container_access::in_netns;
pub use error::{ApplyError, NetlinkError, UndoError, in_use};
pub use evidence::trace_of_attachment;
pub use executor::{Executor, FilterSocket, Opening};
pub use identity::{in_new_netns, is_own_netns, is_path_of_other_pids, netns_cookie, netns_identity, own_netns_cookie};
pub use netns::{boot_id, netns_exists};
pub use netns_fault::NetnsFault;
pub use nft::FilterOf;
pub use probe::link_address;
pub use sharing::Decide;
pub use survey::{
    NamedNetns, Shaper, Survivor, addresses_in_use, filter_generation, found_filters, found_sources, label,
    parse_label, shapers, survivors,
};
