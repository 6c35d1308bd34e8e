//! What a step is: what it may look at, what it answers, and what it refuses.
//!
//! The kinds use this file; `registry` lists them.

use weft_host_abi::types::{Attachment, Route};

use crate::cni::{Mistyped, Object, Version};
use crate::keys::KeyError;
use crate::plan::{LinkRef, Mac, Need, Observed, Op, ShapeIp, Side};

/// What came before the step: the result of the plugin before it, or what the delegate's plan will make.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Previous {
    /// Interfaces in order; those with a sandbox are the container's.
    pub interfaces: Vec<LinkRef>,
    /// Addresses in order. An index may be missing or point nowhere: another plugin wrote it.
    pub ips: Vec<ShapeIp>,
    /// Routes in order.
    pub routes: Vec<Route>,
}

/// Everything a step may look at.
#[derive(Debug)]
pub struct StepInput<'a> {
    /// Its configuration, as the stock plugin of this kind would see it.
    pub conf: &'a Object,
    /// The attachment.
    pub attachment: &'a Attachment,
    /// `CNI_NETNS`.
    pub netns: &'a str,
    /// The pairs of `CNI_ARGS`.
    pub cni_args: &'a [(String, String)],
    /// What came before; `None` where the runtime sent no prevResult.
    pub previous: Option<&'a Previous>,
    /// The ops of the same plan that will have run by then: the delegate's and those of the steps before. Empty for a chained
    /// plugin, whose links are there already.
    pub before: &'a [Op],
    /// What was found on the host, and in the container.
    pub observed: &'a Observed,
}

/// What a step wants done.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct StepPlan {
    /// In the order they are applied. Without any, nothing is journalled.
    pub ops: Vec<Op>,
    /// Links it adds to the result's interfaces.
    pub interfaces: Vec<LinkRef>,
    /// A MAC address that it gives the attachment's interface, for the result.
    pub mac: Option<Mac>,
    /// The result's routes, where it changes them.
    pub routes: Option<Vec<Route>>,
}

/// What a step refuses. The texts are the stock plugins'.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StepError {
    /// The configuration cannot be used.
    #[error("{0}")]
    Conf(String),
    /// What came before is missing, or not what the step needs.
    #[error("{0}")]
    Previous(String),
    /// The host is not as the configuration needs it.
    #[error("{0}")]
    Host(String),
}

impl From<KeyError> for StepError {
    fn from(error: KeyError) -> Self {
        Self::Conf(error.0)
    }
}

/// A value of the wrong type, in the words of the stock plugins that are steps.
pub(super) fn mistyped(error: Mistyped) -> StepError {
    StepError::Conf(format!("failed to parse network configuration: {error}"))
}

/// A kind of step.
pub trait Step: Sync {
    /// Its name in `type`.
    fn kind(&self) -> &'static str;

    /// Keys of its configuration, besides those every plugin has; in `"steps"`, others are errors.
    fn keys(&self) -> &'static [&'static str];

    /// Keys of `CNI_ARGS` it reads. A plugin that reads any refuses others, unless they say `IgnoreUnknown`.
    fn cni_args(&self) -> &'static [&'static str] {
        &[]
    }

    /// The oldest version of the specification that the stock plugin speaks.
    fn oldest(&self) -> Version {
        Version::V0_1_0
    }

    /// Whether there is a stock plugin of that name, so that weft answers to it.
    fn is_program(&self) -> bool {
        true
    }

    /// Checks the configuration by itself: called for every verb but DEL, before anything else is looked at.
    ///
    /// # Errors
    /// `StepError::Conf` with the stock plugin's text.
    fn validate(&self, conf: &Object, cni_args: &[(String, String)]) -> Result<(), StepError>;

    /// What must be known of the host and the container to plan. What is not there (yet) is left out of the answer; the
    /// container's side is there to ask only where the step is chained.
    ///
    /// # Errors
    /// As `validate`.
    fn needs(&self, _conf: &Object, _attachment: &Attachment) -> Result<Vec<Need>, StepError> {
        Ok(Vec::new())
    }

    /// Describes what ADD does.
    ///
    /// # Errors
    /// Whatever makes it impossible, before anything is changed.
    fn plan(&self, input: &StepInput<'_>) -> Result<StepPlan, StepError>;
}

// === impl StepInput ===

impl StepInput<'_> {
    /// Whether the interface is one that the same plan makes: what is observed of it, if anything, is from before.
    pub(super) fn interface_is_made(&self) -> bool {
        self.before.iter().any(|op| op.made_link().is_some_and(|(name, _kind)| name == self.attachment.ifname))
    }
}

// === impl Previous ===

impl Previous {
    /// Addresses of the attachment's interface: those whose index is absent, points nowhere, or names that interface in the
    /// container, as the stock plugins have it.
    pub fn own<'a>(&'a self, ifname: &'a str) -> impl Iterator<Item = &'a ShapeIp> {
        self.ips.iter().filter(move |ip| {
            let link = ip.interface.and_then(|index| self.interfaces.get(index));
            link.is_none_or(|link| link.side == Side::Container && link.name == ifname)
        })
    }
}
