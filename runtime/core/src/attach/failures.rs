//! Failed ADDs, for the question "why was it denied?": the latest ones in `<state>/failures/`, one file each.
//!
//! Nothing depends on these files. A record that cannot be written is dropped; number and size are bounded.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use weft_host_abi::types::{Attachment, Denial};

use super::call::Call;
use super::comparison::MonitorTrace;
use super::error::AttachError;
use super::node::{Context, Node};
use super::notice::Notice;
use super::trace::Attempt;
use super::truncate::RECORD_MAX;
use crate::cni::{self, CniError, Environment, code};
use crate::exec::ExecError;

/// The directory inside the state directory.
const DIRECTORY: &str = "failures";

/// How many files are kept.
const FILES_MAX: usize = 64;

/// Maximum bytes of a file. A larger record is stored without parts of the policy call, or without all of it.
const SIZE_MAX: usize = RECORD_MAX;

/// Bytes of a record beside the policy call.
const BESIDE: usize = 16 << 10;

/// The suffix of a file's name.
const SUFFIX: &str = ".json";

/// A failed ADD.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Failure {
    /// Seconds since 1970.
    pub time: u64,
    /// The attachment that was requested.
    pub attachment: Attachment,
    /// `NAMESPACE/NAME` of the pod, where the runtime named one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<String>,
    /// CNI code of the error.
    pub code: u32,
    /// The error.
    pub msg: String,
    /// Its causes.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub details: String,
    /// The policy's request, if a policy failed or refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempt: Option<Attempt>,
    /// What the monitored policy would have decided.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub monitor: Option<MonitorTrace>,
}

/// Stores the record of a failed ADD with the policy call that led to it. Returns its path.
pub(super) fn keep(node: &mut Node<'_>, call: &Call, error: &AttachError) -> Option<PathBuf> {
    let pod = call.pod().filter(|pod| !pod.name.is_empty());
    let pod = pod.map(|pod| format!("{}/{}", pod.namespace, pod.name));
    let mut attempt = node.log.attempt.take();
    if let Some(attempt) = &mut attempt {
        attempt
            .truncate_to_fit(|attempt| serde_json::to_vec(attempt).is_ok_and(|text| text.len() <= SIZE_MAX - BESIDE));
    }
    let mut failure = Failure { attempt, ..failure(call.attachment(), pod, error.to_cni()) };
    let mut text = serde_json::to_vec(&failure).ok()?;
    if text.len() > SIZE_MAX {
        failure.attempt = None;
        text = serde_json::to_vec(&failure).ok()?;
    }
    if text.len() > SIZE_MAX {
        return None;
    }
    match write(&node.context.state_dir, &text) {
        Ok(path) => {
            node.log.has_kept_failure = true;
            Some(path)
        }
        Err(error) => {
            node.log(&format!("cannot keep the record of this failure: {error}"));
            None
        }
    }
}

/// Keeps the record of an ADD that failed before it had an attachment, as far as its configuration says what it was about.
pub fn record_unparsed(context: &Context, env: &Environment, stdin: &[u8], error: &CniError) {
    let network = cni::read_network(stdin).ok().and_then(|conf| conf.str("name").ok().flatten().map(str::to_owned));
    let pairs = cni::usable_pairs(&env.args);
    let value = |wanted: &str| pairs.iter().find(|(key, _value)| key == wanted).map(|(_key, value)| value.as_str());
    let pod = value("K8S_POD_NAME").filter(|name| !name.is_empty());
    let pod = pod.map(|name| format!("{}/{name}", value("K8S_POD_NAMESPACE").unwrap_or_default()));
    let attachment = Attachment {
        network: network.unwrap_or_default(),
        container_id: env.container_id.clone(),
        ifname: env.ifname.clone(),
    };
    let text = serde_json::to_vec(&failure(attachment, pod, error.clone())).unwrap_or_default();
    if (1..=SIZE_MAX).contains(&text.len()) {
        write(&context.state_dir, &text).ok();
    }
}

/// Returns what follows from a failed ADD, besides its error.
pub(super) fn notice_of(call: &Call, error: &AttachError) -> Option<Notice> {
    match error {
        AttachError::Denied { denial: Denial::Denied(_), .. } => Some(Notice::Denied),
        AttachError::NoCell { .. } | AttachError::Denied { denial: Denial::Exhausted(_), .. } => {
            Some(Notice::Exhausted)
        }
        AttachError::Leftovers { cause, .. } | AttachError::DelegateAdd { cause } => notice_of(call, cause),
        // Another vendor's plugin made the link, and asked weft for addresses. Its own codes mean something else.
        AttachError::Plugin(ExecError::Said(error)) if call.network.ipam.as_ref()?.kind.is_policy() => {
            match error.code {
                code::DENIED => Some(Notice::Denied),
                code::EXHAUSTED => Some(Notice::Exhausted),
                _ => None,
            }
        }
        _ => None,
    }
}

fn failure(attachment: Attachment, pod: Option<String>, error: CniError) -> Failure {
    Failure {
        time: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()),
        attachment,
        pod,
        code: error.code,
        msg: error.msg,
        details: error.details,
        attempt: None,
        monitor: None,
    }
}

/// Adds to a stored record what the monitored policy would have done. A record that is gone by now, or that would
/// become too large, is left as it is.
pub(super) fn add_monitor(record: &Path, monitor: MonitorTrace) {
    let Some(failure) = read(record) else { return };
    let failure = Failure { monitor: Some(monitor), ..failure };
    let Ok(text) = serde_json::to_vec(&failure) else { return };
    let Some((dir, name)) = record.parent().zip(record.file_name()) else { return };
    if text.len() <= SIZE_MAX {
        write_atomically(dir, &name.to_string_lossy(), &text).ok();
    }
}

fn write(state_dir: &Path, text: &[u8]) -> io::Result<PathBuf> {
    let dir = state_dir.join(DIRECTORY);
    match DirBuilder::new().mode(crate::private::DIRECTORY).create(&dir) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    let mut files = files(&dir)?;
    let excess = (files.len() + 1).saturating_sub(FILES_MAX);
    for old in files.drain(..excess) {
        match fs::remove_file(&old) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    let nanos = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos());
    write_atomically(&dir, &format!("{nanos:020}-{}{SUFFIX}", std::process::id()), text)
}

/// Writes a file beside its destination, and moves it there.
fn write_atomically(dir: &Path, name: &str, text: &[u8]) -> io::Result<PathBuf> {
    let temporary = dir.join(format!(".{}", name.trim_end_matches(SUFFIX)));
    let path = dir.join(name);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(crate::private::FILE).open(&temporary)?;
    let written = file.write_all(text).and_then(|()| fs::rename(&temporary, &path));
    if written.is_err() {
        fs::remove_file(&temporary).ok();
    }
    written.map(|()| path)
}

/// Returns the stored files and unfinished ones, oldest first: their names begin with the time.
fn files(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir)? {
        files.push(entry?.path());
    }
    files.sort_by_key(|path| path.file_name().map(|name| name.to_string_lossy().trim_start_matches('.').to_owned()));
    Ok(files)
}

/// Returns the stored failures, oldest first. A damaged record is skipped.
///
/// # Errors
/// The directory exists and cannot be read.
pub fn failures(state_dir: &Path) -> io::Result<Vec<Failure>> {
    let dir = state_dir.join(DIRECTORY);
    if !dir.is_dir() {
        return Ok(Vec::new());
    }
    let kept = files(&dir)?.into_iter().filter(|path| path.to_string_lossy().ends_with(SUFFIX));
    Ok(kept.filter_map(|path| read(&path)).collect())
}

fn read(path: &Path) -> Option<Failure> {
    let mut text = Vec::new();
    File::open(path).ok()?.take(SIZE_MAX as u64).read_to_end(&mut text).ok()?;
    serde_json::from_slice(&text).ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

    use super::*;

    #[test]
    fn the_last_ones_are_kept_and_a_damaged_one_hides_no_other() {
        let state = tempfile::tempdir().unwrap();
        assert!(failures(state.path()).unwrap().is_empty());
        for time in 0..u64::try_from(FILES_MAX).unwrap() + 9 {
            let attachment = Attachment { network: "n".into(), container_id: "c".into(), ifname: "eth0".into() };
            let failure = Failure {
                time,
                attachment,
                pod: None,
                code: 100,
                msg: "no".into(),
                details: String::new(),
                attempt: None,
                monitor: None,
            };
            write(state.path(), &serde_json::to_vec(&failure).unwrap()).unwrap();
        }
        let kept = failures(state.path()).unwrap();
        assert_eq!((kept.len(), kept[0].time, kept[FILES_MAX - 1].time), (FILES_MAX, 9, 72));
        let first = files(&state.path().join(DIRECTORY)).unwrap().swap_remove(0);
        fs::write(first, "{").unwrap();
        assert_eq!(failures(state.path()).unwrap().len(), FILES_MAX - 1);
    }
}
