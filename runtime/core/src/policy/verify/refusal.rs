//! The reasons not to use a decision.

use std::net::IpAddr;

use ipnet::IpNet;

/// Why a decision must not be used. The text continues after `policy "x"`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// Not in a declared range.
    #[error(
        "answered {answer}, which is outside the declared ranges {declared}; only declared addresses are handed out"
    )]
    Outside {
        /// The candidate.
        answer: IpNet,
        /// The declared ranges, as text.
        declared: String,
    },
    /// In a range, but with another prefix length.
    #[error("answered {answer}, but addresses of {subnet} have the prefix length /{}", subnet.prefix_len())]
    Length {
        /// The candidate.
        answer: IpNet,
        /// Subnet of the range.
        subnet: IpNet,
    },
    /// A declared gateway as an address.
    #[error("answered {answer}, which is the gateway of {subnet}")]
    Gateway {
        /// The candidate.
        answer: IpNet,
        /// Subnet of the range.
        subnet: IpNet,
    },
    /// Not an address a host can have.
    #[error("answered {answer}, which is {what}, not an address for an interface")]
    NotUnicast {
        /// The candidate.
        answer: IpNet,
        /// What it is.
        what: &'static str,
    },
    /// No candidates for an address.
    #[error("answered with no candidates for address number {index}")]
    NoCandidates {
        /// The index of the address.
        index: usize,
    },
    /// Candidates of two families for one address.
    #[error("mixed address families in one address: {first} and {other}")]
    MixedFamilies {
        /// A candidate.
        first: IpNet,
        /// One of the other family.
        other: IpNet,
    },
    /// One candidate for two addresses.
    #[error("answered {answer} for two addresses at once (numbers {first} and {second})")]
    Duplicate {
        /// The candidate.
        answer: IpAddr,
        /// The index of one address.
        first: usize,
        /// The index of the other.
        second: usize,
    },
    /// A gateway of another family.
    #[error("gave the gateway {gateway} to {answer}, which is of another address family")]
    GatewayFamily {
        /// The gateway.
        gateway: IpAddr,
        /// The candidate.
        answer: IpNet,
    },
    /// A gateway that cannot be reached.
    #[error("gave the gateway {gateway} to {answer}, which is neither the range's gateway nor inside {subnet}")]
    GatewayOutside {
        /// The gateway.
        gateway: IpAddr,
        /// The candidate.
        answer: IpNet,
        /// Subnet of the range.
        subnet: IpNet,
    },
    /// Another gateway than that of the range.
    #[error(
        "gave the gateway {gateway} to {answer}, whose range has the gateway {declared}; a policy cannot choose another"
    )]
    GatewayNotDeclared {
        /// The gateway.
        gateway: IpAddr,
        /// The candidate.
        answer: IpNet,
        /// The range's gateway, declared or the default.
        declared: IpAddr,
    },
    /// A gateway that another attachment could get as its address.
    #[error(
        "uses the gateway {gateway}, which another pod could get as its address; declare it as \"gateway\" of its range"
    )]
    GatewayClaimable {
        /// The gateway.
        gateway: IpAddr,
    },
    /// A gateway that another attachment has as its address.
    #[error("uses the gateway {gateway}, which is the address of another attachment")]
    GatewayClaimed {
        /// The gateway.
        gateway: IpAddr,
    },
    /// An address that is its own gateway.
    #[error("gave {answer} itself as its gateway")]
    GatewayIsAddress {
        /// The candidate.
        answer: IpNet,
    },
    /// Keeps an address for somebody else.
    #[error("asked to keep the address for {owner:?}, which is not an identity of this attachment ({})", identities.join(", "))]
    Owner {
        /// The owner.
        owner: String,
        /// The possible owners.
        identities: Vec<String>,
    },
    /// Results before 0.3.0 have one address per family.
    #[error(
        "answered with {count} addresses of a family: CNI version {version} does not support more than 1 address per family"
    )]
    TooManyForVersion {
        /// The CNI version.
        version: String,
        /// How many.
        count: usize,
    },
    /// A route whose next hop is of another family.
    #[error("answered with a route to {dst} by {gw}, which is of another address family")]
    RouteFamily {
        /// The destination.
        dst: IpNet,
        /// The next hop.
        gw: IpAddr,
    },
    /// A route with a scope the kernel does not have.
    #[error("answered with a route to {dst} of scope {scope}; scopes go from 0 to 255")]
    RouteScope {
        /// The destination.
        dst: IpNet,
        /// The scope.
        scope: u32,
    },
    /// An undeclared route.
    #[error(
        "answered with a route to {dst}, which is neither a default route nor one of the network's \"routes\"; to allow it, set \"grants\": {{\"routes\": [\"{dst}\"]}}"
    )]
    RouteUndeclared {
        /// The destination.
        dst: IpNet,
    },
    /// A next hop that is no gateway.
    #[error(
        "answered with a route to {dst} by {gw}, which is neither a gateway of the network nor the \"gw\" of that route in \"routes\"; the network opens more with \"grants\": {{\"routes\": [\"{gw}\"]}}"
    )]
    NextHop {
        /// The destination.
        dst: IpNet,
        /// The next hop.
        gw: IpAddr,
    },
    /// A name server that is not an address.
    #[error("answered with the name server {text:?}, which is not an IP address")]
    NameServer {
        /// The text.
        text: String,
    },
    /// DNS texts that would corrupt the file into which they are written.
    #[error("answered with a DNS {what} that is empty or has control characters: {text:?}")]
    Dns {
        /// Which setting.
        what: &'static str,
        /// The text.
        text: String,
    },
    /// An undeclared delegate.
    #[error("chose the delegate {name:?}, which is not declared ({})", known.join(", "))]
    NoSuchDelegate {
        /// The name.
        name: String,
        /// The declared names.
        known: Vec<String>,
    },
    /// A key that the operator did not open.
    #[error("set {key:?} of the delegate {delegate:?}, which is not settable ({})", settable_text(settable))]
    NotSettable {
        /// The key.
        key: String,
        /// The delegate.
        delegate: String,
        /// The keys that are settable.
        settable: Vec<String>,
    },
    /// One key with two values.
    #[error("set {key:?} twice")]
    SetTwice {
        /// The key.
        key: String,
    },
    /// A value that is not JSON.
    #[error("set {key:?} to a text that is not JSON: {reason}")]
    NotJson {
        /// The key.
        key: String,
        /// What is wrong with it.
        reason: String,
    },
}

fn settable_text(settable: &[String]) -> String {
    if settable.is_empty() { "no key is".to_owned() } else { format!("settable are {}", settable.join(", ")) }
}
