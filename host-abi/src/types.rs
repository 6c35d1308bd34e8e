//! The contract's types in the host's form: standard address types instead of WIT tuples.
//!
//! `convert` maps them to and from the generated bindings; no other part of weft uses a WIT
//! type.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// A contiguous range of addresses declared by the operator, including both ends.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Range {
    /// The subnet of the range (without host bits).
    pub subnet: IpNet,
    /// First address that may be allocated.
    pub first: IpAddr,
    /// Last address that may be allocated.
    pub last: IpAddr,
    /// The subnet's gateway; never allocated.
    pub gateway: Option<IpAddr>,
}

impl Range {
    /// Returns whether an address lies in the range.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        self.first.is_ipv4() == address.is_ipv4() && self.first <= address && address <= self.last
    }

    /// Returns the number of addresses from end to end, saturating.
    #[must_use]
    pub fn size(&self) -> u64 {
        let between = match (self.first, self.last) {
            (IpAddr::V4(first), IpAddr::V4(last)) => u128::from(u32::from(last)).checked_sub(u32::from(first).into()),
            (IpAddr::V6(first), IpAddr::V6(last)) => u128::from(last).checked_sub(first.into()),
            _ => None,
        };
        between.map_or(0, |between| u64::try_from(between.saturating_add(1)).unwrap_or(u64::MAX))
    }
}

/// Equivalent ranges: one address is wanted from one of them.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct RangeSet {
    /// The operator's name for the set.
    pub name: Option<String>,
    /// The ranges, in the operator's order.
    pub ranges: Vec<Range>,
}

/// A route of the container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    /// Destination network.
    pub dst: IpNet,
    /// Next hop.
    pub gw: Option<IpAddr>,
    /// Path MTU in bytes.
    pub mtu: Option<u32>,
    /// Advertised maximum segment size in bytes.
    pub advmss: Option<u32>,
    /// Metric.
    pub priority: Option<u32>,
    /// Routing table id.
    pub table: Option<u32>,
    /// Kernel route scope.
    pub scope: Option<u32>,
}

impl Route {
    /// Creates a route with only a destination and a next hop.
    #[must_use]
    pub fn new(dst: IpNet, gw: Option<IpAddr>) -> Self {
        Self { dst, gw, mtu: None, advmss: None, priority: None, table: None, scope: None }
    }
}

/// Name resolution settings.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Dns {
    /// Name servers, most preferred first.
    pub nameservers: Vec<String>,
    /// The local domain.
    pub domain: Option<String>,
    /// Search list.
    pub search: Vec<String>,
    /// Resolver options.
    pub options: Vec<String>,
}

impl Dns {
    /// Returns whether nothing is set.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.nameservers.is_empty() && self.domain.is_none() && self.search.is_empty() && self.options.is_empty()
    }
}

/// An attachment: (container id, interface name) on a network. The key of the journal.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Attachment {
    /// Name of the network.
    pub network: String,
    /// The runtime's id of the container.
    pub container_id: String,
    /// Name of the interface inside the container.
    pub ifname: String,
}

/// The pod an attachment belongs to.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Pod {
    /// Kubernetes namespace.
    pub namespace: String,
    /// Pod name.
    pub name: String,
    /// Pod uid.
    pub uid: String,
    /// Labels, sorted by key.
    pub labels: Vec<(String, String)>,
    /// Annotations, sorted by key.
    pub annotations: Vec<(String, String)>,
    /// Labels of its namespace, sorted by key.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub namespace_labels: Vec<(String, String)>,
    /// The source of labels and annotations.
    #[serde(default)]
    pub source: FactSource,
}

/// The source of a pod's labels and annotations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FactSource {
    /// The container runtime and the network's configuration.
    #[default]
    Runtime,
    /// The API server.
    ApiServer,
}

/// The node of the attachment.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Node {
    /// Node name.
    pub name: String,
    /// Labels, sorted by key.
    pub labels: Vec<(String, String)>,
}

/// The source of a requested address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RequestSource {
    /// `IP` in `CNI_ARGS`.
    CniArgs,
    /// `args.cni.ips`.
    Args,
    /// `runtimeConfig.ips`.
    RuntimeConfig,
}

/// An address requested by name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Requested {
    /// The text as given.
    pub text: String,
    /// The address, if the text is one.
    pub address: Option<IpAddr>,
    /// The prefix length, if given.
    pub length: Option<u8>,
    /// Its source.
    pub source: RequestSource,
}

/// Why an address is not free.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ClaimState {
    /// An attachment uses it now.
    Active,
    /// Released, resting.
    Cooldown,
    /// Released, kept for its owner.
    Kept,
    /// In use by a host on the wire. A policy sees this as a cooldown.
    Conflict,
}

/// A durable record of a taken address, as a policy sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClaimInfo {
    /// The address.
    pub address: IpAddr,
    /// Container id of an active claim, or owner of a kept one.
    pub owner: String,
    /// Interface name of an active claim, otherwise empty.
    pub ifname: String,
    /// The kind of claim.
    pub state: ClaimState,
}

/// What happens to an attachment's addresses when it is deleted.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ReleaseRule {
    /// Free at once.
    #[default]
    Free,
    /// Rest for this many seconds.
    Cooldown(u32),
    /// Remain reserved for this identity.
    Keep(String),
}

/// Everything that a policy may know about the attachment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// The attachment.
    pub attachment: Attachment,
    /// Its pod, if the runtime named one.
    pub pod: Option<Pod>,
    /// The node.
    pub node: Node,
    /// Identities that the host attests, the most permanent first.
    pub identities: Vec<String>,
    /// Addresses requested by name.
    pub requested: Vec<Requested>,
    /// A requested MAC address, with colons.
    pub mac: Option<String>,
    /// The pairs of `CNI_ARGS`.
    pub cni_args: Vec<(String, String)>,
    /// Claims that these identities already hold in this network.
    pub held: Vec<ClaimInfo>,
    /// The ranges the operator declared.
    pub range_sets: Vec<RangeSet>,
    /// Contents of the file named by `resolvConf`.
    pub resolver: Option<Dns>,
    /// The network's `ipam` object, as JSON text.
    pub config: String,
    /// CNI version of the configuration.
    pub cni_version: String,
    /// Seconds since 1970.
    pub now: u64,
    /// The only source of randomness a policy has.
    pub seed: u64,
}

/// One address for the attachment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wanted {
    /// Addresses with their prefix lengths, best first.
    pub candidates: Vec<IpNet>,
    /// The gateway of these candidates.
    pub gateway: Option<IpAddr>,
}

/// A policy's answer, before verification.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decision {
    /// One entry per address of the attachment, in result order.
    pub addresses: Vec<Wanted>,
    /// Routes of the result.
    pub routes: Vec<Route>,
    /// DNS of the result.
    pub dns: Option<Dns>,
    /// What happens on release.
    pub release: ReleaseRule,
    /// One line with the reason.
    pub reason: String,
}

/// A delegate that the operator allows, as a delegate policy sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Candidate {
    /// The name the operator gave it.
    pub name: String,
    /// Its configuration as JSON text, including `ipam`.
    pub config: String,
    /// Its keys that the policy may set; those of `ipam` as `ipam.KEY`.
    pub settable: Vec<String>,
}

/// A file whose content the operator passes to a delegate policy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeclaredFile {
    /// The name the operator gave it.
    pub name: String,
    /// Its path.
    pub path: String,
    /// Its content; `None` if the file does not exist.
    pub content: Option<String>,
}

/// Everything that a delegate policy may know about the attachment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChoiceRequest {
    /// The attachment.
    pub attachment: Attachment,
    /// Its pod, if the runtime named one.
    pub pod: Option<Pod>,
    /// The node.
    pub node: Node,
    /// The pairs of `CNI_ARGS`.
    pub cni_args: Vec<(String, String)>,
    /// The delegates to choose from.
    pub candidates: Vec<Candidate>,
    /// The declared files.
    pub files: Vec<DeclaredFile>,
    /// The network's `select` object, as JSON text.
    pub config: String,
    /// CNI version of the configuration.
    pub cni_version: String,
    /// Seconds since 1970.
    pub now: u64,
    /// The only source of randomness a policy has.
    pub seed: u64,
}

/// A delegate policy's answer, before verification.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chosen {
    /// Name of the chosen candidate.
    pub name: String,
    /// Values for settable keys, each as JSON text.
    pub settings: Vec<(String, String)>,
    /// One line with the reason.
    pub reason: String,
}

/// A policy's refusal; each text reaches the user unchanged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Denial {
    /// The policy does not allow this attachment.
    Denied(String),
    /// No address is left.
    Exhausted(String),
    /// The configuration cannot be used.
    InvalidConfig(String),
    /// A temporary condition.
    TryAgain(String),
}

/// A mistake in a configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// JSON pointer of the place, or empty.
    pub at: String,
    /// What is wrong and what to do.
    pub message: String,
}

/// The fill level of a range.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Usage {
    /// Addresses in the range, saturating.
    pub size: u64,
    /// Addresses that are not free.
    pub taken: u64,
}

/// The last claim in a range.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastClaim {
    /// Its address; it may be free again.
    pub address: IpAddr,
    /// Incremented by every claim.
    pub sequence: u64,
}

/// The ledger queries of a policy. All of them take O(log n).
///
/// Errors are texts: they end the policy call and reach the user as "policy failed".
pub trait LedgerView: Send {
    /// Returns the claim on an address.
    fn claimed_by(&self, address: IpAddr) -> Result<Option<ClaimInfo>, String>;
    /// Returns the lowest free address of the range not below `from`; no wrap-around.
    fn next_free(&self, range: &Range, from: IpAddr) -> Result<Option<IpAddr>, String>;
    /// Returns the fill level of a range.
    fn usage(&self, range: &Range) -> Result<Usage, String>;
    /// Returns the last claim in a range.
    fn last_claimed(&self, range: &Range) -> Result<Option<LastClaim>, String>;
    /// Returns the claims of an owner: at most 256.
    fn held_by(&self, owner: &str) -> Result<Vec<ClaimInfo>, String>;
}
