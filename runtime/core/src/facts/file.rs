//! Files that a configuration names and that influence decisions: the declared ones, which only root can write, and the
//! resolver's, whose owner may be another.
//!
//! Invariant: a path is only opened for reading if it is a regular file, and only a bounded part of it is read. A FIFO
//! would block, and opening some devices changes the machine.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, ErrorKind, Read};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use nix::fcntl::OFlag;
use nix::unistd::geteuid;

use weft_host_abi::types::Dns;

use super::FactsError;
use super::resolver::parse_resolver;

/// Maximum size of a file, because it goes to a policy and into the journal.
const FILE_MAX: u64 = 64 << 10;

const NOT_REGULAR: &str = "it is not a regular file";

/// Returns the text of a declared file; `None` if it does not exist.
///
/// # Errors
/// It exists but cannot be read, is too large, is not text, or can be changed by others than root.
pub fn declared_file(path: &Path) -> Result<Option<String>, FactsError> {
    let unreadable = |source| FactsError::File { path: path.to_owned(), source };
    let off = |what: String, remedy| Err(FactsError::FileUnusable { path: path.to_owned(), what, remedy });
    let (file, meta) = match open_regular(path) {
        Ok(Some(opened)) => opened,
        Ok(None) => return off(NOT_REGULAR.to_owned(), "name a file"),
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(unreadable(error)),
    };
    if meta.uid() != 0 && meta.uid() != geteuid().as_raw() {
        return off(format!("it belongs to user {}", meta.uid()), "give it to root (`chown root`)");
    }
    if meta.mode() & 0o022 != 0 {
        let what = format!("it has mode {:04o}, so others can change it", meta.mode() & 0o7777);
        return off(what, "run `chmod go-w` on it");
    }
    let Some(bytes) = content(file).map_err(unreadable)? else { return off(too_large(), "name the right file") };
    match String::from_utf8(bytes) {
        Ok(text) => Ok(Some(text)),
        Err(_binary) => off("it is not valid UTF-8".to_owned(), "name the right file"),
    }
}

/// Returns the content of the file named by `ipam.resolvConf`. Its owner is often the resolver's user.
///
/// # Errors
/// It does not exist, cannot be read, is no regular file, or is too large.
pub fn resolver(path: &Path) -> Result<Dns, FactsError> {
    const REMEDY: &str = "correct ipam.resolvConf";
    let unreadable = |source| FactsError::Resolver { path: path.to_owned(), source };
    let off = |what: String| FactsError::FileUnusable { path: path.to_owned(), what, remedy: REMEDY };
    let opened = open_regular(path).map_err(unreadable)?;
    let (file, _meta) = opened.ok_or_else(|| off(NOT_REGULAR.to_owned()))?;
    let bytes = content(file).map_err(unreadable)?.ok_or_else(|| off(too_large()))?;
    Ok(parse_resolver(&String::from_utf8_lossy(&bytes)))
}

/// Opens a regular file for reading; `None` if it is something else. Follows links (mounted ConfigMaps consist of them).
fn open_regular(path: &Path) -> io::Result<Option<(File, Metadata)>> {
    // This descriptor only says which file it is, so that the one that is opened then is the one that was looked at.
    let place = OpenOptions::new().read(true).custom_flags(OFlag::O_PATH.bits()).open(path)?;
    let meta = place.metadata()?;
    if !meta.is_file() {
        return Ok(None);
    }
    let itself = format!("/proc/self/fd/{}", place.as_raw_fd());
    // Some files of /proc and debugfs count as regular and block.
    let file = OpenOptions::new().read(true).custom_flags(OFlag::O_NONBLOCK.bits()).open(itself)?;
    Ok(Some((file, meta)))
}

/// Reads a file; `None` if it is too large.
fn content(file: File) -> io::Result<Option<Vec<u8>>> {
    let mut bytes = Vec::new();
    file.take(FILE_MAX + 1).read_to_end(&mut bytes)?;
    Ok((bytes.len() as u64 <= FILE_MAX).then_some(bytes))
}

fn too_large() -> String {
    format!("it has more than {FILE_MAX} bytes")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

    use std::fs::{self, Permissions};
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    #[test]
    fn only_what_root_alone_can_write_is_read() {
        let dir = tempfile::tempdir().expect("a directory");
        let at = |name: &str| dir.path().join(name);
        let refused = |name: &str| declared_file(&at(name)).expect_err(name).to_string();
        fs::write(at("plain"), "a=b\n").expect("a file");
        fs::set_permissions(at("plain"), Permissions::from_mode(0o644)).expect("its mode");
        assert_eq!(declared_file(&at("plain")).expect("readable").as_deref(), Some("a=b\n"));
        symlink(at("plain"), at("link")).expect("a link");
        assert_eq!(declared_file(&at("link")).expect("readable").as_deref(), Some("a=b\n"));
        assert_eq!(declared_file(&at("absent")).expect("absence is no error"), None);

        assert!(refused(".").contains("not a regular file"));
        fs::write(at("large"), vec![b'x'; 65_537]).expect("a file");
        assert!(refused("large").contains("more than 65536 bytes"));
        fs::write(at("binary"), [0xff, 0xfe]).expect("a file");
        assert!(refused("binary").contains("not valid UTF-8"));
        fs::set_permissions(at("plain"), Permissions::from_mode(0o666)).expect("its mode");
        assert!(refused("plain").contains("mode 0666"), "{}", refused("plain"));
        nix::unistd::mkfifo(&at("fifo"), nix::sys::stat::Mode::S_IRUSR).expect("a FIFO");
        assert!(refused("fifo").contains("not a regular file"));
    }
    #[test]
    fn the_resolver_file_may_be_anybodys_but_not_anything() {
        let dir = tempfile::tempdir().expect("a directory");
        let at = |name: &str| dir.path().join(name);
        let refused = |name: &str| resolver(&at(name)).expect_err(name).to_string();
        fs::write(at("plain"), b"nameserver 192.0.2.1\nsearch \xff\n").expect("a file");
        fs::set_permissions(at("plain"), Permissions::from_mode(0o666)).expect("its mode");
        symlink(at("plain"), at("link")).expect("a link");
        assert_eq!(resolver(&at("link")).expect("readable").nameservers, ["192.0.2.1"]);

        assert!(refused("absent").starts_with("cannot read resolvConf"), "{}", refused("absent"));
        // It would block until there is a writer.
        nix::unistd::mkfifo(&at("fifo"), nix::sys::stat::Mode::S_IRUSR).expect("a FIFO");
        let wanted = format!("cannot use {:?}: it is not a regular file; correct ipam.resolvConf", at("fifo"));
        assert_eq!(refused("fifo"), wanted);
        // It never ends.
        symlink("/dev/zero", at("device")).expect("a link");
        assert!(refused("device").contains("not a regular file"), "{}", refused("device"));
        File::create(at("large")).expect("a file").set_len(1 << 30).expect("its size");
        assert!(refused("large").contains("more than 65536 bytes"), "{}", refused("large"));
    }
}
