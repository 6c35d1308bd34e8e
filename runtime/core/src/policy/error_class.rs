//! The meaning of a policy error: who has to act on it, and whether the network's fallback replaces the policy.

use super::error::PolicyError;

/// Who has to act on an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// The operator: the network's configuration names something that does not exist or is not granted.
    Config,
    /// The node's administrator: files, modes or the compiler are wrong.
    Node,
    /// The policy's author: the policy failed or gave a bad answer.
    Policy,
    /// The host could not answer the policy's queries, or ran out of memory.
    Host,
    /// The runtime: the error is temporary, so it should try again.
    Passing,
}

impl Class {
    /// Returns its name in metrics.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Config => "config",
            Self::Node => "node",
            Self::Policy => "policy",
            Self::Host => "host",
            Self::Passing => "passing",
        }
    }
}

impl PolicyError {
    /// Returns whether the policy could not be used at all, so that the network's `fallback` replaces it. Its answers,
    /// and faults of the ledger, do not count.
    #[must_use]
    pub fn is_unavailable(&self) -> bool {
        match self {
            Self::NotFound { .. }
            | Self::Unreadable { .. }
            | Self::Unsafe { .. }
            | Self::WrongDigest { .. }
            | Self::Compiling { .. }
            | Self::LockFile { .. }
            | Self::NotCompiled { .. }
            | Self::NotComponent { .. }
            | Self::Contract { .. }
            | Self::Link { .. }
            | Self::Trap { .. }
            | Self::Worker { .. }
            | Self::OutOfFuel { .. }
            | Self::Stack { .. }
            | Self::Deadline { .. }
            | Self::Memory { .. }
            | Self::Table { .. }
            | Self::TooManyCalls { .. }
            | Self::TooMuchData { .. }
            | Self::Malformed { .. } => true,
            Self::Reference { .. }
            | Self::Unpinned { .. }
            | Self::Unlocked { .. }
            | Self::NotPinned { .. }
            | Self::Store { .. }
            | Self::Cache { .. }
            | Self::CacheUnsafe { .. }
            | Self::Engine { .. }
            | Self::HostMemory { .. }
            | Self::ImportsNotGranted { .. }
            | Self::ImportsUnknown { .. }
            | Self::Data { .. }
            | Self::Ledger { .. }
            | Self::Oversized { .. }
            | Self::Refused { .. } => false,
        }
    }

    /// Returns who has to act on the error.
    #[must_use]
    pub fn class(&self) -> Class {
        match self {
            Self::Reference { .. }
            | Self::Unpinned { .. }
            | Self::Unlocked { .. }
            | Self::NotPinned { .. }
            | Self::NotFound { .. }
            | Self::ImportsNotGranted { .. }
            | Self::ImportsUnknown { .. }
            | Self::Data { .. }
            | Self::Contract { .. }
            | Self::Link { .. }
            | Self::WrongDigest { .. }
            | Self::NotComponent { .. } => Class::Config,
            Self::Unreadable { .. }
            | Self::Unsafe { .. }
            | Self::Cache { .. }
            | Self::CacheUnsafe { .. }
            | Self::NotCompiled { .. }
            | Self::LockFile { .. }
            | Self::Store { .. }
            | Self::Engine { .. } => Class::Node,
            Self::Compiling { .. } => Class::Passing,
            Self::Trap { .. }
            | Self::Worker { .. }
            | Self::OutOfFuel { .. }
            | Self::Stack { .. }
            | Self::Deadline { .. }
            | Self::Memory { .. }
            | Self::Table { .. }
            | Self::TooManyCalls { .. }
            | Self::TooMuchData { .. }
            | Self::Malformed { .. }
            | Self::Oversized { .. }
            | Self::Refused { .. } => Class::Policy,
            Self::Ledger { .. } | Self::HostMemory { .. } => Class::Host,
        }
    }
}
