//! The network-status annotation and the events of an ADD, in Multus' exact shape (R23 to R26). Pure.
//!
//! There is always one entry per attachment, and exactly one with `default: true`. Tools parse the text, so order and
//! indentation are Multus' too.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::Serialize as _;
use serde_json::ser::{PrettyFormatter, Serializer};
use serde_json::{Map, Value, json};

use crate::agent::status::{Event, EventKind};
use crate::attach::Notice;
use crate::cni::{CniError, CniResult, Ip};

/// The annotation with the status.
pub const NETWORK_STATUS: &str = "k8s.v1.cni.cncf.io/network-status";

/// One attachment in the form that the status shows.
#[derive(Debug, Clone, PartialEq)]
pub struct Attached<'a> {
    /// Its name.
    pub label: &'a str,
    /// Its interface, if the result names none.
    pub ifname: &'a str,
    /// Whether it is the default network.
    pub is_default: bool,
    /// The result of its plugins.
    pub result: &'a CniResult,
    /// The content of its device-info file.
    pub device_info: Option<Value>,
}

/// Returns the text of the annotation.
#[must_use]
pub fn status_text(attached: &[Attached<'_>]) -> String {
    // Multus indents each entry and joins them with a plain comma.
    let entries: Vec<String> = attached.iter().map(|attached| indented(&entry(attached))).collect();
    format!("[{}]", entries.join(","))
}

/// Returns the event of a completed attachment.
#[must_use]
pub fn added_event(attached: &Attached<'_>) -> Event {
    let (name, _) = interface(attached);
    let ips: Vec<String> = attached.result.ips.iter().map(|ip| canonical(ip.address)).collect();
    Event {
        kind: EventKind::Normal,
        reason: "AddedInterface".to_owned(),
        message: format!("Add {name} [{}] from {}", ips.join(" "), attached.label),
    }
}

/// Returns the events of a failed ADD: what came before the failure, then the failure.
pub(super) fn failure_events(notices: Vec<Notice>, cause: &CniError) -> Vec<Event> {
    let reason = if notices.contains(&Notice::Denied) {
        "PolicyDenied"
    } else if notices.contains(&Notice::Exhausted) {
        "PoolExhausted"
    } else {
        "NetworkAttachFailed"
    };
    let failure = Event { kind: EventKind::Warning, reason: reason.to_owned(), message: cause.to_string() };
    notices.into_iter().filter_map(notice_event).chain([failure]).collect()
}

/// Returns the event of what is not a failure by itself.
pub(super) fn notice_event(notice: Notice) -> Option<Event> {
    let (reason, message) = match notice {
        Notice::FellBack(message) => ("PolicyFellBack", message),
        Notice::Conflict(message) => ("AddressConflict", message),
        Notice::Denied | Notice::Exhausted => return None,
    };
    Some(Event { kind: EventKind::Warning, reason: reason.to_owned(), message })
}

/// Formats an address with its prefix length; an IPv4-mapped one is shown as IPv4.
fn canonical(address: IpNet) -> String {
    match (address.addr().to_canonical(), address.prefix_len().checked_sub(96)) {
        (IpAddr::V4(plain), Some(length)) if !address.addr().is_ipv4() => format!("{plain}/{length}"),
        _ => address.to_string(),
    }
}

/// Returns name and index of the main interface: the first one in the sandbox. If the result has none there, the name is
/// that of the attachment, and nothing is known about the interface: one outside has another MAC and another MTU.
fn interface<'a>(attached: &'a Attached<'_>) -> (&'a str, Option<usize>) {
    let interfaces = &attached.result.interfaces;
    let index = interfaces.iter().position(|found| found.sandbox.is_some());
    let name = index.and_then(|index| interfaces.get(index)).map_or(attached.ifname, |found| found.name.as_str());
    (name, index)
}

fn entry(attached: &Attached<'_>) -> Value {
    let Attached { label, is_default, result, device_info, .. } = attached;
    let (name, index) = interface(attached);
    let found = index.and_then(|index| result.interfaces.get(index));
    let counts = |ip: &&Ip| match ip.interface {
        // With one interface the index is ignored; an address without an index belongs to the main interface.
        Some(given) if result.interfaces.len() > 1 => index.is_none_or(|index| index == given),
        _ => true,
    };
    let ips: Vec<String> =
        result.ips.iter().filter(counts).map(|ip| ip.address.addr().to_canonical().to_string()).collect();
    let gateways: Vec<String> = result
        .routes
        .iter()
        .filter(|route| route.dst.prefix_len() == 0)
        .filter_map(|route| route.gw)
        .map(|gateway| gateway.to_string())
        .collect();
    let mut map = Map::new();
    map.insert("name".to_owned(), json!(label));
    map.insert("interface".to_owned(), json!(name));
    if !ips.is_empty() {
        map.insert("ips".to_owned(), json!(ips));
    }
    if let Some(mac) = found.and_then(|found| found.mac.as_ref()) {
        map.insert("mac".to_owned(), json!(mac));
    }
    if let Some(mtu) = found.and_then(|found| found.mtu) {
        map.insert("mtu".to_owned(), json!(mtu));
    }
    if *is_default {
        map.insert("default".to_owned(), json!(true));
    }
    map.insert("dns".to_owned(), dns(result));
    if let Some(device_info) = device_info {
        map.insert("device-info".to_owned(), device_info.clone());
    }
    if !gateways.is_empty() {
        map.insert("gateway".to_owned(), json!(gateways));
    }
    Value::Object(map)
}

fn dns(result: &CniResult) -> Value {
    let mut map = Map::new();
    let list = |list: &Vec<String>| (!list.is_empty()).then(|| json!(list));
    let domain = result.dns.domain.as_ref().filter(|domain| !domain.is_empty()).map(|domain| json!(domain));
    let values = [
        ("nameservers", list(&result.dns.nameservers)),
        ("domain", domain),
        ("search", list(&result.dns.search)),
        ("options", list(&result.dns.options)),
    ];
    for (key, value) in values {
        if let Some(value) = value {
            map.insert(key.to_owned(), value);
        }
    }
    Value::Object(map)
}

/// Renders a value with four spaces, like Go's `MarshalIndent`.
fn indented(value: &Value) -> String {
    let mut bytes = Vec::new();
    let mut serializer = Serializer::with_formatter(&mut bytes, PrettyFormatter::with_indent(b"    "));
    // This cannot fail: a `Value` has only string keys and a `Vec` accepts every write. The fallback is the same
    // document in compact form.
    match value.serialize(&mut serializer) {
        Ok(()) => String::from_utf8(bytes).unwrap_or_else(|_not_utf8| value.to_string()),
        Err(_never) => value.to_string(),
    }
}
