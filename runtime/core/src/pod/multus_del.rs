//! DEL of a sandbox that Multus made before weft took over its name. `weftctl install --take-over multus` kept Multus
//! beside weft, and only Multus knows the sandbox's delegates: it keeps a file for each sandbox (`cniDir`).
//!
//! Invariant: Multus is asked only about sandboxes that have such a file and that the journal does not know, so never
//! about weft's own. About others it would ask the API server, with credentials that nobody renews any more.

use std::os::unix::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::call::PodCall;
use crate::attach::{Node, kept_file};
use crate::cni::{CniError, code};
use crate::deadline;
use crate::exec::{self, Caller, ExecCall, Stderr};

/// The default of `cniDir`.
const CACHE: &str = "/var/lib/cni/multus";
/// The default of `daemonSocketDir`, and the socket there.
const SOCKET_DIR: &str = "/run/multus";
const SOCKET: &str = "multus.sock";
/// How long the daemon may take to accept a connection.
const PATIENCE: Duration = Duration::from_secs(1);

/// Calls DEL of the kept Multus with the same input, if it made the sandbox.
///
/// # Errors
/// Multus fails. DEL can be repeated.
pub(super) fn del(node: &mut Node<'_>, call: &PodCall) -> Result<(), CniError> {
    let Some(file) = kept_file(call.program, &call.env.path) else { return Ok(()) };
    if !dir(call, "cniDir", CACHE).join(&call.env.container_id).is_file() {
        return Ok(());
    }
    // Without its daemon, the shim cannot do anything, and DEL would never succeed.
    let socket = dir(call, "daemonSocketDir", SOCKET_DIR).join(SOCKET);
    if call.program == "multus-shim" && !is_answered(&socket) {
        node.log(&format!("{} is not asked: no daemon of Multus listens on {}", file.display(), socket.display()));
        return Ok(());
    }
    let answer = exec::exec_file(&file, &exec_call(call));
    answer.map(drop).map_err(|error| CniError::new(code::LEFTOVERS, format!("{}: {error}", file.display())))
}

/// Returns whether a daemon listens on a socket.
fn is_answered(socket: &Path) -> bool {
    let connected = SocketAddr::from_pathname(socket).and_then(|at| deadline::connect(&at, Instant::now() + PATIENCE));
    // A daemon that is busy is there.
    connected.map_or_else(|error| deadline::is_timeout(&error), |_stream| true)
}

fn exec_call(call: &PodCall) -> ExecCall<'_> {
    ExecCall {
        plugin: call.program,
        verb: "DEL",
        container_id: &call.env.container_id,
        netns: &call.env.netns,
        ifname: &call.env.ifname,
        args: &call.env.args,
        path: &call.env.path,
        stdin: &call.stdin,
        stderr: Stderr::Ours,
        limit: call.sandbox().limit,
        caller: Caller::Weft,
    }
}

/// Returns a directory of Multus' configuration.
fn dir(call: &PodCall, key: &str, default: &str) -> PathBuf {
    let given = call.conf.str(key).ok().flatten().filter(|dir| !dir.is_empty());
    Path::new(given.unwrap_or(default)).to_owned()
}
