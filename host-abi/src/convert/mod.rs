//! Conversions between native and generated types. Only this module and [`crate::guest`] use WIT types.
//!
//! Native to WIT cannot fail. WIT to native can: a guest may pass `10.0.0.1/99`, which no native type can hold.

mod from_guest;
mod to_guest;

use std::net::IpAddr;

pub(crate) use from_guest::{address, chosen, decision, denial, problem, range};
pub(crate) use to_guest::{address as to_address, candidate, choice_request, claim, pairs, request};

/// A guest's data is not a value of the contract.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, serde::Serialize, serde::Deserialize)]
pub enum ConvertError {
    /// A prefix length that its family does not have.
    #[error("{address}/{length} has a prefix length over {max}")]
    PrefixLength {
        /// The address.
        address: IpAddr,
        /// The length given.
        length: u8,
        /// The largest length of the family.
        max: u8,
    },
    /// An IPv4-mapped IPv6 address, which the contract forbids: it would be a second name of an IPv4 address.
    #[error("{0} is an IPv4-mapped IPv6 address; return it as the variant ipv4")]
    Mapped(IpAddr),
    /// A range whose subnet is not a network.
    #[error("range subnet {0} has host bits set")]
    HostBits(ipnet::IpNet),
    /// A range with mixed families.
    #[error("range {first}-{last} of {subnet} mixes address families")]
    MixedFamilies {
        /// Subnet of the range.
        subnet: ipnet::IpNet,
        /// Its first address.
        first: IpAddr,
        /// Its last address.
        last: IpAddr,
    },
    /// A range that ends before it starts.
    #[error("range {first}-{last} ends before it starts")]
    Backwards {
        /// Its first address.
        first: IpAddr,
        /// Its last address.
        last: IpAddr,
    },
}

#[cfg(test)]
mod tests;
