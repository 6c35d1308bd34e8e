//! A client's settings, its goal, and its outputs.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use crate::{Lost, Pace};

/// The constant settings of a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Hardware address of its link.
    pub mac: [u8; 6],
    /// Client identifier (option 61), including its type octet.
    pub client_id: Vec<u8>,
    /// Options to send.
    pub provide: BTreeMap<u8, Vec<u8>>,
    /// Options to request.
    pub request: Vec<u8>,
    /// Whether to ask the server to broadcast its answers, for links that do not forward unicast frames before they
    /// have an address (ipvlan).
    pub broadcast: bool,
    /// Times.
    pub pace: Pace,
}

/// The goal of the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// A new attachment: any address, preferably this one.
    Any(Option<Ipv4Addr>),
    /// The address is already on the link: no other address is acceptable.
    Keep(Ipv4Addr),
}

/// An action to take.
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
        /// The source MAC address of its frames, if known.
        mac: Option<[u8; 6]>,
        /// The message.
        bytes: Vec<u8>,
    },
    /// There is a new or renewed lease: store it.
    Bound,
    /// The client has no lease and has ended.
    GaveUp(String),
    /// The address must not be used any more. The client has ended.
    Lost(Lost),
}

/// Where answers will arrive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Listen {
    /// Nowhere: no request is pending.
    Nowhere,
    /// On the link, for any address, while the client has no address or no reliable one.
    Link,
    /// At the client's own address.
    Address(Ipv4Addr),
}

/// Returns whether a container can have this address.
pub(super) fn usable(address: Ipv4Addr) -> bool {
    !(address.is_unspecified() || address.is_broadcast() || address.is_multicast() || address.is_loopback())
}
