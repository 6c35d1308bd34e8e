//! The size of an answer, and its texts made fit to be shown.

use weft_host_abi::types::{Decision, Denial};

use super::Limits;
use crate::policy::PolicyError;
use crate::policy::text::clean;

/// Bounds an answer. Contents are judged later, by `verify`.
pub(super) fn bounded(
    policy: &str,
    answer: Result<Decision, Denial>,
    limits: &Limits,
) -> Result<Result<Decision, Denial>, PolicyError> {
    let text = |text: String| clean(&text, limits.text_bytes);
    match answer {
        Ok(decision) => sized(policy, decision, limits).map(Ok),
        Err(Denial::Denied(why)) => Ok(Err(Denial::Denied(text(why)))),
        Err(Denial::Exhausted(why)) => Ok(Err(Denial::Exhausted(text(why)))),
        Err(Denial::InvalidConfig(why)) => Ok(Err(Denial::InvalidConfig(text(why)))),
        Err(Denial::TryAgain(why)) => Ok(Err(Denial::TryAgain(text(why)))),
    }
}

fn sized(policy: &str, decision: Decision, limits: &Limits) -> Result<Decision, PolicyError> {
    let at_most = |what, count, max| {
        if count <= max { Ok(()) } else { Err(PolicyError::Oversized { policy: policy.to_owned(), what, count, max }) }
    };
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
