//! `/proc/sys/net`, which is that of the calling thread's network namespace.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::PathBuf;

use super::error::NetlinkError;

/// Longer than nearly any value below `/proc/sys/net`.
const USUAL_VALUE: usize = 256;
/// What the kernel accepts for a value at most is a few pages less.
const LONGEST_VALUE: usize = 1 << 17;

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
    let mut bytes = [0; USUAL_VALUE];
    // One `read` gets all of a sysctl; `fs::read_to_string` would ask for the size and for the end as well.
    let mut outcome =
        File::open(&path).and_then(|mut file| file.read(&mut bytes).map(|length| bytes[..length].to_vec()));
    if outcome.as_ref().is_ok_and(|value| value.len() == USUAL_VALUE) {
        // A list of ports can be longer, and the kernel only tells it from its beginning.
        let mut bytes = vec![0; LONGEST_VALUE];
        outcome = File::open(&path).and_then(|mut file| {
            let length = file.read(&mut bytes)?;
            bytes.truncate(length);
            Ok(bytes)
        });
    }
    match outcome {
        Ok(value) => Ok(Some(String::from_utf8_lossy(&value).trim_end().to_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(io) => Err(NetlinkError::File { doing: format!("open {}", path.display()), io }),
    }
}

/// Whether a key is there but not to be read: there are some that only do something when they are written.
pub(super) fn is_forbidden(error: &NetlinkError) -> bool {
    matches!(error, NetlinkError::File { io, .. } if io.kind() == io::ErrorKind::PermissionDenied)
}

/// Writes a key.
pub(super) fn write(key: &str, value: &str) -> Result<(), NetlinkError> {
    let path = path(key)?;
    // `fs::write` truncates and creates, which procfs ignores.
    fs::write(&path, value).map_err(|io| NetlinkError::File { doing: format!("open {}", path.display()), io })
}
