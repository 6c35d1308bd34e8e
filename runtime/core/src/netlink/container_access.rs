//! Access to a container's namespace for the agent: opens sockets inside, reads a link and switches it up or down.
//!
//! Not here: plans. The agent changes nothing but the link's up flag, as the stock DHCP daemon does.

use std::path::Path;

use super::Executor;
use super::error::NetlinkError;
use super::fault::Doing;
use super::netns::Netns;
use super::netns_fault::NetnsFault;
use super::rtnl::{Lookup, change};
use crate::plan::{LinkInfo, LinkRef};

/// Runs a closure inside the namespace at a path, on a thread that ends with it. Sockets that it opens and returns
/// remain in that namespace.
///
/// # Errors
/// The path does not lead to a namespace, it cannot be entered, or the closure failed.
pub fn in_netns<T: Send + 'static>(
    path: &Path,
    work: impl FnOnce() -> std::io::Result<T> + Send + 'static,
) -> Result<T, NetlinkError> {
    let fail = |fault| NetlinkError::OpenNetns { path: path.to_owned(), fault };
    let netns = Netns::open(path)?;
    let worked = netns.start_inside(work, None).map_err(fail)?.wait()?.map_err(fail)?;
    worked.map_err(|error| fail(NetnsFault::inside("", &error)))
}

impl Executor {
    /// Returns a link, if it exists.
    ///
    /// # Errors
    /// The kernel refuses, or the link is the container's and its namespace is not open.
    pub fn look_at(&self, link: &LinkRef) -> Result<Option<LinkInfo>, NetlinkError> {
        let rtnl = self.rtnl(link.side).ok_or_else(|| NetlinkError::NoContainer { op: link.to_string() })?;
        let found = rtnl.link(Lookup::Name(&link.name)).doing(|| format!("failed to lookup {link}"))?;
        Ok(found.map(|found| found.info(Vec::new())))
    }

    /// Switches a link up or down by its index.
    ///
    /// # Errors
    /// As `look_at`; also if the link is gone.
    pub fn switch(&self, link: &LinkRef, index: u32, up: bool) -> Result<(), NetlinkError> {
        let rtnl = self.rtnl(link.side).ok_or_else(|| NetlinkError::NoContainer { op: link.to_string() })?;
        let message = if up { change(index).up().build() } else { change(index).down().build() };
        rtnl.set_link(message).doing(|| format!("failed to set {:?} {}", link.name, if up { "UP" } else { "DOWN" }))
    }
}
