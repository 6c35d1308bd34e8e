//! `weftctl agent`: runs the node's daemon, or shows what it looks after.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use weft_agent::{Options, Pace};
use weft_core::agent::lease::{Reply, Request};
use weft_core::agent::{self, Lease, SOCKET};
use weft_host_abi::types::Attachment;

use crate::output::Output;
use crate::timespan;

#[derive(Debug, Args)]
pub(crate) struct AgentArgs {
    /// The unix socket to listen on.
    #[arg(long, value_name = "PATH", default_value = SOCKET)]
    socket: PathBuf,
    /// Show the leases of the agent that is running there, and end.
    #[arg(long)]
    status: bool,
    /// Put before every namespace path, for an agent that sees the host's files elsewhere.
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
    /// After this an attachment without a lease fails.
    #[arg(long, value_name = "TIME", default_value = "208s", value_parser = timespan::parse)]
    resendtimeout: Duration,
}

/// The leases of a running agent.
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
    let options = Options {
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
