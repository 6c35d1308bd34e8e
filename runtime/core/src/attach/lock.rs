//! Locks on attachments: one lock per journal key (rules `add_lock` and `del_mark` of the model in
//! `tests/model/src/protocol`).
//!
//! An ADD holds the lock exclusively, from its first step until its links are up or undone. Removers (DEL, GC) share it
//! and never wait: a remover that finds an ADD at work leaves a removal mark. A repair holds it exclusively, like an
//! ADD.
//!
//! The locks are byte ranges of one file, `locks` in the state directory, of the kind that belongs to an open file
//! ([open file description locks](https://man7.org/linux/man-pages/man2/fcntl_locking.2.html)): the kernel drops a lock
//! however its process ends, children do not inherit it (the file is closed on exec), and no file per attachment is
//! left over. The byte is a hash of the key. Two keys with the same hash wait for each other, which happens once in
//! 2^62 and is slow but never wrong.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;
use weft_host_abi::types::Attachment;

use super::error::AttachError;
use crate::store::Key;

/// The file in the state directory.
const FILE: &str = "locks";

/// How long an ADD waits for another ADD, or for removers, of the same attachment.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a rebuild of the ledger waits for every ADD.
const REBUILD_PATIENCE: Duration = Duration::from_secs(60);

const FIRST_STEP: Duration = Duration::from_millis(1);
const LAST_STEP: Duration = Duration::from_millis(32);

/// A lock of an attachment, held until dropped.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

impl Lock {
    /// Takes the lock for an ADD. Waits for a while for others that work on the attachment.
    ///
    /// # Errors
    /// Others are still at work, or the file cannot be used.
    pub fn for_add(state_dir: &Path, key: &Key) -> Result<Self, AttachError> {
        Self::wait(state_dir, key, libc::F_WRLCK)
    }

    /// Takes the lock for an ADD that removes another attachment. Waits for a while for an ADD of the latter.
    ///
    /// # Errors
    /// The other ADD is still at work, or the file cannot be used.
    pub(super) fn for_takeover(state_dir: &Path, key: &Key) -> Result<Self, AttachError> {
        Self::wait(state_dir, key, libc::F_RDLCK)
    }

    fn wait(state_dir: &Path, key: &Key, kind: libc::c_int) -> Result<Self, AttachError> {
        let path = state_dir.join(FILE);
        let file = open(state_dir, &path).map_err(|source| unusable(&path, source))?;
        let deadline = Instant::now() + PATIENCE;
        let mut step = FIRST_STEP;
        loop {
            if lock(&file, (lock_offset(key), 1), kind).map_err(|source| unusable(&path, source))? {
                return Ok(Self { _file: file });
            }
            if Instant::now() >= deadline {
                let attachment = key.attachment.clone();
                return Err(AttachError::AtWork { attachment, seconds: PATIENCE.as_secs() });
            }
            sleep(step);
            step = (step * 2).min(LAST_STEP);
        }
    }

    /// Takes the lock for a repair, which holds it exclusively like an ADD. Returns `None` if others are at work; they
    /// leave the attachment either complete or removed.
    ///
    /// # Errors
    /// The file cannot be used.
    pub(super) fn for_repair(state_dir: &Path, key: &Key) -> Result<Option<Self>, AttachError> {
        let locks = RemovalLocks::open(state_dir)?;
        let locked =
            lock(&locks.file, (lock_offset(key), 1), libc::F_WRLCK).map_err(|source| unusable(&locks.path, source))?;
        Ok(locked.then_some(Self { _file: locks.file }))
    }

    /// Takes the locks of all attachments, so that no ADD and no removal is at work while the ledger is rebuilt. Waits for
    /// those that are.
    ///
    /// # Errors
    /// Some are still at work, or the file cannot be used.
    pub fn for_rebuild(state_dir: &Path) -> Result<Self, AttachError> {
        Self::lock_all(state_dir, REBUILD_PATIENCE)
    }

    fn lock_all(state_dir: &Path, patience: Duration) -> Result<Self, AttachError> {
        let locks = RemovalLocks::open(state_dir)?;
        let deadline = Instant::now() + patience;
        while !lock(&locks.file, WHOLE, libc::F_WRLCK).map_err(|source| unusable(&locks.path, source))? {
            if Instant::now() >= deadline {
                return Err(AttachError::NodeAtWork { seconds: patience.as_secs() });
            }
            sleep(LAST_STEP);
        }
        Ok(Self { _file: locks.file })
    }

    /// Takes the lock for a remover. Returns `None` if an ADD is at work.
    ///
    /// # Errors
    /// The file cannot be used, or the ledger is being rebuilt: a mark in the old one would be lost.
    pub fn for_removal(state_dir: &Path, key: &Key) -> Result<Option<Self>, AttachError> {
        let locks = RemovalLocks::open(state_dir)?;
        if locks.lock(key)? {
            return Ok(Some(Self { _file: locks.file }));
        }
        if locks.is_rebuild_running()? { Err(AttachError::Rebuilding) } else { Ok(None) }
    }
}

/// A remover's locks on many attachments, held until dropped.
#[derive(Debug)]
pub(super) struct RemovalLocks {
    path: PathBuf,
    file: File,
}

impl RemovalLocks {
    /// Opens the file without taking a lock.
    pub(super) fn open(state_dir: &Path) -> Result<Self, AttachError> {
        let path = state_dir.join(FILE);
        let file = open(state_dir, &path).map_err(|source| unusable(&path, source))?;
        Ok(Self { path, file })
    }

    /// Locks one more attachment. Returns `false` if an ADD is at work.
    pub(super) fn lock(&self, key: &Key) -> Result<bool, AttachError> {
        lock(&self.file, (lock_offset(key), 1), libc::F_RDLCK).map_err(|source| unusable(&self.path, source))
    }

    /// Returns whether a rebuild of the ledger has all locks: it alone locks the last byte.
    fn is_rebuild_running(&self) -> Result<bool, AttachError> {
        Ok(!lock(&self.file, LAST, libc::F_RDLCK).map_err(|source| unusable(&self.path, source))?)
    }
}

fn unusable(path: &Path, source: io::Error) -> AttachError {
    AttachError::LockFile { path: PathBuf::from(path), source }
}

fn open(state_dir: &Path, path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).mode(crate::private::FILE).custom_flags(libc::O_NOFOLLOW);
    match options.open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            crate::private::make_dir(state_dir)?;
            options.open(path)
        }
        other => other,
    }
}

/// The bytes of all keys: a length of 0 reaches to the end.
const WHOLE: (i64, i64) = (0, 0);

/// A byte of no key (see `lock_offset`).
const LAST: (i64, i64) = (i64::MAX - 1, 1);

/// Tries to lock so many bytes. Returns whether it succeeded.
fn lock(file: &File, (start, length): (i64, i64), kind: libc::c_int) -> io::Result<bool> {
    let range = libc::flock {
        l_type: libc::c_short::try_from(kind).map_err(io::Error::other)?,
        l_whence: 0,
        l_start: start,
        l_len: length,
        // Has to be 0 for this kind of lock.
        l_pid: 0,
    };
    loop {
        match fcntl(file, FcntlArg::F_OFD_SETLK(&range)) {
            Ok(_) => return Ok(true),
            Err(Errno::EAGAIN | Errno::EACCES) => return Ok(false),
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// Returns the byte of a key: FNV-1a, which is the same in every build, because two builds run side by side during an
/// upgrade.
fn lock_offset(key: &Key) -> i64 {
    let Attachment { network, container_id, ifname } = &key.attachment;
    let role = [key.role as u8];
    let parts = [container_id.as_bytes(), network.as_bytes(), ifname.as_bytes(), &role];
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    for byte in parts.iter().flat_map(|part| part.iter().chain(&[0])) {
        hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    // A file has 2^63 bytes at most, the last of which cannot be locked.
    i64::try_from(hash >> 2).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;
    use crate::store::Role;

    fn key(container: &str, ifname: &str, role: Role) -> Key {
        let attachment =
            Attachment { network: "n".to_owned(), container_id: container.to_owned(), ifname: ifname.to_owned() };
        Key { attachment, role }
    }

    #[test]
    fn an_add_excludes_and_removers_share() {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("not/there/yet");
        let (one, other) = (key("c", "eth0", Role::Attachment), key("c", "eth0", Role::Ipam));
        let add = Lock::for_add(&state, &one).unwrap();
        assert!(Lock::for_removal(&state, &one).unwrap().is_none());
        assert!(Lock::for_repair(&state, &one).unwrap().is_none());
        // An external delegate's ADD calls weft back for addresses, under the same names.
        drop(Lock::for_add(&state, &other).unwrap());
        drop(add);
        let removers = [Lock::for_removal(&state, &one).unwrap(), Lock::for_removal(&state, &one).unwrap()];
        assert!(removers.iter().all(Option::is_some));
        assert!(Lock::for_repair(&state, &one).unwrap().is_none());
        drop(removers);
        let repair = Lock::for_repair(&state, &one).unwrap().unwrap();
        assert!(Lock::for_removal(&state, &one).unwrap().is_none());
        drop(repair);
        drop(Lock::for_add(&state, &one).unwrap());
        let left: Vec<_> = std::fs::read_dir(&state).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, ["locks"], "no file per attachment");
    }

    #[test]
    fn a_rebuild_waits_for_every_add_and_keeps_new_ones_away() {
        let dir = tempfile::tempdir().unwrap();
        let (one, other) = (key("c", "eth0", Role::Attachment), key("d", "eth0", Role::Attachment));
        let add = Lock::for_add(dir.path(), &one).unwrap();
        let error = Lock::lock_all(dir.path(), Duration::from_millis(20)).unwrap_err();
        assert!(matches!(error, AttachError::NodeAtWork { .. }), "{error}");
        drop(add);
        let rebuild = Lock::lock_all(dir.path(), Duration::from_secs(60)).unwrap();
        for key in [&one, &other] {
            assert!(Lock::for_repair(dir.path(), key).unwrap().is_none());
            let error = Lock::for_removal(dir.path(), key).unwrap_err();
            assert!(matches!(error, AttachError::Rebuilding), "{error}");
        }
        drop(rebuild);
        assert!(Lock::for_removal(dir.path(), &one).unwrap().is_some());
        drop(Lock::for_add(dir.path(), &other).unwrap());
    }

    #[test]
    fn different_keys_lock_different_bytes() {
        let keys = [
            key("ab", "c", Role::Attachment),
            key("a", "bc", Role::Attachment),
            key("ab", "c", Role::Steps),
            key("ab", "d", Role::Attachment),
        ];
        let places: std::collections::BTreeSet<i64> = keys.iter().map(lock_offset).collect();
        assert_eq!(places.len(), keys.len());
        assert!(places.iter().all(|place| *place >= 0));
    }
}
