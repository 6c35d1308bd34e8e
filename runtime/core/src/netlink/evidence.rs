//! Looks for what attachments have made on this host, before a new ledger is made. A process looks once in the life of a
//! ledger, so it may enter every network namespace.
//!
//! Several nodes may run on one machine (containers as nodes), and see each other's namespaces. A link in a container
//! belongs to this host if its parent is here. A link without a parent belongs to this host if its namespace has a
//! number for the host's namespace, which an ADD assigns (`note_host`).

use std::collections::BTreeSet;
use std::fs::File;
use std::os::fd::{AsRawFd, RawFd};
use std::path::Path;

use nix::errno::Errno;

use super::error::NetlinkError;
use super::fault::Doing;
use super::netns::{Netns, OWN};
use super::netns_fault::NetnsFault;
use super::nft::Nft;
use super::rtnl::{Link, Rtnl};
use super::survey::{is_labelled, links_of, open_route, paths};

/// Directory of the processes, whose namespaces another user may hide.
const PROCESSES: &str = "/proc";

/// Returns a text about something that an attachment has made; `None` if nothing is found.
///
/// # Errors
/// The kernel does not list its links or nftables elements, or a namespace cannot be entered.
pub fn trace_of_attachment() -> Result<Option<String>, NetlinkError> {
    if let Some(link) = links_of(&open_route()?)?.into_iter().find(is_labelled) {
        return Ok(Some(belongs(&link, "")));
    }
    if has_elements()? {
        return Ok(Some("nftables has elements of attachments (table weft)".to_owned()));
    }
    first_inside()
}

fn belongs(link: &Link, place: &str) -> String {
    let label = link.alias.as_deref().unwrap_or_default();
    format!("the link {}{place} belongs to an attachment ({label})", link.name)
}

/// Returns whether a set of weft's nftables tables has elements. A kernel without nftables has none.
fn has_elements() -> Result<bool, NetlinkError> {
    match Nft::open().and_then(|mut nft| nft.has_any()) {
        Err(error) if error.means_no_nftables() => Ok(false),
        found => found,
    }
}

/// Looks for the label of a link in a container.
fn first_inside() -> Result<Option<String>, NetlinkError> {
    let own = Netns::open(Path::new(OWN))?;
    let mut seen = BTreeSet::from([own.identity()?]);
    for path in paths()? {
        let netns = match Netns::open(&path) {
            Ok(netns) => netns,
            Err(error) if is_no_namespace(&path, &error) => continue,
            Err(error) => return Err(error),
        };
        if !seen.insert(netns.identity()?) {
            continue;
        }
        let host = own.raw_fd();
        if let Some(link) = netns.run_inside(move || labelled_here(host))?? {
            return Ok(Some(belongs(&link, &format!(" in {}", path.display()))));
        }
    }
    Ok(None)
}

/// Returns whether there is no namespace at a path: it has ended, only its mount point is left, or it is that of
/// another user's process.
fn is_no_namespace(path: &Path, error: &NetlinkError) -> bool {
    let NetlinkError::OpenNetns { fault, .. } = error else { return false };
    match fault {
        NetnsFault::Magic(..) | NetnsFault::Statfs(_, Errno::ENOENT | Errno::ESRCH) => true,
        NetnsFault::Open(_, Errno::ENOENT | Errno::ESRCH) => true,
        NetnsFault::Statfs(_, errno) | NetnsFault::Open(_, errno) => {
            path.starts_with(PROCESSES) && matches!(errno, Errno::EACCES | Errno::EPERM)
        }
        _ => false,
    }
}

/// Returns a link of the calling thread's namespace that an attachment of the host made.
fn labelled_here(host: RawFd) -> Result<Option<Link>, NetlinkError> {
    let rtnl = open_route()?;
    let mut labelled: Vec<Link> = links_of(&rtnl)?.into_iter().filter(is_labelled).collect();
    if labelled.is_empty() {
        return Ok(None);
    }
    // Do this after the list, which makes the kernel number the namespaces of parents.
    let host = rtnl.nsid_of(host).doing(|| "failed to tell network namespaces apart")?;
    labelled.retain(|link| host.is_some() && (link.other_netns.is_none() || link.other_netns == host));
    Ok(labelled.into_iter().next())
}

impl Rtnl {
    /// Gives the host's namespace a number in the socket's namespace. Best effort: a lost ledger is noticed by it.
    pub(super) fn note_host(&self) {
        if let Ok(host) = File::open(OWN) {
            self.number(host.as_raw_fd()).ok();
        }
    }
}
