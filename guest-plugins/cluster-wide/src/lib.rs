//! The `cluster-wide` policy: addresses from ranges that many nodes share.
//!
//! ```json
//! {"type": "cluster-wide",
//!  "ranges": [{"name": "rack-a", "ranges": [{"subnet": "10.9.0.0/20"}]}, {"name": "rest", "ranges": [{"subnet": "10.9.16.0/20"}]}],
//!  "rules": [{"matchNodeLabels": {"topology.kubernetes.io/zone": "a"}, "set": "rack-a"}],
//!  "default": "rest",
//!  "exclude": ["10.9.0.0/28", "10.9.1.7"],
//!  "release": {"cooldown": 300}}
//! ```
//! The search for a free address starts at a hash of the pod and its interface. So nodes that start pods at the same time do not
//! race for the lowest address, a pod that is tried again asks for the same address, and what was released comes back late.
//!
//! Without `rules` and `default`, every range set gives one address. Addresses in `exclude` are never allocated, not
//! even on request.

use weft_allocator::conf::{Object, object, problem};
use weft_allocator::{answer, conf, ranges};
use weft_labels::sets::{self, Sets};
use weft_labels::{Rules, Wanted};
use weft_sdk::spread::Spread;
use weft_sdk::{Decision, Denial, Ledger, Pair, Policy, Problem, Request};

mod exclude;

struct ClusterWide;

impl Policy for ClusterWide {
    fn allocate(request: &Request, ledger: &dyn Ledger) -> Result<Decision, Denial> {
        let config = conf::parse(&request.config).map_err(conf::invalid)?;
        let ipam = conf::top_object(&config).map_err(conf::invalid)?;
        let excluded = exclude::read(&ipam).map_err(conf::invalid)?;
        let rules = rules(&ipam).map_err(conf::invalid)?;
        let (sets, why) = choose(&rules, request)?;
        let without = exclude::Without { ledger, excluded };
        answer::decide(request, &ipam, &sets, &Spread::new(&without, request, &sets), &why)
    }

    fn validate(config: &str) -> Vec<Problem> {
        check(config).unwrap_or_else(|problem| vec![problem])
    }

    fn config_schema() -> String {
        include_str!("schema.json").to_owned()
    }
}

/// Reads the `rules` and `default` keys, which map labels of the node and of the pod to range sets.
fn rules(ipam: &Object<'_>) -> Result<Rules<Sets>, Problem> {
    let mut rules = Vec::new();
    for (at, value) in ipam.list("rules")? {
        let entry = object(value, at.clone())?;
        entry.refuse_unknown(&["matchNodeLabels", "matchLabels", "set", "sets"])?;
        let labels = |key| Ok(Wanted::read(&entry, key)?.unwrap_or_default());
        let (node, pod) = (labels("matchNodeLabels")?, labels("matchLabels")?);
        if node.is_empty() && pod.is_empty() {
            return Err(problem(at.clone(), format!("{at} needs \"matchNodeLabels\" or \"matchLabels\"")));
        }
        rules.push(sets::rule(&entry, pod, node)?);
    }
    Ok(Rules::new(rules, sets::default(ipam)?))
}

/// Returns the indexes of the sets for a request, and the reason. Without rules every set gives one address.
fn choose(rules: &Rules<Sets>, request: &Request) -> Result<(Vec<usize>, String), Denial> {
    if rules.is_empty() {
        return Ok(((0..request.range_sets.len()).collect(), String::new()));
    }
    let pod: &[Pair] = request.pod.as_ref().map_or(&[], |pod| &pod.labels);
    let rule = rules.choose(pod, &request.node.labels).ok_or_else(|| {
        let node = &request.node.name;
        let text =
            format!("no rule matches the labels of node {node:?} and of the pod, and there is no \"default\" set");
        Denial::Denied(text)
    })?;
    Ok((rule.indexes(request)?, format!("{} chose {}: ", rule.describe("pod ", "node "), rule.leads_to.join(", "))))
}

fn check(config: &str) -> Result<Vec<Problem>, Problem> {
    let config = conf::parse(config)?;
    let ipam = conf::top_object(&config)?;
    let (sets, mut problems) = ranges::check(&ipam);
    match rules(&ipam) {
        Ok(rules) => problems.extend(rules.unknown_sets(&sets)),
        Err(problem) => problems.push(problem),
    }
    problems.extend(exclude::read(&ipam).err());
    problems.extend(conf::routes(&ipam).err());
    problems.extend(answer::release(&ipam).err());
    problems.extend(ipam.text("resolvConf").err());
    Ok(problems)
}

weft_sdk::policy!(ClusterWide);

#[cfg(test)]
mod tests;
