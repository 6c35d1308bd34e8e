//! CHECK of a tap device: it is there, with its MTU and MAC, and a port of its bridge.

use super::Difference;
use crate::netlink::Executor;
use crate::netlink::check::children::check_mtu;
use crate::netlink::error::NetlinkError;
use crate::plan::{CreateTap, LinkRef};

impl Executor {
    pub(super) fn check_tap(&self, op: &CreateTap, found: &mut Vec<Difference>) -> Result<(), NetlinkError> {
        let link = LinkRef::container(op.name.as_str());
        let Some(there) = self.check_container_link(&link, "tun", op.mac, found)? else { return Ok(()) };
        check_mtu(&there, op.mtu, found);
        if let Some(bridge) = &op.bridge {
            let master = self.look(&LinkRef::container(bridge.as_str()))?;
            if master.is_none_or(|master| there.master != Some(master.index)) {
                found.push(Difference::NotAPort { link: op.name.clone(), bridge: bridge.clone() });
            }
        }
        Ok(())
    }
}
