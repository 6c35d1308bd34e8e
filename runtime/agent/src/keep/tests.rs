//! What the keeper restores, and what it leaves.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::time::Instant;

use weft_core::private::write_whole;

use super::restore::{History, MOST, REST, Verdict, WINDOW, look_at};
use super::*;

struct Place {
    _dir: tempfile::TempDir,
    conf: PathBuf,
    keeper: Keeper,
    manifest: Manifest,
    memory: Memory,
}

fn place() -> Place {
    let dir = tempfile::tempdir().unwrap();
    let (conf, copy) = (dir.path().join("net.d/10-weft.conflist"), dir.path().join("copy"));
    fs::write(&copy, "{}").unwrap();
    let manifest = Manifest {
        files: vec![KeptFile { path: conf.clone(), kind: FileKind::Conf, copy, mode: 0o644 }],
        names: vec![dir.path().join("net.d/weft-pod")],
    };
    write_manifest(dir.path(), &manifest);
    let keeper = Keeper {
        state: dir.path().to_owned(),
        health: Rc::default(),
        events: None,
        kept: std::cell::Cell::default(),
        log: Log,
    };
    Place { _dir: dir, conf, keeper, manifest, memory: Memory::default() }
}

fn write_manifest(state: &Path, manifest: &Manifest) {
    fs::create_dir_all(Manifest::path(state).parent().unwrap()).unwrap();
    fs::write(Manifest::path(state), serde_json::to_vec(manifest).unwrap()).unwrap();
}

impl Place {
    fn copy(&self) -> &Path {
        &self.manifest.files[0].copy
    }

    fn look(&mut self) -> Vec<String> {
        let seen = look_at(&self.keeper.state, &self.manifest, &mut self.memory);
        let faults = seen.faults.clone();
        self.keeper.take(seen);
        faults
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
    assert_eq!(place.keeper.counts(), Kept { restored: 5, given_up: 0 });
    place.look();
    assert_eq!(place.keeper.counts().restored, 5);
}

/// An upgrade replaces the file and its copy, in either order.
#[test]
fn a_new_copy_is_compared_with_an_untouched_file() {
    let mut place = place();
    place.look();
    place.look();
    write_whole(place.copy(), b"{\"new\": 1}", 0o600).unwrap();
    assert!(place.look().is_empty());
    assert_eq!(fs::read_to_string(&place.conf).unwrap(), "{\"new\": 1}");
    fs::remove_file(place.copy()).unwrap();
    for _again in 0..=MOST {
        let faults = place.look();
        assert!(faults.len() == 1 && faults[0].contains("copy"), "{faults:?}");
    }
    assert_eq!(place.keeper.counts().given_up, 0, "nobody changes it");
}

#[test]
fn nothing_is_put_back_under_an_installer_or_after_it() {
    let mut place = place();
    place.look();
    let name = place.manifest.names[0].clone();
    fs::remove_file(&place.conf).unwrap();
    fs::remove_file(&name).unwrap();
    let lock = InstallLock::take(&place.keeper.state, Duration::ZERO).unwrap().unwrap();
    assert!(InstallLock::take(&place.keeper.state, Duration::ZERO).is_err(), "two installers");
    for _again in 0..=MOST {
        assert!(place.look().is_empty());
    }
    assert!(!place.conf.exists() && fs::symlink_metadata(&name).is_err(), "an installer is at work");
    drop(lock);
    // The check began before the manifest was removed.
    fs::remove_file(Manifest::path(&place.keeper.state)).unwrap();
    assert!(place.look().is_empty());
    assert!(!place.conf.exists() && fs::symlink_metadata(&name).is_err(), "it was uninstalled");
    write_manifest(&place.keeper.state, &place.manifest);
    assert!(place.look().is_empty());
    assert!(place.conf.exists() && fs::symlink_metadata(&name).is_ok());
}

#[test]
fn a_file_that_is_changed_five_times_in_a_minute_is_left_alone_and_reported() {
    let mut place = place();
    for _ in 0..MOST {
        assert!(place.look().is_empty());
        fs::remove_file(&place.conf).unwrap();
    }
    let faults = place.look();
    assert!(faults.len() == 1 && faults[0].contains("cni.exclusive"), "{faults:?}");
    assert!(!place.conf.exists());
    assert_eq!(place.look().len(), 1);
    assert_eq!(place.keeper.counts().given_up, 1);
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
