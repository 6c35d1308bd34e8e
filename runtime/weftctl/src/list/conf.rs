//! Parses a list of plugins like libcni, and returns what each plugin gets on stdin.

use anyhow::{Context as _, bail};
use serde_json::{Map, Value, json};
use weft_core::cni::{Version, check_name};

/// A configuration: a list, or a single plugin as a list of one.
#[derive(Debug)]
pub(crate) struct List {
    pub(crate) name: String,
    pub(crate) version: Version,
    /// The original text.
    pub(crate) text: Vec<u8>,
    plugins: Vec<Plugin>,
    object: Map<String, Value>,
}

/// One of its plugins.
#[derive(Debug)]
pub(crate) struct Plugin {
    pub(crate) kind: String,
    conf: Map<String, Value>,
}

// === impl List ===

impl List {
    pub(crate) fn read(text: &[u8]) -> anyhow::Result<Self> {
        let object: Map<String, Value> =
            serde_json::from_slice(text).context("the network configuration is not a JSON object")?;
        let entries = match object.get("plugins") {
            Some(plugins) => plugins.as_array().cloned().context("\"plugins\" is not a list")?,
            None => vec![Value::Object(object.clone())],
        };
        let plugins = entries.into_iter().map(Plugin::read).collect::<anyhow::Result<Vec<_>>>()?;
        if plugins.is_empty() {
            bail!("\"plugins\" is empty");
        }
        let name = object.get("name").and_then(Value::as_str).unwrap_or_default().to_owned();
        check_name(&name).map_err(anyhow::Error::msg)?;
        Ok(Self { version: version(&object)?, name, text: text.to_vec(), plugins, object })
    }

    pub(crate) fn plugins(&self) -> impl DoubleEndedIterator<Item = &Plugin> {
        self.plugins.iter()
    }

    pub(crate) fn check_is_disabled(&self) -> bool {
        self.object.get("disableCheck") == Some(&Value::Bool(true))
    }

    /// Returns what a plugin gets on stdin: its own keys, the list's name and version, the previous result, and the
    /// capabilities that it declares.
    pub(crate) fn for_plugin(&self, plugin: &Plugin, previous: Option<&Value>, cap_args: &Map<String, Value>) -> Value {
        let mut conf = plugin.conf.clone();
        conf.insert("name".to_owned(), json!(self.name));
        conf.insert("cniVersion".to_owned(), json!(self.version.to_string()));
        if let Some(previous) = previous {
            conf.insert("prevResult".to_owned(), previous.clone());
        }
        let declared = plugin.conf.get("capabilities").and_then(Value::as_object);
        let offered: Map<String, Value> = declared
            .into_iter()
            .flatten()
            .filter(|(_name, wanted)| **wanted == Value::Bool(true))
            .filter_map(|(name, _wanted)| Some((name.clone(), cap_args.get(name)?.clone())))
            .collect();
        if !offered.is_empty() {
            conf.insert("runtimeConfig".to_owned(), Value::Object(offered));
        }
        Value::Object(conf)
    }
}

// === impl Plugin ===

impl Plugin {
    fn read(value: Value) -> anyhow::Result<Self> {
        let Value::Object(conf) = value else { bail!("a plugin of the list is not a JSON object: {value}") };
        let kind = conf.get("type").and_then(Value::as_str).unwrap_or_default().to_owned();
        if kind.is_empty() {
            bail!("a plugin of the list has no \"type\"");
        }
        Ok(Self { kind, conf })
    }
}

/// Returns the newest known version of `cniVersions`, or `cniVersion`.
fn version(object: &Map<String, Value>) -> anyhow::Result<Version> {
    let listed = object.get("cniVersions").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str);
    if let Some(newest) = listed.filter_map(|text| Version::reconcile(text).ok()).max() {
        return Ok(newest);
    }
    let text = object.get("cniVersion").and_then(Value::as_str).unwrap_or_default();
    Version::reconcile(text).map_err(anyhow::Error::msg)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn a_plugin_gets_what_is_its_own() {
        let text = br#"{"cniVersion": "1.0.0", "cniVersions": ["0.4.0", "1.1.0", "9.9.9"], "name": "net", "plugins": [
            {"type": "bridge", "name": "other"},
            {"type": "portmap", "capabilities": {"portMappings": true, "mac": false}}]}"#;
        let list = List::read(text).unwrap();
        let cap_args = json!({"portMappings": [1], "mac": "x", "bandwidth": {}}).as_object().unwrap().clone();
        let confs: Vec<Value> =
            list.plugins().map(|plugin| list.for_plugin(plugin, Some(&json!({"ips": []})), &cap_args)).collect();
        assert_eq!(
            confs[0],
            json!({"type": "bridge", "name": "net", "cniVersion": "1.1.0", "prevResult": {"ips": []}})
        );
        assert_eq!(confs[1]["runtimeConfig"], json!({"portMappings": [1]}));
    }

    #[test]
    fn a_single_plugin_is_a_list_of_one() {
        let list = List::read(br#"{"type": "ptp", "name": "net"}"#).unwrap();
        assert_eq!((list.plugins().count(), list.version.to_string().as_str()), (1, "0.1.0"));
    }

    #[test]
    fn mistakes_are_named() {
        for (text, want) in [
            ("[]", "not a JSON object"),
            (r#"{"name": "a/b", "type": "x"}"#, "invalid characters"),
            (r#"{"name": "net", "plugins": []}"#, "is empty"),
            (r#"{"name": "net", "plugins": [{}]}"#, "no \"type\""),
            (r#"{"name": "net", "type": "x", "cniVersion": "7"}"#, "7"),
        ] {
            let error = format!("{:#}", List::read(text.as_bytes()).unwrap_err());
            assert!(error.contains(want), "{text}: {error}");
        }
    }
}
