//! Removes fetched policies that no network names any more: everybody who may define a network can name policies, and
//! the node's disk is limited.
//!
//! ```text
//!  <state>/policies/unused.json   since when each file is not used
//! ```
//! Invariants: what a network, the lock file or a last good policy needs stays, and what a person added. A last good
//! policy counts as long as its network is defined or has attachments. The rest stays for a week, so that a network
//! that is defined again finds its policy; but only so many files and bytes, the longest unused go first. The compiled
//! form of a component goes with it, unless an installed policy is the same component.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use nix::unistd::{UnlinkatFlags, unlinkat};

use super::CACHE;
use super::digest::{ComponentFile, Digest};
use super::last_good::{self, LastGood};
use super::pinned::{INCOMING, replace};
use super::secure::SecureDir;
use super::withdraw::{remove, remove_manifest};
use crate::policy::pinned_paths::{
    Pin, component_digest, component_file, component_name, kept_by, miss_name, pinned_dir,
};
use crate::policy::source::policies_dir;
use crate::policy::{PolicyError, PolicyRef, locked};

/// How long a policy stays that nobody uses.
const STAYS: Duration = Duration::from_secs(7 * 24 * 3600);

/// Maximum bytes of components that nobody uses.
const BYTES_MAX: u64 = 1 << 30;

/// Maximum number of files that nobody uses.
const FILES_MAX: usize = 1024;

/// A file that is being written is older than this only if its program was killed.
const WRITING: Duration = Duration::from_secs(3600);

/// A reason younger than this may belong to a network that has just appeared.
const FRESH: Duration = Duration::from_secs(60);

/// The start of a name in `unused.json` that is the file of a network's last good policy.
const LAST_GOOD: &str = "last-good/";

/// What the networks of the node need.
pub struct Needed<'a> {
    /// The policies that networks name, with a digest or by a tag.
    pub policies: &'a [PolicyRef],
    /// The names of the networks that are defined.
    pub networks: &'a BTreeSet<String>,
    /// Returns the names of the networks that have attachments; `None` if they cannot be determined.
    pub attached: &'a dyn Fn() -> Option<BTreeSet<String>>,
}

/// What was removed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Swept {
    /// How many files: components, what names them, last good policies, and reasons why something could not be fetched.
    pub files: usize,
    /// Bytes of the components.
    pub bytes: u64,
}

/// A file of the directory.
struct Found {
    name: String,
    size: u64,
    age: Duration,
}

/// What must stay, by file name.
#[derive(Default)]
struct Kept {
    files: BTreeSet<String>,
    reasons: BTreeSet<String>,
}

/// A file that nobody uses.
struct Unused {
    name: String,
    since: u64,
    size: u64,
}

/// Removes fetched policies that no network names and nothing on this node needs. `now` is in seconds since 1970.
///
/// # Errors
///
/// [`PolicyError::LockFile`], or [`PolicyError::Store`] if the disk refuses.
pub fn sweep_pinned(state_dir: &Path, needed: &Needed<'_>, now: u64) -> Result<Swept, PolicyError> {
    let found = files(state_dir)?;
    let good = LastGood::read_all(state_dir);
    let mut kept = Kept::new(state_dir, needed.policies, &good)?;
    kept.files.extend(found.iter().filter_map(|file| kept_by(state_dir, &file.name)).flatten());
    let mut swept = Swept::default();
    let known = clock(state_dir);
    // A clock that was set back must not keep a file.
    let since = |name: &str| known.get(name).copied().unwrap_or(now).min(now);
    let mut unused = BTreeMap::new();
    for (name, size) in unneeded(state_dir, &good, needed) {
        unused.insert(name.clone(), Unused { since: since(&name), name, size });
    }
    for file in &found {
        let path = pinned_dir(state_dir).join(&file.name);
        if file.name.starts_with(INCOMING) {
            swept.add(file.age > WRITING && remove(&path)?, 0);
        } else if file.name.ends_with(".missed") {
            swept.add(!kept.reasons.contains(&file.name) && file.age > FRESH && remove(&path)?, 0);
        } else {
            let name = unit(&file.name);
            if !kept.files.contains(name) {
                let unit = unused.entry(name.to_owned());
                let new = || Unused { name: name.to_owned(), since: since(name), size: 0 };
                unit.or_insert_with(new).size += file.size;
            }
        }
    }
    let (gone, stays) = sort(unused.into_values().collect(), now);
    remember(state_dir, &stays, &known)?;
    let shipped = if gone.is_empty() { BTreeSet::new() } else { shipped(state_dir) };
    for unit in gone {
        swept.add(remove_unit(state_dir, &unit, &shipped)?, unit.size);
    }
    Ok(swept)
}

/// Returns the last good policies of networks that are not defined and have no attachments, by their names in
/// `unused.json`, each with the size of the component that it keeps.
fn unneeded(state_dir: &Path, good: &[(String, Option<LastGood>)], needed: &Needed<'_>) -> Vec<(String, u64)> {
    let names = |networks: &BTreeSet<String>| -> BTreeSet<String> {
        networks.iter().map(|network| last_good::file_name(network)).collect()
    };
    let defined = names(needed.networks);
    if good.iter().all(|(file, _good)| defined.contains(file)) {
        return Vec::new();
    }
    let Some(attached) = (needed.attached)().map(|networks| names(&networks)) else { return Vec::new() };
    let size = |good: &LastGood| fs::metadata(component_file(state_dir, &good.component)).map_or(0, |meta| meta.len());
    let unneeded = good.iter().filter(|(file, _good)| !defined.contains(file) && !attached.contains(file));
    unneeded.map(|(file, good)| (format!("{LAST_GOOD}{file}"), good.as_ref().map_or(0, size))).collect()
}

/// Returns the name of the file to which a file belongs: a manifest has several.
fn unit(name: &str) -> &str {
    let stem = name.strip_suffix(".json").or_else(|| name.strip_suffix(".refused")).unwrap_or(name);
    if Pin::from_name(stem).is_some() { stem } else { name }
}

/// Separates what must go, and what may stay.
fn sort(mut unused: Vec<Unused>, now: u64) -> (Vec<Unused>, Vec<Unused>) {
    unused.sort_by_key(|unit| std::cmp::Reverse(unit.since));
    let (mut bytes, mut files) = (0, 0);
    let (mut gone, mut stays) = (Vec::new(), Vec::new());
    for unit in unused {
        bytes += unit.size;
        files += 1;
        let is_old = now - unit.since > STAYS.as_secs();
        let is_too_much = bytes > BYTES_MAX || files > FILES_MAX;
        if is_old || is_too_much { gone.push(unit) } else { stays.push(unit) }
    }
    (gone, stays)
}

fn remove_unit(state_dir: &Path, unit: &Unused, shipped: &BTreeSet<Digest>) -> Result<bool, PolicyError> {
    if let Some(file) = unit.name.strip_prefix(LAST_GOOD) {
        return remove(&last_good::dir(state_dir).join(file));
    }
    if let Some(pin) = Pin::from_name(&unit.name) {
        return remove_manifest(state_dir, &pin);
    }
    let removed = remove(&pinned_dir(state_dir).join(&unit.name))?;
    let digest = unit.name.strip_prefix("sha256-").and_then(|name| Digest::from_hex(name.strip_suffix(".wasm")?));
    if let Some(digest) = digest.filter(|digest| !shipped.contains(digest)) {
        forget(state_dir, &digest)?;
    }
    Ok(removed)
}

/// Removes the compiled forms of a component.
fn forget(state_dir: &Path, digest: &Digest) -> Result<(), PolicyError> {
    let Some(cache) = SecureDir::open(&state_dir.join(CACHE))? else { return Ok(()) };
    let prefix = format!("{}-", digest.hex());
    for (name, _size) in cache.list()? {
        if name.starts_with(&prefix) {
            match unlinkat(cache.fd(), name.as_str(), UnlinkatFlags::NoRemoveDir) {
                Ok(()) | Err(nix::errno::Errno::ENOENT) => {}
                Err(errno) => return Err(cache.error(errno.into())),
            }
        }
    }
    Ok(())
}

/// Returns the components of the installed policies.
fn shipped(state_dir: &Path) -> BTreeSet<Digest> {
    let files = fs::read_dir(policies_dir(state_dir)).into_iter().flatten().flatten().map(|file| file.path());
    let components = files.filter(|path| path.extension().is_some_and(|extension| extension == "wasm"));
    let digest = |path: PathBuf| Some(ComponentFile::open("", &path, String::new).ok()?.hash("", &path).ok()?.0);
    components.filter_map(digest).collect()
}

/// Returns the files of the directory.
fn files(state_dir: &Path) -> Result<Vec<Found>, PolicyError> {
    let dir = pinned_dir(state_dir);
    let stored = |source| PolicyError::Store { path: dir.clone(), source };
    let files = match fs::read_dir(&dir) {
        Ok(files) => files,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(stored(error)),
    };
    let mut found = Vec::new();
    for file in files {
        let file = file.map_err(stored)?;
        // It was removed meanwhile.
        let Ok(meta) = file.metadata() else { continue };
        let age = meta.modified().ok().and_then(|at| SystemTime::now().duration_since(at).ok()).unwrap_or_default();
        if meta.is_file()
            && let Some(name) = file.file_name().to_str()
        {
            found.push(Found { name: name.to_owned(), size: meta.len(), age });
        }
    }
    Ok(found)
}

fn clock_file(state_dir: &Path) -> PathBuf {
    policies_dir(state_dir).join("unused.json")
}

/// Returns since when files are unused. If the file is lost, the time starts again.
fn clock(state_dir: &Path) -> BTreeMap<String, u64> {
    let text = fs::read(clock_file(state_dir)).unwrap_or_default();
    serde_json::from_slice(&text).unwrap_or_default()
}

fn remember(state_dir: &Path, unused: &[Unused], known: &BTreeMap<String, u64>) -> Result<(), PolicyError> {
    let now: BTreeMap<&str, u64> = unused.iter().map(|unit| (unit.name.as_str(), unit.since)).collect();
    if now.len() == known.len() && now.iter().all(|(name, since)| known.get(*name) == Some(since)) {
        return Ok(());
    }
    let path = clock_file(state_dir);
    let text = serde_json::to_vec(&now);
    let text = text.map_err(|error| PolicyError::Store { path: path.clone(), source: error.into() })?;
    replace(&path, &text)
}

// === impl Kept ===

impl Kept {
    fn new(state_dir: &Path, named: &[PolicyRef], good: &[(String, Option<LastGood>)]) -> Result<Self, PolicyError> {
        let mut kept = Self::default();
        for policy in named {
            kept.keep(state_dir, policy);
            // The tag of a network without an entry in the lock file names nothing yet.
            if let Ok(policy) = locked::locked_to(state_dir, policy) {
                kept.keep(state_dir, &policy);
            }
        }
        for policy in locked::locked_policies(state_dir)? {
            kept.keep(state_dir, &policy);
        }
        for (_file, good) in good {
            kept.files.extend(good.iter().map(|good| component_name(&good.component)));
            kept.files.extend(good.iter().filter_map(|good| Some(good.manifest.as_ref()?.name())));
        }
        Ok(kept)
    }

    fn keep(&mut self, state_dir: &Path, policy: &PolicyRef) {
        self.files.extend(Pin::from_policy(policy).map(|pin| pin.name()));
        self.files.extend(component_digest(state_dir, policy).map(|component| component_name(&component)));
        self.reasons.extend(miss_name(policy));
    }
}

// === impl Swept ===

impl Swept {
    fn add(&mut self, removed: bool, bytes: u64) {
        if removed {
            self.files += 1;
            self.bytes += bytes;
        }
    }
}

#[cfg(test)]
mod tests;
