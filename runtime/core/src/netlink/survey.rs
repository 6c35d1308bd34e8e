//! Finds weft's objects in the kernel: links that carry a label, elements of its nftables sets, and the addresses in
//! every network namespace. For recovery of a lost ledger.
//!
//! A label is the `ifalias` of a link that an attachment made: `weft:NETWORK/CONTAINER/IFNAME`. It is on the host's end
//! of a veth pair, where the container cannot change it, and on the link itself if the host has no end.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::net::IpAddr;
use std::os::fd::RawFd;
use std::path::{Path, PathBuf};
use std::{fs, io};

use ipnet::IpNet;

use super::error::NetlinkError;
use super::fault::Doing;
use super::firewalld::Firewalld;
use super::identity::own_netns_cookie;
use super::netns::{Netns, OWN};
use super::nft::{FilterOf, Nft};
use super::rtnl::{Link, Nsid, Rtnl, change, redirect_targets};
use super::wire::Wire;
use crate::plan::{LinkRef, Op};

/// Directories of named network namespaces.
const NAMED: &[&str] = &["/run/netns", "/run/docker/netns"];

/// An attachment, reconstructed from its label and the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Survivor {
    /// The network.
    pub network: String,
    /// The container.
    pub container_id: String,
    /// The interface.
    pub ifname: String,
    /// The kind of its link.
    pub kind: String,
    /// The host's end of its link, if it has one.
    pub host_link: Option<String>,
    /// The bridge of which that end is a port.
    pub bridge: Option<String>,
    /// Its namespace. `None` if no path was found.
    pub netns: Option<NamedNetns>,
    /// Addresses of its link in the container.
    pub addresses: Vec<IpNet>,
}

/// A device of the host that can shape what an attachment sends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shaper {
    /// Its name.
    pub name: String,
    /// Its label, if it has one.
    pub label: Option<String>,
    /// Whether a link of the host redirects its traffic to it.
    pub in_use: bool,
}

/// A network namespace with a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedNetns {
    /// The path.
    pub path: PathBuf,
    /// Its identity.
    pub identity: String,
    /// Its cookie.
    pub cookie: Option<u64>,
}

/// A network namespace with its links.
struct Found {
    netns: NamedNetns,
    /// Its number in our own namespace.
    id: Option<Nsid>,
    /// The number of our own namespace in it.
    host: Option<Nsid>,
    /// Whether it has a number for any namespace.
    has_numbers: bool,
    links: Vec<(Link, Vec<IpNet>)>,
}

impl Found {
    /// Returns whether an attachment of this host has made a labelled link in it. A container as a node has labelled
    /// links, too: the host's ends of its pairs, and children of its own links in its containers. A link without a
    /// parent may be from before an ADD gave the host a number (`evidence`).
    fn is_ours(&self, link: &Link) -> bool {
        match link.other_netns {
            Some(parent) => Some(parent) == self.host && link.kind != "veth",
            None => link.kind != "veth" && (self.host.is_some() || !self.has_numbers),
        }
    }
}

/// Returns the label of an attachment's links; `None` if it would exceed the kernel's limit.
#[must_use]
pub fn label(network: &str, container_id: &str, ifname: &str) -> Option<String> {
    /// `IFALIASZ`, including the terminating zero.
    const MOST: usize = 255;
    let label = format!("{LABEL}{network}/{container_id}/{ifname}");
    (label.len() <= MOST && !label.contains('\0')).then_some(label)
}

/// Returns network, container id and interface name of a label.
#[must_use]
pub fn parse_label(alias: &str) -> Option<(&str, &str, &str)> {
    let (network, rest) = alias.strip_prefix(LABEL)?.split_once('/')?;
    let (container_id, ifname) = rest.split_once('/')?;
    (!network.is_empty() && !container_id.is_empty()).then_some((network, container_id, ifname))
}

const LABEL: &str = "weft:";

/// The kind of a device that shapes what an attachment sends.
const SHAPER: &str = "ifb";

/// Returns the link of an op that carries the attachment's label.
pub(super) fn labelled(op: &Op) -> Option<LinkRef> {
    match op {
        Op::CreateVeth { host, .. } => Some(LinkRef::host(host.as_str())),
        Op::CreateMacvlan { name, .. } => Some(LinkRef::container(name.as_str())),
        Op::CreateIpvlan(link) => Some(LinkRef::container(link.name.as_str())),
        Op::CreateVlan(link) => Some(LinkRef::container(link.name.as_str())),
        Op::CreateDummy(link) => Some(LinkRef::container(link.name.as_str())),
        Op::CreateTap(link) => Some(LinkRef::container(link.name.as_str())),
        Op::CreateIfb(link) => Some(LinkRef::host(link.name.as_str())),
        _ => None,
    }
}

impl Rtnl {
    /// Writes a label. Best effort: it names the owner of the link. Without it, DEL leaves a veth pair whose end on the
    /// host was renamed.
    pub(super) fn label(&self, index: u32, label: &str) {
        self.set_link(change(index).alias(label).build()).ok();
    }
}

/// Returns whether a link is an attachment's, besides the device that shapes its traffic, which may outlive it.
pub(super) fn is_labelled(link: &Link) -> bool {
    link.kind != SHAPER && link.alias.as_deref().is_some_and(|alias| parse_label(alias).is_some())
}

pub(super) fn open_route() -> Result<Rtnl, NetlinkError> {
    Wire::route().map(Rtnl::on_socket).doing(|| "failed to open the routing netlink socket")
}

pub(super) fn links_of(rtnl: &Rtnl) -> Result<Vec<Link>, NetlinkError> {
    rtnl.links(None).doing(|| "failed to list links")
}

/// Returns a number that changes with every change of the packet filter, also by other programs.
///
/// # Errors
/// The kernel has no nftables.
pub fn filter_generation() -> Result<u32, NetlinkError> {
    Nft::open()?.generation()
}

/// Returns the ops whose nftables elements or rules exist, each with what it names of its attachment. None on a kernel
/// without nftables.
///
/// # Errors
/// The kernel does not list them.
pub fn found_filters() -> Result<Vec<(FilterOf, Op)>, NetlinkError> {
    match Nft::open().and_then(|mut nft| nft.recover()) {
        Err(error) if error.means_no_nftables() => Ok(Vec::new()),
        found => found,
    }
}

/// Returns the attachments whose links carry a label, as far as the host or a namespace with a path shows them.
///
/// # Errors
/// The kernel does not list the host's links.
pub fn survivors() -> Result<Vec<Survivor>, NetlinkError> {
    let rtnl = open_route()?;
    let namespaces = namespaces(&rtnl)?;
    let links = links_of(&rtnl)?;
    let mut found = Vec::new();
    for link in links.iter().filter(|link| is_labelled(link)) {
        let inside = namespaces.iter().find(|netns| netns.id.is_some() && netns.id == link.other_netns);
        let end = inside.and_then(|netns| netns.links.iter().find(|(end, _)| Some(end.index) == link.other));
        let addresses = end.map(|(_link, addresses)| addresses.clone()).unwrap_or_default();
        let netns = inside.map(|found| found.netns.clone());
        let master = links.iter().find(|other| Some(other.index) == link.master && other.kind == "bridge");
        let bridge = master.map(|bridge| bridge.name.clone());
        found.extend(survivor(link, Some((link.name.clone(), bridge)), netns, addresses));
    }
    for netns in &namespaces {
        for (link, addresses) in netns.links.iter().filter(|(link, _)| is_labelled(link) && netns.is_ours(link)) {
            found.extend(survivor(link, None, Some(netns.netns.clone()), addresses.clone()));
        }
    }
    Ok(found)
}

/// Returns the devices of the host that can shape an attachment's traffic.
///
/// # Errors
/// The kernel does not list the host's links, or what they redirect.
pub fn shapers() -> Result<Vec<Shaper>, NetlinkError> {
    let rtnl = open_route()?;
    let links = links_of(&rtnl)?;
    if !links.iter().any(|link| link.kind == SHAPER) {
        return Ok(Vec::new());
    }
    let mut targets = BTreeSet::new();
    for link in &links {
        let filters = rtnl.ingress_filters(link.index).doing(|| format!("failed to list the filters of {}", link.name));
        targets.extend(redirect_targets(&filters?).unwrap_or_default());
    }
    let shapers = links.into_iter().filter(|link| link.kind == SHAPER);
    Ok(shapers
        .map(|link| Shaper { in_use: targets.contains(&link.index), name: link.name, label: link.alias })
        .collect())
}

/// Returns the sources of firewalld's zones that are one of these addresses. None if firewalld does not run.
///
/// # Errors
/// firewalld, or the bus, does not answer.
pub fn found_sources(addresses: &BTreeSet<IpAddr>) -> Result<Vec<(FilterOf, Op)>, NetlinkError> {
    let firewalld = Firewalld::default();
    if addresses.is_empty() || !firewalld.is_running()? {
        return Ok(Vec::new());
    }
    let mut found = Vec::new();
    for address in addresses {
        if let Some(source) = firewalld.source_of(*address)? {
            found.push((FilterOf::Address(*address), Op::FirewalldSource(source)));
        }
    }
    Ok(found)
}

/// Returns the addresses in every network namespace with a path, except the calling thread's own.
///
/// # Errors
/// Our own namespace cannot be read.
pub fn addresses_in_use() -> Result<BTreeSet<IpAddr>, NetlinkError> {
    let namespaces = namespaces(&open_route()?)?;
    let links = namespaces.into_iter().flat_map(|netns| netns.links);
    Ok(links.flat_map(|(_link, addresses)| addresses).map(|net| net.addr()).collect())
}

fn survivor(
    link: &Link,
    host: Option<(String, Option<String>)>,
    netns: Option<NamedNetns>,
    addresses: Vec<IpNet>,
) -> Option<Survivor> {
    let (network, container_id, ifname) = parse_label(link.alias.as_deref()?)?;
    let (host_link, bridge) = host.unzip();
    Some(Survivor {
        network: network.to_owned(),
        container_id: container_id.to_owned(),
        ifname: ifname.to_owned(),
        kind: link.kind.clone(),
        host_link,
        bridge: bridge.flatten(),
        netns,
        addresses,
    })
}

/// Returns every network namespace with a name or a process, except our own. Namespaces that disappear meanwhile, or
/// cannot be entered, are left out.
fn namespaces(host: &Rtnl) -> Result<Vec<Found>, NetlinkError> {
    let own = Netns::open(Path::new(OWN))?;
    let (own_identity, own_fd) = (own.identity()?, own.raw_fd());
    let mut found: BTreeMap<String, Found> = BTreeMap::new();
    for path in paths()? {
        let Ok(netns) = Netns::open(&path) else { continue };
        let Ok(identity) = netns.identity() else { continue };
        if identity == own_identity || found.contains_key(&identity) {
            continue;
        }
        if let Ok(Ok(inside)) = netns.run_inside(move || look_here(own_fd)) {
            let Inside { links, host: host_here, has_numbers, cookie } = inside;
            let id = host.nsid_of(netns.raw_fd()).ok().flatten();
            let netns = NamedNetns { path, identity: identity.clone(), cookie };
            found.insert(identity, Found { netns, id, host: host_here, has_numbers, links });
        }
    }
    Ok(found.into_values().collect())
}

/// Returns the paths of network namespaces. Names come first, because a process's path disappears with the process.
pub(super) fn paths() -> Result<Vec<PathBuf>, NetlinkError> {
    let mut paths = Vec::new();
    for dir in NAMED.iter().map(Path::new).filter(|dir| dir.exists()) {
        let mut named = listed(dir)?;
        named.sort();
        paths.extend(named);
    }
    let is_process = |path: &PathBuf| {
        let name = path.file_name().and_then(OsStr::to_str);
        name.is_some_and(|name| name.bytes().all(|byte| byte.is_ascii_digit()))
    };
    paths.extend(listed(Path::new("/proc"))?.into_iter().filter(is_process).map(|path| path.join("ns/net")));
    Ok(paths)
}

fn listed(dir: &Path) -> Result<Vec<PathBuf>, NetlinkError> {
    let list = || fs::read_dir(dir)?.map(|entry| entry.map(|entry| entry.path())).collect::<io::Result<_>>();
    list().doing(|| format!("failed to list {}", dir.display()))
}

/// What a namespace shows from inside; see `Found`.
struct Inside {
    links: Vec<(Link, Vec<IpNet>)>,
    host: Option<Nsid>,
    has_numbers: bool,
    cookie: Option<u64>,
}

fn look_here(host: RawFd) -> Result<Inside, NetlinkError> {
    let rtnl = open_route()?;
    let links = links_here(&rtnl)?;
    // Do this after the links, for which the kernel numbers the namespaces of parents.
    let doing = || "failed to tell network namespaces apart";
    let (host, has_numbers) = (rtnl.nsid_of(host).doing(doing)?, !rtnl.nsids().doing(doing)?.is_empty());
    Ok(Inside { links, host, has_numbers, cookie: own_netns_cookie() })
}

/// Returns the links of a namespace with their addresses, except loopback and link-local ones.
fn links_here(rtnl: &Rtnl) -> Result<Vec<(Link, Vec<IpNet>)>, NetlinkError> {
    let mut found = Vec::new();
    for link in links_of(rtnl)? {
        if link.name == "lo" {
            continue;
        }
        let addresses = rtnl.addresses(link.index, None).doing(|| "failed to list addresses")?;
        let of_the_link = |net: &IpNet| matches!(net, IpNet::V6(net) if net.addr().is_unicast_link_local());
        let nets = addresses.into_iter().map(|address| address.net).filter(|net| !of_the_link(net)).collect();
        found.push((link, nets));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_read_back_and_are_never_too_long() {
        let text = label("net", "0123abcd", "eth0").unwrap();
        assert_eq!(text, "weft:net/0123abcd/eth0");
        assert_eq!(parse_label(&text), Some(("net", "0123abcd", "eth0")));
        assert_eq!(label(&"n".repeat(250), "id", "eth0"), None);
        for other in ["eth1", "weft:", "weft:net", "weft:net/id", "weft://eth0"] {
            assert_eq!(parse_label(other), None, "{other}");
        }
    }
}
