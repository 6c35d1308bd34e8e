//! Mistakes in a range set.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::cni::Mistyped;

/// A mistake in a range set, in host-local's words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RangeProblem {
    /// An empty set.
    #[error("empty range set")]
    Empty,
    /// Neither a list nor an object with a list.
    #[error("a range set is a list of ranges, or an object with \"ranges\" and a \"name\"; found {found}")]
    NoSet {
        /// The value that was found.
        found: String,
    },
    /// A value of the wrong type.
    #[error("{0}")]
    Mistyped(Mistyped),
    /// An invalid address or subnet.
    #[error("{key}: invalid {what} address: {text}")]
    BadText {
        /// The key.
        key: &'static str,
        /// `IP` or `CIDR`.
        what: &'static str,
        /// The text.
        text: String,
    },
    /// A missing subnet.
    #[error("IP <nil> not v4 nor v6")]
    NoSubnet,
    /// A subnet of one or two addresses.
    #[error("Network {0} too small to allocate from")]
    TooSmall(IpNet),
    /// An IPv4 address written as an IPv6 one.
    #[error("IPNet IP and Mask version mismatch")]
    Mapped,
    /// A subnet with host bits.
    #[error("Network has host bits set. For a subnet mask of length {} the network address is {}", .0.prefix_len(), .0.network())]
    HostBits(IpNet),
    /// A gateway of the other family.
    #[error("gateway {gateway} is not of the family of network {subnet}")]
    GatewayFamily {
        /// The gateway.
        gateway: IpAddr,
        /// The subnet.
        subnet: IpNet,
    },
    /// An end outside of its subnet, or beyond the other end.
    #[error("{end} {address} not in network {subnet}")]
    Outside {
        /// `RangeStart` or `RangeEnd`.
        end: &'static str,
        /// The address.
        address: IpAddr,
        /// The subnet.
        subnet: IpNet,
    },
    /// A start after its end: host-local reports that it is not in the network.
    #[error("RangeStart {start} not in network {subnet}: it is after RangeEnd {end}")]
    Backwards {
        /// The start.
        start: IpAddr,
        /// The end.
        end: IpAddr,
        /// The subnet.
        subnet: IpNet,
    },
    /// Both families in one set.
    #[error("mixed address families")]
    Mixed,
    /// Ranges that have addresses in common.
    #[error("subnets {first} and {second} overlap")]
    Overlap {
        /// The one, as `first-last`.
        first: String,
        /// The other.
        second: String,
    },
}

impl From<Mistyped> for RangeProblem {
    fn from(error: Mistyped) -> Self {
        Self::Mistyped(error)
    }
}
