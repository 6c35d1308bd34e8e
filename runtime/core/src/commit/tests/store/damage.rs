//! Damaged files: nothing panics or hangs, and every failure is an error with a text.

use std::fs;
use std::path::PathBuf;

use proptest::prelude::*;
use rusqlite::Connection;

use super::super::size::{every_nth_address, fill};
use super::super::*;
use super::pool;
use crate::ledger::ClaimFilter;
use crate::store::{FILE, log_path};

// === damage ===

/// The file contents of a store with some rows of every kind.
fn sample() -> (Vec<u8>, Vec<u8>) {
    let mut disk = OnDisk::new();
    fill(&mut disk.store, "s", &every_nth_address(&pool(), 200, 2));
    let keep = ReleaseRule::Keep("pod:ns/x".into());
    for (owner, rule) in [("kept", &keep), ("resting", &ReleaseRule::Cooldown(9)), ("active", &ReleaseRule::Free)] {
        let free = disk.store.view("s", 1).unwrap().next_free(&pool(), pool().first).unwrap().unwrap();
        let record = Record { shared: vec!["x".into()], ..Record::default() };
        disk.claim(&ask(&key(owner), &[want(&[free], &pool())], rule), record).unwrap();
    }
    disk.release(&key("kept"), 1000);
    disk.release(&key("resting"), 1000);
    let path = disk.store.path().to_owned();
    drop(disk.store);
    (fs::read(&path).unwrap(), fs::read(log_path(&path)).unwrap())
}

/// Uses every part of a store that may be broken. Nothing may panic or hang; errors are allowed.
fn use_it(dir: PathBuf) -> Result<(), Box<dyn std::error::Error>> {
    if let Some(reader) = NodeStore::open_read_only(&dir)? {
        drop(reader.integrity());
    }
    let mut store = NodeStore::open(&dir, "boot-2")?;
    drop(store.integrity());
    drop(store.reap_previous_boots(&|entry| entry.key.attachment.container_id == "active", 1000));
    drop(store.purge_expired(5000));
    drop(store.held("s", &["pod:ns/x".to_owned()], "active"));
    drop(store.claims(&ClaimFilter::default()));
    drop(store.entries(None));
    if let Ok(view) = store.view("s", 1000) {
        let free = view.next_free(&pool(), pool().first);
        drop((view.usage(&pool()), view.last_claimed(&pool()), view.claimed_by(pool().first), view.held_by("active")));
        drop(view);
        if let Ok(Some(free)) = free {
            let wants = [want(&[free], &pool())];
            drop(store.claim(&ask(&key("new"), &wants, &ReleaseRule::Free), |_| Ok::<_, ()>(Record::default())));
        }
    }
    drop(store.update_record(&key("active"), &Record::default()));
    drop(store.release(&key("active"), 1000));
    drop(store.release_address("s", ip("10.0.0.1"), (true, 1000)));
    drop(store.repair(1000));
    store.maintain()?;
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_damaged_file_is_an_error_and_never_a_panic(
        flips in prop::collection::vec((any::<prop::sample::Index>(), 0_u8..8), 0..12),
        header in prop::collection::vec((0_usize..100, any::<u8>()), 0..3),
        cut in prop::option::of(any::<prop::sample::Index>()),
        in_log in any::<bool>(),
        without_log in any::<bool>(),
    ) {
        static SAMPLE: std::sync::LazyLock<(Vec<u8>, Vec<u8>)> = std::sync::LazyLock::new(sample);
        let (mut file, mut log) = SAMPLE.clone();
        let victim = if in_log { &mut log } else { &mut file };
        for (index, bit) in &flips {
            let at = index.index(victim.len());
            victim[at] ^= 1 << bit;
        }
        for (at, byte) in &header {
            victim[*at] = *byte;
        }
        if let Some(cut) = cut {
            victim.truncate(cut.index(victim.len()));
        }
        let dir = scratch();
        let path = dir.path().join(FILE);
        fs::write(&path, &file).unwrap();
        if !without_log {
            fs::write(log_path(&path), &log).unwrap();
        }
        if let Err(error) = use_it(dir.path().to_owned()) {
            prop_assert!(!error.to_string().is_empty());
        }
    }

    #[test]
    fn rows_that_make_no_sense_are_errors(
        column in 0_usize..12,
        value in prop_oneof![
            Just("NULL".to_owned()), Just("-1".to_owned()), Just("9223372036854775807".to_owned()), Just("1.5".to_owned()),
            Just("'text'".to_owned()), Just("x''".to_owned()), Just("x'0102'".to_owned()), Just("x'ff00ff'".to_owned()),
        ],
    ) {
        let targets = [
            "claims SET address", "claims SET state", "claims SET entry", "claims SET until", "claims SET owner",
            "journal SET release", "journal SET shared", "journal SET role", "journal SET created", "runs SET last",
            "ranges SET taken", "slots SET address",
        ];
        let (file, log) = sample();
        let dir = scratch();
        let path = dir.path().join(FILE);
        fs::write(&path, &file).unwrap();
        fs::write(log_path(&path), &log).unwrap();
        let raw = Connection::open(&path).unwrap();
        // Constraints refuse some of these; a manual edit can produce the others.
        let table = targets[column].split(' ').next().unwrap();
        let rows = if table == "journal" { " WHERE id = 3" } else { "" };
        let changed = raw.execute_batch(&format!("UPDATE OR IGNORE {} = {value}{rows}", targets[column]));
        drop(changed);
        drop(raw);
        if let Err(error) = use_it(dir.path().to_owned()) {
            prop_assert!(!error.to_string().is_empty());
        }
    }
}
