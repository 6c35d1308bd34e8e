//! The node's daemon as a library: one thread, one event loop, one unix socket. `weftctl agent` runs it.
//!
//! A service is a module here that implements [`server::Handler`], its message types in `weft_core::agent`, and one line in
//! [`run`]. `dhcp` is the service `lease`: what takes longer than a CNI call, and outlives it.
//!
//! Invariants: each service fails alone; what a caller was answered is in the store before the reply leaves; ending the agent, however it ends, releases
//! nothing; namespaces are entered on threads of their own (`weft_core::netlink`), never on the loop's.

mod dhcp;
mod log;
pub mod server;
mod signals;

use std::path::{Path, PathBuf};
use std::rc::Rc;

use anyhow::Context as _;
use tokio::runtime::Builder;
use tokio::task::LocalSet;
pub use weft_dhcp::Pace;

use self::dhcp::{LeaseStore, Leases};
pub use self::log::Log;
use self::server::Services;

/// What an agent is started with.
#[derive(Debug, Clone)]
pub struct Options {
    /// The unix socket to listen on.
    pub socket: PathBuf,
    /// Put before every namespace path, for an agent that sees the host's files elsewhere.
    pub host_prefix: Option<PathBuf>,
    /// Where to write the process id.
    pub pid_file: Option<PathBuf>,
    /// How long DHCP exchanges are tried.
    pub pace: Pace,
}

/// Runs the agent until SIGTERM or SIGINT.
///
/// # Errors
/// The store or the socket cannot be opened, or another agent has them.
pub fn run(options: &Options, state: &Path) -> anyhow::Result<()> {
    let log = Log;
    let store = LeaseStore::open(state)?;
    // Before any thread starts, so that all of them have it blocked.
    let signals = signals::block()?;
    let runtime = Builder::new_current_thread().enable_all().build().context("cannot start the event loop")?;
    let local = LocalSet::new();
    let ended = local.block_on(&runtime, async {
        let leases = Leases::new(store, options.pace, options.host_prefix.clone(), log);
        // Before the socket is there, so that the first caller finds the leases that were known.
        leases.resume()?;
        let services = Services::default().with(leases);
        let listener = server::listen(&options.socket)?;
        if let Some(file) = &options.pid_file {
            std::fs::write(file, format!("{}\n", std::process::id()))
                .with_context(|| format!("cannot write {}", file.display()))?;
        }
        log.info(&format!("listening on {}", options.socket.display()));
        tokio::task::spawn_local(server::serve(listener, Rc::new(services), log));
        signals::wait(signals).await
    });
    // Only what is ours: another agent may have the path by now.
    if ended.is_ok() {
        std::fs::remove_file(&options.socket).ok();
        if let Some(file) = &options.pid_file {
            std::fs::remove_file(file).ok();
        }
    }
    let signal = ended?;
    log.info(&format!("ended by {signal}; leases go on with the next start"));
    Ok(())
}
