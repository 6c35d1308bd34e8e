//! The parts of a decision besides the addresses: routes, DNS, and the release rule.

use serde_json::Value;
use weft_sdk::{Decision, Denial, Ledger, Problem, ReleaseRule, Request, pool};

use crate::conf::{self, Object, invalid, mistyped, problem};

/// The `release` key, before its owner is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Release {
    /// Free at once, as the stock plugins do.
    #[default]
    Free,
    /// Rest for this many seconds.
    Cooldown(u32),
    /// Remain reserved for the pod.
    Keep,
}

/// Reads `"release": "free" | "keep" | {"cooldown": SECONDS}`.
///
/// # Errors
///
/// It has another value.
pub fn release(ipam: &Object<'_>) -> Result<Release, Problem> {
    let place = ipam.place("release");
    match ipam.get("release") {
        None => Ok(Release::Free),
        Some(Value::String(rule)) if rule.eq_ignore_ascii_case("free") => Ok(Release::Free),
        Some(Value::String(rule)) if rule.eq_ignore_ascii_case("keep") => Ok(Release::Keep),
        Some(value @ Value::Object(_)) => match conf::object(value, place.clone())?.number("cooldown")? {
            Some(seconds) => Ok(Release::Cooldown(seconds)),
            None => Err(problem(place, "/release needs \"cooldown\" with a number of seconds")),
        },
        Some(other) => Err(mistyped(place, "\"free\", \"keep\" or {\"cooldown\": SECONDS}", other)),
    }
}

/// Allocates from the range sets with these indexes and completes the decision from the configuration. `why` precedes
/// the reason.
///
/// # Errors
///
/// The refusals of [`pool::pick`], or a configuration that cannot be read.
pub fn decide(
    request: &Request,
    ipam: &Object<'_>,
    sets: &[usize],
    ledger: &dyn Ledger,
    why: &str,
) -> Result<Decision, Denial> {
    let routes = conf::routes(ipam).map_err(invalid)?;
    let release = owned_release(release(ipam).map_err(invalid)?, request)?;
    let picks = pool::pick(request, sets, ledger)?;
    let reasons: Vec<&str> = picks.iter().map(|pick| pick.reason.as_str()).collect();
    Ok(Decision {
        reason: format!("{why}{}", reasons.join("; ")),
        addresses: picks.into_iter().map(|pick| pick.wanted).collect(),
        routes,
        dns: request.resolver.clone(),
        release,
    })
}

/// A kept address belongs to the most permanent identity of the attachment.
fn owned_release(release: Release, request: &Request) -> Result<ReleaseRule, Denial> {
    match release {
        Release::Free => Ok(ReleaseRule::Free),
        Release::Cooldown(seconds) => Ok(ReleaseRule::Cooldown(seconds)),
        Release::Keep => match request.identities.first() {
            Some(owner) => Ok(ReleaseRule::Keep(owner.clone())),
            None => {
                Err(Denial::Denied("\"release\": \"keep\" needs an identity to keep for, and there is none".to_owned()))
            }
        },
    }
}
