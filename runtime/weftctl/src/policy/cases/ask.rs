//! Asks a policy the question of a case: the request is made from the network's configuration, and the answer is
//! judged, as in an ADD.

use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex};

use anyhow::{Context, bail};
use serde_json::Value;
use weft_core::attach::{self, Asked};
use weft_core::cni::{Object, parse_pairs};
use weft_core::conf::{FileConf, Network, Persona, SelectConf};
use weft_core::facts;
use weft_core::policy::{self, Called, Choice, Evidence, Ipam, Limits, Loaded, ReplayLedger};
use weft_host_abi::types::{Attachment, ChoiceRequest, Chosen, Decision, DeclaredFile, LedgerView, Node, Request};

use super::case::{Case, CasePod};
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
            Ok(decided(policy.name(), request, question.network.as_ref(), called))
        }
        (Policy::Choice(policy), Asked::Delegate(request)) => {
            Ok(chosen(policy.name(), request, policy.choose(request, &limits)))
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
        let ledger = Box::new(ReplayLedger::new(recorded.ledger.clone()));
        return Ok((Question { asked: recorded.asked.clone(), ledger, network: None }, Limits::default()));
    }
    let network = read(network.context("the case names no network, and the project has no network.json")?, case)?;
    let limits = attach::limits(&network);
    let attachment = Attachment {
        network: network.name.clone(),
        container_id: case.container_id.clone().unwrap_or_else(|| "container".to_owned()),
        ifname: case.ifname.clone().unwrap_or_else(|| "eth0".to_owned()),
    };
    let node = Node { name: case.node.name.clone(), labels: case.node.labels.clone().into_iter().collect() };
    let (asked, ledger) = match network.select() {
        Some(select) => (Asked::Delegate(choice(case, &network, select, attachment, node)?), Model::default()),
        None => {
            let (request, model) = addresses(case, &network, attachment, node)?;
            (Asked::Addresses(request), model)
        }
    };
    let ledger = Box::new(View(Arc::new(Mutex::new(ledger))));
    Ok((Question { asked, ledger, network: Some(network) }, limits))
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
    let shipped = |name: &str| SHIPPED.iter().any(|(shipped, _component)| *shipped == name);
    Ok(Network::parse(persona, &object, &parse_pairs(args)?, &shipped)?)
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
        Err(error) => outcome::failed("error", &error.into()),
    };
    Ok(Answered { outcome, evidence: Evidence::default() })
}

fn decided(policy: &str, request: &Request, network: Option<&Network>, called: Called<Decision>) -> Answered {
    let singles = network.and_then(|network| network.ipam.as_ref()).map(|ipam| ipam.declared.clone());
    let outcome = match called.outcome {
        Ok(Ok(decision)) => match policy::verify(policy, &decision, request, &singles.unwrap_or_default()) {
            Ok(_verified) => outcome::decided(&decision),
            Err(error) => outcome::failed("refused", &error.into()),
        },
        Ok(Err(denial)) => outcome::denied(&denial),
        Err(error) => outcome::failed("error", &error.into()),
    };
    Answered { outcome, evidence: called.evidence }
}

fn chosen(policy: &str, request: &ChoiceRequest, called: Called<Chosen>) -> Answered {
    let outcome = match called.outcome {
        Ok(Ok(choice)) => match policy::verify_choice(policy, &choice, &request.candidates) {
            Ok(_verified) => outcome::chosen(&choice),
            Err(error) => outcome::failed("refused", &error.into()),
        },
        Ok(Err(denial)) => outcome::denied(&denial),
        Err(error) => outcome::failed("error", &error.into()),
    };
    Answered { outcome, evidence: called.evidence }
}
