//! Shaping: token buckets, intermediate devices, and redirections to them.

use rtnetlink::LinkIfb;
use rtnetlink::packet_route::tc::TcHandle;

use super::{Operation, Session};
use crate::netlink::Executor;
use crate::netlink::check::{Difference, LaterChanges, StepDifference};
use crate::netlink::error::NetlinkError;
use crate::netlink::fault::Doing;
use crate::netlink::inverse::Inverse;
use crate::netlink::rtnl::{
    Lookup, Qdisc, Tbf, change, ingress_message, qdisc_selector, random_mac, redirect_message, redirect_targets,
    tbf_message,
};
use crate::plan::{CreateIfb, LimitRate, LinkRef, Op, Plan, RedirectIngress, Side};

impl Operation for LimitRate {
    fn apply(&self, session: &mut Session<'_>) -> Result<(), NetlinkError> {
        session.limit_rate(self)
    }

    fn tear_down(&self, executor: &mut Executor, plan: &Plan) -> Result<(), NetlinkError> {
        executor.drop_qdisc(plan, &self.link, "tbf")
    }

    fn check(
        &self,
        executor: &mut Executor,
        _since: &LaterChanges,
        found: &mut Vec<Difference>,
    ) -> Result<(), NetlinkError> {
        found.extend(executor.check_rate(self)?.map(Difference::Step));
        Ok(())
    }
}

impl Operation for CreateIfb {
    fn apply(&self, session: &mut Session<'_>) -> Result<(), NetlinkError> {
        session.create_ifb(self)
    }

    fn tear_down(&self, executor: &mut Executor, _plan: &Plan) -> Result<(), NetlinkError> {
        executor.delete_host_link(&self.name, "ifb").map(drop)
    }

    fn check(
        &self,
        executor: &mut Executor,
        _since: &LaterChanges,
        found: &mut Vec<Difference>,
    ) -> Result<(), NetlinkError> {
        if executor.look(&LinkRef::host(self.name.as_str()))?.is_none_or(|link| link.kind != "ifb") {
            found.push(Difference::Step(StepDifference::NoHostLink { name: self.name.clone() }));
        }
        Ok(())
    }
}

impl Operation for RedirectIngress {
    fn apply(&self, session: &mut Session<'_>) -> Result<(), NetlinkError> {
        session.redirect_ingress(self)
    }

    fn tear_down(&self, executor: &mut Executor, plan: &Plan) -> Result<(), NetlinkError> {
        executor.drop_qdisc(plan, &self.from, "ingress")
    }

    fn check(
        &self,
        executor: &mut Executor,
        _since: &LaterChanges,
        found: &mut Vec<Difference>,
    ) -> Result<(), NetlinkError> {
        found.extend(executor.check_redirect(self)?.map(Difference::Step));
        Ok(())
    }
}

impl Session<'_> {
    pub(super) fn limit_rate(&mut self, op: &LimitRate) -> Result<(), NetlinkError> {
        let link = LinkRef::host(op.link.as_str());
        let made = self.is_made(&link);
        let index = self.index(&link)?;
        let tbf = Tbf::new(op.rate, op.burst);
        let doing = || format!("create qdisc on {:?}", op.link);
        if !made {
            let found = self.executor.host.qdisc(index, TcHandle::ROOT).doing(doing)?;
            match found.filter(|found| found.explicit) {
                // A repeated ADD.
                Some(found) if found.tbf == Some(tbf) => return Ok(()),
                Some(found) => self.remove_qdisc(&link, index, TcHandle::ROOT, found)?,
                None => {}
            }
        }
        self.executor.host.add_qdisc(tbf_message(index, tbf)).doing(doing)?;
        if !made {
            let inverse = remove_qdisc(index, TcHandle::ROOT);
            self.log(format!("remove the rate limit of {link}"), inverse);
        }
        Ok(())
    }

    /// Removes an existing queueing discipline.
    fn remove_qdisc(&mut self, link: &LinkRef, index: u32, parent: TcHandle, found: Qdisc) -> Result<(), NetlinkError> {
        let doing = || format!("failed to remove the {} qdisc of {link}", found.kind);
        self.executor.host.delete_qdisc(qdisc_selector(index, parent)).doing(doing)?;
        let what = format!("put the {} qdisc of {link} back", found.kind);
        self.log(what, Inverse::request(Side::Host, move |host| host.add_qdisc(found.message)));
        Ok(())
    }

    pub(super) fn create_ifb(&mut self, op: &CreateIfb) -> Result<(), NetlinkError> {
        let link = LinkRef::host(op.name.as_str());
        let like = LinkRef::host(op.like.as_str());
        let like_index = self.index(&like)?;
        let host = &self.executor.host;
        let found = host.link(Lookup::Index(like_index)).doing(|| format!("failed to lookup {like}"))?;
        let mtu = found.ok_or_else(|| NetlinkError::NoLink { link: like.clone() })?.mtu;
        let doing = || format!("adding link {:?}", op.name);
        // Its name is derived from the attachment: an existing one was left by an earlier ADD.
        if let Some(found) = host.link(Lookup::Name(&op.name)).doing(doing)?.filter(|found| found.kind == "ifb") {
            if !found.up {
                host.set_link(change(found.index).up().build()).doing(doing)?;
                let down = change(found.index).down().build();
                self.log(format!("take {link} down"), Inverse::set_link(Side::Host, down));
            }
            self.links.insert(link, found);
            return Ok(());
        }
        let message = LinkIfb::new(&op.name).up().mtu(mtu).txqueuelen(0).address(random_mac().0.to_vec());
        let found = match host.create_link(message.build()).doing(doing)? {
            Some(found) => found,
            None => self.link(&link)?.clone(),
        };
        self.log(format!("delete {link}"), Inverse::delete_link(Side::Host, found.index));
        self.made(link, found);
        Ok(())
    }

    pub(super) fn redirect_ingress(&mut self, op: &RedirectIngress) -> Result<(), NetlinkError> {
        let (from, to) = (LinkRef::host(op.from.as_str()), LinkRef::host(op.to.as_str()));
        let made = self.is_made(&from);
        let (index, target) = (self.index(&from)?, self.index(&to)?);
        if !made && self.clear_ingress(&from, index, target)? {
            return Ok(());
        }
        let host = &self.executor.host;
        host.add_qdisc(ingress_message(index)).doing(|| format!("create ingress qdisc on {:?}", op.from))?;
        if !made {
            let inverse = remove_qdisc(index, TcHandle::INGRESS);
            self.log(format!("remove the ingress qdisc of {from}"), inverse);
        }
        let host = &self.executor.host;
        host.add_filter(redirect_message(index, target)).doing(|| format!("add filter to {:?}", op.from))
    }

    /// Clears the ingress hook. Removes redirections of an earlier ADD; returns `true` if the wanted one exists.
    /// Anything else at the hook is kept, and is an error.
    fn clear_ingress(&mut self, from: &LinkRef, index: u32, target: u32) -> Result<bool, NetlinkError> {
        let doing = || format!("failed to look at the ingress qdisc of {from}");
        let host = &self.executor.host;
        let Some(found) = host.qdisc(index, TcHandle::INGRESS).doing(doing)? else { return Ok(false) };
        let filters = host.ingress_filters(index).doing(doing)?;
        let targets = redirect_targets(&filters);
        let Some(targets) = targets.filter(|_| found.kind == "ingress") else {
            return Err(NetlinkError::HookTaken { link: from.name.clone(), kind: found.kind });
        };
        if targets == [target] {
            return Ok(true);
        }
        host.delete_qdisc(qdisc_selector(index, TcHandle::INGRESS)).doing(doing)?;
        // Removes the ingress hook, with the redirection.
        let inverse = Inverse::request(Side::Host, move |host| {
            host.add_qdisc(ingress_message(index))?;
            targets.into_iter().try_for_each(|target| host.add_filter(redirect_message(index, target)))
        });
        self.log(format!("put the ingress qdisc of {from} back"), inverse);
        Ok(false)
    }
}

impl Executor {
    /// Removes a host link's queueing discipline, unless the link is deleted with the plan.
    pub(super) fn drop_qdisc(&self, plan: &Plan, name: &str, kind: &str) -> Result<(), NetlinkError> {
        let goes = plan.ops.iter().any(|op| match op {
            Op::CreateVeth { host, .. } => host == name,
            Op::CreateIfb(ifb) => ifb.name == name,
            _ => false,
        });
        if goes {
            return Ok(());
        }
        let doing = || format!("failed to remove the {kind} qdisc of {name:?}");
        let Some(link) = self.find_again(plan, &LinkRef::host(name))? else { return Ok(()) };
        match self.host.qdisc(link.index, place_of(kind)).doing(doing)? {
            Some(found) if found.explicit && found.kind == kind => {
                self.host.delete_qdisc(qdisc_selector(link.index, place_of(kind))).map(drop).doing(doing)
            }
            _ => Ok(()),
        }
    }

    fn check_rate(&self, op: &LimitRate) -> Result<Option<StepDifference>, NetlinkError> {
        let name = op.link.clone();
        let Some(link) = self.look(&LinkRef::host(name.as_str()))? else {
            return Ok(Some(StepDifference::NoHostLink { name }));
        };
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
        let (from, to) = (self.look(&LinkRef::host(op.from.as_str()))?, self.look(&LinkRef::host(op.to.as_str()))?);
        // A missing link is reported by its own ops.
        let (Some(from), Some(to)) = (from, to) else { return Ok(None) };
        let filters =
            self.host.ingress_filters(from.index).doing(|| format!("failed to list the filters of {}", op.from))?;
        let first = redirect_targets(&filters).and_then(|targets| targets.first().copied());
        let (from, to_name) = (op.from.clone(), op.to.clone());
        Ok((first != Some(to.index)).then_some(StepDifference::NotRedirected { from, to: to_name }))
    }
}

/// Returns where a teardown finds a queueing discipline of a kind.
pub(super) fn place_of(kind: &str) -> TcHandle {
    if kind == "ingress" { TcHandle::INGRESS } else { TcHandle::ROOT }
}

fn remove_qdisc(index: u32, parent: TcHandle) -> Inverse {
    Inverse::request(Side::Host, move |host| host.delete_qdisc(qdisc_selector(index, parent)).map(drop))
}
