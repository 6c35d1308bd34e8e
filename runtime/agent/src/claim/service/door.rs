//! The door of the service `claim`: opens the node's store for it, and opens it again after `weftctl ledger rebuild`,
//! which gives the store a new id and perhaps a new file.
//!
//! Invariants: no request is answered from a store that is not the node's store any more. If the store cannot be opened,
//! requests are refused with the reason, and opening is retried until it succeeds. A node that the agent serves under a
//! wrong name gets no claims. Counters go on when the store is opened again.

use std::cell::RefCell;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use anyhow::Context as _;
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep};
use weft_core::agent::claim::{ClaimReply, ClaimRequest, ClusterClaims};
use weft_core::agent::{Fault, Refusal};

use super::{Claims, Reports};
use crate::Log;
use crate::claim::backend::kubernetes::ClientSource;
use crate::claim::machine_id;
use crate::events::Events;
use crate::probes::Metrics;
use crate::server::{Deadline, Handler};

/// The store in the state directory.
const STORE: &str = "weft.db";
/// The host's name.
const HOST_NAME: &str = "/proc/sys/kernel/hostname";
/// How often to look at the store's file, and the pause between two tries to open it.
const LOOK: Duration = Duration::from_secs(1);

/// Says why this agent may claim nothing now.
pub type Gate = Rc<dyn Fn() -> Option<String>>;

/// Who claims.
#[derive(Clone)]
pub struct Claimant {
    /// The name of the node; `None` to use the host's. Without Kubernetes the name is only informational; the machine's
    /// id counts.
    pub node: Option<String>,
    /// The machine's id; `None` to look for it.
    pub machine: Option<String>,
    /// Clients of the agent's own cluster.
    pub kubernetes: Option<ClientSource>,
    /// Why nothing may be claimed, if anything.
    pub gate: Gate,
    /// Where to send events about pods, if the agent serves Kubernetes.
    pub(crate) events: Option<Events>,
}

/// The service.
pub struct ClaimDoor {
    state: PathBuf,
    claimant: Claimant,
    opened: RefCell<Opened>,
    reports: Reports,
    log: Log,
}

/// The store.
enum Opened {
    /// It could not be opened.
    Not { why: String, again: Instant },
    /// It is open.
    Open { claims: Rc<Claims>, file: (u64, u64), work: AbortHandle },
}

impl ClaimDoor {
    /// Opens the store and starts the background work. If the store cannot be opened, that is retried.
    #[must_use]
    pub fn start(state: &Path, claimant: Claimant, log: Log) -> Rc<Self> {
        let opened = RefCell::new(Opened::Not { why: String::new(), again: Instant::now() });
        let reports = Reports { events: claimant.events.clone(), ..Reports::default() };
        let door = Rc::new(Self { state: state.to_owned(), claimant, opened, reports, log });
        door.look();
        let looking = Rc::clone(&door);
        tokio::task::spawn_local(async move {
            loop {
                sleep(LOOK).await;
                looking.look();
            }
        });
        door
    }

    /// Adds the metrics of all cluster ledgers. Without a store there are only counters.
    pub(crate) fn metrics(&self, metrics: &mut Metrics) {
        self.reports.counts.metrics(metrics);
        if let Opened::Open { claims, .. } = &*self.opened.borrow() {
            claims.metrics(metrics);
        }
    }

    /// Returns the service of the store as it is now.
    ///
    /// # Errors
    /// The store cannot be opened, or nothing may be claimed.
    fn claims(&self) -> Result<Rc<Claims>, Refusal> {
        let refused = |why: &str| Refusal::new(Fault::Unavailable, format!("cluster ledgers are not served: {why}"));
        if let Some(why) = (self.claimant.gate)() {
            return Err(refused(&why));
        }
        self.look();
        match &*self.opened.borrow() {
            Opened::Open { claims, .. } => Ok(Rc::clone(claims)),
            Opened::Not { why, .. } => Err(refused(why)),
        }
    }

    /// Opens the store if it is not open, or is not the node's store any more.
    fn look(&self) {
        let stale = match &*self.opened.borrow() {
            Opened::Not { again, .. } if Instant::now() < *again => return,
            Opened::Not { .. } => None,
            Opened::Open { claims, file, .. } => match self.changed(claims, *file) {
                None => return,
                Some(what) => Some(what),
            },
        };
        if let Some(what) = stale {
            self.log.info(&format!("the store {what}; it is opened again"));
        }
        let before = self.opened.replace(self.open());
        match (before, &*self.opened.borrow()) {
            (Opened::Open { work, .. }, _) => work.abort(),
            (Opened::Not { why, .. }, Opened::Open { .. }) if !why.is_empty() => {
                self.log.info("cluster ledgers are served now");
            }
            (Opened::Not { .. }, _) => {}
        }
    }

    /// Returns what happened to an open store, if anything.
    fn changed(&self, claims: &Claims, file: (u64, u64)) -> Option<&'static str> {
        if file_of(&self.state) != Some(file) {
            return Some("has a new file");
        }
        // An error is the business of the next request.
        let id = claims.store.borrow_mut().store_id().ok()?;
        (id != claims.identity.store_id).then_some("has a new id")
    }

    fn open(&self) -> Opened {
        match self.try_to_open() {
            Ok((claims, file)) => {
                let work = tokio::task::spawn_local(Rc::clone(&claims).work()).abort_handle();
                Opened::Open { claims, file, work }
            }
            Err(error) => {
                let why = format!("{error:#}");
                let is_known = matches!(&*self.opened.borrow(), Opened::Not { why: known, .. } if *known == why);
                if !is_known {
                    self.log.warn(&format!("cluster ledgers are not served: {why}; it is tried again"));
                }
                Opened::Not { why, again: Instant::now() + LOOK }
            }
        }
    }

    fn try_to_open(&self) -> anyhow::Result<(Rc<Claims>, (u64, u64))> {
        let Claimant { node, machine, kubernetes, .. } = &self.claimant;
        let node = node.clone().map_or_else(host_name, Ok)?;
        let machine = machine.clone().map_or_else(machine_id, Ok)?;
        let claims =
            Claims::open_as(&self.state, (&node, &machine), kubernetes.clone(), self.reports.clone(), self.log)?;
        // A file that is replaced in between is noticed by the next look, or by its store's id.
        let file = file_of(&self.state).ok_or_else(|| anyhow::anyhow!("{STORE} disappeared while it was opened"))?;
        Ok((claims, file))
    }
}

fn host_name() -> anyhow::Result<String> {
    Ok(fs::read_to_string(HOST_NAME).with_context(|| format!("cannot read {HOST_NAME}"))?.trim().to_owned())
}

/// Returns device and inode of the store.
fn file_of(state: &Path) -> Option<(u64, u64)> {
    fs::symlink_metadata(state.join(STORE)).ok().map(|file| (file.dev(), file.ino()))
}

impl Handler for ClaimDoor {
    type Service = ClusterClaims;

    async fn handle(&self, request: ClaimRequest, deadline: Deadline) -> Result<ClaimReply, Refusal> {
        let claims = self.claims()?;
        claims.handle(request, deadline).await
    }
}

#[cfg(test)]
mod tests;
