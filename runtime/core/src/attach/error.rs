//! Every way a call can fail, with its message: one line that a person can act on.
//!
//! `error_code` has the codes, and `error_details` the rest of the document.

use std::net::IpAddr;
use std::path::PathBuf;

use weft_host_abi::types::{Attachment, Denial, Problem};

use super::error_text::{denial_text, exists_text, list, problems_text, teardown_text};
use crate::agent::AgentError;
use crate::cni::CniError;
use crate::conf::ConfError;
use crate::delegate::DelegateError;
use crate::exec::ExecError;
use crate::facts::FactsError;
use crate::netlink::{NetlinkError, in_use};
use crate::plan::Mac;
use crate::policy::{Class, PolicyError};
use crate::step::StepError;
use crate::store::StoreError;

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// An error that is already in CNI form: the specification's own, or one of another plugin that is passed on
    /// unchanged.
    #[error("{}", .0.msg)]
    Cni(CniError),
    /// The configuration cannot be used.
    #[error(transparent)]
    Conf(ConfError),
    /// A built-in delegate of that name does not exist.
    #[error("unknown delegate {0:?}; use a built-in delegate, or a plugin in CNI_PATH")]
    UnknownDelegate(String),
    /// The delegate cannot do without addresses.
    #[error("delegate {delegate:?} needs an \"ipam\" section with a type")]
    IpamRequired {
        /// The delegate.
        delegate: &'static str,
    },
    /// Addresses are requested from a network without IPAM.
    #[error("the configuration has no \"ipam\" section; add one with a type")]
    NoIpam,
    /// A link is requested from a configuration that names no delegate.
    #[error("the configuration has no \"delegate\" section; add one with a type")]
    NoDelegate,
    /// A delegate refused.
    #[error(transparent)]
    Delegate(#[from] DelegateError),
    /// A step refused.
    #[error(transparent)]
    Step(#[from] StepError),
    /// A fact could not be read.
    #[error(transparent)]
    Facts(#[from] FactsError),
    /// A policy could not be loaded, failed, or answered something that cannot be used.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// The policy could not be used, and its fallback could not either.
    #[error("{because}; the network's fallback cannot replace {policy} either: {reason}")]
    NoFallback {
        /// The network's policy.
        policy: String,
        /// Why it could not be used.
        because: String,
        /// Why its fallback could not.
        reason: String,
        /// What kind of error that is.
        class: Class,
    },
    /// A policy said no. The text is the policy's.
    #[error("{}", denial_text(.denial))]
    Denied {
        /// The policy.
        policy: String,
        /// What it said.
        denial: Denial,
    },
    /// STATUS: the policy does not accept its configuration.
    #[error("{}", problems_text(.problems))]
    PolicyConf {
        /// The policy.
        policy: String,
        /// What it, or its schema, said.
        problems: Vec<Problem>,
    },
    /// A delegate policy set something that the delegate, or the configuration's reader, does not accept.
    #[error("policy {policy:?} set {} of the delegate {delegate:?}, which then cannot be used: {cause}", keys.join(", "))]
    BadSettings {
        /// The policy.
        policy: String,
        /// The delegate it chose.
        delegate: String,
        /// What it set.
        keys: Vec<String>,
        /// Why that cannot be used.
        cause: Box<AttachError>,
    },
    /// flannel's delegate failed. The reference plugin's text.
    #[error("failed to delegate add: {cause}")]
    DelegateAdd {
        /// Why.
        cause: Box<AttachError>,
    },
    /// A policy repeats an answer whose addresses are all taken.
    #[error("policy {policy:?} offers only addresses that are taken ({}); correct the policy", list(.addresses))]
    OffersTaken {
        /// The policy.
        policy: String,
        /// What it offered.
        addresses: Vec<IpAddr>,
    },
    /// Other processes won every race.
    #[error("lost the race for an address {asked} times (last offered: {}); try again", list(.addresses))]
    Contended {
        /// How often.
        asked: u32,
        /// The last candidates.
        addresses: Vec<IpAddr>,
    },
    /// An address in a cluster ledger belongs to somebody else, and the policy offers no other.
    #[error("{address} is taken in the cluster by {holder}; try again once that is deleted")]
    TakenInCluster {
        /// The address.
        address: IpAddr,
        /// Who has it.
        holder: String,
    },
    /// Block mode: all cells are taken, and the pool borrows no address from a shared cell.
    #[error(
        "this machine's cells in domain {domain:?} are full, and no free cell of {size} addresses is left; add a range, or remove \"strict\" from \"blocks\""
    )]
    NoCell {
        /// The domain.
        domain: String,
        /// How many addresses a cell has.
        size: u32,
    },
    /// Somebody on the wire uses addresses that the ledger gave out. They are marked, and other addresses may be taken.
    #[error("{}", in_use(.by))]
    InUse {
        /// Who answers for which address.
        by: Vec<(IpAddr, Mac)>,
    },
    /// Somebody on the wire has every address that was tried.
    #[error("every address that was tried is in use on the wire: {}; disconnect those machines, or exclude their addresses from the ranges", in_use(.by))]
    Conflicts {
        /// Who answers for which address.
        by: Vec<(IpAddr, Mac)>,
        /// Why no other address was tried. `None`: the limit of attempts was reached.
        cause: Option<Box<AttachError>>,
    },
    /// Somebody on the wire uses an address that cannot be replaced.
    #[error("the requested address is in use on the wire ({}); remove it from that machine, or request another address", in_use(.by))]
    WantedInUse {
        /// Who answers for which address.
        by: Vec<(IpAddr, Mac)>,
    },
    /// The policy wants to keep an address, which a cluster ledger does for pods only.
    #[error(
        "policy {policy:?} has the release rule \"keep\", which a cluster ledger supports only for Kubernetes pods; use \"free\" or \"cooldown\""
    )]
    KeptInCluster {
        /// The policy.
        policy: String,
    },
    /// An IPAMClaim has addresses that the policy does not offer.
    #[error(
        "IPAMClaim {claim:?} has {}, but policy {policy:?} does not offer these addresses; the network's ranges must contain them, and the pod must not request other addresses",
        list(.addresses)
    )]
    ClaimNotOffered {
        /// The policy.
        policy: String,
        /// Namespace and name.
        claim: String,
        /// What it has.
        addresses: Vec<IpAddr>,
    },
    /// The status of an IPAMClaim is not an address.
    #[error(
        "status.ips of IPAMClaim {claim:?} has {text:?}, which is not an address with a prefix length (such as 10.0.0.5/24); correct it"
    )]
    ClaimStatus {
        /// Namespace and name.
        claim: String,
        /// What it says.
        text: String,
    },
    /// DEL or GC ended the attachment before it was made, or the cluster ledger took too long.
    #[error("the attachment was deleted during its ADD, or the ADD took too long; try again")]
    Withdrawn,
    /// The attachment exists already.
    #[error("{}", exists_text(.attachment, *.address))]
    Exists {
        /// Which.
        attachment: Attachment,
        /// Its first address.
        address: Option<IpAddr>,
    },
    /// Another process works on the same attachment.
    #[error(
        "another call has been working on interface {} of container {} on network {:?} for {seconds} seconds; try again",
        .attachment.ifname, .attachment.container_id, .attachment.network
    )]
    AtWork {
        /// Which.
        attachment: Attachment,
        /// How long this call waited.
        seconds: u64,
    },
    /// The ledger is being rebuilt, which takes seconds.
    #[error("`weftctl ledger rebuild` is running on this node; try again when it has ended")]
    Rebuilding,
    /// Attachments are being made while the ledger is to be rebuilt.
    #[error(
        "attachments have been made on this node for {seconds} seconds without a break; try again, or drain the node first"
    )]
    NodeAtWork {
        /// How long this call waited.
        seconds: u64,
    },
    /// The file of the attachments' locks.
    #[error("cannot lock {path:?}; correct its owner and mode, or the directory's")]
    LockFile {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The ledger or journal could not be read or written.
    #[error(transparent)]
    Ledger(#[from] StoreError),
    /// Netlink or a netns failed while reading.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    /// An op failed; everything before it was undone.
    #[error("{source}")]
    Op {
        /// What was being done.
        op: String,
        /// What happened.
        source: NetlinkError,
    },
    /// ADD failed, and not everything could be put back.
    #[error("{cause}")]
    Leftovers {
        /// Why ADD failed.
        cause: Box<AttachError>,
        /// What is left; DEL and GC try again.
        leftovers: Vec<String>,
    },
    /// DEL or GC could not remove everything.
    #[error("{}", teardown_text(.problems))]
    Teardown {
        /// What went wrong, in order.
        problems: Vec<String>,
    },
    /// CNI_NETNS is the namespace weft runs in.
    #[error("plugin's netns and netns from CNI_NETNS should not be the same")]
    SameNetns,
    /// CHECK without prevResult.
    #[error("Required prevResult missing")]
    PrevResultMissing,
    /// The same, of a `weft` configuration.
    #[error("prevResult is missing: the runtime has to pass the result of the ADD to CHECK")]
    NoPrevResult,
    /// CHECK of an attachment the journal does not know.
    #[error("no attachment {} of container {} on network {:?} exists on this node: it was never added here, or it was deleted", .0.ifname, .0.container_id, .0.network)]
    UnknownAttachment(Attachment),
    /// CHECK of IPAM alone, without a claim. The stock plugin's text.
    #[error("host-local: Failed to find address added by container {container_id}")]
    NoClaim {
        /// The container.
        container_id: String,
    },
    /// The node's agent could not do what was requested.
    #[error(transparent)]
    Agent(#[from] AgentError),
    /// The same, with the text of the stock plugin.
    #[error("{}", .0.stock_text())]
    StockAgent(#[source] AgentError),
    /// The delegate cannot use DHCP: its link cannot exist before its addresses, or no server can be reached through
    /// it.
    #[error("delegate {delegate:?} cannot get its addresses by DHCP: {why}")]
    NoDhcp {
        /// The delegate.
        delegate: &'static str,
        /// Why not, and what to do.
        why: &'static str,
    },
    /// CHECK found differences.
    #[error("{}", .differences.first().map_or("the attachment differs from what ADD made", String::as_str))]
    Differs {
        /// All of them.
        differences: Vec<String>,
    },
    /// STATUS: an ADD would fail now.
    #[error("{reason}")]
    NotReady {
        /// Why.
        reason: String,
    },
    /// Another plugin could not be run, or did not end in time.
    #[error(transparent)]
    Plugin(ExecError),
    /// The plugin's answer is not JSON.
    #[error("CNI plugin {plugin:?} answered something that is not JSON")]
    PluginAnswer {
        /// The type.
        plugin: String,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// Something of ours could not be written as JSON.
    #[error("cannot encode the journal entry")]
    Encode(#[source] serde_json::Error),
    /// A journal entry that cannot be read.
    #[error("the journal entry of container {} is damaged; run DEL", .attachment.container_id)]
    Journal {
        /// Which.
        attachment: Attachment,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// A claim without a plan: cannot happen.
    #[error("internal error: an address was claimed, but no plan was made; please report this")]
    NoPlan,
}

impl From<ConfError> for AttachError {
    /// An error that is in CNI form already keeps its `msg` and `details` apart.
    fn from(error: ConfError) -> Self {
        match error {
            ConfError::Wire(error) => Self::Cni(error),
            other => Self::Conf(other),
        }
    }
}

impl From<CniError> for AttachError {
    fn from(error: CniError) -> Self {
        Self::Cni(error)
    }
}

impl From<ExecError> for AttachError {
    fn from(error: ExecError) -> Self {
        match error {
            ExecError::Said(error) => Self::Cni(error),
            other => Self::Plugin(other),
        }
    }
}
