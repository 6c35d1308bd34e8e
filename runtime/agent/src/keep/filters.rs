//! Maintains the packet filter of living attachments: after an `nft flush ruleset`, or a reload of firewalld, the
//! journal has the state of each, and `attach::repair` restores it.
//!
//! A check costs as much as there are attachments, so it only runs after the ruleset has changed (weft's own calls
//! change it too), and once a minute, because firewalld may store its rules elsewhere.
//!
//! Invariants: the event loop never waits, because checks run on a thread; a failure is reported once and retried in
//! the next check.

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::task::spawn_blocking;
use tokio::time::sleep;
use weft_core::attach::{Context, Node, Repair, lost_filters, repair};
use weft_core::netlink;
use weft_core::store::NodeStore;

use crate::Log;

/// Interval of checks whether the ruleset has changed.
const TICK: Duration = Duration::from_secs(5);
/// Maximum time between two checks of the attachments.
const FULL: Duration = Duration::from_secs(60);

/// The work of this module, for metrics.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct KeptFilters {
    /// How often attachments were checked.
    pub(crate) looks: u64,
    /// How many attachments were repaired.
    pub(crate) restored: u64,
    /// How many attachments could not be checked or repaired the last time.
    pub(crate) broken: usize,
}

/// Maintains the packet filter.
pub(crate) struct Filters {
    state: PathBuf,
    kept: RefCell<KeptFilters>,
    log: Log,
}

/// The last check that found or restored everything.
#[derive(Debug, Clone, Copy)]
struct Whole {
    /// The ruleset at that time.
    generation: u32,
    at: Instant,
}

/// The result of a check.
struct Looked {
    /// `None` if the kernel has no nftables.
    seen: Option<Whole>,
    found: Repair,
}

impl Filters {
    pub(crate) fn start(state: &Path, log: Log) -> Rc<Self> {
        let filters = Rc::new(Self { state: state.to_owned(), kept: RefCell::default(), log });
        let running = Rc::clone(&filters);
        tokio::task::spawn_local(async move { running.run().await });
        filters
    }

    pub(crate) fn counts(&self) -> KeptFilters {
        *self.kept.borrow()
    }

    async fn run(&self) {
        let mut whole = None;
        let mut reported = Vec::new();
        loop {
            let state = self.state.clone();
            let looked = spawn_blocking(move || look(&state, whole)).await.map_err(|error| error.to_string());
            let mut faults = Vec::new();
            match looked.and_then(|looked| looked) {
                Ok(None) => {
                    sleep(TICK).await;
                    continue;
                }
                Ok(Some(Looked { seen, found })) => {
                    faults = self.record_repair(&found);
                    whole = faults.is_empty().then_some(seen).flatten();
                }
                Err(text) => {
                    whole = None;
                    faults.push(text);
                }
            }
            for text in faults.iter().filter(|text| !reported.contains(*text)) {
                self.log.warn(&format!("packet filter: {text}"));
            }
            reported = faults;
            sleep(TICK).await;
        }
    }

    /// Counts and logs what was restored, and returns what could not be.
    fn record_repair(&self, found: &Repair) -> Vec<String> {
        let mut faults = found.unreadable.clone();
        let mut kept = self.kept.borrow_mut();
        kept.looks += 1;
        for lost in &found.lost {
            let whose = format!("{} of container {} on {:?}", lost.ifname, lost.container_id, lost.network);
            if let Some(problem) = &lost.problem {
                faults.push(format!("cannot put back what {whose} lost: {problem}"));
            } else {
                kept.restored += 1;
                let what = lost.missing.join(", ");
                self.log.warn(&format!("put back what {whose} had lost of the packet filter: {what}"));
            }
        }
        kept.broken = faults.len();
        faults
    }
}

/// Checks once, and restores what is missing; `None` if there was no reason for a check. Uses the ruleset's number from
/// before the check, so that the next one sees concurrent changes. Runs on a thread.
fn look(state: &Path, last: Option<Whole>) -> Result<Option<Looked>, String> {
    // Without nftables, the attachments may still have sources in firewalld.
    let seen = netlink::filter_generation().ok().map(|generation| Whole { generation, at: Instant::now() });
    if let (Some(seen), Some(last)) = (seen, last)
        && seen.generation == last.generation
        && last.at.elapsed() < FULL
    {
        return Ok(None);
    }
    let Some(store) = NodeStore::open_read_only(state).map_err(|error| error.to_string())? else { return Ok(None) };
    let found = lost_filters(&store).map_err(|error| error.chain())?;
    drop(store);
    if found.lost.is_empty() {
        return Ok(Some(Looked { seen, found }));
    }
    let context = Context::new(state.to_owned());
    let mut node = Node::new(&context);
    let found = repair(&mut node).map_err(|error| error.chain())?;
    Ok(Some(Looked { seen, found }))
}
