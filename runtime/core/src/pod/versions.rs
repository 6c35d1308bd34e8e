//! The CNI versions that another vendor's plugin supports: each binary is asked for VERSION once, and the answer is
//! stored in the state directory under the file's identity.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::cni::Version;
use crate::exec::{Caller, ExecCall, Stderr, exec, find};

/// The stored answer of a binary.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Known {
    /// Device, inode, size, and time of the last change.
    identity: (u64, u64, u64, i64, i64),
    /// Versions that it claims to support.
    versions: Vec<String>,
}

/// Returns the versions that a plugin supports, oldest first; `None` if it does not say.
pub(super) fn supported_versions(
    state_dir: &Path,
    plugin: &str,
    path: &[PathBuf],
    limit: Duration,
) -> Option<Vec<Version>> {
    let binary = find(plugin, path).ok()?;
    let identity = identity(&binary)?;
    let file = cache_file(state_dir, &binary);
    let remembered = std::fs::read(&file).ok().and_then(|text| serde_json::from_slice::<Known>(&text).ok());
    let versions = match remembered.filter(|known| known.identity == identity) {
        Some(known) => known.versions,
        None => {
            let versions = ask(plugin, path, limit)?;
            remember(&file, &Known { identity, versions: versions.clone() });
            versions
        }
    };
    let mut versions: Vec<Version> = versions.iter().filter_map(|text| Version::reconcile(text).ok()).collect();
    versions.sort();
    (!versions.is_empty()).then_some(versions)
}

/// Returns the version with which to call a plugin for a network of version `wanted`: that version if the plugin
/// supports it, otherwise the highest older one, otherwise `wanted`, which the plugin will refuse in its own words.
pub(super) fn agreed(spoken: Option<&[Version]>, wanted: Version) -> Version {
    let Some(spoken) = spoken else { return wanted };
    if spoken.contains(&wanted) {
        return wanted;
    }
    spoken.iter().copied().filter(|version| *version < wanted).max().unwrap_or(wanted)
}

fn ask(plugin: &str, path: &[PathBuf], limit: Duration) -> Option<Vec<String>> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Document {
        supported_versions: Vec<String>,
    }
    let stdin = format!("{{\"cniVersion\":\"{}\"}}", Version::CURRENT);
    let call = ExecCall {
        plugin,
        verb: "VERSION",
        container_id: "dummy",
        netns: "dummy",
        ifname: "dummy",
        args: "",
        path,
        stdin: stdin.as_bytes(),
        stderr: Stderr::Kept,
        limit,
        caller: Caller::Weft,
    };
    let answer = exec(&call).ok()?;
    serde_json::from_slice::<Document>(&answer.stdout).ok().map(|document| document.supported_versions)
}

fn identity(binary: &Path) -> Option<(u64, u64, u64, i64, i64)> {
    let found = std::fs::metadata(binary).ok()?;
    Some((found.dev(), found.ino(), found.size(), found.ctime(), found.ctime_nsec()))
}

fn cache_file(state_dir: &Path, binary: &Path) -> PathBuf {
    let digest = Sha256::digest(binary.as_os_str().as_encoded_bytes());
    let name: String = digest.iter().take(16).map(|byte| format!("{byte:02x}")).collect();
    state_dir.join("plugin-versions").join(name)
}

/// If the answer cannot be stored, the plugin is asked again the next time.
fn remember(file: &Path, known: &Known) {
    let write = || -> std::io::Result<()> {
        let dir = file.parent().unwrap_or(Path::new("/"));
        std::fs::create_dir_all(dir)?;
        let new = file.with_extension(format!("{}.new", std::process::id()));
        std::fs::write(&new, serde_json::to_vec(known)?)?;
        std::fs::rename(&new, file)
    };
    write().ok();
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn plugin(dir: &Path, versions: &str) {
        let file = dir.join("calico");
        let log = dir.join("log");
        let script = format!(
            "#!/bin/sh\necho $CNI_COMMAND >>{}\necho '{{\"cniVersion\": \"1.0.0\", \"supportedVersions\": [{versions}]}}'\n",
            log.display()
        );
        fs::write(dir.join("new"), script).unwrap();
        fs::set_permissions(dir.join("new"), fs::Permissions::from_mode(0o755)).unwrap();
        fs::rename(dir.join("new"), file).unwrap();
    }

    #[test]
    fn version_is_asked_once_per_binary() {
        let dir = tempfile::tempdir().unwrap();
        let (state, path) = (dir.path().join("state"), [dir.path().to_owned()]);
        let ask = || supported_versions(&state, "calico", &path, Duration::from_secs(60));
        let asked = || fs::read_to_string(dir.path().join("log")).unwrap().lines().count();
        plugin(dir.path(), r#""0.3.1", "1.0.0", "9.0.0""#);
        assert_eq!(ask(), Some(vec![Version::V0_3_1, Version::V1_0_0]));
        assert_eq!((ask(), asked()), (Some(vec![Version::V0_3_1, Version::V1_0_0]), 1));
        plugin(dir.path(), r#""1.1.0""#);
        assert_eq!((ask(), asked()), (Some(vec![Version::V1_1_0]), 2));
        fs::write(dir.path().join("calico"), "#!/bin/sh\nexit 1\n").unwrap();
        assert_eq!(ask(), None);
    }

    #[test]
    fn a_plugin_is_called_with_a_version_that_it_supports() {
        let old = [Version::V0_3_1, Version::V1_0_0];
        assert_eq!(agreed(Some(&old), Version::V1_1_0), Version::V1_0_0);
        assert_eq!(agreed(Some(&old), Version::V0_3_1), Version::V0_3_1);
        assert_eq!(agreed(Some(&old), Version::V0_1_0), Version::V0_1_0);
        assert_eq!(agreed(None, Version::V1_1_0), Version::V1_1_0);
    }
}
