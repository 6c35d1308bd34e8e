//! Links of the container that a single message makes: children of a parent (macvlan, ipvlan, VLAN), and dummies.
//!
//! They are made directly in the container's namespace with their final name: no move, no temporary name.

use nix::errno::Errno;
use rtnetlink::packet_route::link::{InfoMacVlan, IpVlanMode, LinkAttribute, LinkMessage, MacVlanMode};
use rtnetlink::{LinkDummy, LinkIpVlan, LinkMacVlan, LinkVlan};

use super::{Operation, Session};
use crate::netlink::Executor;
use crate::netlink::check::{ChildDifference, Difference, LaterChanges, Made, check_mtu};
use crate::netlink::error::NetlinkError;
use crate::netlink::fault::{Doing, Fault};
use crate::netlink::inverse::Inverse;
use crate::netlink::locate::Wanted;
use crate::netlink::rtnl::{Child, Lookup, random_mac};
use crate::plan::{CreateDummy, CreateIpvlan, CreateVlan, IpvlanMode, LinkRef, Mac, MacvlanMode, Op, Plan, Side};

/// How many indexes are tried.
const ATTEMPTS: usize = 4;

/// A macvlan.
pub(super) struct Macvlan<'a> {
    pub(super) op: &'a Op,
    pub(super) name: &'a str,
    pub(super) parent: &'a LinkRef,
    pub(super) mac: Option<Mac>,
}

impl Operation for Macvlan<'_> {
    fn apply(&self, session: &mut Session<'_>) -> Result<(), NetlinkError> {
        session.create_macvlan(self.op)
    }

    fn tear_down(&self, executor: &mut Executor, plan: &Plan) -> Result<(), NetlinkError> {
        let (name, index, parent) = (self.name, plan.link_index, Some(self.parent));
        executor.delete_container_link(&Wanted { name, index, kind: "macvlan", parent })
    }

    fn check(
        &self,
        executor: &mut Executor,
        since: &LaterChanges,
        found: &mut Vec<Difference>,
    ) -> Result<(), NetlinkError> {
        let made = Made { kind: "macvlan", index: since.link_index(), mac: since.mac(self.name, self.mac) };
        executor.check_container_link(&LinkRef::container(self.name), &made, found).map(drop)
    }
}

impl Operation for CreateIpvlan {
    fn apply(&self, session: &mut Session<'_>) -> Result<(), NetlinkError> {
        session.create_ipvlan(self)
    }

    fn tear_down(&self, executor: &mut Executor, plan: &Plan) -> Result<(), NetlinkError> {
        let (name, index, parent) = (self.name.as_str(), plan.link_index, Some(&self.parent));
        executor.delete_container_link(&Wanted { name, index, kind: "ipvlan", parent })
    }

    fn check(
        &self,
        executor: &mut Executor,
        since: &LaterChanges,
        found: &mut Vec<Difference>,
    ) -> Result<(), NetlinkError> {
        executor.check_ipvlan(self, since, found)
    }
}

impl Operation for CreateVlan {
    fn apply(&self, session: &mut Session<'_>) -> Result<(), NetlinkError> {
        session.create_vlan(self)
    }

    fn tear_down(&self, executor: &mut Executor, plan: &Plan) -> Result<(), NetlinkError> {
        let (name, index, parent) = (self.name.as_str(), plan.link_index, Some(&self.parent));
        executor.delete_container_link(&Wanted { name, index, kind: "vlan", parent })
    }

    fn check(
        &self,
        executor: &mut Executor,
        since: &LaterChanges,
        found: &mut Vec<Difference>,
    ) -> Result<(), NetlinkError> {
        executor.check_vlan(self, since, found)
    }
}

impl Operation for CreateDummy {
    fn apply(&self, session: &mut Session<'_>) -> Result<(), NetlinkError> {
        session.create_dummy(self)
    }

    fn tear_down(&self, executor: &mut Executor, plan: &Plan) -> Result<(), NetlinkError> {
        let (name, index) = (self.name.as_str(), plan.link_index);
        executor.delete_container_link(&Wanted { name, index, kind: "dummy", parent: None })
    }

    fn check(
        &self,
        executor: &mut Executor,
        since: &LaterChanges,
        found: &mut Vec<Difference>,
    ) -> Result<(), NetlinkError> {
        let made = Made { kind: "dummy", index: since.link_index(), mac: None };
        executor.check_container_link(&LinkRef::container(self.name.as_str()), &made, found).map(drop)
    }
}

impl Session<'_> {
    pub(super) fn create_macvlan(&mut self, op: &Op) -> Result<(), NetlinkError> {
        let Op::CreateMacvlan { name, parent, mode, mtu, mac, bc_queue_len } = op else { return Ok(()) };
        let mut builder = LinkMacVlan::new(name, self.index(parent)?, macvlan_mode(*mode));
        if let Some(mtu) = mtu {
            builder = builder.mtu(*mtu);
        }
        if let Some(mac) = mac {
            builder = builder.address(mac.0.to_vec());
        }
        if let Some(length) = bc_queue_len {
            builder = builder.append_info_data(InfoMacVlan::BcQueueLen(*length));
        }
        self.make_inside(parent.side, &builder.build(), name, "macvlan")
    }

    pub(super) fn create_ipvlan(&mut self, op: &CreateIpvlan) -> Result<(), NetlinkError> {
        let mut builder = LinkIpVlan::new(&op.name, self.index(&op.parent)?, ipvlan_mode(op.mode));
        if let Some(mtu) = op.mtu {
            builder = builder.mtu(mtu);
        }
        self.make_inside(op.parent.side, &builder.build(), &op.name, "ipvlan")
    }

    pub(super) fn create_vlan(&mut self, op: &CreateVlan) -> Result<(), NetlinkError> {
        let mut builder = LinkVlan::new(&op.name, self.index(&op.parent)?, op.id);
        if let Some(mtu) = op.mtu {
            builder = builder.mtu(mtu);
        }
        self.make_inside(op.parent.side, &builder.build(), &op.name, "vlan")
    }

    pub(super) fn create_dummy(&mut self, op: &CreateDummy) -> Result<(), NetlinkError> {
        self.make_inside(Side::Container, &LinkDummy::new(&op.name).build(), &op.name, "dummy")
    }

    /// Sends the message that makes a link of the container. `parent` is the side to which its indexes refer.
    fn make_inside(&mut self, parent: Side, message: &LinkMessage, name: &str, kind: &str) -> Result<(), NetlinkError> {
        let link = LinkRef::container(name);
        let doing = || format!("failed to create {kind} {name:?}");
        let mut message = message.clone();
        message.header.index = self.plan.link_index.unwrap_or_default();
        let announced = match parent {
            Side::Container => self.rtnl(&link)?.create_link(message).doing(doing)?,
            Side::Host => {
                self.rtnl(&link)?;
                // The link is announced in the container's namespace, which the requesting socket does not see.
                self.make_from_host(message, &link).doing(doing)?;
                None
            }
        };
        let found = match announced {
            Some(found) => found,
            None => self.made_link(&link)?,
        };
        self.log(format!("delete {link}"), Inverse::delete_link(Side::Container, found.index));
        self.made(link, found);
        Ok(())
    }

    /// Makes a link in the container with the host's socket.
    ///
    /// Kernels before 6.15 look for the new link's name in the requesting namespace, so that a host with an `eth0`
    /// could not make one elsewhere. If the message has an index, they look for that instead (`__rtnl_newlink` in
    /// <https://elixir.bootlin.com/linux/v6.12/source/net/core/rtnetlink.c>), so a plan without an index gets an unused
    /// one.
    fn make_from_host(&self, mut message: LinkMessage, link: &LinkRef) -> Result<(), Fault> {
        let Some(container) = &self.executor.container else { return Err(Fault::Broken("no container")) };
        message.attributes.push(LinkAttribute::NetNsFd(container.netns.raw_fd()));
        let mut outcome = self.executor.host.create_link(message.clone()).map(drop);
        let attempts = if self.plan.link_index.is_some() { 0 } else { ATTEMPTS };
        for _attempt in 0..attempts {
            match &outcome {
                Err(fault) if in_the_way(fault) && container.rtnl.link(Lookup::Name(&link.name))?.is_none() => {
                    message.header.index = free_index();
                    outcome = self.executor.host.create_link(message.clone()).map(drop);
                }
                _ => break,
            }
        }
        outcome
    }
}

/// Returns whether the name or the index is taken.
fn in_the_way(fault: &Fault) -> bool {
    fault.is_exists() || fault.errno() == Some(Errno::EBUSY)
}

/// Returns an index far above those that kernels assign themselves.
fn free_index() -> u32 {
    let [a, b, c, ..] = random_mac().0;
    (1 << 24) | u32::from_be_bytes([0, a, b, c])
}

fn macvlan_mode(mode: MacvlanMode) -> MacVlanMode {
    match mode {
        MacvlanMode::Bridge => MacVlanMode::Bridge,
        MacvlanMode::Private => MacVlanMode::Private,
        MacvlanMode::Vepa => MacVlanMode::Vepa,
        MacvlanMode::Passthru => MacVlanMode::Passthrough,
    }
}

fn ipvlan_mode(mode: IpvlanMode) -> IpVlanMode {
    match mode {
        IpvlanMode::L2 => IpVlanMode::L2,
        IpvlanMode::L3 => IpVlanMode::L3,
        IpvlanMode::L3s => IpVlanMode::L3S,
    }
}

impl Executor {
    fn check_ipvlan(
        &self,
        op: &CreateIpvlan,
        since: &LaterChanges,
        found: &mut Vec<Difference>,
    ) -> Result<(), NetlinkError> {
        self.check_parent(&op.parent, found)?;
        let link = LinkRef::container(op.name.as_str());
        let made = Made { kind: "ipvlan", index: since.link_index(), mac: None };
        let Some(there) = self.check_container_link(&link, &made, found)? else { return Ok(()) };
        let have = match there.child {
            Some(Child::Ipvlan(mode)) => mode,
            _ => None,
        };
        if have != Some(op.mode) {
            found.push(Difference::Child(ChildDifference::Mode { want: op.mode, have }));
        }
        check_mtu(&there, op.mtu, found);
        Ok(())
    }

    fn check_vlan(
        &self,
        op: &CreateVlan,
        since: &LaterChanges,
        found: &mut Vec<Difference>,
    ) -> Result<(), NetlinkError> {
        self.check_parent(&op.parent, found)?;
        let link = LinkRef::container(op.name.as_str());
        let made = Made { kind: "vlan", index: since.link_index(), mac: None };
        let Some(there) = self.check_container_link(&link, &made, found)? else { return Ok(()) };
        let have = match there.child {
            Some(Child::Vlan(id)) => Some(id),
            _ => None,
        };
        if have != Some(op.id) {
            found.push(Difference::Child(ChildDifference::Vlan { link: op.name.clone(), want: op.id, have }));
        }
        check_mtu(&there, op.mtu, found);
        Ok(())
    }

    fn check_parent(&self, parent: &LinkRef, found: &mut Vec<Difference>) -> Result<(), NetlinkError> {
        if self.look(parent)?.is_none() {
            found.push(Difference::Child(ChildDifference::NoParent { parent: parent.clone() }));
        }
        Ok(())
    }
}
