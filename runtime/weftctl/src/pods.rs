//! `weftctl pods`: the networks of this node's pods, one row per attachment, from `weft-pod`'s journal entries.

use std::path::Path;
use std::process::ExitCode;

use anyhow::Context;
use clap::Args;
use serde_json::{Value, json};
use weft_core::attach;
use weft_core::journal::Entry;
use weft_core::pod::{PluginCall, PodAttachment, PodRecord, Progress};
use weft_core::store::{NodeStore, Role};
use weft_host_abi::types::Attachment;

use crate::output::{Output, ago};
use crate::selector::is_pod;

#[derive(Debug, Args)]
pub(crate) struct PodsArgs {
    /// Only this pod: its name, or namespace/name.
    pod: Option<String>,
    /// Only this network: a definition as namespace/name, or the name of its configuration.
    #[arg(long, value_name = "NAME")]
    network: Option<String>,
}

/// The pods of this node, according to `weft-pod`.
pub(crate) struct Pods(pub(crate) Vec<Pod>);

/// A pod of this node.
pub(crate) struct Pod {
    pub(crate) container_id: String,
    pub(crate) record: PodRecord,
    created: u64,
}

impl Pods {
    /// Unreadable entries are reported besides the answer, and do not hide others.
    pub(crate) fn read(entries: &[Entry], output: Output) -> Self {
        let mut pods = Vec::new();
        for entry in entries.iter().filter(|entry| entry.key.role == Role::Pod) {
            let container_id = entry.key.attachment.container_id.clone();
            match PodRecord::read(entry) {
                Ok(record) => pods.push(Pod { container_id, record, created: entry.created }),
                Err(error) => output.print_note(&format!("{}: {}", error.msg, error.details)),
            }
        }
        Self(pods)
    }

    /// Returns `NAMESPACE/NAME` of the pod of a container.
    pub(crate) fn name_of(&self, container_id: &str) -> Option<String> {
        self.0.iter().find(|pod| pod.container_id == container_id).map(Pod::name)
    }
}

impl Pod {
    fn name(&self) -> String {
        format!("{}/{}", self.record.namespace, self.record.name)
    }

    /// Returns whether a word matches it: its name, with or without the namespace, or the beginning of its container
    /// id.
    pub(crate) fn matches(&self, which: &str) -> bool {
        is_pod(which, &self.name()) || self.container_id.starts_with(which)
    }

    /// Describes its networks.
    pub(crate) fn describe(&self) -> Vec<String> {
        let mut lines = vec![format!("pod {} (uid {}), container {}", self.name(), self.record.uid, self.container_id)];
        lines.extend(self.record.attachments.iter().map(|attachment| {
            let external = |plugin: &PluginCall| if plugin.external { " (external)" } else { "" };
            let plugins = attachment.plugins.iter().map(|plugin| format!("{}{}", plugin.kind, external(plugin)));
            let state = match attachment.progress {
                Progress::Done => "",
                Progress::Planned => ", not attached yet",
                Progress::Attempted => ", attempted",
            };
            let plugins = plugins.collect::<Vec<_>>().join(", ");
            format!("  {:<11} {} by {plugins}{state}", attachment.ifname, attachment.label)
        }));
        lines
    }
}

/// An attachment of a pod.
struct Row {
    /// Namespace and name.
    pod: String,
    uid: String,
    container_id: String,
    ifname: String,
    /// The pod's name of the network, and the name in its configuration.
    label: String,
    network: String,
    addresses: Vec<String>,
    policies: Vec<String>,
    plugins: Vec<String>,
    progress: Progress,
    created: u64,
}

impl Row {
    fn read(pod: &Pod, attachment: &PodAttachment, entries: &[Entry]) -> anyhow::Result<Self> {
        let container_id = &pod.container_id;
        let key = Attachment {
            network: attachment.network.clone(),
            container_id: container_id.clone(),
            ifname: attachment.ifname.clone(),
        };
        let own = entries.iter().find(|entry| entry.key.role != Role::Pod && entry.key.attachment == key);
        let traces = own.map(attach::traces).transpose();
        let traces = traces.with_context(|| format!("the decision trace of container {container_id} is damaged"))?;
        let policies = traces.map(|traces| {
            let names = [traces.choice.map(|choice| choice.policy), traces.decision.map(|decision| decision.policy)];
            names.into_iter().flatten().collect()
        });
        Ok(Self {
            pod: pod.name(),
            uid: pod.record.uid.clone(),
            container_id: container_id.clone(),
            ifname: attachment.ifname.clone(),
            label: attachment.label.clone(),
            network: attachment.network.clone(),
            addresses: addresses(attachment.result.as_ref()),
            policies: policies.unwrap_or_default(),
            plugins: attachment.plugins.iter().map(|plugin| plugin.kind.clone()).collect(),
            progress: attachment.progress,
            created: pod.created,
        })
    }

    fn document(&self) -> Value {
        json!({ "pod": self.pod, "uid": self.uid, "containerID": self.container_id, "ifname": self.ifname,
                "network": self.label, "name": self.network, "addresses": self.addresses, "policies": self.policies,
                "plugins": self.plugins, "state": self.progress, "created": self.created })
    }

    fn cells(&self) -> Vec<String> {
        let addresses = match self.progress {
            Progress::Done => self.addresses.join(" "),
            Progress::Planned | Progress::Attempted => "not attached".to_owned(),
        };
        // If no policy of weft decides, show the plugins.
        let decider = if self.policies.is_empty() {
            format!("none ({})", self.plugins.join(", "))
        } else {
            self.policies.join(", ")
        };
        vec![self.pod.clone(), self.ifname.clone(), self.label.clone(), addresses, decider, ago(self.created)]
    }
}

/// Returns the addresses of a CNI result of any version.
fn addresses(result: Option<&Value>) -> Vec<String> {
    let ips = result.and_then(|result| result.get("ips")).and_then(Value::as_array);
    let old = ["ip4", "ip6"].iter().filter_map(|key| result?.get(*key)?.get("ip"));
    let new = ips.into_iter().flatten().filter_map(|ip| ip.get("address"));
    new.chain(old).filter_map(|address| address.as_str().map(str::to_owned)).collect()
}

fn is_wanted(row: &Row, args: &PodsArgs) -> bool {
    args.pod.as_deref().is_none_or(|pod| is_pod(pod, &row.pod))
        && args.network.as_deref().is_none_or(|network| network == row.label || network == row.network)
}

/// Returns exit code 1 if a pod or a network was named and nothing was found.
pub(crate) fn run(args: &PodsArgs, state: &Path, output: Output) -> anyhow::Result<ExitCode> {
    let entries = match NodeStore::open_read_only(state)? {
        Some(store) => store.entries(None)?,
        None => Vec::new(),
    };
    let mut shown = Vec::new();
    for pod in Pods::read(&entries, output).0 {
        for attachment in &pod.record.attachments {
            shown.push(Row::read(&pod, attachment, &entries)?);
        }
    }
    shown.retain(|row| is_wanted(row, args));
    // Sort by pod; its networks keep their order.
    shown.sort_by(|one, other| (&one.pod, &one.container_id).cmp(&(&other.pod, &other.container_id)));
    let documents: Vec<Value> = shown.iter().map(Row::document).collect();
    let head = ["pod", "interface", "network", "addresses", "policy", "age"];
    output.fitted(&documents, &head, shown.iter().map(Row::cells).collect(), false)?;
    let asked = args.pod.is_some() || args.network.is_some();
    Ok(if shown.is_empty() && asked { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_every_result_version() {
        let new = json!({"ips": [{"address": "10.0.0.2/24"}, {"address": "fd00::2/64"}]});
        assert_eq!(addresses(Some(&new)), ["10.0.0.2/24", "fd00::2/64"]);
        let old = json!({"ip4": {"ip": "10.0.0.2/24"}, "ip6": {"ip": "fd00::2/64"}});
        assert_eq!(addresses(Some(&old)), ["10.0.0.2/24", "fd00::2/64"]);
        assert!(addresses(Some(&json!({}))).is_empty() && addresses(None).is_empty());
    }
}
