//! Deleting links of the host together: unregistering one waits for an RCU grace period (tens of milliseconds, under the lock that
//! all of networking shares), and unregistering many at once waits just as long (`unregister_netdevice_many` in
//! <https://elixir.bootlin.com/linux/v6.12/source/net/core/dev.c>). So DELs that meet put their links into one group, and the one
//! that holds the lock deletes the group.
//!
//! Invariants:
//! - Only links whose teardown has begun are marked. A crash leaves the mark; the repeated DEL deletes the link.
//! - The group is deleted only while every link in it has weft's mark besides: the number alone could be an operator's.
//! - A DEL returns only when its own link is gone.
//! - No DEL waits for others longer than [`PATIENCE`]; then it deletes its own link by itself.

use std::fs::File;
use std::time::Duration;

use rtnetlink::LinkUnspec;
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::link::LinkAttribute;

use super::fault::Fault;
use super::lock::NetnsLock;
use super::netns::OWN;
use super::rtnl::{How, Lookup, Rtnl, change};

/// `IFLA_GROUP` of links that are being deleted: "weft". An operator's own groups are small numbers.
const GROUP: u32 = 0x7765_6674;

/// `ifalias` of such links.
const MARK: &str = "weft: being deleted";

/// How long a DEL waits for the lock.
const PATIENCE: Duration = Duration::from_secs(5);

/// The lock of the host's namespace; without it every DEL deletes by itself.
fn lock(patience: Duration) -> Option<NetnsLock> {
    NetnsLock::take(File::open(OWN).ok()?, patience).ok().flatten()
}

impl Rtnl {
    /// Deletes a link of the host, together with those of other DELs that are waiting; `false` when there is none.
    pub(super) fn delete_in_turn(&self, index: u32) -> Result<bool, Fault> {
        if let Some(_lock) = lock(Duration::ZERO) {
            return self.delete_link(index);
        }
        if !self.mark(index)? {
            return Ok(false);
        }
        let _lock = lock(PATIENCE);
        match self.link(Lookup::Index(index))? {
            // The DEL that held the lock before took it along.
            None => Ok(true),
            Some(_) => self.delete_marked(index),
        }
    }

    /// Deletes several links of the host at once; missing ones are no error.
    pub(super) fn delete_all(&self, indexes: &[u32]) -> Result<(), Fault> {
        let mut last = None;
        for &index in indexes {
            if self.mark(index)? {
                last = Some(index);
            }
        }
        let Some(last) = last else { return Ok(()) };
        let _lock = lock(PATIENCE);
        self.delete_marked(last)?;
        indexes.iter().try_for_each(|&index| self.delete_link(index).map(drop))
    }

    /// Marks a link; `false` when there is none.
    fn mark(&self, index: u32) -> Result<bool, Fault> {
        let message = change(index).append_extra_attribute(LinkAttribute::Group(GROUP)).alias(MARK).build();
        match self.set_link(message) {
            Ok(()) => Ok(true),
            Err(fault) if fault.is_absent() => Ok(false),
            Err(fault) => Err(fault),
        }
    }

    /// Deletes the group, unless somebody else uses its number, and then what is left of the link itself: one link of the group
    /// that cannot be deleted keeps all of it.
    fn delete_marked(&self, index: u32) -> Result<bool, Fault> {
        let group = self.links(None)?.into_iter().filter(|link| link.group == GROUP);
        if group.into_iter().all(|link| link.alias.as_deref() == Some(MARK)) {
            let group = LinkUnspec::new_with_index(0).append_extra_attribute(LinkAttribute::Group(GROUP)).build();
            self.change(RouteNetlinkMessage::DelLink(group), How::Set).ok();
        }
        self.delete_link(index).map(|_left_over| true)
    }
}
