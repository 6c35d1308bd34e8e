//! ADD through another plugin, which provides the addresses or makes the whole link. Order: intent, plugin, plan,
//! journal, links.

use super::call::Call;
use super::error::AttachError;
use super::fallback::Standing;
use super::finish::{self, Work, Written};
use super::node::Node;
use super::stage::Stage;
use super::{entry, external, result, steps};
use crate::cni::CniResult;
use crate::delegate::{Addressing, Given};
use crate::journal::Record;
use crate::netlink::Executor;

/// Makes an attachment with addresses from an external IPAM plugin.
pub(super) fn by_ipam(
    node: &mut Node<'_>,
    call: &Call,
    (stage, executor): (Stage<'_>, Option<Executor>),
    plugin: &str,
) -> Result<CniResult, AttachError> {
    let conf = external::ipam_conf(call);
    let intent = external::intent(call, plugin, &conf)?;
    entry::write(call, node.store()?, intent.clone())?;
    finish::finish(node, call, Work::new(executor, Written::Entry), |node, work| {
        node.logger().info(&format!("asks the plugin {plugin:?} for addresses"));
        let given = external::add(call, plugin, &conf)?;
        let addressing = Addressing {
            ips: given.ips.iter().map(|ip| Given { address: ip.address, gateway: ip.gateway }).collect(),
            routes: given.routes,
            dns: given.dns,
            unique: false,
            probe_ms: None,
        };
        let plan = stage.plan(call, Some(&addressing))?;
        let record = Record { externals: intent.externals, ..entry::record(call, &plan, None)? };
        node.store()?.update_record(&call.key(), &record)?;
        work.apply(&plan)?;
        result::of_plan(call, &plan, work.applied())
    })
}

/// Lets an external delegate make the link. Its IPAM calls weft back under the name `weft-ipam` if the network's policy
/// is ours.
pub(super) fn by_delegate(node: &mut Node<'_>, call: &Call) -> Result<CniResult, AttachError> {
    let (plugin, conf) = external::delegate_conf(call)?;
    if let Some(ipam) = &call.network.ipam
        && ipam.kind.is_policy()
    {
        // If neither the policy nor its fallback loads, fail before anything changes.
        Standing::load(node, call)?;
    }
    let intent = external::intent(call, &plugin, &conf)?;
    entry::write(call, node.store()?, intent.clone())?;
    finish::finish(node, call, Work::new(None, Written::Entry), |node, work| {
        node.logger().info(&format!("has the plugin {plugin:?} make the interface"));
        let made = external::add(call, &plugin, &conf)?;
        if call.network.steps.is_empty() {
            return Ok(made);
        }
        let Some(planned) = steps::plan_on(node.context, call, Some(&made))? else { return Ok(made) };
        let plan = serde_json::to_string(&planned.plan).map_err(AttachError::Encode)?;
        let record = Record { plan, shared: entry::shared_names(call, &planned.plan), ..intent };
        node.store()?.update_record(&call.key(), &record)?;
        work.open(planned.executor);
        work.apply(&planned.plan)?;
        Ok(steps::changed(call, made, &planned.plan, planned.changes, work.applied()))
    })
}
