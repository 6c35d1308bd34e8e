//! Reserves disk space, so that DEL and GC work on a full disk: kubelet evicts pods to free space, and what they hold
//! has to be released then.
//!
//! A commit appends to the log, and writing the log back may lengthen the store. Both files get their blocks before
//! they need them (`FALLOC_FL_KEEP_SIZE`: the size remains what SQLite expects). This has no effect on file systems
//! that never write in place (btrfs, ZFS), or that cannot reserve blocks.
//!
//! Invariant: a descriptor of the store file that is opened here is never closed. Closing it would drop the locks that
//! SQLite holds in this process.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fs::{self, File, Metadata, OpenOptions};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use nix::fcntl::{FallocateFlags, fallocate};

/// The log is written back once it is larger than this. Rebuilding the index of a log of this size takes a fraction of
/// a millisecond; writing it back costs one flush, shared by the ADDs and DELs that filled it.
pub(crate) const LOG_LIMIT: u64 = 256 * 1024;

/// Bytes reserved for the store: some hundred attachments.
const STORE: i64 = 2 * 1024 * 1024;

/// Bytes that a store keeps beyond its end, and below which it gets more: the log can be written back several times.
const SPARE: u64 = 4 * LOG_LIMIT;
const SPARE_LEAST: u64 = 2 * LOG_LIMIT;

/// Descriptors of stores, by device and inode.
static STORES: Mutex<BTreeMap<(u64, u64), File>> = Mutex::new(BTreeMap::new());

/// Bytes reserved for the log: its size limit, plus some dozen releases if it cannot be written back.
const LOG: u64 = 4 * LOG_LIMIT;

/// The unit of `st_blocks`.
const BLOCK: u64 = 512;

/// Reserves space for a store that is being made.
pub(super) fn reserve_store(file: &File) {
    reserve(file, STORE);
}

/// Reserves space for the growth of a store, unless it has enough. Called after the log was written back, which has
/// lengthened it.
pub(super) fn reserve_growth(store: &Path) {
    let Ok(meta) = fs::metadata(store) else { return };
    if meta.blocks().saturating_mul(BLOCK) >= meta.len() + SPARE_LEAST {
        return;
    }
    let mut open = STORES.lock().unwrap_or_else(PoisonError::into_inner);
    let identity = (meta.dev(), meta.ino());
    if !open.contains_key(&identity) {
        let Ok(file) = OpenOptions::new().write(true).open(store) else { return };
        // Another file may have got the name; its descriptor is kept as well.
        let Ok(identity) = file.metadata().map(|meta| (meta.dev(), meta.ino())) else {
            std::mem::forget(file);
            return;
        };
        match open.entry(identity) {
            Entry::Vacant(place) => drop(place.insert(file)),
            Entry::Occupied(_) => std::mem::forget(file),
        }
    }
    if let Some(file) = open.get(&identity) {
        reserve(file, i64::try_from(meta.len() + SPARE).unwrap_or(i64::MAX));
    }
}

/// Reserves space for the log, unless it has enough. SQLite holds no lock on the log file that closing it here would
/// drop.
pub(super) fn reserve_log(log: &Path, meta: &Metadata) {
    if meta.blocks().saturating_mul(BLOCK) >= LOG {
        return;
    }
    if let Ok(file) = OpenOptions::new().write(true).open(log) {
        reserve(&file, i64::try_from(LOG).unwrap_or(i64::MAX));
    }
}

/// Best effort: without the reservation, everything works until the disk is full.
fn reserve(file: &File, bytes: i64) {
    fallocate(file, FallocateFlags::FALLOC_FL_KEEP_SIZE, 0, bytes).ok();
}
