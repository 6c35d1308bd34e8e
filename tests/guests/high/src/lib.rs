//! Returns the highest address of every set's first range, and denies a second interface with a text that must reach
//! the container's user.

use weft_sdk::address::{in_range, previous};
use weft_sdk::{Decision, Denial, IpAddress, IpPrefix, Ledger, Policy, Problem, ReleaseRule, Request, WantedAddress};

struct High;

impl Policy for High {
    fn allocate(request: &Request, _ledger: &dyn Ledger) -> Result<Decision, Denial> {
        if request.attachment.ifname != "eth0" {
            let who = &request.attachment;
            return Err(Denial::Denied(format!(
                "{} of {}: this network is for eth0 alone",
                who.ifname, who.container_id
            )));
        }
        let mut addresses = Vec::new();
        for set in &request.range_sets {
            let range = set.ranges.first().ok_or_else(|| Denial::InvalidConfig("an empty set".to_owned()))?;
            // Candidates in order: when the highest is taken, the next one below.
            let below = |address: &IpAddress| previous(*address).filter(|next| in_range(range, *next));
            let candidates = std::iter::successors(Some(range.last), below)
                .filter(|address| Some(*address) != range.gateway)
                .take(8)
                .map(|address| IpPrefix { address, length: range.subnet.length })
                .collect();
            addresses.push(WantedAddress { candidates, gateway: range.gateway });
        }
        Ok(Decision {
            addresses,
            routes: Vec::new(),
            dns: None,
            release: ReleaseRule::Free,
            reason: "the highest address".to_owned(),
        })
    }

    fn validate(config: &str) -> Vec<Problem> {
        let refused = config.contains("refuse-me");
        refused
            .then(|| Problem { at: "/refuse-me".to_owned(), message: "high does not like this".to_owned() })
            .into_iter()
            .collect()
    }

    fn config_schema() -> String {
        r#"{"type": "object"}"#.to_owned()
    }
}

weft_sdk::policy!(High);
