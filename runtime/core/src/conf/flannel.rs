//! Called as `flannel`: reads its configuration as one delegate that the `flannel` policy completes.
//!
//! The plugin passes its delegate a configuration that contains only `name`, `cniVersion`, `runtimeConfig` and `ipam`
//! of its own; the policy adds the values from its file. Keys of `delegate` and `ipam` are case-sensitive, as in the
//! plugin.

use std::path::PathBuf;

use serde_json::json;

use super::select::{Entry, FileConf, Frame, SELECT, SelectConf};
use super::{ConfError, Object};

/// The policy that reads the file.
pub(super) const POLICY: &str = "flannel";

/// The file's name for the policy.
const FILE: &str = "subnet.env";

/// The file that flanneld writes.
const SUBNET_FILE: &str = "/run/flannel/subnet.env";

/// The directory in which the plugin stores what it needs for DEL.
const DATA_DIR: &str = "/var/lib/cni/flannel";

/// The keys that the policy sets.
const SETTABLE: [&str; 6] = ["ipMasq", "mtu", "isGateway", "ipam.type", "ipam.ranges", "ipam.routes"];

/// Reads the plugin's configuration.
pub(super) fn read(object: &Object) -> Result<SelectConf, ConfError> {
    let file = PathBuf::from(object.str("subnetFile")?.unwrap_or(SUBNET_FILE));
    let data_dir = PathBuf::from(object.str("dataDir")?.unwrap_or(DATA_DIR));
    let mut own = object.object_or_empty("delegate")?.into_root();
    let has = |key: &str| own.as_value().get(key).is_some();
    if own.as_value().get("type").is_some_and(|kind| !kind.is_string()) {
        return Err(ConfError::Flannel("'delegate' dictionary, if present, must have (string) 'type' field"));
    }
    if has("name") {
        return Err(ConfError::Flannel("'delegate' dictionary must not have 'name' field, it'll be set by flannel"));
    }
    if has("ipam") {
        return Err(ConfError::Flannel("'delegate' dictionary must not have 'ipam' field, it'll be set by flannel"));
    }
    if !has("type") {
        own.set("type", "bridge");
    }
    let mut more = Object::default().with("name", object.str("name")?.unwrap_or_default());
    if let Some(version) = object.text("cniVersion")? {
        more.set("cniVersion", version);
    }
    if let Some(runtime_config) = object.object("runtimeConfig")? {
        more.set("runtimeConfig", runtime_config.as_value().clone());
    }
    Ok(SelectConf {
        policy: POLICY.to_owned(),
        text: json!({ "policy": POLICY, "files": { FILE: file.to_string_lossy() } }).to_string(),
        monitor: None,
        files: vec![FileConf { name: FILE.to_owned(), path: file }],
        entries: vec![Entry {
            name: "delegate".to_owned(),
            settable: SETTABLE.map(str::to_owned).to_vec(),
            own,
            ipam: object.object("ipam")?.map(Object::into_root),
        }],
        frame: Frame::Stock { more, data_dir },
        place: SELECT,
    })
}
