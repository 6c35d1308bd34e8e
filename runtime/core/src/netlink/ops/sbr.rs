//! Source based routing: rules and tables of the container.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::route::{RouteAttribute, RouteMessage, RouteProtocol, RouteScope};

use super::{Operation, Session};
use crate::netlink::Executor;
use crate::netlink::check::{Difference, LaterChanges, StepDifference};
use crate::netlink::error::NetlinkError;
use crate::netlink::fault::Doing;
use crate::netlink::inverse::{Inverse, unless_absent};
use crate::netlink::rtnl::{DEFAULT_TABLE, RouteSpec, Rtnl, in_table, route_message, rule_message};
use crate::plan::{Family, LinkRef, Plan, Side, Source, SourceRoutes};

/// Where the search for a free table begins.
pub(in crate::netlink) const FIRST_TABLE: u32 = 100;

/// `RT_SCOPE_LINK`.
const SCOPE_LINK: u8 = 253;

impl Operation for SourceRoutes {
    fn apply(&self, session: &mut Session<'_>) -> Result<(), NetlinkError> {
        session.source_routes(self)
    }

    fn tear_down(&self, executor: &mut Executor, _plan: &Plan) -> Result<(), NetlinkError> {
        executor.remove_rules(self)
    }

    fn check(
        &self,
        executor: &mut Executor,
        _since: &LaterChanges,
        found: &mut Vec<Difference>,
    ) -> Result<(), NetlinkError> {
        let mut differences = Vec::new();
        executor.check_source_routes(self, &mut differences)?;
        found.extend(differences.into_iter().map(Difference::Step));
        Ok(())
    }
}

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
            let inverse = restore_main_routes(index, routes.clone());
            self.log(format!("put the routes of {link} back into the main table"), inverse);
        }
        for source in &op.sources {
            let table = free_table(&taken)?;
            taken.insert(table);
            if !made {
                let inverse = in_container(move |rtnl| empty_table(rtnl, index, table));
                self.log(format!("empty routing table {table}"), inverse);
            }
            self.add_source_rule(source.address.addr(), table)?;
            let rtnl = self.rtnl(&link)?;
            fill_table(rtnl, index, source, table, &routes)?;
        }
        let rtnl = self.rtnl(&link)?;
        let networks = if op.source_hints { add_hints(rtnl, index, &op.sources)? } else { BTreeMap::new() };
        // Only now, because gateways are looked up in the main table.
        let kept = |message: &RouteMessage| op.source_hints && is_kept(message, &networks);
        for Placed { message, .. } in routes.into_iter().filter(|route| !kept(&route.message)) {
            rtnl.delete_route(message).doing(|| "Failed to delete route")?;
        }
        Ok(())
    }

    /// Adds a rule unless it exists. With a table from the configuration it may exist already. It is looked up first,
    /// because some kernels accept the same rule twice if they choose the priority.
    fn ensure_source_rule(&mut self, source: IpAddr, table: u32) -> Result<(), NetlinkError> {
        let rtnl = self.side(Side::Container, &"adding a rule")?;
        let rules = rtnl.rules(Family::from_ip(source)).doing(|| "Failed to list all rules")?;
        if rules.iter().any(|rule| rule.source == Some(source) && rule.table == Some(table)) {
            return Ok(());
        }
        self.add_source_rule(source, table)
    }

    fn add_source_rule(&mut self, source: IpAddr, table: u32) -> Result<(), NetlinkError> {
        let rtnl = self.side(Side::Container, &"adding a rule")?;
        let message = match rtnl.add_rule(rule_message(source, table)) {
            // Somebody else added it meanwhile.
            Err(fault) if fault.is_exists() => return Ok(()),
            other => other.doing(|| "Failed to add rule")?,
        };
        let inverse = Inverse::request(Side::Container, move |rtnl| rtnl.delete_rule(message).map(drop));
        self.log(format!("remove the rule for {source}"), inverse);
        Ok(())
    }
}

/// Gives each network of the addresses a route in the main table that prefers the address; for several addresses in one
/// network, the last. The routes are added, and do not replace existing ones, which may belong to another link.
fn add_hints(rtnl: &Rtnl, index: u32, sources: &[Source]) -> Result<BTreeMap<IpNet, IpAddr>, NetlinkError> {
    let networks: BTreeMap<IpNet, IpAddr> =
        sources.iter().map(|source| (source.address.trunc(), source.address.addr())).collect();
    for (network, source) in &networks {
        let route = RouteSpec { dst: *network, src: Some(*source), ..route_to(index, *network) };
        match rtnl.add_route_behind(route_message(&route)) {
            Err(fault) if fault.is_exists() => {}
            other => other.doing(|| format!("failed to add the route to {network} to the main table"))?,
        }
    }
    Ok(networks)
}

/// With hints, on-link routes stay in the main table, unless a hint replaces them.
fn is_kept(message: &RouteMessage, networks: &BTreeMap<IpNet, IpAddr>) -> bool {
    let replaced = RouteSpec::read(message)
        .is_some_and(|route| message.header.protocol == RouteProtocol::Kernel && networks.contains_key(&route.dst));
    message.header.scope == RouteScope::Link && !replaced
}

/// Adds the default route of an address, and copies of the link's relevant routes.
fn fill_table(rtnl: &Rtnl, index: u32, source: &Source, table: u32, routes: &[Placed]) -> Result<(), NetlinkError> {
    if let Some(gateway) = source.gateway {
        let everything: IpNet =
            if gateway.is_ipv4() { ipnet::Ipv4Net::default().into() } else { ipnet::Ipv6Net::default().into() };
        let route = RouteSpec { gw: Some(gateway), table: Some(table), scope: None, ..route_to(index, everything) };
        rtnl.add_route(route_message(&route)).doing(|| format!("Failed to add default route to {gateway}"))?;
    }
    for Placed { message, .. } in routes.iter().filter(|route| concerns(&route.message, source.address)) {
        // Replace, because the default route may already exist.
        rtnl.replace_route(in_table(message.clone(), table)).doing(|| "Failed to readd route")?;
    }
    Ok(())
}

/// Returns whether a route concerns an address: its preferred source or its gateway is in the same network, or it has
/// neither.
fn concerns(message: &RouteMessage, address: IpNet) -> bool {
    let Some(route) = RouteSpec::read(message) else { return false };
    match (route.src, route.gw) {
        (None, None) => true,
        (src, gw) => [src, gw].into_iter().flatten().any(|near| address.contains(&near)),
    }
}

/// Returns a route through a link in the main table.
fn route_to(index: u32, dst: IpNet) -> RouteSpec {
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

/// Returns the tables that a rule or a route uses.
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

/// Returns the table of a route.
pub(in crate::netlink) fn table_of(message: &RouteMessage) -> u32 {
    let wide = message.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Table(table) => Some(*table),
        _ => None,
    });
    wide.unwrap_or_else(|| message.header.table.into())
}

/// A route of the main table, and its position among others to the same destination.
#[derive(Debug, Clone)]
pub(in crate::netlink) struct Placed {
    pub(in crate::netlink) message: RouteMessage,
    /// Whether another link's route came before it.
    pub(in crate::netlink) behind: bool,
}

impl Rtnl {
    /// Returns routes in the main table through only this link; those without a gateway come first, because the others
    /// need them.
    pub(in crate::netlink) fn main_routes(&self, index: u32) -> Result<Vec<Placed>, NetlinkError> {
        let mut found = Vec::new();
        for family in [Family::V4, Family::V6] {
            let mut others = BTreeSet::new();
            for message in self.routes(family, Some(DEFAULT_TABLE), None).doing(|| "Unable to list routes")? {
                let Some(route) = RouteSpec::read(&message) else { continue };
                let place = (route.dst, route.priority);
                if let Some(hop) = own_hop(&message, index) {
                    found.push(Placed { message: hop, behind: true });
                    others.insert(place);
                } else if leaves_by(&message, index) {
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

/// Returns a link's part of an IPv6 route that other links share: the kernel merges routes with the same destination
/// and metric, and deletes or adds each hop as a separate route (`ip6_route_del` in
/// <https://elixir.bootlin.com/linux/v6.12/source/net/ipv6/route.c>). An IPv4 route with several hops was requested as
/// such, and is left alone.
fn own_hop(message: &RouteMessage, index: u32) -> Option<RouteMessage> {
    if message.header.address_family != AddressFamily::Inet6 {
        return None;
    }
    let hops = message.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::MultiPath(hops) => Some(hops),
        _ => None,
    })?;
    let own = hops.iter().find(|hop| hop.interface_index == index)?;
    if hops.iter().all(|hop| hop.interface_index == index) {
        return None;
    }
    let mut single = message.clone();
    single.attributes.retain(|attribute| !matches!(attribute, RouteAttribute::MultiPath(_)));
    single.attributes.push(RouteAttribute::Oif(index));
    single.attributes.extend(own.attributes.iter().filter(|a| matches!(a, RouteAttribute::Gateway(_))).cloned());
    Some(single)
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

impl Executor {
    /// Removes rules that only match one of the addresses: those for the table that the configuration names, otherwise
    /// for tables that could have been chosen.
    pub(super) fn remove_rules(&self, op: &SourceRoutes) -> Result<(), NetlinkError> {
        let Some(rtnl) = self.rtnl(Side::Container) else { return Ok(()) };
        let mut first = Ok(());
        for family in [Family::V4, Family::V6] {
            let rules = rtnl.rules(family).doing(|| "Failed to list all rules to tidy")?;
            let ours = rules.into_iter().filter(|rule| {
                let source = rule.source.is_some_and(|from| op.sources.iter().any(|own| own.address.addr() == from));
                source && rule.table.is_some_and(|table| op.table.map_or(table >= FIRST_TABLE, |own| own == table))
            });
            for rule in ours {
                let outcome = rtnl.delete_rule(rule.message).map(drop).doing(|| "Failed to delete rule");
                first = first.and(outcome);
            }
        }
        first
    }

    fn check_source_routes(&self, op: &SourceRoutes, found: &mut Vec<StepDifference>) -> Result<(), NetlinkError> {
        let Some(rtnl) = self.rtnl(Side::Container) else {
            return Err(NetlinkError::NoContainer { op: op.to_string() });
        };
        for Source { address, gateway } in &op.sources {
            let (source, family) = (address.addr(), Family::from_ip(address.addr()));
            let rules = rtnl.rules(family).doing(|| "Failed to list all rules")?;
            let mut rules = rules.into_iter().filter(|rule| rule.source == Some(source));
            let rule = rules.find(|rule| op.table.is_none_or(|table| rule.table == Some(table)));
            let Some(table) = rule.and_then(|rule| rule.table) else {
                found.push(StepDifference::Rule { source });
                continue;
            };
            if let Some(gateway) = gateway.filter(|_| op.table.is_none()) {
                let routes = rtnl.routes(family, Some(table), None).doing(|| "failed to list routes")?;
                // The gateway is not compared: a default route of the link may have replaced it.
                let default = |route: RouteSpec| route.dst.prefix_len() == 0 && route.gw.is_some();
                if !routes.iter().filter_map(RouteSpec::read).any(default) {
                    found.push(StepDifference::SourceDefault { source, gateway, table });
                }
            }
        }
        Ok(())
    }
}

/// Removes the routes of a link from a table that was empty before.
fn empty_table(rtnl: &Rtnl, index: u32, table: u32) -> Result<(), NetlinkError> {
    for family in [Family::V4, Family::V6] {
        let routes = rtnl.routes(family, Some(table), Some(index)).doing(|| "failed to list routes")?;
        for message in routes.into_iter().filter(|message| table_of(message) == table) {
            unless_absent(rtnl.delete_route(message).map(drop)).doing(|| "the kernel refused")?;
        }
    }
    Ok(())
}

/// Restores the routes of a link in the main table, in their positions.
fn put_back(rtnl: &Rtnl, index: u32, before: Vec<Placed>) -> Result<(), NetlinkError> {
    let now = rtnl.main_routes(index)?;
    let wanted: BTreeSet<_> = before.iter().map(identity).collect();
    let there: BTreeSet<_> = now.iter().map(identity).collect();
    for Placed { message, .. } in now.into_iter().filter(|route| !wanted.contains(&identity(route))) {
        unless_absent(rtnl.delete_route(message).map(drop)).doing(|| "the kernel refused")?;
    }
    for route in before.into_iter().filter(|route| !there.contains(&identity(route))) {
        let outcome = if route.behind { rtnl.add_route_behind(route.message) } else { rtnl.add_route(route.message) };
        match outcome {
            Err(fault) if fault.is_exists() => {}
            outcome => unless_absent(outcome).doing(|| "the kernel refused")?,
        }
    }
    Ok(())
}

/// Returns what distinguishes routes of one table.
fn identity(route: &Placed) -> String {
    format!("{:?} {:?}", RouteSpec::read(&route.message), route.message.header.protocol)
}

/// Returns the inverse that restores the routes of a container link in the main table.
pub(super) fn restore_main_routes(index: u32, routes: Vec<Placed>) -> Inverse {
    in_container(move |rtnl| put_back(rtnl, index, routes))
}

/// Returns an inverse that needs the container, and does nothing if that is gone.
fn in_container(undo: impl FnOnce(&Rtnl) -> Result<(), NetlinkError> + Send + 'static) -> Inverse {
    Inverse::from_action(move |executor| executor.rtnl(Side::Container).map_or(Ok(()), undo))
}
