//! CHECK: what of a plan netlink does not show.

mod children;
mod device;
mod difference;
mod filter;
mod since;
mod step_difference;
mod steps;
mod tap;

pub use children::ChildDifference;
pub use difference::Difference;
pub use since::Since;
pub use step_difference::StepDifference;

use ipnet::IpNet;
use weft_host_abi::types::Route;

use super::Executor;
use super::error::{Doing, NetlinkError};
use super::rtnl::{DEFAULT_TABLE, Link, Lookup, RouteSpec};
use crate::plan::{Family, LinkRef, Mac, Op, Plan};

impl Executor {
    /// Compares a plan that was applied with what netlink shows.
    ///
    /// Sysctls of the container are its own business and not compared, except those the host depends on.
    ///
    /// # Errors
    /// The kernel refuses to show something.
    pub fn check(&mut self, plan: &Plan) -> Result<Vec<Difference>, NetlinkError> {
        self.check_since(plan, &Since::default())
    }

    /// As `check`, of a plan after which other plugins of the chain had their turn.
    ///
    /// # Errors
    /// As `check`.
    pub fn check_since(&mut self, plan: &Plan, since: &Since) -> Result<Vec<Difference>, NetlinkError> {
        let since = since.clone().and(&plan.ops);
        let mut differences = Vec::new();
        for op in &plan.ops {
            self.check_op(op, &since, &mut differences)?;
        }
        for difference in &mut differences {
            if let Difference::NoHostLink { name, bridge } = difference {
                *bridge = plan.ops.iter().find_map(|op| match op {
                    Op::BridgePort { link, bridge, .. } if link == name => Some(bridge.clone()),
                    _ => None,
                });
            }
        }
        Ok(differences)
    }

    fn check_op(&mut self, op: &Op, since: &Since, found: &mut Vec<Difference>) -> Result<(), NetlinkError> {
        match op {
            Op::EnsureBridge { name, promisc, .. } => self.check_bridge(name, *promisc, found),
            Op::CreateVeth { container, host, mac, .. } => {
                self.check_veth(container, host, since.mac(container, *mac), found)
            }
            Op::CreateMacvlan { name, mac, .. } => {
                let link = LinkRef::container(name.as_str());
                self.check_container_link(&link, "macvlan", since.mac(name, *mac), found).map(drop)
            }
            Op::CreateIpvlan(op) => self.check_ipvlan(op, found),
            Op::CreateVlan(op) => self.check_vlan(op, found),
            Op::CreateTap(op) => self.check_tap(op, found),
            Op::TakeDevice(op) => self.check_device(op, found),
            Op::CreateDummy(op) => {
                self.check_container_link(&LinkRef::container(op.name.as_str()), "dummy", None, found).map(drop)
            }
            Op::BridgePort { link, bridge, hairpin, isolated } => {
                self.check_port(link, bridge, (*hairpin, *isolated), found)
            }
            Op::BridgeVlans { link, pvid, tagged, .. } => self.check_vlans(link, *pvid, tagged, found),
            Op::EnsureVlanGateway { name, .. } => {
                let link = LinkRef::host(name.as_str());
                if self.look(&link)?.is_none() {
                    found.push(Difference::NoLink { link });
                }
                Ok(())
            }
            Op::AddAddress { link, address } => self.check_address(link, *address, Some(since), found),
            Op::EnsureAddress { link, address, .. } => {
                self.check_address(&LinkRef::host(link.as_str()), *address, None, found)
            }
            Op::LinkUp { link } => self.check_up(link, found),
            Op::AddRoute { link, route, .. } => self.check_route(link, route, since, found),
            Op::Forwarding { family } => filter::check_forwarding(*family, found),
            Op::Masquerade { .. }
            | Op::MacSpoofCheck { .. }
            | Op::HostPort(_)
            | Op::Accept(_)
            | Op::IngressPolicy(_) => self.check_filters(op, found),
            Op::RouteLocalnet(route) => self.check_route_localnet(route, found),
            Op::FirewalldSource(source) => self.check_firewalld(source, found),
            Op::Sysctl { .. }
            | Op::EnableIpv6 { .. }
            | Op::WaitAddresses { .. }
            | Op::DropConnectedRoute { .. }
            | Op::DropDefaultRoutes { .. }
            | Op::PinMac { .. }
            | Op::WaitPort { .. }
            | Op::ForgetNeighbours(_)
            | Op::Announce { .. } => Ok(()),
            step => self.check_step(step, found),
        }
    }

    fn check_up(&self, link: &LinkRef, found: &mut Vec<Difference>) -> Result<(), NetlinkError> {
        match self.look(link)? {
            Some(there) if there.up => {}
            Some(_) => found.push(Difference::Down { link: link.clone() }),
            None => found.push(Difference::NoLink { link: link.clone() }),
        }
        Ok(())
    }

    fn look(&self, link: &LinkRef) -> Result<Option<Link>, NetlinkError> {
        let Some(rtnl) = self.rtnl(link.side) else {
            return Err(NetlinkError::NoContainer { op: format!("looking at {link}") });
        };
        rtnl.link(Lookup::Name(&link.name)).doing(|| format!("failed to lookup {link}"))
    }

    fn check_bridge(&self, name: &str, promisc: bool, found: &mut Vec<Difference>) -> Result<(), NetlinkError> {
        let name = name.to_owned();
        match self.look(&LinkRef::host(name.as_str()))? {
            None => found.push(Difference::NoBridge { name }),
            Some(link) if link.kind != "bridge" => found.push(Difference::NotABridge { name }),
            Some(link) if promisc && !link.promisc => found.push(Difference::Promisc { name }),
            Some(_) => {}
        }
        Ok(())
    }

    fn check_veth(
        &self,
        container: &str,
        host: &str,
        mac: Option<Mac>,
        found: &mut Vec<Difference>,
    ) -> Result<(), NetlinkError> {
        let far = self.check_container_link(&LinkRef::container(container), "veth", mac, found)?;
        let near = self.look(&LinkRef::host(host))?.filter(|near| near.kind == "veth");
        match (near, far) {
            (None, _) => found.push(Difference::NoHostLink { name: host.to_owned(), bridge: None }),
            (Some(near), Some(far)) if near.other != Some(far.index) || far.other != Some(near.index) => {
                found.push(Difference::NotPeers { container: container.to_owned(), host: host.to_owned() });
            }
            _ => {}
        }
        Ok(())
    }

    fn check_container_link(
        &self,
        link: &LinkRef,
        kind: &str,
        mac: Option<Mac>,
        found: &mut Vec<Difference>,
    ) -> Result<Option<Link>, NetlinkError> {
        let there = self.look(link)?.filter(|there| there.kind == kind);
        match (&there, mac) {
            (None, _) => found.push(Difference::NoContainerLink { name: link.name.clone() }),
            (Some(there), Some(want)) if there.mac != Some(want) => {
                found.push(Difference::Mac { link: link.clone(), want, have: there.mac });
            }
            _ => {}
        }
        Ok(there)
    }

    fn check_port(
        &self,
        link: &str,
        bridge: &str,
        flags: (bool, bool),
        found: &mut Vec<Difference>,
    ) -> Result<(), NetlinkError> {
        // A missing one is reported by the ops that made them.
        let (Some(port), Some(master)) = (self.look(&LinkRef::host(link))?, self.look(&LinkRef::host(bridge))?) else {
            return Ok(());
        };
        if port.master != Some(master.index) {
            found.push(Difference::NotAPort { link: link.to_owned(), bridge: bridge.to_owned() });
        } else if (port.hairpin, port.isolated) != flags {
            found.push(Difference::PortFlags { link: link.to_owned() });
        }
        Ok(())
    }

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

    fn check_address(
        &self,
        link: &LinkRef,
        address: IpNet,
        routed: Option<&Since>,
        found: &mut Vec<Difference>,
    ) -> Result<(), NetlinkError> {
        // A missing link is reported by its own op; the address is missing either way.
        let doing = || format!("failed to list the addresses of {link}");
        let (Some(rtnl), Some(there)) = (self.rtnl(link.side), self.look(link)?) else {
            found.push(Difference::Address { address, link: link.clone() });
            return Ok(());
        };
        let family = Family::of(address.addr());
        let addresses = rtnl.addresses(there.index, Some(family)).doing(doing)?;
        if !addresses.iter().any(|one| one.net == address) {
            found.push(Difference::Address { address, link: link.clone() });
        } else if let Some(since) = routed {
            let routes =
                rtnl.routes(family, since.table(link, DEFAULT_TABLE), None).doing(|| "failed to list routes")?;
            let network = address.trunc();
            // The network of a host address has no route of its own in IPv4.
            let host = address.prefix_len() == address.max_prefix_len();
            if !host && !routes.iter().filter_map(RouteSpec::read).any(|route| route.dst == network) {
                found.push(Difference::NoGatewayRoute { network });
            }
        }
        Ok(())
    }

    fn check_route(
        &self,
        link: &LinkRef,
        route: &Route,
        since: &Since,
        found: &mut Vec<Difference>,
    ) -> Result<(), NetlinkError> {
        let Some(rtnl) = self.rtnl(link.side) else {
            return Err(NetlinkError::NoContainer { op: format!("looking at {link}") });
        };
        let table = route.table.unwrap_or(DEFAULT_TABLE);
        let family = Family::of(route.dst.addr());
        let routes = rtnl.routes(family, since.table(link, table), None).doing(|| "failed to list routes")?;
        let default = route.dst.prefix_len() == 0;
        if default && since.dropped_default_routes(link, family) {
            return Ok(());
        }
        // The gateway of a default route is not compared, as in the reference plugins.
        let same = |there: RouteSpec| {
            there.dst == route.dst.trunc() && (default || route.gw.is_none() || there.gw == route.gw)
        };
        if !routes.iter().filter_map(RouteSpec::read).any(same) {
            found.push(Difference::Route { route: route.clone() });
        }
        Ok(())
    }
}
