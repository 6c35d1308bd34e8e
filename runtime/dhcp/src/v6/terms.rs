//! A client's events, its goal, and the actions it asks for.

use crate::{Lost, Pace};

/// What does not change while a client lives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The client's DUID.
    pub duid: Vec<u8>,
    /// Its name for its one IA.
    pub iaid: u32,
    /// Times; of them, `resend_timeout` and `resend_max` count here.
    pub pace: Pace,
}

/// What the client is after.
pub type Purpose = Option<std::net::Ipv6Addr>;

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// Send to all servers of the link.
    Send(Vec<u8>),
    /// There is a lease, new or prolonged: keep it.
    Bound,
    /// The client has no lease and has ended.
    GaveUp(String),
    /// The address must not be used any more. The client has ended.
    Lost(Lost),
    /// The release is confirmed, or was said often enough. The client has ended.
    Released,
}
