//! The agent's kinds of refusals. All services share them, so that one table maps them to CNI codes.

use serde::{Deserialize, Serialize};

use crate::cni::code;

/// The kind of a refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fault {
    /// No DHCP server gave a lease.
    NoLease,
    /// The lease is over.
    Lost,
    /// The agent does not know this attachment.
    Unknown,
    /// The network namespace or the link in it cannot be used.
    Place,
    /// The answer of a DHCP server cannot be used.
    Answer,
    /// The request is invalid.
    Request,
    /// An internal error of the agent.
    Internal,
    /// The agent does not have this service: it is older than the caller, or the service is switched off.
    UnknownService,
    /// The agent has this service, but does not speak this version.
    UnknownVersion,
    /// The requested object does not exist.
    NotFound,
    /// A dependency of the service (an API server, kubelet) does not answer.
    Unavailable,
    /// The caller's deadline passed.
    Deadline,
    /// The rules forbid it.
    Denied,
    /// Somebody else was faster or has it.
    Conflict,
    /// Nothing is left to allocate.
    Exhausted,
    /// A kind that this program does not know, from a newer agent.
    #[serde(other)]
    Other,
}

impl Fault {
    /// Returns the CNI error code of this kind.
    #[must_use]
    pub fn code(self) -> u32 {
        match self {
            Self::Unknown | Self::NotFound => code::UNKNOWN_CONTAINER,
            Self::Internal | Self::Other => code::IO,
            Self::Request => code::INVALID_CONFIG,
            Self::Place => code::INVALID_NETNS,
            Self::NoLease
            | Self::Answer
            | Self::UnknownService
            | Self::UnknownVersion
            | Self::Unavailable
            | Self::Deadline
            | Self::Conflict => code::TRY_AGAIN,
            Self::Denied => code::DENIED,
            Self::Exhausted => code::EXHAUSTED,
            Self::Lost => code::DIFFERS,
        }
    }
}

/// A refusal: its kind, and a text that a person can act on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// Its kind.
    pub fault: Fault,
    /// Names the object, the value, and what to do.
    pub message: String,
}

impl Refusal {
    /// Creates a refusal.
    pub fn new(fault: Fault, message: impl Into<String>) -> Self {
        Self { fault, message: message.into() }
    }
}
