//! The identity of this machine. A node's name does not identify a machine: another one may get it while the first
//! still runs.

use std::fs;
use std::io;
use std::path::Path;

use weft_core::private::{FILE, write_whole};

/// The system UUID, which the Node object shows as `systemUUID`.
const SYSTEM_UUID: &str = "/sys/class/dmi/id/product_uuid";
/// A random id for machines without their own, outside the store, so that it outlives the store.
const OWN: &str = "/etc/weft/machine-id";
/// Set in every container of a pod.
const IN_A_POD: &str = "KUBERNETES_SERVICE_HOST";

/// Returns the id of this machine.
///
/// # Errors
/// There is no system UUID, and the file with a random one can neither be read nor written, or would end with the
/// container.
pub fn machine_id() -> io::Result<String> {
    match fs::read_to_string(SYSTEM_UUID) {
        Ok(text) if is_unique(text.trim()) => Ok(text.trim().to_lowercase()),
        _ if is_main_process() || std::env::var_os(IN_A_POD).is_some() => {
            own_id(Path::new(OWN), Some(&fs::read_to_string("/proc/self/mountinfo")?))
        }
        _ => own_id(Path::new(OWN), None),
    }
}

/// Returns whether this is the main process of its PID namespace, as in a container.
fn is_main_process() -> bool {
    std::process::id() == 1
}

/// Firmware without a real UUID reports one of a few: equal digits, or an ascending sequence.
fn is_unique(uuid: &str) -> bool {
    let digits: Vec<u8> = uuid.bytes().filter(u8::is_ascii_hexdigit).map(|digit| digit.to_ascii_lowercase()).collect();
    let Some(first) = digits.first() else { return false };
    let counted = uuid.eq_ignore_ascii_case("03000200-0400-0500-0006-000700080009")
        || uuid.eq_ignore_ascii_case("00020003-0004-0005-0006-000700080009");
    digits.len() == 32 && !digits.iter().all(|digit| digit == first) && !counted
}

/// Reads the id, or makes it. `mounts` are those of a container.
fn own_id(path: &Path, mounts: Option<&str>) -> io::Result<String> {
    match fs::read_to_string(path) {
        Ok(text) if !text.trim().is_empty() => return Ok(text.trim().to_owned()),
        Ok(_empty) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    if mounts.is_some_and(|mounts| ends_with_container(path, mounts)) {
        let dir = path.parent().unwrap_or(path).display();
        return Err(io::Error::other(format!(
            "this machine has no UUID of its own, and {} would end with the container, so it cannot hold one; mount the host's {dir} there, as deploy/kubernetes/daemonset.yaml does",
            path.display()
        )));
    }
    let id = fs::read_to_string("/proc/sys/kernel/random/uuid")?.trim().to_owned();
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir)?;
    }
    write_whole(path, format!("{id}\n").as_bytes(), FILE)?;
    Ok(id)
}

/// Returns whether a file lies in the container's own layer: on the mount of `/`.
fn ends_with_container(path: &Path, mountinfo: &str) -> bool {
    let points = mountinfo.lines().filter_map(|line| line.split(' ').nth(4)).map(Path::new);
    let place = points.filter(|point| path.starts_with(point)).max_by_key(|point| point.components().count());
    place.is_none_or(|point| point == Path::new("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The lines of a container.
    const LAYER: &str = "731 600 0:52 / / rw,relatime - overlay overlay rw,lowerdir=/l,upperdir=/u,workdir=/w\n\
                         740 731 8:1 /etc/hosts /etc/hosts rw - ext4 /dev/sda1 rw\n\
                         741 731 8:1 /var/lib/weft /var/lib/weft rw - ext4 /dev/sda1 rw\n";

    #[test]
    fn an_id_is_not_made_where_it_ends_with_the_container() {
        assert!(ends_with_container(Path::new(OWN), LAYER));
        let mounted = format!("{LAYER}742 731 8:1 /etc/weft /etc/weft rw - ext4 /dev/sda1 rw\n");
        assert!(!ends_with_container(Path::new(OWN), &mounted));
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("machine-id");
        let error = own_id(&path, Some(LAYER)).unwrap_err().to_string();
        assert!(error.contains("mount the host's") && !path.exists(), "{error}");
        let id = own_id(&path, None).unwrap();
        assert_eq!(own_id(&path, Some(LAYER)).unwrap(), id, "it is there");
    }

    /// The directory comes from the host in everything that `deploy/` installs.
    #[test]
    fn the_directory_is_the_hosts() {
        let dir = Path::new(OWN).parent().unwrap().display().to_string();
        for (file, text) in [
            ("the manifest", include_str!("../../../../deploy/kubernetes/daemonset.yaml")),
            ("the chart", include_str!("../../../../deploy/helm/weft/templates/daemonset.yaml")),
        ] {
            let volume = format!("hostPath: {{ path: {dir}, type: DirectoryOrCreate }} }}");
            let volume = text.lines().find(|line| line.ends_with(&volume)).expect(file);
            let name = volume.split(['{', ',']).nth(1).unwrap().trim();
            let mount = format!("- {{ {name}, mountPath: {dir} }}");
            let agent = text.split("- name: agent").nth(1).unwrap();
            assert!(agent.lines().any(|line| line.trim() == mount), "{file} lacks {mount}");
        }
    }

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
        let id = own_id(&path, None).unwrap();
        assert_eq!((id.len(), own_id(&path, None).unwrap()), (36, id));
    }
}
