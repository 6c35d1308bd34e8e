//! `/proc/sys/net`, which is that of the calling thread's network namespace.

use std::fs;
use std::io;
use std::path::PathBuf;

use super::error::NetlinkError;

/// Path of a key such as `ipv4/conf/eth0/arp_notify`.
fn path(key: &str) -> Result<PathBuf, NetlinkError> {
    let clean = !key.is_empty() && key.split('/').all(|part| !part.is_empty() && part != "." && part != "..");
    if clean {
        Ok(PathBuf::from("/proc/sys/net").join(key))
    } else {
        Err(NetlinkError::BadSysctl { key: key.to_owned() })
    }
}

/// Reads a key; `None` where the kernel has no such key.
pub(super) fn read(key: &str) -> Result<Option<String>, NetlinkError> {
    let path = path(key)?;
    match fs::read_to_string(&path) {
        Ok(text) => Ok(Some(text.trim_end().to_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(io) => Err(NetlinkError::File { doing: format!("open {}", path.display()), io }),
    }
}

/// Writes a key.
pub(super) fn write(key: &str, value: &str) -> Result<(), NetlinkError> {
    let path = path(key)?;
    // `fs::write` truncates and creates, which procfs ignores.
    fs::write(&path, value).map_err(|io| NetlinkError::File { doing: format!("open {}", path.display()), io })
}
