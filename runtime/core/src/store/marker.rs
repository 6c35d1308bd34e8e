//! The marker beside the store: how many claiming commits this boot has seen.
//!
//! A commit lives in SQLite's write-ahead log until the log is written back. SQLite treats a log that was deleted, cut
//! or zeroed as empty: its commits disappear silently, and live addresses are handed out again. So the store counts the
//! commits (`meta`, `CLAIMED`), and the marker holds the count outside the store. A store with a lower count than its
//! marker has lost commits.
//!
//! Invariants: the marker is written after its commit and before anything changes on the node, so it is never ahead of
//! an intact store. A value from another boot is ignored (a power cut may lose commits, but all links with them).
//!
//! The marker exists before the first claim of any process, so a missing marker was deleted.
//!
//! Processes write concurrently and without a lock: the count decides which slot a process writes, so a slow writer
//! never hides the mark of a faster one.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Its name in the state directory. `rm weft.db*` does not delete it.
const NAME: &str = "ledger.mark";

/// There are never more processes than this between a commit and its mark.
const SLOTS: u64 = 64;

/// Bytes of a slot: boot, count, and a checksum of both, so that a partially written slot is ignored.
const SLOT: usize = 32;

/// Returns the path of a store's marker.
fn path(store: &Path) -> PathBuf {
    store.with_file_name(NAME)
}

/// Returns the highest count of this boot; `None` without a marker.
pub(super) fn read(store: &Path, boot_id: &str) -> io::Result<Option<u64>> {
    let file = match OpenOptions::new().read(true).custom_flags(nix::libc::O_NOFOLLOW).open(path(store)) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut bytes = [0; SLOT * SLOTS as usize];
    let mut filled = 0;
    while filled < bytes.len() {
        match file.read_at(&mut bytes[filled..], filled as u64)? {
            0 => break,
            count => filled += count,
        }
    }
    let boot = hash(boot_id);
    Ok(Some(bytes.chunks_exact(SLOT).filter_map(|slot| count_of(slot, boot)).max().unwrap_or(0)))
}

fn count_of(slot: &[u8], boot: u64) -> Option<u64> {
    let word = |at: usize| slot.get(at..at + 8)?.try_into().ok().map(u64::from_be_bytes);
    let (found, count, sum) = (word(0)?, word(8)?, word(16)?);
    (found == boot && sum == checksum(boot, count)).then_some(count)
}

/// Records a committed count.
pub(super) fn write(store: &Path, boot_id: &str, count: u64) -> io::Result<()> {
    let file = match OpenOptions::new().write(true).custom_flags(nix::libc::O_NOFOLLOW).open(path(store)) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => create(store)?,
        Err(error) => return Err(error),
    };
    let boot = hash(boot_id);
    let mut slot = [0; SLOT];
    for (at, word) in [boot, count, checksum(boot, count)].into_iter().enumerate() {
        slot[at * 8..at * 8 + 8].copy_from_slice(&word.to_be_bytes());
    }
    file.write_all_at(&slot, (count % SLOTS) * SLOT as u64)
}

/// Creates the marker at full length, so that a full disk cannot prevent later writes.
fn create(store: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).mode(crate::private::FILE).custom_flags(nix::libc::O_NOFOLLOW);
    match options.clone().create_new(true).open(path(store)) {
        Ok(file) => {
            // Write only the end: another process may already have written its slot.
            file.write_all_at(&[0], SLOT as u64 * SLOTS - 1)?;
            Ok(file)
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => options.open(path(store)),
        Err(error) => Err(error),
    }
}

fn checksum(boot: u64, count: u64) -> u64 {
    boot.rotate_left(17) ^ !count
}

/// FNV-1a, which is the same in every version of this program.
fn hash(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_highest_count_of_this_boot_is_read_in_any_order_of_writes() {
        let dir = tempfile::tempdir().unwrap();
        let store = dir.path().join("weft.db");
        assert_eq!(read(&store, "boot-1").unwrap(), None);
        for count in [1, 2, 3, 70, 69, 64] {
            write(&store, "boot-1", count).unwrap();
        }
        assert_eq!(read(&store, "boot-1").unwrap(), Some(70));
        assert_eq!(read(&store, "boot-2").unwrap(), Some(0), "another boot has claimed nothing yet");
        write(&store, "boot-2", 71).unwrap();
        assert_eq!(read(&store, "boot-1").unwrap(), Some(70));
    }

    #[test]
    fn a_torn_slot_and_a_short_file_count_for_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let store = dir.path().join("weft.db");
        write(&store, "b", 5).unwrap();
        write(&store, "b", 6).unwrap();
        let file = OpenOptions::new().write(true).open(path(&store)).unwrap();
        file.write_all_at(&[0xff], 6 * SLOT as u64 + 8).unwrap();
        assert_eq!(read(&store, "b").unwrap(), Some(5));
        file.set_len(100).unwrap();
        assert_eq!(read(&store, "b").unwrap(), Some(0));
    }
}
