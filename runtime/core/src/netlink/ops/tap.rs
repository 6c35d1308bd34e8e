//! Tap devices of the container.

use super::Session;
use crate::netlink::error::{Doing, NetlinkError};
use crate::netlink::rtnl::{Lookup, change};
use crate::netlink::tun;
use crate::netlink::undo::Inverse;
use crate::plan::{CreateTap, LinkRef, Op, Side};

impl Session<'_> {
    pub(super) fn create_tap(&mut self, op: &CreateTap) -> Result<(), NetlinkError> {
        let Some(container) = &self.executor.container else {
            return Err(NetlinkError::NoContainer { op: Op::CreateTap(op.clone()).to_string() });
        };
        let link = LinkRef::container(op.name.as_str());
        let made = op.clone();
        container.netns.run_inside(move || tun::create(&made))??;
        let found = self.link(&link)?.clone();
        let index = found.index;
        self.log(format!("delete {link}"), Inverse::DeleteLink { side: Side::Container, index });
        self.made(link.clone(), found);
        let mut message = change(index);
        if let Some(mtu) = op.mtu {
            message = message.mtu(mtu);
        }
        if let Some(mac) = op.mac {
            message = message.address(mac.0.to_vec());
        }
        if op.mtu.is_some() || op.mac.is_some() {
            let doing = || format!("failed to set MTU or MAC address of tap {:?}", op.name);
            self.rtnl(&link)?.set_link(message.build()).doing(doing)?;
        }
        match &op.bridge {
            Some(bridge) => self.join_bridge_inside(&link, index, bridge),
            None => Ok(()),
        }
    }

    fn join_bridge_inside(&self, link: &LinkRef, index: u32, bridge: &str) -> Result<(), NetlinkError> {
        let rtnl = self.rtnl(link)?;
        let found = rtnl.link(Lookup::Name(bridge)).doing(|| format!("failed to get bridge {bridge}"))?;
        let found = found.ok_or_else(|| NetlinkError::NoBridgeInside { bridge: bridge.to_owned() })?;
        let doing = || format!("failed to set tap {} as a port of bridge {bridge}", link.name);
        rtnl.set_link(change(index).controller(found.index).build()).doing(doing)
    }
}
