//! What an error of a policy means: whose move it is, and whether the network's fallback takes the policy's place.

use super::error::PolicyError;

/// Whose move it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// The network's configuration names something that is not there or not granted.
    Config,
    /// The node's installation is off: files, modes, the compiler.
    Node,
    /// The policy itself failed or gave a bad answer.
    Policy,
    /// The host could not answer the policy's questions, or has no memory.
    Host,
    /// It passes with time: the runtime should try again.
    Passing,
}

impl PolicyError {
    /// Whether the policy could not be used at all, so that a network's `fallback` takes its place. What it answered, and the
    /// ledger's faults, are not such errors.
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

    /// Whose move it is.
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
