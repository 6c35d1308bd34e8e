//! Asks a policy the question of a case: the request is made from the network's configuration, and the answer is
//! judged, as in an ADD.

use std::fs;
use std::net::IpAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};

use anyhow::{Context, bail};
use ipnet::IpNet;
use serde_json::Value;
use weft_core::attach::{self, Asked, AttachError, Rules};
use weft_core::cni::{Object, parse_pairs};
use weft_core::conf::{FileConf, Network, Persona, SelectConf};
use weft_core::facts;
use weft_core::policy::{self, Called, Choice, Evidence, Ipam, Limits, Loaded, ReplayLedger};
use weft_host_abi::types::{
    Attachment, ChoiceRequest, Chosen, ClaimState, Decision, DeclaredFile, LedgerView, Node, Request,
};

use super::case::{Case, CasePod, Recorded};
use super::outcome::{self, Outcome};
use crate::policy::SHIPPED;
use crate::policy::model::{Model, View};

/// A loaded policy of either kind.
#[derive(Debug)]
pub(in crate::policy) enum Policy {
    Ipam(Loaded<Ipam>),
    Choice(Loaded<Choice>),
}

/// The outcome of a case, and its cost.
pub(super) struct Answered {
    pub(super) outcome: Outcome,
    pub(super) evidence: Evidence,
}

/// Asks.
pub(super) fn ask(case: &Case, network: Option<&Value>, policy: &Policy) -> anyhow::Result<Answered> {
    let network = case.network.as_ref().or(network);
    if case.check {
        let network = network.context("the case names no network, and the project has no network.json")?;
        let persona = persona(&of_ours(network)?).unwrap_or(Persona::Weft);
        return check(persona, &read(network, case)?, policy);
    }
    let (question, limits) = question(case, network)?;
    match (policy, &question.asked) {
        (Policy::Ipam(policy), Asked::Addresses(request)) => {
            let called = policy.allocate(request, question.ledger, &limits);
            Ok(decided(policy.name(), request, (&question.rules, question.claims), called))
        }
        (Policy::Choice(policy), Asked::Delegate(request)) => {
            Ok(chosen(policy.name(), request, question.network.as_ref(), policy.choose(request, &limits)))
        }
        (Policy::Ipam(_), Asked::Delegate(_)) => bail!("the case asks for a delegate, and the policy picks addresses"),
        (Policy::Choice(_), Asked::Addresses(_)) => {
            bail!("the case asks for addresses, and the policy picks a delegate")
        }
    }
}

/// A request to a policy, from a case or for a measurement.
pub(in crate::policy) struct Question {
    pub(in crate::policy) asked: Asked,
    pub(in crate::policy) ledger: Box<dyn LedgerView + Send>,
    network: Option<Network>,
    rules: Rules,
    /// The claims; nothing is known of those of a recorded call.
    claims: Option<Model>,
}

/// Returns the question of a case file, and its limits.
pub(in crate::policy) fn question_of(path: &Path, network: Option<&Value>) -> anyhow::Result<(Question, Limits)> {
    let case: Case = serde_json::from_slice(&fs::read(path)?).with_context(|| format!("case {}", path.display()))?;
    if case.check {
        bail!("{} asks for problems of a configuration; name a case that asks for a decision", path.display());
    }
    question(&case, case.network.as_ref().or(network)).with_context(|| format!("case {}", path.display()))
}

fn question(case: &Case, network: Option<&Value>) -> anyhow::Result<(Question, Limits)> {
    if let Some(recorded) = &case.recorded {
        return Ok(of_record(recorded, case, network));
    }
    let network = read(network.context("the case names no network, and the project has no network.json")?, case)?;
    let limits = attach::limits(&network);
    let attachment = Attachment {
        network: network.name.clone(),
        container_id: case.container_id.clone().unwrap_or_else(|| "container".to_owned()),
        ifname: case.ifname.clone().unwrap_or_else(|| "eth0".to_owned()),
    };
    let node = Node { name: case.node.name.clone(), labels: case.node.labels.clone().into_iter().collect() };
    let (asked, claims) = match network.select() {
        Some(select) => (Asked::Delegate(choice(case, &network, select, attachment, node)?), Model::default()),
        None => {
            let (request, model) = addresses(case, &network, attachment, node)?;
            (Asked::Addresses(request), model)
        }
    };
    let ledger = Box::new(View(Arc::new(Mutex::new(claims.clone()))));
    let rules = Rules::from_network(&network);
    Ok((Question { asked, ledger, network: Some(network), rules, claims: Some(claims) }, limits))
}

/// Returns the question of a recorded call. A record without rules is judged by those of the network, if there is one.
fn of_record(recorded: &Recorded, case: &Case, network: Option<&Value>) -> (Question, Limits) {
    let of_network = || network.and_then(|network| Some(Rules::from_network(&read(network, case).ok()?)));
    let rules = recorded.rules.clone().or_else(of_network).unwrap_or_default();
    let (asked, ledger) = (recorded.asked.clone(), Box::new(ReplayLedger::new(recorded.ledger.clone())));
    let limits = rules.limits.limits();
    (Question { asked, ledger, network: None, rules, claims: None }, limits)
}

fn choice(
    case: &Case,
    network: &Network,
    select: &SelectConf,
    attachment: Attachment,
    node: Node,
) -> anyhow::Result<ChoiceRequest> {
    let file = |declared: &FileConf| DeclaredFile {
        name: declared.name.clone(),
        path: declared.path.display().to_string(),
        content: case.files.get(&declared.name).cloned(),
    };
    Ok(ChoiceRequest {
        attachment,
        pod: case.pod.as_ref().map(CasePod::pod),
        node,
        cni_args: parse_pairs(&case.args)?,
        candidates: select.candidates(),
        files: select.files.iter().map(file).collect(),
        config: select.text.clone(),
        cni_version: network.version.to_string(),
        now: case.now,
        seed: case.seed,
    })
}

/// Returns the request for addresses, and the ledger of the case.
fn addresses(case: &Case, network: &Network, attachment: Attachment, node: Node) -> anyhow::Result<(Request, Model)> {
    let ipam = network.ipam.as_ref().context("the network has no \"ipam\" object, so nothing is asked about it")?;
    let mut model = Model::default();
    case.claims.iter().for_each(|claim| model.claim(claim.info()));
    let (cni_args, pod) = (parse_pairs(&case.args)?, case.pod.as_ref().map(CasePod::pod));
    let identities = facts::identities(&attachment, pod.as_ref());
    let owners: Vec<&str> = identities.iter().chain([&attachment.container_id]).map(String::as_str).collect();
    let request = Request {
        held: model.held(&owners),
        identities,
        requested: ipam.requested.clone(),
        mac: network.requested_mac(&cni_args),
        cni_args,
        range_sets: ipam.range_sets.clone(),
        resolver: None,
        config: ipam.text.clone(),
        cni_version: network.version.to_string(),
        now: case.now,
        seed: case.seed,
        attachment,
        pod,
        node,
    };
    Ok((request, model))
}

fn read(network: &Value, case: &Case) -> anyhow::Result<Network> {
    let mut plugin = of_ours(network)?;
    if let (Some(config), Some(object)) = (&case.runtime_config, plugin.as_object_mut()) {
        object.insert("runtimeConfig".to_owned(), config.clone());
    }
    parsed(plugin, &case.args)
}

/// Returns weft's plugin of a network.
pub(in crate::policy) fn of_ours(network: &Value) -> anyhow::Result<Value> {
    let ours = crate::policy::check::plugins(network).into_iter().find(|plugin| persona(plugin).is_some());
    ours.context("no plugin of the network has a type that weft answers to")
}

/// Parses a plugin's configuration as ADD does, with these `CNI_ARGS`.
pub(crate) fn parsed(plugin: Value, args: &str) -> anyhow::Result<Network> {
    let persona = persona(&plugin).context("the plugin has no type that weft answers to")?;
    let object = Object::from_value(plugin)?;
    Ok(Network::parse(persona, &object, &parse_pairs(args)?, &is_shipped)?)
}

fn persona(plugin: &Value) -> Option<Persona> {
    Persona::from_argv0(plugin.get("type")?.as_str()?.as_ref()).ok()
}

/// Returns the problems of the configuration, as `weftctl policy check` finds them.
fn check(persona: Persona, network: &Network, policy: &Policy) -> anyhow::Result<Answered> {
    let problems = match policy {
        Policy::Ipam(policy) => {
            network.ipam.as_ref().context("the network has no \"ipam\" object to check")?;
            attach::ipam_problems(persona, network, policy)
        }
        Policy::Choice(policy) => {
            let select = network.select().context("the network has no \"select\" object to check")?;
            attach::select_problems(network, select, policy)
        }
    };
    let outcome = match problems {
        Ok(problems) => outcome::problems(&problems),
        Err(error) => outcome::failed(&error.into()),
    };
    Ok(Answered { outcome, evidence: Evidence::default() })
}

fn decided(
    policy: &str,
    request: &Request,
    (rules, claims): (&Rules, Option<Model>),
    called: Called<Decision>,
) -> Answered {
    let is_held = |gateway: IpAddr| {
        rules.held.contains(&gateway) || claims.as_ref().is_some_and(|claims| claims.get(gateway).is_some())
    };
    let outcome = match called.outcome {
        Ok(Ok(decision)) => {
            let claimed = claimed(policy, request, claims.as_ref(), &decision);
            let rules = match &claimed {
                Ok(claimed) if claims.is_some() => &Rules { claimed: claimed.clone(), ..rules.clone() },
                _ => rules,
            };
            let judged = rules.judge(policy, request, &decision, &mut |gateway| Ok(is_held(gateway)));
            match judged.and(claimed) {
                Ok(claimed) => outcome::decided(&decision, &claimed),
                Err(error) => unusable(&error),
            }
        }
        Ok(Err(denial)) => outcome::denied(&denial),
        Err(error) => outcome::failed(&error.into()),
    };
    Answered { outcome, evidence: called.evidence }
}

/// Returns the addresses that an ADD claims: of each want the first candidate that is free, or kept for this attachment.
fn claimed(
    policy: &str,
    request: &Request,
    claims: Option<&Model>,
    decision: &Decision,
) -> Result<Vec<IpNet>, AttachError> {
    let is_free = |net: &&IpNet| match claims.and_then(|claims| claims.get(net.addr())) {
        None => true,
        Some(claim) => claim.state == ClaimState::Kept && request.identities.contains(&claim.owner),
    };
    let of_want = |candidates: &[IpNet]| {
        let taken = || AttachError::OffersTaken {
            policy: policy.to_owned(),
            addresses: candidates.iter().map(IpNet::addr).collect(),
        };
        candidates.iter().find(is_free).copied().ok_or_else(taken)
    };
    decision.addresses.iter().map(|wanted| of_want(&wanted.candidates)).collect()
}

/// weft does not use the answer.
fn unusable(error: &AttachError) -> Outcome {
    outcome::refused(&error.refusal().unwrap_or_else(|| error.chain()))
}

fn chosen(policy: &str, request: &ChoiceRequest, network: Option<&Network>, called: Called<Chosen>) -> Answered {
    let outcome = match called.outcome {
        Ok(Ok(choice)) => match usable(policy, request, network, &choice) {
            Ok(()) => outcome::chosen(&choice),
            Err(error) => unusable(&error),
        },
        Ok(Err(denial)) => outcome::denied(&denial),
        Err(error) => outcome::failed(&error.into()),
    };
    Answered { outcome, evidence: called.evidence }
}

/// Verifies a choice, and the configuration to which it leads. A record does not have the whole network.
fn usable(
    policy: &str,
    request: &ChoiceRequest,
    network: Option<&Network>,
    choice: &Chosen,
) -> Result<(), AttachError> {
    let verified = policy::verify_choice(policy, choice, &request.candidates)?;
    let Some((network, select)) = network.and_then(|network| Some((network, network.select()?))) else {
        return Ok(());
    };
    attach::judge_choice((network, select), &request.cni_args, &is_shipped, (policy, verified))
}

fn is_shipped(name: &str) -> bool {
    SHIPPED.iter().any(|(shipped, _component)| *shipped == name)
}
