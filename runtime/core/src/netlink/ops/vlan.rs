//! VLANs of bridge ports, and the host veth with a VLAN's gateway.

use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::link::{
    AfSpecBridge, BridgeVlanInfo, BridgeVlanInfoFlags, InfoData, InfoVeth, LinkAttribute,
};
use rtnetlink::{LinkBridgeVlan, LinkUnspec, LinkVeth};

use super::{Operation, Session};
use crate::netlink::check::{Difference, LaterChanges};
use crate::netlink::error::NetlinkError;
use crate::netlink::fault::{Doing, Fault};
use crate::netlink::inverse::Inverse;
use crate::netlink::rtnl::{ChangeMode, Lookup, Rtnl, change};
use crate::netlink::{Executor, sysctl};
use crate::plan::{LinkRef, Side};

/// The range of VLAN ids.
const FIRST: u16 = 1;
const LAST: u16 = 4094;

/// Maximum number of VLANs in one message: one attribute each, well below a page.
const BATCH: usize = 256;

/// VLANs of a bridge port.
pub(super) struct Port<'a> {
    pub(super) link: &'a str,
    pub(super) drop_existing: bool,
    pub(super) pvid: Option<u16>,
    pub(super) tagged: &'a [u16],
}

/// The host veth with a VLAN's gateway.
pub(super) struct Gateway<'a> {
    pub(super) bridge: &'a str,
    pub(super) vlan: u16,
    pub(super) name: &'a str,
    pub(super) peer: &'a str,
    pub(super) drop_existing: bool,
}

impl Operation for Port<'_> {
    fn apply(&self, session: &mut Session<'_>) -> Result<(), NetlinkError> {
        session.bridge_vlans(self.link, self.drop_existing, self.pvid, self.tagged)
    }

    fn check(
        &self,
        executor: &mut Executor,
        _since: &LaterChanges,
        found: &mut Vec<Difference>,
    ) -> Result<(), NetlinkError> {
        executor.check_vlans(self.link, self.pvid, self.tagged, found)
    }
}

impl Operation for Gateway<'_> {
    fn apply(&self, session: &mut Session<'_>) -> Result<(), NetlinkError> {
        session.ensure_vlan_gateway(self.bridge, (self.vlan, self.drop_existing), self.name, self.peer)
    }

    fn check(
        &self,
        executor: &mut Executor,
        _since: &LaterChanges,
        found: &mut Vec<Difference>,
    ) -> Result<(), NetlinkError> {
        let link = LinkRef::host(self.name);
        if executor.look(&link)?.is_none() {
            found.push(Difference::NoLink { link });
        }
        Ok(())
    }
}

impl Session<'_> {
    pub(super) fn bridge_vlans(
        &mut self,
        name: &str,
        drop_existing: bool,
        pvid: Option<u16>,
        tagged: &[u16],
    ) -> Result<(), NetlinkError> {
        let link = LinkRef::host(name);
        let index = self.index(&link)?;
        let host = &self.executor.host;
        if !self.is_made(&link) {
            let before = host.port_vlans(index).doing(|| format!("failed to list the VLANs of {name:?}"))?;
            let inverse = Inverse::from_action(move |executor| executor.restore_vlans(index, before));
            self.log(format!("restore the VLANs of {name}"), inverse);
        }
        let host = &self.executor.host;
        if drop_existing {
            host.drop_vlans(index).doing(|| format!("failed to remove the VLANs of {name:?}"))?;
        }
        let access =
            pvid.map(|vid| BridgeVlanInfo { vid, flags: BridgeVlanInfoFlags::Pvid | BridgeVlanInfoFlags::Untagged });
        // A VLAN in both lists remains the access VLAN: adding it as tagged would remove its flags.
        let trunk = tagged.iter().filter(|vid| Some(**vid) != pvid);
        let trunk = trunk.map(|vid| BridgeVlanInfo { vid: *vid, flags: BridgeVlanInfoFlags::empty() });
        let vlans: Vec<_> = access.into_iter().chain(trunk).collect();
        host.add_vlans(index, &vlans).doing(|| format!("failed to setup VLANs on port {name:?}"))
    }

    /// Makes a veth pair of the host whose peer is an access port of the bridge, like the reference plugin. Two ADDs
    /// may do this at once; the second one finds the other's.
    pub(super) fn ensure_vlan_gateway(
        &mut self,
        bridge: &str,
        (vlan, drop_existing): (u16, bool),
        name: &str,
        peer: &str,
    ) -> Result<(), NetlinkError> {
        let doing = || format!("failed to create vlan gateway {name:?}");
        if self.executor.exists(Side::Host, Lookup::Name(name))? {
            return Ok(());
        }
        let found = self.link(&LinkRef::host(bridge))?;
        let (master, mtu) = (found.index, found.mtu);
        let mut unless = self.executor.newcomers(Some(master))?;
        let host = &self.executor.host;
        // The far end comes up later: before the kernel knows its other end, it refuses this (ENOTCONN).
        let far = LinkUnspec::new_with_name(peer).mtu(mtu).build();
        let message =
            LinkVeth::new(name, peer).mtu(mtu).up().set_info_data(InfoData::Veth(InfoVeth::Peer(far))).build();
        let near = LinkRef::host(name);
        let announced = match host.create_link(message) {
            Ok(announced) => announced,
            Err(fault) if fault.is_exists() && self.executor.exists(Side::Host, Lookup::Name(name))? => return Ok(()),
            Err(fault) => return Err(fault.doing(doing())),
        };
        let found = match announced {
            Some(found) => found,
            None => self.link(&near)?.clone(),
        };
        let inverse = Inverse::delete_link(Side::Host, found.index);
        self.made(near, found);
        let index = self.index(&LinkRef::host(peer));
        // The port that joins the bridge next is this op's own, not that of an attachment that relies on the gateway.
        unless.known.extend(index.as_ref().ok());
        self.log_shared(format!("delete {name}"), inverse, unless);
        let index = index?;
        for end in [name, peer] {
            sysctl::write(&format!("ipv6/conf/{end}/accept_ra"), "0").ok();
        }
        let host = &self.executor.host;
        host.set_link(change(index).controller(master).up().build())
            .doing(|| format!("failed to connect {peer:?} to bridge {bridge}"))?;
        if drop_existing {
            host.drop_vlans(index).doing(doing)?;
        }
        let access = BridgeVlanInfo { vid: vlan, flags: BridgeVlanInfoFlags::Pvid | BridgeVlanInfoFlags::Untagged };
        host.add_vlans(index, &[access]).doing(doing)
    }
}

// === impl Rtnl ===

impl Rtnl {
    /// Returns the VLANs of a port, including PVID and untagged flags.
    pub(in crate::netlink) fn port_vlans(&self, index: u32) -> Result<Vec<BridgeVlanInfo>, Fault> {
        let ports = self.bridge_ports()?;
        let specs = ports.into_iter().filter(|port| port.header.index == index).flat_map(|port| port.attributes);
        let specs = specs.filter_map(|attribute| match attribute {
            LinkAttribute::AfSpecBridge(specs) => Some(specs),
            _ => None,
        });
        Ok(specs
            .flatten()
            .filter_map(|spec| match spec {
                AfSpecBridge::VlanInfo(info) => Some(info),
                _ => None,
            })
            .collect())
    }

    /// Deletes all VLANs of a port: the kernel skips missing ones in the range, which is cheaper than a query, which
    /// would list all ports of all bridges.
    pub(in crate::netlink) fn drop_vlans(&self, index: u32) -> Result<(), Fault> {
        let message = LinkBridgeVlan::new(index)
            .vlan_range_start(FIRST, BridgeVlanInfoFlags::empty())
            .vlan_range_end(LAST, BridgeVlanInfoFlags::empty())
            .build();
        self.change(RouteNetlinkMessage::DelLink(message), ChangeMode::Set)
    }

    /// Adds VLANs to a port.
    pub(in crate::netlink) fn add_vlans(&self, index: u32, vlans: &[BridgeVlanInfo]) -> Result<(), Fault> {
        vlans.chunks(BATCH).try_for_each(|some| {
            let message =
                some.iter().fold(LinkBridgeVlan::new(index), |builder, vlan| builder.vlan(vlan.vid, vlan.flags));
            self.change(RouteNetlinkMessage::SetLink(message.build()), ChangeMode::Set)
        })
    }
}

// === impl Executor ===

impl Executor {
    /// Sets exactly these VLANs on a port.
    pub(in crate::netlink) fn restore_vlans(
        &self,
        index: u32,
        before: Vec<BridgeVlanInfo>,
    ) -> Result<(), NetlinkError> {
        let doing = || "failed to restore the VLANs of a port";
        match self.host.drop_vlans(index).and_then(|()| self.host.add_vlans(index, &before)) {
            Err(fault) if fault.is_absent() => Ok(()),
            other => other.doing(doing),
        }
    }
}

impl Executor {
    /// Returns whether a link exists.
    fn exists(&self, side: Side, lookup: Lookup<'_>) -> Result<bool, NetlinkError> {
        match self.rtnl(side) {
            Some(rtnl) => Ok(rtnl.link(lookup).doing(|| "failed to lookup a link")?.is_some()),
            None => Ok(false),
        }
    }
}

impl Executor {
    fn check_vlans(
        &self,
        name: &str,
        pvid: Option<u16>,
        tagged: &[u16],
        found: &mut Vec<Difference>,
    ) -> Result<(), NetlinkError> {
        use rtnetlink::packet_route::link::BridgeVlanInfoFlags as Flags;
        let Some(port) = self.look(&LinkRef::host(name))? else { return Ok(()) };
        let there = self.host.port_vlans(port.index).doing(|| format!("failed to list the VLANs of {name:?}"))?;
        let access = |vid: u16| there.iter().any(|vlan| vlan.vid == vid && vlan.flags.contains(Flags::Pvid));
        let member = |vid: &u16| there.iter().any(|vlan| vlan.vid == *vid);
        if !pvid.is_none_or(access) || !tagged.iter().all(member) {
            found.push(Difference::Vlans { link: name.to_owned() });
        }
        Ok(())
    }
}
