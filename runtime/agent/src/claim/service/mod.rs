//! The service `claim`. `turns` does its background work: drain and sweep. `state` handles a ledger that was frozen or
//! restored. `door` opens the store.

mod cells;
mod counts;
mod door;
mod refused;
mod same;
mod state;
mod tell;
#[cfg(test)]
mod tests;
mod turns;

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::Instant;
use weft_core::agent::claim::{ClaimReply, ClaimRequest, ClusterClaims};
use weft_core::agent::{Fault, Refusal};
use weft_core::attach::{NetnsState, netns_state};
use weft_core::ledger::remote::{Runs, Seen};
use weft_core::store::NodeStore;

use self::counts::Counts;
pub use self::door::{ClaimDoor, Claimant, Gate};
use crate::Log;
use crate::claim::any::AnyBackend;
use crate::claim::backend::kept::Keeper;
use crate::claim::backend::kubernetes::ClientSource;
use crate::claim::backend::{Backend, Cells, Listing, WriteError};
use crate::claim::cells::{CellError, KnownCells};
use crate::claim::grant::{GrantError, Granted};
use crate::claim::object::{Identity, LedgerState, Persistent};
use crate::claim::persist::report_conflict;
use crate::claim::pool::KnownPools;
use crate::claim::round::Refusal as Refused;
use crate::claim::taken::Lists;
use crate::claim::{Conflict, Looks, now};
use crate::events::Events;
use crate::server::{Deadline, Handler};

/// The ledger of the agent's own cluster.
const KUBERNETES: &str = r#"{"type":"kubernetes"}"#;
/// An older ADD has ended, or fails at its compare-and-set. Longer than the longest deadline of an ADD.
const OLDEST_INTENT: u64 = 120;
/// How often to look for tombstones.
const TICK: Duration = Duration::from_secs(1);
/// How often each ledger's state is read.
const STATE: Duration = Duration::from_secs(5);
/// How often the reverse sweep runs. A list by label costs the server a scan of all claims.
const SWEEP: Duration = Duration::from_secs(6 * 3600);
/// How often owned cells are compared with the ledger. Also after every failure.
const COMPARE: Duration = Duration::from_secs(60);
/// A ledger that this node has not used for a week, and in which it has nothing, is ignored: no request lives that
/// long.
const REMEMBERED: u64 = 7 * 24 * 3600;
/// A ledger that did not answer for longer may have lost what this node has: a person may have fenced the node meanwhile.
const CUT_OFF: Duration = Duration::from_secs(60);
/// Pause between two requests to an unreachable ledger.
const RETRY: Duration = Duration::from_secs(5);
/// Time limit of an ADD whose caller sets none.
const LONGEST: Duration = Duration::from_secs(100);

/// Cluster ledgers of a node.
pub struct Claims {
    store: RefCell<NodeStore>,
    identity: Identity,
    kubernetes: Option<ClientSource>,
    ledgers: RefCell<BTreeMap<String, Rc<Ledger>>>,
    pools: KnownPools,
    reports: Reports,
    log: Log,
}

/// What outlives a store that is opened again.
#[derive(Clone, Default)]
struct Reports {
    /// Counts since the agent started.
    counts: Rc<Counts>,
    /// Where to send events about pods, if the agent serves Kubernetes.
    events: Option<Events>,
}

/// One cluster ledger.
struct Ledger {
    backend: AnyBackend,
    progress: RefCell<Progress>,
    /// Allows one check of its state at a time.
    looking: Mutex<()>,
    /// The knowledge of its domains and cells.
    known: KnownCells,
    /// Held while changing this node's cells.
    cells: Mutex<()>,
    /// Lists of taken addresses.
    lists: Lists,
    /// Whether a round of its background work is under way.
    works: Cell<bool>,
}

/// What was done for a ledger since the agent started.
#[derive(Debug, Default)]
struct Progress {
    started: bool,
    state: LedgerState,
    confirmed: u64,
    /// The epoch for which older intents and versions were dropped.
    cleared: Option<u64>,
    /// Conflicts found in the last rounds, each with its number of rounds.
    conflicts: Vec<(Conflict, u32)>,
    /// The position in the history that is stored.
    noted: Option<Seen>,
    /// The logged reason for a doubt.
    doubt: Option<String>,
    next_state: Option<Instant>,
    next_sweep: Option<Instant>,
    next_compare: Option<Instant>,
    /// An owned cell was not in the ledger any more: everything is compared again.
    lost_cells: bool,
    /// See [`LedgerNode::outlives_taint`](crate::claim::LedgerNode::outlives_taint).
    outlives_taint: bool,
    /// A person has fenced this machine in this boot, although it runs.
    is_fenced: bool,
    /// Entries that the ledger refused, or that somebody else has, are compared again then.
    next_reassert: Option<Instant>,
    /// The last logged error, so that each is logged once.
    trouble: Option<String>,
    /// Since when the ledger has not answered.
    trouble_since: Option<Instant>,
    /// What the ledger refuses and was logged.
    refused: BTreeSet<String>,
    /// When tombstones that stay are looked at again.
    looks: Looks,
    /// Holders of another store of this machine that the last sweep left alone.
    foreign: usize,
}

/// The outcome of one round for a ledger.
enum Round {
    /// The ledger answered.
    Answered,
    /// It failed recently and was skipped.
    Skipped,
}

impl Claims {
    /// Opens the node's store for the cluster ledgers of a node and its machine.
    ///
    /// # Errors
    /// The store cannot be opened.
    fn open_as(
        state_dir: &Path,
        (node, machine): (&str, &str),
        kubernetes: Option<ClientSource>,
        reports: Reports,
        log: Log,
    ) -> anyhow::Result<Rc<Self>> {
        let boot_id = weft_core::netlink::boot_id()?;
        let mut store = NodeStore::open_unless(state_dir, &boot_id, &weft_core::attach::no_attachments)?;
        let identity =
            Identity { node: node.to_owned(), machine: machine.to_owned(), store_id: store.store_id()?, boot_id };
        // Before serving requests: give back what an earlier boot had. If one of its namespaces still exists, only the
        // boot id has changed, and the kernel is the same.
        let released = store.release_older_boots(&|entry| netns_state(entry) == NetnsState::There, now())?;
        if released > 0 {
            log.info(&format!("{released} cluster addresses of an earlier boot are given back"));
        }
        store.resume_cells(now())?;
        Ok(Rc::new(Self {
            store: RefCell::new(store),
            identity,
            kubernetes,
            ledgers: RefCell::default(),
            pools: KnownPools::default(),
            reports,
            log,
        }))
    }

    fn ledger(&self, text: &str) -> Result<Rc<Ledger>, Refusal> {
        if let Some(ledger) = self.ledgers.borrow().get(text) {
            return Ok(Rc::clone(ledger));
        }
        let backend = AnyBackend::new(text, self.kubernetes.as_ref())
            .map_err(|error| Refusal::new(Fault::Unavailable, error.to_string()))?;
        let seen = self.store.borrow().seen(text).map_err(|error| internal(&error))?;
        backend.history().resume(seen, now());
        let ledger = Rc::new(Ledger {
            backend,
            progress: RefCell::default(),
            looking: Mutex::default(),
            known: KnownCells::default(),
            cells: Mutex::default(),
            lists: Lists::default(),
            works: Cell::default(),
        });
        self.ledgers.borrow_mut().insert(text.to_owned(), Rc::clone(&ledger));
        Ok(ledger)
    }

    async fn grant(
        &self,
        nonce: &str,
        (cell_size, pool): (u32, &str),
        deadline: Deadline,
    ) -> Result<ClaimReply, Refusal> {
        let row = self.store.borrow().remote_row(nonce).map_err(|error| internal(&error))?;
        let row = row.ok_or_else(|| refuse(&GrantError::Withdrawn))?;
        let ledger = self.ledger(&row.ledger)?;
        let deadline = Instant::now() + deadline.remaining(LONGEST);
        self.begin(&row.ledger, &ledger, deadline).await?;
        ledger.progress.borrow().may_grant().map_err(|error| refuse(&error))?;
        match self.run(&row, &ledger, (cell_size, deadline), pool).await {
            Ok(Granted::All) => {
                // A connection that broke meanwhile may lead to another history.
                self.begin(&row.ledger, &ledger, deadline).await?;
                ledger.progress.borrow().may_grant().map_err(|error| refuse(&error))?;
                Ok(ClaimReply::Granted)
            }
            Ok(Granted::Lost { want, taken }) => {
                if row.owner.is_ipam_claim() {
                    report_conflict(&ledger.backend, &row, &taken).await;
                }
                Ok(ClaimReply::Lost { want, taken })
            }
            Err(error) => {
                if matches!(error, GrantError::Doubt(_)) {
                    // Do this at once, so that nobody else gets an address.
                    ledger.progress.borrow_mut().next_state = None;
                }
                Err(refuse(&error))
            }
        }
    }

    async fn persistent(&self, ledger: &str, namespace: &str, name: &str) -> Result<ClaimReply, Refusal> {
        let ledger = self.ledger(ledger)?;
        let found = ledger.backend.persistent(namespace, name).await;
        match found.map_err(|error| Refusal::new(Fault::Unavailable, error.to_string()))? {
            Some(Persistent { uid, ips, .. }) => Ok(ClaimReply::Persistent { uid, ips }),
            None => Err(refuse(&GrantError::NoIpamClaim(format!("{namespace}/{name}")))),
        }
    }

    async fn keep(&self, ledger: &str, keeper: &Keeper) -> Result<ClaimReply, Refusal> {
        let kept = self.ledger(ledger)?.backend.keep(keeper).await;
        let Persistent { uid, ips, .. } = kept.map_err(|error| Refusal::new(Fault::Unavailable, error.to_string()))?;
        Ok(ClaimReply::Kept { name: keeper.claim(), uid, ips })
    }

    async fn taken(
        &self,
        (ledger, domain): (&str, &str),
        spans: &[(std::net::IpAddr, std::net::IpAddr)],
    ) -> Result<ClaimReply, Refusal> {
        let ledger = self.ledger(ledger)?;
        let has_cells = ledger.known.sizes.borrow().get(domain) != Some(&0);
        let cells = if has_cells { ledger.backend.blocks(Listing::Domain(domain)).await } else { Ok(Vec::new()) };
        let cells = cells.map_err(|error| Refusal::new(Fault::Unavailable, error.to_string()))?;
        let claims = ledger.lists.taken(&ledger.backend, domain, spans).await;
        let claims = claims.map_err(|error| Refusal::new(Fault::Unavailable, error.to_string()))?;
        let mut runs = Runs::clone(&claims);
        for block in cells.into_iter().filter(|block| !block.spec.shared) {
            runs.insert_run(block.spec.first, block.spec.last_address());
        }
        Ok(ClaimReply::Taken(runs.iter().collect()))
    }
}

impl Handler for Claims {
    type Service = ClusterClaims;

    async fn handle(&self, request: ClaimRequest, deadline: Deadline) -> Result<ClaimReply, Refusal> {
        match request {
            ClaimRequest::Grant { nonce, cell_size, pool } => {
                let begin = Instant::now();
                let granted = self.grant(&nonce, (cell_size, &pool), deadline).await;
                self.reports.counts.took(begin.elapsed());
                granted
            }
            ClaimRequest::Persistent { ledger, namespace, name } => self.persistent(&ledger, &namespace, &name).await,
            ClaimRequest::Pool { ledger, name } => self.pools.declared(&self.ledger(&ledger)?.backend, &name).await,
            ClaimRequest::Keep { ledger, namespace, pod, uid, network, interface } => {
                self.keep(&ledger, &Keeper { namespace, pod, uid, network, interface }).await
            }
            ClaimRequest::Cell { want, known } => self.cell(&want, &known, deadline).await,
            ClaimRequest::Taken { ledger, domain, spans } => self.taken((&ledger, &domain), &spans).await,
        }
    }
}

fn refuse(error: &GrantError) -> Refusal {
    Refusal::new(fault(error), error.to_string())
}

fn fault(error: &GrantError) -> Fault {
    match error {
        GrantError::Withdrawn | GrantError::OtherAddresses(_) | GrantError::NoIpamClaim(_) => Fault::Conflict,
        GrantError::Cell(CellError::Withdrawn) => Fault::Conflict,
        GrantError::Deadline(_) | GrantError::Cell(CellError::Deadline(_)) => Fault::Deadline,
        GrantError::Write(error) | GrantError::Cell(CellError::Write(error)) => match error {
            WriteError::Refused(_) => Fault::Internal,
            _ => Fault::Unavailable,
        },
        GrantError::Fenced | GrantError::Cell(CellError::Fenced) => Fault::Unavailable,
        GrantError::Doubt(_) | GrantError::Cell(CellError::Doubt(_) | CellError::Read(_)) => Fault::Unavailable,
        GrantError::Cell(CellError::Domain(_)) => Fault::Request,
        GrantError::Store(_) | GrantError::Cell(CellError::Store(_)) => Fault::Internal,
    }
}

fn internal(error: &dyn std::error::Error) -> Refusal {
    Refusal::new(Fault::Internal, error.to_string())
}
