//! Finds what is wrong with a configuration before a pod meets it. STATUS and `weftctl policy check` both ask here.

use weft_host_abi::types::Problem;

use super::call::Call;
use super::error::AttachError;
use super::node::{Context, Node};
use super::{policies, steps};
use crate::cni::{Environment, Verb};
use crate::conf::{Network, Persona, SelectConf};
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
    let found = Call::read(context, persona, env, stdin).and_then(|call| check(&Node::new(context), &call));
    found.unwrap_or_else(|error| vec![Problem { at: String::new(), message: error.chain() }])
}

fn check(node: &Node<'_>, call: &Call) -> Result<Problems, AttachError> {
    let Some(select) = &call.network.select else {
        delegate_conf(&call.network, &call.pairs)?;
        steps::validate(call)?;
        return policy_conf(node, call);
    };
    steps::validate(call)?;
    let policy = policies::load_choice(node, call, select)?;
    let mut problems = policy.validate(&select.text, &select.candidates(), &policies::limits(&call.network))?;
    // What can be set in the others shows when they are chosen.
    for network in fixed(node.context, call)? {
        delegate_conf(&network, &call.pairs)?;
        let found = policy_conf(node, &call.with_conf(call.conf.clone(), network))?;
        problems.extend(found.into_iter().filter(|problem| !problems.contains(problem)).collect::<Vec<_>>());
    }
    Ok(problems)
}

/// The networks of the delegates in which nothing can be set.
fn fixed(context: &Context, call: &Call) -> Result<Vec<Network>, AttachError> {
    let confs = call.network.select.iter().flat_map(SelectConf::fixed_confs);
    let read = |conf| call.network.chosen(&conf, &call.pairs, &|name| context.has_policy(name));
    Ok(confs.map(read).collect::<Result<_, _>>()?)
}

/// The delegate's own opinion.
pub(super) fn delegate_conf(network: &Network, cni_args: &[(String, String)]) -> Result<(), AttachError> {
    if let Some(conf) = &network.delegate
        && let Some(delegate) = delegate::find(&conf.kind)
    {
        delegate.validate(&conf.conf, cni_args)?;
    }
    Ok(())
}

/// The policy's own opinion; none where another plugin does IPAM.
fn policy_conf(node: &Node<'_>, call: &Call) -> Result<Problems, AttachError> {
    let Some(ipam) = call.network.ipam.as_ref().filter(|ipam| ipam.kind.is_policy()) else {
        return Ok(Vec::new());
    };
    let policy = policies::load(node, call)?;
    Ok(policy.validate(&ipam.text, &policies::limits(&call.network))?)
}
