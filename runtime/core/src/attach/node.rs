//! State that the attachments of one process share: the state directory, the policy engine, the open store, the log.

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use super::error::AttachError;
use super::evidence::no_attachments;
use super::liveness::{self, NetnsState};
use super::notice::Notice;
use super::trace::Attempt;
use crate::agent::counters::Counts;
use crate::journal::Entry;
use crate::log::{Level, Logger, Target};
use crate::netlink::{self, Executor, FilterSocket};
use crate::plan::Plan;
use crate::policy::compiler::compile_with_weftctl;
use crate::policy::{CompileAsk, CompileError, Evidence, LogLevel, PolicyRef, PolicyStore};
use crate::store::NodeStore;

/// Time limit of an external plugin. kubelet gives up on a sandbox after two minutes, which must also suffice for the
/// following DEL.
const PLUGIN_LIMIT: Duration = Duration::from_secs(50);

/// Compiles a component into the cache, or returns why it is not compiled.
pub type Compile = Box<dyn Fn(&CompileAsk<'_>) -> Result<(), CompileError>>;

/// What calls need from the program that runs them.
pub struct Context {
    /// The state directory: store, policies, compiled cache.
    pub state_dir: PathBuf,
    /// Compiles a component into the cache. `weft` has no compiler and runs `weftctl`.
    pub compile: Compile,
    /// Sees each plan before it is journalled. The rollback suite inserts an impossible op here; the programs do not
    /// use it.
    pub plan_hook: Box<dyn Fn(&mut Plan)>,
    /// Time limit of one call of an external plugin.
    pub plugin_limit: Duration,
    /// The process ends with the call. Whatever the kernel then frees by itself (memory, descriptors, locks) is not
    /// freed piece by piece before.
    pub short_lived: bool,
    /// Where the log goes.
    pub log: Target,
    /// Policies are called in workers, processes without rights. Only a process with a single thread at the time of the
    /// call can create them.
    pub isolated: bool,
}

impl Context {
    /// Creates a context for a state directory, with `weftctl` as the compiler.
    #[must_use]
    pub fn new(state_dir: PathBuf) -> Self {
        let compile_into = state_dir.clone();
        Self {
            state_dir,
            compile: Box::new(move |ask| compile_with_weftctl(&compile_into, ask)),
            plan_hook: Box::new(|_plan| ()),
            plugin_limit: PLUGIN_LIMIT,
            short_lived: false,
            log: Target::default(),
            isolated: false,
        }
    }

    /// Drops a value, or leaves that to the end of the process.
    pub(super) fn discard<T>(&self, thing: T) {
        if self.short_lived {
            std::mem::forget(thing);
        }
    }

    /// Returns whether a policy of this name is installed.
    pub(super) fn has_policy(&self, name: &str) -> bool {
        PolicyRef::shipped(name).is_ok_and(|policy| policy.path(&self.state_dir).is_file())
    }
}

/// The node, for the calls of one process: one policy engine, one open store, one log. Engine and store are opened on
/// first use.
pub struct Node<'a> {
    pub(super) context: &'a Context,
    pub(super) policies: Policies,
    pub(super) log: Log,
    /// ADDs in networks with a monitor, whose monitors are asked at the end.
    pub(super) watched: Vec<Box<dyn Watch>>,
    /// For the next teardown of this call.
    pub(super) filter_socket: Option<FilterSocket>,
    store: Option<NodeStore>,
    /// The sockets of the last CHECK, and the namespace path that it was for: a pod's networks are all in one namespace.
    checking: Option<(PathBuf, Executor)>,
}

/// An ADD in a network with a monitored policy.
pub(super) trait Watch {
    /// Sets the record of an ADD that failed, and the policy call in which it failed.
    fn failed(&mut self, attempt: Option<&Attempt>, error: String, record: Option<PathBuf>);

    /// Asks the monitored policy and records what it would have done.
    fn observe(self: Box<Self>, node: &mut Node<'_>);
}

/// The log, the counts, and the last policy call for the record of an ADD that fails.
#[derive(Debug)]
pub(super) struct Log {
    pub(super) logger: Logger,
    pub(super) counts: Counts,
    pub(super) attempt: Option<Attempt>,
    /// Whether the record of a failed ADD was kept.
    pub(super) has_kept_failure: bool,
    /// What a pod's owner should know.
    notices: Vec<Notice>,
}

/// The node's policies, opened by the first thread that needs them. A process has one store, because it has one engine.
#[derive(Clone)]
pub(super) struct Policies(Arc<(PathBuf, OnceLock<PolicyStore>)>);

// === impl Node ===

impl<'a> Node<'a> {
    /// Creates a node on which nothing is open yet.
    #[must_use]
    pub fn new(context: &'a Context) -> Self {
        let policies = Policies(Arc::new((context.state_dir.clone(), OnceLock::new())));
        let logger = Logger::new(&context.log);
        let counts = Counts::default();
        let log = Log { logger, counts, attempt: None, has_kept_failure: false, notices: Vec::new() };
        Self { context, policies, log, watched: Vec::new(), filter_socket: None, store: None, checking: None }
    }

    /// Returns the context.
    #[must_use]
    pub fn context(&self) -> &'a Context {
        self.context
    }

    /// Returns the log.
    #[must_use]
    pub fn logger(&self) -> &Logger {
        &self.log.logger
    }

    /// Logs a warning.
    pub fn log(&mut self, line: &str) {
        self.log.line(line);
    }

    /// Takes the lines that the log has kept, if it keeps any.
    #[must_use]
    pub fn take_log(&mut self) -> String {
        self.log.logger.take()
    }

    /// Returns the counts so far.
    pub fn counts(&mut self) -> &mut Counts {
        &mut self.log.counts
    }

    /// Writes the counts so far for the agent.
    pub fn write_counts(&mut self) {
        self.log.counts.write(&self.context.state_dir);
    }

    /// Returns whether an ADD failed and its record was kept.
    #[must_use]
    pub fn has_kept_failure(&self) -> bool {
        self.log.has_kept_failure
    }

    /// Takes what the pod's owner should know about the ADDs so far.
    #[must_use]
    pub fn take_notices(&mut self) -> Vec<Notice> {
        std::mem::take(&mut self.log.notices)
    }

    /// Returns the store and opens it on first use. The first open after a boot releases what the previous boot left:
    /// its namespaces, links and nftables elements disappeared with that kernel. Entries for which other plugins hold
    /// something are kept until DEL or GC.
    ///
    /// # Errors
    /// When the store cannot be opened.
    pub fn store(&mut self) -> Result<&mut NodeStore, AttachError> {
        self.store_and_log().map(|(store, _log)| store)
    }

    /// Closes the store if another file has its name by now: a rebuild has moved it aside. Called while the attachment
    /// is locked (by this call, or by the ADD that it finds at work), which a rebuild waits for.
    pub(super) fn leave_moved_store(&mut self) {
        if self.store.as_ref().is_some_and(|store| !store.is_in_place()) {
            self.store = None;
        }
    }

    /// Returns whether the store is open.
    pub(super) fn has_store(&self) -> bool {
        self.store.is_some()
    }

    /// Returns the store together with the log.
    pub(super) fn store_and_log(&mut self) -> Result<(&mut NodeStore, &mut Log), AttachError> {
        let store = match self.store.take() {
            Some(store) => store,
            None => self.open_store()?,
        };
        Ok((self.store.insert(store), &mut self.log))
    }

    /// Compares plans with the kernel, through the sockets of the host and of this namespace. The next comparison in the
    /// same namespace uses them again.
    pub(super) fn compare_in<T>(
        &mut self,
        netns: &Path,
        compare: impl FnOnce(&mut Executor) -> Result<T, AttachError>,
    ) -> Result<T, AttachError> {
        let mut executor = match self.checking.take() {
            Some((path, executor)) if path == netns => executor,
            _ => Executor::open(Some(netns))?,
        };
        let compared = compare(&mut executor)?;
        // After an error, answers to earlier requests may be left in the sockets.
        self.checking = Some((netns.to_owned(), executor));
        Ok(compared)
    }

    /// Returns whether [`super::observe`] has something to do.
    #[must_use]
    pub fn is_watched(&self) -> bool {
        !self.watched.is_empty()
    }

    /// Closes everything, or leaves that to the end of the process.
    pub fn leave(self) {
        self.context.discard(self);
    }

    fn open_store(&mut self) -> Result<NodeStore, AttachError> {
        let boot_id = netlink::boot_id()?;
        let mut store = NodeStore::open_unless(&self.context.state_dir, &boot_id, &no_attachments)?;
        if store.replaces_a_lost_one() {
            self.log(
                "the ledger of an earlier boot is gone; addresses that it kept for their owners, and those that \
                 rested, may be given out again",
            );
        }
        let now = crate::facts::now()?;
        let reaped = store.reap_previous_boots(&|entry| !entry.record.externals.is_empty() || is_there(entry), now)?;
        if !reaped.is_empty() {
            self.log(&format!("released {} attachments that ended with the previous boot", reaped.len()));
        }
        Ok(store)
    }
}

/// Returns whether the namespace of an entry from another boot exists. In that case the boot id changed, but not the
/// kernel (two containers share a state directory, or `/proc` is emulated).
fn is_there(entry: &Entry) -> bool {
    liveness::netns_state(entry) == NetnsState::There
}

impl Policies {
    /// Returns the policies and opens them on first use.
    pub(super) fn get(&self) -> Result<&PolicyStore, AttachError> {
        let (state_dir, store) = &*self.0;
        if let Some(store) = store.get() {
            return Ok(store);
        }
        let new = PolicyStore::new(state_dir)?;
        Ok(store.get_or_init(|| new))
    }
}

impl Log {
    /// Adds the log lines of a policy.
    pub(super) fn policy(&mut self, name: &str, evidence: &Evidence) {
        for line in &evidence.log {
            let level = match line.level {
                LogLevel::Debug => Level::Debug,
                LogLevel::Info => Level::Info,
                LogLevel::Warn => Level::Warn,
            };
            self.logger.line(level, &format!("policy {name:?}: {}", line.text));
        }
    }

    /// Adds a warning.
    pub(super) fn line(&mut self, line: &str) {
        self.logger.warn(line);
    }

    /// Adds something that the pod's owner should know, once.
    pub(super) fn add_notice(&mut self, notice: Notice) {
        if !self.notices.contains(&notice) {
            self.notices.push(notice);
        }
    }
}
