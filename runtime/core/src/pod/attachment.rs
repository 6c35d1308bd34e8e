//! One network of a pod in the form that the journal keeps: its plugins, their configurations,
//! and its progress.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// One network of a pod, ready to be attached. The journal stores this.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PodAttachment {
    /// Its name in status and events: `NAMESPACE/NAME` of the definition, or the CNI name.
    pub label: String,
    /// Its CNI name.
    pub network: String,
    /// Its interface.
    pub ifname: String,
    /// CNI version of its configuration.
    pub version: String,
    /// Its plugins in order.
    pub plugins: Vec<PluginCall>,
    /// `CNI_ARGS`.
    pub args: String,
    /// Whether it is the pod's default network.
    #[serde(default)]
    pub is_default: bool,
    /// The files that describe its device.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device_info: Option<DeviceInfoFiles>,
    /// Whether calling CHECK is forbidden.
    #[serde(default)]
    pub disable_check: bool,
    /// Whether calling GC is forbidden.
    #[serde(default)]
    pub disable_gc: bool,
    /// Its progress.
    #[serde(default)]
    pub progress: Progress,
    /// The result of its last plugin.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<Value>,
}

/// A plugin of an attachment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PluginCall {
    /// Its type.
    #[serde(rename = "type")]
    pub kind: String,
    /// The JSON text that it gets on stdin, without `prevResult`.
    pub conf: String,
    /// Whether it is another vendor's binary; otherwise it runs in process.
    pub external: bool,
}

/// Files that describe an attachment's device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceInfoFiles {
    /// The device plugin's file, if the device came from a resource.
    pub device_plugin: Option<PathBuf>,
    /// The attachment's file.
    pub attachment: PathBuf,
}

/// The progress of an attachment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Progress {
    /// No plugin was called.
    #[default]
    Planned,
    /// A plugin was or is about to be called.
    Attempted,
    /// All plugins succeeded.
    Done,
}
