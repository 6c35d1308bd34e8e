//! Returns the lowest free address of every set, like an author's first policy. `high` replaces it in a test.

use weft_sdk::{Decision, Denial, IpPrefix, Ledger, Policy, Problem, ReleaseRule, Request, WantedAddress};

struct Low;

impl Policy for Low {
    fn allocate(request: &Request, ledger: &dyn Ledger) -> Result<Decision, Denial> {
        let mut addresses = Vec::new();
        for set in &request.range_sets {
            let wanted = set.ranges.iter().find_map(|range| {
                let free = ledger.next_free(range, range.first)?;
                let free = if Some(free) == range.gateway {
                    ledger.next_free(range, weft_sdk::address::next(free)?)?
                } else {
                    free
                };
                let candidate = IpPrefix { address: free, length: range.subnet.length };
                Some(WantedAddress { candidates: vec![candidate], gateway: range.gateway })
            });
            addresses.push(wanted.ok_or_else(|| Denial::Exhausted("low: nothing is free".to_owned()))?);
        }
        Ok(Decision {
            addresses,
            routes: Vec::new(),
            dns: None,
            release: ReleaseRule::Free,
            reason: "the lowest free address".to_owned(),
        })
    }

    fn validate(_config: &str) -> Vec<Problem> {
        Vec::new()
    }

    fn config_schema() -> String {
        r#"{"type": "object"}"#.to_owned()
    }
}

weft_sdk::policy!(Low);
