//! Forgets the previous holders of addresses.

use super::{Operation, Session};
use crate::netlink::error::NetlinkError;
use crate::plan::{ForgetNeighbours, LinkRef};

impl Operation for ForgetNeighbours {
    fn apply(&self, session: &mut Session<'_>) -> Result<(), NetlinkError> {
        session.forget_neighbours(self);
        Ok(())
    }

    fn changes_links(&self) -> bool {
        false
    }
}

impl Session<'_> {
    /// Best effort: entries that cannot be deleted time out.
    pub(super) fn forget_neighbours(&mut self, op: &ForgetNeighbours) {
        let ForgetNeighbours { link, addresses, mac } = op;
        let link = LinkRef::host(link.as_str());
        // A link made by this plan has no neighbours yet.
        if !self.is_made(&link)
            && let Ok(index) = self.index(&link)
        {
            for address in addresses {
                self.executor.host.forget_neighbour(index, *address).ok();
            }
        }
        let Some((bridge, mac)) = mac else { return };
        let bridge = LinkRef::host(bridge.as_str());
        if !self.is_made(&bridge)
            && let Ok(index) = self.index(&bridge)
        {
            let ours = self.links.iter().find(|(_, link)| link.master == Some(index)).map(|(_, link)| link.index);
            self.executor.host.forget_port_of(index, *mac, ours).ok();
        }
    }
}
