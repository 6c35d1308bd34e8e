//! The `rules` and `default` keys: which labels lead to which delegate.

use weft_allocator::conf::{Object, Value, mistyped, object, problem};
use weft_sdk::choice::Candidate;
use weft_sdk::{Pair, Problem};

/// What the configuration says about labels.
#[derive(Debug)]
pub(crate) struct Rules {
    rules: Vec<Rule>,
    default: Option<Rule>,
}

/// One way to a delegate.
#[derive(Debug)]
pub(crate) struct Rule {
    at: String,
    pod: Vec<(String, String)>,
    node: Vec<(String, String)>,
    pub(crate) delegate: String,
    pub(crate) set: Vec<Pair>,
}

/// Reads them. `files` is the host's key; this policy needs none.
pub(crate) fn read(select: &Object<'_>) -> Result<Rules, Problem> {
    select.only(&["policy", "files", "rules", "default"])?;
    let mut rules = Vec::new();
    for (at, value) in select.list("rules")? {
        rules.push(rule(&object(value, at)?)?);
    }
    let default = select.get("default").map(|value| default(value, select.place("default"))).transpose()?;
    if rules.is_empty() && default.is_none() {
        return Err(problem("/rules", "by-label-delegate needs \"rules\" or a \"default\" delegate"));
    }
    Ok(Rules { rules, default })
}

fn rule(entry: &Object<'_>) -> Result<Rule, Problem> {
    entry.only(&["match", "delegate", "set"])?;
    let at = entry.at();
    let wanted = entry.object("match")?.ok_or_else(|| problem(at, format!("{at} has no match")))?;
    wanted.only(&["pod", "node"])?;
    let labels = |key| -> Result<Vec<(String, String)>, Problem> {
        let Some(labels) = wanted.object(key)? else { return Ok(Vec::new()) };
        Ok(labels.texts()?.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect())
    };
    let (pod, node) = (labels("pod")?, labels("node")?);
    Ok(Rule { pod, node, ..target(entry)? })
}

fn default(value: &Value, at: String) -> Result<Rule, Problem> {
    match value {
        Value::String(name) if !name.is_empty() => {
            Ok(Rule { at, pod: Vec::new(), node: Vec::new(), delegate: name.clone(), set: Vec::new() })
        }
        Value::Object(_) => {
            let entry = object(value, at)?;
            entry.only(&["delegate", "set"])?;
            target(&entry)
        }
        other => Err(mistyped(at, "the name of a delegate, or an object with \"delegate\" and \"set\"", other)),
    }
}

/// `delegate` and `set`.
fn target(entry: &Object<'_>) -> Result<Rule, Problem> {
    let at = entry.at().to_owned();
    let delegate = entry.text("delegate")?.filter(|name| !name.is_empty());
    let delegate = delegate.ok_or_else(|| problem(at.clone(), format!("{at} names no delegate")))?.to_owned();
    let pair = |(key, value): (&str, &Value)| Pair { key: key.to_owned(), value: value.to_string() };
    let set = entry.object("set")?.map(|set| set.pairs().map(pair).collect()).unwrap_or_default();
    Ok(Rule { at, pod: Vec::new(), node: Vec::new(), delegate, set })
}

// === impl Rules ===

impl Rules {
    /// The rule for a pod and a node with these labels.
    pub(crate) fn choose(&self, pod: &[Pair], node: &[Pair]) -> Option<&Rule> {
        let all = |wanted: &[(String, String)], labels: &[Pair]| {
            wanted.iter().all(|(key, value)| labels.iter().any(|label| label.key == *key && label.value == *value))
        };
        let found = self.rules.iter().find(|rule| all(&rule.pod, pod) && all(&rule.node, node));
        found.or(self.default.as_ref())
    }

    /// All rules, the default last.
    pub(crate) fn all(&self) -> impl Iterator<Item = &Rule> {
        self.rules.iter().chain(&self.default)
    }
}

// === impl Rule ===

impl Rule {
    /// What led here: the rule's place and its labels.
    pub(crate) fn why(&self) -> String {
        let text = |who: &str, labels: &[(String, String)]| -> Vec<String> {
            labels.iter().map(|(key, value)| format!("{who} {key}={value}")).collect()
        };
        let labels = [text("pod", &self.pod), text("node", &self.node)].concat();
        if labels.is_empty() { self.at.clone() } else { format!("{} ({})", self.at, labels.join(", ")) }
    }

    /// A delegate that is not there, keys that cannot be set.
    pub(crate) fn problems(&self, candidates: &[Candidate]) -> Vec<Problem> {
        let Some(candidate) = candidates.iter().find(|candidate| candidate.name == self.delegate) else {
            let names: Vec<&str> = candidates.iter().map(|candidate| candidate.name.as_str()).collect();
            let message = format!("{} names the delegate {:?}; there are {}", self.at, self.delegate, names.join(", "));
            return vec![problem(self.at.clone(), message)];
        };
        let settable = |key: &str| candidate.settable.iter().any(|settable| settable.eq_ignore_ascii_case(key));
        let closed = self.set.iter().filter(|setting| !settable(&setting.key));
        closed
            .map(|setting| {
                let key = &setting.key;
                let message = format!(
                    "{} sets {key:?}, which the delegate {:?} does not list as settable",
                    self.at, self.delegate
                );
                problem(format!("{}/set/{key}", self.at), message)
            })
            .collect()
    }
}
