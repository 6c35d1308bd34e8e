//! The executor: applies plans to the kernel, undoes them, tears them down, compares them with what is there.
//!
//! All of it is netlink and `/proc/sys` (and D-Bus, for firewalld); no process is ever started. One [`Executor`] serves one
//! invocation: it opens the sockets it needs once. The container's, and the directories of its links' sysctls, are opened on a
//! thread of its own that enters the container's network namespace for that and ends.
//!
//! Invariants:
//! - Every op that changed something left its exact inverse in the undo log before the next op ran. A failed ADD leaves
//!   the host as it was, at whichever op it failed.
//! - What sits on a link that the plan made goes away with the link, and so needs no inverse of its own.
//! - What others may have come to rely on meanwhile (a bridge that has got another port, forwarding) is left alone by
//!   undo: breaking a neighbour is worse than a leftover it needs.
//! - Teardown needs the plan alone, takes nothing for granted, and knows a link by what the container cannot set (`locate`).
//!
//! Not here: what a plan should be (`delegate`), when one is applied (`attach`).

mod applied;
mod check;
mod conntrack;
mod device;
mod errno;
mod error;
mod executor;
mod fault;
mod firewalld;
mod identity;
mod inside;
mod inverse;
mod locate;
mod lock;
mod mass;
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
pub use check::{ChildDifference, Difference, Since, StepDifference};
pub use error::{ApplyError, NetlinkError, UndoError, in_use};
pub use executor::{Executor, Opening};
pub use identity::{in_new_netns, is_own_netns, netns_identity, own_netns_cookie};
pub use inside::in_netns;
pub use netns::{boot_id, netns_exists};
pub use netns_fault::NetnsFault;
pub use probe::link_address;
pub use sharing::Decide;
pub use survey::{
    Survivor, addresses_in_use, filter_generation, first_labelled, has_elements, label, parse_label, survivors,
};
