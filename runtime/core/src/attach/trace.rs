//! The decision trace: why an attachment has its addresses and its delegate. It is written to the journal with the
//! claim, and read by `weftctl explain`.

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use weft_host_abi::types::{ChoiceRequest, Denial, Dns, ReleaseRule, Request, Route};

use super::comparison::MonitorTrace;
use super::error::AttachError;
use super::rules::Rules;
use crate::policy::{Evidence, Exchanges, LogLine};

/// How a decision came about. It holds the whole request, so that it can be replayed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trace {
    /// Name or URL of the policy.
    pub policy: String,
    /// SHA-256 of its component, in hexadecimal.
    pub digest: String,
    /// SHA-256 of the granted data directory, where the policy could read one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data_digest: Option<String>,
    /// The policy's own explanation.
    pub reason: String,
    /// What it offered, per wanted address, best first.
    pub candidates: Vec<Vec<IpNet>>,
    /// Routes of its decision.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub routes: Vec<Route>,
    /// DNS of its decision.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dns: Option<Dns>,
    /// The decision's release rule.
    #[serde(default)]
    pub release: ReleaseRule,
    /// The claimed addresses, in the same order.
    pub claimed: Vec<IpNet>,
    /// Fuel the call used.
    pub fuel: u64,
    /// Questions it put to the ledger and lines it logged.
    pub host_calls: u32,
    /// Microseconds that the call took, the ledger's answers included.
    #[serde(default)]
    pub micros: u64,
    /// What it logged.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub log: Vec<LogLine>,
    /// What it asked the ledger, with the answers.
    #[serde(default)]
    pub ledger: Exchanges,
    /// Why it was asked instead of the network's own policy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fallback: Option<Fallback>,
    /// The rules of its network; records of earlier versions have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rules: Option<Rules>,
    /// What it was asked.
    pub request: Request,
}

/// How a delegate was chosen. Contains the whole request, including the content of the declared files.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ChoiceTrace {
    /// Name or URL of the policy.
    pub policy: String,
    /// SHA-256 of its component.
    pub digest: String,
    /// SHA-256 of the granted data directory, where the policy could read one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data_digest: Option<String>,
    /// The delegate it chose.
    pub delegate: String,
    /// What it set, in its own order.
    pub settings: Vec<(String, Value)>,
    /// The policy's own explanation.
    pub reason: String,
    /// Fuel the call used.
    pub fuel: u64,
    /// How many lines it logged.
    pub host_calls: u32,
    /// What it logged.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub log: Vec<LogLine>,
    /// The rules of its network; records of earlier versions have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rules: Option<Rules>,
    /// What it was asked.
    pub request: ChoiceRequest,
}

/// Why a policy was asked in place of another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fallback {
    /// The policy that the network names.
    pub instead_of: String,
    /// Why it could not be used.
    pub because: String,
}

/// What a policy was asked.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Asked {
    /// Which addresses.
    Addresses(Request),
    /// Which delegate.
    Delegate(ChoiceRequest),
}

/// A policy call that led to no attachment. It can be replayed like a [`Trace`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Attempt {
    /// Name or URL of the policy.
    pub policy: String,
    /// SHA-256 of its component.
    pub digest: String,
    /// SHA-256 of the granted data directory, where the policy could read one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data_digest: Option<String>,
    /// Fuel the call used.
    pub fuel: u64,
    /// Questions it put to the ledger and lines it logged.
    pub host_calls: u32,
    /// What it logged.
    pub log: Vec<LogLine>,
    /// What it asked the ledger, with the answers.
    pub ledger: Exchanges,
    /// What it was asked.
    pub asked: Asked,
    /// Its refusal, if it refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub denial: Option<Denial>,
    /// Why weft did not use its answer, if it gave one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<String>,
    /// The rules of its network; records of earlier versions have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rules: Option<Rules>,
    /// Parts that were left out, because the record was too large.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub truncated: Vec<String>,
}

// === impl Attempt ===

impl Attempt {
    pub(super) fn new(
        policy: String,
        digest: String,
        data_digest: Option<String>,
        evidence: Evidence,
        asked: Asked,
    ) -> Self {
        let Evidence { fuel, calls, log, ledger, memory: _ } = evidence;
        let (denial, refused, rules, truncated) = (None, None, None, Vec::new());
        Self {
            policy,
            digest,
            data_digest,
            fuel,
            host_calls: calls,
            log,
            ledger,
            asked,
            denial,
            refused,
            rules,
            truncated,
        }
    }

    /// Adds the policy's refusal, or weft's refusal of its answer, if the error is one.
    pub(super) fn refused_with(self, error: &AttachError) -> Self {
        let denial = match error {
            AttachError::Denied { denial, .. } => Some(denial.clone()),
            _ => None,
        };
        Self { denial, refused: error.refusal(), ..self }
    }

    /// Adds the rules of the call.
    pub(super) fn with_rules(self, rules: Rules) -> Self {
        Self { rules: Some(rules), ..self }
    }
}

impl From<Trace> for Attempt {
    fn from(trace: Trace) -> Self {
        let Trace { policy, digest, data_digest, fuel, host_calls, log, ledger, rules, request, .. } = trace;
        Self {
            policy,
            digest,
            data_digest,
            fuel,
            host_calls,
            log,
            ledger,
            asked: Asked::Addresses(request),
            denial: None,
            refused: None,
            rules,
            truncated: Vec::new(),
        }
    }
}

/// What the journal says about an attachment: `choice`, `choice_monitor`, `monitor` and `truncated` beside the keys of the
/// decision.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Traces {
    /// How its delegate was chosen, where a policy did.
    pub choice: Option<ChoiceTrace>,
    /// How its addresses were decided, where a policy did.
    pub decision: Option<Trace>,
    /// What the monitored policy would have decided.
    pub monitor: Option<MonitorTrace>,
    /// What the monitored policy of `select` would have chosen.
    pub choice_monitor: Option<MonitorTrace>,
    /// Parts that were left out, because the record was too large.
    pub truncated: Vec<String>,
}

/// The key of the choice.
const CHOICE: &str = "choice";
/// The key of the monitored policy's trace.
const MONITOR: &str = "monitor";
/// The key of the monitored choice's trace.
const CHOICE_MONITOR: &str = "choice_monitor";
/// The key of the parts that were left out.
const TRUNCATED: &str = "truncated";

// === impl Traces ===

impl Traces {
    /// Parses the journal's text; an empty text has no traces.
    pub(super) fn parse(text: &str) -> serde_json::Result<Self> {
        if text.is_empty() {
            return Ok(Self::default());
        }
        let mut value: Value = serde_json::from_str(text)?;
        let mut take = |key| value.as_object_mut().and_then(|object| object.remove(key));
        let (choice, monitor, choice_monitor) = (take(CHOICE), take(MONITOR), take(CHOICE_MONITOR));
        let truncated = take(TRUNCATED).map(serde_json::from_value).transpose()?.unwrap_or_default();
        let choice = choice.map(serde_json::from_value).transpose()?;
        let monitor = monitor.map(serde_json::from_value).transpose()?;
        let choice_monitor = choice_monitor.map(serde_json::from_value).transpose()?;
        let nothing_more = value.as_object().is_some_and(serde_json::Map::is_empty);
        let decision = if nothing_more { None } else { Some(serde_json::from_value(value)?) };
        Ok(Self { choice, decision, monitor, choice_monitor, truncated })
    }

    /// Returns the journal's text, however large.
    pub(super) fn to_json(&self) -> serde_json::Result<String> {
        #[derive(Serialize)]
        struct Text<'a> {
            #[serde(flatten)]
            decision: &'a Option<Trace>,
            // `CHOICE`
            #[serde(skip_serializing_if = "Option::is_none")]
            choice: &'a Option<ChoiceTrace>,
            // `MONITOR`
            #[serde(skip_serializing_if = "Option::is_none")]
            monitor: &'a Option<MonitorTrace>,
            // `CHOICE_MONITOR`
            #[serde(skip_serializing_if = "Option::is_none")]
            choice_monitor: &'a Option<MonitorTrace>,
            // `TRUNCATED`
            #[serde(skip_serializing_if = "Vec::is_empty")]
            truncated: &'a Vec<String>,
        }
        let Self { choice, decision, monitor, choice_monitor, truncated } = self;
        serde_json::to_string(&Text { decision, choice, monitor, choice_monitor, truncated })
    }
}

#[cfg(test)]
pub(super) mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

    use serde_json::json;

    use super::*;

    pub(in crate::attach) fn decision() -> Trace {
        let attachment = json!({"network": "n", "container_id": "c", "ifname": "eth0"});
        let request = json!({
            "attachment": attachment, "pod": null, "node": {"name": "n", "labels": []}, "identities": [], "requested": [],
            "mac": null, "cni_args": [], "held": [], "range_sets": [], "resolver": null, "config": "{}",
            "cni_version": "1.1.0", "now": 1, "seed": 2,
        });
        Trace {
            policy: "p".into(),
            digest: "d".into(),
            reason: "r".into(),
            candidates: Vec::new(),
            data_digest: Some("d".into()),
            routes: Vec::new(),
            dns: None,
            release: ReleaseRule::Free,
            claimed: Vec::new(),
            fuel: 1,
            host_calls: 2,
            micros: 3,
            log: vec![LogLine { level: crate::policy::LogLevel::Warn, text: "w".into() }],
            ledger: Exchanges::default(),
            fallback: None,
            rules: Some(Rules::default()),
            request: serde_json::from_value(request).expect("a request"),
        }
    }

    pub(in crate::attach) fn choice() -> ChoiceTrace {
        let decision = decision().request;
        ChoiceTrace {
            policy: "p".into(),
            digest: "d".into(),
            data_digest: None,
            delegate: "lan".into(),
            settings: vec![("mtu".into(), json!(9000))],
            reason: "r".into(),
            fuel: 1,
            host_calls: 0,
            log: Vec::new(),
            rules: None,
            request: ChoiceRequest {
                attachment: decision.attachment,
                pod: None,
                node: decision.node,
                cni_args: Vec::new(),
                candidates: Vec::new(),
                files: Vec::new(),
                config: "{}".into(),
                cni_version: "1.1.0".into(),
                now: 1,
                seed: 2,
            },
        }
    }

    #[test]
    fn all_that_there_can_be_survives_the_journal() {
        for choice in [None, Some(choice())] {
            for decision in [None, Some(decision())] {
                let traces = Traces { choice: choice.clone(), decision, ..Traces::default() };
                assert_eq!(Traces::parse(&traces.to_json().expect("a text")).expect("whole"), traces);
            }
        }
        assert_eq!(Traces::parse("").expect("whole"), Traces::default());
    }

    #[test]
    fn a_decision_by_itself_reads_as_it_always_did() {
        let text = serde_json::to_string(&decision()).expect("a text");
        let traces = Traces::parse(&text).expect("whole");
        assert_eq!((traces.choice, traces.decision), (None, Some(decision())));
        Traces::parse("{\"policy\": 1}").expect_err("damaged");
        Traces::parse("nonsense").expect_err("damaged");
    }
}
