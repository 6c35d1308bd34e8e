//! A client's settings, its goal, and its outputs.

use crate::{Lost, Pace};

/// The constant settings of a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The client's DUID.
    pub duid: Vec<u8>,
    /// The id of its only IA.
    pub iaid: u32,
    /// Times; only `resend_timeout` and `resend_max` are used.
    pub pace: Pace,
}

/// The goal of the client: an address that it prefers.
pub type Purpose = Option<std::net::Ipv6Addr>;

/// An action to take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// Send to all servers of the link.
    Send(Vec<u8>),
    /// There is a new or renewed lease: store it.
    Bound,
    /// The client has no lease and has ended.
    GaveUp(String),
    /// The address must not be used any more. The client has ended.
    Lost(Lost),
    /// The release is confirmed, or was sent often enough. The client has ended.
    Released,
}
