//! `weftctl failures`: the ADDs that failed on this node lately, from the records that `explain` shows in full.

use std::path::Path;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Args;
use serde_json::json;
use weft_core::attach::{Failure, failures};

use crate::output::{Output, ago};
use crate::selector::Selector;

#[derive(Debug, Args)]
pub(crate) struct FailuresArgs {
    #[command(flatten)]
    selector: Selector,
    /// Also show container ids, and each message on one line.
    #[arg(long)]
    wide: bool,
}

/// A failure, and how often it was repeated: kubelet retries a pod with new container ids.
struct Repeated<'a> {
    last: &'a Failure,
    times: usize,
}

impl Repeated<'_> {
    /// Returns the pod, or the beginning of the container id if there is no pod.
    fn pod_or_container(&self) -> String {
        let failure = self.last;
        failure.pod.clone().unwrap_or_else(|| failure.attachment.container_id.chars().take(12).collect())
    }

    fn cells(&self, wide: bool) -> Vec<String> {
        let Failure { time, attachment, code, msg, .. } = self.last;
        let mut cells = vec![
            ago(*time),
            self.times.to_string(),
            self.pod_or_container(),
            attachment.network.clone(),
            attachment.ifname.clone(),
            code.to_string(),
            msg.clone(),
        ];
        if wide {
            cells.push(attachment.container_id.clone());
        }
        cells
    }
}

/// Prints the failures, the latest first.
pub(crate) fn run(args: &FailuresArgs, state: &Path, output: Output) -> anyhow::Result<ExitCode> {
    let mut kept = failures(state).context("cannot read the records of failed ADDs")?;
    kept.retain(|failure| args.selector.matches(&failure.attachment, failure.pod.as_deref()));
    kept.reverse();
    let documents: Vec<_> = kept.iter().map(document).collect();
    let rows = repeated(&kept).iter().map(|row| row.cells(args.wide)).collect();
    let head = ["last", "times", "pod", "network", "if", "code", "message", "container"];
    let count = if args.wide { head.len() } else { head.len() - 1 };
    output.fitted(&documents, &head[..count], rows, args.wide)?;
    Ok(ExitCode::SUCCESS)
}

/// Returns each failure once, in the order of its latest record.
fn repeated(latest_first: &[Failure]) -> Vec<Repeated<'_>> {
    let mut rows: Vec<Repeated<'_>> = Vec::new();
    for failure in latest_first {
        match rows.iter_mut().find(|row| is_same(row.last, failure)) {
            Some(row) => row.times += 1,
            None => rows.push(Repeated { last: failure, times: 1 }),
        }
    }
    rows
}

/// Returns whether two records are of the same failure. A container without a pod is compared by its id.
fn is_same(one: &Failure, other: &Failure) -> bool {
    let who = |failure: &Failure| failure.pod.clone().unwrap_or_else(|| failure.attachment.container_id.clone());
    let what = |failure: &Failure| (failure.attachment.network.clone(), failure.attachment.ifname.clone());
    who(one) == who(other) && what(one) == what(other) && (one.code, &one.msg) == (other.code, &other.msg)
}

fn document(failure: &Failure) -> serde_json::Value {
    let attachment = &failure.attachment;
    json!({ "time": failure.time, "pod": failure.pod, "network": attachment.network, "ifname": attachment.ifname,
            "containerID": attachment.container_id, "code": failure.code, "msg": failure.msg,
            "details": failure.details, "policy": failure.attempt.as_ref().map(|attempt| &attempt.policy) })
}

#[cfg(test)]
mod tests {
    use weft_host_abi::types::Attachment;

    use super::*;

    fn failure(time: u64, container: &str, pod: Option<&str>, msg: &str) -> Failure {
        let attachment = Attachment { network: "net".into(), container_id: container.into(), ifname: "eth0".into() };
        let pod = pod.map(str::to_owned);
        let msg = msg.to_owned();
        Failure { time, attachment, pod, code: 102, msg, details: String::new(), attempt: None, monitor: None }
    }

    #[test]
    fn retries_of_a_pod_are_one_row() {
        let kept = [
            failure(9, "c3", Some("a/web"), "full"),
            failure(8, "c2", Some("a/web"), "full"),
            failure(7, "x", None, "full"),
            failure(6, "c1", Some("a/web"), "denied"),
            failure(5, "y", None, "full"),
            failure(4, "c0", Some("a/web"), "full"),
        ];
        let rows: Vec<_> =
            repeated(&kept).iter().map(|row| (row.last.time, row.pod_or_container(), row.times)).collect();
        let row = |time, who: &str, times| (time, who.to_owned(), times);
        assert_eq!(rows, [row(9, "a/web", 3), row(7, "x", 1), row(6, "a/web", 1), row(5, "y", 1)]);
    }
}
