//! Finds what is wrong with a configuration before a pod meets it. STATUS and `weftctl policy check` both ask here.

use weft_host_abi::types::Problem;

use super::call::Call;
use super::{CommandError, Context, decide, steps};
use crate::cni::{Environment, Verb};
use crate::conf::Persona;
use crate::delegate;

/// Problems of a configuration; empty when there is none.
pub type Problems = Vec<Problem>;

/// Checks the configuration of one plugin as ADD would read it, without a container.
#[must_use]
pub fn check_conf(context: &Context, persona: Persona, stdin: &[u8]) -> Problems {
    let env = Environment {
        verb: Verb::Add,
        container_id: String::new(),
        netns: String::new(),
        ifname: String::new(),
        args: String::new(),
        path: Vec::new(),
        netns_override: false,
    };
    let mut log = String::new();
    let found = Call::new(context, persona, env, stdin, &mut log).and_then(|call| {
        delegate_conf(&call)?;
        steps::validate(&call)?;
        policy_conf(&call)
    });
    found.unwrap_or_else(|error| vec![Problem { at: String::new(), message: error.chain() }])
}

/// The delegate's own opinion.
pub(super) fn delegate_conf(call: &Call<'_>) -> Result<(), CommandError> {
    if let Some(conf) = &call.network.delegate
        && let Some(delegate) = delegate::find(&conf.kind)
    {
        delegate.validate(&conf.conf, &call.pairs)?;
    }
    Ok(())
}

/// The policy's own opinion; none where another plugin does IPAM.
pub(super) fn policy_conf(call: &Call<'_>) -> Result<Problems, CommandError> {
    let Some(ipam) = call.network.ipam.as_ref().filter(|ipam| ipam.kind.is_policy()) else {
        return Ok(Vec::new());
    };
    let policy = decide::load(call)?;
    Ok(policy.validate(&ipam.text, &decide::limits(call))?)
}
