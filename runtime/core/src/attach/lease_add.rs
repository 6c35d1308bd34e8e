//! ADD with addresses by DHCP. The usual order is reversed: the link is made first, and the node's agent asks a server
//! through it.
//!
//! Such an ADD has two plans. The first has the link alone; it is in the journal, with the lease to be requested,
//! before anything changes. The second adds the addresses. It replaces the first in the journal before they are put on
//! the link, and its additional ops are applied on top. On failure the lease is given back while the link exists, and
//! then the link is undone. DEL uses the same order, whereas the stock bridge deletes the link first, so that the
//! server never receives a release.

use super::call::Call;
use super::error::AttachError;
use super::finish::{self, Work, Written};
use super::node::Node;
use super::stage::Stage;
use super::{entry, lease, result};
use crate::cni::CniResult;
use crate::delegate::{Addressing, Given};
use crate::netlink::Executor;

pub(super) fn add(
    node: &mut Node<'_>,
    call: &Call,
    stage: &Stage<'_>,
    executor: Option<Executor>,
) -> Result<CniResult, AttachError> {
    let links = stage.links(call)?;
    let agent_lease = call.lease().ok_or(AttachError::NoPlan)?;
    // Check this before anything changes: without the agent, everything would be undone again.
    lease::check_agent(call, &agent_lease)?;
    let written = match entry::write(call, node.store()?, entry::record(call, &links, None)?) {
        Ok(()) => Written::Entry,
        // IPAM alone: the stock plugin repeats the running lease.
        Err(AttachError::Exists { .. }) if executor.is_none() => Written::Nothing,
        Err(error) => return Err(error),
    };
    let work = Work::new(executor, written).leases(agent_lease);
    finish::finish(node, call, work, |node, work| {
        work.apply(&links)?;
        node.logger().info("asks weftctl agent for a DHCP lease");
        let leased = lease::allocate(call)?;
        let addressing = Addressing {
            ips: leased.ips.iter().map(|&(address, gateway)| Given { address, gateway }).collect(),
            routes: leased.routes,
            dns: leased.dns,
            unique: false,
            probe_ms: None,
        };
        let mut plan = stage.plan(call, Some(&addressing))?;
        // Some stock plugins drop the DNS of IPAM; their DHCP plugin has none to drop.
        if call.network.dns.is_none() {
            plan.result.dns = addressing.dns;
        }
        node.store()?.update_record(&call.key(), &entry::record(call, &plan, None)?)?;
        work.apply(&plan.remaining_after(&links))?;
        result::of_plan(call, &plan, work.applied())
    })
}
