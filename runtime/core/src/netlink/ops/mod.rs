//! Applying a plan: one method per op, all over the same [`Session`].
//!
//! Few round trips is the point: a link is looked up once and remembered, a new one is known from the kernel's
//! announcement of it, a port joins its bridge in the message that makes it, and all nftables elements of the plan are one transaction.

mod address;
mod bridge;
mod children;
mod device;
mod filter;
mod link;
mod neighbour;
mod route;
mod sbr;
mod shaping;
mod sysctls;
mod tap;
mod tuning;
mod vlan;
mod vrf;
mod wait;

pub(super) use sbr::{FIRST_TABLE, Placed, table_of};
pub(super) use tuning::changes;

use std::collections::{BTreeMap, BTreeSet};

use super::error::{ApplyError, Doing, NetlinkError};
use super::presence::Presence;
use super::rtnl::{Link, Lookup, Rtnl};
use super::undo::{Inverse, Logged, Newcomers};
use super::{Applied, Executor, nft};
use crate::plan::{HostPort, LinkInfo, LinkRef, Op, Plan, Side};

/// A plan being applied.
struct Session<'a> {
    executor: &'a mut Executor,
    plan: &'a Plan,
    /// Links looked up or made so far, as they were then.
    links: BTreeMap<LinkRef, Link>,
    /// Those that this plan made.
    made: BTreeSet<LinkRef>,
    /// Shared links whose MAC is to be kept, with the op that asks for it.
    pins: Vec<(usize, String)>,
    /// Links read since the last op that may have changed one.
    settled: BTreeMap<LinkRef, Link>,
    /// All nftables ops of the plan were done, at the first of them.
    filtered: bool,
    log: Vec<Logged>,
}

impl Executor {
    /// Applies a plan.
    ///
    /// # Errors
    /// The op that failed and why. Everything before it is undone by then; what could not be is in the error.
    pub fn apply(&mut self, plan: &Plan) -> Result<Applied, ApplyError> {
        let mut applied = Applied::default();
        match self.extend(&mut applied, plan) {
            Ok(()) => Ok(applied),
            Err(error) => Err(ApplyError { leftovers: self.undo(applied), ..error }),
        }
    }

    /// Applies more on top of what was applied, for a plan whose addresses only its link can tell.
    ///
    /// # Errors
    /// The op that failed and why. Nothing is undone: `applied` has what there is to undo.
    pub fn extend(&mut self, applied: &mut Applied, plan: &Plan) -> Result<(), ApplyError> {
        if self.presence.is_none() {
            self.presence = Presence::enter();
        }
        let mut session = Session {
            executor: self,
            plan,
            links: std::mem::take(&mut applied.known),
            made: std::mem::take(&mut applied.made),
            pins: Vec::new(),
            settled: BTreeMap::new(),
            filtered: false,
            log: std::mem::take(&mut applied.log),
        };
        let outcome = session.run();
        (applied.known, applied.made, applied.log) = (session.links, session.made, session.log);
        match outcome {
            Ok(links) => {
                applied.links = links;
                Ok(())
            }
            Err((at, cause)) => {
                let op = plan.ops.get(at).map_or_else(|| "read the links of the result".to_owned(), Op::to_string);
                Err(ApplyError { at, op: op.into(), cause, leftovers: Vec::new() })
            }
        }
    }
}

impl Session<'_> {
    /// All ops, then what has to wait for them. An error comes with the index of its op.
    fn run(&mut self) -> Result<BTreeMap<LinkRef, LinkInfo>, (usize, NetlinkError)> {
        let plan = self.plan;
        let mut at = 0;
        while let Some(op) = plan.ops.get(at) {
            let jobs = self.container_sysctls(at);
            if jobs.is_empty() {
                self.apply(at, op).map_err(|error| (at, error))?;
                at += 1;
            } else {
                let count = jobs.len();
                self.run_in_container(at, jobs)?;
                at += count;
            }
        }
        let links = self.result_links().map_err(|error| (plan.ops.len(), error))?;
        self.pin_macs(links)
    }

    fn apply(&mut self, at: usize, op: &Op) -> Result<(), NetlinkError> {
        if !matches!(
            op,
            Op::WaitPort { .. }
                | Op::WaitAddresses { .. }
                | Op::ForgetNeighbours(_)
                | Op::Announce { .. }
                | Op::PinMac { .. }
        ) {
            self.settled.clear();
        }
        match op {
            Op::EnsureBridge { name, mtu, vlan_filtering, promisc } => {
                self.ensure_bridge(name, *mtu, *vlan_filtering, *promisc)
            }
            Op::CreateVeth { container, host, mtu, mac } => self.create_veth(container, host, *mtu, *mac),
            Op::CreateMacvlan { .. } => self.create_macvlan(op),
            Op::CreateIpvlan(op) => self.create_ipvlan(op),
            Op::CreateVlan(op) => self.create_vlan(op),
            Op::CreateDummy(op) => self.create_dummy(op),
            Op::CreateTap(op) => self.create_tap(op),
            Op::TakeDevice(op) => self.take_device(op),
            Op::BridgePort { link, bridge, hairpin, isolated } => self.bridge_port(link, bridge, *hairpin, *isolated),
            Op::BridgeVlans { link, drop_existing, pvid, tagged } => {
                self.bridge_vlans(link, *drop_existing, *pvid, tagged)
            }
            Op::EnsureVlanGateway { bridge, vlan, name, peer, drop_existing } => {
                self.ensure_vlan_gateway(bridge, (*vlan, *drop_existing), name, peer)
            }
            Op::Sysctl { .. } => self.host_sysctl(op),
            Op::AddAddress { link, address } => self.add_address(link, *address),
            Op::LinkUp { link } => self.link_up(link),
            Op::WaitAddresses { link } => self.wait_addresses(link),
            Op::AddRoute { link, route, src, existing_ok } => self.add_route(link, route, *src, *existing_ok),
            Op::DropConnectedRoute { link, dst } => self.drop_connected_route(link, *dst),
            Op::DropDefaultRoutes { link, family } => self.drop_default_routes(link, *family),
            Op::EnsureAddress { link, address, force } => self.ensure_address(link, *address, *force),
            // Done last: it has no inverse.
            Op::PinMac { link } => self.pin_later(at, link),
            Op::Forwarding { family } => self.forwarding(*family),
            Op::Masquerade { .. }
            | Op::MacSpoofCheck { .. }
            | Op::HostPort(_)
            | Op::Accept(_)
            | Op::IngressPolicy(_) => self.filters(),
            Op::RouteLocalnet(route) => self.route_localnet(route),
            Op::FirewalldSource(source) => self.firewalld_source(source),
            Op::WaitPort { link } => self.wait_port(link),
            Op::ForgetNeighbours(op) => {
                self.forget_neighbours(op);
                Ok(())
            }
            Op::Announce { link, addresses } => self.announce(&LinkRef::container(link.as_str()), addresses),
            Op::TuneLink(op) => self.tune_link(op),
            Op::SourceRoutes(op) => self.source_routes(op),
            Op::JoinVrf(op) => self.join_vrf(op),
            Op::LimitRate(op) => self.limit_rate(op),
            Op::CreateIfb(op) => self.create_ifb(op),
            Op::RedirectIngress(op) => self.redirect_ingress(op),
            // Only reached without a container: with one, these were a run of sysctls.
            Op::EnableIpv6 { .. } | Op::TuneSysctl(_) => Err(NetlinkError::NoContainer { op: op.to_string() }),
        }
    }

    #[expect(clippy::unnecessary_wraps, reason = "one of the ops")]
    fn pin_later(&mut self, at: usize, link: &str) -> Result<(), NetlinkError> {
        self.pins.push((at, link.to_owned()));
        Ok(())
    }

    /// All nftables ops of the plan at once. Elements name links by name and match nothing until there is traffic, so
    /// the first op is early enough for all of them, and never too early.
    fn filters(&mut self) -> Result<(), NetlinkError> {
        if std::mem::replace(&mut self.filtered, true) {
            return Ok(());
        }
        let added = self.executor.nft()?.add(&nft::Content::of(&self.plan.ops))?;
        // Undone in the other order: flows are forgotten once nothing leads them here any more.
        let ports: Vec<HostPort> = self.host_ports().cloned().collect();
        if !ports.is_empty() {
            self.log("forget flows to the host ports", Inverse::Flows(ports));
        }
        self.log("remove the nftables elements", Inverse::Elements(added));
        self.forget_flows();
        Ok(())
    }

    /// Reads the links of the result.
    fn result_links(&mut self) -> Result<BTreeMap<LinkRef, LinkInfo>, NetlinkError> {
        let shape = &self.plan.result;
        let mut found = BTreeMap::new();
        if shape.unmanaged {
            return Ok(found);
        }
        for (at, link) in shape.interfaces.iter().enumerate() {
            let index = self.index(link)?;
            let rtnl = self.rtnl(link)?;
            let doing = || format!("failed to lookup {link}");
            let read = match self.settled.get(link) {
                Some(settled) => Some(settled.clone()),
                None => rtnl.link(Lookup::Index(index)).doing(doing)?,
            };
            let read = read.ok_or_else(|| NetlinkError::NoLink { link: link.clone() })?;
            let addresses = if shape.observed_addresses && at == 0 {
                rtnl.addresses(index, None).doing(doing)?.into_iter().map(|address| address.net).collect()
            } else {
                Vec::new()
            };
            found.insert(link.clone(), read.info(addresses));
        }
        Ok(found)
    }

    // --- what the ops share ---

    fn log(&mut self, what: impl Into<String>, inverse: Inverse) {
        self.log.push(Logged { what: what.into(), inverse, unless: None });
    }

    fn log_shared(&mut self, what: impl Into<String>, inverse: Inverse, unless: Newcomers) {
        self.log.push(Logged { what: what.into(), inverse, unless: Some(unless) });
    }

    fn rtnl(&self, link: &LinkRef) -> Result<&Rtnl, NetlinkError> {
        self.side(link.side, link)
    }

    fn side(&self, side: Side, op: &impl ToString) -> Result<&Rtnl, NetlinkError> {
        self.executor.rtnl(side).ok_or_else(|| NetlinkError::NoContainer { op: op.to_string() })
    }

    /// The link, looked up the first time.
    fn link(&mut self, link: &LinkRef) -> Result<&Link, NetlinkError> {
        if !self.links.contains_key(link) {
            let found = self.rtnl(link)?.link(Lookup::Name(&link.name)).doing(|| format!("failed to lookup {link}"))?;
            let found = found.ok_or_else(|| NetlinkError::NoLink { link: link.clone() })?;
            self.links.insert(link.clone(), found);
        }
        self.links.get(link).ok_or_else(|| NetlinkError::NoLink { link: link.clone() })
    }

    fn index(&mut self, link: &LinkRef) -> Result<u32, NetlinkError> {
        self.link(link).map(|found| found.index)
    }

    /// Remembers a link that the plan made.
    fn made(&mut self, link: LinkRef, found: Link) {
        self.made.insert(link.clone());
        self.links.insert(link, found);
    }

    /// Whether the plan made it, so that what is on it needs no inverse.
    fn is_made(&self, link: &LinkRef) -> bool {
        self.made.contains(link)
    }
}
