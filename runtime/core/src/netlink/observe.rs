//! Reads the facts about the host that delegates and steps need.

use std::path::Path;
use std::{fs, io};

use super::error::NetlinkError;
use super::fault::Doing;
use super::rtnl::{DEFAULT_TABLE, Link, Lookup, RouteSpec, Rtnl};
use super::{Executor, device};
use crate::plan::{Family, LinkRef, Need, Observed, Peer, Side};

impl Executor {
    /// Reads facts. Missing objects are left out.
    ///
    /// # Errors
    /// The kernel refuses, or a fact concerns the container and its namespace is not open.
    pub fn observe(&mut self, needs: &[Need]) -> Result<Observed, NetlinkError> {
        let mut observed = Observed::default();
        for need in needs {
            match need {
                Need::Link(link) | Need::Parent(link) => {
                    let rtnl = self.side(link.side, link)?;
                    let found = rtnl.link(Lookup::Name(&link.name)).doing(|| format!("failed to lookup {link}"))?;
                    record_link(&mut observed, rtnl, link.clone(), found)?;
                }
                Need::Device(query) => observed.device = Some(device::find(&self.host, query)?),
                Need::Peer(link) => {
                    let peer = self.peer(link)?;
                    observed.peers.insert(link.clone(), peer);
                }
                Need::File(path) => {
                    if let Some(text) = file(path)? {
                        observed.files.insert(path.clone(), text);
                    }
                }
                Need::Firewalld => observed.firewalld = self.firewalld.is_running()?,
                Need::DefaultRouteLink(side) => {
                    let rtnl = self.side(*side, &"finding the default route")?;
                    let Some(index) = default_route(rtnl)? else { continue };
                    let found =
                        rtnl.link(Lookup::Index(index)).doing(|| "failed to lookup the link of the default route")?;
                    let Some(found) = found else { continue };
                    let link = LinkRef { side: *side, name: found.name.clone() };
                    observed.default_route_links.insert(*side, found.name.clone());
                    record_link(&mut observed, rtnl, link, Some(found))?;
                }
            }
        }
        Ok(observed)
    }

    /// Finds the host's end of a veth. `IFLA_LINK` is an index in the other end's namespace, so the host's link with
    /// that index has to point back. (Kernels before 4.1 have no `IFLA_LINK` here; the reference plugin uses ethtool
    /// there.)
    fn peer(&self, link: &LinkRef) -> Result<Peer, NetlinkError> {
        let doing = || format!("failed to lookup {link}");
        let Some(found) = self.side(link.side, link)?.link(Lookup::Name(&link.name)).doing(doing)? else {
            return Ok(Peer::NoLink);
        };
        let Some(other) = found.other.filter(|_| found.kind == "veth") else { return Ok(Peer::NotVeth) };
        let near = self.host.link(Lookup::Index(other)).doing(doing)?;
        let near = near.filter(|near| near.kind == "veth" && near.other == Some(found.index));
        Ok(near.map_or(Peer::Elsewhere(other), |near| Peer::Host(near.name)))
    }

    fn side(&self, side: Side, what: &impl ToString) -> Result<&Rtnl, NetlinkError> {
        self.rtnl(side).ok_or_else(|| NetlinkError::NoContainer { op: what.to_string() })
    }
}

/// Reads a file; `None` if it does not exist.
fn file(path: &Path) -> Result<Option<String>, NetlinkError> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(String::from_utf8_lossy(&bytes).into_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(io) => Err(NetlinkError::File { doing: format!("open {}", path.display()), io }),
    }
}

fn record_link(observed: &mut Observed, rtnl: &Rtnl, link: LinkRef, found: Option<Link>) -> Result<(), NetlinkError> {
    if let Some(found) = found {
        let addresses =
            rtnl.addresses(found.index, None).doing(|| format!("failed to list the addresses of {link}"))?;
        let info = found.info(addresses.into_iter().map(|address| address.net).collect());
        observed.links.insert(link, info);
    }
    Ok(())
}

/// Returns the index of the link of the first default route, IPv4 before IPv6.
fn default_route(rtnl: &Rtnl) -> Result<Option<u32>, NetlinkError> {
    for family in [Family::V4, Family::V6] {
        let routes = rtnl.routes(family, Some(DEFAULT_TABLE), None).doing(|| "failed to list routes")?;
        let mut defaults = routes.iter().filter_map(RouteSpec::read).filter(|route| route.dst.prefix_len() == 0);
        if let Some(route) = defaults.next() {
            return Ok(Some(route.index));
        }
    }
    Ok(None)
}
