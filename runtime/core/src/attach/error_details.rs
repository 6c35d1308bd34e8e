//! The CNI document of an error: its message as `msg`, and as `details` the chain of causes and the leftovers.

use weft_host_abi::types::{Denial, Problem};

use super::error::AttachError;
use super::error_text::{causes, join, list};
use crate::cni::CniError;
use crate::conf::ConfError;
use crate::delegate::DelegateError;
use crate::policy::PolicyError;

impl AttachError {
    /// Returns the document for stdout.
    #[must_use]
    pub fn to_cni(&self) -> CniError {
        if let Self::Cni(error) = self {
            return error.clone();
        }
        CniError::new(self.code(), self.to_string()).with_details(self.details())
    }

    /// Returns why weft does not use a policy's answer, if that is the error. The text does not name the policy, which has
    /// another name on each machine.
    #[must_use]
    pub fn refusal(&self) -> Option<String> {
        match self {
            Self::Policy(PolicyError::Refused { refusal, .. }) => Some(refusal.to_string()),
            Self::Delegate(DelegateError::Addressing(text)) => Some(text.clone()),
            Self::OffersTaken { addresses, .. } => {
                Some(format!("offers only addresses that are taken ({})", list(addresses)))
            }
            Self::BadSettings { delegate, keys, cause, .. } => {
                let keys = keys.join(", ");
                Some(format!("set {keys} of the delegate {delegate:?}, which then cannot be used: {}", cause.chain()))
            }
            _ => None,
        }
    }

    /// Returns the message and all causes, on one line.
    #[must_use]
    pub fn chain(&self) -> String {
        let details = self.details();
        if details.is_empty() { self.to_string() } else { format!("{self}: {details}") }
    }

    /// Returns what `msg` does not say: causes, the current operation, and leftovers.
    fn details(&self) -> String {
        match self {
            Self::Cni(error) => error.details.clone(),
            Self::Conf(ConfError::Several(errors)) => join(&errors.iter().map(ToString::to_string).collect::<Vec<_>>()),
            Self::Op { op, source } => join(&[format!("while trying to {op}"), causes(source)]),
            Self::BadSettings { cause, .. } | Self::DelegateAdd { cause } => cause.details(),
            Self::Conflicts { cause, .. } => cause.as_ref().map(|cause| cause.chain()).unwrap_or_default(),
            Self::Leftovers { cause, leftovers } => join(&[
                cause.details(),
                format!("not everything could be undone, DEL or GC will try again: {}", leftovers.join("; ")),
            ]),
            Self::Teardown { problems } if problems.len() > 1 => problems.join("; "),
            Self::Differs { differences } if differences.len() > 1 => differences.join("; "),
            Self::Denied { policy, denial: Denial::Denied(_) } => format!("denied by policy {policy:?}"),
            Self::Denied { policy, .. } => format!("said by policy {policy:?}"),
            Self::PolicyConf { policy, problems } => {
                let at =
                    |problem: &Problem| if problem.at.is_empty() { None } else { Some(format!("at {}", problem.at)) };
                let place = problems.first().and_then(at);
                let more = problems.iter().skip(1).map(|problem| problem.message.clone());
                let said = format!("said by policy {policy:?}");
                let said = place.map_or_else(|| said.clone(), |place| format!("{place}, {said}"));
                join(&std::iter::once(said).chain(more).collect::<Vec<_>>())
            }
            Self::Exists { attachment, .. } => format!(
                "interface {} of container {} on network {:?} exists; DEL it first",
                attachment.ifname, attachment.container_id, attachment.network
            ),
            other => causes(other),
        }
    }
}
