//! `weftctl explain`: why an attachment has its addresses, from the decision trace in the journal; or why it failed,
//! from the records of failed ADDs.

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::Args;
use serde_json::json;
use weft_core::attach::{self, ChoiceTrace, Failure, MonitorTrace, Outcome, Traces};
use weft_core::journal::Entry;
use weft_core::policy::{LogLevel, LogLine};
use weft_core::store::{NodeStore, Role};

use crate::output::Output;
use crate::pods::Pods;
use crate::selector::is_pod;

#[derive(Debug, Args)]
pub(crate) struct ExplainArgs {
    /// Container id, its beginning, an address, or a pod's name (`NAME` or `NAMESPACE/NAME`).
    which: String,
    /// Only this interface.
    #[arg(long, value_name = "NAME")]
    ifname: Option<String>,
    /// Only this network.
    #[arg(long, value_name = "NAME")]
    network: Option<String>,
}

pub(crate) fn run(args: &ExplainArgs, state: &Path, output: Output) -> anyhow::Result<ExitCode> {
    let entries = match NodeStore::open_read_only(state)? {
        Some(store) => store.entries(None)?,
        None => Vec::new(),
    };
    let pods = Pods::read(&entries, output);
    let mut documents = Vec::new();
    let mut lines = Vec::new();
    for pod in pods.0.iter().filter(|pod| pod.matches(&args.which)) {
        lines.extend(pod.describe());
        documents.push(json!({ "pod": pod.record, "containerID": pod.container_id }));
    }
    for entry in entries.iter().filter(|entry| entry.key.role != Role::Pod) {
        let traces = attach::traces(entry).context("the decision trace is damaged");
        // A damaged trace of another attachment hides nothing. If no policy was asked, the pod's own entry names the
        // pod.
        let container = &entry.key.attachment.container_id;
        let pod = traces.as_ref().ok().and_then(pod_of).or_else(|| pods.name_of(container));
        if is_filtered(entry, args) && (matches(entry, args) || pod.is_some_and(|pod| is_pod(&args.which, &pod))) {
            let traces = traces?;
            lines.extend(describe(entry, &traces)?);
            documents.push(document(entry, &traces));
        }
    }
    let failures = attach::failures(state).context("cannot read the records of failed ADDs")?;
    for failure in failures.iter().filter(|failure| is_about(failure, args)) {
        lines.extend(failed(failure));
        documents.push(json!({ "failure": failure }));
    }
    if documents.is_empty() {
        bail!(
            "no attachment and no failed ADD matches {:?}; `weftctl ps` and `weftctl failures` list them",
            args.which
        );
    }
    output.lines(&documents, &lines)?;
    Ok(ExitCode::SUCCESS)
}

fn matches(entry: &Entry, args: &ExplainArgs) -> bool {
    let attachment = &entry.key.attachment;
    let by_address = entry.claims.iter().any(|(_, address)| address.to_string() == args.which);
    by_address || attachment.container_id.starts_with(&args.which)
}

/// Applies `--ifname` and `--network`.
fn is_filtered(entry: &Entry, args: &ExplainArgs) -> bool {
    let attachment = &entry.key.attachment;
    args.ifname.as_ref().is_none_or(|ifname| *ifname == attachment.ifname)
        && args.network.as_ref().is_none_or(|network| *network == attachment.network)
}

/// Returns `NAMESPACE/NAME` of the pod in the policy's request.
fn pod_of(traces: &Traces) -> Option<String> {
    let decision = traces.decision.as_ref().and_then(|trace| trace.request.pod.as_ref());
    let pod = decision.or_else(|| traces.choice.as_ref()?.request.pod.as_ref())?;
    (!pod.name.is_empty()).then(|| format!("{}/{}", pod.namespace, pod.name))
}

fn is_about(failure: &Failure, args: &ExplainArgs) -> bool {
    let attachment = &failure.attachment;
    let named = attachment.container_id.starts_with(&args.which)
        || failure.pod.as_ref().is_some_and(|pod| is_pod(&args.which, pod));
    named
        && args.ifname.as_ref().is_none_or(|ifname| *ifname == attachment.ifname)
        && args.network.as_ref().is_none_or(|network| *network == attachment.network)
}

/// Describes why there is no attachment.
fn failed(failure: &Failure) -> Vec<String> {
    let attachment = &failure.attachment;
    let ago = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |now| now.as_secs().saturating_sub(failure.time));
    let mut lines = vec![
        format!(
            "failed ADD of {} of container {} on network {}, {ago} s ago",
            attachment.ifname, attachment.container_id, attachment.network
        ),
        format!("  error       {} (code {})", failure.msg, failure.code),
    ];
    if !failure.details.is_empty() {
        lines.push(format!("  details     {}", failure.details));
    }
    lines.extend(failure.pod.iter().map(|pod| format!("  pod         {pod}")));
    if let Some(attempt) = &failure.attempt {
        lines.push(format!("  asked       {} ({})", attempt.policy, attempt.digest));
        lines.push(format!("  cost        {} fuel, {} host calls", attempt.fuel, attempt.host_calls));
        lines.extend(logged(&attempt.log));
        lines.extend(left_out(&attempt.truncated));
    }
    lines.extend(failure.monitor.iter().flat_map(monitor));
    lines
}

/// Describes what the monitored policy would have done.
fn monitor(trace: &MonitorTrace) -> Vec<String> {
    let mut lines = vec![format!("  monitor     {} ({}): {}", trace.policy, trace.digest, trace.verdict())];
    lines.extend(trace.differences.iter().map(|found| {
        format!("  different   {}: it {}, the monitored policy {}", found.part, found.active, found.monitor)
    }));
    if let Outcome::Failed(why) = &trace.outcome {
        lines.push(format!("  failed      {why}"));
    }
    lines.push(format!("  would cost  {} fuel, {} host calls, {} µs", trace.fuel, trace.host_calls, trace.micros));
    lines
}

/// Describes the parts that a record lacks.
fn left_out(truncated: &[String]) -> Option<String> {
    let parts = truncated.join(", ");
    (!truncated.is_empty()).then(|| format!("  left out    {parts}: the record would have more than 64 KiB"))
}

/// Returns what a policy logged.
fn logged(log: &[LogLine]) -> impl Iterator<Item = String> + '_ {
    log.iter().map(|line| format!("  log         {}: {}", level(line.level), line.text))
}

fn level(level: LogLevel) -> &'static str {
    match level {
        LogLevel::Debug => "debug",
        LogLevel::Info => "info",
        LogLevel::Warn => "warn",
    }
}

fn document(entry: &Entry, traces: &Traces) -> serde_json::Value {
    let attachment = &entry.key.attachment;
    let addresses: Vec<_> =
        entry.claims.iter().map(|(scope, address)| json!({ "scope": scope, "address": address })).collect();
    json!({
        "network": attachment.network,
        "containerID": attachment.container_id,
        "ifname": attachment.ifname,
        "netns": entry.record.netns,
        "created": entry.created,
        "addresses": addresses,
        "release": entry.release,
        "choice": traces.choice,
        "decision": traces.decision,
        "monitor": traces.monitor,
        "choiceMonitor": traces.choice_monitor,
        "truncated": traces.truncated,
    })
}

fn describe(entry: &Entry, traces: &Traces) -> anyhow::Result<Vec<String>> {
    let attachment = &entry.key.attachment;
    // Chained steps have no lease.
    let (_netns, plan) = attach::plans(entry)?.into_iter().next().unwrap_or_default();
    let mut addresses = entry.claims.iter().map(|(_, address)| address.to_string()).collect::<Vec<_>>();
    if plan.lease.is_some() {
        addresses.extend(plan.result.ips.iter().map(|ip| ip.address.to_string()));
    }
    let mut lines = vec![
        format!(
            "attachment {} of container {} on network {}",
            attachment.ifname, attachment.container_id, attachment.network
        ),
        format!("  addresses   {}", if addresses.is_empty() { "none".to_owned() } else { addresses.join(", ") }),
    ];
    lines.extend(left_out(&traces.truncated));
    lines.extend(traces.choice.iter().flat_map(choice));
    lines.extend(traces.choice_monitor.iter().flat_map(monitor));
    if let Some(lease) = &plan.lease {
        let by = format!("a DHCP server, by way of the agent at {}", lease.socket.display());
        lines.push(format!("  decided by  {by} (`weftctl agent --status`)"));
        return Ok(lines);
    }
    let Some(trace) = &traces.decision else {
        lines.push(
            "  decided by  no policy of weft's (layer 2, an external IPAM plugin, or an imported claim)".to_owned(),
        );
        return Ok(lines);
    };
    lines.push(format!("  decided by  {} ({})", trace.policy, trace.digest));
    if let Some(fallback) = &trace.fallback {
        lines.push(format!("  instead of  {}: {}", fallback.instead_of, fallback.because));
    }
    lines.push(format!("  because     {}", trace.reason));
    for (candidates, claimed) in trace.candidates.iter().zip(&trace.claimed) {
        let place = candidates.iter().position(|candidate| candidate == claimed).map_or(0, |place| place + 1);
        lines.push(format!("  candidate   {claimed} was number {place} of {} offered", candidates.len()));
    }
    lines.push(format!("  cost        {} fuel, {} host calls, {} µs", trace.fuel, trace.host_calls, trace.micros));
    lines.extend(logged(&trace.log));
    lines.push(format!("  on release  {}", release(entry)));
    lines.extend(traces.monitor.iter().flat_map(monitor));
    if let Some(pod) = &trace.request.pod {
        let labels = pod.labels.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>();
        // Labels may be known of a container that no pod is named for.
        let name = if pod.name.is_empty() { "-".to_owned() } else { format!("{}/{}", pod.namespace, pod.name) };
        lines.push(format!("  pod         {name} {}", labels.join(",")));
    }
    Ok(lines)
}

/// Describes how the delegate was chosen.
fn choice(choice: &ChoiceTrace) -> Vec<String> {
    let names = choice.request.candidates.iter().map(|candidate| candidate.name.as_str()).collect::<Vec<_>>();
    let mut lines = vec![
        format!("  delegate    {} of {}", choice.delegate, names.join(", ")),
        format!("  chosen by   {} ({})", choice.policy, choice.digest),
        format!("  because     {}", choice.reason),
    ];
    lines.extend(choice.settings.iter().map(|(key, value)| format!("  set         {key} = {value}")));
    lines.push(format!("  cost        {} fuel, {} log lines", choice.fuel, choice.host_calls));
    lines.extend(logged(&choice.log));
    lines
}

fn release(entry: &Entry) -> String {
    use weft_host_abi::types::ReleaseRule;
    match &entry.release {
        ReleaseRule::Free => "free at once".to_owned(),
        ReleaseRule::Cooldown(seconds) => format!("rests for {seconds} s"),
        ReleaseRule::Keep(owner) => format!("kept for {owner}"),
    }
}
