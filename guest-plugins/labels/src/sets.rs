//! Rules whose targets are named range sets: the keys `set` or `sets` of a rule, and
//! `default`.

use weft_allocator::conf::{Object, Value, entries, mistyped, problem};
use weft_allocator::ranges::Declared;
use weft_sdk::{Denial, Problem, Request};

use crate::{Rule, Rules, Wanted};

/// Names of range sets, at least one.
pub type Sets = Vec<String>;

/// Reads the target of a rule.
///
/// # Errors
/// It has neither key, both, or a value that is not a name.
pub fn rule(entry: &Object<'_>, pod: Wanted, node: Wanted) -> Result<Rule<Sets>, Problem> {
    let at = entry.at().to_owned();
    let leads_to = match (entry.get("set"), entry.get("sets")) {
        (Some(set), None) => names(set, entry.place("set"))?,
        (None, Some(sets)) => names(sets, entry.place("sets"))?,
        _ => return Err(problem(at.clone(), format!("{at} needs either \"set\" or \"sets\""))),
    };
    Ok(Rule { at, pod, node, leads_to })
}

/// Reads the default.
///
/// # Errors
/// It has a value that is not a name.
pub fn default(ipam: &Object<'_>) -> Result<Option<Rule<Sets>>, Problem> {
    let at = ipam.place("default");
    let sets = ipam.get("default").map(|value| names(value, at.clone())).transpose()?;
    Ok(sets.map(|sets| Rule::default(at, sets)))
}

/// Reads a name, or a non-empty list of names.
fn names(value: &Value, at: String) -> Result<Sets, Problem> {
    let text = |(at, value): (String, &Value)| match value {
        Value::String(name) if !name.is_empty() => Ok(name.clone()),
        other => Err(mistyped(at, "the name of a range set", other)),
    };
    match value {
        Value::Array(list) if !list.is_empty() => entries(value, &at)?.into_iter().map(text).collect(),
        _ => Ok(vec![text((at, value))?]),
    }
}

impl Rule<Sets> {
    /// Returns the indexes of its sets among those of a request.
    ///
    /// # Errors
    /// A set of that name does not exist.
    pub fn indexes(&self, request: &Request) -> Result<Vec<usize>, Denial> {
        let find = |name: &String| {
            let found = request.range_sets.iter().position(|set| set.name.as_ref() == Some(name));
            found.ok_or_else(|| Denial::InvalidConfig(unknown(name)))
        };
        self.leads_to.iter().map(find).collect()
    }
}

impl Rules<Sets> {
    /// Reports rules that name an undeclared set.
    #[must_use]
    pub fn unknown_sets(&self, sets: &[Declared<'_>]) -> Vec<Problem> {
        let is_known = |name: &&String| sets.iter().any(|set| set.name == Some(name.as_str()));
        let of_rule = |rule: &Rule<Sets>| -> Vec<Problem> {
            let strange = rule.leads_to.iter().filter(|name| !is_known(name));
            strange.map(|name| problem(rule.at.clone(), unknown(name))).collect()
        };
        self.all_rules().flat_map(of_rule).collect()
    }
}

fn unknown(name: &str) -> String {
    format!("there is no range set named {name:?}")
}
