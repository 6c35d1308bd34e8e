//! What can go wrong between weft and the kernel, with the link, the address and the errno named.
//!
//! Texts follow the reference plugins where they have one, because people search for them. A refused request carries its
//! errno as a field and prints it (an errno is part of what happened, not a separate cause), with the kernel's own
//! explanation where it gives one.

use std::fmt;
use std::io;
use std::net::IpAddr;
use std::path::PathBuf;

use ipnet::IpNet;
use nix::errno::Errno;

use super::errno::{Lower, LowerIo, means_absent, means_unsupported};
use super::netns_fault::NetnsFault;
use crate::plan::{LinkRef, Mac};

/// Why something about links, addresses, routes or filters could not be done or read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NetlinkError {
    /// A network namespace cannot be opened.
    #[error("failed to open netns {path:?}: {fault}")]
    OpenNetns {
        /// The path.
        path: PathBuf,
        /// What is wrong with it.
        fault: NetnsFault,
    },
    /// A path that should be a network namespace is something else or cannot be looked at.
    #[error("{fault}")]
    BadNetns {
        /// What is wrong with it.
        fault: NetnsFault,
    },
    /// The kernel refused a request.
    #[error("{doing}: {}{}", Lower(*errno), Hint(hint.as_deref()))]
    Refused {
        /// What was being done.
        doing: String,
        /// Why not.
        errno: Errno,
        /// The kernel's own explanation, where it gave one.
        hint: Option<String>,
    },
    /// A file could not be read or written.
    #[error("{doing}: {}", LowerIo(io))]
    File {
        /// What was being done.
        doing: String,
        /// Why not.
        io: io::Error,
    },
    /// The netlink conversation itself broke down.
    #[error("{doing}: the netlink socket gave {problem}")]
    Broken {
        /// What was being done.
        doing: String,
        /// What came instead of an answer.
        problem: &'static str,
    },
    /// The thread in the container's namespace is gone.
    #[error("the thread in the container's network namespace ended early")]
    ContainerThread,
    /// The plan needs the container's namespace, and none was opened.
    #[error("no container network namespace is open, but {op} needs one")]
    NoContainer {
        /// The op.
        op: String,
    },
    /// A link that must be there is not.
    #[error("failed to lookup {link}: Link not found")]
    NoLink {
        /// The link.
        link: LinkRef,
    },
    /// The container moved its link to another namespace, or may have.
    #[error(
        "{link:?} is no longer in the container, and {}; end that namespace or move the link back, then try again",
        if *.certain { "was moved to another network namespace" } else { "may be in another network namespace" }
    )]
    MovedOn {
        /// Its name.
        link: String,
        /// It was found there.
        certain: bool,
    },
    /// A device of the host does not say what it was called there.
    #[error("failed to find original ifname for {link:?} (alias is not set)")]
    NoAlias {
        /// Its name in the container.
        link: String,
    },
    /// The bridge that a tap device should be a port of is not in the container.
    #[error("failed to get bridge {bridge}: Link not found")]
    NoBridgeInside {
        /// Its name.
        bridge: String,
    },
    /// A context is asked for, and nothing here knows contexts.
    #[error(
        "failed set socket label: selinuxContext is {context:?}, but SELinux is not switched on here; remove selinuxContext"
    )]
    NoSelinux {
        /// The context.
        context: String,
    },
    /// A link has the bridge's name but is no bridge.
    #[error("failed to create bridge {name:?}: {name:?} already exists but is not a bridge")]
    NotABridge {
        /// The name.
        name: String,
    },
    /// One end of the veth pair exists already.
    #[error("container veth name ({container:?}) peer provided ({host:?}) already exists")]
    VethExists {
        /// Name of the container end.
        container: String,
        /// Name of the host end.
        host: String,
    },
    /// A shared link has another address than the wanted one.
    #[error("failed to set bridge addr: {link:?} already has an IP address different from {address}")]
    OtherAddress {
        /// The link.
        link: String,
        /// The wanted address.
        address: IpNet,
    },
    /// Duplicate address detection found a duplicate.
    #[error("link {link} has address {address} in DADFAILED state")]
    DuplicateAddress {
        /// The link.
        link: String,
        /// The duplicate.
        address: IpNet,
    },
    /// Duplicate address detection did not come to an end.
    #[error("link {link} still has tentative addresses after {seconds} seconds")]
    StillTentative {
        /// The link.
        link: String,
        /// How long was waited.
        seconds: u64,
    },
    /// Neighbours have addresses that were to be put on a link.
    #[error("{} on the wire of {link:?}", in_use(.by))]
    InUse {
        /// The link.
        link: String,
        /// The addresses, each with the hardware address of who answers for it.
        by: Vec<(IpAddr, Mac)>,
    },
    /// Nobody could be asked who has an address.
    #[error(
        "{link:?} has no carrier after {seconds} seconds, so nobody can be asked who has its addresses; connect it, or do not set duplicates.detect"
    )]
    NoCarrier {
        /// The link.
        link: String,
        /// How long was waited.
        seconds: u64,
    },
    /// A bridge port did not come up.
    #[error("bridge port in error state: {state}")]
    PortState {
        /// Its operational state.
        state: String,
    },
    /// Others kept changing the nftables rules at the same moment.
    #[error("{doing}: the nftables rules kept changing under {attempts} attempts; try again")]
    Contended {
        /// What was being done.
        doing: String,
        /// How often it was tried.
        attempts: u32,
    },
    /// A table of our name is there, but not with what we keep in it.
    #[error("nftables table \"{family} {name}\" is not as weft makes it; delete it and try again")]
    ForeignTable {
        /// Its family.
        family: &'static str,
        /// Its name.
        name: &'static str,
    },
    /// Somebody holds the lock of a network namespace.
    #[error("the container's network namespace has been locked by another process for {seconds} seconds")]
    NetnsBusy {
        /// How long was waited.
        seconds: u64,
    },
    /// A route and its next hop are not of one family. The reference library's text.
    #[error("{doing}: gateway, source, and destination ip are not the same IP family")]
    RouteFamily {
        /// What was being done.
        doing: String,
    },
    /// Every routing table is taken.
    #[error("no routing table is free")]
    NoTable,
    /// Somebody else uses the place where ingress is redirected.
    #[error("create ingress qdisc: {link:?} has a {kind} qdisc with other filters already")]
    HookTaken {
        /// The link.
        link: String,
        /// What is there.
        kind: String,
    },
    /// A link has the VRF's name but is no VRF.
    #[error("cmdAdd failed: Netlink {name} is not a VRF")]
    NotAVrf {
        /// The name.
        name: String,
    },
    /// The VRF is there with another table.
    #[error("cmdAdd failed: VRF {name} already exist with different routing table {table}")]
    OtherTable {
        /// The VRF.
        name: String,
        /// The table it has.
        table: u32,
    },
    /// A link belongs to something else already.
    #[error("cmdAdd failed: interface {link} has already a master set: {master}")]
    HasMaster {
        /// The link.
        link: String,
        /// What it belongs to.
        master: String,
    },
    /// The kernel did not make the local route of an address in a VRF's table.
    #[error("cmdAdd failed: no local route for {address} in table {table} within {millis} ms")]
    NoLocalRoute {
        /// The address.
        address: IpAddr,
        /// The table.
        table: u32,
        /// How long was waited.
        millis: u128,
    },
    /// Something that one attachment only can have is another's.
    #[error("{what} is taken: it leads to {by}")]
    Taken {
        /// What it is.
        what: String,
        /// Where it leads to.
        by: String,
    },
    /// A container of the stock plugin has the port.
    #[error(
        "host port {port} is mapped by the stock portmap plugin already ({by}); delete that container, or drain the node, before the port is used again"
    )]
    StockPort {
        /// Port and protocol.
        port: String,
        /// The comment of the rule that maps it.
        by: String,
    },
    /// Another process of weft holds the lock of what attachments share.
    #[error("another weft process has held the lock of shared firewall state ({path:?}) for {seconds} seconds")]
    SharedBusy {
        /// The lock's file.
        path: PathBuf,
        /// How long was waited.
        seconds: u64,
    },
    /// The journal does not say whether another attachment needs a shared thing.
    #[error("cannot tell whether other attachments need the same: {text}")]
    Undecided {
        /// Why not.
        text: String,
    },
    /// A sysctl key that leaves `/proc/sys/net`.
    #[error("{key:?} is not a key below /proc/sys/net")]
    BadSysctl {
        /// The key.
        key: String,
    },
    /// A shared link has no usable hardware address to pin.
    #[error("{link:?} has no MAC address to keep ({})", mac.map_or_else(|| "none".to_owned(), |mac| mac.to_string()))]
    NoMac {
        /// The link.
        link: String,
        /// What it has.
        mac: Option<Mac>,
    },
}

/// A failed ADD: which op failed and why, and what could not be put back.
#[derive(Debug, thiserror::Error)]
#[error("failed to {op}")]
pub struct ApplyError {
    /// Index of the op in the plan.
    pub at: usize,
    /// The op, as `Display` shows it.
    pub op: Box<str>,
    /// Why it failed.
    #[source]
    pub cause: NetlinkError,
    /// What could not be undone; empty means the host is as it was.
    pub leftovers: Vec<UndoError>,
}

/// Something that could not be put back or taken away.
#[derive(Debug, thiserror::Error)]
#[error("could not {what}")]
pub struct UndoError {
    /// What should have been done.
    pub what: String,
    /// Why it was not.
    #[source]
    pub cause: NetlinkError,
}

/// The kernel's explanation in brackets, or nothing.
struct Hint<'a>(Option<&'a str>);

/// Who answers for which address, in words.
#[must_use]
pub fn in_use(by: &[(IpAddr, Mac)]) -> String {
    let each: Vec<String> = by.iter().map(|(address, mac)| format!("{mac} answers for {address}")).collect();
    each.join(", ")
}

// === impl NetlinkError ===

impl NetlinkError {
    /// The errno behind it, where there is one.
    #[must_use]
    pub fn errno(&self) -> Option<Errno> {
        match self {
            Self::Refused { errno, .. } => Some(*errno),
            Self::File { io, .. } => io.raw_os_error().map(Errno::from_raw),
            Self::OpenNetns { fault, .. } | Self::BadNetns { fault } => match fault {
                NetnsFault::Statfs(_, errno)
                | NetnsFault::Open(_, errno)
                | NetnsFault::Enter(errno)
                | NetnsFault::NoMemory(errno) => Some(*errno),
                NetnsFault::Magic(..) | NetnsFault::Inside(_) => None,
            },
            _ => None,
        }
    }

    /// Whether it is about a network namespace that cannot be used.
    #[must_use]
    pub fn is_netns(&self) -> bool {
        matches!(self, Self::OpenNetns { .. } | Self::BadNetns { .. })
    }

    /// Whether the node had no memory left, which says nothing about what was being done.
    #[must_use]
    pub fn is_out_of_memory(&self) -> bool {
        let fault = match self {
            Self::OpenNetns { fault, .. } | Self::BadNetns { fault } => Some(fault),
            _ => None,
        };
        matches!(fault, Some(NetnsFault::NoMemory(_))) || self.errno() == Some(Errno::ENOMEM)
    }

    /// Whether the thing is there already.
    #[must_use]
    pub fn is_exists(&self) -> bool {
        matches!(self, Self::VethExists { .. }) || self.errno() == Some(Errno::EEXIST)
    }

    /// Whether the kernel has nothing of the kind.
    pub(super) fn is_unsupported(&self) -> bool {
        self.errno().is_some_and(means_unsupported)
    }

    /// Whether the thing is not there.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::NoLink { .. } | Self::NoBridgeInside { .. }) || self.errno().is_some_and(means_absent)
    }
}

// === impl Hint ===

impl fmt::Display for Hint<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(text) => write!(f, " ({})", text.trim_end_matches('.')),
            None => Ok(()),
        }
    }
}
