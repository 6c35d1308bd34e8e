//! The `rules` and `default` keys: which labels of the node and of the pod lead to which range sets.

use weft_allocator::conf::{Object, Value, entries, mistyped, object, problem};
use weft_allocator::ranges::Declared;
use weft_sdk::{Denial, Pair, Problem, Request};

/// What the configuration says about labels. Empty: every set gives one address.
#[derive(Debug, Default)]
pub(crate) struct Rules {
    rules: Vec<Rule>,
    default: Option<Rule>,
}

type Labels = Vec<(String, String)>;

#[derive(Debug)]
struct Rule {
    at: String,
    node: Labels,
    pod: Labels,
    sets: Vec<String>,
}

/// Reads them.
pub(crate) fn read(ipam: &Object<'_>) -> Result<Rules, Problem> {
    let mut rules = Vec::new();
    for (at, value) in ipam.list("rules")? {
        let entry = object(value, at.clone())?;
        entry.only(&["matchNodeLabels", "matchLabels", "set", "sets"])?;
        let (node, pod) = (labels(&entry, "matchNodeLabels")?, labels(&entry, "matchLabels")?);
        if node.is_empty() && pod.is_empty() {
            return Err(problem(at.clone(), format!("{at} needs \"matchNodeLabels\" or \"matchLabels\"")));
        }
        let sets = match (entry.get("set"), entry.get("sets")) {
            (Some(set), None) => names(set, entry.place("set"))?,
            (None, Some(sets)) => names(sets, entry.place("sets"))?,
            _ => return Err(problem(at.clone(), format!("{at} needs either \"set\" or \"sets\""))),
        };
        rules.push(Rule { at, node, pod, sets });
    }
    let at = ipam.place("default");
    let default = ipam.get("default").map(|value| names(value, at.clone())).transpose()?;
    let default = default.map(|sets| Rule { at, node: Vec::new(), pod: Vec::new(), sets });
    Ok(Rules { rules, default })
}

fn labels(entry: &Object<'_>, key: &str) -> Result<Labels, Problem> {
    let Some(labels) = entry.object(key)? else { return Ok(Vec::new()) };
    Ok(labels.texts()?.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect())
}

/// A name, or a list of at least one.
fn names(value: &Value, at: String) -> Result<Vec<String>, Problem> {
    let text = |(at, value): (String, &Value)| match value {
        Value::String(name) if !name.is_empty() => Ok(name.clone()),
        other => Err(mistyped(at, "the name of a range set", other)),
    };
    match value {
        Value::Array(list) if !list.is_empty() => entries(value, &at)?.into_iter().map(text).collect(),
        _ => Ok(vec![text((at, value))?]),
    }
}

impl Rules {
    /// The indexes of the sets for a request, and what led to them.
    pub(crate) fn choose(&self, request: &Request) -> Result<(Vec<usize>, String), Denial> {
        if self.rules.is_empty() && self.default.is_none() {
            return Ok(((0..request.range_sets.len()).collect(), String::new()));
        }
        let pod: &[Pair] = request.pod.as_ref().map_or(&[], |pod| &pod.labels);
        let all = |wanted: &Labels, labels: &[Pair]| {
            wanted.iter().all(|(key, value)| labels.iter().any(|label| label.key == *key && label.value == *value))
        };
        let matching = |rule: &&Rule| all(&rule.node, &request.node.labels) && all(&rule.pod, pod);
        let Some(rule) = self.rules.iter().find(matching).or(self.default.as_ref()) else {
            let node = &request.node.name;
            let text =
                format!("no rule matches the labels of node {node:?} and of the pod, and there is no \"default\" set");
            return Err(Denial::Denied(text));
        };
        let find = |name: &String| {
            let found = request.range_sets.iter().position(|set| set.name.as_ref() == Some(name));
            found.ok_or_else(|| Denial::InvalidConfig(format!("there is no range set named {name:?}")))
        };
        let sets = rule.sets.iter().map(find).collect::<Result<_, _>>()?;
        Ok((sets, format!("{} chose {}: ", rule.at, rule.sets.join(", "))))
    }

    /// Rules that name a set that is not there.
    pub(crate) fn unknown_sets(&self, sets: &[Declared<'_>]) -> Vec<Problem> {
        let known = |name: &String| sets.iter().any(|set| set.name == Some(name.as_str()));
        let mut problems = Vec::new();
        for rule in self.rules.iter().chain(&self.default) {
            for name in rule.sets.iter().filter(|name| !known(name)) {
                problems.push(problem(rule.at.clone(), format!("there is no range set named {name:?}")));
            }
        }
        problems
    }
}
