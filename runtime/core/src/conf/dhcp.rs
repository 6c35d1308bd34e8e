//! `ipam` of type `dhcp`: the stock plugin's keys, and a few of ours.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde_json::Value;

use super::error::unknown_key;
use super::{ConfError, Object};
use crate::agent::{self, Wish};
use crate::keys::did_you_mean;

/// Every key.
const KEYS: [&str; 8] = ["type", "daemonSocketPath", "provide", "request", "priority", "ipv4", "ipv6", "broadcast"];

/// Names of options, as in the stock plugin.
const NAMES: [(&str, u8); 6] = [
    ("dhcp-client-identifier", 61),
    ("subnet-mask", 1),
    ("routers", 3),
    ("host-name", 12),
    ("user-class", 77),
    ("vendor-class-identifier", 60),
];

/// Requested options besides those of the configuration: mask, classless routes (before routers, RFC 3442), routers,
/// static routes, name servers, domain, search list.
const DEFAULT_REQUEST: [u8; 7] = [1, 121, 3, 33, 6, 15, 119];

/// Options that are part of the protocol; setting them manually would break it.
const RESERVED: [u8; 7] = [0, 50, 52, 53, 54, 55, 255];

/// `ipam` of type `dhcp`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DhcpConf {
    /// The agent's socket.
    pub socket: PathBuf,
    /// The request to the agent.
    pub wish: Wish,
}

impl DhcpConf {
    /// Reads the object. If `strict`, all unknown keys are errors, otherwise those that look like a misspelling of a
    /// known one.
    pub(super) fn read(object: &Object, cni_args: &[(String, String)], strict: bool) -> Result<Self, ConfError> {
        let unknown = object.unknown(&KEYS).filter(|key| strict || did_you_mean(key, KEYS).is_some());
        let unknown: Vec<_> =
            unknown.map(|key| unknown_key(key, "ipam", &KEYS, || format!("known are {}", KEYS.join(", ")))).collect();
        if let Some(error) = ConfError::combine(unknown) {
            return Err(error);
        }
        let wish = Wish {
            ipv4: object.bool("ipv4")?.unwrap_or(true),
            ipv6: object.bool("ipv6")?.unwrap_or(false),
            provide: provide(object, cni_args)?,
            request: request(object)?,
            broadcast: object.bool("broadcast")?.unwrap_or_default(),
            // In the stock plugin, 0 means unset.
            priority: object.u32("priority")?.filter(|priority| *priority != 0),
        };
        if !wish.ipv4 && !wish.ipv6 {
            return Err(ConfError::BadValue {
                key: object.path_text("ipv4"),
                value: "false".to_owned(),
                want: "true unless ipv6 is: no address would be asked for",
            });
        }
        Ok(Self { socket: Self::socket(object)?, wish })
    }

    /// Returns the agent's socket.
    pub(crate) fn socket(object: &Object) -> Result<PathBuf, ConfError> {
        let path = PathBuf::from(object.text("daemonSocketPath")?.unwrap_or(agent::SOCKET));
        if path.is_absolute() {
            return Ok(path);
        }
        let value = path.to_string_lossy().into_owned();
        Err(ConfError::BadValue { key: object.path_text("daemonSocketPath"), value, want: "an absolute path" })
    }
}

/// Reads `provide`: `CNI_ARGS` takes precedence over the configuration.
fn provide(object: &Object, cni_args: &[(String, String)]) -> Result<BTreeMap<u8, String>, ConfError> {
    let mut provided = BTreeMap::new();
    for item in object.objects("provide")?.unwrap_or_default() {
        let (name, code) = option(&item)?;
        if RESERVED.contains(&code) {
            let want = "an option that a client may choose: this one is set by weft";
            return Err(ConfError::BadValue { key: item.path_text("option"), value: name, want });
        }
        let from_arg = item.text("fromArg")?.and_then(|key| cni_args.iter().rfind(|(name, _)| name == key));
        let own = item.str("value")?.filter(|value| !value.is_empty());
        let Some(value) = from_arg.map(|(_, value)| value.as_str()).or(own) else { continue };
        if value.len() > usize::from(u8::MAX) {
            return Err(ConfError::DhcpValue { option: name });
        }
        provided.insert(code, value.to_owned());
    }
    Ok(provided)
}

/// Reads `request`: with `skipDefault`, only the listed options.
fn request(object: &Object) -> Result<Vec<u8>, ConfError> {
    let items = object.objects("request")?.unwrap_or_default();
    let mut skip = false;
    let mut listed = Vec::new();
    for item in &items {
        skip |= item.bool("skipDefault")?.unwrap_or_default();
        // An item may have `skipDefault` alone.
        if item.get("option").is_some_and(|value| !value.is_null()) || !skip {
            listed.push(option(item)?.1);
        }
    }
    let mut codes = if skip { Vec::new() } else { DEFAULT_REQUEST.to_vec() };
    for code in listed {
        if !codes.contains(&code) {
            codes.push(code);
        }
    }
    Ok(codes)
}

/// Reads `option`: a name or a number, given as text or as a number.
fn option(item: &Object) -> Result<(String, u8), ConfError> {
    let text = match item.get("option") {
        Some(Value::Number(number)) => number.to_string(),
        _ => item.str("option")?.unwrap_or_default().to_owned(),
    };
    if let Some((_, code)) = NAMES.iter().find(|(name, _)| *name == text) {
        return Ok((text, *code));
    }
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    match text.parse() {
        Ok(code) if digits => Ok((text, code)),
        _ => Err(ConfError::DhcpOption { why: if digits { "value out of range" } else { "invalid syntax" }, text }),
    }
}
