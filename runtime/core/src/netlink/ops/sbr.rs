//! Source based routing: rules and tables of the container.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use rtnetlink::packet_route::route::{RouteAttribute, RouteMessage, RouteProtocol, RouteScope};

use super::Session;
use crate::netlink::error::{Doing, NetlinkError};
use crate::netlink::rtnl::{DEFAULT_TABLE, RouteSpec, Rtnl, in_table, route_message, rule_message};
use crate::netlink::undo::Inverse;
use crate::plan::{Family, LinkRef, Side, Source, SourceRoutes};

/// Where the search for a free table begins.
pub(in crate::netlink) const FIRST_TABLE: u32 = 100;

/// `RT_SCOPE_LINK`.
const SCOPE_LINK: u8 = 253;

impl Session<'_> {
    pub(super) fn source_routes(&mut self, op: &SourceRoutes) -> Result<(), NetlinkError> {
        let _lock = self.executor.lock_container(op)?;
        if let Some(table) = op.table {
            return op.sources.iter().try_for_each(|source| self.ensure_source_rule(source.address.addr(), table));
        }
        let link = LinkRef::container(op.link.as_str());
        let made = self.is_made(&link);
        let index = self.index(&link)?;
        let rtnl = self.rtnl(&link)?;
        let mut taken = taken_tables(rtnl)?;
        let routes = rtnl.main_routes(index)?;
        if !made {
            let inverse = Inverse::MainRoutes { index, routes: routes.clone() };
            self.log(format!("put the routes of {link} back into the main table"), inverse);
        }
        for source in &op.sources {
            let table = free_table(&taken)?;
            taken.insert(table);
            if !made {
                self.log(format!("empty routing table {table}"), Inverse::EmptyTable { index, table });
            }
            self.add_source_rule(source.address.addr(), table)?;
            let rtnl = self.rtnl(&link)?;
            fill_table(rtnl, index, source, table, &routes)?;
        }
        let rtnl = self.rtnl(&link)?;
        let networks = if op.source_hints { add_hints(rtnl, index, &op.sources)? } else { BTreeMap::new() };
        // Only now: gateways are looked up in the main table.
        let kept = |message: &RouteMessage| op.source_hints && is_kept(message, &networks);
        for Placed { message, .. } in routes.into_iter().filter(|route| !kept(&route.message)) {
            rtnl.delete_route(message).doing(|| "Failed to delete route")?;
        }
        Ok(())
    }

    /// With a table of the configuration the rule may be there already. It is looked for, since not every kernel refuses the
    /// same rule twice where the priority is left to it.
    fn ensure_source_rule(&mut self, source: IpAddr, table: u32) -> Result<(), NetlinkError> {
        let rtnl = self.side(Side::Container, &"adding a rule")?;
        let rules = rtnl.rules(Family::of(source)).doing(|| "Failed to list all rules")?;
        if rules.iter().any(|rule| rule.source == Some(source) && rule.table == Some(table)) {
            return Ok(());
        }
        self.add_source_rule(source, table)
    }

    fn add_source_rule(&mut self, source: IpAddr, table: u32) -> Result<(), NetlinkError> {
        let rtnl = self.side(Side::Container, &"adding a rule")?;
        let message = match rtnl.add_rule(rule_message(source, table)) {
            // Somebody was faster: what is wanted is there.
            Err(fault) if fault.is_exists() => return Ok(()),
            other => other.doing(|| "Failed to add rule")?,
        };
        let inverse = Inverse::DeleteRule { message: Box::new(message) };
        self.log(format!("remove the rule for {source}"), inverse);
        Ok(())
    }
}

/// Gives each network of the addresses a route in the main table that prefers the address; of several in one network the
/// last. Added rather than put in place of what is there, which may be another link's.
fn add_hints(rtnl: &Rtnl, index: u32, sources: &[Source]) -> Result<BTreeMap<IpNet, IpAddr>, NetlinkError> {
    let networks: BTreeMap<IpNet, IpAddr> =
        sources.iter().map(|source| (source.address.trunc(), source.address.addr())).collect();
    for (network, source) in &networks {
        let route = RouteSpec { dst: *network, src: Some(*source), ..to(index, *network) };
        match rtnl.add_route_behind(route_message(&route)) {
            Err(fault) if fault.is_exists() => {}
            other => other.doing(|| format!("failed to add the route to {network} to the main table"))?,
        }
    }
    Ok(networks)
}

/// With hints, routes to what is on the link stay in the main table, unless a hint takes their place.
fn is_kept(message: &RouteMessage, networks: &BTreeMap<IpNet, IpAddr>) -> bool {
    let replaced = RouteSpec::read(message)
        .is_some_and(|route| message.header.protocol == RouteProtocol::Kernel && networks.contains_key(&route.dst));
    message.header.scope == RouteScope::Link && !replaced
}

/// The default route of an address, and copies of the link's routes that have to do with it.
fn fill_table(rtnl: &Rtnl, index: u32, source: &Source, table: u32, routes: &[Placed]) -> Result<(), NetlinkError> {
    if let Some(gateway) = source.gateway {
        let everything: IpNet =
            if gateway.is_ipv4() { ipnet::Ipv4Net::default().into() } else { ipnet::Ipv6Net::default().into() };
        let route = RouteSpec { gw: Some(gateway), table: Some(table), scope: None, ..to(index, everything) };
        rtnl.add_route(route_message(&route)).doing(|| format!("Failed to add default route to {gateway}"))?;
    }
    for Placed { message, .. } in routes.iter().filter(|route| concerns(&route.message, source.address)) {
        // Replace: the default route may be there already.
        rtnl.replace_route(in_table(message.clone(), table)).doing(|| "Failed to readd route")?;
    }
    Ok(())
}

/// Whether a route is about an address: its preferred source or its gateway is in the same network, or it has neither.
fn concerns(message: &RouteMessage, address: IpNet) -> bool {
    let Some(route) = RouteSpec::read(message) else { return false };
    match (route.src, route.gw) {
        (None, None) => true,
        (src, gw) => [src, gw].into_iter().flatten().any(|near| address.contains(&near)),
    }
}

/// A route out of a link in the main table.
fn to(index: u32, dst: IpNet) -> RouteSpec {
    RouteSpec {
        index,
        dst,
        gw: None,
        src: None,
        priority: None,
        table: Some(DEFAULT_TABLE),
        scope: Some(SCOPE_LINK),
        mtu: None,
        advmss: None,
    }
}

/// Tables that a rule or a route uses.
fn taken_tables(rtnl: &Rtnl) -> Result<BTreeSet<u32>, NetlinkError> {
    let mut taken = BTreeSet::new();
    for family in [Family::V4, Family::V6] {
        let rules = rtnl.rules(family).doing(|| "Failed to list all rules")?;
        taken.extend(rules.into_iter().filter_map(|rule| rule.table));
        let routes = rtnl.routes(family, None, None).doing(|| "Failed to list all routes")?;
        taken.extend(routes.iter().map(table_of));
    }
    Ok(taken)
}

fn free_table(taken: &BTreeSet<u32>) -> Result<u32, NetlinkError> {
    (FIRST_TABLE..u32::MAX).find(|table| !taken.contains(table)).ok_or(NetlinkError::NoTable)
}

/// The table a route is in.
pub(in crate::netlink) fn table_of(message: &RouteMessage) -> u32 {
    let wide = message.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Table(table) => Some(*table),
        _ => None,
    });
    wide.unwrap_or_else(|| message.header.table.into())
}

/// A route of the main table, and where it was among others to the same destination.
#[derive(Debug, Clone)]
pub(in crate::netlink) struct Placed {
    pub(in crate::netlink) message: RouteMessage,
    /// Another link's came before it.
    pub(in crate::netlink) behind: bool,
}

impl Rtnl {
    /// Routes in the main table that go out of a link and of no other, those without a gateway first: the others need them.
    pub(in crate::netlink) fn main_routes(&self, index: u32) -> Result<Vec<Placed>, NetlinkError> {
        let mut found = Vec::new();
        for family in [Family::V4, Family::V6] {
            let mut others = BTreeSet::new();
            for message in self.routes(family, Some(DEFAULT_TABLE), None).doing(|| "Unable to list routes")? {
                let Some(route) = RouteSpec::read(&message) else { continue };
                let place = (route.dst, route.priority);
                if leaves_by(&message, index) {
                    found.push(Placed { message, behind: others.contains(&place) });
                } else {
                    others.insert(place);
                }
            }
        }
        found.sort_by_key(|route| has_gateway(&route.message));
        Ok(found)
    }
}

fn has_gateway(message: &RouteMessage) -> bool {
    let gateway = |attribute: &RouteAttribute| {
        matches!(attribute, RouteAttribute::Gateway(_) | RouteAttribute::Via(_) | RouteAttribute::MultiPath(_))
    };
    message.attributes.iter().any(gateway)
}

fn leaves_by(message: &RouteMessage, index: u32) -> bool {
    message.attributes.iter().all(|attribute| match attribute {
        RouteAttribute::Oif(oif) => *oif == index,
        RouteAttribute::MultiPath(hops) => hops.iter().all(|hop| hop.interface_index == index),
        _ => true,
    })
}
