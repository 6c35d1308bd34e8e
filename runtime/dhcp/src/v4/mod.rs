//! DHCPv4 (RFC 2131): messages, their frames, leases, and the client.

mod client;
mod frame;
mod lease;
mod message;
mod terms;
#[cfg(test)]
mod tests;

pub use client::Client;
pub use frame::{CLIENT_PORT, Datagram, SERVER_PORT, read_frame, write_frame};
pub use lease::Lease;
pub use message::{Kind, Message};
pub use terms::{Listen, Output, Purpose, Settings};

/// Codes of the options used here.
pub mod option {
    /// Subnet mask.
    pub const SUBNET_MASK: u8 = 1;
    /// Routers.
    pub const ROUTERS: u8 = 3;
    /// Name servers.
    pub const DNS_SERVERS: u8 = 6;
    /// Host name.
    pub const HOST_NAME: u8 = 12;
    /// Domain name.
    pub const DOMAIN_NAME: u8 = 15;
    /// Static routes, by address class.
    pub const STATIC_ROUTES: u8 = 33;
    /// Requested address.
    pub const REQUESTED_ADDRESS: u8 = 50;
    /// Lease time.
    pub const LEASE_TIME: u8 = 51;
    /// Options continue in the fields `file` and `sname`.
    pub const OVERLOAD: u8 = 52;
    /// Message type.
    pub const MESSAGE_TYPE: u8 = 53;
    /// Server identifier.
    pub const SERVER_ID: u8 = 54;
    /// Parameter request list.
    pub const PARAMETERS: u8 = 55;
    /// Text of a refusal.
    pub const TEXT: u8 = 56;
    /// Maximum message size.
    pub const MAX_SIZE: u8 = 57;
    /// Renewal time (T1).
    pub const RENEWAL_TIME: u8 = 58;
    /// Rebinding time (T2).
    pub const REBINDING_TIME: u8 = 59;
    /// Vendor class.
    pub const VENDOR_CLASS: u8 = 60;
    /// Client identifier.
    pub const CLIENT_ID: u8 = 61;
    /// User class.
    pub const USER_CLASS: u8 = 77;
    /// Domain search list.
    pub const DOMAIN_SEARCH: u8 = 119;
    /// Classless static routes.
    pub const CLASSLESS_ROUTES: u8 = 121;
}
