//! The network-status annotation and the events of an ADD, in Multus' exact shape (R23 to R26). Pure.
//!
//! One entry per attachment, always; `default: true` once. Tools parse the text, so order and indentation are Multus' too.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::Serialize as _;
use serde_json::ser::{PrettyFormatter, Serializer};
use serde_json::{Map, Value, json};

use crate::agent::status::{Event, EventKind};
use crate::cni::{CniResult, Ip};

/// The annotation of the status.
pub const NETWORK_STATUS: &str = "k8s.v1.cni.cncf.io/network-status";

/// One attachment, as the status shows it.
#[derive(Debug, Clone, PartialEq)]
pub struct Attached<'a> {
    /// Its name.
    pub label: &'a str,
    /// Its interface, where the result names none.
    pub ifname: &'a str,
    /// It is the default network.
    pub is_default: bool,
    /// What its plugins answered.
    pub result: &'a CniResult,
    /// What its device-info file says.
    pub device_info: Option<Value>,
}

/// The text of the annotation.
#[must_use]
pub fn status_text(attached: &[Attached<'_>]) -> String {
    // Multus writes each entry with indentation and joins them with a comma alone.
    let entries: Vec<String> = attached.iter().map(|attached| indented(&entry(attached))).collect();
    format!("[{}]", entries.join(","))
}

/// The event of an attachment that is done.
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

/// An address with its prefix length; one of IPv4 in the form of IPv6 is shown as what it is.
fn canonical(address: IpNet) -> String {
    match (address.addr().to_canonical(), address.prefix_len().checked_sub(96)) {
        (IpAddr::V4(plain), Some(length)) if !address.addr().is_ipv4() => format!("{plain}/{length}"),
        _ => address.to_string(),
    }
}

/// The interface that counts: the first one in the sandbox, else the only one there is. Returns its name and its index.
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
        // With one interface nobody looks at the index; an address without one belongs to the interface that counts.
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

/// With four spaces, as Go's `MarshalIndent`.
fn indented(value: &Value) -> String {
    let mut bytes = Vec::new();
    let mut serializer = Serializer::with_formatter(&mut bytes, PrettyFormatter::with_indent(b"    "));
    // A `Value` has string keys only and a `Vec` takes every write: neither can fail. Were one to, the compact form is
    // the same document.
    match value.serialize(&mut serializer) {
        Ok(()) => String::from_utf8(bytes).unwrap_or_else(|_not_utf8| value.to_string()),
        Err(_never) => value.to_string(),
    }
}
