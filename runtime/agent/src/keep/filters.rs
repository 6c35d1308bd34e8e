//! Keeps the packet filter of living attachments in place: after an `nft flush ruleset`, or a reload of firewalld, the journal
//! says what each had, and `attach::repair` puts it back.
//!
//! A look costs as much as there are attachments, so there is one only where the ruleset has changed since the last one (weft's
//! own calls change it too), and one a minute all the same: firewalld may keep its rules elsewhere.
//!
//! Invariants: the event loop never waits, looking runs on a thread; what fails is reported once and tried again at the next look.

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

/// Between two looks at whether the ruleset has changed.
const TICK: Duration = Duration::from_secs(5);
/// A look at the attachments is never older.
const FULL: Duration = Duration::from_secs(60);

/// What the keeper of filters has done, for metrics.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct KeptFilters {
    /// Times that attachments were looked at.
    pub(crate) looks: u64,
    /// Attachments that got something back.
    pub(crate) restored: u64,
    /// Attachments that could not be looked at or helped at the last look.
    pub(crate) broken: usize,
}

/// The keeper of filters.
pub(crate) struct Filters {
    state: PathBuf,
    kept: RefCell<KeptFilters>,
    log: Log,
}

/// The last look that found everything in place, or put it there.
#[derive(Debug, Clone, Copy)]
struct Whole {
    /// The ruleset that it saw.
    generation: u32,
    at: Instant,
}

/// What a look found.
struct Looked {
    /// `None` where the kernel has no nftables.
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

    pub(crate) fn kept(&self) -> KeptFilters {
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
                    faults = self.note(&found);
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

    /// Counts, and logs what was put back; what could not be.
    fn note(&self, found: &Repair) -> Vec<String> {
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

/// One look, which puts back what is missing; `None` where there was no reason for one. The ruleset's number is that from
/// before the look, so that what happens meanwhile is seen by the next one. Runs on a thread.
fn look(state: &Path, last: Option<Whole>) -> Result<Option<Looked>, String> {
    // Without nftables the attachments may have sources in firewalld all the same.
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
