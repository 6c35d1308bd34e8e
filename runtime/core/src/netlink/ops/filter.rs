//! Host ports, forwarding and ingress policies: the parts beyond nftables.

use std::net::Ipv4Addr;

use super::sysctls::restore_sysctls;
use super::{Operation, Session};
use crate::netlink::check::{Difference, LaterChanges};
use crate::netlink::conntrack::{self, Flows};
use crate::netlink::error::NetlinkError;
use crate::netlink::fault::Doing;
use crate::netlink::firewalld::NotAdded;
use crate::netlink::inverse::Inverse;
use crate::netlink::rtnl::{Link, Lookup};
use crate::netlink::sharing::{Filters, is_filter};
use crate::netlink::{Executor, nft, sysctl};
use crate::plan::{FirewalldSource, HostPort, LinkRef, Op, RouteLocalnet, Side};

/// An op that consists of nftables elements or rules: all such ops of a plan are added, compared and removed together,
/// before or after its links (`sharing`, `teardown`, `check`).
pub(super) struct Elements;

impl Operation for Elements {
    fn apply(&self, session: &mut Session<'_>) -> Result<(), NetlinkError> {
        session.filters()
    }
}

impl Operation for RouteLocalnet {
    fn apply(&self, session: &mut Session<'_>) -> Result<(), NetlinkError> {
        session.route_localnet(self)
    }

    fn check(
        &self,
        executor: &mut Executor,
        _since: &LaterChanges,
        found: &mut Vec<Difference>,
    ) -> Result<(), NetlinkError> {
        executor.check_route_localnet(self, found)
    }
}

/// Its removal needs the journal (`teardown`), and its comparison is done together with others (`check`).
impl Operation for FirewalldSource {
    fn apply(&self, session: &mut Session<'_>) -> Result<(), NetlinkError> {
        session.firewalld_source(self)
    }
}

impl Difference {
    /// Returns the difference that an op's objects are missing in nftables or firewalld.
    pub(in crate::netlink) fn of_filter(op: &Op) -> Self {
        match op {
            Op::FirewalldSource(source) => Self::NoSource { address: source.address, zone: source.zone.clone() },
            op => Self::Elements { op: op.to_string() },
        }
    }
}

impl Executor {
    /// Returns the host's link to an address, and its switch for 127.0.0.0/8; `None` if there is no route to it.
    pub(in crate::netlink) fn localnet_switch(
        &self,
        address: Ipv4Addr,
    ) -> Result<Option<(Link, String)>, NetlinkError> {
        let doing = || format!("failed to find the route to {address}");
        let Some(index) = self.host.output_link(address).doing(doing)? else { return Ok(None) };
        let found = self.host.link(Lookup::Index(index)).doing(doing)?;
        Ok(found.map(|link| {
            let key = format!("ipv4/conf/{}/route_localnet", link.name);
            (link, key)
        }))
    }
}

impl Session<'_> {
    /// Finds the link only now, after the links, addresses and routes of the plan exist.
    pub(super) fn route_localnet(&mut self, route: &RouteLocalnet) -> Result<(), NetlinkError> {
        // Before the switch, add what protects services on 127.0.0.1 from containers.
        self.filters()?;
        let Some((link, key)) = self.executor.localnet_switch(route.address)? else { return Ok(()) };
        let Some(old) = sysctl::read(&key)?.filter(|value| value != "1") else { return Ok(()) };
        let bridge = (link.kind == "bridge").then_some(link.index);
        let made = self.is_made(&LinkRef { side: Side::Host, name: link.name.clone() });
        let unless = if made { None } else { Some(self.executor.newcomers(bridge)?) };
        sysctl::write(&key, "1")?;
        if let Some(unless) = unless {
            let inverse = restore_sysctls(Side::Host, vec![(key, old)]);
            self.log_shared(format!("restore route_localnet of {}", link.name), inverse, unless);
        }
        Ok(())
    }

    pub(super) fn firewalld_source(&mut self, source: &FirewalldSource) -> Result<(), NetlinkError> {
        let _lock = self.executor.lock_firewalld()?;
        let (added, outcome) = match self.executor.firewalld.add(source) {
            Ok(added) => (added, Ok(())),
            Err(NotAdded { cause, certain: true }) => return Err(cause),
            // It may still do so.
            Err(NotAdded { cause, certain: false }) => (true, Err(cause)),
        };
        let inverse = Inverse::Firewalld { source: source.clone(), added };
        self.log(format!("remove {} from firewalld", source.address), inverse);
        outcome
    }

    /// Deletes older flows to mapped ports with another destination, so that they now reach the container.
    pub(super) fn forget_flows(&self) {
        conntrack::forget(self.plan.ops.iter().filter_map(Op::host_port), Flows::Elsewhere);
    }
}

impl Executor {
    fn check_route_localnet(&self, route: &RouteLocalnet, found: &mut Vec<Difference>) -> Result<(), NetlinkError> {
        let Some((_link, key)) = self.localnet_switch(route.address)? else { return Ok(()) };
        if sysctl::read(&key)?.is_some_and(|value| value != "1") {
            found.push(Difference::Sysctl { key, want: "1".to_owned() });
        }
        Ok(())
    }
}

impl Session<'_> {
    /// Executes all nftables ops of the plan at once. Elements name links and match nothing until there is traffic, so
    /// the position of the first op is right for all of them.
    pub(super) fn filters(&mut self) -> Result<(), NetlinkError> {
        if std::mem::replace(&mut self.filtered, true) {
            return Ok(());
        }
        let ops: Vec<Op> = self.plan.ops.iter().filter(|op| is_filter(op)).cloned().collect();
        let ports: Vec<HostPort> = self.plan.ops.iter().filter_map(Op::host_port).cloned().collect();
        let _lock = self.executor.lock_shared()?;
        let nft = self.executor.nft()?;
        if !ports.is_empty() {
            nft.refuse_stock_ports(&ports.iter().collect::<Vec<_>>())?;
        }
        let batches = nft.batches(nft::Content::from_ops(&ops));
        // Undone in reverse order: flows are deleted once nothing leads them here any more.
        if !ports.is_empty() {
            self.log("forget flows to the host ports", Inverse::Flows(ports));
        }
        let mut filters = Filters { ops, added: Vec::new() };
        let mut outcome = Ok(());
        for batch in batches {
            match self.executor.nft()?.add(&batch) {
                Ok(added) => filters.added.push(added),
                Err(error) => {
                    outcome = Err(error);
                    break;
                }
            }
        }
        self.log("remove the nftables elements", Inverse::Filters(filters));
        outcome?;
        self.forget_flows();
        Ok(())
    }
}
