//! The `rules` and `default` keys, which map labels to delegates.

use weft_allocator::conf::{Object, Value, mistyped, object, problem};
use weft_labels::{Rule, Rules, Wanted};
use weft_sdk::choice::Candidate;
use weft_sdk::{Pair, Problem};

/// A delegate, and its settings.
#[derive(Debug)]
pub(crate) struct Target {
    pub(crate) delegate: String,
    pub(crate) set: Vec<Pair>,
}

/// Reads them. `files` is a key of the host; this policy needs none.
pub(crate) fn read(select: &Object<'_>) -> Result<Rules<Target>, Problem> {
    select.refuse_unknown(&["policy", "files", "rules", "default"])?;
    let mut rules = Vec::new();
    for (at, value) in select.list("rules")? {
        rules.push(rule(&object(value, at)?)?);
    }
    let default = select.get("default").map(|value| default(value, select.place("default"))).transpose()?;
    let rules = Rules::new(rules, default);
    if rules.is_empty() {
        return Err(problem("/rules", "by-label-delegate needs \"rules\" or a \"default\" delegate"));
    }
    Ok(rules)
}

fn rule(entry: &Object<'_>) -> Result<Rule<Target>, Problem> {
    entry.refuse_unknown(&["match", "delegate", "set"])?;
    let at = entry.at();
    let wanted = entry.object("match")?.ok_or_else(|| problem(at, format!("{at} has no match")))?;
    wanted.refuse_unknown(&["pod", "node"])?;
    let labels = |key| Ok(Wanted::read(&wanted, key)?.unwrap_or_default());
    let (pod, node) = (labels("pod")?, labels("node")?);
    Ok(Rule { at: at.to_owned(), pod, node, leads_to: target(entry)? })
}

fn default(value: &Value, at: String) -> Result<Rule<Target>, Problem> {
    match value {
        Value::String(name) if !name.is_empty() => {
            Ok(Rule::default(at, Target { delegate: name.clone(), set: Vec::new() }))
        }
        Value::Object(_) => {
            let entry = object(value, at.clone())?;
            entry.refuse_unknown(&["delegate", "set"])?;
            Ok(Rule::default(at, target(&entry)?))
        }
        other => Err(mistyped(at, "the name of a delegate, or an object with \"delegate\" and \"set\"", other)),
    }
}

/// Reads `delegate` and `set`.
fn target(entry: &Object<'_>) -> Result<Target, Problem> {
    let at = entry.at().to_owned();
    let delegate = entry.text("delegate")?.filter(|name| !name.is_empty());
    let delegate = delegate.ok_or_else(|| problem(at.clone(), format!("{at} names no delegate")))?.to_owned();
    let pair = |(key, value): (&str, &Value)| Pair { key: key.to_owned(), value: value.to_string() };
    let set = entry.object("set")?.map(|set| set.pairs().map(pair).collect()).unwrap_or_default();
    Ok(Target { delegate, set })
}

/// Reports unknown delegates and keys that are not settable.
pub(crate) fn problems(rule: &Rule<Target>, candidates: &[Candidate]) -> Vec<Problem> {
    let Rule { at, leads_to: Target { delegate, set }, .. } = rule;
    let Some(candidate) = candidates.iter().find(|candidate| candidate.name == *delegate) else {
        let names: Vec<&str> = candidates.iter().map(|candidate| candidate.name.as_str()).collect();
        let message = format!("{at} names the delegate {delegate:?}; there are {}", names.join(", "));
        return vec![problem(at.clone(), message)];
    };
    let settable = |key: &str| candidate.settable.iter().any(|settable| settable.eq_ignore_ascii_case(key));
    let closed = set.iter().filter(|setting| !settable(&setting.key));
    closed
        .map(|setting| {
            let key = &setting.key;
            let message = format!("{at} sets {key:?}, which the delegate {delegate:?} does not list as settable");
            problem(format!("{at}/set/{key}"), message)
        })
        .collect()
}
