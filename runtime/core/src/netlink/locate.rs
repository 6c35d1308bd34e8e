//! Finds a container link of an attachment by properties that the container cannot set.
//!
//! A container with `NET_ADMIN` may rename its link, give its alias and MAC to another, replace it by another link with
//! the same name, or move it to a namespace of its own. So a link is identified by the index that was chosen before it
//! was made ([`Plan::link_index`](crate::plan::Plan)), its kind, and its parent on the host. A link that is in none of
//! the namespaces to which it can have been moved is gone. Only then may its address be given to another attachment.
//!
//! The plan has the parent's name, and the host may have renamed the parent since, given its name to another link, or
//! moved it to another namespace. The container cannot make a child of a link outside it. So a child of such a link
//! that has the chosen index is the link, whatever the name of its parent is now. For other links, the parent's name
//! decides only whether the result is certain.
//!
//! Limitation: only one move is followed. A container that can create namespaces can move a link from the second one to
//! a third and then end the second.

use std::fs::File;
use std::os::fd::{AsRawFd, RawFd};

use super::Executor;
use super::error::NetlinkError;
use super::fault::Doing;
use super::netns::OWN;
use super::rtnl::{Link, Lookup, Nsid, Rtnl};
use crate::plan::{LinkRef, Plan, Side};

/// The properties that identify a link.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted<'a> {
    /// Its name when it was made.
    pub(super) name: &'a str,
    /// Its index; `None` for links of older versions or other plugins.
    pub(super) index: Option<u32>,
    /// Its kind.
    pub(super) kind: &'a str,
    /// Its parent, if it has one.
    pub(super) parent: Option<&'a LinkRef>,
}

/// The location of a link.
#[derive(Debug)]
pub(super) enum LinkLocation {
    /// In the container.
    Here(Link),
    /// In another namespace, with its number in the container's own namespace.
    Elsewhere(Nsid, Link),
    /// Another namespace has a link that may be the one, or cannot be inspected.
    Unclear,
    /// Nowhere.
    Gone,
}

/// A parent on the host, as its children refer to it.
#[derive(Debug)]
struct Parent {
    /// Its index, and that of its own parent: a link made on a macvlan or ipvlan becomes a child of the link below
    /// (`macvlan_common_newlink` in <https://elixir.bootlin.com/linux/v6.12/source/drivers/net/macvlan.c>). Empty if
    /// the host has no such link, which then has no children either.
    indexes: Vec<u32>,
}

/// Returns whether a link of the container, or of a namespace to which it can have been moved, matches in everything
/// but its index.
type Fits<'a> = dyn Fn(&Link, Numbers) -> Match + 'a;

/// Numbers of network namespaces in the container's own.
#[derive(Debug, Clone, Copy)]
pub(super) struct Numbers {
    /// The host's.
    pub(super) host: Option<Nsid>,
    /// The container's own. It gets one when another namespace has a child of one of its links.
    own: Option<Nsid>,
}

/// How well a link matches what is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Match {
    /// In everything.
    Whole,
    /// In everything but the name of its parent, which has changed since.
    ButParent,
    /// It is another link.
    No,
}

impl Parent {
    fn is_of(&self, link: &Link, numbers: Numbers) -> bool {
        let same_index = self.indexes.is_empty() || link.other.is_some_and(|other| self.indexes.contains(&other));
        same_index && link.other_netns.is_some() && link.other_netns == numbers.host
    }
}

impl Match {
    /// Compares a link with what is wanted. The kernel alone decides whether a link has a parent in another namespace.
    fn compare(link: &Link, numbers: Numbers, kind: &str, parent: Option<&Parent>) -> Self {
        match parent {
            _ if link.kind != kind => Self::No,
            None => Self::Whole,
            Some(parent) if parent.is_of(link, numbers) => Self::Whole,
            // A child of a link of the container, which the container has made and moved.
            Some(_) if link.other_netns.is_some() && link.other_netns == numbers.own => Self::No,
            Some(_) if link.other_netns.is_some() => Self::ButParent,
            Some(_) => Self::No,
        }
    }
}

impl Executor {
    /// Finds a link of the container. Searches other namespaces only if it is not in its place under its index.
    pub(super) fn locate(&self, wanted: &Wanted<'_>) -> Result<LinkLocation, NetlinkError> {
        let Some(container) = self.rtnl(Side::Container) else { return Ok(LinkLocation::Gone) };
        let doing = || format!("failed to find {:?}", wanted.name);
        let by_name = || container.link(Lookup::Name(wanted.name)).doing(doing);
        let Some(index) = wanted.index else {
            let named = by_name()?.filter(|link| link.kind == wanted.kind);
            // A pair whose other end is not on the host belongs to the container.
            let own = |link: &Link| link.kind == "veth" && link.other_netns != nsid_of(container, OWN).ok().flatten();
            return Ok(named.filter(|link| !own(link)).map_or(LinkLocation::Gone, LinkLocation::Here));
        };
        let parent = self.parent(wanted)?;
        let fits = |link: &Link, numbers| Match::compare(link, numbers, wanted.kind, parent.as_ref());
        let found = container.link(Lookup::Index(index)).doing(doing)?;
        // Do this after the lookup, which makes the kernel number the host's namespace.
        let numbers = self.numbers()?;
        let mut unclear = false;
        if let Some(found) = found {
            match fits(&found, numbers) {
                Match::Whole => return Ok(LinkLocation::Here(found)),
                Match::ButParent if found.other_netns == numbers.host => return Ok(LinkLocation::Here(found)),
                // Its parent left the host.
                Match::ButParent => unclear = true,
                Match::No => {}
            }
        }
        match self.locate_elsewhere(wanted.name, index, &fits)? {
            LinkLocation::Gone if unclear => Ok(LinkLocation::Unclear),
            // If it was moved away and back, it may have another index, assigned by the kernel. An index chosen by a
            // plan belongs to another attachment that uses the same namespace.
            LinkLocation::Gone => {
                let named = by_name()?.filter(|named| !Plan::is_chosen_index(named.index));
                Ok(match named.map(|named| (fits(&named, numbers), named)) {
                    Some((Match::Whole, named)) => LinkLocation::Here(named),
                    Some((Match::ButParent, _)) => LinkLocation::Unclear,
                    Some((Match::No, _)) | None => LinkLocation::Gone,
                })
            }
            found => Ok(found),
        }
    }

    /// Returns the numbers of the host's and the container's namespace in the latter.
    fn numbers(&self) -> Result<Numbers, NetlinkError> {
        let Some(container) = &self.container else { return Ok(Numbers { host: None, own: None }) };
        let host = nsid_of(&container.rtnl, OWN)?;
        Ok(Numbers { host, own: number_of(&container.rtnl, container.netns.raw_fd())? })
    }

    fn parent(&self, wanted: &Wanted<'_>) -> Result<Option<Parent>, NetlinkError> {
        let Some(parent) = wanted.parent.filter(|parent| parent.side == Side::Host) else { return Ok(None) };
        let found = self.host.link(Lookup::Name(&parent.name)).doing(|| format!("failed to lookup {parent}"))?;
        let indexes = found.map(|found| [Some(found.index), found.other].into_iter().flatten().collect());
        Ok(Some(Parent { indexes: indexes.unwrap_or_default() }))
    }

    /// Searches the namespaces to which a link of the container can have been moved.
    pub(super) fn locate_elsewhere(
        &self,
        name: &str,
        index: u32,
        fits: &Fits<'_>,
    ) -> Result<LinkLocation, NetlinkError> {
        let Some(container) = self.rtnl(Side::Container) else { return Ok(LinkLocation::Gone) };
        let doing = || format!("failed to look for {name:?} in other network namespaces");
        let Numbers { host, own } = self.numbers()?;
        let (mut found, mut unclear) = (Vec::new(), false);
        let is_elsewhere = |netns: &Nsid| ![host, own].contains(&Some(*netns));
        for netns in container.nsids().doing(doing)?.into_iter().filter(is_elsewhere) {
            match container.links_in(netns) {
                Ok(links) => found.push((netns, links)),
                // The namespace ended meanwhile, with everything in it.
                Err(_) if !container.nsids().doing(doing)?.contains(&netns) => {}
                Err(_) => unclear = true,
            }
        }
        // Again: the lists made the kernel number the namespaces of parents.
        let numbers = self.numbers()?;
        for (netns, links) in found {
            for link in links {
                match fits(&link, numbers) {
                    Match::Whole if link.index == index => return Ok(LinkLocation::Elsewhere(netns, link)),
                    Match::Whole => unclear = true,
                    // An index chosen by another plan belongs to another attachment.
                    Match::ButParent => unclear |= link.index == index || !Plan::is_chosen_index(link.index),
                    Match::No => {}
                }
            }
        }
        Ok(if unclear { LinkLocation::Unclear } else { LinkLocation::Gone })
    }
}

/// Returns the number of a namespace in the container's.
fn nsid_of(container: &Rtnl, path: &str) -> Result<Option<Nsid>, NetlinkError> {
    let netns = File::open(path).doing(|| format!("failed to open {path}"))?;
    number_of(container, netns.as_raw_fd())
}

fn number_of(container: &Rtnl, netns: RawFd) -> Result<Option<Nsid>, NetlinkError> {
    container.nsid_of(netns).doing(|| "failed to tell the namespaces of the container apart")
}
