//! Host ports, forwarding and ingress policies: what is more to them than nftables.

use std::net::Ipv4Addr;

use super::Session;
use crate::netlink::conntrack::{self, Flows};
use crate::netlink::error::{Doing, NetlinkError};
use crate::netlink::rtnl::{Link, Lookup};
use crate::netlink::undo::Inverse;
use crate::netlink::{Executor, firewalld, sysctl};
use crate::plan::{FirewalldSource, HostPort, LinkRef, Op, RouteLocalnet, Side};

impl Executor {
    /// The host's link that leads to an address, and its switch for 127.0.0.0/8; `None` where there is no way there.
    pub(in crate::netlink) fn localnet_switch(
        &self,
        address: Ipv4Addr,
    ) -> Result<Option<(Link, String)>, NetlinkError> {
        let doing = || format!("failed to find the route to {address}");
        let Some(index) = self.host.way_to(address).doing(doing)? else { return Ok(None) };
        let found = self.host.link(Lookup::Index(index)).doing(doing)?;
        Ok(found.map(|link| {
            let key = format!("ipv4/conf/{}/route_localnet", link.name);
            (link, key)
        }))
    }
}

impl Session<'_> {
    /// The link is found now, when the links, addresses and routes of the plan are there.
    pub(super) fn route_localnet(&mut self, route: &RouteLocalnet) -> Result<(), NetlinkError> {
        let Some((link, key)) = self.executor.localnet_switch(route.address)? else { return Ok(()) };
        let Some(old) = sysctl::read(&key)?.filter(|value| value != "1") else { return Ok(()) };
        let bridge = (link.kind == "bridge").then_some(link.index);
        let made = self.is_made(&LinkRef { side: Side::Host, name: link.name.clone() });
        let unless = if made { None } else { Some(self.executor.newcomers(bridge)?) };
        sysctl::write(&key, "1")?;
        if let Some(unless) = unless {
            let inverse = Inverse::Sysctls { side: Side::Host, old: vec![(key, old)] };
            self.log_shared(format!("restore route_localnet of {}", link.name), inverse, unless);
        }
        Ok(())
    }

    pub(super) fn firewalld_source(&mut self, source: &FirewalldSource) -> Result<(), NetlinkError> {
        if firewalld::add(source)? {
            self.log(format!("remove {} from firewalld", source.address), Inverse::Firewalld(source.clone()));
        }
        Ok(())
    }

    pub(super) fn host_ports(&self) -> impl Iterator<Item = &HostPort> {
        self.plan.ops.iter().filter_map(|op| match op {
            Op::HostPort(port) => Some(port),
            _ => None,
        })
    }

    /// Flows to mapped ports that began earlier and go elsewhere come to the container from now on.
    pub(super) fn forget_flows(&self) {
        conntrack::forget(self.host_ports(), Flows::Elsewhere);
    }
}
