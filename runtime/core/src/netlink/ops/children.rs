//! Links of the container that one message makes: children of a parent (macvlan, ipvlan, VLAN), and dummies.
//!
//! They are made in the container's namespace at once, under their name: no move, no temporary name.

use nix::errno::Errno;
use rtnetlink::packet_route::link::{InfoMacVlan, IpVlanMode, LinkAttribute, LinkMessage, MacVlanMode};
use rtnetlink::{LinkDummy, LinkIpVlan, LinkMacVlan, LinkVlan};

use super::Session;
use crate::netlink::error::{Doing, Fault, NetlinkError};
use crate::netlink::rtnl::{Lookup, random_mac};
use crate::netlink::undo::Inverse;
use crate::plan::{CreateDummy, CreateIpvlan, CreateVlan, IpvlanMode, LinkRef, MacvlanMode, Op, Side};

/// How often an index is tried.
const ATTEMPTS: usize = 4;

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

    /// Sends the message that makes a link of the container. `parent` is the side whose indexes it speaks of.
    fn make_inside(&mut self, parent: Side, message: &LinkMessage, name: &str, kind: &str) -> Result<(), NetlinkError> {
        let link = LinkRef::container(name);
        let doing = || format!("failed to create {kind} {name:?}");
        let announced = match parent {
            Side::Container => self.rtnl(&link)?.create_link(message.clone()).doing(doing)?,
            Side::Host => {
                self.rtnl(&link)?;
                // Announced in the container's namespace, where the asking socket hears nothing.
                self.make_from_host(message, &link).doing(doing)?;
                None
            }
        };
        let found = match announced {
            Some(found) => found,
            None => self.link(&link)?.clone(),
        };
        self.log(format!("delete {link}"), Inverse::DeleteLink { side: Side::Container, index: found.index });
        self.made(link, found);
        Ok(())
    }

    /// Has the host make a link in the container.
    ///
    /// Kernels before 6.15 look for the new link's name in the namespace that asks, so that a host which has an `eth0` could not
    /// make one elsewhere. They look for its index instead where the message has one, so it gets one that nobody has.
    fn make_from_host(&self, message: &LinkMessage, link: &LinkRef) -> Result<(), Fault> {
        let Some(container) = &self.executor.container else { return Err(Fault::Broken("no container")) };
        let mut message = message.clone();
        message.attributes.push(LinkAttribute::NetNsFd(container.netns.raw_fd()));
        let mut outcome = self.executor.host.create_link(message.clone()).map(drop);
        for _attempt in 0..ATTEMPTS {
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

/// The name is taken, or the index is.
fn in_the_way(fault: &Fault) -> bool {
    fault.is_exists() || fault.errno() == Some(Errno::EBUSY)
}

/// Far above what kernels count up to by themselves.
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
