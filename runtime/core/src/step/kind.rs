//! The interface of steps: their inputs, their answers, and their errors.
//!
//! The individual steps use this file; `registry` lists them.

use weft_host_abi::types::{Attachment, Route};

use crate::cni::{Mistyped, Object, Version};
use crate::keys::KeyError;
use crate::plan::{LinkRef, Mac, Need, Observed, Op, ShapeIp, Side};

/// The state before the step: the result of the previous plugin, or what the delegate's plan will make.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Previous {
    /// Interfaces in order; those with a sandbox are the container's.
    pub interfaces: Vec<LinkRef>,
    /// Addresses in order. Another plugin wrote them, so an index may be missing or invalid.
    pub ips: Vec<ShapeIp>,
    /// Routes in order.
    pub routes: Vec<Route>,
}

/// All inputs of a step.
#[derive(Debug)]
pub struct StepInput<'a> {
    /// Its configuration, as the stock plugin of this kind would get it.
    pub conf: &'a Object,
    /// The attachment.
    pub attachment: &'a Attachment,
    /// `CNI_NETNS`.
    pub netns: &'a str,
    /// The pairs of `CNI_ARGS`.
    pub cni_args: &'a [(String, String)],
    /// The previous result; `None` if the runtime sent no prevResult.
    pub previous: Option<&'a Previous>,
    /// The ops of the same plan that run earlier: those of the delegate and of previous steps. Empty for a chained
    /// plugin, whose links already exist.
    pub before: &'a [Op],
    /// The requested facts about the host and the container.
    pub observed: &'a Observed,
}

/// The answer of a step.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct StepPlan {
    /// In the order in which they are applied. If empty, nothing is journalled.
    pub ops: Vec<Op>,
    /// Links it adds to the result's interfaces.
    pub interfaces: Vec<LinkRef>,
    /// A MAC address that it gives the attachment's interface, for the result.
    pub mac: Option<Mac>,
    /// The result's routes, if it changes them.
    pub routes: Option<Vec<Route>>,
}

/// Errors of a step. The texts are the stock plugins'.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StepError {
    /// The configuration cannot be used.
    #[error("{0}")]
    Conf(String),
    /// The previous result is missing, or not what the step needs.
    #[error("{0}")]
    Previous(String),
    /// The host does not meet the configuration's needs.
    #[error("{0}")]
    Host(String),
}

impl From<KeyError> for StepError {
    fn from(error: KeyError) -> Self {
        Self::Conf(error.0)
    }
}

/// Reports a value of the wrong type in the words of the stock plugins that are steps.
pub(super) fn mistyped(error: Mistyped) -> StepError {
    StepError::Conf(format!("failed to parse network configuration: {error}"))
}

/// A kind of step.
pub trait Step: Sync {
    /// Returns its name in `type`.
    fn kind(&self) -> &'static str;

    /// Returns the keys of its configuration, besides those of every plugin; in `"steps"`, others are errors.
    fn keys(&self) -> &'static [&'static str];

    /// Returns the keys of `CNI_ARGS` that it reads. A plugin that reads any refuses others, unless they contain
    /// `IgnoreUnknown`.
    fn cni_args(&self) -> &'static [&'static str] {
        &[]
    }

    /// Returns the oldest version of the specification that the stock plugin supports.
    fn oldest(&self) -> Version {
        Version::V0_1_0
    }

    /// Returns whether a stock plugin of that name exists, so that weft can be called by it.
    fn is_program(&self) -> bool {
        true
    }

    /// Checks the configuration on its own, before anything else. Called for every verb except DEL.
    ///
    /// # Errors
    /// `StepError::Conf` with the stock plugin's text.
    fn validate(&self, conf: &Object, cni_args: &[(String, String)]) -> Result<(), StepError>;

    /// Returns the facts about host and container that planning needs. Missing objects are left out of the answer; the
    /// container's side can only be asked about if the step is chained.
    ///
    /// # Errors
    /// As `validate`.
    fn needs(&self, _conf: &Object, _attachment: &Attachment) -> Result<Vec<Need>, StepError> {
        Ok(Vec::new())
    }

    /// Returns the plan of ADD.
    ///
    /// # Errors
    /// Whatever makes it impossible, before anything changes.
    fn plan(&self, input: &StepInput<'_>) -> Result<StepPlan, StepError>;
}

// === impl StepInput ===

impl StepInput<'_> {
    /// Returns whether the same plan makes the interface: observed facts about it, if any, are older.
    pub(super) fn interface_is_made(&self) -> bool {
        self.before.iter().any(|op| op.made_link().is_some_and(|(name, _kind)| name == self.attachment.ifname))
    }
}

// === impl Previous ===

impl Previous {
    /// Returns the addresses of the attachment's interface. As with the stock plugins, these are the ones whose index
    /// is absent, is invalid, or names that interface in the container.
    pub fn own_addresses<'a>(&'a self, ifname: &'a str) -> impl Iterator<Item = &'a ShapeIp> {
        self.ips.iter().filter(move |ip| {
            let link = ip.interface.and_then(|index| self.interfaces.get(index));
            link.is_none_or(|link| link.side == Side::Container && link.name == ifname)
        })
    }
}
