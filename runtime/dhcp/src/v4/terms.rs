//! A client's events, its goal, and the actions it asks for.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use crate::{Lost, Pace};

/// What does not change while a client lives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Hardware address of its link.
    pub mac: [u8; 6],
    /// Client identifier (option 61), type octet included.
    pub client_id: Vec<u8>,
    /// Options to send.
    pub provide: BTreeMap<u8, Vec<u8>>,
    /// Options to ask for.
    pub request: Vec<u8>,
    /// Ask the server to broadcast its answers, for links that do not pass on unicast frames before they have an address
    /// (ipvlan).
    pub broadcast: bool,
    /// Times.
    pub pace: Pace,
}

/// What the client is after.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// A new attachment: any address will do, this one is preferred.
    Any(Option<Ipv4Addr>),
    /// The address is on the link already: only that one will do.
    Keep(Ipv4Addr),
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// Send to everybody on the link.
    Broadcast {
        /// Source address.
        from: Ipv4Addr,
        /// The message.
        bytes: Vec<u8>,
    },
    /// Send to one server.
    Unicast {
        /// Source address.
        from: Ipv4Addr,
        /// The server.
        to: Ipv4Addr,
        /// Where its frames came from, if that is known.
        mac: Option<[u8; 6]>,
        /// The message.
        bytes: Vec<u8>,
    },
    /// There is a lease, new or prolonged: keep it.
    Bound,
    /// The client has no lease and has ended.
    GaveUp(String),
    /// The address must not be used any more. The client has ended.
    Lost(Lost),
}

/// Where answers will come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Listen {
    /// Nowhere: nothing is being asked.
    Nowhere,
    /// On the link, whatever the address: there is none yet, or none that may be relied on.
    Link,
    /// At the client's own address.
    Address(Ipv4Addr),
}

/// An address that a container can have.
pub(super) fn usable(address: Ipv4Addr) -> bool {
    !(address.is_unspecified() || address.is_broadcast() || address.is_multicast() || address.is_loopback())
}
