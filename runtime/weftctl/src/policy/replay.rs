//! `weftctl policy replay`: runs a recorded policy call again: with the same component, to check that it decides the
//! same, or with another one, to see its decision. Limits and verification are those of the record.

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::Args;
use serde_json::{Map, Value, json};
use weft_core::attach::{self, Asked, AttachError, Attempt, ChoiceTrace, Rules, Trace};
use weft_core::policy::{Called, Choice, Exchanges, Grants, Ipam, PolicyRef, PolicyStore, ReplayLedger, verify_choice};
use weft_core::store::NodeStore;
use weft_host_abi::guest::World;
use weft_host_abi::types::{ChoiceRequest, Chosen, Decision, Request};

use super::granted::GrantArgs;
use crate::output::Output;

#[derive(Debug, Args)]
pub(crate) struct ReplayArgs {
    /// A file with a trace (from `explain --json`), or a container id or its beginning.
    trace: String,
    /// Another policy: a component, or the name of a shipped one. By default the one of the trace.
    #[arg(long, value_name = "POLICY")]
    policy: Option<String>,
    #[command(flatten)]
    grants: GrantArgs,
}

/// A recorded call.
pub(super) struct Case {
    pub(super) policy: String,
    digest: String,
    data_digest: Option<String>,
    pub(super) asked: Asked,
    pub(super) ledger: Exchanges,
    /// The rules of its network; a record of an earlier version has none.
    pub(super) rules: Option<Rules>,
    /// Parts that the record lacks because it was too large.
    pub(super) truncated: Vec<String>,
    /// Its outcome, in the form of `answer`.
    pub(super) recorded: Map<String, Value>,
}

pub(super) fn run(args: &ReplayArgs, state: &Path, output: Output) -> anyhow::Result<ExitCode> {
    let cases = cases(&args.trace, state)?;
    if cases.is_empty() {
        bail!("no recorded policy call matches {:?}; `weftctl ledger ls` shows what attachments there are", args.trace);
    }
    let store = PolicyStore::new(state)?;
    let mut documents = Vec::new();
    let mut lines = Vec::new();
    let mut same = true;
    for case in &cases {
        let (digest, now) = replay(&store, case, (args.policy.as_deref(), &args.grants), state)?;
        let differences = differences(&case.recorded, &now);
        same &= differences.is_empty();
        lines.push(format!("recorded  {} ({})", case.policy, case.digest));
        lines.push(format!("replayed  {} ({digest})", args.policy.as_deref().unwrap_or(&case.policy)));
        for (key, before, after) in &differences {
            lines.push(format!("- {key}: {before}"));
            lines.push(format!("+ {key}: {after}"));
        }
        if differences.is_empty() {
            lines.push("same      it decides as it did then".to_owned());
        }
        if let Some(lacking) = case.missing_parts() {
            lines.push(format!("note      {lacking}"));
        }
        documents.push(json!({
            "policy": case.policy, "recorded": case.recorded, "recordedDigest": case.digest,
            "replayed": now, "replayedDigest": digest, "same": differences.is_empty(), "truncated": case.truncated,
        }));
    }
    output.lines(&documents, &lines)?;
    Ok(if same { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

// === impl Case ===

impl Case {
    /// Returns what the record lacks, as a sentence.
    pub(super) fn missing_parts(&self) -> Option<String> {
        let parts = self.truncated.join(", ");
        let sentence =
            || format!("the record was too large and lacks parts ({parts}), so the policy is not asked quite the same");
        (!self.truncated.is_empty()).then(sentence)
    }

    fn with_truncated(self, truncated: &[String]) -> Self {
        Self { truncated: truncated.to_vec(), ..self }
    }
}

/// Returns the recorded calls of a file or of a container's attachments, including failed ones.
pub(super) fn cases(which: &str, state: &Path) -> anyhow::Result<Vec<Case>> {
    if Path::new(which).is_file() {
        let text = std::fs::read(which).with_context(|| format!("cannot read {which}"))?;
        let value: Value = serde_json::from_slice(&text).with_context(|| format!("{which} is not JSON"))?;
        return from_document(value).with_context(|| format!("{which} holds no trace"));
    }
    let mut cases = Vec::new();
    if let Some(store) = NodeStore::open_read_only(state)? {
        for entry in store.entries(None)?.iter().filter(|entry| entry.key.attachment.container_id.starts_with(which)) {
            let traces = attach::traces(entry).context("the decision trace is damaged")?;
            let parts = [traces.choice.map(of_choice), traces.decision.map(of_decision)];
            cases.extend(parts.into_iter().flatten().map(|case| case.with_truncated(&traces.truncated)));
        }
    }
    for failure in
        attach::failures(state)?.into_iter().filter(|failure| failure.attachment.container_id.starts_with(which))
    {
        cases.extend(failure.attempt.map(|attempt| of_attempt(attempt, &failure.msg)));
    }
    Ok(cases)
}

/// Reads the output of `explain --json`, one element of it, or a bare trace.
fn from_document(value: Value) -> anyhow::Result<Vec<Case>> {
    if let Value::Array(values) = value {
        let cases = values.into_iter().map(from_document).collect::<anyhow::Result<Vec<_>>>()?;
        return Ok(cases.into_iter().flatten().collect());
    }
    let mut cases = Vec::new();
    let part = |key: &str| value.get(key).filter(|part| !part.is_null()).cloned();
    if let Some(failure) = part("failure") {
        let failure: attach::Failure = serde_json::from_value(failure)?;
        cases.extend(failure.attempt.map(|attempt| of_attempt(attempt, &failure.msg)));
    }
    let truncated: Vec<String> = part("truncated").map(serde_json::from_value).transpose()?.unwrap_or_default();
    let choice = part("choice").map(serde_json::from_value).transpose()?.map(of_choice);
    let decision = part("decision").map(serde_json::from_value).transpose()?.map(of_decision);
    cases.extend([choice, decision].into_iter().flatten().map(|case| case.with_truncated(&truncated)));
    if cases.is_empty() {
        cases.push(of_decision(serde_json::from_value(value)?));
    }
    Ok(cases)
}

fn of_decision(trace: Trace) -> Case {
    let recorded = map(json!({
        "candidates": trace.candidates, "routes": trace.routes, "dns": trace.dns, "release": trace.release,
        "reason": trace.reason,
    }));
    Case {
        policy: trace.policy,
        digest: trace.digest,
        data_digest: trace.data_digest,
        asked: Asked::Addresses(trace.request),
        ledger: trace.ledger,
        rules: trace.rules.map(|rules| Rules { claimed: trace.claimed, ..rules }),
        truncated: Vec::new(),
        recorded,
    }
}

fn of_choice(trace: ChoiceTrace) -> Case {
    let settings: Vec<_> = trace.settings.iter().map(|(key, value)| json!({ "key": key, "value": value })).collect();
    let recorded = map(json!({ "delegate": trace.delegate, "settings": settings, "reason": trace.reason }));
    Case {
        policy: trace.policy,
        digest: trace.digest,
        data_digest: trace.data_digest,
        asked: Asked::Delegate(trace.request),
        ledger: Exchanges::default(),
        rules: trace.rules,
        truncated: Vec::new(),
        recorded,
    }
}

fn of_attempt(attempt: Attempt, error: &str) -> Case {
    let recorded = match (attempt.denial, attempt.refused) {
        (Some(denial), _) => json!({ "denial": denial }),
        (None, Some(refused)) => json!({ "refused": refused }),
        (None, None) => json!({ "error": error }),
    };
    Case {
        policy: attempt.policy,
        digest: attempt.digest,
        data_digest: attempt.data_digest,
        asked: attempt.asked,
        ledger: attempt.ledger,
        rules: attempt.rules,
        truncated: attempt.truncated,
        recorded: map(recorded),
    }
}

/// Another policy, and what it may use.
type Options<'a> = (Option<&'a str>, &'a GrantArgs);

/// Runs a case. Returns the digest of the policy, and the outcome.
fn replay(
    store: &PolicyStore,
    case: &Case,
    (other, options): Options<'_>,
    state: &Path,
) -> anyhow::Result<(String, Map<String, Value>)> {
    let grants = options.options_alone();
    let wasi = case.rules.as_ref().is_some_and(|rules| rules.wasi);
    let grants = Grants { wasi: grants.wasi || wasi, ..grants };
    let limits = case.rules.as_ref().map(|rules| rules.limits).unwrap_or_default().limits();
    let replayed = match &case.asked {
        Asked::Addresses(request) => {
            let policy = load::<Ipam>(store, case, other, &grants, state)?;
            let called = policy.allocate(request, Box::new(ReplayLedger::new(case.ledger.clone())), &limits);
            let judged = |decision: &Decision| judged(policy.name(), request, case.rules.as_ref(), decision);
            outcome(called, judged, decided)
        }
        Asked::Delegate(request) => {
            let policy = load::<Choice>(store, case, other, &grants, state)?;
            let judged = |choice: &Chosen| judged_choice(policy.name(), request, case.rules.as_ref(), choice);
            outcome(policy.choose(request, &limits), judged, chosen)
        }
    };
    let (digest, data_digest, now) = replayed;
    if data_digest != case.data_digest && other.is_none() {
        bail!(
            "the policy read a data directory with the digest {}; name that directory with --data (now {})",
            case.data_digest.as_deref().unwrap_or("(none)"),
            data_digest.as_deref().unwrap_or("none is given")
        );
    }
    Ok((digest, now))
}

/// Returns the outcome of a case with its original policy.
pub(super) fn replay_original(
    store: &PolicyStore,
    case: &Case,
    grants: &GrantArgs,
    state: &Path,
) -> anyhow::Result<Map<String, Value>> {
    Ok(replay(store, case, (None, grants), state)?.1)
}

fn load<W: World>(
    store: &PolicyStore,
    case: &Case,
    other: Option<&str>,
    grants: &Grants,
    state: &Path,
) -> anyhow::Result<weft_core::policy::Loaded<W>> {
    let reference = match other {
        Some(other) => super::inspect::reference(other)?,
        None if case.policy.contains("://") => PolicyRef::parse(&case.policy)?,
        None => PolicyRef::shipped(&case.policy)?,
    };
    let loaded = store.load::<W>(&reference, grants, &|ask| super::by_hand(state, ask))?;
    if other.is_none() && loaded.digest() != case.digest {
        bail!(
            "{} is another version now ({}); name the component with the digest {} with --policy, or any other to compare",
            case.policy,
            loaded.digest(),
            case.digest
        );
    }
    Ok(loaded)
}

/// Verifies a decision as its ADD did. A record of an earlier version does not say how.
fn judged(policy: &str, request: &Request, rules: Option<&Rules>, decision: &Decision) -> Result<(), AttachError> {
    let Some(rules) = rules else { return Ok(()) };
    rules.judge(policy, request, decision, &mut |gateway| Ok(rules.held.contains(&gateway))).map(drop)
}

fn judged_choice(
    policy: &str,
    request: &ChoiceRequest,
    rules: Option<&Rules>,
    choice: &Chosen,
) -> Result<(), AttachError> {
    let Some(_verified) = rules else { return Ok(()) };
    Ok(verify_choice(policy, choice, &request.candidates).map(drop)?)
}

type Replayed = (String, Option<String>, Map<String, Value>);

fn outcome<T>(
    called: Called<T>,
    judged: impl FnOnce(&T) -> Result<(), AttachError>,
    answer: impl FnOnce(T) -> Value,
) -> Replayed {
    let value = match called.outcome {
        Ok(Ok(value)) => match judged(&value) {
            Ok(()) => answer(value),
            Err(error) => json!({ "refused": error.refusal().unwrap_or_else(|| error.chain()) }),
        },
        Ok(Err(denial)) => json!({ "denial": denial }),
        Err(error) => json!({ "error": error.to_string() }),
    };
    (called.digest, called.data_digest, map(value))
}

fn decided(decision: Decision) -> Value {
    let candidates: Vec<_> = decision.addresses.into_iter().map(|wanted| wanted.candidates).collect();
    json!({
        "candidates": candidates, "routes": decision.routes, "dns": decision.dns, "release": decision.release,
        "reason": decision.reason,
    })
}

fn chosen(choice: Chosen) -> Value {
    // Recorded settings are parsed; the policy returns texts.
    let parse = |text: String| serde_json::from_str(&text).unwrap_or(Value::String(text));
    let settings: Vec<_> =
        choice.settings.into_iter().map(|(key, value)| json!({ "key": key, "value": parse(value) })).collect();
    json!({ "delegate": choice.name, "settings": settings, "reason": choice.reason })
}

fn map(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}

/// Returns keys with different values, with both values.
fn differences(before: &Map<String, Value>, after: &Map<String, Value>) -> Vec<(String, String, String)> {
    let mut keys: Vec<&String> = before.keys().chain(after.keys().filter(|key| !before.contains_key(*key))).collect();
    keys.dedup();
    let text =
        |map: &Map<String, Value>, key: &String| map.get(key).map_or_else(|| "(none)".to_owned(), Value::to_string);
    let differ = keys.into_iter().filter(|key| before.get(*key) != after.get(*key));
    differ.map(|key| (key.clone(), text(before, key), text(after, key))).collect()
}
