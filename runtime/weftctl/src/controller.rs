//! `weftctl controller`: gives back addresses that no node gives back itself.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use weft_agent::ProbeAddress;
use weft_agent::claim::{ControllerOptions, control};

use crate::timespan;

#[derive(Debug, Args)]
pub(crate) struct ControllerArgs {
    /// Credentials for the API server [default: the service account of the pod].
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// The namespace of the Lease that lets one replica work.
    #[arg(long, value_name = "NAME", env = "POD_NAMESPACE", default_value = "kube-system")]
    namespace: String,
    /// The name of this replica.
    #[arg(long, value_name = "NAME", env = "POD_NAME")]
    identity: String,
    /// The time between two rounds.
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = timespan::parse)]
    interval: Duration,
    /// How long the leader keeps the Lease without renewing it.
    #[arg(long, value_name = "TIME", default_value = "15s", value_parser = timespan::parse)]
    lease: Duration,
    /// How long a Node must be gone before a pool with `reclaimDeletedNodes` takes it for dead.
    #[arg(long, value_name = "TIME", default_value = "5m", value_parser = timespan::parse)]
    deleted_node_grace: Duration,
    /// Where to serve /livez, /readyz and /metrics: ADDRESS:PORT, or the absolute path of a socket.
    #[arg(long, value_name = "ADDRESS")]
    http: Option<ProbeAddress>,
}

pub(crate) fn run(args: &ControllerArgs) -> anyhow::Result<ExitCode> {
    control(&ControllerOptions {
        kubeconfig: args.kubeconfig.clone(),
        namespace: args.namespace.clone(),
        identity: args.identity.clone(),
        every: args.interval.max(Duration::from_secs(1)),
        lease: args.lease.max(Duration::from_secs(1)),
        deleted_grace: args.deleted_node_grace,
        probes: args.http.clone(),
    })?;
    Ok(ExitCode::SUCCESS)
}
