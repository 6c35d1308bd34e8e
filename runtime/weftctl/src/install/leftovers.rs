//! What an earlier installation has that the new one does not: another `--conf-name`, `--conf-dir`, `--preset`,
//! `--bin-dir` or `--ctl-dir`. A runtime would go on using the earlier configuration, and no `uninstall` would find it.
//!
//! Invariant: only files that the earlier manifest lists are removed, and none that the new installation needs under
//! another path to the same directory.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use weft_agent::keep::{FileKind, Manifest};

use super::step::{SAVED, Step};

/// Returns the steps that remove it. `sources` are the files that are being installed.
pub(super) fn removal(earlier: &Manifest, new: &Manifest, sources: &[&Path]) -> anyhow::Result<Vec<Step>> {
    let gone = earlier.files.iter().filter(|file| !new.files.iter().any(|kept| is_same(&kept.path, &file.path)));
    let (confs, programs): (Vec<_>, Vec<_>) = gone.partition(|file| file.kind == FileKind::Conf);
    // As long as a runtime reads a configuration, everything that it names exists.
    let mut steps = confs.iter().map(|file| Step::remove_file(&file.path)).collect::<anyhow::Result<Vec<_>>>()?;
    for name in &earlier.names {
        // In the same directory, an attachment may need a name that is not asked for this time. `uninstall` knows it.
        if new.names.iter().any(|kept| is_same_dir(kept, name)) {
            continue;
        }
        steps.push(Step::remove_name(name)?);
        let mut saved = name.clone().into_os_string();
        saved.push(SAVED);
        steps.push(Step::restore(Path::new(&saved), name)?);
    }
    for file in programs {
        steps.push(if sources.iter().any(|source| is_same(source, &file.path)) {
            Step::leave_file(&file.path, "it is being installed from there; remove it if nothing else needs it")
        } else {
            Step::remove_file(&file.path)?
        });
    }
    for file in earlier.files.iter().filter(|file| !new.files.iter().any(|kept| kept.copy == file.copy)) {
        steps.push(Step::remove_file(&file.copy)?);
    }
    steps.retain(|step| step.is_needed() || !step.note().is_empty());
    Ok(steps)
}

/// Returns whether two paths name the same file, which need not exist.
pub(super) fn is_same(one: &Path, other: &Path) -> bool {
    one.file_name() == other.file_name() && is_same_dir(one, other)
}

/// Returns whether two files are in the same directory, also by links and mounts.
fn is_same_dir(one: &Path, other: &Path) -> bool {
    let dir = |path: &Path| path.parent().map(Path::to_owned);
    let identity = |path: &Path| fs::metadata(path.parent()?).ok().map(|meta| (meta.dev(), meta.ino()));
    dir(one) == dir(other) || identity(one).is_some_and(|one| Some(one) == identity(other))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use std::os::unix::fs::symlink;

    use weft_agent::keep::KeptFile;

    use super::*;

    fn manifest(root: &Path, bin: &str, conf: &str) -> Manifest {
        let file = |path: &str, kind| {
            let path = root.join(path);
            KeptFile { copy: Manifest::copy_path(root, &path), path, kind, mode: 0o644 }
        };
        Manifest {
            files: vec![file(&format!("{bin}/weft"), FileKind::Program), file(conf, FileKind::Conf)],
            names: vec![root.join(bin).join("weft-pod"), root.join(bin).join("bridge")],
        }
    }

    fn lay_out(manifest: &Manifest) {
        for file in &manifest.files {
            for path in [&file.path, &file.copy] {
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, "weft").unwrap();
            }
        }
        for name in &manifest.names {
            symlink("weft", name).ok();
        }
    }

    fn carried_out(earlier: &Manifest, new: &Manifest, sources: &[&Path]) -> usize {
        let steps = removal(earlier, new, sources).unwrap();
        steps.iter().for_each(|step| step.carry_out().unwrap());
        steps.len()
    }

    #[test]
    fn another_name_or_directory_of_the_configuration() {
        for name in ["net.d/10-weft.conflist", "other.d/00-weft.conflist"] {
            let dir = tempfile::tempdir().unwrap();
            let (earlier, new) =
                (manifest(dir.path(), "bin", "net.d/00-weft.conflist"), manifest(dir.path(), "bin", name));
            [&earlier, &new].into_iter().for_each(lay_out);
            fs::write(dir.path().join("net.d/05-other.conflist"), "").unwrap();
            carried_out(&earlier, &new, &[]);
            assert!(!dir.path().join("net.d/00-weft.conflist").exists(), "{name}");
            let kept = [name, "net.d/05-other.conflist", "bin/weft", "bin/weft-pod", "bin/bridge"];
            assert!(kept.iter().all(|path| dir.path().join(path).exists()), "{name}");
            assert!(new.files.iter().all(|file| file.copy.exists()), "{name}");
            assert_eq!(carried_out(&new, &new, &[]), 0);
        }
    }

    #[test]
    fn another_directory_of_the_programs() {
        let dir = tempfile::tempdir().unwrap();
        let conf = "net.d/00-weft.conflist";
        let (earlier, new) = (manifest(dir.path(), "bin", conf), manifest(dir.path(), "opt", conf));
        [&earlier, &new].into_iter().for_each(lay_out);
        let at = |path: &str| dir.path().join(path);
        fs::write(at("bin/bridge.before-weft"), "stock").unwrap();
        fs::remove_file(at("bin/weft-pod")).unwrap();
        fs::write(at("bin/weft-pod"), "another vendor's").unwrap();
        carried_out(&earlier, &new, &[]);
        assert!(!at("bin/weft").exists());
        assert_eq!(fs::read_to_string(at("bin/bridge")).unwrap(), "stock");
        assert_eq!(fs::read_to_string(at("bin/weft-pod")).unwrap(), "another vendor's");
        assert!(at("opt/weft").exists() && at("opt/bridge").exists() && at(conf).exists());
        assert!(earlier.files.iter().all(|file| file.copy.exists()), "the new copies have these names");
    }

    #[test]
    fn what_the_new_installation_needs_stays() {
        let dir = tempfile::tempdir().unwrap();
        let conf = "net.d/00-weft.conflist";
        let earlier = manifest(dir.path(), "bin", conf);
        lay_out(&earlier);
        // The same directory under another path.
        symlink("bin", dir.path().join("opt")).unwrap();
        assert_eq!(carried_out(&earlier, &manifest(dir.path(), "opt", conf), &[]), 0);
        // The earlier program is the source of the new one.
        let weft = dir.path().join("bin/weft");
        let new = manifest(dir.path(), "elsewhere", conf);
        lay_out(&new);
        carried_out(&earlier, &new, &[&weft]);
        assert!(weft.exists());
    }
}
