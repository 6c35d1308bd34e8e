//! Restores weft's configuration and programs after another installer changed them (k3s replaces the plugin directory
//! on upgrade, Cilium's `cni.exclusive` renames every other configuration).
//!
//! Invariants: a file is restored atomically, by one rename. Nothing is restored while `weftctl install` or `uninstall`
//! is at work, or once the manifest does not list it any more. A file that is changed repeatedly is restored five times
//! in a minute and then left alone for a while, because two competing installers help nobody. The node is not ready
//! meanwhile, and an event names the remedy.
//!
//! `restore` checks the files, `filters` maintains the packet filter of living attachments.

mod filters;
mod manifest;
mod restore;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use tokio::task::spawn_blocking;
use tokio::time::sleep;
use weft_core::agent::status::{Event, EventKind};

pub(crate) use self::filters::Filters;
pub use self::manifest::{FileKind, InstallLock, KeptFile, Manifest};
use self::restore::{Memory, Seen, look};
use crate::Log;
use crate::events::{Events, Subject};
use crate::health::Health;

/// How often to check the files.
const LOOK: Duration = Duration::from_secs(1);

/// The work of this module, for metrics.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Kept {
    /// How many files were restored since the start.
    pub(crate) restored: u64,
    /// How many files are currently left alone.
    pub(crate) given_up: usize,
}

/// Maintains the files.
pub(crate) struct Keeper {
    state: PathBuf,
    health: Rc<Health>,
    /// Events about the node, if the agent serves Kubernetes.
    events: Option<(Events, String)>,
    kept: std::cell::Cell<Kept>,
    log: Log,
}

impl Keeper {
    pub(crate) fn start(state: &Path, health: Rc<Health>, events: Option<(Events, String)>, log: Log) -> Rc<Self> {
        let keeper = Rc::new(Self { state: state.to_owned(), health, events, kept: std::cell::Cell::default(), log });
        let running = Rc::clone(&keeper);
        tokio::task::spawn_local(async move { running.run().await });
        keeper
    }

    pub(crate) fn counts(&self) -> Kept {
        self.kept.get()
    }

    async fn run(&self) {
        let mut memory = Memory::default();
        let mut last_fault = None;
        loop {
            let state = self.state.clone();
            let looked = spawn_blocking(move || {
                let seen = look(&state, &mut memory);
                (seen, memory)
            });
            let seen = match looked.await {
                Ok((seen, back)) => {
                    memory = back;
                    seen
                }
                Err(error) => {
                    memory = Memory::default();
                    Seen { faults: vec![format!("the files cannot be looked at: {error}")], ..Seen::default() }
                }
            };
            let fault = self.take(seen);
            if fault != last_fault {
                if let Some(text) = &fault {
                    self.log.warn(text);
                }
                self.health.set("conf", fault.clone());
                last_fault = fault;
            }
            sleep(LOOK).await;
        }
    }

    /// Counts, logs and reports the result of a look. Returns the remaining problems.
    fn take(&self, seen: Seen) -> Option<String> {
        let restored = self.kept.get().restored + u64::try_from(seen.restored.len()).unwrap_or(u64::MAX);
        self.kept.set(Kept { restored, given_up: seen.given_up });
        for path in &seen.restored {
            self.log.warn(&format!("put {} back, which another program had changed or removed", path.display()));
        }
        seen.rests.iter().for_each(|text| self.send(text));
        if seen.faults.is_empty() { None } else { Some(seen.faults.join("; ")) }
    }

    fn send(&self, text: &str) {
        let Some((events, node)) = &self.events else { return };
        let subject = Subject { kind: "Node", namespace: "default".to_owned(), name: node.clone(), uid: node.clone() };
        let event = Event { kind: EventKind::Warning, reason: "ConfOverwritten".to_owned(), message: text.to_owned() };
        events.send(subject, event);
    }
}
