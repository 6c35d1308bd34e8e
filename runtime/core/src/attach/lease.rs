//! The DHCP lease of an attachment: requests to the node's agent. `lease_add` has the flow of ADD.
//!
//! An absent agent makes an ADD fail, but not a DEL: the lease expires, and the agent forgets it once its link is gone.

use std::path::Path;
use std::time::Duration;

use weft_host_abi::types::Attachment;

use super::call::Call;
use super::error::AttachError;
use super::error_text::in_full;
use super::node::Log;
use crate::agent::lease::{Reply, Request};
use crate::agent::{self, AgentError, Allocate, Lease, Leased};
use crate::conf::{DhcpConf, IpamKind};
use crate::plan::{AgentLease, Plan};

/// How long DEL waits for the agent. The agent sends releases to servers within half of that.
const RELEASE_LIMIT: Duration = Duration::from_secs(10);
/// How long CHECK waits.
const LOOK_LIMIT: Duration = Duration::from_secs(10);

/// Checks that an agent is reachable.
pub(super) fn check_agent(call: &Call, lease: &AgentLease) -> Result<(), AttachError> {
    agent::check_reachable::<Lease>(&lease.socket).map_err(|error| failed(call, error))
}

/// Asks for a lease.
pub(super) fn allocate(call: &Call) -> Result<Leased, AttachError> {
    let conf = call.dhcp().ok_or(AttachError::NoIpam)?;
    let netns = Path::new(&call.env.netns).to_owned();
    let ask = Allocate { attachment: call.attachment(), netns, wish: conf.wish.clone() };
    match agent::ask::<Lease>(&conf.socket, &Request::Allocate(ask), None) {
        Ok(Reply::Leased(leased)) => Ok(leased),
        Ok(_other) => Err(AttachError::NoPlan),
        Err(error) => Err(failed(call, error)),
    }
}

/// Uses the stock plugin's texts under a stock plugin's name.
fn failed(call: &Call, error: AgentError) -> AttachError {
    if call.persona.is_stock() { AttachError::StockAgent(error) } else { AttachError::Agent(error) }
}

/// CHECK: verifies that the lease is running.
pub(super) fn check(attachment: &Attachment, plan: &Plan) -> Result<(), AttachError> {
    let Some(lease) = &plan.lease else { return Ok(()) };
    agent::ask::<Lease>(&lease.socket, &Request::Check(attachment.clone()), Some(LOOK_LIMIT))?;
    Ok(())
}

/// Gives the lease back while the link exists. DEL continues whatever the agent does.
pub(super) fn release(log: &mut Log, attachment: &Attachment, lease: Option<&AgentLease>) {
    let Some(AgentLease { socket }) = lease else { return };
    if let Err(error) = agent::ask::<Lease>(socket, &Request::Release(attachment.clone()), Some(RELEASE_LIMIT)) {
        let Attachment { network, container_id, ifname } = attachment;
        log.line(&format!(
            "the DHCP lease of {ifname} of container {container_id} on {network:?} was not given back and ends by itself: {}",
            in_full(&error)
        ));
    }
}

/// DEL of IPAM alone, for an attachment that the journal does not know but the agent may.
pub(super) fn release_unknown(log: &mut Log, call: &Call) {
    let ipam = call.network.ipam.as_ref().filter(|ipam| call.persona.is_ipam() && ipam.kind == IpamKind::Dhcp);
    if let Some(socket) = ipam.and_then(|ipam| DhcpConf::socket(&ipam.object).ok()) {
        release(log, &call.attachment(), Some(&AgentLease { socket }));
    }
}

/// STATUS: checks that the agent answers.
pub(super) fn status(call: &Call) -> Result<(), AttachError> {
    let conf = call.dhcp().ok_or(AttachError::NoIpam)?;
    match agent::ask::<Lease>(&conf.socket, &Request::Status, Some(call.time_left(agent::STATUS_LIMIT))) {
        Ok(_status) => Ok(()),
        Err(error) => Err(AttachError::NotReady { reason: in_full(&error) }),
    }
}
