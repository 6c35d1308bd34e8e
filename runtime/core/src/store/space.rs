//! Room on the disk that is taken beforehand, so that DEL and GC work on a full one: kubelet evicts pods to get room, and what they
//! hold has to be released then.
//!
//! A commit appends to the log, and writing the log back may lengthen the store. Both files get their blocks before they
//! have anything to put there (`FALLOC_FL_KEEP_SIZE`: the size stays what SQLite thinks it is). Not on file systems that never
//! write in place (btrfs, ZFS), and where blocks cannot be reserved this does nothing.

use std::fs::{File, Metadata, OpenOptions};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::fcntl::{FallocateFlags, fallocate};

/// The log is written back once it is larger than this. Rebuilding the index of a log of this size takes a
/// fraction of a millisecond; writing it back costs one flush, shared by the ADDs and DELs that filled it.
pub(crate) const LOG_LIMIT: u64 = 256 * 1024;

/// Blocks of the store: some hundred attachments.
const STORE: i64 = 2 * 1024 * 1024;

/// Blocks of the log: what it may grow to before it is written back, and some dozen releases more where that cannot be done.
const LOG: u64 = 4 * LOG_LIMIT;

/// `st_blocks` counts these.
const BLOCK: u64 = 512;

/// Takes room for a store that is being made.
pub(super) fn reserve_store(file: &File) {
    reserve(file, STORE);
}

/// Takes room for the log, unless it has it. SQLite holds no lock on the log file that closing it here would drop.
pub(super) fn reserve_log(log: &Path, meta: &Metadata) {
    if meta.blocks().saturating_mul(BLOCK) >= LOG {
        return;
    }
    if let Ok(file) = OpenOptions::new().write(true).open(log) {
        reserve(&file, i64::try_from(LOG).unwrap_or(i64::MAX));
    }
}

/// Best effort: without the room everything works until the disk is full.
fn reserve(file: &File, bytes: i64) {
    fallocate(file, FallocateFlags::FALLOC_FL_KEEP_SIZE, 0, bytes).ok();
}
