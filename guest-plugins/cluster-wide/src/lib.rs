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
//! Without `rules` and `default`, every range set gives one address. `exclude` is never handed out, not even on request.

use weft_allocator::{answer, conf, ranges};
use weft_sdk::spread::Spread;
use weft_sdk::{Decision, Denial, Ledger, Policy, Problem, Request};

mod exclude;
mod rules;

struct ClusterWide;

impl Policy for ClusterWide {
    fn allocate(request: &Request, ledger: &dyn Ledger) -> Result<Decision, Denial> {
        let config = conf::parse(&request.config).map_err(conf::invalid)?;
        let ipam = conf::top(&config).map_err(conf::invalid)?;
        let excluded = exclude::read(&ipam).map_err(conf::invalid)?;
        let rules = rules::read(&ipam).map_err(conf::invalid)?;
        let (sets, why) = rules.choose(request)?;
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

fn check(config: &str) -> Result<Vec<Problem>, Problem> {
    let config = conf::parse(config)?;
    let ipam = conf::top(&config)?;
    let (sets, mut problems) = ranges::check(&ipam);
    match rules::read(&ipam) {
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
