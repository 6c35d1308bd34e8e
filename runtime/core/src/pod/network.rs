//! The configuration of one network: `spec.config` of a definition, a file on the node, or an inline delegate. Pure.
//!
//! A single plugin and a list become the same thing: plugins in order, each with the object that it gets on stdin.
//! Missing `name` and `cniVersion` are added (R5, R35).

use serde_json::{Map, Value};

use crate::cni::{Object, Version, check_name};
use crate::conf::is_file_name;

/// A network's configuration.
#[derive(Debug, Clone, PartialEq)]
pub struct NetworkConf {
    /// Its CNI name.
    pub name: String,
    /// Its CNI version.
    pub version: Version,
    /// Its plugins in order, each as written in the configuration, with `name` and `cniVersion`.
    pub plugins: Vec<Map<String, Value>>,
    /// Whether calling CHECK is forbidden.
    pub disable_check: bool,
    /// Whether calling GC is forbidden.
    pub disable_gc: bool,
}

/// A mistake in a configuration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {why}")]
pub struct NetworkError {
    /// The source of the configuration.
    pub place: String,
    /// What is wrong.
    pub why: String,
}

impl NetworkConf {
    /// Parses a configuration.
    ///
    /// `place` is for error texts. `fallback_name` and `fallback_version` are used if the configuration has no name or
    /// version.
    ///
    /// # Errors
    /// It is not a configuration of a plugin or a list of plugins.
    pub fn read(
        place: &str,
        text: &str,
        fallback_name: Option<&str>,
        fallback_version: Version,
    ) -> Result<Self, NetworkError> {
        let wrong = |why: String| NetworkError { place: place.to_owned(), why };
        let value: Value = serde_json::from_str(text).map_err(|error| wrong(format!("not JSON: {error}")))?;
        Self::from_value(value, fallback_name, fallback_version).map_err(wrong)
    }

    /// Like `read`, for a value.
    ///
    /// # Errors
    /// As `read`; the text does not name the source.
    pub fn from_value(value: Value, fallback_name: Option<&str>, fallback_version: Version) -> Result<Self, String> {
        if !value.is_object() {
            return Err("it is not a JSON object".to_owned());
        }
        let object = Object::from_value(value).map_err(|error| error.to_string())?;
        let text = |key| object.text(key).map_err(|error| error.to_string());
        let name = match (text("name")?, fallback_name) {
            (Some(name), _) | (None, Some(name)) => name.to_owned(),
            (None, None) => return Err("missing network name".to_owned()),
        };
        check_name(&name).map_err(|error| format!("network name {name:?}: {error}"))?;
        let version = version(&object, fallback_version)?;
        let plugins = match object.objects("plugins").map_err(|error| error.to_string())? {
            None => vec![object.clone()],
            Some(plugins) if plugins.is_empty() => return Err("its list of plugins is empty".to_owned()),
            Some(plugins) => plugins,
        };
        let flag = |key| Ok::<_, String>(object.bool(key).map_err(|error| error.to_string())?.unwrap_or(false));
        Ok(Self {
            version,
            plugins: plugins.iter().map(|plugin| complete(plugin, &name, version)).collect::<Result<_, _>>()?,
            disable_check: flag("disableCheck")?,
            disable_gc: flag("disableGC")?,
            name,
        })
    }

    /// Returns whether a plugin declares a capability.
    #[must_use]
    pub fn is_capable_of(&self, capability: &str) -> bool {
        self.plugins.iter().any(|plugin| declares(plugin, capability))
    }
}

/// Returns the `type` of a plugin's configuration.
#[must_use]
pub(super) fn plugin_type(plugin: &Map<String, Value>) -> &str {
    plugin.get("type").and_then(Value::as_str).unwrap_or_default()
}

/// Returns whether a plugin's configuration declares a capability. A capability set to `false` is not declared.
#[must_use]
pub(super) fn declares(plugin: &Map<String, Value>, capability: &str) -> bool {
    plugin.get("capabilities").and_then(|all| all.get(capability)).is_some_and(|value| value == true)
}

/// Returns the highest known version of `cniVersions`, otherwise `cniVersion`, otherwise the fallback.
fn version(object: &Object, fallback: Version) -> Result<Version, String> {
    let listed = object.strings("cniVersions").map_err(|error| error.to_string())?.unwrap_or_default();
    let single = object.text("cniVersion").map_err(|error| error.to_string())?;
    let known = listed.iter().filter_map(|version| Version::reconcile(version).ok()).max();
    match (known, single) {
        (Some(known), Some(single)) => Ok(Version::reconcile(single).map_or(known, |single| single.max(known))),
        (Some(known), None) => Ok(known),
        (None, Some(single)) => {
            Version::reconcile(single).map_err(|_unknown| format!("there is no CNI version {single:?}"))
        }
        (None, None) => Ok(fallback),
    }
}

/// Returns a plugin's object with `name` and `cniVersion`; its keys keep their order.
fn complete(plugin: &Object, name: &str, version: Version) -> Result<Map<String, Value>, String> {
    let kind = plugin.text("type").map_err(|error| error.to_string())?.ok_or("a plugin has no \"type\"")?;
    if !is_file_name(kind) {
        return Err(format!("the plugin type {kind:?} is not the name of a file in binDir or CNI_PATH"));
    }
    let mut map = plugin.as_value().as_object().cloned().unwrap_or_default();
    // Keys are found without regard to case, but the plugin to call is looked up by this one.
    map.insert("type".to_owned(), Value::String(kind.to_owned()));
    map.insert("name".to_owned(), Value::String(name.to_owned()));
    map.insert("cniVersion".to_owned(), Value::String(version.to_string()));
    // A single plugin may carry this list key, but a plugin gets one version.
    map.remove("cniVersions");
    Ok(map)
}
