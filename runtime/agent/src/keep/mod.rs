//! Restores weft's configuration and programs after another installer changed them (k3s replaces the plugin directory
//! on upgrade, Cilium's `cni.exclusive` renames every other configuration).
//!
//! Invariants: a file is restored atomically, by one rename. A file that is changed repeatedly is restored five times
//! in a minute and then left alone for a while, because two competing installers help nobody. The node is not ready
//! meanwhile, and an event names the remedy.
//!
//! `filters` maintains the packet filter of living attachments.

mod filters;
mod manifest;

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
pub use self::manifest::{FileKind, KeptFile, Manifest, write_whole};
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
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Restore,
    GiveUp,
    Resting,
}

/// Detects whether a file was touched.
type Stamp = (u64, u64, Option<SystemTime>, u32);

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
        let mut histories: BTreeMap<PathBuf, History> = BTreeMap::new();
        let mut stamps: BTreeMap<PathBuf, Stamp> = BTreeMap::new();
        let mut last_fault = None;
        loop {
            let faults = match Manifest::read(&self.state) {
                Ok(None) => Vec::new(),
                Ok(Some(manifest)) => self.look(&manifest, &mut histories, &mut stamps),
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
    fn look(
        &self,
        manifest: &Manifest,
        histories: &mut BTreeMap<PathBuf, History>,
        stamps: &mut BTreeMap<PathBuf, Stamp>,
    ) -> Vec<String> {
        let mut faults = Vec::new();
        let mut given_up = 0;
        let now = Instant::now();
        for file in &manifest.files {
            if is_right(file, stamps) {
                faults.extend((file.kind == FileKind::Conf).then(|| earlier_conf(&file.path)).flatten());
                continue;
            }
            let history = histories.entry(file.path.clone()).or_default();
            match history.may_restore(now) {
                Verdict::Restore => match restore(file) {
                    Ok(()) => self.restored(&file.path),
                    Err(text) => faults.push(text),
                },
                verdict => {
                    given_up += 1;
                    let text = format!(
                        "another program changes {} again and again; stop it (Cilium: cni.exclusive=false), or uninstall weft",
                        file.path.display()
                    );
                    if verdict == Verdict::GiveUp {
                        self.send(&text);
                    }
                    faults.push(text);
                }
            }
        }
        for name in &manifest.names {
            let is_ours = fs::read_link(name).is_ok_and(|target| target.file_name().is_some_and(|name| name == "weft"));
            // A plugin of another vendor under this name is kept.
            if !is_ours && fs::symlink_metadata(name).is_err() {
                match symlink("weft", name) {
                    Ok(()) => self.restored(name),
                    Err(error) => faults.push(format!("cannot put {} back: {error}", name.display())),
                }
            }
        }
        self.kept.set(Kept { given_up, ..self.kept.get() });
        faults
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

/// Returns whether a file is unchanged. Reads its content only if it was touched.
fn is_right(file: &KeptFile, stamps: &mut BTreeMap<PathBuf, Stamp>) -> bool {
    let Ok(meta) = fs::symlink_metadata(&file.path) else {
        stamps.remove(&file.path);
        return false;
    };
    let stamp = (meta.ino(), meta.len(), meta.modified().ok(), meta.mode());
    if stamps.get(&file.path) == Some(&stamp) {
        return true;
    }
    let right = meta.is_file() && meta.mode() & 0o7777 == file.mode && same_content(&file.path, &file.copy);
    if right {
        stamps.insert(file.path.clone(), stamp);
    }
    right
}

fn same_content(one: &Path, other: &Path) -> bool {
    let digest = |path: &Path| fs::read(path).ok().map(|bytes| Sha256::digest(&bytes));
    digest(one).is_some_and(|sum| Some(sum) == digest(other))
}

fn restore(file: &KeptFile) -> Result<(), String> {
    let cannot = |error: std::io::Error| {
        format!("cannot put {} back from {}: {error}", file.path.display(), file.copy.display())
    };
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    struct Place {
        _dir: tempfile::TempDir,
        conf: PathBuf,
        keeper: Keeper,
        manifest: Manifest,
        histories: BTreeMap<PathBuf, History>,
        stamps: BTreeMap<PathBuf, Stamp>,
    }

    fn place() -> Place {
        let dir = tempfile::tempdir().unwrap();
        let (conf, copy) = (dir.path().join("net.d/10-weft.conflist"), dir.path().join("copy"));
        fs::write(&copy, "{}").unwrap();
        let manifest = Manifest {
            files: vec![KeptFile { path: conf.clone(), kind: FileKind::Conf, copy, mode: 0o644 }],
            names: vec![dir.path().join("net.d/weft-pod")],
        };
        let keeper = Keeper {
            state: dir.path().to_owned(),
            health: Rc::default(),
            events: None,
            kept: std::cell::Cell::default(),
            log: Log,
        };
        Place { _dir: dir, conf, keeper, manifest, histories: BTreeMap::new(), stamps: BTreeMap::new() }
    }

    impl Place {
        fn look(&mut self) -> Vec<String> {
            self.keeper.look(&self.manifest, &mut self.histories, &mut self.stamps)
        }
    }

    #[test]
    fn what_is_changed_renamed_or_removed_is_put_back() {
        let mut place = place();
        assert!(place.look().is_empty());
        assert_eq!(fs::read_to_string(&place.conf).unwrap(), "{}");
        assert_eq!(fs::read_link(&place.manifest.names[0]).unwrap(), Path::new("weft"));
        fs::write(&place.conf, "").unwrap();
        assert!(place.look().is_empty());
        assert_eq!(fs::read_to_string(&place.conf).unwrap(), "{}");
        fs::rename(&place.conf, place.conf.with_extension("cilium_bak")).unwrap();
        fs::remove_file(&place.manifest.names[0]).unwrap();
        assert!(place.look().is_empty());
        assert_eq!(fs::read_to_string(&place.conf).unwrap(), "{}");
        // The first check restored two files, and so did the last.
        assert_eq!(place.keeper.kept(), Kept { restored: 5, given_up: 0 });
        place.look();
        assert_eq!(place.keeper.kept().restored, 5);
    }

    #[test]
    fn after_five_times_in_a_minute_it_is_left_and_said() {
        let mut place = place();
        for _ in 0..MOST {
            assert!(place.look().is_empty());
            fs::remove_file(&place.conf).unwrap();
        }
        let faults = place.look();
        assert!(faults.len() == 1 && faults[0].contains("cni.exclusive"), "{faults:?}");
        assert!(!place.conf.exists());
        assert_eq!(place.look().len(), 1);
        assert_eq!(place.keeper.kept().given_up, 1);
    }

    #[test]
    fn a_rest_ends_and_old_times_do_not_count() {
        let start = Instant::now();
        let mut history = History::default();
        for index in 0..20 {
            assert_eq!(history.may_restore(start + WINDOW * index), Verdict::Restore);
        }
        let mut history = History::default();
        let verdicts: Vec<Verdict> = (0..7).map(|_| history.may_restore(start)).collect();
        assert_eq!(verdicts[4..], [Verdict::Restore, Verdict::GiveUp, Verdict::Resting]);
        assert_eq!(history.may_restore(start + REST), Verdict::Restore);
    }

    #[test]
    fn a_conf_that_comes_before_ours_is_named() {
        let mut place = place();
        place.look();
        fs::write(place.conf.with_file_name("05-other.conflist"), "{}").unwrap();
        fs::write(place.conf.with_file_name("00-note.txt"), "").unwrap();
        let faults = place.look();
        assert!(faults.len() == 1 && faults[0].contains("05-other.conflist"), "{faults:?}");
    }

    #[test]
    fn a_file_is_the_old_or_the_new_one_and_leaves_no_parts() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("10-weft.conflist");
        write_whole(&path, b"old", 0o600).unwrap();
        // A file that a killed writer left.
        fs::write(dir.path().join(".10-weft.conflist.weft-part"), "ne").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"old");
        write_whole(&path, b"new", 0o644).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o644);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
