//! ADD with addresses by DHCP. The other way round than usual: the link is made first, and through it the node's agent asks a
//! server.
//!
//! So an ADD has two plans. The first is the link alone; it is in the journal, with the lease that will be asked for, before
//! anything changes. The second has the addresses too; it replaces the first in the journal before they are put on the link,
//! and what it has beyond the first is applied on top. On failure the lease is given back while the link is there, and
//! then the link is undone. DEL does it in the same order, where the stock bridge deletes the link first and the server never
//! hears of it.

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
    // Before anything changes: without the agent it would all be undone again.
    lease::reach(call, &agent_lease)?;
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
        work.apply(&plan.beyond(&links))?;
        result::of_plan(call, &plan, work.applied())
    })
}
