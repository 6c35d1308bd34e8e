//! The plugins that a case calls: one plugin, or a list of plugins run as libcni does.
//!
//! A list is `{"name": ..., "plugins": [{"type": ...}, ...]}`, as in a conflist. ADD runs it in order, and each plugin
//! gets the previous result as its `prevResult`; CHECK runs it in order and DEL in reverse, both with the final result.
//! The first failure ends it. Capabilities are not negotiated: a plugin's `runtimeConfig` is written in its entry.

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

/// The configurations of a case, in the order of ADD.
#[derive(Debug, Clone)]
pub(super) struct Chain {
    plugins: Vec<Value>,
    /// Whether the case has a list; a single plugin is patched as a whole.
    list: bool,
}

impl Chain {
    /// Reads `conf.json`. Adds the version to each plugin, unless the configuration has `"cniVersion": "none"`, and the
    /// list's name.
    pub(super) fn read(text: &str, version: &str) -> Result<Self> {
        let conf: Value = serde_json::from_str(text).context("conf.json")?;
        let versioned = conf.get("cniVersion").is_none_or(|given| given != "none");
        let listed = conf.get("plugins").and_then(Value::as_array).cloned();
        let list = listed.is_some();
        let mut plugins = listed.unwrap_or_else(|| vec![conf.clone()]);
        if plugins.is_empty() {
            bail!("conf.json: the list of plugins is empty");
        }
        for plugin in &mut plugins {
            let fields = plugin.as_object_mut().context("conf.json: a plugin is no object")?;
            if versioned {
                fields.insert("cniVersion".to_owned(), json!(version));
            } else {
                fields.remove("cniVersion");
            }
            if list {
                fields.insert("name".to_owned(), conf.get("name").cloned().unwrap_or_default());
            }
        }
        Ok(Self { plugins, list })
    }

    /// Returns the types of its plugins.
    pub(super) fn kinds(&self) -> impl Iterator<Item = &str> {
        self.plugins.iter().map(kind)
    }

    /// Returns the configurations with a step's patch (RFC 7396). The patch of a list has a member for each plugin it
    /// patches, by type.
    pub(super) fn patched(&self, patch: Option<&Value>) -> Result<Vec<Value>> {
        let mut plugins = self.plugins.clone();
        let Some(patch) = patch else { return Ok(plugins) };
        if !self.list {
            plugins.iter_mut().for_each(|plugin| merge(plugin, patch));
            return Ok(plugins);
        }
        for (wanted, change) in patch.as_object().context("the patch of a list names plugins")? {
            let found = plugins.iter_mut().find(|plugin| kind(plugin) == wanted);
            merge(found.with_context(|| format!("the list has no plugin {wanted:?} to patch"))?, change);
        }
        Ok(plugins)
    }
}

/// `type`.
pub(super) fn kind(plugin: &Value) -> &str {
    plugin.get("type").and_then(Value::as_str).unwrap_or_default()
}

/// RFC 7396.
fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(changes) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = json!({});
    }
    let Some(fields) = target.as_object_mut() else { return };
    for (key, change) in changes {
        if change.is_null() {
            fields.remove(key);
        } else {
            merge(fields.entry(key.clone()).or_insert(Value::Null), change);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

    use super::*;

    #[test]
    fn lists_and_single_plugins() {
        let list = r#"{"name": "net", "plugins": [{"type": "ptp", "mtu": 1400}, {"type": "portmap"}]}"#;
        let chain = Chain::read(list, "1.0.0").unwrap();
        assert_eq!(chain.kinds().collect::<Vec<_>>(), ["ptp", "portmap"]);
        let patched = chain.patched(Some(&json!({"ptp": {"mtu": null}, "portmap": {"snat": false}}))).unwrap();
        assert_eq!(patched[0], json!({"type": "ptp", "name": "net", "cniVersion": "1.0.0"}));
        assert_eq!(patched[1], json!({"type": "portmap", "name": "net", "cniVersion": "1.0.0", "snat": false}));
        assert!(chain.patched(Some(&json!({"tuning": {}}))).is_err());

        let single = Chain::read(r#"{"name": "net", "type": "ptp", "cniVersion": "none"}"#, "1.0.0").unwrap();
        let patched = single.patched(Some(&json!({"mtu": 1400}))).unwrap();
        assert_eq!(patched, [json!({"name": "net", "type": "ptp", "mtu": 1400})]);
    }
}
