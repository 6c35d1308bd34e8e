//! The initramfs: a cpio archive (the "newc" kind, the one the kernel reads) of programs with their libraries, kernel
//! modules, and the task.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

/// The image's files by absolute path. Directories follow from the paths.
#[derive(Debug, Default)]
pub struct Image {
    files: BTreeMap<PathBuf, Content>,
}

#[derive(Debug)]
enum Content {
    Bytes(Vec<u8>, u32),
    Link(String),
}

const DIRECTORY: u32 = 0o040_755;
const REGULAR: u32 = 0o100_000;
const SYMLINK: u32 = 0o120_777;

// === impl Image ===

impl Image {
    /// Adds a file with this content.
    pub fn bytes(&mut self, path: impl Into<PathBuf>, content: Vec<u8>, mode: u32) {
        self.files.insert(path.into(), Content::Bytes(content, mode));
    }

    /// Adds a symbolic link.
    pub fn link(&mut self, path: impl Into<PathBuf>, to: &str) {
        self.files.insert(path.into(), Content::Link(to.to_owned()));
    }

    /// Adds a file of this machine, at the same path unless another is given.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn file(&mut self, from: &Path, to: Option<&Path>) -> Result<()> {
        let content = fs::read(from).with_context(|| format!("read {}", from.display()))?;
        let mode = fs::metadata(from).with_context(|| format!("look at {}", from.display()))?.permissions().mode();
        self.bytes(to.unwrap_or(from), content, mode & 0o777);
        Ok(())
    }

    /// Adds a program and its shared libraries, those at their own paths.
    ///
    /// # Errors
    /// If it cannot be read, or `ldd` fails.
    pub fn program(&mut self, from: &Path, to: Option<&Path>) -> Result<()> {
        self.file(from, to)?;
        for library in libraries(from)? {
            if !self.files.contains_key(&library) {
                self.file(&library, None)?;
            }
        }
        Ok(())
    }

    /// Writes the archive.
    ///
    /// # Errors
    /// If a file is too large for the format (4 GiB), or writing fails.
    pub fn write(&self, path: &Path) -> Result<()> {
        let mut archive = Archive::default();
        let mut directories: Vec<&Path> =
            self.files.keys().flat_map(|file| file.ancestors().skip(1)).filter(|dir| dir.parent().is_some()).collect();
        directories.sort_unstable();
        directories.dedup();
        for directory in directories {
            archive.entry(directory, DIRECTORY, &[])?;
        }
        for (file, content) in &self.files {
            match content {
                Content::Bytes(bytes, mode) => archive.entry(file, REGULAR | mode, bytes)?,
                Content::Link(to) => archive.entry(file, SYMLINK, to.as_bytes())?,
            }
        }
        archive.entry(Path::new("/TRAILER!!!"), 0, &[])?;
        fs::write(path, archive.bytes).with_context(|| format!("write {}", path.display()))
    }
}

#[derive(Debug, Default)]
struct Archive {
    bytes: Vec<u8>,
    inode: u32,
}

// === impl Archive ===

impl Archive {
    fn entry(&mut self, path: &Path, mode: u32, content: &[u8]) -> Result<()> {
        let name = path.strip_prefix("/").unwrap_or(path).to_string_lossy();
        let size = u32::try_from(content.len()).with_context(|| format!("{name} is too large for an initramfs"))?;
        self.inode += 1;
        let name_size = u32::try_from(name.len() + 1).context("a very long name")?;
        // inode, mode, uid, gid, links, mtime, size, device (2), rdevice (2), size of the name, checksum
        let fields = [self.inode, mode, 0, 0, 1, 0, size, 0, 0, 0, 0, name_size, 0];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes.extend_from_slice(format!("{field:08X}").as_bytes());
        }
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(content);
        self.pad();
        Ok(())
    }

    /// Pads names and contents to multiples of four.
    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

/// Returns the libraries that a program is linked with, and its loader.
fn libraries(program: &Path) -> Result<Vec<PathBuf>> {
    let output = Command::new("ldd").arg(program).output().context("start ldd")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        // ldd fails for programs without libraries, and says so on either output.
        let words = format!("{text}{}", String::from_utf8_lossy(&output.stderr));
        if words.contains("not a dynamic executable") || words.contains("statically linked") {
            return Ok(Vec::new());
        }
        bail!("ldd {}: {}", program.display(), words.trim());
    }
    Ok(parse_ldd(&text))
}

/// Parses lines like `name => /path (address)`, `/path (address)`, or one without a file (`linux-vdso`).
fn parse_ldd(text: &str) -> Vec<PathBuf> {
    let words = text.lines().filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/')));
    words.map(PathBuf::from).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

    use super::*;

    #[test]
    fn libraries_from_ldd() {
        let text = "\tlinux-vdso.so.1 (0x7ffe)\n\tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x7f)\n\
                    \t/lib64/ld-linux-x86-64.so.2 (0x7f)\n";
        let wanted = ["/lib/x86_64-linux-gnu/libc.so.6", "/lib64/ld-linux-x86-64.so.2"].map(PathBuf::from);
        assert_eq!(parse_ldd(text), wanted);
    }

    #[test]
    fn entries_are_aligned() {
        let mut archive = Archive::default();
        archive.entry(Path::new("/a/b"), REGULAR | 0o644, b"hello").unwrap();
        assert_eq!(archive.bytes.len() % 4, 0);
        assert!(archive.bytes.starts_with(b"07070100000001000081A4"));
        assert!(archive.bytes.windows(8).any(|part| part == b"hello\0\0\0"));
    }
}
