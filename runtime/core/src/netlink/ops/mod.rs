//! The ops: one file for each kind, with how it is applied, undone, torn down and checked ([`Operation`]); and applying a plan.
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

use std::collections::{BTreeMap, BTreeSet};

use super::check::{Difference, Since};
use super::error::{ApplyError, Doing, NetlinkError};
use super::presence::Presence;
use super::rtnl::{Link, Lookup, Rtnl};
use super::undo::{Inverse, Logged, Newcomers};
use super::{Applied, Executor, survey};
use crate::plan::{LinkInfo, LinkRef, Op, Plan, Side};

/// All that the executor knows about one kind of op. Its inverse it records when it is applied.
pub(super) trait Operation {
    /// Does it, and logs what takes it back.
    fn apply(&self, session: &mut Session<'_>) -> Result<(), NetlinkError>;

    /// Fails as `apply` would because of what is on the host already, as far as that shows beforehand. Looks only.
    fn foresee(&self, _executor: &Executor) -> Result<(), NetlinkError> {
        Ok(())
    }

    /// Whether applying it may change what is read of a link.
    fn changes_links(&self) -> bool {
        true
    }

    /// Removes what belongs to the attachment, for DEL and GC, which have the plan alone; missing is success. Nothing for what is
    /// shared, and for what goes away with a link of the plan.
    fn tear_down(&self, _executor: &mut Executor, _plan: &Plan) -> Result<(), NetlinkError> {
        Ok(())
    }

    /// Adds what netlink does not show of it. Nothing for what leaves no trace, or is the container's own business.
    fn check(
        &self,
        _executor: &mut Executor,
        _since: &Since,
        _found: &mut Vec<Difference>,
    ) -> Result<(), NetlinkError> {
        Ok(())
    }
}

/// What an op of a plan is for the executor.
pub(super) fn operation(op: &Op) -> Box<dyn Operation + '_> {
    match op {
        Op::EnsureBridge { name, mtu, vlan_filtering, promisc } => {
            Box::new(bridge::Ensure { name, mtu: *mtu, vlan_filtering: *vlan_filtering, promisc: *promisc })
        }
        Op::CreateVeth { container, host, mtu, mac } => Box::new(link::Veth { container, host, mtu: *mtu, mac: *mac }),
        Op::CreateMacvlan { name, parent, mac, .. } => Box::new(children::Macvlan { op, name, parent, mac: *mac }),
        Op::CreateIpvlan(op) => Box::new(op),
        Op::CreateVlan(op) => Box::new(op),
        Op::CreateDummy(op) => Box::new(op),
        Op::CreateTap(op) => Box::new(op),
        Op::TakeDevice(op) => Box::new(op),
        Op::BridgePort { link, bridge, hairpin, isolated } => {
            Box::new(bridge::Port { link, bridge, hairpin: *hairpin, isolated: *isolated })
        }
        Op::BridgeVlans { link, drop_existing, pvid, tagged } => {
            Box::new(vlan::Port { link, drop_existing: *drop_existing, pvid: *pvid, tagged })
        }
        Op::EnsureVlanGateway { bridge, vlan, name, peer, drop_existing } => {
            Box::new(vlan::Gateway { bridge, vlan: *vlan, name, peer, drop_existing: *drop_existing })
        }
        Op::Sysctl { .. } | Op::EnableIpv6 { .. } => Box::new(sysctls::Write(op)),
        Op::TuneSysctl(op) => Box::new(op),
        Op::AddAddress { link, address } => Box::new(address::Add { link, address: *address }),
        Op::EnsureAddress { link, address, force, beside } => {
            Box::new(address::Ensure { link, address: *address, force: *force, beside })
        }
        Op::LinkUp { link } => Box::new(link::Up { link }),
        Op::WaitAddresses { link } => Box::new(wait::Addresses { link }),
        Op::WaitPort { link } => Box::new(wait::Port { link }),
        Op::AddRoute { link, route, src, existing_ok } => {
            Box::new(route::Add { link, route, src: *src, existing_ok: *existing_ok })
        }
        Op::DropConnectedRoute { link, dst } => Box::new(route::DropConnected { link, dst: *dst }),
        Op::DropDefaultRoutes { link, family } => Box::new(route::DropDefaults { link, family: *family }),
        Op::PinMac { link } => Box::new(bridge::PinMac { link }),
        Op::Forwarding { family } => Box::new(sysctls::Forwarding(*family)),
        Op::Masquerade { .. } | Op::MacSpoofCheck { .. } | Op::HostPort(_) | Op::Accept(_) | Op::IngressPolicy(_) => {
            Box::new(filter::Elements)
        }
        Op::RouteLocalnet(op) => Box::new(op),
        Op::FirewalldSource(op) => Box::new(op),
        Op::ForgetNeighbours(op) => Box::new(op),
        Op::Announce { link, addresses } => Box::new(link::Announce { link, addresses }),
        Op::TuneLink(op) => Box::new(op),
        Op::SourceRoutes(op) => Box::new(op),
        Op::JoinVrf(op) => Box::new(op),
        Op::LimitRate(op) => Box::new(op),
        Op::CreateIfb(op) => Box::new(op),
        Op::RedirectIngress(op) => Box::new(op),
    }
}

impl<T: Operation + ?Sized> Operation for &T {
    fn apply(&self, session: &mut Session<'_>) -> Result<(), NetlinkError> {
        T::apply(self, session)
    }

    fn foresee(&self, executor: &Executor) -> Result<(), NetlinkError> {
        T::foresee(self, executor)
    }

    fn changes_links(&self) -> bool {
        T::changes_links(self)
    }

    fn tear_down(&self, executor: &mut Executor, plan: &Plan) -> Result<(), NetlinkError> {
        T::tear_down(self, executor, plan)
    }

    fn check(&self, executor: &mut Executor, since: &Since, found: &mut Vec<Difference>) -> Result<(), NetlinkError> {
        T::check(self, executor, since, found)
    }
}

/// A plan being applied.
pub(super) struct Session<'a> {
    executor: &'a mut Executor,
    plan: &'a Plan,
    /// Which op of the plan is being applied.
    at: usize,
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
            at: 0,
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
                self.at = at;
                self.apply(op).map_err(|error| (at, error))?;
                at += 1;
            } else {
                let count = jobs.len();
                self.run_in_container(at, jobs)?;
                at += count;
            }
        }
        self.label();
        let links = self.result_links().map_err(|error| (plan.ops.len(), error))?;
        self.pin_macs(links)
    }

    /// Labels the links that the plan made, each with one message.
    fn label(&self) {
        let Some(label) = &self.plan.label else { return };
        let ours = self.plan.ops.iter().filter_map(survey::labelled).filter(|link| self.made.contains(link));
        for link in ours {
            if let (Some(found), Ok(rtnl)) = (self.links.get(&link), self.rtnl(&link)) {
                rtnl.label(found.index, label);
            }
        }
    }

    fn apply(&mut self, op: &Op) -> Result<(), NetlinkError> {
        let operation = operation(op);
        if operation.changes_links() {
            self.settled.clear();
        }
        operation.apply(self)
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

    /// The link that was just made in the container: by its chosen index, since the container may rename it at once.
    fn made_link(&mut self, link: &LinkRef) -> Result<Link, NetlinkError> {
        let Some(index) = self.plan.link_index else { return self.link(link).cloned() };
        let found = self.rtnl(link)?.link(Lookup::Index(index)).doing(|| format!("failed to lookup {link}"))?;
        found.ok_or_else(|| NetlinkError::NoLink { link: link.clone() })
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
