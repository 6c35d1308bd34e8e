//! Limits the size of an answer, and makes its texts displayable.

use weft_host_abi::types::{Chosen, Decision, Denial};

use super::Limits;
use crate::policy::PolicyError;
use crate::text::clean;

/// Checks the size of an answer. `verify` checks its contents later.
pub(super) fn bounded(
    policy: &str,
    answer: Result<Decision, Denial>,
    limits: &Limits,
) -> Result<Result<Decision, Denial>, PolicyError> {
    match answer {
        Ok(decision) => sized(policy, decision, limits).map(Ok),
        Err(denial) => Ok(Err(cleaned(denial, limits))),
    }
}

/// Like [`bounded`], for a choice.
pub(super) fn bounded_choice(
    policy: &str,
    answer: Result<Chosen, Denial>,
    limits: &Limits,
) -> Result<Result<Chosen, Denial>, PolicyError> {
    let choice = match answer {
        Ok(choice) => choice,
        Err(denial) => return Ok(Err(cleaned(denial, limits))),
    };
    at_most(policy, "bytes in the name of a delegate", choice.name.len(), limits.text_bytes)?;
    at_most(policy, "settings", choice.settings.len(), limits.settings)?;
    for (key, value) in &choice.settings {
        at_most(policy, "bytes in the key of a setting", key.len(), limits.text_bytes)?;
        at_most(policy, "bytes in a setting", value.len(), limits.setting_bytes)?;
    }
    Ok(Ok(choice))
}

fn cleaned(denial: Denial, limits: &Limits) -> Denial {
    let text = |text: String| clean(&text, limits.text_bytes);
    match denial {
        Denial::Denied(why) => Denial::Denied(text(why)),
        Denial::Exhausted(why) => Denial::Exhausted(text(why)),
        Denial::InvalidConfig(why) => Denial::InvalidConfig(text(why)),
        Denial::TryAgain(why) => Denial::TryAgain(text(why)),
    }
}

fn at_most(policy: &str, what: &'static str, count: usize, max: usize) -> Result<(), PolicyError> {
    if count <= max { Ok(()) } else { Err(PolicyError::Oversized { policy: policy.to_owned(), what, count, max }) }
}

fn sized(policy: &str, decision: Decision, limits: &Limits) -> Result<Decision, PolicyError> {
    let at_most = |what, count, max| at_most(policy, what, count, max);
    at_most("addresses", decision.addresses.len(), limits.addresses)?;
    for wanted in &decision.addresses {
        at_most("candidates for one address", wanted.candidates.len(), limits.candidates)?;
    }
    at_most("routes", decision.routes.len(), limits.routes)?;
    if let Some(dns) = &decision.dns {
        let lists = [&dns.nameservers, &dns.search, &dns.options];
        at_most("DNS entries", lists.iter().map(|list| list.len()).sum(), limits.dns_entries)?;
        for entry in lists.into_iter().flatten().chain(&dns.domain) {
            at_most("bytes in a DNS entry", entry.len(), limits.text_bytes)?;
        }
    }
    Ok(decision)
}
