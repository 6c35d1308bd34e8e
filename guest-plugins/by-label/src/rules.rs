//! The `rules` and `default` keys: which labels lead to which range sets.

use weft_allocator::conf::{Object, Value, entries, mistyped, object, problem};
use weft_allocator::ranges::Declared;
use weft_sdk::{Pair, Problem};

/// What the configuration says about labels.
#[derive(Debug)]
pub(crate) struct Rules {
    rules: Vec<Rule>,
    default: Option<Rule>,
}

#[derive(Debug)]
struct Rule {
    at: String,
    labels: Vec<(String, String)>,
    sets: Vec<String>,
}

/// The sets for a pod, and what led to them.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Chosen<'a> {
    pub(crate) sets: &'a [String],
    pub(crate) why: String,
}

/// Reads them.
pub(crate) fn read(ipam: &Object<'_>) -> Result<Rules, Problem> {
    let mut rules = Vec::new();
    for (at, value) in ipam.list("rules")? {
        let entry = object(value, at.clone())?;
        let labels = match entry.object("matchLabels")? {
            None => return Err(problem(at.clone(), format!("{at} has no matchLabels"))),
            Some(labels) => labels.texts()?,
        };
        let labels = labels.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
        let sets = match (entry.get("set"), entry.get("sets")) {
            (Some(set), None) => names(set, entry.place("set"))?,
            (None, Some(sets)) => names(sets, entry.place("sets"))?,
            _ => return Err(problem(at.clone(), format!("{at} needs either \"set\" or \"sets\""))),
        };
        rules.push(Rule { at, labels, sets });
    }
    let at = ipam.place("default");
    let default = ipam.get("default").map(|value| names(value, at.clone())).transpose()?;
    let default = default.map(|sets| Rule { at, labels: Vec::new(), sets });
    if rules.is_empty() && default.is_none() {
        return Err(problem("/rules", "by-label needs \"rules\" or a \"default\" set"));
    }
    Ok(Rules { rules, default })
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

// === impl Rules ===

impl Rules {
    /// The sets for a pod with these labels.
    pub(crate) fn choose(&self, labels: &[Pair]) -> Option<Chosen<'_>> {
        let has = |(key, value): &(String, String)| labels.iter().any(|l| l.key == *key && l.value == *value);
        if let Some(rule) = self.rules.iter().find(|rule| rule.labels.iter().all(has)) {
            let labels: Vec<String> = rule.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
            return Some(Chosen { sets: &rule.sets, why: format!("{} ({})", rule.at, labels.join(", ")) });
        }
        self.default.as_ref().map(|rule| Chosen { sets: &rule.sets, why: rule.at.clone() })
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
