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

use weft_allocator::{answer, conf, ranges};
use weft_sdk::{Decision, Denial, Ledger, Pair, Policy, Problem, Request};

mod rules;

struct ByLabel;

impl Policy for ByLabel {
    fn allocate(request: &Request, ledger: &dyn Ledger) -> Result<Decision, Denial> {
        let config = conf::parse(&request.config).map_err(conf::invalid)?;
        let ipam = conf::top(&config).map_err(conf::invalid)?;
        let rules = rules::read(&ipam).map_err(conf::invalid)?;
        let labels: &[Pair] = request.pod.as_ref().map_or(&[], |pod| &pod.labels);
        let chosen = rules.choose(labels).ok_or_else(|| no_match(labels))?;
        let find = |name: &String| {
            let found = request.range_sets.iter().position(|set| set.name.as_ref() == Some(name));
            found.ok_or_else(|| Denial::InvalidConfig(format!("there is no range set named {name:?}")))
        };
        let sets = chosen.sets.iter().map(find).collect::<Result<Vec<_>, _>>()?;
        answer::decide(request, &ipam, &sets, ledger, &format!("{} chose {}: ", chosen.why, chosen.sets.join(", ")))
    }

    fn validate(config: &str) -> Vec<Problem> {
        check(config).unwrap_or_else(|problem| vec![problem])
    }

    fn config_schema() -> String {
        include_str!("schema.json").to_owned()
    }
}

fn no_match(labels: &[Pair]) -> Denial {
    let seen: Vec<String> = labels.iter().map(|label| format!("{}={}", label.key, label.value)).collect();
    let seen = if seen.is_empty() { "it has none".to_owned() } else { seen.join(", ") };
    Denial::Denied(format!("no rule matches the labels of the pod ({seen}) and there is no \"default\" set"))
}

fn check(config: &str) -> Result<Vec<Problem>, Problem> {
    let config = conf::parse(config)?;
    let ipam = conf::top(&config)?;
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
    match rules::read(&ipam) {
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
