//! Addresses by DHCP. The other way round than usual: the link is made first, and through it the node's agent asks a server.
//!
//! So an ADD has two plans. The first is the link alone; it is in the journal, with the lease that will be asked for, before
//! anything changes. The second has the addresses too; it replaces the first in the journal before they are put on the link,
//! and what it has beyond the first is applied on top. Whatever fails, the lease is given back while the link is there, and
//! then the link is undone. DEL does it in the same order, where the stock bridge deletes the link first and the server never
//! hears of it.
//!
//! An agent that is away fails an ADD, and not a DEL: the lease ends by itself, and the agent forgets what has no link.

use std::path::Path;
use std::time::Duration;

use weft_host_abi::types::Attachment;

use super::add::{give_back, journal};
use super::call::Call;
use super::error::in_full;
use super::stage::Stage;
use super::{CommandError, result};
use crate::agent::{self, AgentError, Allocate, Leased, Reply, Request};
use crate::conf::{DhcpConf, IpamKind};
use crate::delegate::{Addressing, Given};
use crate::ledger::NodeStore;
use crate::netlink::{Applied, ApplyError, Executor};
use crate::plan::{AgentLease, Plan};

/// How long DEL waits for the agent. The agent says goodbye to servers within half of that.
const RELEASE_LIMIT: Duration = Duration::from_secs(10);
/// How long CHECK and STATUS wait.
const LOOK_LIMIT: Duration = Duration::from_secs(10);

/// Whether a DHCP server gives the addresses of this attachment.
pub(super) fn is_wanted(call: &Call<'_>, stage: &Stage) -> bool {
    !stage.ignores_ipam() && conf(call).is_some()
}

/// What a plan of this call says about its lease.
pub(super) fn of(call: &Call<'_>) -> Option<AgentLease> {
    conf(call).map(|conf| AgentLease { socket: conf.socket.clone() })
}

fn conf<'a>(call: &'a Call<'_>) -> Option<&'a DhcpConf> {
    call.network.ipam.as_ref().and_then(|ipam| ipam.dhcp.as_ref())
}

/// ADD.
pub(super) fn add(call: &mut Call<'_>, stage: &mut Stage, store: &mut NodeStore) -> Result<String, CommandError> {
    let links = stage.links(call)?;
    let lease = of(call).ok_or(CommandError::NoPlan)?;
    // Before anything changes: without the agent it would all be undone again.
    agent::reach(&lease.socket).map_err(|error| told(call, error))?;
    let fresh = match journal(call, store, || Stage::record(call, &links, None)) {
        Ok(()) => true,
        // IPAM alone: the stock plugin tells the running lease again.
        Err(CommandError::Exists { .. }) if stage.executor.is_none() => false,
        Err(error) => return Err(error),
    };
    let mut applied = Applied::default();
    let cause = match get(call, stage, store, &links, &mut applied) {
        Ok(document) => return Ok(document),
        Err(cause) => cause,
    };
    if !fresh {
        return Err(cause);
    }
    release(call, &call.attachment(), Some(&lease));
    let undone = stage.executor.as_mut().map(|executor| executor.undo(applied)).unwrap_or_default();
    Err(give_back(call, store, cause, undone.iter().map(|left| in_full(left)).collect()))
}

/// The link, the lease, the addresses, the result. `applied` has what there is to undo, whatever happens.
fn get(
    call: &Call<'_>,
    stage: &mut Stage,
    store: &mut NodeStore,
    links: &Plan,
    applied: &mut Applied,
) -> Result<String, CommandError> {
    if let Some(executor) = &mut stage.executor {
        extend(executor, applied, links)?;
    }
    let leased = allocate(call)?;
    let addressing = Addressing {
        ips: leased.ips.iter().map(|&(address, gateway)| Given { address, gateway }).collect(),
        routes: leased.routes,
        dns: leased.dns,
        unique: false,
    };
    let mut plan = stage.plan(call, Some(&addressing))?;
    // Some stock plugins drop the DNS of IPAM; their DHCP plugin has none to drop.
    if call.network.dns.is_none() {
        plan.result.dns = addressing.dns;
    }
    store.update_record(&call.key(), &Stage::record(call, &plan, None)?)?;
    let Some(executor) = &mut stage.executor else { return result::render(call, &plan, None) };
    extend(executor, applied, &plan.beyond(links))?;
    result::render(call, &plan, Some(applied))
}

fn extend(executor: &mut Executor, applied: &mut Applied, plan: &Plan) -> Result<(), CommandError> {
    executor
        .extend(applied, plan)
        .map_err(|ApplyError { op, cause, .. }| CommandError::Op { op: op.into(), source: cause })
}

fn allocate(call: &Call<'_>) -> Result<Leased, CommandError> {
    let conf = conf(call).ok_or(CommandError::NoIpam)?;
    let netns = Path::new(&call.env.netns).to_owned();
    let ask = Allocate { attachment: call.attachment(), netns, wish: conf.wish.clone() };
    match agent::ask(&conf.socket, &Request::Allocate(ask), None) {
        Ok(Reply::Leased(leased)) => Ok(leased),
        Ok(_other) => Err(CommandError::NoPlan),
        Err(error) => Err(told(call, error)),
    }
}

/// Under a stock plugin's name, its texts.
fn told(call: &Call<'_>, error: AgentError) -> CommandError {
    if call.persona.is_stock() { CommandError::StockAgent(error) } else { CommandError::Agent(error) }
}

/// CHECK: the lease is running.
pub(super) fn check(attachment: &Attachment, plan: &Plan) -> Result<(), CommandError> {
    let Some(lease) = &plan.lease else { return Ok(()) };
    agent::ask(&lease.socket, &Request::Check(attachment.clone()), Some(LOOK_LIMIT))?;
    Ok(())
}

/// Gives the lease back, while the link is there. Whatever is wrong with the agent, DEL goes on.
pub(super) fn release(call: &mut Call<'_>, attachment: &Attachment, lease: Option<&AgentLease>) {
    let Some(AgentLease { socket }) = lease else { return };
    if let Err(error) = agent::ask(socket, &Request::Release(attachment.clone()), Some(RELEASE_LIMIT)) {
        let Attachment { network, container_id, ifname } = attachment;
        call.say(&format!(
            "the DHCP lease of {ifname} of container {container_id} on {network:?} was not given back and ends by itself: {}",
            in_full(&error)
        ));
    }
}

/// DEL of IPAM alone that the journal does not know: the agent may.
pub(super) fn release_unknown(call: &mut Call<'_>) {
    let ipam = call.network.ipam.as_ref().filter(|ipam| call.persona.is_ipam() && ipam.kind == IpamKind::Dhcp);
    if let Some(socket) = ipam.and_then(|ipam| DhcpConf::socket(&ipam.object).ok()) {
        release(call, &call.attachment(), Some(&AgentLease { socket }));
    }
}

/// STATUS: the agent is there.
pub(super) fn status(call: &Call<'_>) -> Result<(), CommandError> {
    let conf = conf(call).ok_or(CommandError::NoIpam)?;
    match agent::ask(&conf.socket, &Request::Status, Some(LOOK_LIMIT)) {
        Ok(_status) => Ok(()),
        Err(error) => Err(CommandError::NotReady { reason: in_full(&error) }),
    }
}
