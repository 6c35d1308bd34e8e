//! `weftctl agent`: the node's daemon. One thread, one event loop, one unix socket.
//!
//! Its one job today is DHCP: what takes longer than a CNI call, and outlives it. A further job is a module beside `dhcp`, with
//! its requests in `weft_core::agent`.
//!
//! Invariants: what a caller was told is in the store before the reply leaves; ending the agent, however it ends, releases
//! nothing; namespaces are entered on threads of their own (`weft_core::netlink`), never on the loop's.

mod clock;
mod dhcp;
mod server;
mod signals;
mod store;
mod timespan;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use tokio::runtime::Builder;
use tokio::task::LocalSet;
use weft_core::agent::{self, Reply, Request, SOCKET};
use weft_dhcp::Pace;
use weft_host_abi::types::Attachment;

use self::dhcp::Leases;
use self::store::LeaseStore;
use crate::output::Output;

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

/// A line for the log, which is stderr: whoever starts the agent keeps it.
#[derive(Debug, Clone, Copy)]
struct Log(Output);

impl Log {
    fn say(self, line: &str) {
        self.0.note(line);
    }
}

/// The leases of a running agent.
fn show(socket: &Path, output: Output) -> anyhow::Result<ExitCode> {
    let limit = Some(Duration::from_secs(10));
    let Reply::Status(status) = agent::ask(socket, &Request::Status, limit)? else {
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
    let log = Log(output);
    let store = LeaseStore::open(state)?;
    let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    let pace = Pace {
        timeout: millis(args.timeout),
        resend_max: millis(args.resendmax),
        resend_timeout: millis(args.resendtimeout),
    };
    // Before any thread starts, so that all of them have it blocked.
    let signals = signals::block()?;
    let runtime = Builder::new_current_thread().enable_all().build().context("cannot start the event loop")?;
    let local = LocalSet::new();
    let ended = local.block_on(&runtime, async {
        let leases = Leases::new(store, pace, args.hostprefix.clone(), log);
        // Before the socket is there: whoever asks finds what was known.
        leases.resume()?;
        let listener = server::listen(&args.socket)?;
        if let Some(file) = &args.pidfile {
            std::fs::write(file, format!("{}\n", std::process::id()))
                .with_context(|| format!("cannot write {}", file.display()))?;
        }
        log.say(&format!("listening on {}", args.socket.display()));
        tokio::task::spawn_local(server::serve(listener, leases, log));
        signals::wait(signals).await
    });
    // Only what is ours: another agent may have the path by now.
    if ended.is_ok() {
        std::fs::remove_file(&args.socket).ok();
        if let Some(file) = &args.pidfile {
            std::fs::remove_file(file).ok();
        }
    }
    let signal = ended?;
    log.say(&format!("ended by {signal}; leases go on with the next start"));
    Ok(ExitCode::SUCCESS)
}
