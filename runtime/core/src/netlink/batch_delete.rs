//! Deletes links of the host together. Unregistering one link waits for an RCU grace period (tens of milliseconds,
//! under the lock shared by all of networking), and unregistering many at once waits just as long
//! (`unregister_netdevice_many` in <https://elixir.bootlin.com/linux/v6.12/source/net/core/dev.c>). So concurrent DELs
//! put their links into one group, and the holder of the lock deletes the group.
//!
//! Invariants:
//! - Only links whose teardown has begun are marked. A crash leaves the mark; the repeated DEL deletes the link.
//! - The group is deleted only if every link in it also has weft's mark: the number alone could be an operator's.
//! - A DEL returns only when its own link is gone.
//! - No DEL waits for others longer than [`PATIENCE`]; then it deletes its own link alone.

use std::fs::File;
use std::time::Duration;

use rtnetlink::LinkUnspec;
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::link::LinkAttribute;

use super::fault::Fault;
use super::lock::NetnsLock;
use super::netns::OWN;
use super::rtnl::{ChangeMode, Lookup, Rtnl, change};

/// `IFLA_GROUP` of links that are being deleted: "weft". An operator's own groups are small numbers.
const GROUP: u32 = 0x7765_6674;

/// `ifalias` of such links.
const MARK: &str = "weft: being deleted";

/// How long a DEL waits for the lock.
const PATIENCE: Duration = Duration::from_secs(5);

/// Takes the lock of the host's namespace; without it every DEL deletes alone.
fn lock(patience: Duration) -> Option<NetnsLock> {
    NetnsLock::take(File::open(OWN).ok()?, patience).ok().flatten()
}

impl Rtnl {
    /// Deletes a link of the host, together with those of other waiting DELs. Returns `false` if it does not exist.
    pub(super) fn delete_in_turn(&self, index: u32) -> Result<bool, Fault> {
        if let Some(_lock) = lock(Duration::ZERO) {
            return self.delete_link(index);
        }
        if !self.mark(index)? {
            return Ok(false);
        }
        let _lock = lock(PATIENCE);
        match self.link(Lookup::Index(index))? {
            // The previous holder of the lock deleted it too.
            None => Ok(true),
            Some(_) => self.delete_marked(index),
        }
    }

    /// Deletes several links of the host at once; a missing link is not an error.
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

    /// Marks a link. Returns `false` if it does not exist.
    fn mark(&self, index: u32) -> Result<bool, Fault> {
        let message = change(index).append_extra_attribute(LinkAttribute::Group(GROUP)).alias(MARK).build();
        match self.set_link(message) {
            Ok(()) => Ok(true),
            Err(fault) if fault.is_absent() => Ok(false),
            Err(fault) => Err(fault),
        }
    }

    /// Deletes the group, unless somebody else uses its number, and then the link itself if it is left: one link that
    /// cannot be deleted keeps the whole group.
    fn delete_marked(&self, index: u32) -> Result<bool, Fault> {
        let group = self.links(None)?.into_iter().filter(|link| link.group == GROUP);
        if group.into_iter().all(|link| link.alias.as_deref() == Some(MARK)) {
            let group = LinkUnspec::new_with_index(0).append_extra_attribute(LinkAttribute::Group(GROUP)).build();
            self.change(RouteNetlinkMessage::DelLink(group), ChangeMode::Set).ok();
        }
        self.delete_link(index).map(|_left_over| true)
    }
}
