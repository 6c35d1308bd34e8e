//! `weftctl agent`: runs the node's daemon, or shows its leases.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use weft_agent::registry::{Access, stand_in_for_system_roots};
use weft_agent::{KubernetesOptions, Options, Pace, PolicyOptions, ProbeAddress, Source, SweepOptions};
use weft_core::agent::lease::{Reply, Request};
use weft_core::agent::{self, Lease, SOCKET};
use weft_core::exec::HostView;
use weft_host_abi::types::Attachment;

use crate::output::Output;
use crate::timespan;

#[derive(Debug, Args)]
pub(crate) struct AgentArgs {
    /// The unix socket to listen on.
    #[arg(long, value_name = "PATH", default_value = SOCKET)]
    socket: PathBuf,
    /// Print the leases of the running agent, then exit.
    #[arg(long)]
    status: bool,
    /// Prefix for every network namespace path, if the host's files are mounted elsewhere.
    #[arg(long, value_name = "DIR")]
    hostprefix: Option<PathBuf>,
    /// Write the process id to this file.
    #[arg(long, value_name = "FILE")]
    pidfile: Option<PathBuf>,
    /// How long a DHCP offer that was accepted may stay unconfirmed.
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = timespan::parse)]
    timeout: Duration,
    /// The longest delay between two tries to get a lease.
    #[arg(long, value_name = "TIME", default_value = "62s", value_parser = timespan::parse)]
    resendmax: Duration,
    /// The name of this node's Node object; with it the agent serves Kubernetes: pods, networks, statuses.
    #[arg(long, value_name = "NAME", env = "NODE_NAME")]
    node_name: Option<String>,
    /// Credentials for the API server [default: the service account of the pod that the agent runs in].
    #[arg(long, value_name = "FILE", requires = "node_name")]
    kubeconfig: Option<PathBuf>,
    /// kubelet's directory, for devices.
    #[arg(long, value_name = "DIR", default_value = "/var/lib/kubelet")]
    kubelet_dir: PathBuf,
    /// Serve /livez, /readyz and /metrics there: ADDRESS:PORT, :PORT, or the path of a unix socket.
    #[arg(long, value_name = "ADDRESS")]
    http: Option<ProbeAddress>,
    /// Directory of the node's network configurations; the agent fetches the policies that they name.
    #[arg(long, value_name = "DIR", default_value = "/etc/cni/net.d")]
    conf_dir: PathBuf,
    /// The trust file for policies from registries [default: trust.json in the state directory].
    #[arg(long, value_name = "FILE", env = "WEFT_TRUST")]
    trust: Option<PathBuf>,
    /// A registry or token server to access over plain HTTP, in addition to registries on this machine. May be repeated.
    /// NetworkAttachmentDefinitions can name a registry on this machine only if it is named here or in the trust file.
    #[arg(long, value_name = "HOST:PORT")]
    plain_http: Vec<String>,
    /// A PEM file with CA certificates for registries, in addition to the system's. May be repeated.
    #[arg(long, value_name = "FILE", env = "WEFT_REGISTRY_CA", value_delimiter = ':')]
    registry_ca: Vec<PathBuf>,
    /// Remove attachments that no runtime will send a DEL for.
    #[arg(long)]
    sweep: bool,
    /// The time between two rounds of the sweep.
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = timespan::parse)]
    sweep_interval: Duration,
    /// How long an attachment must look abandoned before the sweep removes it.
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = timespan::parse)]
    sweep_grace: Duration,
    /// The container runtime's CRI socket [default: the usual ones].
    #[arg(long, value_name = "PATH")]
    runtime_socket: Option<PathBuf>,
    /// How long an ADD waits for a DHCP lease before it fails.
    #[arg(long, value_name = "TIME", default_value = "208s", value_parser = timespan::parse)]
    resendtimeout: Duration,
}

impl AgentArgs {
    /// Returns what other vendors' plugins need.
    pub(crate) fn host_view(&self, state: &Path) -> HostView {
        HostView { state_dir: state.to_owned(), prefix: self.hostprefix.clone(), runtime: self.runtime_socket.clone() }
    }
}

/// Shows the leases of a running agent.
fn show(socket: &Path, output: Output) -> anyhow::Result<ExitCode> {
    let limit = Some(Duration::from_secs(10));
    let Reply::Status(status) = agent::ask::<Lease>(socket, &Request::Status, limit)? else {
        anyhow::bail!("the agent at {} answered something else", socket.display())
    };
    let cells = status.leases.iter().map(|lease| {
        let Attachment { network, container_id, ifname } = &lease.attachment;
        let addresses = lease.addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        let expires = lease.expires_in.map_or_else(String::new, |seconds| format!("{seconds}s"));
        vec![network.clone(), container_id.clone(), ifname.clone(), addresses, lease.state.clone(), expires]
    });
    let rows = cells.collect();
    output.table(&status, &["network", "container", "interface", "addresses", "lease", "expires"], rows)?;
    Ok(ExitCode::SUCCESS)
}

/// Runs until a signal ends it.
pub(crate) fn run(args: &AgentArgs, state: &Path, output: Output) -> anyhow::Result<ExitCode> {
    if args.status {
        return show(&args.socket, output);
    }
    let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    let kubernetes = args.node_name.clone().filter(|name| !name.is_empty()).map(|node| KubernetesOptions {
        node,
        source: args.kubeconfig.clone().map_or(Source::InCluster, Source::Kubeconfig),
        kubelet: args.kubelet_dir.clone(),
    });
    let sweep = SweepOptions {
        every: args.sweep_interval.max(Duration::from_secs(1)),
        grace: args.sweep_grace,
        runtime: args.runtime_socket.clone(),
    };
    let policies = PolicyOptions {
        conf_dir: Some(args.conf_dir.clone()),
        trust: args.trust.clone(),
        access: Access { plain_http: args.plain_http.clone(), ca_files: args.registry_ca.clone() },
    };
    stand_in_for_system_roots(&args.registry_ca);
    let options = Options {
        kubernetes,
        policies,
        probes: args.http.clone(),
        sweep: args.sweep.then_some(sweep),
        socket: args.socket.clone(),
        host_prefix: args.hostprefix.clone(),
        pid_file: args.pidfile.clone(),
        pace: Pace {
            timeout: millis(args.timeout),
            resend_max: millis(args.resendmax),
            resend_timeout: millis(args.resendtimeout),
        },
    };
    weft_agent::run(&options, state)?;
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

    use clap::CommandFactory as _;

    use super::*;

    /// `docs/agent.md` has a row for every option, with its environment variable and its default.
    #[test]
    fn every_option_is_documented() {
        let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/agent.md");
        let page = std::fs::read_to_string(page).unwrap();
        let rows: Vec<&str> = page.lines().filter(|line| line.starts_with("| `--")).collect();
        let command = crate::Cli::command();
        let agent = command.find_subcommand("agent").unwrap();
        let mut seen = 0;
        for option in agent.get_arguments().filter_map(|argument| Some((argument.get_long()?, argument))) {
            let (name, argument) = option;
            if ["help", "version"].contains(&name) {
                continue;
            }
            seen += 1;
            let starts =
                |row: &&&str| row.starts_with(&format!("| `--{name}`")) || row.starts_with(&format!("| `--{name} "));
            let row = rows.iter().find(starts);
            let row = row.unwrap_or_else(|| panic!("docs/agent.md has no row for --{name}"));
            if let Some(variable) = argument.get_env() {
                assert!(row.contains(&*variable.to_string_lossy()), "--{name}: {row}");
            }
            for value in argument.get_default_values() {
                assert!(row.contains(&*value.to_string_lossy()) || *value == *"false", "--{name}: {row}");
            }
        }
        assert_eq!(seen, rows.len(), "a row of docs/agent.md is about an option that does not exist");
    }
}
