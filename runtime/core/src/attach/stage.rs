//! The result of ADD's read-only part: the delegate, the observed host, and how to make a plan from them.

use std::path::Path;

use ipnet::{IpNet, Ipv4Net};

use super::call::Call;
use super::error::AttachError;
use super::node::Context;
use super::{result, steps};
use crate::background::{self, Job};
use crate::cni::{CniError, CniResult};
use crate::delegate::{self, Addressing, Delegate, DelegateError, Given, Input, IpamUse};
use crate::netlink::{self, Executor, Opening};
use crate::plan::{FoundDevice, IpvlanMode, LinkRef, Mac, Need, Observed, Op, Plan, ResultShape, ShapeIp};
use crate::random;

/// A delegate with all its inputs.
pub(super) struct Stage<'a> {
    context: &'a Context,
    delegate: Option<&'static dyn Delegate>,
    /// The previous plugin's result, if the delegate uses it.
    previous: Option<CniResult>,
    observed: Observed,
    /// As in [`Setting`].
    device: Option<String>,
    /// Identity of the container's namespace; `None` for IPAM alone, which touches no link.
    container: Option<String>,
    /// Its cookie.
    cookie: Option<u64>,
    fresh_ifname: String,
    fresh_mac: Mac,
    fresh_index: u32,
}

/// A stage whose namespaces are still being opened and inspected in the background.
pub(super) struct Setting<'a> {
    context: &'a Context,
    delegate: Option<&'static dyn Delegate>,
    previous: Option<CniResult>,
    opening: Option<Opening>,
    /// Name of the host's device that the delegate wants, if it wants one by name.
    device: Option<String>,
}

impl<'a> Setting<'a> {
    /// Waits for the stage and for the executor with the sockets to host and container. The executor is `None` if no
    /// link is touched.
    pub(super) fn wait(self) -> Result<(Stage<'a>, Option<Executor>), AttachError> {
        let (executor, observed) = match self.opening {
            Some(opening) => {
                let (mut executor, observed) = opening.wait()?;
                executor.share_in(&self.context.state_dir);
                (Some(executor), observed)
            }
            None => (None, Observed::default()),
        };
        let container = match &executor {
            Some(executor) => executor.container_identity()?,
            None => None,
        };
        let cookie = executor.as_ref().and_then(Executor::container_cookie);
        let [a, b, c, d, i, j, k, mac @ ..]: [u8; 13] = random::octets();
        let mut mac: [u8; 6] = mac;
        // Locally administered, unicast.
        mac[0] = (mac[0] | 0x02) & 0xfe;
        let stage = Stage {
            context: self.context,
            delegate: self.delegate,
            previous: self.previous,
            observed,
            device: self.device,
            container,
            cookie,
            fresh_ifname: format!("veth{a:02x}{b:02x}{c:02x}{d:02x}"),
            fresh_mac: Mac(mac),
            fresh_index: Plan::chosen_index([i, j, k]),
        };
        Ok((stage, executor))
    }
}

impl<'a> Stage<'a> {
    /// Validates the delegate's configuration, opens the namespaces, and inspects the host. Changes nothing.
    pub(super) fn read(context: &'a Context, call: &Call) -> Result<Self, AttachError> {
        Self::set(context, call, None)?.wait().map(|(stage, _executor)| stage)
    }

    /// Like `read`, but does not wait for the namespaces. The thread that opens them runs a job afterwards: a second
    /// thread would cost more to start than it saves, and compete with the caller for a processor. A job that loads a
    /// policy is dropped if the delegate uses none.
    pub(super) fn set(context: &'a Context, call: &Call, then: Option<Job>) -> Result<Setting<'a>, AttachError> {
        let Some(conf) = call.network.delegate() else {
            if let Some(job) = then {
                // Without a thread, the caller that waits for the job runs it in the foreground.
                background::start("policy", job).ok();
            }
            return Ok(Setting { context, delegate: None, previous: None, opening: None, device: None });
        };
        let delegate = delegate::find(&conf.kind).ok_or_else(|| AttachError::UnknownDelegate(conf.kind.clone()))?;
        delegate.validate(&conf.conf, &call.pairs)?;
        let has_ipam = call.network.ipam.is_some();
        if delegate.ipam() == IpamUse::Required && !has_ipam {
            return Err(AttachError::IpamRequired { delegate: delegate.kind() });
        }
        let previous = if delegate.is_chained() { previous(call)? } else { None };
        let mut needs = delegate.needs(&conf.conf, previous.as_ref())?;
        needs.extend(steps::needs(call)?);
        let then = then.filter(|_load| !ignores_ipam(Some(delegate)));
        let device = needs.iter().find_map(|need| match need {
            Need::Device(query) => query.name.clone(),
            _ => None,
        });
        let opening = Executor::start(Path::new(&call.env.netns), needs, then)?;
        Ok(Setting { context, delegate: Some(delegate), previous, opening: Some(opening), device })
    }

    /// Returns the name of the device that the delegate wants, if the host has no such link.
    pub(super) fn missing_device(&self) -> Option<String> {
        let missing = matches!(self.observed.device, Some(FoundDevice::Missing(_)));
        self.device.clone().filter(|_| missing)
    }

    /// Returns whether the delegate never uses IPAM, whatever the configuration says (loopback).
    pub(super) fn ignores_ipam(&self) -> bool {
        ignores_ipam(self.delegate)
    }

    /// Returns the part of the plan without addresses: the link, up, so that a DHCP server can be reached through it.
    pub(super) fn links(&self, call: &Call) -> Result<Plan, AttachError> {
        let without = self.describe(call, None).ok();
        let plan = match without.filter(|plan| !plan.ops.iter().any(|op| matches!(op, Op::AddAddress { .. }))) {
            Some(plan) => plan,
            None => self.plan_without_addresses(call)?,
        };
        let is_layer_3 = |op: &Op| matches!(op, Op::CreateIpvlan(link) if link.mode != IpvlanMode::L2);
        if plan.ops.iter().any(is_layer_3) {
            let why = "in its layer 3 modes it passes no broadcasts; use mode l2";
            return Err(AttachError::NoDhcp { delegate: "ipvlan", why });
        }
        // Its result is not the attachment's, which has addresses.
        Ok(self.complete(call, Plan { result: ResultShape::default(), ..plan }))
    }

    /// The same for a delegate that plans only with addresses: plans with a placeholder, and returns the part that does
    /// not use it.
    fn plan_without_addresses(&self, call: &Call) -> Result<Plan, AttachError> {
        let stand_in = Given { address: Ipv4Net::default().into(), gateway: None };
        let addressing = Addressing { ips: vec![stand_in], ..Addressing::default() };
        let mut plan = self.describe(call, Some(&addressing)).map_err(|error| match (error, self.delegate) {
            (AttachError::Delegate(DelegateError::Addressing(_)), Some(delegate)) => {
                let why = "it needs their gateway to make its link; use another";
                AttachError::NoDhcp { delegate: delegate.kind(), why }
            }
            (other, _) => other,
        })?;
        let uses = |op: &Op| matches!(op, Op::Sysctl { .. } | Op::AddAddress { .. } | Op::LinkUp { .. });
        plan.ops.truncate(plan.ops.iter().position(uses).unwrap_or(plan.ops.len()));
        plan.ops.push(Op::LinkUp { link: LinkRef::container(call.env.ifname.as_str()) });
        Ok(plan)
    }

    /// Makes a plan from configuration and addresses. Pure. Also checks that the result can be expressed in the
    /// configuration's CNI version before anything changes; the stock plugins find out too late.
    pub(super) fn plan(&self, call: &Call, addressing: Option<&Addressing>) -> Result<Plan, AttachError> {
        let mut plan = self.describe(call, addressing)?;
        steps::extend(call, &mut plan, &self.observed)?;
        let plan = self.complete(call, plan);
        result::preflight(call, &plan)?;
        Ok(plan)
    }

    /// Returns the delegate's plan.
    fn describe(&self, call: &Call, addressing: Option<&Addressing>) -> Result<Plan, AttachError> {
        Ok(match (self.delegate, call.network.delegate()) {
            (Some(delegate), Some(conf)) => delegate.plan(&Input {
                conf: &conf.conf,
                attachment: &call.attachment(),
                cni_args: &call.pairs,
                addressing,
                previous: self.previous.as_ref(),
                observed: &self.observed,
                dns: call.network.dns.as_ref(),
                beside: &declared_gateways(call),
                fresh_ifname: &self.fresh_ifname,
                fresh_mac: self.fresh_mac,
            })?,
            _ => ipam_alone(addressing),
        })
    }

    /// Adds what every plan has.
    fn complete(&self, call: &Call, mut plan: Plan) -> Plan {
        plan.container.clone_from(&self.container);
        plan.cookie = self.cookie;
        plan.link_index = self.container.is_some().then_some(self.fresh_index);
        plan.lease = call.lease();
        let attachment = call.attachment();
        plan.label = netlink::label(&attachment.network, &attachment.container_id, &attachment.ifname);
        (self.context.plan_hook)(&mut plan);
        plan
    }
}

/// Returns the gateways of the network's declared ranges, each with the length of its subnet.
pub(super) fn declared_gateways(call: &Call) -> Vec<IpNet> {
    let ranges = call.network.ipam.iter().flat_map(|ipam| &ipam.range_sets).flat_map(|set| &set.ranges);
    ranges.filter_map(|range| IpNet::new(range.gateway?, range.subnet.prefix_len()).ok()).collect()
}

fn ignores_ipam(delegate: Option<&'static dyn Delegate>) -> bool {
    delegate.is_some_and(|delegate| delegate.ipam() == IpamUse::Never)
}

/// Returns the previous result, for a delegate that builds on it.
fn previous(call: &Call) -> Result<Option<CniResult>, AttachError> {
    let unreadable = |error: CniError| DelegateError::Conf(format!("could not parse prevResult: {}", error.msg));
    Ok(call.previous().map_err(unreadable)?)
}

/// Returns the plan of IPAM alone: no op, and a result without interfaces.
fn ipam_alone(addressing: Option<&Addressing>) -> Plan {
    let Some(addressing) = addressing else { return Plan::default() };
    let ips = addressing
        .ips
        .iter()
        .map(|given| ShapeIp { address: given.address, gateway: given.gateway, interface: None })
        .collect();
    let result =
        ResultShape { ips, routes: addressing.routes.clone(), dns: addressing.dns.clone(), ..ResultShape::default() };
    Plan { result, ..Plan::default() }
}
