//! The `by-label` policy: the pod's labels pick named range sets, and addresses are taken from them as host-local does.
//!
//! ```json
//! {"type": "by-label",
//!  "ranges": [{"name": "gold", "ranges": [{"subnet": "10.9.0.0/24"}]}, {"name": "bronze", "ranges": [...]}],
//!  "rules": [{"matchLabels": {"tier": "gold"}, "set": "gold"}, {"matchLabels": {"dual": "yes"}, "sets": ["gold", "gold6"]}],
//!  "default": "bronze"}
//! ```
//! The first rule whose labels the pod all has decides; `default` is for pods that match none, and without it they are
//! denied.

use weft_allocator::conf::{Object, object, problem};
use weft_allocator::{answer, conf, ranges};
use weft_labels::sets::{self, Sets};
use weft_labels::{Rules, Wanted, format_labels};
use weft_sdk::{Decision, Denial, Ledger, Pair, Policy, Problem, Request};

struct ByLabel;

impl Policy for ByLabel {
    fn allocate(request: &Request, ledger: &dyn Ledger) -> Result<Decision, Denial> {
        let config = conf::parse(&request.config).map_err(conf::invalid)?;
        let ipam = conf::top_object(&config).map_err(conf::invalid)?;
        let rules = rules(&ipam).map_err(conf::invalid)?;
        let labels: &[Pair] = request.pod.as_ref().map_or(&[], |pod| &pod.labels);
        let rule = rules.choose(labels, &[]).ok_or_else(|| no_match(labels))?;
        let why = format!("{} chose {}: ", rule.describe("", ""), rule.leads_to.join(", "));
        answer::decide(request, &ipam, &rule.indexes(request)?, ledger, &why)
    }

    fn validate(config: &str) -> Vec<Problem> {
        check(config).unwrap_or_else(|problem| vec![problem])
    }

    fn config_schema() -> String {
        include_str!("schema.json").to_owned()
    }
}

/// Reads the `rules` and `default` keys, which map labels of the pod to range sets.
fn rules(ipam: &Object<'_>) -> Result<Rules<Sets>, Problem> {
    let mut rules = Vec::new();
    for (at, value) in ipam.list("rules")? {
        let entry = object(value, at.clone())?;
        let pod = Wanted::read(&entry, "matchLabels")?;
        let pod = pod.ok_or_else(|| problem(at.clone(), format!("{at} has no matchLabels")))?;
        rules.push(sets::rule(&entry, pod, Wanted::default())?);
    }
    let rules = Rules::new(rules, sets::default(ipam)?);
    if rules.is_empty() {
        return Err(problem("/rules", "by-label needs \"rules\" or a \"default\" set"));
    }
    Ok(rules)
}

fn no_match(labels: &[Pair]) -> Denial {
    let seen = format_labels(labels);
    Denial::Denied(format!("no rule matches the labels of the pod ({seen}) and there is no \"default\" set"))
}

fn check(config: &str) -> Result<Vec<Problem>, Problem> {
    let config = conf::parse(config)?;
    let ipam = conf::top_object(&config)?;
    let (sets, mut problems) = ranges::check(&ipam);
    for (i, set) in sets.iter().enumerate() {
        match set.name {
            None => problems.push(conf::problem(set.at.clone(), format!("range set {i} has no \"name\""))),
            Some(name) if sets.iter().take(i).any(|other| other.name == Some(name)) => {
                problems.push(conf::problem(set.at.clone(), format!("there are two range sets named {name:?}")));
            }
            Some(_) => {}
        }
    }
    match rules(&ipam) {
        Ok(rules) => problems.extend(rules.unknown_sets(&sets)),
        Err(problem) => problems.push(problem),
    }
    problems.extend(conf::routes(&ipam).err());
    problems.extend(answer::release(&ipam).err());
    problems.extend(ipam.text("resolvConf").err());
    Ok(problems)
}

weft_sdk::policy!(ByLabel);

#[cfg(test)]
mod tests;
