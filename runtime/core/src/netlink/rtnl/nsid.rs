//! Numbers of network namespaces within another namespace (nsids), and links in those namespaces.
//!
//! A namespace assigns a number to another one when a link is moved there (`__dev_change_net_namespace` calls
//! `peernet2id_alloc`, <https://elixir.bootlin.com/linux/v6.12/source/net/core/dev.c>), and keeps it while both exist.
//! Nobody can revoke it. So the possible destinations of a link are known, and links there can be read and deleted
//! (`IFLA_TARGET_NETNSID`, Linux 4.20) without entering the namespace.

use rtnetlink::LinkUnspec;
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::link::{LinkAttribute, LinkExtentMask};
use rtnetlink::packet_route::nsid::{NsidAttribute, NsidMessage};

use super::{ChangeMode, Link, Nsid, Rtnl};
use crate::netlink::fault::Fault;

impl Rtnl {
    /// Returns the number of the namespace behind an open file; `None` if it has none.
    pub(in crate::netlink) fn nsid_of(&self, netns: i32) -> Result<Option<Nsid>, Fault> {
        let mut message = NsidMessage::default();
        message.attributes.push(NsidAttribute::Fd(u32::try_from(netns).unwrap_or_default()));
        match self.get(RouteNetlinkMessage::GetNsId(message))? {
            RouteNetlinkMessage::NewNsId(answer) => Ok(id(&answer)),
            _ => Err(Fault::Broken("no namespace id for an answer")),
        }
    }

    /// Gives the namespace behind an open file a number. It may have one.
    pub(in crate::netlink) fn number(&self, netns: i32) -> Result<(), Fault> {
        let mut message = NsidMessage::default();
        message.attributes.push(NsidAttribute::Fd(u32::try_from(netns).unwrap_or_default()));
        message.attributes.push(NsidAttribute::Id(-1));
        match self.change(RouteNetlinkMessage::NewNsId(message), ChangeMode::Set) {
            Err(fault) if fault.is_exists() => Ok(()),
            outcome => outcome,
        }
    }

    /// Returns all namespaces with a number.
    pub(in crate::netlink) fn nsids(&self) -> Result<Vec<Nsid>, Fault> {
        let answers = self.dump(RouteNetlinkMessage::GetNsId(NsidMessage::default()))?;
        let ids = answers.into_iter().filter_map(|answer| match answer {
            RouteNetlinkMessage::NewNsId(message) => id(&message),
            _ => None,
        });
        Ok(ids.collect())
    }

    /// Returns all links of another namespace. The socket's own namespace defines the numbers in `other_netns`.
    pub(in crate::netlink) fn links_in(&self, netns: Nsid) -> Result<Vec<Link>, Fault> {
        let message = LinkUnspec::new_with_index(0)
            .append_extra_attribute(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]))
            .append_extra_attribute(LinkAttribute::IfNetnsId(netns.0));
        let answers = self.dump(RouteNetlinkMessage::GetLink(message.build()))?;
        let links = answers.into_iter().filter_map(|answer| match answer {
            RouteNetlinkMessage::NewLink(message) => Some(Link::read(message)),
            _ => None,
        });
        Ok(links.collect())
    }

    /// Deletes a link of another namespace. Returns `false` if it does not exist.
    pub(in crate::netlink) fn delete_link_in(&self, netns: Nsid, index: u32) -> Result<bool, Fault> {
        let message = LinkUnspec::new_with_index(index).append_extra_attribute(LinkAttribute::IfNetnsId(netns.0));
        match self.change(RouteNetlinkMessage::DelLink(message.build()), ChangeMode::Set) {
            Ok(()) => Ok(true),
            Err(fault) if fault.is_absent() => Ok(false),
            Err(fault) => Err(fault),
        }
    }
}

/// `NETNSA_NSID`; -1 means none.
fn id(message: &NsidMessage) -> Option<Nsid> {
    let found = message.attributes.iter().find_map(|attribute| match attribute {
        NsidAttribute::Id(id) => Some(*id),
        _ => None,
    });
    found.filter(|id| *id >= 0).map(Nsid)
}
