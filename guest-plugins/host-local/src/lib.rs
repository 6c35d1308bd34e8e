//! The `host-local` policy: one address from each declared range set, round robin, with the stock plugin's refusals.
//!
//! Besides the stock keys it reads `release` (see `weft_allocator::answer`). The ranges come with the request.

use weft_allocator::{answer, conf, ranges};
use weft_sdk::{Decision, Denial, Ledger, Policy, Problem, Request};

struct HostLocal;

impl Policy for HostLocal {
    fn allocate(request: &Request, ledger: &dyn Ledger) -> Result<Decision, Denial> {
        let config = conf::parse(&request.config).map_err(conf::invalid)?;
        let ipam = conf::top_object(&config).map_err(conf::invalid)?;
        let sets: Vec<usize> = (0..request.range_sets.len()).collect();
        answer::decide(request, &ipam, &sets, ledger, "")
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
    let ipam = conf::top_object(&config)?;
    let (_sets, mut problems) = ranges::check(&ipam);
    problems.extend(conf::routes(&ipam).err());
    problems.extend(answer::release(&ipam).err());
    problems.extend(["dataDir", "resolvConf"].iter().filter_map(|key| ipam.text(key).err()));
    Ok(problems)
}

weft_sdk::policy!(HostLocal);

#[cfg(test)]
mod tests;
