//! Device-info files (R26): a device plugin's description of a device is copied for the plugins of an attachment and
//! shown in the status. The copy is deleted with the attachment.
//!
//! Paths and names are those of the network-attachment-definition client.

use std::io;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::attachment::DeviceInfoFiles;

/// The directory of the files.
const DIR: &str = "/var/run/k8s.cni.cncf.io/devinfo";

/// Returns the path of the file that a device plugin writes.
#[must_use]
pub(super) fn device_plugin_file(resource: &str, device: &str) -> PathBuf {
    let name = format!("{resource}-{device}-device.json").replace('/', "-");
    Path::new(DIR).join("dp").join(name)
}

/// Returns the path of an attachment's file, which `runtimeConfig.CNIDeviceInfoFile` names.
#[must_use]
pub(super) fn attachment_file(label: &str, container_id: &str, ifname: &str) -> PathBuf {
    let name = format!("{}-{container_id}_{ifname}", label.replace('/', "-"));
    Path::new(DIR).join("cni").join(name)
}

/// Copies the device plugin's file for an attachment, if it exists.
///
/// # Errors
/// It cannot be copied.
pub(super) fn copy(files: &DeviceInfoFiles) -> io::Result<()> {
    let Some(from) = files.device_plugin.as_ref().filter(|file| file.is_file()) else { return Ok(()) };
    if let Some(dir) = files.attachment.parent() {
        std::fs::create_dir_all(dir)?;
    }
    std::fs::copy(from, &files.attachment).map(|_bytes| ())
}

/// Returns the content of the attachment's file, after its plugins ran.
#[must_use]
pub(super) fn read(files: &DeviceInfoFiles) -> Option<Value> {
    let text = std::fs::read(&files.attachment).ok()?;
    serde_json::from_slice(&text).ok()
}

/// Removes the attachment's file.
///
/// # Errors
/// It exists and cannot be removed.
pub(super) fn remove(files: &DeviceInfoFiles) -> io::Result<()> {
    match std::fs::remove_file(&files.attachment) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
