//! Attributes of existing container links.

use rtnetlink::packet_route::link::LinkMessage;

use super::address::restore_addresses;
use super::{Operation, Session};
use crate::netlink::Executor;
use crate::netlink::check::{Difference, LaterChanges, StepDifference};
use crate::netlink::error::NetlinkError;
use crate::netlink::fault::Doing;
use crate::netlink::inverse::Inverse;
use crate::netlink::rtnl::{DEFAULT_TABLE, Link, Lookup, change};
use crate::plan::{Family, LinkAttributes, LinkRef, Mac, Plan, Side, TuneLink};

/// A link with a smaller MTU has no IPv6: the kernel removes its addresses and routes.
const LEAST_IPV6_MTU: u32 = 1280;

/// A change of one attribute.
#[derive(Debug)]
pub(in crate::netlink) struct Change {
    /// Its name in error texts.
    pub(in crate::netlink) what: String,
    pub(in crate::netlink) there: LinkMessage,
    /// The message that restores the current value.
    back: LinkMessage,
    mac: Option<Mac>,
    mtu: Option<u32>,
}

impl Operation for TuneLink {
    fn apply(&self, session: &mut Session<'_>) -> Result<(), NetlinkError> {
        session.tune_link(self)
    }

    fn tear_down(&self, executor: &mut Executor, plan: &Plan) -> Result<(), NetlinkError> {
        if self.before.is_empty() { Ok(()) } else { executor.restore_link(plan, &self.link, &self.before) }
    }

    fn check(
        &self,
        executor: &mut Executor,
        _since: &LaterChanges,
        found: &mut Vec<Difference>,
    ) -> Result<(), NetlinkError> {
        let mut differences = Vec::new();
        executor.check_tuned(self, &mut differences)?;
        found.extend(differences.into_iter().map(Difference::Step));
        Ok(())
    }
}

impl Session<'_> {
    pub(super) fn tune_link(&mut self, tune: &TuneLink) -> Result<(), NetlinkError> {
        let link = LinkRef::container(tune.link.as_str());
        let made = self.is_made(&link);
        let index = self.index(&link)?;
        // The cached link is from before other ops.
        let doing = || format!("failed to lookup {link}");
        let found = self.rtnl(&link)?.link(Lookup::Index(index)).doing(doing)?;
        let found = found.ok_or_else(|| NetlinkError::NoLink { link: link.clone() })?;
        for change in changes(&tune.set, &found) {
            if !made {
                self.remember_ipv6(&link, &found, change.mtu)?;
                let inverse = Inverse::set_link(Side::Container, change.back);
                self.log(format!("restore the {} of {link}", change.what), inverse);
            }
            let doing = || format!("failed to set the {} of {:?}", change.what, link.name);
            self.rtnl(&link)?.set_link(change.there).doing(doing)?;
            if let Some(known) = self.links.get_mut(&link) {
                known.mac = change.mac.or(known.mac);
                known.mtu = change.mtu.unwrap_or(known.mtu);
            }
        }
        Ok(())
    }

    /// Records addresses and routes that a small MTU removes.
    fn remember_ipv6(&mut self, link: &LinkRef, found: &Link, mtu: Option<u32>) -> Result<(), NetlinkError> {
        if !mtu.is_some_and(|mtu| mtu < LEAST_IPV6_MTU && found.mtu >= LEAST_IPV6_MTU) {
            return Ok(());
        }
        let rtnl = self.rtnl(link)?;
        let family = Family::V6;
        let doing = || format!("failed to list the addresses of {link}");
        let addresses = rtnl.addresses(found.index, Some(family)).doing(doing)?;
        let doing = || format!("failed to list the routes of {link}");
        let routes = rtnl.routes(family, Some(DEFAULT_TABLE), Some(found.index)).doing(doing)?;
        let addresses = addresses.into_iter().map(|address| address.message).collect();
        let inverse = restore_addresses(Side::Container, addresses, routes);
        self.log(format!("put the IPv6 addresses of {link} back"), inverse);
        Ok(())
    }
}

/// Returns the writes that give a link these attributes, in the reference plugin's order. Attributes that already have
/// their value are skipped.
pub(in crate::netlink) fn changes(set: &LinkAttributes, now: &Link) -> Vec<Change> {
    let index = now.index;
    let change_of = |what: &str, there: LinkMessage, back: LinkMessage| Change {
        what: what.to_owned(),
        there,
        back,
        mac: None,
        mtu: None,
    };
    let mut changes = Vec::new();
    if let Some(mac) = set.mac.filter(|mac| now.mac != Some(*mac)) {
        let back = now.mac.map_or_else(|| change(index), |mac| change(index).address(mac.0.to_vec()));
        let there = change(index).address(mac.0.to_vec()).build();
        changes.push(Change { mac: Some(mac), ..change_of("MAC address", there, back.build()) });
    }
    if let Some(on) = set.promiscuous.filter(|on| now.promisc != *on) {
        let (there, back) = (change(index).promiscuous(on), change(index).promiscuous(!on));
        changes.push(change_of("promiscuous mode", there.build(), back.build()));
    }
    if let Some(mtu) = set.mtu.filter(|mtu| now.mtu != *mtu) {
        let (there, back) = (change(index).mtu(mtu), change(index).mtu(now.mtu));
        changes.push(Change { mtu: Some(mtu), ..change_of("MTU", there.build(), back.build()) });
    }
    if let Some(on) = set.all_multicast.filter(|on| now.allmulti != *on) {
        let (there, back) = (change(index).allmulticast(on), change(index).allmulticast(!on));
        changes.push(change_of("all-multicast mode", there.build(), back.build()));
    }
    if let Some(length) = set.tx_queue_length.filter(|length| now.tx_queue_length != *length) {
        let (there, back) = (change(index).txqueuelen(length), change(index).txqueuelen(now.tx_queue_length));
        changes.push(change_of("transmit queue length", there.build(), back.build()));
    }
    changes
}

impl Executor {
    /// Restores a container link's attributes. As in the reference plugin, a refusal is ignored if the link is deleted
    /// with the container; a device without a kind is hardware, and returns to the host as it is.
    pub(super) fn restore_link(&self, plan: &Plan, name: &str, before: &LinkAttributes) -> Result<(), NetlinkError> {
        let Some(rtnl) = self.rtnl(Side::Container) else { return Ok(()) };
        let Some(found) = self.find_again(plan, &LinkRef::container(name))? else { return Ok(()) };
        let mut first = Ok(());
        for change in changes(before, &found) {
            let outcome =
                rtnl.set_link(change.there).doing(|| format!("failed to restore the {} of {name:?}", change.what));
            first = first.and(outcome);
        }
        if found.kind.is_empty() { first } else { Ok(()) }
    }

    fn check_tuned(&self, tune: &TuneLink, found: &mut Vec<StepDifference>) -> Result<(), NetlinkError> {
        let name = &tune.link;
        let Some(link) = self.look(&LinkRef::container(name.as_str()))? else {
            found.push(StepDifference::NoTunedLink { name: name.clone() });
            return Ok(());
        };
        let set = &tune.set;
        // Unlike the reference plugin, ignores a capture in the container, which only raises the count.
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
}
