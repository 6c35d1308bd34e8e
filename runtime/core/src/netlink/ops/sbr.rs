//! Source based routing: rules and tables of the container.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;
use rtnetlink::packet_route::route::{RouteAttribute, RouteMessage, RouteScope};

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
            return op.sources.iter().try_for_each(|source| self.add_source_rule(source.address.addr(), table));
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
        if op.source_hints {
            for source in &op.sources {
                let hint = route_message(&hint(index, source.address));
                let network = source.address.trunc();
                rtnl.replace_route(hint).doing(|| format!("failed to add the route to {network} to the main table"))?;
            }
        }
        // Only now: gateways are looked up in the main table.
        let kept = |message: &RouteMessage| op.source_hints && message.header.scope == RouteScope::Link;
        for message in routes.into_iter().filter(|message| !kept(message)) {
            rtnl.delete_route(message).doing(|| "Failed to delete route")?;
        }
        Ok(())
    }

    fn add_source_rule(&mut self, source: IpAddr, table: u32) -> Result<(), NetlinkError> {
        let rtnl = self.side(Side::Container, &"adding a rule")?;
        let message = match rtnl.add_rule(rule_message(source, table)) {
            // Only with a table of the configuration: what is wanted is there.
            Err(fault) if fault.is_exists() => return Ok(()),
            other => other.doing(|| "Failed to add rule")?,
        };
        let inverse = Inverse::DeleteRule { message: Box::new(message) };
        self.log(format!("remove the rule for {source}"), inverse);
        Ok(())
    }
}

/// The default route of an address, and copies of the link's routes that have to do with it.
fn fill_table(
    rtnl: &Rtnl,
    index: u32,
    source: &Source,
    table: u32,
    routes: &[RouteMessage],
) -> Result<(), NetlinkError> {
    if let Some(gateway) = source.gateway {
        let everything =
            if gateway.is_ipv4() { IpNet::from(ipnet::Ipv4Net::default()) } else { ipnet::Ipv6Net::default().into() };
        let route = RouteSpec {
            dst: everything,
            gw: Some(gateway),
            table: Some(table),
            scope: None,
            ..hint(index, everything)
        };
        let message = route_message(&RouteSpec { src: None, ..route });
        rtnl.add_route(message).doing(|| format!("Failed to add default route to {gateway}"))?;
    }
    for message in routes.iter().filter(|message| concerns(message, source.address)) {
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

/// The route to an address' own network that prefers it as source.
fn hint(index: u32, address: IpNet) -> RouteSpec {
    RouteSpec {
        index,
        dst: address.trunc(),
        gw: None,
        src: Some(address.addr()),
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

impl Rtnl {
    /// Routes in the main table that go out of a link and of no other, those without a gateway first: the others need them.
    pub(in crate::netlink) fn main_routes(&self, index: u32) -> Result<Vec<RouteMessage>, NetlinkError> {
        let mut found = Vec::new();
        for family in [Family::V4, Family::V6] {
            let routes = self.routes(family, Some(DEFAULT_TABLE), Some(index)).doing(|| "Unable to list routes")?;
            found.extend(routes.into_iter().filter(|message| leaves_by(message, index)));
        }
        found.sort_by_key(|message| {
            RouteSpec::read(message).is_some_and(|route| route.gw.is_some()) || has_hops(message)
        });
        Ok(found)
    }
}

fn has_hops(message: &RouteMessage) -> bool {
    message.attributes.iter().any(|attribute| matches!(attribute, RouteAttribute::MultiPath(_)))
}

fn leaves_by(message: &RouteMessage, index: u32) -> bool {
    message.attributes.iter().all(|attribute| match attribute {
        RouteAttribute::Oif(oif) => *oif == index,
        RouteAttribute::MultiPath(hops) => hops.iter().all(|hop| hop.interface_index == index),
        _ => true,
    }) && RouteSpec::read(message).is_some()
}
