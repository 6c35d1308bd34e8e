//! Plans steps: as ops added to a delegate's plan (`extend`), or as a plan of their own on an existing link
//! (`plan_on`).

use std::path::Path;

use super::call::Call;
use super::error::AttachError;
use super::node::Context;
use crate::cni::{CniResult, Interface, Object};
use crate::netlink::{self, Applied, Executor};
use crate::plan::{LinkRef, Mac, Need, Observed, Op, Plan, ResultShape, ShapeIp, Side};
use crate::step::{self, Previous, StepInput, StepPlan};
use weft_host_abi::types::{Attachment, Route};

/// Steps planned on an existing link.
pub(super) struct Planned {
    pub(super) executor: Executor,
    pub(super) plan: Plan,
    pub(super) changes: Changes,
}

/// What steps change in the previous result.
pub(super) struct Changes {
    /// The MAC address that the attachment's link will have, if a step sets it.
    mac: Option<Mac>,
    /// The routes, if a step changes them.
    routes: Option<Vec<Route>>,
}

/// Checks the configuration of every step on its own.
pub(super) fn validate(call: &Call) -> Result<(), AttachError> {
    configured_steps(call).try_for_each(|(step, conf)| Ok(step.validate(conf, &call.pairs)?))
}

/// Returns what the steps need to know about the host.
pub(super) fn needs(call: &Call) -> Result<Vec<Need>, AttachError> {
    let attachment = call.attachment();
    let mut needs = Vec::new();
    for (step, conf) in configured_steps(call) {
        step.validate(conf, &call.pairs)?;
        needs.extend(step.needs(conf, &attachment)?);
    }
    Ok(needs)
}

/// Adds the ops of the steps to a delegate's plan.
pub(super) fn extend(call: &Call, plan: &mut Plan, observed: &Observed) -> Result<(), AttachError> {
    if call.network.steps.is_empty() {
        return Ok(());
    }
    let mut previous = Previous {
        interfaces: plan.result.interfaces.clone(),
        ips: plan.result.ips.clone(),
        routes: plan.result.routes.clone(),
    };
    let StepPlan { interfaces, routes, .. } = plan_all(call, Some(&mut previous), &mut plan.ops, observed)?;
    plan.result.interfaces.extend(interfaces);
    if let Some(routes) = routes {
        plan.result.routes = routes;
    }
    Ok(())
}

/// Plans all steps in order; each sees the ops of those before it. `ops` contains the ops that run before the steps,
/// and receives theirs.
fn plan_all(
    call: &Call,
    mut previous: Option<&mut Previous>,
    ops: &mut Vec<Op>,
    observed: &Observed,
) -> Result<StepPlan, AttachError> {
    let attachment = call.attachment();
    let mut all = StepPlan::default();
    for (step, conf) in configured_steps(call) {
        let planned = step.plan(&StepInput {
            conf,
            attachment: &attachment,
            netns: &call.env.netns,
            cni_args: &call.pairs,
            previous: previous.as_deref(),
            before: ops,
            observed,
        })?;
        if let Some(previous) = previous.as_deref_mut() {
            previous.interfaces.extend(planned.interfaces.iter().cloned());
            if let Some(routes) = &planned.routes {
                previous.routes.clone_from(routes);
            }
        }
        ops.extend(planned.ops);
        all.interfaces.extend(planned.interfaces);
        all.mac = planned.mac.or(all.mac);
        all.routes = planned.routes.or(all.routes);
    }
    Ok(all)
}

fn configured_steps(call: &Call) -> impl Iterator<Item = (&'static dyn step::Step, &Object)> {
    call.network.steps.iter().filter_map(|conf| Some((step::find(&conf.kind)?, &conf.conf)))
}

fn previous(result: &CniResult) -> Previous {
    let link = |interface: &Interface| LinkRef {
        side: if interface.sandbox.as_ref().is_some_and(|path| !path.is_empty()) {
            Side::Container
        } else {
            Side::Host
        },
        name: interface.name.clone(),
    };
    Previous {
        interfaces: result.interfaces.iter().map(link).collect(),
        ips: result
            .ips
            .iter()
            .map(|ip| ShapeIp { address: ip.address, gateway: ip.gateway, interface: ip.interface })
            .collect(),
        routes: result.routes.clone(),
    }
}

/// Plans the steps on their own; `None` if there is nothing to do.
pub(super) fn plan_on(
    context: &Context,
    call: &Call,
    before: Option<&CniResult>,
) -> Result<Option<Planned>, AttachError> {
    plan_after(context, call, before, &[])
}

/// Plans the steps after the ops of other plugins that did not run yet, and returns the result as far as it is known.
pub(super) fn preview(
    context: &Context,
    call: &Call,
    before: Option<CniResult>,
    ran: &[Op],
) -> Result<(Plan, Option<CniResult>), AttachError> {
    let Some(Planned { plan, changes, .. }) = plan_after(context, call, before.as_ref(), ran)? else {
        return Ok((Plan::default(), before));
    };
    let result = before.map(|before| changed(call, before, &plan, changes, &Applied::default()));
    Ok((plan, result))
}

fn plan_after(
    context: &Context,
    call: &Call,
    before: Option<&CniResult>,
    ran: &[Op],
) -> Result<Option<Planned>, AttachError> {
    let needs = needs(call)?;
    let mut executor = Executor::open(Some(Path::new(&call.env.netns)))?;
    executor.share_in(&context.state_dir);
    let observed = if needs.is_empty() { Observed::default() } else { executor.observe(&needs)? };
    let mut seen = before.map(previous);
    let mut ops = ran.to_vec();
    let StepPlan { interfaces, mac, routes, .. } = plan_all(call, seen.as_mut(), &mut ops, &observed)?;
    let ops = ops.split_off(ran.len());
    if ops.is_empty() {
        return Ok(None);
    }
    let container = executor.container_identity()?;
    let cookie = executor.container_cookie();
    let found = executor.find_links(&ops)?;
    let Attachment { network, container_id, ifname } = call.attachment();
    let label = netlink::label(&network, &container_id, &ifname);
    let result = ResultShape { interfaces, ..ResultShape::default() };
    let mut plan = Plan { ops, container, cookie, found, result, label, ..Plan::default() };
    (context.plan_hook)(&mut plan);
    Ok(Some(Planned { executor, plan, changes: Changes { mac, routes } }))
}

/// Returns the previous result with the steps' changes.
pub(super) fn changed(
    call: &Call,
    mut result: CniResult,
    plan: &Plan,
    Changes { mac, routes }: Changes,
    applied: &Applied,
) -> CniResult {
    for link in &plan.result.interfaces {
        result.interfaces.push(Interface {
            name: link.name.clone(),
            mac: applied.links.get(link).and_then(|info| info.mac).map(|mac| mac.to_string()),
            sandbox: (link.side == Side::Container).then(|| call.env.netns.clone()),
            ..Interface::default()
        });
    }
    if let Some(mac) = mac {
        for interface in result.interfaces.iter_mut().filter(|interface| interface.name == call.env.ifname) {
            interface.mac = Some(mac.to_string());
        }
    }
    if let Some(routes) = routes {
        result.routes = routes;
    }
    result
}
