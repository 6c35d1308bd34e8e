//! One look at weft's files: what is wrong, and what is put back. Reads and writes files, so it runs on a thread.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use sha2::{Digest as _, Sha256};

use weft_core::private::write_whole;

use super::manifest::{FileKind, InstallLock, KeptFile, Manifest};

/// A file is restored this often ...
pub(super) const MOST: usize = 5;
/// ... within this time, and then left alone ...
pub(super) const WINDOW: Duration = Duration::from_secs(60);
/// ... for this time.
pub(super) const REST: Duration = Duration::from_secs(300);

/// One look.
struct Look<'m> {
    state: &'m Path,
    memory: &'m mut Memory,
    seen: Seen,
}

/// The result of a look.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// The remaining problems.
    pub(super) faults: Vec<String>,
    /// What was put back.
    pub(super) restored: Vec<PathBuf>,
    /// How many files are left alone.
    pub(super) given_up: usize,
    /// Of the files that are left alone from now on.
    pub(super) rests: Vec<String>,
}

/// How often a file was restored, and until when it is left alone.
#[derive(Debug, Default)]
pub(super) struct History {
    at: Vec<Instant>,
    rest_until: Option<Instant>,
}

impl History {
    /// Returns whether it may be restored now, and reports once when it may not.
    pub(super) fn may_restore(&mut self, now: Instant) -> Verdict {
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
pub(super) enum Verdict {
    Restore,
    GiveUp,
    Resting,
}

/// Detects whether a file was touched.
type Stamp = (u64, u64, Option<SystemTime>, u32);

/// What the keeper remembers between two checks.
#[derive(Debug, Default)]
pub(super) struct Memory {
    histories: BTreeMap<PathBuf, History>,
    /// Of a file and its copy, when they were last equal. An installer may replace either.
    stamps: BTreeMap<PathBuf, (Stamp, Stamp)>,
}

/// Checks everything once.
pub(super) fn look(state: &Path, memory: &mut Memory) -> Seen {
    match Manifest::read(state) {
        Ok(None) => Seen::default(),
        Ok(Some(manifest)) => look_at(state, &manifest, memory),
        Err(error) => {
            let text = format!("cannot read {}: {error}; run weftctl install again", Manifest::path(state).display());
            Seen { faults: vec![text], ..Seen::default() }
        }
    }
}

pub(super) fn look_at(state: &Path, manifest: &Manifest, memory: &mut Memory) -> Seen {
    let mut look = Look { state, memory, seen: Seen::default() };
    // A configuration comes last: a runtime that sees it finds everything that it names.
    let (confs, programs): (Vec<_>, Vec<_>) = manifest.files.iter().partition(|file| file.kind == FileKind::Conf);
    programs.into_iter().for_each(|file| look.file(file));
    manifest.names.iter().for_each(|name| look.name(name));
    confs.into_iter().for_each(|file| look.file(file));
    look.seen
}

// === impl Look ===

impl Look<'_> {
    /// Checks a file.
    fn file(&mut self, file: &KeptFile) {
        if is_right(file, &mut self.memory.stamps) {
            self.seen.faults.extend((file.kind == FileKind::Conf).then(|| earlier_conf(&file.path)).flatten());
            return;
        }
        if let Err(error) = fs::symlink_metadata(&file.copy) {
            self.seen.faults.push(restore_fault(file, &error));
            return;
        }
        let history = self.memory.histories.entry(file.path.clone()).or_default();
        let verdict = history.may_restore(Instant::now());
        if verdict == Verdict::Restore {
            let outcome = self.put_back(|manifest| manifest.files.contains(file), || restore(file));
            if outcome.is_none()
                && let Some(history) = self.memory.histories.get_mut(&file.path)
            {
                history.take_back();
            }
            self.record_outcome(&file.path, outcome);
            return;
        }
        self.seen.given_up += 1;
        let text = format!(
            "another program changes {} again and again; stop it (Cilium: cni.exclusive=false), or uninstall weft",
            file.path.display()
        );
        if verdict == Verdict::GiveUp {
            self.seen.rests.push(text.clone());
        }
        self.seen.faults.push(text);
    }

    /// Checks a name.
    fn name(&mut self, name: &Path) {
        // A plugin of another vendor under this name is kept.
        if fs::symlink_metadata(name).is_ok() {
            return;
        }
        let link = || {
            let made = name.parent().map_or(Ok(()), fs::create_dir_all).and_then(|()| symlink("weft", name));
            made.map_err(|error| format!("cannot put {} back: {error}", name.display()))
        };
        let outcome = self.put_back(|manifest| manifest.names.iter().any(|listed| listed == name), link);
        self.record_outcome(name, outcome);
    }

    /// Restores something under the installers' lock, if the manifest still lists it. Returns `None` if it was left to
    /// an installer; the next check sees the result.
    fn put_back(
        &self,
        is_listed: impl FnOnce(&Manifest) -> bool,
        restore: impl FnOnce() -> Result<(), String>,
    ) -> Option<Result<(), String>> {
        let _lock = InstallLock::try_take(self.state).ok().flatten()?;
        let manifest = Manifest::read(self.state).ok().flatten()?;
        is_listed(&manifest).then(restore)
    }

    fn record_outcome(&mut self, path: &Path, outcome: Option<Result<(), String>>) {
        match outcome {
            Some(Ok(())) => self.seen.restored.push(path.to_owned()),
            Some(Err(text)) => self.seen.faults.push(text),
            None => {}
        }
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

fn restore_fault(file: &KeptFile, error: &std::io::Error) -> String {
    format!("cannot put {} back from {}: {error}", file.path.display(), file.copy.display())
}

fn restore(file: &KeptFile) -> Result<(), String> {
    let cannot = |error: std::io::Error| restore_fault(file, &error);
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
