//! The JSON Schema of a network configuration, for editors: made from the same tables of keys with which unknown keys
//! are found.
//!
//! It is draft 2020-12. Lists of plugins are described too; plugins other than weft must have a `type` and are
//! otherwise unrestricted. Not here: which values are valid together. `weftctl policy check` reports that.

use serde_json::{Map, Value, json};

use super::cluster::ledger_keys;
use super::duplicates::DUPLICATES;
use super::monitor::{MONITOR, SELECT_MONITOR};
use super::select::OWN;
use super::terms::{GRANTS, LIMITS};
use super::weft::KEYS;
use crate::cni::Version;
use crate::{delegate, step};

/// Types of keys: of the configuration itself, of delegates and of steps. A name has the same type everywhere.
const TYPES: &[(&str, &str)] = &[
    ("DPDKMode", "boolean"),
    ("addSourceHints", "boolean"),
    ("allmulti", "boolean"),
    ("args", "object"),
    ("backend", "string"),
    ("bcqueuelen", "integer"),
    ("blocks", "object"),
    ("bridge", "string"),
    ("caFile", "string"),
    ("capabilities", "object"),
    ("certFile", "string"),
    ("conditionsV4", "array"),
    ("conditionsV6", "array"),
    ("data", "string"),
    ("dataDir", "string"),
    ("deadlineMs", "integer"),
    ("detect", "boolean"),
    ("device", "string"),
    ("disableCheck", "boolean"),
    ("disableContainerInterface", "boolean"),
    ("disableGC", "boolean"),
    ("dns", "object"),
    ("domain", "string"),
    ("drop", "array"),
    ("egressBurst", "integer"),
    ("egressRate", "integer"),
    ("enabledad", "boolean"),
    ("endpoints", "array"),
    ("externalSetMarkChain", "string"),
    ("fallback", "string"),
    ("firewalldZone", "string"),
    ("forceAddress", "boolean"),
    ("fuel", "integer"),
    ("gateways", "array"),
    ("group", "integer"),
    ("hairpinMode", "boolean"),
    ("hwaddr", "string"),
    ("ingressBurst", "integer"),
    ("ingressPolicy", "string"),
    ("ingressRate", "integer"),
    ("ipMasq", "boolean"),
    ("ipMasqBackend", "string"),
    ("iptablesAdminChainName", "string"),
    ("isDefaultGateway", "boolean"),
    ("isGateway", "boolean"),
    ("kernelpath", "string"),
    ("keyFile", "string"),
    ("linkInContainer", "boolean"),
    ("loadOnlyInlinedPlugins", "boolean"),
    ("mac", "string"),
    ("macspoofchk", "boolean"),
    ("markMasqBit", "integer"),
    ("masqAll", "boolean"),
    ("master", "string"),
    ("memoryMiB", "integer"),
    ("mode", "string"),
    ("mtu", "integer"),
    ("multiQueue", "boolean"),
    ("name", "string"),
    ("owner", "integer"),
    ("passwordFile", "string"),
    ("pciBusID", "string"),
    ("policy", "string"),
    ("pool", "string"),
    ("portIsolation", "boolean"),
    ("prefix", "string"),
    ("preserveDefaultVlan", "boolean"),
    ("prevResult", "object"),
    ("promisc", "boolean"),
    ("promiscMode", "boolean"),
    ("promoted", "boolean"),
    ("routes", "array"),
    ("runtimeConfig", "object"),
    ("selinuxContext", "string"),
    ("settable", "array"),
    ("snat", "boolean"),
    ("socket", "string"),
    ("sysctl", "object"),
    ("table", "integer"),
    ("txQLen", "integer"),
    ("username", "string"),
    ("vlan", "integer"),
    ("vlanId", "integer"),
    ("vlanTrunk", "array"),
    ("vrfname", "string"),
    ("waitMs", "integer"),
    ("wasi", "boolean"),
];

/// Returns the schema. `policies` are the values of `ipam.type`, with the schemas of their configurations.
#[must_use]
pub fn schema(policies: &[(&str, Value)]) -> Value {
    let mut defs = Map::new();
    for kind in delegate::kinds() {
        let keys = delegate::find(kind).map(delegate::Delegate::keys).unwrap_or_default();
        defs.insert(format!("delegate-{kind}"), closed(kind, keys, &["type"]));
    }
    for kind in step::kinds() {
        let keys = step::find(kind).map(step::Step::keys).unwrap_or_default();
        defs.insert(format!("step-{kind}"), closed(kind, keys, &["type"]));
    }
    for (name, own) in policies {
        defs.insert(format!("ipam-{name}"), of_policy("policy", name, own.clone()));
        let mut own = own.clone();
        // `monitor` names the policy already.
        if let Some(required) = own.get_mut("required").and_then(Value::as_array_mut) {
            required.retain(|key| key != "type");
        }
        defs.insert(format!("monitored-{name}"), of_policy("monitored", name, own));
    }
    let names: Vec<&str> = policies.iter().map(|(name, _schema)| *name).collect();
    defs.insert("weft".to_owned(), weft(&names));
    defs.insert("delegate".to_owned(), by_type(delegate::kinds(), "delegate"));
    defs.insert("entry".to_owned(), entry());
    defs.insert("step".to_owned(), by_type(step::kinds(), "step"));
    defs.insert("ipam".to_owned(), by_type(names.into_iter(), "ipam"));
    defs.insert("ledger".to_owned(), ledger());
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "CNI network configuration with weft",
        "type": "object",
        "required": ["name"],
        "if": { "required": ["plugins"] },
        "then": {
            "properties": {
                "name": { "type": "string" },
                "cniVersion": version(),
                "plugins": { "type": "array", "minItems": 1, "items": { "$ref": "#/$defs/plugin" } },
            },
        },
        "else": { "$ref": "#/$defs/plugin" },
        "$defs": with_plugin(defs),
    })
}

/// Describes a plugin of a list: weft, or another with its own keys.
fn with_plugin(mut defs: Map<String, Value>) -> Value {
    let plugin = json!({
        "type": "object",
        "required": ["type"],
        "properties": { "type": { "type": "string" } },
        "if": { "required": ["type"], "properties": { "type": { "const": "weft" } } },
        "then": { "$ref": "#/$defs/weft" },
    });
    defs.insert("plugin".to_owned(), plugin);
    Value::Object(defs)
}

fn weft(policies: &[&str]) -> Value {
    let mut schema = closed("weft", &KEYS, &["type"]);
    let own = [
        ("cniVersion", version()),
        ("cniVersions", json!({ "type": "array", "items": version() })),
        ("delegate", json!({ "$ref": "#/$defs/delegate", "description": "What builds the link." })),
        ("delegates", json!({ "type": "array", "minItems": 1, "items": { "$ref": "#/$defs/entry" } })),
        (
            "select",
            json!({ "type": "object", "required": ["policy"],
                    "properties": { "policy": { "type": "string" }, "monitor": object(&SELECT_MONITOR) },
                    "description": "The policy that picks one of \"delegates\", with its configuration." }),
        ),
        ("ipam", json!({ "$ref": "#/$defs/ipam", "description": "Who picks addresses." })),
        ("steps", json!({ "type": "array", "items": { "$ref": "#/$defs/step" } })),
        ("ledger", json!({ "$ref": "#/$defs/ledger", "description": "Where claims are kept." })),
        ("duplicates", object(&DUPLICATES)),
        ("limits", object(&LIMITS)),
        ("grants", object(&GRANTS)),
        ("monitor", monitor(policies)),
    ];
    for (key, value) in own {
        schema["properties"][key] = value;
    }
    // The specification reserves these keys for runtimes.
    schema["patternProperties"] = json!({ "^cni\\.dev/": true });
    schema
}

/// Describes `monitor` beside `ipam`; its own `ipam` needs no `type`.
fn monitor(policies: &[&str]) -> Value {
    let mut schema = object(&MONITOR);
    schema["required"] = json!(["policy"]);
    schema["properties"]["ipam"] = json!({ "type": "object",
        "description": "The monitored policy's configuration; without it, it has the network's." });
    let cases = policies.iter().map(|name| {
        json!({ "if": { "required": ["policy"], "properties": { "policy": { "const": name } } },
                "then": { "properties": { "ipam": { "$ref": format!("#/$defs/monitored-{name}") } } } })
    });
    schema["allOf"] = json!(cases.collect::<Vec<_>>());
    schema
}

/// Describes an entry of `delegates`: a delegate with a name.
fn entry() -> Value {
    let cases = delegate::kinds().map(|kind| {
        let keys = delegate::find(kind).map(delegate::Delegate::keys).unwrap_or_default();
        let mut own = closed(kind, &[&OWN[..], keys].concat(), &["type", "name"]);
        own["properties"]["ipam"] = json!({ "type": "object" });
        json!({ "if": { "required": ["type"], "properties": { "type": { "const": kind } } }, "then": own })
    });
    let properties = json!({ "type": { "type": "string" }, "name": { "type": "string" } });
    json!({ "type": "object", "required": ["type", "name"], "properties": properties,
            "allOf": cases.collect::<Vec<_>>() })
}

/// Describes an object whose `type` determines its other keys; an unknown type is another plugin's.
fn by_type<'a>(kinds: impl Iterator<Item = &'a str>, prefix: &str) -> Value {
    let cases = kinds.map(|kind| {
        json!({ "if": { "required": ["type"], "properties": { "type": { "const": kind } } },
                "then": { "$ref": format!("#/$defs/{prefix}-{kind}") } })
    });
    json!({ "type": "object", "required": ["type"], "properties": { "type": { "type": "string" } },
            "allOf": cases.collect::<Vec<_>>() })
}

fn ledger() -> Value {
    let kinds = ["node", "kubernetes", "etcd"];
    let cases = kinds.map(|kind| {
        let own = closed(kind, &ledger_keys(kind).unwrap_or_default(), &["type"]);
        json!({ "if": { "required": ["type"], "properties": { "type": { "const": kind } } }, "then": own })
    });
    json!({ "type": "object", "required": ["type"], "properties": { "type": { "enum": kinds } }, "allOf": cases })
}

/// Returns the schema of a policy as a definition: its references are resolved within it, and its objects are closed as
/// weft closes them.
fn of_policy(part: &str, name: &str, mut schema: Value) -> Value {
    close(&mut schema);
    if let Some(own) = schema.as_object_mut() {
        own.remove("$schema");
        own.insert("$id".to_owned(), json!(format!("weft:{part}:{name}")));
    }
    schema
}

/// Closes every object with listed properties that does not say otherwise.
fn close(schema: &mut Value) {
    match schema {
        Value::Object(own) => {
            if own.get("properties").is_some_and(Value::is_object) && !own.contains_key("additionalProperties") {
                own.insert("additionalProperties".to_owned(), json!(false));
            }
            own.values_mut().for_each(close);
        }
        Value::Array(items) => items.iter_mut().for_each(close),
        _ => {}
    }
}

/// Describes an object with these keys and no others, of this `type`.
fn closed(kind: &str, keys: &[&str], required: &[&str]) -> Value {
    let mut schema = object(keys);
    schema["properties"]["type"] = json!({ "const": kind });
    schema["required"] = json!(required);
    schema
}

fn object(keys: &[&str]) -> Value {
    let properties: Map<String, Value> = keys.iter().map(|key| ((*key).to_owned(), typed(key))).collect();
    json!({ "type": "object", "properties": properties, "additionalProperties": false })
}

/// `null` is the default of every key.
fn typed(key: &str) -> Value {
    match TYPES.iter().find(|(name, _kind)| *name == key) {
        Some((_name, kind)) => json!({ "type": [kind, "null"] }),
        None => json!({}),
    }
}

fn version() -> Value {
    json!({ "enum": Version::ALL.map(|version| version.to_string()) })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    /// The definitions that `weft` provides itself.
    const DESCRIBED: &[&str] = &[
        "type",
        "cniVersion",
        "cniVersions",
        "delegate",
        "delegates",
        "select",
        "ipam",
        "steps",
        "ledger",
        "duplicates",
        "limits",
        "grants",
        "monitor",
    ];

    #[test]
    fn every_key_has_a_type() {
        let of_delegates = delegate::kinds().filter_map(delegate::find).flat_map(delegate::Delegate::keys).copied();
        let of_steps = step::kinds().filter_map(step::find).flat_map(step::Step::keys).copied();
        let of_ledgers = ["kubernetes", "etcd"].into_iter().filter_map(ledger_keys).flatten();
        let all = KEYS
            .into_iter()
            .chain(LIMITS)
            .chain(GRANTS)
            .chain(DUPLICATES)
            .chain(MONITOR)
            .chain(OWN)
            .chain(of_delegates)
            .chain(of_steps);
        let known = |key: &str| DESCRIBED.contains(&key) || TYPES.iter().any(|(name, _kind)| *name == key);
        let untyped: Vec<&str> = all.chain(of_ledgers).filter(|key| !known(key)).collect();
        assert!(untyped.is_empty(), "give these a type in TYPES: {untyped:?}");
        assert!(TYPES.is_sorted(), "TYPES are sorted by name");
    }

    #[test]
    fn objects_of_policies_are_closed_and_stand_by_themselves() {
        let own = json!({"$schema": "x", "properties": {"a": {"properties": {"b": {}}}, "c": {"additionalProperties": true, "properties": {}}}});
        let schema = schema(&[("p", own)]);
        let policy = &schema["$defs"]["ipam-p"];
        assert_eq!(policy["additionalProperties"], false);
        assert_eq!(policy.pointer("/properties/a/additionalProperties"), Some(&json!(false)));
        assert_eq!(policy.pointer("/properties/c/additionalProperties"), Some(&json!(true)));
        assert_eq!((policy.get("$schema"), &policy["$id"]), (None, &json!("weft:policy:p")));
    }
}
