//! Tap devices of the container.

use super::{Operation, Session};
use crate::netlink::check::{Difference, LaterChanges, Made, check_mtu};
use crate::netlink::error::NetlinkError;
use crate::netlink::fault::Doing;
use crate::netlink::inverse::Inverse;
use crate::netlink::locate::Wanted;
use crate::netlink::rtnl::{Lookup, change};
use crate::netlink::{Executor, tun};
use crate::plan::{CreateTap, LinkRef, Op, Plan, Side};

impl Operation for CreateTap {
    fn apply(&self, session: &mut Session<'_>) -> Result<(), NetlinkError> {
        session.create_tap(self)
    }

    fn tear_down(&self, executor: &mut Executor, plan: &Plan) -> Result<(), NetlinkError> {
        let (name, index) = (self.name.as_str(), plan.link_index);
        executor.delete_container_link(&Wanted { name, index, kind: "tun", parent: None })
    }

    fn check(
        &self,
        executor: &mut Executor,
        since: &LaterChanges,
        found: &mut Vec<Difference>,
    ) -> Result<(), NetlinkError> {
        executor.check_tap(self, since, found)
    }
}

impl Session<'_> {
    pub(super) fn create_tap(&mut self, op: &CreateTap) -> Result<(), NetlinkError> {
        let Some(container) = &self.executor.container else {
            return Err(NetlinkError::NoContainer { op: Op::CreateTap(op.clone()).to_string() });
        };
        let link = LinkRef::container(op.name.as_str());
        let (made, index) = (op.clone(), self.plan.link_index);
        container.netns.run_inside(move || tun::create(&made, index))??;
        let found = self.made_link(&link)?;
        let index = found.index;
        self.log(format!("delete {link}"), Inverse::delete_link(Side::Container, index));
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

impl Executor {
    fn check_tap(&self, op: &CreateTap, since: &LaterChanges, found: &mut Vec<Difference>) -> Result<(), NetlinkError> {
        let made = Made { kind: "tun", index: since.link_index(), mac: op.mac };
        let link = LinkRef::container(op.name.as_str());
        let Some(there) = self.check_container_link(&link, &made, found)? else { return Ok(()) };
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
