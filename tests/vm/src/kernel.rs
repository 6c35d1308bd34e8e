//! Debian's kernel, fetched as a package and unpacked into a cache; nothing is installed.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

/// The package that always depends on the current kernel.
const META_PACKAGE: &str = "linux-image-amd64";

/// An unpacked kernel package.
#[derive(Debug)]
pub struct Kernel {
    /// The bootable image.
    pub image: PathBuf,
    /// Modules by name (with underscores).
    modules: BTreeMap<String, PathBuf>,
    /// Names of built-in modules.
    builtin: Vec<String>,
}

// === impl Kernel ===

impl Kernel {
    /// Returns the kernel in the cache, and fills the cache first if it is empty. `WEFT_VM_KERNEL` names a directory
    /// with an unpacked package instead.
    ///
    /// # Errors
    /// If it is not available, mostly because there is no network.
    pub fn obtain(cache: &Path) -> Result<Self> {
        if let Some(dir) = std::env::var_os("WEFT_VM_KERNEL") {
            return Self::open(Path::new(&dir));
        }
        let unpacked = cache.join("kernel");
        if !unpacked.is_dir() {
            fetch(cache, &unpacked)?;
        }
        Self::open(&unpacked)
    }

    fn open(dir: &Path) -> Result<Self> {
        let image = find(&dir.join("boot"), |name| name.starts_with("vmlinuz-"))?;
        let release = find(&dir.join("lib/modules"), |_| true)?;
        let mut modules = BTreeMap::new();
        collect(&release.join("kernel"), &mut modules)?;
        let builtin = fs::read_to_string(release.join("modules.builtin")).context("read modules.builtin")?;
        let builtin = builtin.lines().filter_map(|line| module_name(Path::new(line))).collect();
        Ok(Self { image, modules, builtin })
    }

    /// Returns the files of these modules and of all their dependencies, in an order in which they can be loaded.
    ///
    /// # Errors
    /// If the kernel has no such module.
    pub fn modules(&self, names: &[&str]) -> Result<Vec<PathBuf>> {
        let mut order = Vec::new();
        for name in names {
            self.visit(name, &mut order)?;
        }
        Ok(order)
    }

    fn visit(&self, name: &str, order: &mut Vec<PathBuf>) -> Result<()> {
        let name = name.replace('-', "_");
        if self.builtin.contains(&name) {
            return Ok(());
        }
        let path = self.modules.get(&name).with_context(|| format!("this kernel has no module {name}"))?;
        if order.contains(path) {
            return Ok(());
        }
        // A package has no modules.dep (depmod makes it on installation), but each module lists its dependencies.
        for needed in depends(&contents(path)?) {
            self.visit(&needed, order)?;
        }
        order.push(path.clone());
        Ok(())
    }
}

/// Returns a module as the kernel loads it: some releases' packages have them compressed.
///
/// # Errors
/// If it cannot be read or decompressed.
pub fn contents(path: &Path) -> Result<Vec<u8>> {
    let program = match path.extension().and_then(OsStr::to_str) {
        Some("xz") => "xz",
        Some("zst") => "zstd",
        _ => return fs::read(path).with_context(|| format!("read {}", path.display())),
    };
    let output = Command::new(program).arg("-dc").arg(path).output();
    let output = output.with_context(|| format!("start {program} for {}", path.display()))?;
    if !output.status.success() {
        bail!("{program} cannot decompress {}", path.display());
    }
    Ok(output.stdout)
}

/// Fetches and unpacks the package. The last step is a rename, so an incomplete one is never used.
fn fetch(cache: &Path, unpacked: &Path) -> Result<()> {
    fs::create_dir_all(cache).with_context(|| format!("create {}", cache.display()))?;
    let package = current_package()?;
    command(Command::new("apt-get").args(["download", "-q", &package]).current_dir(cache))
        .with_context(|| format!("download {package}"))?;
    let archive = find(cache, |name| name.starts_with(&package) && name.ends_with(".deb"))?;
    let draft = cache.join("kernel.draft");
    if draft.exists() {
        fs::remove_dir_all(&draft).context("remove what an earlier run left")?;
    }
    command(Command::new("dpkg-deb").arg("-x").arg(&archive).arg(&draft)).context("unpack the kernel package")?;
    fs::rename(&draft, unpacked).context("put the kernel in its place")?;
    fs::remove_file(&archive).with_context(|| format!("remove {}", archive.display()))
}

/// Returns `linux-image-6.1.0-NN-amd64` or similar.
fn current_package() -> Result<String> {
    let text = command(Command::new("apt-cache").args(["depends", META_PACKAGE]))?;
    let mut depends = text.lines().filter_map(|line| line.trim().strip_prefix("Depends: "));
    let package = depends.find(|name| name.starts_with("linux-image-"));
    package.map(str::to_owned).with_context(|| format!("apt knows no kernel behind {META_PACKAGE} (apt-get update?)"))
}

fn command(command: &mut Command) -> Result<String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.output().with_context(|| format!("start {program}"))?;
    if !output.status.success() {
        bail!("{program}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn find(dir: &Path, wanted: impl Fn(&str) -> bool) -> Result<PathBuf> {
    let entries = fs::read_dir(dir).with_context(|| format!("read {}", dir.display()))?;
    let mut entries = entries.flatten().filter(|entry| entry.file_name().to_str().is_some_and(&wanted));
    entries.next().map(|entry| entry.path()).with_context(|| format!("{} has not what is looked for", dir.display()))
}

fn collect(dir: &Path, modules: &mut BTreeMap<String, PathBuf>) -> Result<()> {
    for entry in fs::read_dir(dir).with_context(|| format!("read {}", dir.display()))? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            collect(&entry.path(), modules)?;
        } else if let Some(name) = module_name(&entry.path()) {
            modules.insert(name, entry.path());
        }
    }
    Ok(())
}

/// Returns `nf_tables` for `.../nf_tables.ko.xz`.
fn module_name(path: &Path) -> Option<String> {
    let (name, rest) = path.file_name()?.to_str()?.split_once('.')?;
    rest.starts_with("ko").then(|| name.replace('-', "_"))
}

/// Returns the `depends=` entry of the module's `.modinfo`, a list of texts that end with a zero byte each.
fn depends(module: &[u8]) -> Vec<String> {
    let entry = module.split(|byte| *byte == 0).find_map(|text| text.strip_prefix(b"depends="));
    let entry = String::from_utf8_lossy(entry.unwrap_or_default()).into_owned();
    entry.split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

    use super::*;

    #[test]
    fn module_names() {
        assert_eq!(module_name(Path::new("a/nf-tables.ko.xz")).as_deref(), Some("nf_tables"));
        assert_eq!(module_name(Path::new("a/modules.order")), None);
    }

    #[test]
    fn what_a_module_needs() {
        assert_eq!(depends(b"\x7fELF\0license=GPL\0depends=stp,llc\0name=bridge\0"), ["stp", "llc"]);
        assert!(depends(b"\0depends=\0name=veth\0").is_empty());
    }
}
