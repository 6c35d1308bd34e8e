//! Restores weft's configuration and programs after another installer changed them (k3s replaces the plugin directory
//! on upgrade, Cilium's `cni.exclusive` renames every other configuration).
//!
//! Invariants: a file is restored atomically, by one rename. Nothing is restored while `weftctl install` or `uninstall`
//! is at work, or once the manifest does not list it any more. A file that is changed repeatedly is restored five times
//! in a minute and then left alone for a while, because two competing installers help nobody. The node is not ready
//! meanwhile, and an event names the remedy.
//!
//! `filters` maintains the packet filter of living attachments.

mod filters;
mod manifest;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, Instant, SystemTime};

use sha2::{Digest as _, Sha256};
use tokio::time::sleep;
use weft_core::agent::status::{Event, EventKind};

pub(crate) use self::filters::Filters;
pub use self::manifest::{FileKind, InstallLock, KeptFile, Manifest, write_whole};
use crate::Log;
use crate::events::{Events, Subject};
use crate::health::Health;

/// How often to check the files.
const LOOK: Duration = Duration::from_secs(1);
/// A file is restored this often ...
const MOST: usize = 5;
/// ... within this time, and then left alone ...
const WINDOW: Duration = Duration::from_secs(60);
/// ... for this time.
const REST: Duration = Duration::from_secs(300);

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

/// How often a file was restored, and until when it is left alone.
#[derive(Debug, Default)]
struct History {
    at: Vec<Instant>,
    rest_until: Option<Instant>,
}

impl History {
    /// Returns whether it may be restored now, and reports once when it may not.
    fn may_restore(&mut self, now: Instant) -> Verdict {
        if self.rest_until.is_some_and(|until| now < until) {
            return Verdict::Resting;
        }
        self.rest_until = None;
        self.at.retain(|at| now.duration_since(*at) < WINDOW);
        if self.at.len() >= MOST {
            self.at.clear();
            self.rest_until = Some(now + REST);
            return Verdict::GiveUp;
        }
        self.at.push(now);
        Verdict::Restore
    }

    /// Forgets the last time, when an installer was at work.
    fn take_back(&mut self) {
        self.at.pop();
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Restore,
    GiveUp,
    Resting,
}

/// Detects whether a file was touched.
type Stamp = (u64, u64, Option<SystemTime>, u32);

/// What the keeper remembers between two checks.
#[derive(Debug, Default)]
struct Memory {
    histories: BTreeMap<PathBuf, History>,
    /// Of a file and its copy, when they were last equal. An installer may replace either.
    stamps: BTreeMap<PathBuf, (Stamp, Stamp)>,
}

impl Keeper {
    pub(crate) fn start(state: &Path, health: Rc<Health>, events: Option<(Events, String)>, log: Log) -> Rc<Self> {
        let keeper = Rc::new(Self { state: state.to_owned(), health, events, kept: std::cell::Cell::default(), log });
        let running = Rc::clone(&keeper);
        tokio::task::spawn_local(async move { running.run().await });
        keeper
    }

    pub(crate) fn kept(&self) -> Kept {
        self.kept.get()
    }

    async fn run(&self) {
        let mut memory = Memory::default();
        let mut last_fault = None;
        loop {
            let faults = match Manifest::read(&self.state) {
                Ok(None) => Vec::new(),
                Ok(Some(manifest)) => self.look(&manifest, &mut memory),
                Err(error) => vec![format!(
                    "cannot read {}: {error}; run weftctl install again",
                    Manifest::path(&self.state).display()
                )],
            };
            let fault = if faults.is_empty() { None } else { Some(faults.join("; ")) };
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

    /// Checks everything once. Returns the remaining problems.
    fn look(&self, manifest: &Manifest, memory: &mut Memory) -> Vec<String> {
        let mut faults = Vec::new();
        let mut given_up = 0;
        // A configuration comes last: a runtime that sees it finds everything that it names.
        let (confs, programs): (Vec<_>, Vec<_>) = manifest.files.iter().partition(|file| file.kind == FileKind::Conf);
        for file in programs {
            faults.extend(self.look_at(file, memory, &mut given_up));
        }
        faults.extend(manifest.names.iter().filter_map(|name| self.look_at_name(name)));
        for file in confs {
            faults.extend(self.look_at(file, memory, &mut given_up));
        }
        self.kept.set(Kept { given_up, ..self.kept.get() });
        faults
    }

    /// Checks a file. Returns the problem.
    fn look_at(&self, file: &KeptFile, memory: &mut Memory, given_up: &mut usize) -> Option<String> {
        if is_right(file, &mut memory.stamps) {
            return (file.kind == FileKind::Conf).then(|| earlier_conf(&file.path)).flatten();
        }
        if let Err(error) = fs::symlink_metadata(&file.copy) {
            return Some(cannot(file, &error));
        }
        let history = memory.histories.entry(file.path.clone()).or_default();
        let verdict = history.may_restore(Instant::now());
        if verdict == Verdict::Restore {
            let outcome = self.put_back(|manifest| manifest.files.contains(file), || restore(file));
            if outcome.is_none() {
                history.take_back();
            }
            return self.note(&file.path, outcome);
        }
        *given_up += 1;
        let text = format!(
            "another program changes {} again and again; stop it (Cilium: cni.exclusive=false), or uninstall weft",
            file.path.display()
        );
        if verdict == Verdict::GiveUp {
            self.send(&text);
        }
        Some(text)
    }

    /// Checks a name. Returns the problem.
    fn look_at_name(&self, name: &Path) -> Option<String> {
        // A plugin of another vendor under this name is kept.
        if fs::symlink_metadata(name).is_ok() {
            return None;
        }
        let link = || {
            let made = name.parent().map_or(Ok(()), fs::create_dir_all).and_then(|()| symlink("weft", name));
            made.map_err(|error| format!("cannot put {} back: {error}", name.display()))
        };
        let outcome = self.put_back(|manifest| manifest.names.iter().any(|listed| listed == name), link);
        self.note(name, outcome)
    }

    /// Restores something under the installers' lock, if the manifest still lists it. Returns `None` if it was left to
    /// an installer; the next check sees the result.
    fn put_back(
        &self,
        is_listed: impl FnOnce(&Manifest) -> bool,
        restore: impl FnOnce() -> Result<(), String>,
    ) -> Option<Result<(), String>> {
        let _lock = InstallLock::try_take(&self.state).ok().flatten()?;
        let manifest = Manifest::read(&self.state).ok().flatten()?;
        is_listed(&manifest).then(restore)
    }

    /// Counts and logs what was restored. Returns the problem.
    fn note(&self, path: &Path, outcome: Option<Result<(), String>>) -> Option<String> {
        match outcome? {
            Ok(()) => {
                self.restored(path);
                None
            }
            Err(text) => Some(text),
        }
    }

    fn restored(&self, path: &Path) {
        let kept = self.kept.get();
        self.kept.set(Kept { restored: kept.restored + 1, ..kept });
        self.log.warn(&format!("put {} back, which another program had changed or removed", path.display()));
    }

    fn send(&self, text: &str) {
        let Some((events, node)) = &self.events else { return };
        let subject = Subject { kind: "Node", namespace: "default".to_owned(), name: node.clone(), uid: node.clone() };
        let event = Event { kind: EventKind::Warning, reason: "ConfOverwritten".to_owned(), message: text.to_owned() };
        events.send(subject, event);
    }
}

/// Returns whether a file is equal to its copy. Reads the contents only if one of them was touched.
fn is_right(file: &KeptFile, stamps: &mut BTreeMap<PathBuf, (Stamp, Stamp)>) -> bool {
    let (Ok(meta), Ok(copy)) = (fs::symlink_metadata(&file.path), fs::symlink_metadata(&file.copy)) else {
        stamps.remove(&file.path);
        return false;
    };
    let both = (stamp(&meta), stamp(&copy));
    if stamps.get(&file.path) == Some(&both) {
        return true;
    }
    let right = meta.is_file() && meta.mode() & 0o7777 == file.mode && same_content(&file.path, &file.copy);
    if right {
        stamps.insert(file.path.clone(), both);
    }
    right
}

fn stamp(meta: &fs::Metadata) -> Stamp {
    (meta.ino(), meta.len(), meta.modified().ok(), meta.mode())
}

fn same_content(one: &Path, other: &Path) -> bool {
    let digest = |path: &Path| fs::read(path).ok().map(|bytes| Sha256::digest(&bytes));
    digest(one).is_some_and(|sum| Some(sum) == digest(other))
}

fn cannot(file: &KeptFile, error: &std::io::Error) -> String {
    format!("cannot put {} back from {}: {error}", file.path.display(), file.copy.display())
}

fn restore(file: &KeptFile) -> Result<(), String> {
    let cannot = |error: std::io::Error| cannot(file, &error);
    let content = fs::read(&file.copy).map_err(cannot)?;
    if let Some(dir) = file.path.parent() {
        fs::create_dir_all(dir).map_err(cannot)?;
    }
    write_whole(&file.path, &content, file.mode).map_err(cannot)
}

/// Returns the configuration that the runtime uses instead of ours: the first in lexical order.
fn earlier_conf(own: &Path) -> Option<String> {
    let own_name = own.file_name()?;
    let dir = own.parent()?;
    let is_conf = |name: &Path| {
        name.extension().is_some_and(|ext| ["conf", "conflist", "json"].iter().any(|known| ext == *known))
    };
    let names = fs::read_dir(dir).ok()?.flatten().map(|entry| entry.file_name());
    let first = names.filter(|name| is_conf(Path::new(name)) && name.as_os_str() < own_name).min()?;
    Some(format!(
        "the runtime uses {} instead of {}, which comes after it; rename one of them",
        dir.join(first).display(),
        own.display()
    ))
}
