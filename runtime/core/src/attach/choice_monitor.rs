//! A second policy that a network only monitors when a delegate is chosen, as `monitor` does for addresses. A choice
//! sees no ledger, so the same request is all that the policy needs, with its own configuration and files where it has
//! some.
//!
//! Invariants: the policy is asked after the result is printed. Whatever it does, and whatever fails here, adds at most
//! one line to the record.

use std::borrow::Cow;
use std::path::PathBuf;

use serde_json::Value;
use weft_host_abi::types::ChoiceRequest;

use super::call::Call;
use super::chosen::chosen;
use super::comparison::{MonitorTrace, Outcome};
use super::declared::declared_files;
use super::error::AttachError;
use super::failures;
use super::monitor_common::{compare, grants, keep, no_compiler};
use super::node::{Context, Node, Policies, Watch};
use super::policies::choice_reference;
use super::rules::limits;
use super::trace::{Asked, Attempt};
use crate::cni::Verb;
use crate::conf::{SelectConf, SelectMonitor, SelectOwn};
use crate::policy::{Called, Choice, Loaded, verify_choice};

/// An ADD in a network with a monitored delegate policy: the request, and the outcome.
pub(super) struct Watched {
    call: Call,
    policy: String,
    own: Option<SelectOwn>,
    request: ChoiceRequest,
    active: Active,
}

/// What the deciding policy did.
enum Active {
    /// Nothing comparable.
    Unknown,
    Chose {
        policy: String,
        outcome: Outcome,
    },
    Failed {
        policy: String,
        outcome: Outcome,
        record: Option<PathBuf>,
    },
}

/// Returns the watched ADD for a network whose `select` has a monitor.
pub(super) fn prepare(call: &Call, select: &SelectConf, request: &ChoiceRequest) -> Option<Watched> {
    let SelectMonitor { policy, own } = select.monitor.clone().filter(|_monitor| call.env.verb == Verb::Add)?;
    Some(Watched { call: call.clone(), policy, own, request: request.clone(), active: Active::Unknown })
}

// === impl Watched ===

impl Watch for Watched {
    fn failed(&mut self, attempt: Option<&Attempt>, error: String, record: Option<PathBuf>) {
        // The choice stands, whatever the ADD failed with later.
        let ours = attempt.filter(|attempt| matches!(attempt.asked, Asked::Delegate(_)));
        if let (Active::Unknown, Some(attempt)) = (&self.active, ours) {
            let outcome = attempt.denial.clone().map_or(Outcome::Failed(error), Outcome::Denied);
            self.active = Active::Failed { policy: attempt.policy.clone(), outcome, record };
        }
    }

    fn observe(self: Box<Self>, node: &mut Node<'_>) {
        let Self { call, active, .. } = self.as_ref();
        let (policy, outcome) = match active {
            Active::Unknown => return,
            Active::Chose { policy, outcome } | Active::Failed { policy, outcome, .. } => (policy, outcome),
        };
        let (context, policies) = (node.context, node.policies.clone());
        let mut trace = self.ask(context, &policies);
        compare(node.counts(), &call.network.name, outcome, &mut trace);
        node.counts().policy(&call.network.name, policy, "active", outcome.name());
        match active {
            Active::Chose { .. } => keep(node, call, |traces| traces.choice_monitor = Some(trace)),
            Active::Failed { record: Some(record), .. } => failures::add_monitor(record, trace),
            Active::Failed { record: None, .. } | Active::Unknown => {}
        }
    }
}

impl Watched {
    /// Sets the choice that counts.
    pub(super) fn decided(&mut self, policy: &str, delegate: &str, settings: &[(String, Value)], reason: &str) {
        let outcome = outcome(delegate, settings, reason);
        self.active = Active::Chose { policy: policy.to_owned(), outcome };
    }

    fn ask(&self, context: &Context, policies: &Policies) -> MonitorTrace {
        let began = std::time::Instant::now();
        let mut trace = MonitorTrace::of_policy(&self.policy);
        let ready = self.load(policies).and_then(|policy| Ok((policy, self.request()?)));
        match ready {
            Err(error) => trace.outcome = Outcome::Failed(error.chain()),
            Ok((policy, request)) => {
                let called = policy.choose(&request, &limits(&self.call.network));
                (trace.digest, trace.fuel) = (called.digest.clone(), called.evidence.fuel);
                trace.host_calls = called.evidence.calls;
                trace.outcome = self.judge(context, policy.name(), called);
                context.discard(policy);
            }
        }
        trace.micros = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
        trace
    }

    fn load(&self, policies: &Policies) -> Result<Loaded<Choice>, AttachError> {
        let reference = choice_reference(&self.policy)?;
        Ok(policies.get()?.load(&reference, &grants(&self.call.network), &no_compiler)?)
    }

    /// Returns the request as if the monitored policy chose.
    fn request(&self) -> Result<Cow<'_, ChoiceRequest>, AttachError> {
        let Some(own) = &self.own else { return Ok(Cow::Borrowed(&self.request)) };
        let files = declared_files(&own.files)?;
        Ok(Cow::Owned(ChoiceRequest { files, config: own.text.clone(), ..self.request.clone() }))
    }

    /// Returns what the choice would have led to: the delegate has to accept its settings, too.
    fn judge(&self, context: &Context, policy: &str, called: Called<weft_host_abi::types::Chosen>) -> Outcome {
        let choice = match called.outcome {
            Ok(Ok(choice)) => choice,
            Ok(Err(denial)) => return Outcome::Denied(denial),
            Err(error) => return Outcome::Failed(AttachError::from(error).chain()),
        };
        let verified = match verify_choice(policy, &choice, &self.request.candidates) {
            Ok(verified) => verified,
            Err(error) => return Outcome::Failed(AttachError::from(error).chain()),
        };
        let settings: Vec<_> = verified.settings.into_iter().map(|setting| (setting.key, setting.value)).collect();
        let usable = match self.call.network.select() {
            Some(select) => chosen(context, &self.call, select, (&verified.name, &settings)).map(drop),
            None => Ok(()),
        };
        match usable {
            Ok(()) => outcome(&verified.name, &settings, &verified.reason),
            Err(error) => Outcome::Failed(error.chain()),
        }
    }
}

fn outcome(delegate: &str, settings: &[(String, Value)], reason: &str) -> Outcome {
    Outcome::Chosen { delegate: delegate.to_owned(), settings: settings.to_vec(), reason: reason.to_owned() }
}
