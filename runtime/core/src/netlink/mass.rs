//! Deleting links of the host together: unregistering one waits for the kernel's readers to get out of the way (tens of
//! milliseconds, under the lock that all of networking shares), and unregistering many at once waits just as long. So DELs that
//! meet put their links into one group, and whoever's turn it is deletes the group.
//!
//! Invariants:
//! - Only links whose teardown has begun are ever in the group; a crash leaves one there for the next DEL, which is what its
//!   own DEL is repeated for anyway.
//! - A DEL goes on only when its own link is gone.
//! - Nobody waits for others for longer than [`PATIENCE`]; then it deletes its own link by itself.

use std::fs::File;
use std::time::{Duration, Instant};

use nix::fcntl::{Flock, FlockArg};
use rtnetlink::LinkUnspec;
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::link::LinkAttribute;

use super::error::Fault;
use super::netns::OWN;
use super::rtnl::{How, Lookup, Rtnl, change};

/// `IFLA_GROUP` of links that are being deleted: "weft". An operator's own groups are small numbers.
const DOOMED: u32 = 0x7765_6674;

/// How long a DEL waits for its turn.
const PATIENCE: Duration = Duration::from_secs(5);

/// The turn: a lock on the host's network namespace itself, so there is no file to be kept anywhere and the kernel drops it
/// however a process ends. (`presence` uses locks of another kind on it; the two do not see each other.)
struct Turn {
    _lock: Flock<File>,
}

impl Turn {
    /// The turn, if nobody has it.
    fn take() -> Option<Self> {
        let namespace = File::open(OWN).ok()?;
        Flock::lock(namespace, FlockArg::LockExclusiveNonblock).ok().map(|lock| Self { _lock: lock })
    }

    fn wait() -> Option<Self> {
        let start = Instant::now();
        let mut pause = Duration::from_millis(1);
        loop {
            match Self::take() {
                None if start.elapsed() < PATIENCE => std::thread::sleep(pause),
                turn => return turn,
            }
            pause = (pause * 2).min(Duration::from_millis(8));
        }
    }
}

impl Rtnl {
    /// Deletes a link of the host, together with those of other DELs that are waiting; `false` when there is none.
    pub(super) fn delete_in_turn(&self, index: u32) -> Result<bool, Fault> {
        if let Some(_turn) = Turn::take() {
            return self.delete_link(index);
        }
        if !self.doom(index)? {
            return Ok(false);
        }
        let _turn = Turn::wait();
        match self.link(Lookup::Index(index))? {
            // Whoever was before us took it along.
            None => Ok(true),
            Some(_) => self.delete_doomed(index),
        }
    }

    /// Deletes several links of the host at once; missing ones are no error.
    pub(super) fn delete_all(&self, indexes: &[u32]) -> Result<(), Fault> {
        let mut last = None;
        for &index in indexes {
            if self.doom(index)? {
                last = Some(index);
            }
        }
        let Some(last) = last else { return Ok(()) };
        let _turn = Turn::wait();
        self.delete_doomed(last)?;
        indexes.iter().try_for_each(|&index| self.delete_link(index).map(drop))
    }

    /// Puts a link into the group; `false` when there is none.
    fn doom(&self, index: u32) -> Result<bool, Fault> {
        match self.set_link(change(index).append_extra_attribute(LinkAttribute::Group(DOOMED)).build()) {
            Ok(()) => Ok(true),
            Err(fault) if fault.is_absent() => Ok(false),
            Err(fault) => Err(fault),
        }
    }

    /// Deletes the group, and sees to it that our own link is gone: a link that someone else put into the group and that
    /// cannot be deleted would keep all of it, and ours may have been taken out of it.
    fn delete_doomed(&self, index: u32) -> Result<bool, Fault> {
        let group = LinkUnspec::new_with_index(0).append_extra_attribute(LinkAttribute::Group(DOOMED)).build();
        self.change(RouteNetlinkMessage::DelLink(group), How::Set).ok();
        self.delete_link(index).map(|_left_over| true)
    }
}
