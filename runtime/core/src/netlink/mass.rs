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
use std::time::Duration;

use rtnetlink::LinkUnspec;
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::link::LinkAttribute;

use super::error::Fault;
use super::lock::NetnsLock;
use super::netns::OWN;
use super::rtnl::{How, Lookup, Rtnl, change};

/// `IFLA_GROUP` of links that are being deleted: "weft". An operator's own groups are small numbers.
const DOOMED: u32 = 0x7765_6674;

/// How long a DEL waits for its turn.
const PATIENCE: Duration = Duration::from_secs(5);

/// The turn is the lock of the host's namespace; without it everybody deletes by himself.
fn turn(patience: Duration) -> Option<NetnsLock> {
    NetnsLock::take(File::open(OWN).ok()?, patience).ok().flatten()
}

impl Rtnl {
    /// Deletes a link of the host, together with those of other DELs that are waiting; `false` when there is none.
    pub(super) fn delete_in_turn(&self, index: u32) -> Result<bool, Fault> {
        if let Some(_turn) = turn(Duration::ZERO) {
            return self.delete_link(index);
        }
        if !self.doom(index)? {
            return Ok(false);
        }
        let _turn = turn(PATIENCE);
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
        let _turn = turn(PATIENCE);
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
