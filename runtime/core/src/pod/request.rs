//! An annotation element's requests to its network: required capabilities, each plugin's input, and the holder of the
//! default route. Pure.

use std::net::IpAddr;

use serde_json::{Map, Value, json};

use super::attachment::{DeviceInfoFiles, PluginCall, PodAttachment};
use super::error::PodError;
use super::network::{NetworkConf, declares, plugin_type};
use super::selection::Selection;

/// R17: one attachment has the pod's default route, and the others drop theirs.
pub(super) struct DefaultRoute {
    /// Which attachment.
    index: usize,
    /// Its gateways. If empty, it keeps its own default routes.
    gateways: Vec<IpAddr>,
}

impl DefaultRoute {
    /// Returns the attachment that requests it. `wanted` are the names of networks with what their elements request.
    ///
    /// # Errors
    /// Two of them do, in the annotation for the default network and in the one for the others.
    pub(super) fn from_selections<'a>(
        wanted: impl Iterator<Item = (&'a str, &'a Selection)>,
    ) -> Result<Option<Self>, PodError> {
        let asks = |(index, (network, selection)): (usize, (&'a str, &'a Selection))| {
            Some((network, Self { index, gateways: selection.default_route.clone()? }))
        };
        let mut asked = wanted.enumerate().filter_map(asks);
        match (asked.next(), asked.next()) {
            (Some((by, _route)), Some((network, _other))) => {
                Err(PodError::DefaultRouteTaken { network: network.to_owned(), by: by.to_owned() })
            }
            (first, _none) => Ok(first.map(|(_network, route)| route)),
        }
    }

    /// Returns the step to chain to an attachment. Families without a gateway are left as they are, unless no gateway
    /// is named.
    pub(super) fn step(&self, index: usize, attachment: &PodAttachment) -> Option<PluginCall> {
        if index == self.index && self.gateways.is_empty() {
            return None;
        }
        let named =
            |is_ipv4: bool| self.gateways.is_empty() || self.gateways.iter().any(|one| one.is_ipv4() == is_ipv4);
        let drop: Vec<&str> =
            [("4", true), ("6", false)].into_iter().filter(|(_, v4)| named(*v4)).map(|(text, _)| text).collect();
        let gateways: &[IpAddr] = if index == self.index { &self.gateways } else { &[] };
        let conf = json!({
            "cniVersion": attachment.version,
            "name": attachment.network,
            "type": "weft",
            "steps": [{"type": "default-route", "drop": drop, "gateways": gateways}],
        });
        Some(PluginCall { kind: "weft".to_owned(), conf: conf.to_string(), external: false })
    }
}

/// R11, R12, R15, R16, R18: checks that a plugin of the network declares each requested capability.
pub(super) fn check_capabilities(label: &str, conf: &NetworkConf, selection: &Selection) -> Result<(), PodError> {
    let asked = [
        ("ips", "ips", !selection.ips.is_empty()),
        ("mac", "mac", selection.mac.is_some()),
        ("portMappings", "portMappings", !selection.port_mappings.is_empty()),
        ("bandwidth", "bandwidth", selection.bandwidth.is_some()),
        ("infiniband-guid", "infinibandGUID", selection.guid.is_some()),
    ];
    match asked.into_iter().find(|(_, capability, asked)| *asked && !conf.is_capable_of(capability)) {
        Some((key, capability, _)) => Err(PodError::Incapable { network: label.to_owned(), key, capability }),
        None => Ok(()),
    }
}

/// Returns the `runtimeConfig` that an element requests.
pub(super) fn requested(
    selection: &Selection,
    device: Option<&str>,
    device_info: Option<&DeviceInfoFiles>,
) -> Map<String, Value> {
    let mut map = Map::new();
    let mut put = |key: &str, value: Option<Value>| {
        if let Some(value) = value {
            map.insert(key.to_owned(), value);
        }
    };
    let list = |list: &[Value]| (!list.is_empty()).then(|| json!(list));
    put("ips", (!selection.ips.is_empty()).then(|| json!(selection.ips)));
    put("mac", selection.mac.as_ref().map(|mac| json!(mac)));
    put("portMappings", list(&selection.port_mappings));
    put("bandwidth", selection.bandwidth.clone());
    put("infinibandGUID", selection.guid.as_ref().map(|guid| json!(guid)));
    put("deviceID", device.map(|device| json!(device)));
    put("CNIDeviceInfoFile", device_info.map(|files| json!(files.attachment)));
    map
}

/// Returns a plugin's stdin: its own keys, the element's `args.cni` (R14), the device, and the part of `runtimeConfig`
/// that it declares.
pub(super) fn plugin_conf(
    plugin: &Map<String, Value>,
    selection: &Selection,
    runtime: &Map<String, Value>,
    resource_device: Option<&str>,
) -> Map<String, Value> {
    let mut conf = plugin.clone();
    if let Some(cni_args) = &selection.cni_args {
        merge_args(&mut conf, cni_args.clone());
    }
    if let Some(claim) = &selection.ipam_claim {
        let claim = Map::from_iter([("ipam-claim-reference".to_owned(), json!(claim))]);
        merge_args(&mut conf, claim);
    }
    // A configuration of type `weft` rejects unknown keys; its delegates read the capability.
    if let Some(device) = resource_device.filter(|_device| plugin_type(plugin) != "weft") {
        conf.insert("deviceID".to_owned(), json!(device));
        conf.insert("pciBusID".to_owned(), json!(device));
    }
    let declared: Map<String, Value> = runtime
        .iter()
        .filter(|(key, _)| declares(plugin, key))
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect();
    if !declared.is_empty() {
        conf.insert("runtimeConfig".to_owned(), Value::Object(declared));
    }
    conf
}

/// Merges keys into `args.cni`, overriding existing ones.
fn merge_args(conf: &mut Map<String, Value>, more: Map<String, Value>) {
    let mut args = conf.get("args").and_then(Value::as_object).cloned().unwrap_or_default();
    let mut cni = args.get("cni").and_then(Value::as_object).cloned().unwrap_or_default();
    cni.extend(more);
    args.insert("cni".to_owned(), Value::Object(cni));
    conf.insert("args".to_owned(), Value::Object(args));
}

/// Returns the `CNI_ARGS` of an attachment: the runtime's, followed by the element's, for plugins that look there. The
/// runtime's requests for the pod's own interface apply to the default network only (R34).
pub(super) fn args(runtime: &[(String, String)], is_default: bool, selection: &Selection) -> String {
    let of_runtime = runtime.iter().filter(|(key, _)| is_default || !matches!(key.as_str(), "IP" | "MAC"));
    let mut parts: Vec<String> = of_runtime.map(|(key, value)| format!("{key}={value}")).collect();
    parts.extend(selection.mac.as_ref().map(|mac| format!("MAC={mac}")));
    if !selection.ips.is_empty() {
        parts.push(format!("IP={}", selection.ips.join(",")));
    }
    parts.join(";")
}
