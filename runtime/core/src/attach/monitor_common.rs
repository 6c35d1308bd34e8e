//! The common part of both monitors (`monitor`, `choice_monitor`): loads without a compiler, calls in a worker, counts,
//! and records.
//!
//! Invariant: a monitored policy cannot end this process, whose exit code the runtime still reads.

use super::call::Call;
use super::comparison::{MonitorTrace, Outcome, differences};
use super::node::Node;
use super::trace::Traces;
use crate::agent::counters::Counts;
use crate::conf::Network;
use crate::policy::{CompileAsk, CompileError, Grants};

/// Returns what the network grants its policies. A monitor runs in a worker on every node: the result is printed, so nobody
/// waits for the start of a process.
pub(super) fn grants(network: &Network) -> Grants {
    let conf = &network.terms.grants;
    Grants { wasi: conf.wasi, data: conf.data.clone(), isolated: true }
}

/// A compiler would make the process wait: `weftctl policy compile` and the agent compile beforehand.
pub(super) fn no_compiler(_ask: &CompileAsk<'_>) -> Result<(), CompileError> {
    Err(CompileError::Failed("a monitor does not wait for a compiler".to_owned()))
}

/// Compares with the outcome that counted, and counts the monitor's.
pub(super) fn compare(counts: &mut Counts, network: &str, outcome: &Outcome, trace: &mut MonitorTrace) {
    trace.differences = differences(outcome, &trace.outcome);
    counts.policy(network, &trace.policy, "monitor", trace.outcome.name());
    counts.policy(network, &trace.policy, "compared", trace.verdict());
}

/// Adds to the trace of the journal entry. An entry that a DEL has removed meanwhile is skipped.
pub(super) fn keep(node: &mut Node<'_>, call: &Call, note: impl FnOnce(&mut Traces)) {
    let key = call.key();
    let Ok(store) = node.store() else { return };
    let Ok(Some(entry)) = store.entry(&key) else { return };
    let mut record = entry.record;
    let Ok(mut traces) = Traces::parse(&record.trace) else { return };
    note(&mut traces);
    if let Ok(text) = traces.into_text() {
        record.trace = text;
        store.update_record(&key, &record).ok();
    }
}
