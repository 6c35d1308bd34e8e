//! CHECK of what steps do.

use rtnetlink::packet_route::tc::TcHandle;

use super::super::error::{Doing, NetlinkError};
use super::super::rtnl::{Link, Lookup, RouteSpec, Tbf, redirect_targets};
use super::super::{Executor, sysctl};
use super::{Difference, StepDifference};
use crate::plan::{
    CreateIfb, Family, JoinVrf, LimitRate, LinkRef, Op, RedirectIngress, Side, Source, SourceRoutes, TuneLink,
    TuneSysctl,
};

impl Executor {
    /// The ops of steps; nothing for others.
    pub(super) fn check_step(&mut self, op: &Op, found: &mut Vec<Difference>) -> Result<(), NetlinkError> {
        let mut differences = Vec::new();
        match op {
            Op::TuneSysctl(tune) => differences.extend(self.check_sysctl(tune)?),
            Op::TuneLink(tune) => self.check_tuned(tune, &mut differences)?,
            Op::SourceRoutes(routes) => self.check_source_routes(routes, &mut differences)?,
            Op::JoinVrf(join) => differences.extend(self.check_vrf(join)?),
            Op::LimitRate(limit) => differences.extend(self.check_rate(limit)?),
            Op::CreateIfb(CreateIfb { name, .. }) => {
                let missing = self.host_link(name)?.is_none_or(|link| link.kind != "ifb");
                differences.extend(missing.then(|| StepDifference::NoHostLink { name: name.clone() }));
            }
            Op::RedirectIngress(redirect) => differences.extend(self.check_redirect(redirect)?),
            _ => {}
        }
        found.extend(differences.into_iter().map(Difference::Step));
        Ok(())
    }

    fn host_link(&self, name: &str) -> Result<Option<Link>, NetlinkError> {
        self.host.link(Lookup::Name(name)).doing(|| format!("failed to lookup {name}"))
    }

    fn container_link(&self, name: &str) -> Result<Option<Link>, NetlinkError> {
        let link = LinkRef::container(name);
        match self.rtnl(Side::Container) {
            Some(rtnl) => rtnl.link(Lookup::Name(name)).doing(|| format!("failed to lookup {link}")),
            None => Err(NetlinkError::NoContainer { op: format!("looking at {link}") }),
        }
    }

    /// Values of several numbers are compared by the numbers: what is written with blanks reads back with tabs.
    fn check_sysctl(&self, tune: &TuneSysctl) -> Result<Option<StepDifference>, NetlinkError> {
        let Some(container) = &self.container else {
            return Err(NetlinkError::NoContainer { op: tune.to_string() });
        };
        let key = tune.key.clone();
        let now = match container.netns.run_inside(move || sysctl::read(&key))? {
            // One that can only be written keeps no value.
            Err(error) if sysctl::is_forbidden(&error) => return Ok(None),
            other => other?,
        };
        let same = |now: &str| now.split_whitespace().eq(tune.value.split_whitespace());
        Ok(match now {
            Some(now) if same(&now) => None,
            now => Some(StepDifference::Sysctl { key: tune.key.clone(), want: tune.value.clone(), have: now }),
        })
    }

    fn check_tuned(&self, tune: &TuneLink, found: &mut Vec<StepDifference>) -> Result<(), NetlinkError> {
        let name = &tune.link;
        let Some(link) = self.container_link(name)? else {
            found.push(StepDifference::NoTunedLink { name: name.clone() });
            return Ok(());
        };
        let set = &tune.set;
        // Not the other way round, as the reference plugin has it: a capture in the container is its own business.
        if let Some(want) = set.promiscuous.filter(|want| link.promisc != *want) {
            found.push(StepDifference::Promisc { name: name.clone(), want, have: link.promiscuity });
        }
        let mut differs = |what: &'static str, want: String, have: String| {
            found.push(StepDifference::Attribute { name: name.clone(), what, want, have });
        };
        if let Some(want) = set.mac.filter(|want| link.mac != Some(*want)) {
            differs("Ethernet", want.to_string(), link.mac.map_or_else(String::new, |mac| mac.to_string()));
        }
        if let Some(want) = set.mtu.filter(|want| link.mtu != *want) {
            differs("MTU", want.to_string(), link.mtu.to_string());
        }
        if let Some(want) = set.all_multicast.filter(|want| link.allmulti != *want) {
            differs("all-multicast mode", want.to_string(), link.allmulti.to_string());
        }
        if let Some(want) = set.tx_queue_length.filter(|want| link.tx_queue_length != *want) {
            differs("transmit queue length", want.to_string(), link.tx_queue_length.to_string());
        }
        Ok(())
    }

    fn check_source_routes(&self, op: &SourceRoutes, found: &mut Vec<StepDifference>) -> Result<(), NetlinkError> {
        let Some(rtnl) = self.rtnl(Side::Container) else {
            return Err(NetlinkError::NoContainer { op: op.to_string() });
        };
        for Source { address, gateway } in &op.sources {
            let (source, family) = (address.addr(), Family::of(address.addr()));
            let rules = rtnl.rules(family).doing(|| "Failed to list all rules")?;
            let mut rules = rules.into_iter().filter(|rule| rule.source == Some(source));
            let rule = rules.find(|rule| op.table.is_none_or(|table| rule.table == Some(table)));
            let Some(table) = rule.and_then(|rule| rule.table) else {
                found.push(StepDifference::Rule { source });
                continue;
            };
            if let Some(gateway) = gateway.filter(|_| op.table.is_none()) {
                let routes = rtnl.routes(family, Some(table), None).doing(|| "failed to list routes")?;
                // Which gateway is not compared: a default route of the link's own took its place.
                let default = |route: RouteSpec| route.dst.prefix_len() == 0 && route.gw.is_some();
                if !routes.iter().filter_map(RouteSpec::read).any(default) {
                    found.push(StepDifference::SourceDefault { source, gateway, table });
                }
            }
        }
        Ok(())
    }

    fn check_vrf(&self, op: &JoinVrf) -> Result<Option<StepDifference>, NetlinkError> {
        let Some(vrf) = self.container_link(&op.vrf)?.filter(|vrf| vrf.kind == "vrf") else {
            return Ok(Some(StepDifference::NoVrf { name: op.vrf.clone() }));
        };
        let member = self.container_link(&op.link)?.is_some_and(|link| link.master == Some(vrf.index));
        Ok((!member).then(|| StepDifference::NotInVrf { name: op.link.clone(), vrf: op.vrf.clone() }))
    }

    fn check_rate(&self, op: &LimitRate) -> Result<Option<StepDifference>, NetlinkError> {
        let name = op.link.clone();
        let Some(link) = self.host_link(&name)? else { return Ok(Some(StepDifference::NoHostLink { name })) };
        let root =
            self.host.qdisc(link.index, TcHandle::ROOT).doing(|| format!("failed to look at the qdisc of {name}"))?;
        let want = Tbf::new(op.rate, op.burst);
        Ok(match root.and_then(|root| root.tbf) {
            None => Some(StepDifference::NoQdisc { name }),
            Some(have) if have.rate != want.rate => Some(StepDifference::Tbf { name, what: "Rate" }),
            Some(have) if have.limit != want.limit => Some(StepDifference::Tbf { name, what: "Limit" }),
            Some(have) if have.buffer != want.buffer => Some(StepDifference::Tbf { name, what: "Buffer" }),
            Some(_) => None,
        })
    }

    fn check_redirect(&self, op: &RedirectIngress) -> Result<Option<StepDifference>, NetlinkError> {
        let (from, to) = (self.host_link(&op.from)?, self.host_link(&op.to)?);
        // A missing link is reported by the ops about it.
        let (Some(from), Some(to)) = (from, to) else { return Ok(None) };
        let filters =
            self.host.ingress_filters(from.index).doing(|| format!("failed to list the filters of {}", op.from))?;
        let first = redirect_targets(&filters).and_then(|targets| targets.first().copied());
        let (from, to_name) = (op.from.clone(), op.to.clone());
        Ok((first != Some(to.index)).then_some(StepDifference::NotRedirected { from, to: to_name }))
    }
}
