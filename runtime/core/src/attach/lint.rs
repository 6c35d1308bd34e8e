//! Finds mistakes in a configuration before a pod runs into them. Used by STATUS and `weftctl policy check`.

use std::path::PathBuf;

use weft_host_abi::types::{Denial, Problem};

use super::call::Call;
use super::error::AttachError;
use super::node::{Context, Node};
use super::{decide, ipam_keys, monitor, policies, pool, preflight, steps};
use crate::cni::{Environment, Verb};
use crate::conf::{IpamKind, Network, Persona, SelectConf};
use crate::delegate;
use crate::exec;
use crate::keys::did_you_mean;

/// The problems of a configuration; empty if there are none.
pub type Problems = Vec<Problem>;

/// What a configuration is checked against, besides itself.
#[derive(Debug, Clone, Default)]
pub struct HostChecks {
    /// Directories of other plugins. If empty, missing plugins are not reported.
    pub path: Vec<PathBuf>,
    /// Whether to look at the links of this host, as an ADD would find them.
    pub host: bool,
}

/// Checks the configuration of one plugin as ADD would read it, without a container.
#[must_use]
pub fn check_conf(context: &Context, persona: Persona, stdin: &[u8], checks: &HostChecks) -> Problems {
    let read = |verb| Call::read(context, persona, environment(verb, checks), stdin);
    let mut node = Node::new(context);
    match read(Verb::Add) {
        Ok(call) => check(&mut node, &call, checks),
        Err(error) => {
            let mut problems = split_error(error);
            // `ipam` can be checked even if the rest is wrong.
            if let Ok(call) = read(Verb::Del)
                && call.network.ipam.as_ref().is_some_and(|ipam| ipam.kind.is_policy())
                && let Ok(policy) = policies::load(&node, &call)
            {
                problems.extend(ipam_keys::unknown_problems(&call, &policy));
            }
            problems
        }
    }
}

fn environment(verb: Verb, checks: &HostChecks) -> Environment {
    Environment {
        verb,
        container_id: "policy-check".to_owned(),
        netns: String::new(),
        ifname: "eth0".to_owned(),
        args: String::new(),
        path: checks.path.clone(),
        netns_override: false,
    }
}

/// Splits an error into problems, one per mistake of a configuration.
fn split_error(error: AttachError) -> Problems {
    let problem = |message| Problem { at: String::new(), message };
    match error {
        AttachError::Conf(error) => error.into_errors().iter().map(|error| problem(error.to_string())).collect(),
        other => vec![problem(other.chain())],
    }
}

fn check(node: &mut Node<'_>, call: &Call, checks: &HostChecks) -> Problems {
    let mut problems = steps::validate(call).err().map(split_error).unwrap_or_default();
    let Some(select) = call.network.select() else {
        problems.extend(of_network(node, call, checks));
        return problems;
    };
    match select_conf(node, call, select) {
        Ok(found) => problems.extend(found),
        Err(error) => return problems.into_iter().chain(split_error(error)).collect(),
    }
    if let Some(monitored) = select.monitored() {
        problems.extend(select_conf(node, call, &monitored).unwrap_or_else(split_error));
    }
    // Mistakes in the others show up when they are chosen.
    match fixed(node.context, call) {
        Ok(networks) => {
            for network in networks {
                let found = of_network(node, &call.with_conf(call.conf.clone(), network), checks);
                problems.extend(found.into_iter().filter(|problem| !problems.contains(problem)).collect::<Vec<_>>());
            }
        }
        Err(error) => problems.extend(split_error(error)),
    }
    problems
}

/// Returns the problems found by the policy that picks the delegate, and its schema.
fn select_conf(node: &Node<'_>, call: &Call, select: &SelectConf) -> Result<Problems, AttachError> {
    let policy = policies::load_choice(node, call, select)?;
    let problems = match ipam_keys::select_problems(&call.network, select, &policy) {
        Ok(problems) => problems,
        Err(error) => return Ok(split_error(error.into())),
    };
    Ok(problems.into_iter().map(|problem| with_path("select", select.path(), problem)).collect())
}

/// Returns a problem with its place in the configuration. Places are relative to `usual`, except those in an object of
/// `monitor`.
fn with_path(usual: &str, place: &str, problem: Problem) -> Problem {
    let outer = if place == usual { String::new() } else { format!("/{}", place.replace('.', "/")) };
    Problem { at: format!("{outer}{}", problem.at), ..problem }
}

/// Returns the networks of the delegates that have no settings.
fn fixed(context: &Context, call: &Call) -> Result<Vec<Network>, AttachError> {
    let confs = call.network.select().into_iter().flat_map(SelectConf::fixed_confs);
    let read = |conf| call.network.chosen(&conf, &call.pairs, &|name| context.has_policy(name));
    Ok(confs.map(read).collect::<Result<_, _>>()?)
}

/// Returns all problems of a network whose delegate is known.
fn of_network(node: &mut Node<'_>, call: &Call, checks: &HostChecks) -> Problems {
    let mut problems = delegate_conf(&call.network, &call.pairs).err().map(split_error).unwrap_or_default();
    problems.extend(missing_plugins(node.context, call, checks));
    problems.extend(policy_conf(node, call).unwrap_or_else(split_error));
    if let Some(monitored) = monitor::monitored(call) {
        problems.extend(policy_conf(node, &monitored).unwrap_or_else(split_error));
    }
    // After a mistake in the configuration, its consequences are not listed.
    if problems.is_empty() {
        problems.extend(decision(node, call).err().map(split_error).unwrap_or_default());
    }
    if problems.is_empty() && checks.host {
        problems.extend(preflight::of_host(node, call).err().map(split_error).unwrap_or_default());
    }
    problems
}

/// Asks the delegate to check its configuration.
pub(super) fn delegate_conf(network: &Network, cni_args: &[(String, String)]) -> Result<(), AttachError> {
    if let Some(conf) = network.delegate()
        && let Some(delegate) = delegate::find(&conf.kind)
    {
        delegate.validate(&conf.conf, cni_args)?;
    }
    Ok(())
}

/// Returns plugins of `delegate.type` and `ipam.type` that are neither weft's nor in the path.
fn missing_plugins(context: &Context, call: &Call, checks: &HostChecks) -> Problems {
    let mut problems = Vec::new();
    let mut check_plugin = |key: &str, kind: &str, known: Vec<String>| {
        if checks.path.is_empty() || exec::find(kind, &checks.path).is_ok() {
            return;
        }
        let hint = match did_you_mean(kind, known.iter().map(String::as_str)) {
            Some(meant) => format!("did you mean {meant:?}?"),
            None => format!("weft has {}", known.join(", ")),
        };
        let dirs = checks.path.iter().map(|dir| dir.display().to_string()).collect::<Vec<_>>().join(", ");
        let message = format!("{key} is {kind:?}, which is neither weft's nor a plugin in {dirs}: {hint}");
        problems.push(Problem { at: String::new(), message });
    };
    if let Some(delegate) = call.network.external_delegate() {
        check_plugin("delegate.type", &delegate.kind, delegate::kinds().map(str::to_owned).collect());
    }
    if let Some(IpamKind::External(kind)) = call.network.ipam.as_ref().map(|ipam| &ipam.kind) {
        let shipped = policies::installed(context);
        let known = shipped.into_iter().chain(["wasm".to_owned(), "dhcp".to_owned()]).collect();
        check_plugin("ipam.type", kind, known);
    }
    problems
}

/// Returns the problems found by the policy and its schema; none if another plugin does IPAM.
fn policy_conf(node: &Node<'_>, call: &Call) -> Result<Problems, AttachError> {
    let Some(ipam) = call.network.ipam.as_ref().filter(|ipam| ipam.kind.is_policy()) else {
        return Ok(Vec::new());
    };
    let policy = policies::load(node, call)?;
    if pool::is_open(call) {
        return Ok(ipam_keys::unknown_problems(call, &policy));
    }
    let problems = ipam_keys::ipam_problems(call.persona, &call.network, &policy)?;
    Ok(problems.into_iter().map(|problem| with_path("ipam", ipam.path(), problem)).collect())
}

/// Decides for a pod without labels on an empty node: a decision that the host refuses there would be refused for every
/// pod. A refusal of that pod is no mistake.
fn decision(node: &mut Node<'_>, call: &Call) -> Result<(), AttachError> {
    if !call.network.ipam.as_ref().is_some_and(|ipam| ipam.kind.is_policy()) || pool::is_open(call) {
        return Ok(());
    }
    let policy = policies::load(node, call)?;
    let request = decide::request(node.context, call, None, crate::facts::now()?)?;
    match decide::decide(call, &policy, None, request, &mut node.log) {
        Err(AttachError::Denied { denial: Denial::Denied(_) | Denial::Exhausted(_) | Denial::TryAgain(_), .. }) => {
            Ok(())
        }
        other => other.map(drop),
    }
}
