//! Annotations that could not be written in time, one file each, so that the next agent continues with them.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};
use weft_core::agent::status::StatusRequest;
use weft_core::private::{FILE, write_whole};

use crate::Log;

/// The files.
#[derive(Clone)]
pub(super) struct Pending {
    dir: PathBuf,
    log: Log,
}

impl Pending {
    pub(super) fn open(dir: &Path, log: Log) -> Self {
        if let Err(error) = fs::create_dir_all(dir) {
            log.warn(&format!("cannot make {}: {error}", dir.display()));
        }
        Self { dir: dir.to_owned(), log }
    }

    /// Returns what is left to write. Removes unreadable files, which were never complete.
    pub(super) fn read_all(&self) -> Vec<StatusRequest> {
        let Ok(entries) = fs::read_dir(&self.dir) else { return Vec::new() };
        let read = |path: PathBuf| {
            let request = fs::read(&path).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
            if request.is_none() {
                fs::remove_file(&path).ok();
            }
            request
        };
        entries.flatten().filter_map(|entry| read(entry.path())).collect()
    }

    /// Stores a request. Replaces an older request for the same pod.
    pub(super) fn store(&self, request: &StatusRequest) {
        // Events are not repeated.
        let kept = StatusRequest { events: Vec::new(), ..request.clone() };
        if let Err(error) = self.write(&kept) {
            let StatusRequest { namespace, name, .. } = request;
            self.log.warn(&format!("the network status of pod {namespace}/{name} will not survive a restart: {error}"));
        }
    }

    pub(super) fn remove(&self, request: &StatusRequest) {
        fs::remove_file(self.path(request)).ok();
    }

    fn write(&self, request: &StatusRequest) -> io::Result<()> {
        write_whole(&self.path(request), &serde_json::to_vec(request)?, FILE)
    }

    fn path(&self, request: &StatusRequest) -> PathBuf {
        let digest = Sha256::digest(format!("{}/{}", request.namespace, request.name).as_bytes());
        let name: String = digest.iter().take(16).map(|byte| format!("{byte:02x}")).collect();
        self.dir.join(format!("{name}.json"))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn the_newest_of_a_pod_outlives_the_agent() {
        let dir = tempfile::tempdir().unwrap();
        let request = |uid: &str| StatusRequest {
            namespace: "ns".to_owned(),
            name: "p".to_owned(),
            uid: uid.to_owned(),
            annotation: Some("[]".to_owned()),
            ..StatusRequest::default()
        };
        let pending = Pending::open(&dir.path().join("status"), Log);
        pending.store(&request("one"));
        pending.store(&request("two"));
        fs::write(dir.path().join("status/half.json"), "{").unwrap();
        let next = Pending::open(&dir.path().join("status"), Log);
        assert_eq!(next.read_all(), [request("two")]);
        next.remove(&request("two"));
        assert!(next.read_all().is_empty());
        assert_eq!(fs::read_dir(dir.path().join("status")).unwrap().count(), 0);
    }
}
