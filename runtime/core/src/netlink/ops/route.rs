//! Routes.

use std::net::IpAddr;

use ipnet::IpNet;
use rtnetlink::packet_route::route::{RouteProtocol, RouteScope};
use weft_host_abi::types::Route;

use super::{Operation, Session};
use crate::netlink::Executor;
use crate::netlink::check::{Difference, LaterChanges};
use crate::netlink::error::NetlinkError;
use crate::netlink::fault::Doing;
use crate::netlink::inverse::Inverse;
use crate::netlink::rtnl::{DEFAULT_TABLE, RouteSpec, route_message};
use crate::plan::{Family, LinkRef};

/// `RT_SCOPE_LINK`: the default scope of a route without a gateway, so that gateways in its network can be used.
const SCOPE_LINK: u8 = 253;

/// A route.
pub(super) struct Add<'a> {
    pub(super) link: &'a LinkRef,
    pub(super) route: &'a Route,
    pub(super) src: Option<IpAddr>,
    pub(super) existing_ok: bool,
}

/// Deletes the route that the kernel made for an address.
pub(super) struct DropConnected<'a> {
    pub(super) link: &'a LinkRef,
    pub(super) dst: IpNet,
}

/// Deletes the default routes of a link.
pub(super) struct DropDefaults<'a> {
    pub(super) link: &'a LinkRef,
    pub(super) family: Family,
}

impl Operation for DropDefaults<'_> {
    fn apply(&self, session: &mut Session<'_>) -> Result<(), NetlinkError> {
        session.drop_default_routes(self.link, self.family)
    }
}

impl Operation for Add<'_> {
    fn apply(&self, session: &mut Session<'_>) -> Result<(), NetlinkError> {
        session.add_route(self.link, self.route, self.src, self.existing_ok)
    }

    fn check(
        &self,
        executor: &mut Executor,
        since: &LaterChanges,
        found: &mut Vec<Difference>,
    ) -> Result<(), NetlinkError> {
        executor.check_route(self.link, self.route, since, found)
    }
}

impl Operation for DropConnected<'_> {
    fn apply(&self, session: &mut Session<'_>) -> Result<(), NetlinkError> {
        session.drop_connected_route(self.link, self.dst)
    }
}

impl Session<'_> {
    pub(super) fn add_route(
        &mut self,
        link: &LinkRef,
        route: &Route,
        src: Option<IpAddr>,
        existing_ok: bool,
    ) -> Result<(), NetlinkError> {
        let index = self.index(link)?;
        if route.gw.is_some_and(|gw| gw.is_ipv4() != route.dst.addr().is_ipv4()) {
            return Err(NetlinkError::RouteFamily { doing: describe(link, route) });
        }
        let message = route_message(&spec(index, route, src));
        match self.rtnl(link)?.add_route(message.clone()) {
            Ok(()) => {}
            Err(fault) if existing_ok && fault.is_exists() => return Ok(()),
            Err(fault) => return Err(fault.doing(describe(link, route))),
        }
        if !self.is_made(link) {
            let inverse = Inverse::request(link.side, move |rtnl| rtnl.delete_route(message).map(drop));
            self.log(format!("remove the route to {} from {link}", route.dst), inverse);
        }
        Ok(())
    }

    pub(super) fn drop_connected_route(&mut self, link: &LinkRef, dst: IpNet) -> Result<(), NetlinkError> {
        let index = self.index(link)?;
        let doing = || format!("failed to delete the connected route to {dst} on {:?}", link.name);
        let made = self.is_made(link);
        let rtnl = self.rtnl(link)?;
        let mut there = Vec::new();
        if !made {
            let routes = rtnl.routes(Family::from_ip(dst.addr()), Some(DEFAULT_TABLE), Some(index)).doing(doing)?;
            let connected = |route: RouteSpec| route.dst == dst.trunc() && route.gw.is_none();
            there = routes.into_iter().filter(|message| RouteSpec::read(message).is_some_and(connected)).collect();
        }
        let connected = Route::new(dst.trunc(), None);
        let mut message = route_message(&spec(index, &connected, None));
        // Match any scope and origin.
        message.header.scope = RouteScope::NoWhere;
        message.header.protocol = RouteProtocol::Unspec;
        if !rtnl.delete_route(message).doing(doing)? {
            return Err(NetlinkError::Refused { doing: doing(), errno: nix::errno::Errno::ESRCH, hint: None });
        }
        for message in there {
            let inverse = Inverse::request(link.side, move |rtnl| rtnl.add_route(message));
            self.log(format!("put the route to {dst} back on {link}"), inverse);
        }
        Ok(())
    }

    pub(super) fn drop_default_routes(&mut self, link: &LinkRef, family: Family) -> Result<(), NetlinkError> {
        let index = self.index(link)?;
        let doing = || format!("failed to delete the default routes of {:?}", link.name);
        let made = self.is_made(link);
        let there = self.rtnl(link)?.routes(family, Some(DEFAULT_TABLE), Some(index)).doing(doing)?;
        let is_default = |route: RouteSpec| route.dst.prefix_len() == 0;
        for message in there.into_iter().filter(|message| RouteSpec::read(message).is_some_and(is_default)) {
            // A route that disappeared meanwhile need not be restored.
            if self.rtnl(link)?.delete_route(message.clone()).doing(doing)? && !made {
                let inverse = Inverse::request(link.side, move |rtnl| rtnl.add_route(message));
                self.log(format!("put a default route back on {link}"), inverse);
            }
        }
        Ok(())
    }
}

/// Returns the route in the kernel's form.
pub(in crate::netlink) fn spec(index: u32, route: &Route, src: Option<IpAddr>) -> RouteSpec {
    let default = if route.gw.is_none() && route.dst.addr().is_ipv4() { Some(SCOPE_LINK) } else { None };
    // Scopes are one byte; a larger number is invalid, and the kernel refuses 255 ("nowhere") for a new route.
    let asked = route.scope.map(|scope| u8::try_from(scope).unwrap_or(u8::MAX));
    RouteSpec {
        index,
        dst: route.dst,
        gw: route.gw,
        src,
        priority: route.priority,
        table: route.table,
        scope: asked.or(default),
        mtu: route.mtu,
        advmss: route.advmss,
    }
}

fn describe(link: &LinkRef, route: &Route) -> String {
    let via = route.gw.map_or_else(|| "<nil>".to_owned(), |gw| gw.to_string());
    format!("failed to add route '{} via {via} dev {}'", route.dst, link.name)
}

impl Executor {
    fn check_route(
        &self,
        link: &LinkRef,
        route: &Route,
        since: &LaterChanges,
        found: &mut Vec<Difference>,
    ) -> Result<(), NetlinkError> {
        let Some(rtnl) = self.rtnl(link.side) else {
            return Err(NetlinkError::NoContainer { op: format!("looking at {link}") });
        };
        let table = route.table.unwrap_or(DEFAULT_TABLE);
        let family = Family::from_ip(route.dst.addr());
        let routes = rtnl.routes(family, since.table(link, table), None).doing(|| "failed to list routes")?;
        let default = route.dst.prefix_len() == 0;
        if default && since.dropped_default_routes(link, family) {
            return Ok(());
        }
        // As in the reference plugins, the gateway of a default route is not compared.
        let same = |there: RouteSpec| {
            there.dst == route.dst.trunc() && (default || route.gw.is_none() || there.gw == route.gw)
        };
        if !routes.iter().filter_map(RouteSpec::read).any(same) {
            found.push(Difference::Route { route: route.clone() });
        }
        Ok(())
    }
}
