//! The identity of this machine. A node's name does not identify a machine: another one may get it while the first
//! still runs.

use std::fs;
use std::io;
use std::path::Path;

/// The system UUID, which the Node object shows as `systemUUID`.
const SYSTEM_UUID: &str = "/sys/class/dmi/id/product_uuid";
/// A random id for machines without their own, outside the store, so that it outlives the store.
const OWN: &str = "/etc/weft/machine-id";

/// Returns the id of this machine.
///
/// # Errors
/// There is no system UUID, and the file with a random one can neither be read nor written.
pub fn machine_id() -> io::Result<String> {
    match fs::read_to_string(SYSTEM_UUID) {
        Ok(text) if is_unique(text.trim()) => Ok(text.trim().to_lowercase()),
        _ => own_id(Path::new(OWN)),
    }
}

/// Firmware without a real UUID reports one of a few: equal digits, or an ascending sequence.
fn is_unique(uuid: &str) -> bool {
    let digits: Vec<u8> = uuid.bytes().filter(u8::is_ascii_hexdigit).map(|digit| digit.to_ascii_lowercase()).collect();
    let Some(first) = digits.first() else { return false };
    let counted = uuid.eq_ignore_ascii_case("03000200-0400-0500-0006-000700080009")
        || uuid.eq_ignore_ascii_case("00020003-0004-0005-0006-000700080009");
    digits.len() == 32 && !digits.iter().all(|digit| digit == first) && !counted
}

fn own_id(path: &Path) -> io::Result<String> {
    match fs::read_to_string(path) {
        Ok(text) if !text.trim().is_empty() => return Ok(text.trim().to_owned()),
        Ok(_empty) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let id = fs::read_to_string("/proc/sys/kernel/random/uuid")?.trim().to_owned();
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir)?;
    }
    let fresh = path.with_extension("new");
    fs::write(&fresh, format!("{id}\n"))?;
    fs::File::open(&fresh)?.sync_all()?;
    fs::rename(&fresh, path)?;
    Ok(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn firmware_without_a_uuid_is_not_a_machine() {
        assert!(is_unique("4c4c4544-0043-3510-8052-b4c04f564433"));
        for common in ["", "00000000-0000-0000-0000-000000000000", "FFFFFFFF-FFFF-FFFF-FFFF-FFFFFFFFFFFF", "Not Set"] {
            assert!(!is_unique(common), "{common}");
        }
        assert!(!is_unique("03000200-0400-0500-0006-000700080009"));
    }

    #[test]
    fn the_own_id_stays() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("weft/machine-id");
        let id = own_id(&path).unwrap();
        assert_eq!((id.len(), own_id(&path).unwrap()), (36, id));
    }
}
