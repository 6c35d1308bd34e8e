//! What a delegate is: what it may look at, what it answers, and what it refuses.
//!
//! The kinds use this file; `registry` lists them.

use ipnet::IpNet;
use std::net::IpAddr;
use weft_host_abi::types::{Attachment, Dns, Route};

use crate::cni::{CniResult, Object};
use crate::keys::KeyError;
use crate::plan::{Mac, Need, Observed, Op, Plan};

/// An address the attachment has been given, by our ledger or by an external IPAM plugin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Given {
    /// Address and prefix length.
    pub address: IpNet,
    /// Its gateway.
    pub gateway: Option<IpAddr>,
}

/// What IPAM said: the addresses and what goes with them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Addressing {
    /// Addresses in order.
    pub ips: Vec<Given>,
    /// Routes in order.
    pub routes: Vec<Route>,
    /// DNS of the IPAM result.
    pub dns: Dns,
    /// The ledger makes these addresses unique, so duplicate address detection need not be waited for.
    pub unique: bool,
    /// Neighbours are asked for them first, and may take so many milliseconds to answer.
    pub probe_ms: Option<u32>,
}

/// Everything a delegate may look at.
#[derive(Debug)]
pub struct Input<'a> {
    /// The configuration, as the stock plugin of this kind would see it.
    pub conf: &'a Object,
    /// The attachment.
    pub attachment: &'a Attachment,
    /// The pairs of `CNI_ARGS`.
    pub cni_args: &'a [(String, String)],
    /// The addresses; `None` where the network has no IPAM (layer 2).
    pub addressing: Option<&'a Addressing>,
    /// What came before in the list of plugins, for a delegate that looks at it (`Delegate::is_chained`).
    pub previous: Option<&'a CniResult>,
    /// What was found on the host.
    pub observed: &'a Observed,
    /// `dns` of the configuration, where it is set at all (an empty list counts).
    pub dns: Option<&'a Dns>,
    /// Gateway addresses of the ranges that the network declares, as a link of the host would have them.
    pub beside: &'a [IpNet],
    /// A fresh name for a host link, random.
    pub fresh_ifname: &'a str,
    /// A fresh locally administered MAC address, random; used where the configuration asks for none.
    pub fresh_mac: Mac,
}

/// What a delegate refuses. The texts are the stock plugins'.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DelegateError {
    /// The configuration cannot be used.
    #[error("{0}")]
    Conf(String),
    /// The host is not as the configuration needs it (no such parent, no default route).
    #[error("{0}")]
    Host(String),
    /// IPAM did not give what the delegate needs.
    #[error("{0}")]
    Addressing(String),
}

impl From<KeyError> for DelegateError {
    fn from(error: KeyError) -> Self {
        Self::Conf(error.0)
    }
}

/// A kind of interface.
pub trait Delegate: Sync {
    /// Its name in `type`.
    fn kind(&self) -> &'static str;

    /// Keys of its configuration, besides those every plugin has; for `"type": "weft"`, others are errors.
    fn keys(&self) -> &'static [&'static str];

    /// Whether the network cannot do without IPAM (ptp), may (bridge, macvlan), or never uses it (loopback).
    fn ipam(&self) -> IpamUse;

    /// What is said where IPAM is required and there is none: the stock plugin's words.
    fn without_ipam(&self) -> &'static str {
        "no plugin name provided"
    }

    /// Whether it builds on what came before it in a list of plugins, so that `prevResult` must be readable.
    fn is_chained(&self) -> bool {
        false
    }

    /// Why neighbours on its link cannot be asked who has its addresses; `None` where they can.
    fn no_neighbours(&self) -> Option<&'static str>;

    /// Keys of `CNI_ARGS` it reads. A plugin that reads any refuses others, unless they say `IgnoreUnknown`.
    fn cni_args(&self) -> &'static [&'static str];

    /// Checks the configuration by itself: called for every verb but DEL, before anything else is looked at.
    ///
    /// # Errors
    /// `DelegateError::Conf` with the stock plugin's text.
    fn validate(&self, conf: &Object, cni_args: &[(String, String)]) -> Result<(), DelegateError>;

    /// What must be known of the host to plan. `previous` is as in [`Input`]; STATUS has none.
    ///
    /// # Errors
    /// As `validate`; also where what came before is not what it needs.
    fn needs(&self, conf: &Object, previous: Option<&CniResult>) -> Result<Vec<Need>, DelegateError>;

    /// The op that makes the attachment's link, with no more than the link's name in it: its teardown is what DEL does where
    /// the journal has no plan, because the stock plugin made the link before the node was switched to weft.
    fn bare(&self, ifname: &str) -> Op;

    /// Describes what ADD does.
    ///
    /// # Errors
    /// Whatever makes the attachment impossible, before anything is changed.
    fn plan(&self, input: &Input<'_>) -> Result<Plan, DelegateError>;
}

/// How a delegate goes with IPAM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IpamUse {
    /// Without addresses there is no attachment.
    Required,
    /// With `ipam.type` layer 3, without it layer 2.
    Optional,
    /// `ipam` is ignored.
    Never,
}
