//! The node's own files: detects changes and reads them.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Maximum size of a network configuration.
const SIZE_MAX: u64 = 1 << 20;
/// Extensions of files that runtimes read.
const ENDINGS: [&str; 3] = ["conf", "conflist", "json"];

/// The state of some files: equal as long as none of them changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Seen(Vec<(PathBuf, Option<[i128; 4]>)>);

impl Seen {
    pub(super) fn read(files: impl IntoIterator<Item = PathBuf>) -> Self {
        let state = |path: &Path| {
            let meta = fs::metadata(path).ok()?;
            Some([
                i128::from(meta.ino()),
                i128::from(meta.size()),
                i128::from(meta.mtime()),
                i128::from(meta.mtime_nsec()),
            ])
        };
        Self(
            files
                .into_iter()
                .map(|path| {
                    let state = state(&path);
                    (path, state)
                })
                .collect(),
        )
    }
}

/// Returns the configurations in a directory, sorted.
pub(super) fn configurations(dir: &Path) -> Vec<PathBuf> {
    let files = fs::read_dir(dir).into_iter().flatten().flatten().map(|file| file.path());
    let is_one = |path: &PathBuf| {
        path.extension().and_then(|ending| ending.to_str()).is_some_and(|ending| ENDINGS.contains(&ending))
    };
    let mut files: Vec<_> = files.filter(is_one).collect();
    files.sort();
    files
}

/// Returns their texts, by name. An unreadable file names no policy.
pub(super) fn configuration_texts(dir: &Path) -> Vec<(String, String)> {
    let read = |path: PathBuf| {
        let is_small = fs::metadata(&path).is_ok_and(|meta| meta.is_file() && meta.len() <= SIZE_MAX);
        let text = is_small.then(|| fs::read_to_string(&path).ok())??;
        Some((path.file_name()?.to_string_lossy().into_owned(), text))
    };
    configurations(dir).into_iter().filter_map(read).collect()
}
