//! The results as a table: one measure per line, one policy per column.

use super::Report;
use super::measure::{Measured, Percentiles};
use crate::output::Output;

/// Additional range sets are only in the JSON.
const SETS: usize = 8;

type Cell<'a> = &'a dyn Fn(&Measured) -> String;

pub(super) fn print(report: &Report<'_>, output: Output) -> anyhow::Result<()> {
    if !output.json {
        output.lines(
            &(),
            &[
                format!(
                    "{} pods on {} nodes, {} at a time, {} in a burst, {} % of StatefulSets, seed {}",
                    report.pods, report.nodes, report.running, report.burst, report.stateful_percent, report.seed
                ),
                String::new(),
            ],
        )?;
    }
    let head: Vec<&str> = std::iter::once("").chain(report.policies.iter().map(|of| of.policy.as_str())).collect();
    output.fitted(report, &head, rows(report.policies), false)?;
    let reasons = report
        .policies
        .iter()
        .flat_map(|of| of.why.iter().map(move |(kind, why)| format!("\n{}, first {kind}: {why}", of.policy)));
    if output.json { Ok(()) } else { output.lines(&(), &reasons.collect::<Vec<_>>()) }
}

fn rows(policies: &[Measured]) -> Vec<Vec<String>> {
    let mut rows = Vec::new();
    let mut row = |title: &str, cell: Cell<'_>| {
        rows.push(std::iter::once(title.to_owned()).chain(policies.iter().map(cell)).collect());
    };
    row("pods with an address", &|of| format!("{} of {}", of.granted, of.pods));
    let mut kinds: Vec<&String> = policies.iter().flat_map(|of| of.refused.keys()).collect();
    kinds.sort();
    kinds.dedup();
    for kind in kinds {
        row(&format!("  refused: {kind}"), &|of| of.refused.get(kind).copied().unwrap_or_default().to_string());
    }
    row("conflicts per claim", &|of| format!("{:.3}", of.conflicts_per_claim));
    row("  of 99 % of the pods, at most", &|of| of.conflicts_p99.to_string());
    row("  per claim on the worst node", &|of| format!("{:.3}", of.worst_node_conflicts_per_claim));
    row("time to an address: median, 99 %", &|of| format!("{} ms, {} ms", of.wait_ms.median, of.wait_ms.p99));
    row("calls of the policy per pod", &|of| format!("{:.2}", of.calls_per_pod));
    row("fuel per call", &|of| of.fuel_per_call.to_string());
    row("lists of the ledger", &|of| of.lists.to_string());
    row("pool exhausted at", &|of| of.exhausted_at.map_or_else(|| "-".to_owned(), |at| format!("{at} claims")));
    sets(policies, &mut row);
    row("evenness of range sets", &|of| format!("{:.3}", of.evenness_of_sets));
    row("evenness of nodes", &|of| format!("{:.3}", of.evenness_of_nodes));
    row("  pods with an address, worst node", &|of| format!("{:.1} %", of.worst_node_granted));
    row("fragmentation of free addresses", &|of| format!("{:.1} %", of.fragmentation));
    row("claims until reuse: least, median", &|of| min_and_median(of.reuse_claims));
    row("seconds until reuse: least, median", &|of| min_and_median(of.reuse_seconds));
    row("returning pods with their address", &|of| format!("{} of {}", of.returned_to_own, of.returned));
    rows
}

/// Adds the final fill level of each range set, and when the pool was
/// exhausted.
fn sets(policies: &[Measured], row: &mut dyn FnMut(&str, Cell<'_>)) {
    let names = policies.first().map(|of| of.sets.as_slice()).unwrap_or_default();
    for (place, set) in names.iter().enumerate().take(SETS) {
        let empty = |of: &Measured| of.sets.get(place).and_then(|set| set.taken_when_exhausted);
        row(&format!("  {}", set.name), &|of| {
            empty(of).map_or_else(|| "-".to_owned(), |taken| format!("{taken} of {}", number(set.size)))
        });
    }
    for (place, set) in names.iter().enumerate().take(SETS) {
        let taken = |of: &Measured| of.sets.get(place).map_or(0, |set| set.taken);
        row(&format!("in use of {}", set.name), &|of| format!("{} of {}", taken(of), number(set.size)));
    }
}

fn min_and_median(of: Percentiles) -> String {
    if of.count == 0 { "-".to_owned() } else { format!("{}, {}", of.min, of.median) }
}

/// Formats a size, which may saturate for an IPv6 range.
fn number(size: u64) -> String {
    if size >= u64::MAX / 2 { "2^64".to_owned() } else { size.to_string() }
}
