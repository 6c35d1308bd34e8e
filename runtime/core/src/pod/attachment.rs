//! One network of a pod, as the journal keeps it: which plugins, with which text, how far it got.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// One network of a pod, ready to be attached. This is what the journal keeps.
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
    /// It is the pod's default network.
    #[serde(default)]
    pub is_default: bool,
    /// Where its device is described.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device_info: Option<DeviceInfoFiles>,
    /// CHECK must not be called.
    #[serde(default)]
    pub disable_check: bool,
    /// GC must not be called.
    #[serde(default)]
    pub disable_gc: bool,
    /// How far it got.
    #[serde(default)]
    pub progress: Progress,
    /// What its last plugin answered.
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
    /// It is another vendor's binary; otherwise it runs in process.
    pub external: bool,
}

/// Files that describe an attachment's device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceInfoFiles {
    /// The device plugin's file, where the device came from a resource.
    pub device_plugin: Option<PathBuf>,
    /// The attachment's file.
    pub attachment: PathBuf,
}

/// How far an attachment got.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Progress {
    /// Nothing was called for it.
    #[default]
    Planned,
    /// A plugin was or is about to be called.
    Attempted,
    /// It is done.
    Done,
}
