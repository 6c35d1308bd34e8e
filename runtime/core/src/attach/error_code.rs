//! Maps an `AttachError` to its CNI code. The errors of `conf`, `exec`, `agent` and `pod` have their own `code()`. The
//! numbers are in `cni::code`; `docs/error-codes.md` lists them, and a test keeps both in step.

use weft_host_abi::types::Denial;

use super::error::AttachError;
use crate::cni::code;
use crate::delegate::DelegateError;
use crate::netlink::NetlinkError;
use crate::policy::Class;
use crate::step::StepError;
use crate::store::StoreError;

impl AttachError {
    /// Returns the CNI error code.
    #[must_use]
    pub fn code(&self) -> u32 {
        match self {
            Self::Cni(error) => error.code,
            Self::Plugin(error) => error.code(),
            Self::UnknownAttachment(_) | Self::NoClaim { .. } => code::UNKNOWN_CONTAINER,
            Self::Exists { .. } => code::INVALID_ENVIRONMENT,
            Self::Ledger(StoreError::Taken { .. })
            | Self::Netlink(NetlinkError::Taken { .. } | NetlinkError::StockPort { .. })
            | Self::Op { source: NetlinkError::Taken { .. } | NetlinkError::StockPort { .. }, .. } => code::TAKEN,
            Self::Contended { .. }
            | Self::InUse { .. }
            | Self::Conflicts { .. }
            | Self::Op { source: NetlinkError::NoCarrier { .. }, .. }
            | Self::TakenInCluster { .. }
            | Self::Withdrawn
            | Self::AtWork { .. }
            | Self::NodeAtWork { .. }
            | Self::Rebuilding
            | Self::Ledger(StoreError::Removed { .. })
            | Self::Op { source: NetlinkError::SharedBusy { .. } | NetlinkError::FirewalldSilent { .. }, .. }
            | Self::Netlink(NetlinkError::FirewalldSilent { .. })
            | Self::Denied { denial: Denial::TryAgain(_), .. } => code::TRY_AGAIN,
            Self::LockFile { .. } | Self::Ledger(_) | Self::Facts(_) => code::IO,
            Self::PluginAnswer { .. } => code::DECODE,
            Self::Conf(error) => error.code(),
            Self::Agent(error) | Self::StockAgent(error) => error.code(),
            Self::UnknownDelegate(_)
            | Self::IpamRequired { .. }
            | Self::NoIpam
            | Self::NoDhcp { .. }
            | Self::NoDelegate
            | Self::Delegate(DelegateError::Conf(_))
            | Self::Step(StepError::Conf(_) | StepError::Previous(_))
            | Self::Denied { denial: Denial::InvalidConfig(_), .. }
            | Self::PolicyConf { .. }
            | Self::KeptInCluster { .. }
            | Self::ClaimNotOffered { .. }
            | Self::ClaimStatus { .. }
            | Self::PrevResultMissing
            | Self::NoPrevResult => code::INVALID_CONFIG,
            Self::SameNetns => code::INVALID_NETNS,
            Self::NotReady { .. } => code::NOT_AVAILABLE,
            Self::Denied { denial: Denial::Denied(_), .. } => code::DENIED,
            Self::Policy(error) => class_code(error.class()),
            Self::NoFallback { class, .. } => class_code(*class),
            Self::DelegateAdd { cause } => cause.code(),
            Self::OffersTaken { .. } | Self::BadSettings { .. } | Self::Delegate(DelegateError::Addressing(_)) => {
                code::POLICY_FAILED
            }
            Self::NoCell { .. } | Self::Denied { denial: Denial::Exhausted(_), .. } | Self::WantedInUse { .. } => {
                code::EXHAUSTED
            }
            Self::Netlink(error) | Self::Op { source: error, .. } => host_code(error),
            Self::Delegate(DelegateError::Host(_)) | Self::Step(StepError::Host(_)) => code::HOST_FAILED,
            // Whether a source was added is only known when firewalld answers again; until then it counts as left over.
            Self::Leftovers { cause, .. } if cause.is_silence_of_firewalld() => code::TRY_AGAIN,
            Self::Leftovers { .. } | Self::Teardown { .. } => code::LEFTOVERS,
            Self::Differs { .. } => code::DIFFERS,
            Self::Encode(_) | Self::Journal { .. } | Self::NoPlan => code::INTERNAL,
        }
    }
}

impl AttachError {
    fn is_silence_of_firewalld(&self) -> bool {
        matches!(self, Self::Op { source: NetlinkError::FirewalldSilent { .. }, .. })
    }
}

/// Returns the code of an error from the kernel.
fn host_code(error: &NetlinkError) -> u32 {
    if error.is_out_of_memory() {
        code::IO
    } else if error.is_netns() {
        code::INVALID_NETNS
    } else {
        code::HOST_FAILED
    }
}

/// Returns the code of a policy's error.
fn class_code(class: Class) -> u32 {
    match class {
        Class::Config => code::INVALID_CONFIG,
        Class::Host => code::IO,
        Class::Node | Class::Policy => code::POLICY_FAILED,
        Class::Passing => code::TRY_AGAIN,
    }
}
