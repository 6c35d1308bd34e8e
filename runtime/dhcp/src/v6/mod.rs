//! DHCPv6 (RFC 8415): messages, leases, and the client for one non-temporary address.

mod client;
mod lease;
mod message;
mod terms;
#[cfg(test)]
mod tests;

pub use client::Client;
pub use lease::Lease;
pub use message::{IaAddress, IaNa, Kind, Message, Status};
pub use terms::{Output, Purpose, Settings};

use std::net::Ipv6Addr;

/// Where clients listen.
pub const CLIENT_PORT: u16 = 546;
/// Where servers and relays listen.
pub const SERVER_PORT: u16 = 547;
/// All servers and relays on the link.
pub const ALL_SERVERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 1, 2);
