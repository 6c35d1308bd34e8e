//! DHCPv4 and DHCPv6 clients without I/O: the input is a packet or the time; the output is packets to send and the
//! state of the lease.
//!
//! Invariants: nothing here reads a clock, opens a socket or sleeps, so every exchange, renewal and expiry is tested in
//! simulated time. For any input, parsing neither panics nor allocates more than its length.
//!
//! Not here: sockets, namespaces, and the storage of leases (`weftctl agent`).

mod names;
mod pace;
pub mod v4;
pub mod v6;

pub use pace::Pace;

/// Milliseconds on the caller's clock, which never goes back and counts while the node sleeps.
pub type Millis = u64;

/// Why bytes from the network are not a valid message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// It ends before it is complete.
    #[error("the message is truncated")]
    Short,
    /// A length, a version or a magic number is invalid.
    #[error("the message has an invalid {0}")]
    Field(&'static str),
    /// It is for another client, or of another protocol.
    #[error("it is not for a DHCP client")]
    NotOurs,
    /// It was damaged on the way.
    #[error("its checksum is wrong")]
    Checksum,
}

/// Why a lease is over.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Lost {
    /// Nobody renewed it in time.
    #[error("the lease expired, and no server renewed it")]
    Expired,
    /// A server refused it definitively.
    #[error("the server refused it{}", if .0.is_empty() { String::new() } else { format!(": {:?}", .0) })]
    Refused(String),
    /// The server would only give another address, to which the container cannot change.
    #[error("the server offers {0} instead, but a container cannot change its address")]
    Moved(std::net::IpAddr),
}
