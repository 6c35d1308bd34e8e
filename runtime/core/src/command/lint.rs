//! Finds what is wrong with a configuration before a pod meets it. STATUS and `weftctl policy check` both ask here.

use weft_host_abi::types::Problem;

use super::call::Call;
use super::{CommandError, Context, choose, decide, steps};
use crate::cni::{Environment, Verb};
use crate::conf::{Network, Persona};
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
    let found = Call::new(context, persona, env, stdin, &mut log).and_then(|mut call| check(&mut call));
    found.unwrap_or_else(|error| vec![Problem { at: String::new(), message: error.chain() }])
}

fn check(call: &mut Call<'_>) -> Result<Problems, CommandError> {
    let Some(select) = call.network.select.clone() else {
        delegate_conf(&call.network, &call.pairs)?;
        steps::validate(call)?;
        return policy_conf(call);
    };
    steps::validate(call)?;
    let policy = choose::load(call, &select)?;
    let mut problems = policy.validate(&select.text, &select.candidates(), &decide::limits(call))?;
    // What can be set in the others shows when they are chosen.
    for network in choose::fixed(call)? {
        delegate_conf(&network, &call.pairs)?;
        call.network = network;
        let found = policy_conf(call)?;
        problems.extend(found.into_iter().filter(|problem| !problems.contains(problem)).collect::<Vec<_>>());
    }
    Ok(problems)
}

/// The delegate's own opinion.
pub(super) fn delegate_conf(network: &Network, cni_args: &[(String, String)]) -> Result<(), CommandError> {
    if let Some(conf) = &network.delegate
        && let Some(delegate) = delegate::find(&conf.kind)
    {
        delegate.validate(&conf.conf, cni_args)?;
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
