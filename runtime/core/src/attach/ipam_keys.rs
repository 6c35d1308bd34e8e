//! Checks `ipam`, and `select`, against the schema of the policy that reads it.
//!
//! Under `"type": "weft"` and in `weft-ipam`, an unknown key is an error. Under a stock plugin's name, only a key that
//! looks like a misspelling of a known one is: other programs keep their own keys there, and the stock plugins ignore
//! them.

use serde_json::Value;
use weft_host_abi::guest::World;
use weft_host_abi::types::Problem;

use super::call::Call;
use super::error::AttachError;
use super::rules::limits;
use crate::conf::{
    ConfError, IPAM_KEYS, IPAM_TERMS, IpamConf, IpamKind, Network, Persona, SelectConf, likely_mistakes,
};
use crate::policy::{Choice, Loaded, PolicyError, Schema, UnknownKey};

/// Refuses unknown keys, for ADD. Asks the policy for its schema only if an unknown key is likely.
pub(super) fn refuse_unknown(call: &Call, policy: &Loaded) -> Result<(), AttachError> {
    let Some(ipam) = call.network.ipam.as_ref() else { return Ok(()) };
    if !is_suspicious(ipam) {
        return Ok(());
    }
    match ConfError::combine(unknown(call.persona, ipam, schema(&call.network, policy).as_ref())) {
        Some(error) => Err(error.into()),
        None => Ok(()),
    }
}

/// Returns the problems of `ipam`: unknown keys first, then those that the policy reports, then wrong types or values that
/// only its schema finds.
///
/// # Errors
/// The policy cannot say.
pub fn ipam_problems(persona: Persona, network: &Network, policy: &Loaded) -> Result<Vec<Problem>, PolicyError> {
    let Some(ipam) = network.ipam.as_ref() else { return Ok(Vec::new()) };
    let reported = policy.validate(&ipam.text, &limits(network))?;
    let schema = schema(network, policy);
    let mut problems = unknown_keys(persona, ipam, schema.as_ref());
    // A valid configuration of a stock plugin may contain what the schema does not expect: the policy's answer counts.
    let schema = schema.filter(|_schema| !persona.is_stock());
    problems.extend(with_schema(reported, schema, ipam.object.as_value()));
    Ok(problems)
}

/// Returns the problems of `select`, in the same way.
///
/// # Errors
/// The policy cannot say.
pub fn select_problems(
    network: &Network,
    select: &SelectConf,
    policy: &Loaded<Choice>,
) -> Result<Vec<Problem>, PolicyError> {
    let reported = policy.validate(&select.text, &select.candidates(), &limits(network))?;
    // A stock plugin's configuration has no `select`; weft wrote it.
    let Some(schema) = schema(network, policy).filter(|_schema| !select.is_stock()) else { return Ok(reported) };
    let value: Value = serde_json::from_str(&select.text).unwrap_or_default();
    let unknown = schema.unknown_keys(&value, &["policy", "files"]).into_iter();
    let unknown = unknown.map(|unknown| problem(&error(select.path(), unknown, false)));
    Ok(unknown.collect::<Vec<_>>().into_iter().chain(with_schema(reported, Some(schema), &value)).collect())
}

/// Returns only the unknown keys, for a configuration that cannot be read otherwise.
pub(super) fn unknown_problems(call: &Call, policy: &Loaded) -> Vec<Problem> {
    let ipam = call.network.ipam.as_ref();
    ipam.map(|ipam| unknown_keys(call.persona, ipam, schema(&call.network, policy).as_ref())).unwrap_or_default()
}

/// Returns the reported problems, followed by those that the schema finds in other places.
fn with_schema(reported: Vec<Problem>, schema: Option<Schema>, value: &Value) -> Vec<Problem> {
    let is_reported = |problem: &Problem| reported.iter().any(|reported| reported.at == problem.at);
    let found = schema.map(|schema| schema.problems(value)).unwrap_or_default();
    let more: Vec<Problem> = found.into_iter().filter(|problem| !is_reported(problem)).collect();
    reported.into_iter().chain(more).collect()
}

fn unknown_keys(persona: Persona, ipam: &IpamConf, schema: Option<&Schema>) -> Vec<Problem> {
    unknown(persona, ipam, schema).iter().map(problem).collect()
}

fn problem(error: &ConfError) -> Problem {
    Problem { at: String::new(), message: error.to_string() }
}

/// A policy whose schema cannot be read is checked against the keys that weft reads.
fn schema<W: World>(network: &Network, policy: &Loaded<W>) -> Option<Schema> {
    Schema::parse(&policy.config_schema(&limits(network)).ok()?)
}

/// Returns whether all unknown keys are refused.
fn is_strict(persona: Persona) -> bool {
    matches!(persona, Persona::Weft | Persona::WeftIpam)
}

fn is_suspicious(ipam: &IpamConf) -> bool {
    // The shipped policies list all their keys; another policy may accept more than it lists.
    let shipped = matches!(ipam.kind, IpamKind::Shipped(_));
    (shipped && ipam.object.unknown(&IPAM_KEYS).next().is_some()) || !likely_mistakes(ipam.object.as_value()).is_empty()
}

fn unknown(persona: Persona, ipam: &IpamConf, schema: Option<&Schema>) -> Vec<ConfError> {
    let mut also = vec!["type", "policy"];
    if persona != Persona::Weft {
        also.extend(IPAM_TERMS);
    }
    let value = ipam.object.as_value();
    let found = match schema {
        Some(schema) => schema.unknown_keys(value, &also),
        None => likely_mistakes(value).into_iter().map(misplaced_key).collect(),
    };
    let reported = found.into_iter().filter(|unknown| is_strict(persona) || unknown.meant.is_some());
    reported.map(|unknown| error(ipam.path(), unknown, persona == Persona::Weft)).collect()
}

fn misplaced_key((at, meant): (String, &'static str)) -> UnknownKey {
    let (within, key) = at.rsplit_once('/').unwrap_or_default();
    UnknownKey { within: within.to_owned(), key: key.to_owned(), meant: Some(meant.to_owned()), known: Vec::new() }
}

/// Returns the error for an unknown key. With `terms_outside`, weft's own keys belong beside the object.
fn error(object: &str, unknown: UnknownKey, terms_outside: bool) -> ConfError {
    let UnknownKey { within, key, meant, known } = unknown;
    let place = format!(" in \"{object}{}\"", within.replace('/', "."));
    let belongs_outside = within.is_empty() && IPAM_TERMS.iter().any(|own| own.eq_ignore_ascii_case(&key));
    let hint = match meant {
        _ if belongs_outside && terms_outside => "move it out of \"ipam\", to the same level".to_owned(),
        Some(meant) => format!("did you mean {meant:?}?"),
        None => format!("known are {}", known.join(", ")),
    };
    ConfError::UnknownKey { key, place, hint }
}
