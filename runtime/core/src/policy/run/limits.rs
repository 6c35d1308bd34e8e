//! The limits of a policy call. The only place with the defaults.

use std::path::PathBuf;
use std::time::Duration;

/// Limits of one call. A network without limits of its own gets [`Limits::default`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Units of guest computation; deterministic. The default is about 50 ms, a thousand times what the shipped
    /// policies use.
    pub fuel: u64,
    /// Wall-clock time of the whole call, checked whenever the guest calls the host. It bounds the ledger's part; fuel
    /// bounds the guest's.
    pub deadline: Duration,
    /// Bytes of each linear memory.
    pub memory: usize,
    /// Elements of each table.
    pub table_elements: usize,
    /// Core instances.
    pub instances: usize,
    /// Linear memories.
    pub memories: usize,
    /// Tables.
    pub tables: usize,
    /// Bytes that a guest may pass in one call or answer.
    pub call_bytes: usize,
    /// Handles a guest may hold.
    pub handles: usize,
    /// Host calls, including log lines.
    pub calls: u32,
    /// Number of log lines to keep; more are counted and dropped.
    pub log_lines: usize,
    /// Bytes to keep of a text: a log line, a denial, a problem.
    pub text_bytes: usize,
    /// Addresses of a decision.
    pub addresses: usize,
    /// Candidates of one address.
    pub candidates: usize,
    /// Routes of a decision.
    pub routes: usize,
    /// DNS entries of a decision, in total.
    pub dns_entries: usize,
    /// Settings of a choice.
    pub settings: usize,
    /// Bytes of a setting's value.
    pub setting_bytes: usize,
    /// Bytes of a configuration schema.
    pub schema_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            fuel: 200_000_000,
            deadline: Duration::from_secs(2),
            memory: 64 << 20,
            table_elements: 100_000,
            instances: 64,
            memories: 8,
            tables: 64,
            call_bytes: 1 << 20,
            handles: 1000,
            calls: 4096,
            log_lines: 64,
            text_bytes: 1024,
            addresses: 64,
            candidates: 256,
            routes: 1024,
            dns_entries: 64,
            settings: 64,
            setting_bytes: 64 << 10,
            schema_bytes: 256 << 10,
        }
    }
}

/// What a network grants its policy beyond the contract (nothing, by default), and where the policy runs.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Grants {
    /// Whether WASI may be imported: with an empty context, a clock that stands at the request's time, and seeded
    /// random numbers.
    pub wasi: bool,
    /// A directory that the policy may read at `/data`. Needs `wasi`.
    pub data: Option<PathBuf>,
    /// Whether calls are made in a process without rights. This is the node's rule, not a grant of the network. The
    /// calling process must then have a single thread.
    pub isolated: bool,
}
