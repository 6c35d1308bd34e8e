//! DHCPv4 and DHCPv6 clients without I/O: a packet or the time goes in, packets to send and what became of the lease come out.
//!
//! Invariants: nothing here reads a clock, opens a socket or sleeps, so every exchange, renewal and expiry is tested in
//! simulated time; whatever bytes a network sends, reading them neither panics nor allocates more than they are long.
//!
//! Not here: sockets, namespaces, where leases are kept (`weftctl agent`).

mod names;
mod pace;
pub mod v4;
pub mod v6;

pub use pace::Pace;

/// Milliseconds on a clock of the caller's that never goes back and counts while the node sleeps.
pub type Millis = u64;

/// Why bytes from the network are no message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// It ends before it is complete.
    #[error("it ends early")]
    Short,
    /// A length, a version or a magic number that cannot be.
    #[error("it has an impossible {0}")]
    Field(&'static str),
    /// It is meant for somebody else, or is of another protocol.
    #[error("it is not for a DHCP client")]
    NotOurs,
    /// It was damaged on the way.
    #[error("its checksum is wrong")]
    Checksum,
}

/// Why a lease is over.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Lost {
    /// Nobody prolonged it in time.
    #[error("it expired, and no server prolonged it")]
    Expired,
    /// A server refused it and gave no second chance.
    #[error("the server refused it{}", if .0.is_empty() { String::new() } else { format!(": {:?}", .0) })]
    Refused(String),
    /// The server would only give another address, which the container cannot change to.
    #[error("the server gives {0} instead, and a container cannot change its address")]
    Moved(std::net::IpAddr),
}
