//! What a monitored policy would have done, and how it differs from the decision that counted: the monitor's part of a
//! trace.

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use weft_host_abi::types::{Denial, Dns, ReleaseRule, Route};

use crate::policy::Exchanges;

/// What a monitored policy would have done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MonitorTrace {
    /// Name or URL of the policy.
    pub policy: String,
    /// SHA-256 of its component; empty where it could not be loaded.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub digest: String,
    /// What it answered.
    pub outcome: Outcome,
    /// How it differs from the decision that counted; empty if it does not.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub differences: Vec<Difference>,
    /// Fuel the call used.
    pub fuel: u64,
    /// Questions it put to the ledger and lines it logged.
    pub host_calls: u32,
    /// Microseconds that the call took.
    pub micros: u64,
    /// What it asked the ledger, with the answers.
    #[serde(default)]
    pub ledger: Exchanges,
}

impl MonitorTrace {
    /// The trace of a policy that has not been asked yet.
    pub(super) fn of_policy(policy: &str) -> Self {
        Self {
            policy: policy.to_owned(),
            digest: String::new(),
            outcome: Outcome::Failed(String::new()),
            differences: Vec::new(),
            fuel: 0,
            host_calls: 0,
            micros: 0,
            ledger: Exchanges::default(),
        }
    }
}

/// An answer, in comparable form.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// A decision that the host would have used.
    Decided {
        /// Per wanted address, best first.
        candidates: Vec<Vec<IpNet>>,
        /// Routes.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        routes: Vec<Route>,
        /// DNS.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        dns: Option<Dns>,
        /// What happens on release.
        #[serde(default)]
        release: ReleaseRule,
        /// The policy's own explanation.
        reason: String,
    },
    /// A choice of a delegate that the host would have used.
    Chosen {
        /// The delegate.
        delegate: String,
        /// What it set, in its own order.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        settings: Vec<(String, Value)>,
        /// The policy's own explanation.
        reason: String,
    },
    /// A refusal.
    Denied(Denial),
    /// No usable answer, with the reason.
    Failed(String),
}

/// A part that differs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Difference {
    /// Which part.
    pub part: String,
    /// Its value in the decision that counted.
    pub active: String,
    /// Its value in the monitored decision.
    pub monitor: String,
}

// === impl MonitorTrace ===

impl MonitorTrace {
    /// Returns the verdict as one word, for counters and tables.
    #[must_use]
    pub fn verdict(&self) -> &'static str {
        match &self.outcome {
            Outcome::Failed(_) => "failed",
            _ if self.differences.is_empty() => "same",
            _ => "different",
        }
    }
}

// === impl Outcome ===

impl Outcome {
    /// Returns the outcome as one word.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Decided { .. } => "decided",
            Self::Chosen { .. } => "chosen",
            Self::Denied(_) => "denied",
            Self::Failed(_) => "failed",
        }
    }

    fn describe(&self) -> String {
        match self {
            Self::Decided { candidates, .. } => {
                let first: Vec<_> = candidates.iter().filter_map(|list| list.first()).map(IpNet::to_string).collect();
                format!("gives {}", first.join(", "))
            }
            Self::Chosen { delegate, .. } => format!("picks {delegate}"),
            Self::Denied(denial) => format!("refuses ({})", words(denial)),
            Self::Failed(why) => format!("fails ({why})"),
        }
    }
}

/// Returns the text of a refusal.
fn words(denial: &Denial) -> &str {
    match denial {
        Denial::Denied(text) | Denial::Exhausted(text) | Denial::InvalidConfig(text) | Denial::TryAgain(text) => text,
    }
}

/// Renders settings in the order of their keys; a delegate ignores the order.
fn set(settings: &[(String, Value)]) -> String {
    let mut words: Vec<String> = settings.iter().map(|(key, value)| format!("{key} = {value}")).collect();
    words.sort();
    if words.is_empty() { "nothing".to_owned() } else { words.join(", ") }
}

/// Returns the differences between the answer that counted and another. Reasons are only text, and are ignored.
pub(super) fn differences(active: &Outcome, monitor: &Outcome) -> Vec<Difference> {
    let part = |part: &str, active: String, monitor: String| Difference { part: part.to_owned(), active, monitor };
    if let (
        Outcome::Chosen { delegate, settings, .. },
        Outcome::Chosen { delegate: other, settings: other_settings, .. },
    ) = (active, monitor)
    {
        let delegates = (delegate != other).then(|| part("delegate", active.describe(), monitor.describe()));
        let sets = (set(settings) != set(other_settings))
            .then(|| part("settings", format!("sets {}", set(settings)), format!("sets {}", set(other_settings))));
        return delegates.into_iter().chain(sets).collect();
    }
    let (
        Outcome::Decided { candidates, routes, dns, release, .. },
        Outcome::Decided { candidates: others, routes: other_routes, dns: other_dns, release: other_release, .. },
    ) = (active, monitor)
    else {
        let same = match (active, monitor) {
            (Outcome::Denied(a), Outcome::Denied(b)) => std::mem::discriminant(a) == std::mem::discriminant(b),
            _ => false,
        };
        return if same { Vec::new() } else { vec![part("answer", active.describe(), monitor.describe())] };
    };
    let mut found = Vec::new();
    // Candidates after the first only matter if that is lost to another ADD.
    let firsts = |lists: &[Vec<IpNet>]| lists.iter().map(|list| list.first().copied()).collect::<Vec<_>>();
    if firsts(candidates) != firsts(others) {
        found.push(part("addresses", active.describe(), monitor.describe()));
    }
    let json = |value: serde_json::Result<String>| value.unwrap_or_default();
    if routes != other_routes {
        let text = |routes| json(serde_json::to_string(routes));
        found.push(part("routes", text(routes), text(other_routes)));
    }
    if dns != other_dns {
        let text = |dns| json(serde_json::to_string(dns));
        found.push(part("dns", text(dns), text(other_dns)));
    }
    if release != other_release {
        let text = |release| json(serde_json::to_string(release));
        found.push(part("release", text(release), text(other_release)));
    }
    found
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    fn decided(first: &str, reason: &str) -> Outcome {
        let candidates = vec![vec![first.parse().unwrap(), "10.0.0.99/24".parse().unwrap()]];
        let (routes, release) = (Vec::new(), ReleaseRule::Free);
        Outcome::Decided { candidates, routes, dns: None, release, reason: reason.to_owned() }
    }

    #[test]
    fn choices_are_compared_by_delegate_and_settings() {
        let picks = |delegate: &str, settings: &[(&str, u32)], reason: &str| Outcome::Chosen {
            delegate: delegate.to_owned(),
            settings: settings.iter().map(|(key, value)| ((*key).to_owned(), Value::from(*value))).collect(),
            reason: reason.to_owned(),
        };
        let first = picks("lan", &[("mtu", 9000), ("vlan", 7)], "a");
        assert_eq!(differences(&first, &picks("lan", &[("vlan", 7), ("mtu", 9000)], "b")), []);
        let found = differences(&first, &picks("nat", &[("mtu", 1500)], "a"));
        let texts: Vec<_> = found.iter().map(|found| (found.part.as_str(), found.monitor.as_str())).collect();
        assert_eq!(texts, [("delegate", "picks nat"), ("settings", "sets mtu = 1500")]);
        let found = differences(&first, &Outcome::Denied(Denial::Denied("no".to_owned())));
        assert_eq!((found[0].part.as_str(), found[0].active.as_str()), ("answer", "picks lan"));
    }

    #[test]
    fn what_the_pod_would_see_is_compared() {
        assert_eq!(differences(&decided("10.0.0.1/24", "a"), &decided("10.0.0.1/24", "b")), []);
        let found = differences(&decided("10.0.0.1/24", "a"), &decided("10.0.0.2/24", "a"));
        assert_eq!((found.len(), found[0].part.as_str()), (1, "addresses"));
        assert_eq!((found[0].active.as_str(), found[0].monitor.as_str()), ("gives 10.0.0.1/24", "gives 10.0.0.2/24"));
        let denied = |text: &str| Outcome::Denied(Denial::Denied(text.to_owned()));
        assert_eq!(differences(&denied("a"), &denied("b")), [], "the text is for people");
        assert_eq!(differences(&decided("10.0.0.1/24", "a"), &denied("no"))[0].monitor, "refuses (no)");
        let exhausted = Outcome::Denied(Denial::Exhausted("no".to_owned()));
        assert_eq!(differences(&denied("no"), &exhausted)[0].part, "answer");
        let mut rests = decided("10.0.0.1/24", "a");
        if let Outcome::Decided { release, routes, .. } = &mut rests {
            *release = ReleaseRule::Cooldown(60);
            routes.push(Route::new("10.9.0.0/16".parse().unwrap(), None));
        }
        let parts: Vec<_> =
            differences(&decided("10.0.0.1/24", "a"), &rests).into_iter().map(|found| found.part).collect();
        assert_eq!(parts, ["routes", "release"]);
    }
}
