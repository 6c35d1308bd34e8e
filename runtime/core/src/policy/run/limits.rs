//! What a policy call may use. The one place with the defaults.

use std::path::PathBuf;
use std::time::Duration;

/// Limits of one call. [`Limits::default`] is what networks get that say nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Units of guest computation; deterministic. The default is about 50 ms, a thousand times what the shipped policies use.
    pub fuel: u64,
    /// All of the call by the clock, checked whenever the guest calls the host. It bounds the ledger's part; fuel bounds the guest's.
    pub deadline: Duration,
    /// Bytes of linear memory, each.
    pub memory: usize,
    /// Elements of a table, each.
    pub table_elements: usize,
    /// Core instances.
    pub instances: usize,
    /// Linear memories.
    pub memories: usize,
    /// Tables.
    pub tables: usize,
    /// Bytes a guest may hand over in one call or answer.
    pub call_bytes: usize,
    /// Handles a guest may hold.
    pub handles: usize,
    /// Calls of the host, log lines included.
    pub calls: u32,
    /// Log lines that are kept; more are counted and dropped.
    pub log_lines: usize,
    /// Bytes of a text that are kept: a log line, a denial, a problem.
    pub text_bytes: usize,
    /// Addresses of a decision.
    pub addresses: usize,
    /// Candidates of one address.
    pub candidates: usize,
    /// Routes of a decision.
    pub routes: usize,
    /// DNS entries of a decision, all together.
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

/// What a network grants its policy beyond the contract (nothing, by default), and where it runs.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Grants {
    /// WASI may be imported: with an empty context, a clock that stands at the request's time and seeded random numbers.
    pub wasi: bool,
    /// A directory the policy may read, at `/data`. Needs `wasi`.
    pub data: Option<PathBuf>,
    /// Not a grant of the network but the node's rule: calls are made in a process without rights. The process that makes
    /// them must have one thread then.
    pub isolated: bool,
}
