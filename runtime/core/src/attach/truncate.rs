//! Keeps the record of a decision small: a pod's annotations alone may have 256 KiB, and they are the tenant's.
//!
//! A record that is too large loses one part after the other, the least useful for a repetition last, until it fits. It
//! says which parts it lost.

use weft_host_abi::types::Pod;

use super::comparison::MonitorTrace;
use super::trace::{Asked, Attempt, Traces};
use crate::policy::Exchanges;

/// Maximum bytes of a record.
pub(super) const RECORD_MAX: usize = 64 << 10;

/// How many candidates, routes and the like remain where there are too many.
const SOME: usize = 8;

/// Takes a part out of a record.
type Cut<T> = (&'static str, fn(&mut T));

/// The parts of an attachment's record, in the order in which they are left out.
const OF_TRACES: [Cut<Traces>; 7] = [
    ("annotations", |traces| pods(traces).for_each(annotations)),
    ("ledger", |traces| {
        traces.decision.iter_mut().for_each(|trace| exchanges(&mut trace.ledger));
        monitors(traces).for_each(|monitor| exchanges(&mut monitor.ledger));
    }),
    ("log", |traces| {
        traces.decision.iter_mut().for_each(|trace| trace.log.clear());
        traces.choice.iter_mut().for_each(|trace| trace.log.clear());
    }),
    ("monitor", |traces| (traces.monitor, traces.choice_monitor) = (None, None)),
    ("files", |traces| {
        traces.choice.iter_mut().flat_map(|trace| &mut trace.request.files).for_each(|file| file.content = None);
    }),
    ("answer", |traces| {
        if let Some(trace) = &mut traces.decision {
            trace.candidates.iter_mut().for_each(|candidates| candidates.truncate(SOME));
            trace.routes.truncate(SOME);
            trace.dns = None;
        }
        traces.choice.iter_mut().for_each(|trace| trace.settings.clear());
    }),
    ("request", |traces| {
        pods(traces).for_each(|pod| {
            pod.labels.clear();
            pod.annotations.clear();
            pod.namespace_labels.clear();
        });
        for request in traces.decision.iter_mut().map(|trace| &mut trace.request) {
            (request.config, request.range_sets, request.resolver) = (String::new(), Vec::new(), None);
            (request.cni_args, request.requested, request.held) = (Vec::new(), Vec::new(), Vec::new());
            request.node.labels.clear();
        }
        for request in traces.choice.iter_mut().map(|trace| &mut trace.request) {
            (request.config, request.candidates, request.cni_args) = (String::new(), Vec::new(), Vec::new());
            request.node.labels.clear();
        }
    }),
];

/// The parts of a failed call's record.
const OF_ATTEMPT: [Cut<Attempt>; 3] = [
    ("annotations", |attempt| {
        let pod = match &mut attempt.asked {
            Asked::Addresses(request) => &mut request.pod,
            Asked::Delegate(request) => &mut request.pod,
        };
        pod.iter_mut().for_each(annotations);
    }),
    ("ledger", |attempt| exchanges(&mut attempt.ledger)),
    ("log", |attempt| attempt.log.clear()),
];

// === impl Traces ===

impl Traces {
    /// Returns the journal's text, without parts that would make it too large.
    pub(super) fn into_text(mut self) -> serde_json::Result<String> {
        if self.choice.is_none() && self.decision.is_none() {
            return Ok(String::new());
        }
        let mut text = self.to_json()?;
        for (part, cut) in OF_TRACES {
            if text.len() <= RECORD_MAX {
                break;
            }
            let before = self.clone();
            cut(&mut self);
            note_truncated(self != before, &mut self.truncated, part);
            text = self.to_json()?;
        }
        Ok(text)
    }
}

// === impl Attempt ===

impl Attempt {
    /// Leaves parts out while the record is too large.
    pub(super) fn truncate_to_fit(&mut self, fits: impl Fn(&Self) -> bool) {
        for (part, cut) in OF_ATTEMPT {
            if fits(self) {
                return;
            }
            let before = self.clone();
            cut(self);
            note_truncated(*self != before, &mut self.truncated, part);
        }
    }
}

fn note_truncated(lost: bool, truncated: &mut Vec<String>, part: &str) {
    if lost && !truncated.iter().any(|known| known == part) {
        truncated.push(part.to_owned());
    }
}

fn pods(traces: &mut Traces) -> impl Iterator<Item = &mut Pod> {
    let decision = traces.decision.iter_mut().filter_map(|trace| trace.request.pod.as_mut());
    decision.chain(traces.choice.iter_mut().filter_map(|trace| trace.request.pod.as_mut()))
}

fn monitors(traces: &mut Traces) -> impl Iterator<Item = &mut MonitorTrace> {
    traces.monitor.iter_mut().chain(&mut traces.choice_monitor)
}

/// Empties the values. A policy may ask for their keys.
fn annotations(pod: &mut Pod) {
    pod.annotations.iter_mut().for_each(|(_key, value)| value.clear());
}

fn exchanges(ledger: &mut Exchanges) {
    ledger.dropped += ledger.recorded.len();
    ledger.recorded.clear();
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

    use serde_json::json;
    use weft_host_abi::types::{DeclaredFile, Route};

    use super::super::rules::Rules;
    use super::super::trace::Trace;
    use super::super::trace::tests::{choice, decision};
    use super::*;
    use crate::policy::{Evidence, Exchange, LogLevel, LogLine};

    /// A trace with a pod whose annotations and ledger answers have these sizes.
    fn large_trace(annotation: usize, questions: usize) -> Trace {
        let mut trace = decision();
        let annotations = vec![("note".to_owned(), "x".repeat(annotation))];
        trace.request.pod = Some(Pod { name: "web-0".into(), annotations, ..Pod::default() });
        let answer = Exchange::HeldBy { owner: "o".repeat(1000), answer: Vec::new() };
        trace.ledger.recorded = vec![answer; questions];
        trace
    }

    #[test]
    fn a_record_is_bounded_and_says_what_it_lost() {
        let kept = |traces: Traces| {
            let text = traces.into_text().expect("a text");
            assert!(text.len() <= RECORD_MAX, "{} bytes", text.len());
            Traces::parse(&text).expect("whole")
        };
        let of =
            |decision: Trace| kept(Traces { decision: Some(decision), choice: Some(choice()), ..Traces::default() });
        let whole = of(large_trace(1000, 20));
        assert_eq!((whole.decision, whole.truncated), (Some(large_trace(1000, 20)), Vec::<String>::new()));
        let found = of(large_trace(200 << 10, 20));
        assert_eq!(found.truncated, ["annotations"]);
        assert_eq!(found.decision, Some(large_trace(0, 20)), "nothing else is lost");
        let found = of(large_trace(200 << 10, 200));
        assert_eq!(found.truncated, ["annotations", "ledger"]);
        assert_eq!(found.decision.as_ref().expect("a decision").ledger.dropped, 200);
        // A monitor that adds to it later loses its own part, and what is lost stays known.
        let mut later = found;
        later.monitor = Some(MonitorTrace { ledger: large_trace(0, 200).ledger, ..MonitorTrace::of_policy("m") });
        let later = kept(later);
        assert_eq!(later.truncated, ["annotations", "ledger"]);
        assert_eq!(later.monitor.expect("a monitor").ledger.dropped, 200);
    }

    #[test]
    fn a_record_whose_parts_are_all_huge_fits_too() {
        let mut trace = large_trace(200 << 10, 250);
        let long = "y".repeat(100 << 10);
        let net = "10.0.0.1/8".parse().expect("a prefix");
        (trace.candidates, trace.routes) = (vec![vec![net; 10_000]], vec![Route::new(net, None); 2000]);
        trace.log = vec![LogLine { level: LogLevel::Warn, text: long.clone() }];
        trace.request.pod.as_mut().expect("a pod").labels.push(("l".into(), long.clone()));
        trace.request.config.clone_from(&long);
        let mut chosen = choice();
        chosen.settings = vec![("mtu".into(), json!(long))];
        let file = DeclaredFile { name: "f".into(), path: "/f".into(), content: Some(long) };
        chosen.request.files = vec![file];
        let text = Traces { decision: Some(trace), choice: Some(chosen), ..Traces::default() }.into_text();
        let text = text.expect("a text");
        assert!(text.len() <= RECORD_MAX, "{} bytes", text.len());
        let traces = Traces::parse(&text).expect("whole");
        assert_eq!(traces.truncated, ["annotations", "ledger", "log", "files", "answer", "request"]);
        assert_eq!(traces.decision.expect("a decision").request.pod.expect("a pod").name, "web-0");
    }

    #[test]
    fn a_failed_call_is_kept_without_what_makes_it_large() {
        let asked = |annotation| Asked::Addresses(large_trace(annotation, 0).request);
        let attempt = |annotation| {
            Attempt::new("p".into(), "d".into(), None, Evidence::default(), asked(annotation))
                .with_rules(Rules::default())
        };
        let fits = |attempt: &Attempt| serde_json::to_string(attempt).is_ok_and(|text| text.len() < 10_000);
        let mut kept = attempt(200 << 10);
        kept.truncate_to_fit(fits);
        assert_eq!((&kept.truncated[..], &kept.asked), (&["annotations".to_owned()][..], &asked(0)));
        let mut small = attempt(10);
        small.truncate_to_fit(fits);
        assert_eq!(small, attempt(10));
    }
}
