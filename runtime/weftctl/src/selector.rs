//! Which attachments a command shows: those of a network, a pod, or a container.

use clap::Args;
use weft_host_abi::types::Attachment;

#[derive(Debug, Args)]
pub(crate) struct Selector {
    /// Only this network.
    #[arg(long, value_name = "NAME")]
    network: Option<String>,
    /// Only this pod: its name, or namespace/name.
    #[arg(long, value_name = "POD")]
    pod: Option<String>,
    /// Only containers whose id starts with this.
    #[arg(long, value_name = "ID")]
    container: Option<String>,
}

impl Selector {
    /// Returns whether an attachment is shown; `pod` is its pod's namespace and name.
    pub(crate) fn matches(&self, attachment: &Attachment, pod: Option<&str>) -> bool {
        self.network.as_ref().is_none_or(|network| *network == attachment.network)
            && self.container.as_ref().is_none_or(|id| attachment.container_id.starts_with(id.as_str()))
            && self.pod.as_ref().is_none_or(|wanted| pod.is_some_and(|pod| is_pod(wanted, pod)))
    }
}

/// Returns whether `which`, a pod's name or its namespace and name, names a pod.
pub(crate) fn is_pod(which: &str, pod: &str) -> bool {
    pod == which || pod.split_once('/').is_some_and(|(_namespace, name)| name == which)
}
