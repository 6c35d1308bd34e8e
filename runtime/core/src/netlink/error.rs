//! Errors between weft and the kernel, with the link, the address and the errno. `error_kind` tells their kinds apart.
//!
//! Texts follow the reference plugins' if they have one, because people search for them. A refused request has its
//! errno as a field and prints it (an errno is not a separate cause), with the kernel's own explanation if there is
//! one.

use std::fmt;
use std::io;
use std::net::IpAddr;
use std::path::PathBuf;

use ipnet::IpNet;
use nix::errno::Errno;

use super::errno::{Lower, LowerIo};
use super::netns_fault::NetnsFault;
use crate::plan::{LinkRef, Mac};

/// Why links, addresses, routes or filters could not be changed or read.
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
    /// A path that should be a network namespace is something else or cannot be inspected.
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
    /// The netlink protocol was violated.
    #[error("{doing}: netlink socket: {problem}")]
    Broken {
        /// What was being done.
        doing: String,
        /// What was received instead of an answer.
        problem: &'static str,
    },
    /// The thread in the container's namespace is gone.
    #[error("the thread in the container's network namespace ended early")]
    ContainerThread,
    /// The plan needs the container's namespace, but none was opened.
    #[error("no container network namespace is open, but {op} needs one")]
    NoContainer {
        /// The op.
        op: String,
    },
    /// A required link does not exist.
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
        /// Whether it was found there.
        certain: bool,
    },
    /// A device of the host has no alias with its name there.
    #[error("failed to find original ifname for {link:?} (alias is not set)")]
    NoAlias {
        /// Its name in the container.
        link: String,
    },
    /// The bridge of a tap device does not exist in the container.
    #[error("failed to get bridge {bridge}: Link not found")]
    NoBridgeInside {
        /// Its name.
        bridge: String,
    },
    /// A context is requested, but SELinux is not available.
    #[error(
        "failed set socket label: selinuxContext is {context:?}, but SELinux is not enabled on this node; remove selinuxContext"
    )]
    NoSelinux {
        /// The context.
        context: String,
    },
    /// A link has the bridge's name but is not a bridge.
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
    /// Duplicate address detection did not finish.
    #[error("link {link} still has tentative addresses after {seconds} seconds")]
    StillTentative {
        /// The link.
        link: String,
        /// How long weft waited.
        seconds: u64,
    },
    /// Neighbours use addresses that were to be put on a link.
    #[error("{} on the wire of {link:?}", in_use(.by))]
    InUse {
        /// The link.
        link: String,
        /// The addresses, each with the hardware address of the host that answers for it.
        by: Vec<(IpAddr, Mac)>,
    },
    /// The neighbours could not be probed.
    #[error(
        "{link:?} has no carrier after {seconds} seconds, so its addresses cannot be probed; connect it, or remove duplicates.detect"
    )]
    NoCarrier {
        /// The link.
        link: String,
        /// How long weft waited.
        seconds: u64,
    },
    /// A bridge port did not come up.
    #[error("bridge port in error state: {state}")]
    PortState {
        /// Its operational state.
        state: String,
    },
    /// Other processes changed the nftables rules at each attempt.
    #[error("{doing}: other programs changed the nftables rules during each of {attempts} attempts; try again")]
    Contended {
        /// What was being done.
        doing: String,
        /// The number of attempts.
        attempts: u32,
    },
    /// A table with our name exists, but its contents are not ours.
    #[error("nftables table \"{family} {name}\" has the wrong layout for weft; delete the table and try again")]
    ForeignTable {
        /// Its family.
        family: &'static str,
        /// Its name.
        name: &'static str,
    },
    /// Another process holds the lock of a network namespace.
    #[error("the container's network namespace has been locked by another process for {seconds} seconds")]
    NetnsBusy {
        /// How long weft waited.
        seconds: u64,
    },
    /// A route and its next hop have different families. The reference library's text.
    #[error("{doing}: gateway, source, and destination ip are not the same IP family")]
    RouteFamily {
        /// What was being done.
        doing: String,
    },
    /// No routing table is free.
    #[error("no routing table is free")]
    NoTable,
    /// Another program uses the hook at which ingress is redirected.
    #[error("create ingress qdisc: {link:?} has a {kind} qdisc with other filters already")]
    HookTaken {
        /// The link.
        link: String,
        /// The kind of what is there.
        kind: String,
    },
    /// A link has the VRF's name but is not a VRF.
    #[error("cmdAdd failed: Netlink {name} is not a VRF")]
    NotAVrf {
        /// The name.
        name: String,
    },
    /// The VRF exists with another table.
    #[error("cmdAdd failed: VRF {name} already exist with different routing table {table}")]
    OtherTable {
        /// The VRF.
        name: String,
        /// The table it has.
        table: u32,
    },
    /// A link already has another master.
    #[error("cmdAdd failed: interface {link} has already a master set: {master}")]
    HasMaster {
        /// The link.
        link: String,
        /// Its master.
        master: String,
    },
    /// The kernel did not make the local route of an address in a VRF's table.
    #[error("cmdAdd failed: no local route for {address} in table {table} within {millis} ms")]
    NoLocalRoute {
        /// The address.
        address: IpAddr,
        /// The table.
        table: u32,
        /// How long weft waited.
        millis: u128,
    },
    /// Another attachment has something that only one can have.
    #[error("{what} is taken: it leads to {by}")]
    Taken {
        /// The object.
        what: String,
        /// The destination to which it leads.
        by: String,
    },
    /// A container of the stock plugin has the port.
    #[error(
        "host port {port} is already mapped by the stock portmap plugin ({by}); delete that container, or drain the node, then try again"
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
        /// How long weft waited.
        seconds: u64,
    },
    /// firewalld, or the bus, does not answer.
    #[error("{doing}: firewalld did not answer within {seconds} s; look at `systemctl status firewalld`")]
    FirewalldSilent {
        /// The intended action.
        doing: String,
        /// How long weft waited.
        seconds: u64,
    },
    /// The journal does not say whether another attachment needs a shared object.
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
    /// A shared link has no usable hardware address to keep.
    #[error("{link:?} has no MAC address to keep ({})", mac.map_or_else(|| "none".to_owned(), |mac| mac.to_string()))]
    NoMac {
        /// The link.
        link: String,
        /// Its address.
        mac: Option<Mac>,
    },
}

/// A failed ADD: the failed op with its cause, and what could not be undone.
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
    /// What could not be undone; if empty, the host is in its previous state.
    pub leftovers: Vec<UndoError>,
}

/// Something that could not be restored or removed.
#[derive(Debug, thiserror::Error)]
#[error("could not {what}")]
pub struct UndoError {
    /// The intended action.
    pub what: String,
    /// Why it failed.
    #[source]
    pub cause: NetlinkError,
}

/// The kernel's explanation in brackets, or nothing.
struct Hint<'a>(Option<&'a str>);

/// Describes who answers for which address.
#[must_use]
pub fn in_use(by: &[(IpAddr, Mac)]) -> String {
    let each: Vec<String> = by.iter().map(|(address, mac)| format!("{mac} answers for {address}")).collect();
    each.join(", ")
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
