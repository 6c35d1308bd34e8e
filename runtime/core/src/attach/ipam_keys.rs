//! Checks the keys of `ipam` against the schema of the policy that reads it.
//!
//! Under `"type": "weft"` and in `weft-ipam`, an unknown key is an error. Under a stock plugin's name, only a key that
//! looks like a misspelling of a known one is: other programs keep their own keys there, and the stock plugins ignore
//! them.

use weft_host_abi::types::Problem;

use super::call::Call;
use super::error::AttachError;
use super::policies;
use crate::conf::{ConfError, IPAM_KEYS, IPAM_TERMS, IpamConf, IpamKind, Persona, likely_mistakes};
use crate::policy::{Loaded, Schema, UnknownKey};

/// Refuses unknown keys, for ADD. Asks the policy for its schema only if an unknown key is likely.
pub(super) fn refuse_unknown(call: &Call, policy: &Loaded) -> Result<(), AttachError> {
    let Some(ipam) = call.network.ipam.as_ref() else { return Ok(()) };
    if !is_suspicious(ipam) {
        return Ok(());
    }
    match ConfError::all(unknown(call, ipam, schema(call, policy).as_ref())) {
        Some(error) => Err(error.into()),
        None => Ok(()),
    }
}

/// Returns the problems that the policy reported, followed by what its schema finds: unknown keys first, then wrong
/// types or values that the policy did not report.
pub(super) fn problems(call: &Call, policy: &Loaded, reported: Vec<Problem>) -> Vec<Problem> {
    let Some(ipam) = call.network.ipam.as_ref() else { return reported };
    let schema = schema(call, policy);
    let mut problems = unknown_keys(call, ipam, schema.as_ref());
    let is_reported = |problem: &Problem| reported.iter().any(|reported| reported.at == problem.at);
    let found = schema.map(|schema| schema.problems(ipam.object.as_value())).unwrap_or_default();
    let more: Vec<Problem> = found.into_iter().filter(|problem| !is_reported(problem)).collect();
    // A valid configuration of a stock plugin may contain what the schema does not expect: the policy's answer counts.
    let more = if call.persona.is_stock() { Vec::new() } else { more };
    problems.extend(reported);
    problems.extend(more);
    problems
}

/// Returns only the unknown keys, for a configuration that cannot be read otherwise.
pub(super) fn unknown_problems(call: &Call, policy: &Loaded) -> Vec<Problem> {
    let ipam = call.network.ipam.as_ref();
    ipam.map(|ipam| unknown_keys(call, ipam, schema(call, policy).as_ref())).unwrap_or_default()
}

fn unknown_keys(call: &Call, ipam: &IpamConf, schema: Option<&Schema>) -> Vec<Problem> {
    let unknown = unknown(call, ipam, schema).into_iter();
    unknown.map(|error| Problem { at: String::new(), message: error.to_string() }).collect()
}

/// A policy whose schema cannot be read is checked against the keys that weft reads.
fn schema(call: &Call, policy: &Loaded) -> Option<Schema> {
    Schema::parse(&policy.config_schema(&policies::limits(&call.network)).ok()?)
}

/// Returns whether all unknown keys are refused.
fn is_strict(call: &Call) -> bool {
    matches!(call.persona, Persona::Weft | Persona::WeftIpam)
}

fn is_suspicious(ipam: &IpamConf) -> bool {
    // The shipped policies list all their keys; another policy may accept more than it lists.
    let shipped = matches!(ipam.kind, IpamKind::Shipped(_));
    (shipped && ipam.object.unknown(&IPAM_KEYS).next().is_some()) || !likely_mistakes(ipam.object.as_value()).is_empty()
}

fn unknown(call: &Call, ipam: &IpamConf, schema: Option<&Schema>) -> Vec<ConfError> {
    let mut also = vec!["type", "policy"];
    if call.persona != Persona::Weft {
        also.extend(IPAM_TERMS);
    }
    let value = ipam.object.as_value();
    let found = match schema {
        Some(schema) => schema.unknown_keys(value, &also),
        None => likely_mistakes(value).into_iter().map(by_the_host).collect(),
    };
    let reported = found.into_iter().filter(|unknown| is_strict(call) || unknown.meant.is_some());
    reported.map(|unknown| error(call, ipam, unknown)).collect()
}

fn by_the_host((at, meant): (String, &'static str)) -> UnknownKey {
    let (within, key) = at.rsplit_once('/').unwrap_or_default();
    UnknownKey { within: within.to_owned(), key: key.to_owned(), meant: Some(meant.to_owned()), known: Vec::new() }
}

fn error(call: &Call, ipam: &IpamConf, unknown: UnknownKey) -> ConfError {
    let UnknownKey { within, key, meant, known } = unknown;
    let place = format!(" in \"{}{}\"", ipam.place(), within.replace('/', "."));
    let belongs_outside = within.is_empty() && IPAM_TERMS.iter().any(|own| own.eq_ignore_ascii_case(&key));
    let hint = match meant {
        _ if belongs_outside && call.persona == Persona::Weft => "it belongs beside \"ipam\"".to_owned(),
        Some(meant) => format!("did you mean {meant:?}?"),
        None => format!("known are {}", known.join(", ")),
    };
    ConfError::UnknownKey { key, place, hint }
}
