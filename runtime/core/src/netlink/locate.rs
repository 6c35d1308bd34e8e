//! Finds a container link of an attachment, by what the container cannot set.
//!
//! A container with `NET_ADMIN` may rename its link, give its alias and MAC to another, put an impostor of the same name in its
//! place, or move it to a namespace of its own. So a link is known by the index that was chosen for it before it was made
//! ([`Plan::link_index`](crate::plan::Plan)), its kind, and its parent on the host. A link that is in none of the namespaces
//! it can have got to is gone, which is the only case in which its address may be given to another.
//!
//! Limit: one move is followed. A container that may make namespaces can move a link on from the second one to a third and
//! end the second.

use std::fs::File;
use std::os::fd::AsRawFd;

use super::Executor;
use super::error::NetlinkError;
use super::fault::Doing;
use super::netns::OWN;
use super::rtnl::{Link, Lookup, Nsid, Rtnl};
use crate::plan::{LinkRef, Plan, Side};

/// What a link is known by.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted<'a> {
    /// Its name when it was made.
    pub(super) name: &'a str,
    /// Its index; `None` for what older versions or other plugins made.
    pub(super) index: Option<u32>,
    /// Its kind.
    pub(super) kind: &'a str,
    /// Its parent, where it has one.
    pub(super) parent: Option<&'a LinkRef>,
}

/// Where a link is.
#[derive(Debug)]
pub(super) enum Place {
    /// In the container.
    Here(Link),
    /// In another namespace, of which the container's own knows the number.
    Elsewhere(Nsid, Link),
    /// Another namespace has a link that may be the one, or cannot be looked at.
    Unclear,
    /// Nowhere.
    Gone,
}

/// A parent on the host, as its children show it.
#[derive(Debug)]
struct Parent {
    /// Its index, and that of its own parent: what is made on a macvlan or ipvlan becomes a child of the link below that
    /// (`macvlan_common_newlink` in <https://elixir.bootlin.com/linux/v6.12/source/drivers/net/macvlan.c>). Empty where the
    /// host has no such link, which then has no children either.
    indexes: Vec<u32>,
}

/// Whether a link of the container, or of where that can have got to, is the wanted one but for its index. The number is the
/// host's namespace.
type Fits<'a> = dyn Fn(&Link, Option<Nsid>) -> bool + 'a;

impl Parent {
    fn is_of(&self, link: &Link, host: Option<Nsid>) -> bool {
        let same_index = self.indexes.is_empty() || link.other.is_some_and(|other| self.indexes.contains(&other));
        same_index && link.other_netns.is_some() && link.other_netns == host
    }
}

impl Executor {
    /// Finds a link of the container. Only where it is not in its place under its index are other namespaces looked at.
    pub(super) fn locate(&self, wanted: &Wanted<'_>) -> Result<Place, NetlinkError> {
        let Some(container) = self.rtnl(Side::Container) else { return Ok(Place::Gone) };
        let doing = || format!("failed to find {:?}", wanted.name);
        let by_name = || container.link(Lookup::Name(wanted.name)).doing(doing);
        let Some(index) = wanted.index else {
            let named = by_name()?.filter(|link| link.kind == wanted.kind);
            // A pair whose other end is not on the host is the container's own.
            let own = |link: &Link| link.kind == "veth" && link.other_netns != host_nsid(container).ok().flatten();
            return Ok(named.filter(|link| !own(link)).map_or(Place::Gone, Place::Here));
        };
        let parent = self.parent(wanted)?;
        let fits = |link: &Link, host| {
            link.kind == wanted.kind && parent.as_ref().is_none_or(|parent| parent.is_of(link, host))
        };
        let found = container.link(Lookup::Index(index)).doing(doing)?;
        // After the lookup: it is what makes the kernel number the host's namespace, if nothing else did.
        let host = host_nsid(container)?;
        if let Some(found) = found.filter(|found| fits(found, host)) {
            return Ok(Place::Here(found));
        }
        match self.locate_elsewhere(wanted.name, index, &fits)? {
            // Moved away and back, it may have another index: the kernel's. One that a plan has chosen is another attachment's, which
            // came to the same namespace later.
            Place::Gone => {
                let may_be = |named: &Link| fits(named, host) && !Plan::is_chosen_index(named.index);
                Ok(by_name()?.filter(may_be).map_or(Place::Gone, Place::Here))
            }
            found => Ok(found),
        }
    }

    fn parent(&self, wanted: &Wanted<'_>) -> Result<Option<Parent>, NetlinkError> {
        let Some(parent) = wanted.parent.filter(|parent| parent.side == Side::Host) else { return Ok(None) };
        let found = self.host.link(Lookup::Name(&parent.name)).doing(|| format!("failed to lookup {parent}"))?;
        let indexes = found.map(|found| [Some(found.index), found.other].into_iter().flatten().collect());
        Ok(Some(Parent { indexes: indexes.unwrap_or_default() }))
    }

    /// Looks through the namespaces that a link of the container can have been moved to.
    pub(super) fn locate_elsewhere(&self, name: &str, index: u32, fits: &Fits<'_>) -> Result<Place, NetlinkError> {
        let Some(container) = self.rtnl(Side::Container) else { return Ok(Place::Gone) };
        let doing = || format!("failed to look for {name:?} in other network namespaces");
        let host = host_nsid(container)?;
        let (mut found, mut unclear) = (Vec::new(), false);
        for netns in container.nsids().doing(doing)?.into_iter().filter(|netns| Some(*netns) != host) {
            match container.links_in(netns) {
                Ok(links) => found.push((netns, links)),
                // It ended meanwhile, and all that was in it.
                Err(_) if !container.nsids().doing(doing)?.contains(&netns) => {}
                Err(_) => unclear = true,
            }
        }
        let host = host_nsid(container)?;
        for (netns, links) in found {
            for link in links.into_iter().filter(|link| fits(link, host)) {
                if link.index == index {
                    return Ok(Place::Elsewhere(netns, link));
                }
                unclear = true;
            }
        }
        Ok(if unclear { Place::Unclear } else { Place::Gone })
    }
}

/// What the container's namespace numbers the host's.
fn host_nsid(container: &Rtnl) -> Result<Option<Nsid>, NetlinkError> {
    let host = File::open(OWN).doing(|| format!("failed to open {OWN}"))?;
    container.nsid_of(host.as_raw_fd()).doing(|| "failed to tell the namespaces of the container apart")
}
