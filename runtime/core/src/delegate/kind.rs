//! The interface of delegates: their inputs, their answers, and their errors.
//!
//! The individual delegates use this file; `registry` lists them.

use ipnet::IpNet;
use std::net::IpAddr;
use weft_host_abi::types::{Attachment, Dns, Route};

use crate::cni::{CniResult, Object};
use crate::keys::KeyError;
use crate::plan::{Mac, Need, Observed, Op, Plan};

/// An address of the attachment, from our ledger or from an external IPAM plugin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Given {
    /// Address and prefix length.
    pub address: IpNet,
    /// Its gateway.
    pub gateway: Option<IpAddr>,
}

/// The answer of IPAM: the addresses with routes and DNS.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Addressing {
    /// Addresses in order.
    pub ips: Vec<Given>,
    /// Routes in order.
    pub routes: Vec<Route>,
    /// DNS of the IPAM result.
    pub dns: Dns,
    /// Whether the ledger makes these addresses unique, so that ADD need not wait for duplicate address detection.
    pub unique: bool,
    /// Milliseconds to wait for neighbours to answer a probe for the addresses, if they are probed.
    pub probe_ms: Option<u32>,
}

/// All inputs of a delegate.
#[derive(Debug)]
pub struct Input<'a> {
    /// The configuration, as the stock plugin of this kind would get it.
    pub conf: &'a Object,
    /// The attachment.
    pub attachment: &'a Attachment,
    /// The pairs of `CNI_ARGS`.
    pub cni_args: &'a [(String, String)],
    /// The addresses; `None` if the network has no IPAM (layer 2).
    pub addressing: Option<&'a Addressing>,
    /// The previous plugin's result, for a delegate that uses it (`Delegate::is_chained`).
    pub previous: Option<&'a CniResult>,
    /// The requested facts about the host.
    pub observed: &'a Observed,
    /// `dns` of the configuration, if it is set at all (an empty list counts).
    pub dns: Option<&'a Dns>,
    /// Gateway addresses of the network's declared ranges, in the form for a link of the host.
    pub beside: &'a [IpNet],
    /// A fresh random name for a host link.
    pub fresh_ifname: &'a str,
    /// A fresh random locally administered MAC address, used if the configuration requests none.
    pub fresh_mac: Mac,
}

/// Errors of a delegate. The texts are the stock plugins'.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DelegateError {
    /// The configuration cannot be used.
    #[error("{0}")]
    Conf(String),
    /// The host does not meet the configuration's needs (no such parent, no default route).
    #[error("{0}")]
    Host(String),
    /// IPAM did not provide what the delegate needs.
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
    /// Returns its name in `type`.
    fn kind(&self) -> &'static str;

    /// Returns the keys of its configuration, besides those of every plugin; for `"type": "weft"`, others are errors.
    fn keys(&self) -> &'static [&'static str];

    /// Returns whether the network requires IPAM (ptp), may use it (bridge, macvlan), or never uses it (loopback).
    fn ipam(&self) -> IpamUse;

    /// Returns the stock plugin's message if IPAM is required and missing.
    fn without_ipam(&self) -> &'static str {
        "no plugin name provided"
    }

    /// Returns whether it builds on the previous plugin's result, so that `prevResult` must be readable.
    fn is_chained(&self) -> bool {
        false
    }

    /// Returns why neighbours on its link cannot be probed for its addresses; `None` if they can.
    fn no_neighbours(&self) -> Option<&'static str>;

    /// Returns the keys of `CNI_ARGS` that it reads. A plugin that reads any refuses others, unless they contain
    /// `IgnoreUnknown`.
    fn cni_args(&self) -> &'static [&'static str];

    /// Checks the configuration on its own, before anything else. Called for every verb except DEL.
    ///
    /// # Errors
    /// `DelegateError::Conf` with the stock plugin's text.
    fn validate(&self, conf: &Object, cni_args: &[(String, String)]) -> Result<(), DelegateError>;

    /// Returns the facts about the host that planning needs. `previous` is as in [`Input`]; STATUS has none.
    ///
    /// # Errors
    /// As `validate`; also if the previous result does not meet its needs.
    fn needs(&self, conf: &Object, previous: Option<&CniResult>) -> Result<Vec<Need>, DelegateError>;

    /// Returns the op that makes the attachment's link, containing only the link's name. DEL uses its teardown if the
    /// journal has no plan, because the stock plugin made the link before the node was switched to weft.
    fn link_op(&self, ifname: &str) -> Op;

    /// Returns the plan of ADD.
    ///
    /// # Errors
    /// Whatever makes the attachment impossible, before anything changes.
    fn plan(&self, input: &Input<'_>) -> Result<Plan, DelegateError>;
}

/// How a delegate uses IPAM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IpamUse {
    /// An attachment needs addresses.
    Required,
    /// Layer 3 with `ipam.type`, layer 2 without it.
    Optional,
    /// `ipam` is ignored.
    Never,
}
