//! Reads `/sys` for devices: the links of a PCI or auxiliary device, and its driver. Read only.
//!
//! Texts are the stock plugin's. The root is a parameter, so that tests can provide one.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::plan::DeviceQuery;

/// Drivers that leave a device to user space.
const USER_SPACE_DRIVERS: [&str; 3] = ["vfio-pci", "uio_pci_generic", "igb_uio"];

const PCI: &str = "/sys/bus/pci/devices";
const AUXILIARY: &str = "/sys/bus/auxiliary/devices";

/// The result of resolving a query.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Target {
    /// The link of that name.
    Name(String),
    /// The first of these that is a link of the host.
    AnyOf(Vec<String>),
    /// The first link with that hardware address.
    Hardware(Vec<u8>),
    /// No link: the device is driven from user space.
    UserSpace,
}

/// The root of the file system that contains `/sys`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sysfs<'a> {
    root: &'a Path,
}

impl<'a> Sysfs<'a> {
    pub(super) fn new(root: &'a Path) -> Self {
        Self { root }
    }

    /// Resolves a query; the error says why it matches nothing here.
    pub(super) fn resolve(self, query: &DeviceQuery) -> Result<Target, String> {
        let (pci, auxiliary) = self.by_id(query)?;
        let user_space = match pci {
            Some(address) => self.is_user_space(address).map_err(|why| format!("error with host device: {why}"))?,
            None => query.user_space,
        };
        if user_space {
            return Ok(Target::UserSpace);
        }
        self.target(query, pci, auxiliary).map_err(|why| format!("failed to find host device: {why}"))
    }

    /// Interprets the device plugin's id; a PCI address takes precedence over the configuration's.
    fn by_id(self, query: &DeviceQuery) -> Result<(Option<&str>, Option<&str>), String> {
        let Some(id) = query.id.as_deref() else { return Ok((query.pci.as_deref(), None)) };
        let is = |bus: &str| is_name(id) && self.path_of(bus).join(id).exists();
        if is(PCI) {
            Ok((Some(id), None))
        } else if is(AUXILIARY) {
            Ok((None, Some(id)))
        } else {
            Err(format!("runtime config DeviceID {id} not found or unsupported"))
        }
    }

    fn target(self, query: &DeviceQuery, pci: Option<&str>, auxiliary: Option<&str>) -> Result<Target, String> {
        if let Some(name) = &query.name {
            return Ok(Target::Name(name.clone()));
        }
        if let Some(address) = &query.hardware {
            return Ok(Target::Hardware(address.clone()));
        }
        if let Some(path) = &query.kernel_path {
            let dir = Path::new(path).join("net");
            let names = self.names(&dir).map_err(|_why| format!("failed to find network devices at {dir:?}"))?;
            return Ok(Target::AnyOf(names));
        }
        if let Some(address) = pci {
            return self.of_pci(address);
        }
        let Some(id) = auxiliary else { return Err("failed to find physical interface".to_owned()) };
        // Newer versions of the stock plugin, the only ones that know these devices, have another text for this.
        let dir = Path::new(AUXILIARY).join(id).join("net");
        let names = self.names(&dir).map_err(|why| {
            let path = dir.display();
            format!("failed to read directory {path}: {:?}", format!("open {path}: {}", words(&why)))
        })?;
        let first = names.into_iter().next().map(Target::Name);
        first.ok_or_else(|| format!("failed to find network device in path {}", dir.display()))
    }

    fn of_pci(self, address: &str) -> Result<Target, String> {
        let device = Path::new(PCI).join(address);
        let mut dir = device.join("net");
        if !self.path_of(&dir).exists() {
            // A virtio device has its own bus below the PCI one.
            let entries = self.names(&device).unwrap_or_default();
            let mut virtio =
                entries.iter().filter(|name| name.starts_with("virtio")).map(|name| device.join(name).join("net"));
            dir = virtio
                .find(|dir| self.path_of(dir).exists())
                .ok_or_else(|| format!("no net directory under pci device {address}"))?;
        }
        self.first_link(&dir, || format!("failed to find device name for pci address {address}"))
    }

    fn first_link(self, dir: &Path, none: impl FnOnce() -> String) -> Result<Target, String> {
        let names = self.names(dir);
        let names =
            names.map_err(|why| format!("failed to read net directory {}: {:?}", dir.display(), words(&why)))?;
        names.into_iter().next().map(Target::Name).ok_or_else(none)
    }

    /// Returns whether the driver of a PCI device leaves it to user space. A device without a driver is an error.
    fn is_user_space(self, address: &str) -> Result<bool, String> {
        if !is_name(address) {
            return Err(format!("{address:?} is not a PCI address"));
        }
        let link = Path::new(PCI).join(address).join("driver");
        let driver = fs::canonicalize(self.path_of(&link)).map_err(|why| {
            // Go walks the path, and names the first missing part.
            let mut parts: Vec<&Path> = link.ancestors().collect();
            parts.reverse();
            let missing = parts.into_iter().find(|part| fs::symlink_metadata(self.path_of(part)).is_err());
            format!("lstat {}: {}", missing.unwrap_or(&link).display(), words(&why))
        })?;
        let name = driver.file_name().unwrap_or_default().to_string_lossy();
        Ok(USER_SPACE_DRIVERS.contains(&name.as_ref()))
    }

    /// Returns names in a directory, sorted.
    fn names(self, dir: &Path) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(self.path_of(dir))? {
            names.push(entry?.file_name().to_string_lossy().into_owned());
        }
        names.sort();
        Ok(names)
    }

    fn path_of(self, path: impl AsRef<Path>) -> PathBuf {
        let path = path.as_ref();
        self.root.join(path.strip_prefix("/").unwrap_or(path))
    }
}

/// Returns whether a text is a plain file name that stays in its directory.
fn is_name(text: &str) -> bool {
    !text.is_empty() && text != "." && text != ".." && !text.contains('/')
}

/// Formats an error like Go.
fn words(error: &io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or(&text);
    text.to_lowercase()
}

#[cfg(test)]
mod tests;
