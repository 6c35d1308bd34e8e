//! Shaping: token buckets, intermediate devices, and what sends to them.

use rtnetlink::LinkIfb;
use rtnetlink::packet_route::tc::TcHandle;

use super::Session;
use crate::netlink::error::{Doing, NetlinkError};
use crate::netlink::rtnl::{
    Lookup, Qdisc, Tbf, change, ingress_message, qdisc_selector, random_mac, redirect_message, redirect_targets,
    tbf_message,
};
use crate::netlink::undo::Inverse;
use crate::plan::{CreateIfb, LimitRate, LinkRef, RedirectIngress, Side};

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
            let inverse = Inverse::RemoveQdisc { index, parent: TcHandle::ROOT };
            self.log(format!("remove the rate limit of {link}"), inverse);
        }
        Ok(())
    }

    /// Takes away what is in the place of a queueing discipline.
    fn remove_qdisc(&mut self, link: &LinkRef, index: u32, parent: TcHandle, found: Qdisc) -> Result<(), NetlinkError> {
        let doing = || format!("failed to remove the {} qdisc of {link}", found.kind);
        self.executor.host.delete_qdisc(qdisc_selector(index, parent)).doing(doing)?;
        let what = format!("put the {} qdisc of {link} back", found.kind);
        self.log(what, Inverse::RestoreQdisc { message: Box::new(found.message) });
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
        // Named by the attachment: one that is there is from an ADD of it that nobody took back.
        if let Some(found) = host.link(Lookup::Name(&op.name)).doing(doing)?.filter(|found| found.kind == "ifb") {
            if !found.up {
                host.set_link(change(found.index).up().build()).doing(doing)?;
                let message = Box::new(change(found.index).down().build());
                self.log(format!("take {link} down"), Inverse::SetLink { side: Side::Host, message });
            }
            self.links.insert(link, found);
            return Ok(());
        }
        let message = LinkIfb::new(&op.name).up().mtu(mtu).txqueuelen(0).address(random_mac().0.to_vec());
        let found = match host.create_link(message.build()).doing(doing)? {
            Some(found) => found,
            None => self.link(&link)?.clone(),
        };
        self.log(format!("delete {link}"), Inverse::DeleteLink { side: Side::Host, index: found.index });
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
            let inverse = Inverse::RemoveQdisc { index, parent: TcHandle::INGRESS };
            self.log(format!("remove the ingress qdisc of {from}"), inverse);
        }
        let host = &self.executor.host;
        host.add_filter(redirect_message(index, target)).doing(|| format!("add filter to {:?}", op.from))
    }

    /// Makes room at the ingress hook. Redirections left by an earlier ADD go; `true` where the very one that is wanted is
    /// there. What anybody else put there stays, and is an error.
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
        let inverse = Inverse::RestoreIngress { index, targets };
        self.log(format!("put the ingress qdisc of {from} back"), inverse);
        Ok(false)
    }
}
