//! The rules under which a network asks its policy: the limits of a call, and what a decision is verified against besides
//! its request. They are recorded with each call, so that it can be repeated and judged like on its node.
//!
//! Invariant: ADD, a monitor, a replay, a test case and a simulation judge a decision here, and nowhere else.

use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use weft_host_abi::types::{Decision, Request};

use super::error::AttachError;
use crate::cni::Object;
use crate::conf::{DelegateConf, Network};
use crate::delegate::{self, Addressing, DelegateError, Given, Input, first_host};
use crate::plan::{Mac, Observed, Op, Plan, Side};
use crate::policy::{self, Limits, Named, Verified};

/// Returns the limits of a policy call: the defaults, overridden by the network.
#[must_use]
pub fn limits(network: &Network) -> Limits {
    let conf = &network.terms.limits;
    let mut limits = Limits::default();
    if let Some(fuel) = conf.fuel {
        limits.fuel = fuel;
    }
    if let Some(mib) = conf.memory_mib {
        limits.memory = usize::try_from(u64::from(mib) << 20).unwrap_or(usize::MAX);
    }
    if let Some(millis) = conf.deadline_ms {
        limits.deadline = Duration::from_millis(u64::from(millis));
    }
    limits
}

/// The limits that a network can set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct CallLimits {
    /// Fuel.
    pub fuel: u64,
    /// Bytes of memory.
    pub memory: usize,
    /// Milliseconds.
    pub deadline_ms: u64,
}

/// What a network allows its policy.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Rules {
    /// The limits of the call.
    pub limits: CallLimits,
    /// Whether the policy may import WASI.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub wasi: bool,
    /// `grants.routes`: prefixes inside which it may make its own routes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub routes: Vec<IpNet>,
    /// Addresses that operator or runtime named explicitly, besides ranges.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<IpNet>,
    /// Gateways that they named explicitly.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gateways: Vec<IpAddr>,
    /// The delegate's `type` and own keys: it may put a gateway of the decision on the host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delegate: Option<Value>,
    /// Gateways to which the recorded decision leads and that somebody held as an address.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub held: Vec<IpAddr>,
    /// The candidates of the recorded decision that its ADD got, if it got any.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub claimed: Vec<IpNet>,
}

/// A decision that an ADD may use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Judged {
    /// What it may claim and set.
    pub verified: Verified,
    /// Gateways that are neither declared nor anybody's address: the decision's own, or those that a bridge takes if the
    /// decision has none.
    pub free_gateways: Vec<IpAddr>,
}

// === impl CallLimits ===

impl CallLimits {
    fn from_limits(limits: &Limits) -> Self {
        let deadline_ms = u64::try_from(limits.deadline.as_millis()).unwrap_or(u64::MAX);
        Self { fuel: limits.fuel, memory: limits.memory, deadline_ms }
    }

    /// Returns the limits of a call; those that no network sets have their defaults.
    #[must_use]
    pub fn limits(self) -> Limits {
        let Self { fuel, memory, deadline_ms } = self;
        Limits { fuel, memory, deadline: Duration::from_millis(deadline_ms), ..Limits::default() }
    }
}

impl Default for CallLimits {
    fn default() -> Self {
        Self::from_limits(&Limits::default())
    }
}

// === impl Rules ===

impl Rules {
    /// Returns the rules of a network for its choice of a delegate.
    #[must_use]
    pub fn of_choice(network: &Network) -> Self {
        let limits = CallLimits::from_limits(&limits(network));
        Self { limits, wasi: network.terms.grants.wasi, ..Self::default() }
    }

    /// Returns the rules of a network for its addresses.
    #[must_use]
    pub fn from_network(network: &Network) -> Self {
        let ipam = network.ipam.as_ref();
        Self {
            routes: network.terms.grants.routes.clone(),
            addresses: ipam.map(|ipam| ipam.declared.clone()).unwrap_or_default(),
            gateways: ipam.map(|ipam| ipam.gateways.clone()).unwrap_or_default(),
            delegate: network.delegate().map(own_keys),
            ..Self::of_choice(network)
        }
    }

    /// Verifies a decision outside of an ADD: as an ADD that gets the recorded candidates, or else the first ones.
    /// `is_held` says whether a gateway is somebody's address in any network.
    ///
    /// # Errors
    /// The first reason why an ADD does not use it ([`AttachError::refusal`]), or why `is_held` cannot say.
    pub fn judge(
        &self,
        policy: &str,
        request: &Request,
        decision: &Decision,
        is_held: &mut dyn FnMut(IpAddr) -> Result<bool, AttachError>,
    ) -> Result<Judged, AttachError> {
        let judged = self.judge_before_claim(policy, request, decision, is_held)?;
        if let Some(plan) = self.plan(request, &judged.verified)? {
            check_plan(policy, &plan, request, self.named(), &judged.free_gateways)?;
        }
        Ok(judged)
    }

    /// Verifies a decision without the plan that it leads to: an ADD makes the plan when it knows which candidates it
    /// got, and then checks it ([`check_plan`]).
    pub(super) fn judge_before_claim(
        &self,
        policy: &str,
        request: &Request,
        decision: &Decision,
        is_held: &mut dyn FnMut(IpAddr) -> Result<bool, AttachError>,
    ) -> Result<Judged, AttachError> {
        let verified = policy::verify(policy, decision, request, &self.addresses)?;
        let free_gateways = self.free_gateways(policy, request, &verified, is_held)?;
        policy::verify_routes(policy, &verified, request, &self.routes, self.named())?;
        Ok(Judged { verified, free_gateways })
    }

    fn named(&self) -> Named<'_> {
        Named { addresses: &self.addresses, gateways: &self.gateways }
    }

    fn free_gateways(
        &self,
        policy: &str,
        request: &Request,
        verified: &Verified,
        is_held: &mut dyn FnMut(IpAddr) -> Result<bool, AttachError>,
    ) -> Result<Vec<IpAddr>, AttachError> {
        let mut free = Vec::new();
        for gateway in policy::verify_gateways(policy, verified, request, self.named())? {
            if is_held(gateway)? {
                return Err(policy::claimed_gateway(policy, gateway).into());
            }
            free.push(gateway);
        }
        let takes_default = self.delegate.as_ref().is_some_and(|delegate| kind(delegate) == "bridge");
        let without = verified.wants.iter().filter(|want| takes_default && want.gateway.is_none());
        for (candidate, _range) in without.flat_map(|want| &want.candidates) {
            if let Some(gateway) = first_host(*candidate).filter(|gateway| !free.contains(gateway))
                && !is_held(gateway)?
            {
                free.push(gateway);
            }
        }
        Ok(free)
    }

    /// Returns the delegate's plan for the candidates that an ADD gets, as far as it can be made without looking at the
    /// host.
    fn plan(&self, request: &Request, verified: &Verified) -> Result<Option<Plan>, AttachError> {
        let Some(conf) = self.delegate.as_ref().and_then(|conf| Object::from_value(conf.clone()).ok()) else {
            return Ok(None);
        };
        let Some(delegate) = delegate::find(kind(conf.as_value())) else { return Ok(None) };
        let ips = verified.wants.iter().filter_map(|want| {
            let mut candidates = want.candidates.iter().map(|(address, _range)| *address);
            let got = candidates.clone().find(|address| self.claimed.contains(address)).or_else(|| candidates.next());
            Some(Given { address: got?, gateway: want.gateway })
        });
        let addressing =
            Addressing { ips: ips.collect(), routes: verified.routes.clone(), unique: true, ..Addressing::default() };
        let planned = delegate.plan(&Input {
            conf: &conf,
            attachment: &request.attachment,
            cni_args: &request.cni_args,
            addressing: Some(&addressing),
            previous: None,
            observed: &Observed::default(),
            dns: None,
            beside: &[],
            fresh_ifname: "",
            fresh_mac: Mac([0; 6]),
        });
        match planned {
            Ok(plan) => Ok(Some(plan)),
            Err(error @ DelegateError::Addressing(_)) => Err(error.into()),
            // A parent link that nobody looked for, or a mistake of the operator's: not the decision's fault.
            Err(DelegateError::Host(_) | DelegateError::Conf(_)) => Ok(None),
        }
    }
}

/// Refuses a plan that puts an address on the host which a policy may not put there.
pub(super) fn check_plan(
    policy: &str,
    plan: &Plan,
    request: &Request,
    named: Named<'_>,
    free_gateways: &[IpAddr],
) -> Result<(), AttachError> {
    let on_host = plan.ops.iter().filter_map(|op| match op {
        Op::EnsureAddress { address, .. } => Some(address.addr()),
        Op::AddAddress { link, address } if link.side == Side::Host => Some(address.addr()),
        _ => None,
    });
    let undeclared = policy::verify_host_addresses(policy, on_host, request, named)?;
    match undeclared.into_iter().find(|address| !free_gateways.contains(address)) {
        Some(held) => Err(policy::claimed_gateway(policy, held).into()),
        None => Ok(()),
    }
}

/// Returns a delegate's `type` and own keys: under a stock plugin's name, its configuration is the whole network's.
fn own_keys(conf: &DelegateConf) -> Value {
    let keys = delegate::find(&conf.kind).map(delegate::Delegate::keys).unwrap_or_default();
    let own = |(key, _value): &(&String, &Value)| keys.iter().any(|known| known.eq_ignore_ascii_case(key));
    let all = conf.conf.as_value().as_object().into_iter().flatten();
    let mut kept: Map<String, Value> = all.filter(own).map(|(key, value)| (key.clone(), value.clone())).collect();
    kept.insert("type".to_owned(), Value::String(conf.kind.clone()));
    Value::Object(kept)
}

fn kind(delegate: &Value) -> &str {
    delegate.get("type").and_then(Value::as_str).unwrap_or_default()
}
