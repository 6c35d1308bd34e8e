//! Removes fetched policies that no network names any more: everybody who may define a network can name policies, and
//! the node's disk is limited.
//!
//! ```text
//!  <state>/policies/unused.json   since when each file is not used
//! ```
//! Invariants: what a network, the lock file or a last good policy needs stays, and what a person
//! added. The rest stays for a week, so that a
//! network that is defined again finds its policy; but only so many files and bytes, the longest unused go first. The
//! compiled form of a component goes with it, unless an installed policy is the same component.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use nix::unistd::{UnlinkatFlags, unlinkat};

use super::CACHE;
use super::digest::{ComponentFile, Digest};
use super::last_good::LastGood;
use super::pinned::{INCOMING, replace};
use super::secure::SecureDir;
use super::withdrawn::{remove, remove_manifest};
use crate::policy::places::{Pin, component_digest, component_name, kept_by, miss_name, pinned_dir};
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

/// What was removed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Swept {
    /// How many files: components, what names them, and reasons why something could not be fetched.
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

/// Removes fetched policies that are not among those that networks name (with a digest or by a tag), and that nothing
/// on this node needs. `now` is in seconds since 1970.
///
/// # Errors
///
/// [`PolicyError::LockFile`], or [`PolicyError::Store`] if the disk refuses.
pub fn sweep_pinned(state_dir: &Path, named: &[PolicyRef], now: u64) -> Result<Swept, PolicyError> {
    let found = files(state_dir)?;
    let mut kept = Kept::new(state_dir, named)?;
    kept.files.extend(found.iter().filter_map(|file| kept_by(state_dir, &file.name)).flatten());
    let mut swept = Swept::default();
    let mut unused = BTreeMap::new();
    let known = clock(state_dir);
    for file in &found {
        let path = pinned_dir(state_dir).join(&file.name);
        if file.name.starts_with(INCOMING) {
            swept.add(file.age > WRITING && remove(&path)?, 0);
        } else if file.name.ends_with(".missed") {
            swept.add(!kept.reasons.contains(&file.name) && file.age > FRESH && remove(&path)?, 0);
        } else {
            let name = unit(&file.name);
            if !kept.files.contains(name) {
                // A clock that was set back must not keep a file.
                let since = known.get(name).copied().unwrap_or(now).min(now);
                let unit = unused.entry(name.to_owned());
                unit.or_insert_with(|| Unused { name: name.to_owned(), since, size: 0 }).size += file.size;
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
                Err(errno) => return Err(cache.cannot(errno.into())),
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
    fn new(state_dir: &Path, named: &[PolicyRef]) -> Result<Self, PolicyError> {
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
        for good in LastGood::all(state_dir) {
            kept.files.insert(component_name(&good.component));
            kept.files.extend(good.manifest.map(|pin| pin.name()));
        }
        Ok(kept)
    }

    fn keep(&mut self, state_dir: &Path, policy: &PolicyRef) {
        self.files.extend(Pin::of(policy).map(|pin| pin.name()));
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
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use std::fs::File;

    use super::super::PolicyStore;
    use super::*;
    use crate::policy::{LockFile, Locked, add_pinned, is_added, keep_pinned, note_missed, remove_pinned, withdraw};

    const DAY: u64 = 24 * 3600;
    const NOW: u64 = 1_800_000_000;

    fn policy(name: &str) -> PolicyRef {
        let manifest = Digest::new(name.as_bytes());
        PolicyRef::parse(&format!("oci://registry.example/{name}:1@{manifest}")).unwrap()
    }

    /// Adds a policy whose component is its name.
    fn add(state: &Path, policy: &PolicyRef, component: &str) {
        add_pinned(state, policy, component.as_bytes(), None, &|_path| Ok(())).unwrap();
    }

    fn count(state: &Path) -> usize {
        fs::read_dir(pinned_dir(state)).unwrap().count()
    }

    fn age(file: &Path, by: Duration) {
        let file = File::options().write(true).open(file).unwrap();
        file.set_modified(SystemTime::now() - by).unwrap();
    }

    #[test]
    fn unused_policies_are_removed_after_a_week() {
        let state = tempfile::tempdir().unwrap();
        let state = state.path();
        let [kept, unused] = ["kept", "unused"].map(policy);
        let map = PolicyRef::parse(&format!("configmap://a/b/c@{}", Digest::new(b"map"))).unwrap();
        for (policy, component) in [(&kept, "kept"), (&unused, "unused"), (&map, "map")] {
            add(state, policy, component);
        }
        withdraw(state, &Pin::of(&unused).unwrap(), "the key is revoked").unwrap();
        let named = [kept.clone()];
        assert_eq!(sweep_pinned(state, &named, NOW).unwrap(), Swept::default());
        assert_eq!(sweep_pinned(state, &named, NOW + 6 * DAY).unwrap(), Swept::default());
        // A network names it again, and then no more: the time starts again.
        sweep_pinned(state, &[kept.clone(), map.clone()], NOW + 6 * DAY).unwrap();
        let swept = sweep_pinned(state, &named, NOW + 8 * DAY).unwrap();
        assert_eq!(swept, Swept { files: 2, bytes: "unused".len() as u64 + "the key is revoked".len() as u64 });
        assert!(is_added(state, &kept) && is_added(state, &map) && !is_added(state, &unused));
        assert_eq!(count(state), 3, "a manifest and two components");
        sweep_pinned(state, &named, NOW + 16 * DAY).unwrap();
        assert!(is_added(state, &kept) && !is_added(state, &map));
        assert_eq!(clock(state), BTreeMap::new());
    }

    #[test]
    fn policies_that_the_node_needs_stay() {
        let state = tempfile::tempdir().unwrap();
        let state = state.path();
        let store = PolicyStore::new(state).unwrap();
        let [good, locked, before] = ["good", "locked", "before"].map(policy);
        // A person added these before a network names them.
        let (by_hand, map) = (policy("by-hand"), format!("configmap://a/b/c@{}", Digest::new(b"map")));
        let map = PolicyRef::parse(&map).unwrap();
        for (policy, component) in [(&by_hand, "by hand"), (&map, "map")] {
            add(state, policy, component);
            keep_pinned(state, policy).unwrap();
        }
        // Another manifest names the same component, and goes alone.
        let other = policy("other");
        for (policy, component) in [(&good, "good"), (&locked, "locked"), (&before, "before"), (&other, "good")] {
            add(state, policy, component);
        }
        store.remember_good("net", &good, &Digest::new(b"good").to_string()).unwrap();
        let digest = |policy: &PolicyRef| policy.to_string().split_once('@').unwrap().1.to_owned();
        let mut file = LockFile::default();
        for (name, before) in [("locked", None), ("away", Some(digest(&before)))] {
            let entry = Locked { digest: digest(&policy(name)), version: None, before };
            let repository = if name == "away" { "before" } else { name };
            file.policies.insert(format!("oci://registry.example/{repository}:1"), entry);
        }
        file.write(&LockFile::path(state)).unwrap();
        for days in [0, 30, 60] {
            sweep_pinned(state, &[], NOW + days * DAY).unwrap();
        }
        assert!([&good, &locked, &before, &by_hand, &map].iter().all(|policy| is_here(state, policy)));
        assert!(!is_here(state, &other));
        for policy in [&by_hand, &map] {
            assert!(remove_pinned(state, policy).unwrap() && !is_here(state, policy));
        }
        assert!(store.last_good("net").is_some());
        // A lock file that cannot be read may name anything.
        fs::write(LockFile::path(state), "{").unwrap();
        sweep_pinned(state, &[], NOW).unwrap_err();
    }

    fn is_here(state: &Path, policy: &PolicyRef) -> bool {
        crate::policy::places::is_here(state, policy)
    }

    #[test]
    fn unused_policies_are_bounded_and_the_longest_unused_go_first() {
        let unit = |since, size| Unused { name: format!("{since}"), since, size };
        let since = |units: &[Unused]| units.iter().map(|unit| unit.since).collect::<Vec<_>>();
        let (gone, stays) = sort((0..100).map(|at| unit(NOW + at, 32 << 20)).collect(), NOW + 100);
        assert_eq!((gone.len(), stays.len()), (100 - 32, 32));
        assert!(since(&gone).iter().max() < since(&stays).iter().min());
        let (gone, stays) = sort((0..5000).map(|at| unit(NOW + at, 1)).collect(), NOW + 5000);
        assert_eq!((gone.len(), stays.len()), (5000 - FILES_MAX, FILES_MAX));
        assert!(since(&gone).iter().max() < since(&stays).iter().min());
    }

    #[test]
    fn stale_reasons_and_unfinished_files_are_removed() {
        let state = tempfile::tempdir().unwrap();
        let state = state.path();
        let [kept, unused, fresh] = ["kept", "unused", "fresh"].map(policy);
        for policy in [&kept, &unused, &fresh] {
            note_missed(state, policy, "the registry cannot be reached").unwrap();
        }
        let dir = pinned_dir(state);
        let [killed, running] = ["killed", "running"].map(|name| dir.join(format!("{INCOMING}{name}")));
        fs::write(&killed, "").unwrap();
        fs::write(&running, "").unwrap();
        let reason = |policy: &PolicyRef| dir.join(miss_name(policy).unwrap());
        age(&killed, WRITING * 2);
        age(&reason(&kept), FRESH * 2);
        age(&reason(&unused), FRESH * 2);
        assert_eq!(sweep_pinned(state, std::slice::from_ref(&kept), NOW).unwrap().files, 2);
        assert!(reason(&kept).exists() && reason(&fresh).exists() && running.exists());
        assert!(!reason(&unused).exists() && !killed.exists());
    }

    #[test]
    fn the_compiled_form_goes_with_its_component_unless_it_is_installed() {
        let state = tempfile::tempdir().unwrap();
        let state = state.path();
        let cache = state.join(CACHE);
        fs::create_dir(&cache).unwrap();
        fs::set_permissions(&cache, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
        let entry = |component: &str| cache.join(format!("{}-key.cwasm", Digest::new(component.as_bytes()).hex()));
        for component in ["foreign", "installed"] {
            add(state, &policy(component), component);
            fs::write(entry(component), "").unwrap();
        }
        fs::write(policies_dir(state).join("installed.wasm"), "installed").unwrap();
        for days in [0, 8] {
            sweep_pinned(state, &[], NOW + days * DAY).unwrap();
        }
        assert_eq!(count(state), 0);
        assert!(!entry("foreign").exists() && entry("installed").exists());
    }
}
