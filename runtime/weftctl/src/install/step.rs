//! One step of an installation: the wanted state, the actual state, and the action. Every file appears atomically
//! (temporary file, then rename), because a runtime may execute or read it at any moment.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use weft_core::private;

/// Suffix of a plugin that was moved aside. DEL of its attachments still calls it.
pub(super) const SAVED: &str = weft_core::conf::KEPT_SUFFIX;

/// A step with the reason why it is, or is not, necessary.
#[derive(Debug)]
pub(super) struct Step {
    action: Action,
    needed: bool,
    note: String,
}

#[derive(Debug)]
enum Action {
    Directory { path: PathBuf, mode: u32, private: bool },
    Write { path: PathBuf, content: Vec<u8>, mode: u32 },
    Name { path: PathBuf, save: bool },
    Compile { component: PathBuf, state: PathBuf },
    RemoveFile(PathBuf),
    RemoveTree(PathBuf),
    Rename { from: PathBuf, to: PathBuf },
}

// === impl Step ===

impl Step {
    fn new(action: Action, needed: bool) -> Self {
        Self { action, needed, note: String::new() }
    }

    /// Makes a directory; a private one must be accessible only to root.
    pub(super) fn directory(path: &Path, mode: u32, private: bool) -> anyhow::Result<Self> {
        let needed = match fs::metadata(path) {
            Ok(meta) if !meta.is_dir() => bail!("{} is not a directory; move it away", path.display()),
            Ok(meta) => private && (meta.mode() & 0o7777 != mode || meta.uid() != 0),
            Err(_missing) => true,
        };
        Ok(Self::new(Action::Directory { path: path.to_owned(), mode, private }, needed))
    }

    /// Makes a file with this content.
    pub(super) fn write(path: &Path, content: &[u8], mode: u32) -> anyhow::Result<Self> {
        if path.is_dir() {
            bail!("{} is a directory; move it away", path.display());
        }
        let same = fs::read(path).is_ok_and(|now| now == content)
            && fs::symlink_metadata(path).is_ok_and(|meta| meta.is_file() && meta.mode() & 0o7777 == mode);
        Ok(Self::new(Action::Write { path: path.to_owned(), content: content.to_vec(), mode }, !same))
    }

    /// Makes a name of weft: a link to `weft` in the same directory.
    pub(super) fn name(path: &Path, replace: bool) -> anyhow::Result<Self> {
        let Ok(meta) = fs::symlink_metadata(path) else {
            return Ok(Self::new(Action::Name { path: path.to_owned(), save: false }, true));
        };
        if is_ours(path) {
            return Ok(Self::new(Action::Name { path: path.to_owned(), save: false }, false));
        }
        if meta.is_dir() {
            bail!("{} is a directory; move it away", path.display());
        }
        let mut step = Self::new(Action::Name { path: path.to_owned(), save: true }, replace);
        step.note = if replace {
            format!("the plugin there is kept as {}{SAVED}", path.display())
        } else {
            "another plugin has this name and stays in use; --replace moves it aside".to_owned()
        };
        Ok(step)
    }

    /// Compiles a component into the cache.
    pub(super) fn compile(component: &Path, content: &[u8], state: &Path) -> anyhow::Result<Self> {
        let needed = !crate::policy::is_compiled(content, state)?;
        Ok(Self::new(Action::Compile { component: component.to_owned(), state: state.to_owned() }, needed))
    }

    /// Removes a name of ours; another vendor's plugin is kept.
    pub(super) fn remove_name(path: &Path) -> anyhow::Result<Self> {
        Ok(Self::new(Action::RemoveFile(path.to_owned()), is_ours(path)))
    }

    /// Moves a plugin back that was moved aside.
    pub(super) fn restore(from: &Path, to: &Path) -> anyhow::Result<Self> {
        let needed = fs::symlink_metadata(from).is_ok();
        if needed && fs::symlink_metadata(to).is_ok() && !is_ours(to) {
            bail!("both {} and {} exist; remove the one you do not want", from.display(), to.display());
        }
        Ok(Self::new(Action::Rename { from: from.to_owned(), to: to.to_owned() }, needed))
    }

    /// Removes a file.
    pub(super) fn remove_file(path: &Path) -> anyhow::Result<Self> {
        Ok(Self::new(Action::RemoveFile(path.to_owned()), fs::symlink_metadata(path).is_ok()))
    }

    /// Leaves a file that it would remove, and says why.
    #[cfg(feature = "agent")]
    pub(super) fn leave_file(path: &Path, why: &str) -> Self {
        let note = why.to_owned();
        Self { note, ..Self::new(Action::RemoveFile(path.to_owned()), false) }
    }

    /// Removes a directory with its contents.
    pub(super) fn remove_tree(path: &Path) -> anyhow::Result<Self> {
        let needed = path.exists();
        // `--purge --state-dir /` must not delete a node's files.
        if needed && path.join("weft.db").metadata().is_err() && !path.join("policies").is_dir() {
            bail!("{} does not look like weft's state directory; remove it by hand if it is", path.display());
        }
        Ok(Self::new(Action::RemoveTree(path.to_owned()), needed))
    }

    /// Returns `done`, `to do`, or `fine` if no change is necessary.
    pub(super) fn state(&self, dry_run: bool) -> &'static str {
        match (self.needed, dry_run) {
            (false, _) if self.note.is_empty() => "fine",
            (false, _) => "left",
            (true, true) => "to do",
            (true, false) => "done",
        }
    }

    /// Returns one line for people.
    pub(super) fn describe(&self) -> String {
        match &self.action {
            Action::Directory { path, mode, .. } => format!("directory {} (mode {mode:o})", path.display()),
            Action::Write { path, mode, .. } => format!("file {} (mode {mode:o})", path.display()),
            Action::Name { path, .. } => format!("name {} -> weft", path.display()),
            Action::Compile { component, .. } => format!("compile {}", component.display()),
            Action::RemoveFile(path) => format!("remove {}", path.display()),
            Action::RemoveTree(path) => format!("remove {} and everything in it", path.display()),
            Action::Rename { from, to } => format!("move {} back to {}", from.display(), to.display()),
        }
    }

    /// Returns whether a change is necessary.
    #[cfg(feature = "agent")]
    pub(super) fn is_needed(&self) -> bool {
        self.needed
    }

    /// Returns additional information.
    pub(super) fn note(&self) -> String {
        self.note.clone()
    }

    /// Executes it, if it is necessary.
    pub(super) fn carry_out(&self) -> anyhow::Result<()> {
        if !self.needed {
            return Ok(());
        }
        let verb = match &self.action {
            Action::Directory { .. } | Action::Name { .. } => "make ",
            Action::Write { .. } => "write ",
            // The texts of these begin with a verb.
            Action::Compile { .. } | Action::RemoveFile(_) | Action::RemoveTree(_) | Action::Rename { .. } => "",
        };
        let done = self.execute().map_err(|error| match in_words(&error) {
            Some(words) => error.context(words),
            None => error,
        });
        done.with_context(|| format!("cannot {verb}{}", self.describe()))
    }

    fn execute(&self) -> anyhow::Result<()> {
        match &self.action {
            Action::Directory { path, mode, private } => make_directory(path, *mode, *private),
            Action::Write { path, content, mode } => Ok(private::write_whole(path, content, *mode)?),
            Action::Name { path, save } => {
                if *save {
                    let mut saved = path.clone().into_os_string();
                    saved.push(SAVED);
                    fs::rename(path, saved)?;
                }
                Ok(symlink("weft", path)?)
            }
            Action::Compile { component, state } => crate::policy::compile_file(component, state).map(drop),
            Action::RemoveFile(path) => Ok(fs::remove_file(path)?),
            Action::RemoveTree(path) => Ok(fs::remove_dir_all(path)?),
            Action::Rename { from, to } => Ok(fs::rename(from, to)?),
        }
    }
}

/// Returns what happened and what to do, for the errors that an operator meets.
fn in_words(error: &anyhow::Error) -> Option<&'static str> {
    let kinds = error.chain().filter_map(|cause| cause.downcast_ref::<std::io::Error>()).map(std::io::Error::kind);
    // A compiler is another process, which says it in text.
    let is_full = |kind| matches!(kind, ErrorKind::StorageFull | ErrorKind::QuotaExceeded);
    if kinds.clone().any(is_full) || format!("{error:#}").contains("No space left on device") {
        return Some(
            "the disk is full; make room and run this again (no file is half written, and steps that are done stay done)",
        );
    }
    kinds
        .filter_map(|kind| match kind {
            ErrorKind::ReadOnlyFilesystem => {
                Some("the file system is read-only; choose another directory, or mount it writable")
            }
            ErrorKind::PermissionDenied => Some("permission denied; run this as root"),
            _ => None,
        })
        .next()
}

/// Returns whether a path is a link to `weft`, in any spelling.
fn is_ours(path: &Path) -> bool {
    fs::read_link(path).is_ok_and(|target| target.file_name().is_some_and(|name| name == "weft"))
}

fn make_directory(path: &Path, mode: u32, private: bool) -> anyhow::Result<()> {
    fs::create_dir_all(path)?;
    if private {
        std::os::unix::fs::chown(path, Some(0), Some(0))?;
    }
    Ok(fs::set_permissions(path, fs::Permissions::from_mode(mode))?)
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[test]
    fn common_failures_have_readable_texts() {
        let words = |error: anyhow::Error| in_words(&error).unwrap_or_default();
        let full = io::Error::from(ErrorKind::StorageFull);
        assert!(words(anyhow::Error::from(full).context("write")).starts_with("the disk is full"));
        assert!(words(anyhow::anyhow!("the compiler failed: No space left on device")).starts_with("the disk is full"));
        assert!(words(io::Error::from(ErrorKind::ReadOnlyFilesystem).into()).contains("read-only"));
        assert!(words(io::Error::from(ErrorKind::PermissionDenied).into()).contains("root"));
        assert_eq!(words(io::Error::from(ErrorKind::NotFound).into()), "");
    }

    #[test]
    fn a_step_that_fails_says_which_and_why() {
        // A name longer than a file system takes, which fails for root as well.
        let path = std::env::temp_dir().join("x".repeat(300));
        let error = Step::write(&path, b"text", 0o600).unwrap().carry_out().unwrap_err();
        assert!(format!("{error:#}").starts_with(&format!("cannot write file {}", path.display())), "{error:#}");
    }
}
