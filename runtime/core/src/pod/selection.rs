//! The selection annotation: the networks that a pod requests, with parameters. Pure.
//!
//! Two forms, as in the multi-network specification (v1.3, section 4.1) and Multus: a comma-separated list of
//! `[NAMESPACE/]NAME[@INTERFACE]`, and a JSON list of objects. Every value is checked here, and a wrong value rejects
//! the whole annotation: no pod runs without a network that it requested.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;
use serde_json::{Map, Value, json};

use crate::cni::{Object, check_ifname};

/// The annotation that lists a pod's networks.
pub const NETWORKS: &str = "k8s.v1.cni.cncf.io/networks";

/// The annotation that selects another default network for one pod.
pub const DEFAULT_NETWORK: &str = "v1.multus-cni.io/default-network";

/// The maximum number of elements. Everybody who may create a pod can write an annotation, and each
/// element costs the agent a request.
const MAX_ELEMENTS: usize = 64;

/// One element of the annotation.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Selection {
    /// Name of the NetworkAttachmentDefinition.
    pub name: String,
    /// Its namespace, if the element has one.
    pub namespace: Option<String>,
    /// The interface's name.
    pub interface: Option<String>,
    /// Addresses, with or without a prefix length, as written.
    pub ips: Vec<String>,
    /// Hardware address.
    pub mac: Option<String>,
    /// InfiniBand GUID.
    pub guid: Option<String>,
    /// Device id.
    pub device_id: Option<String>,
    /// The additional `args.cni` of every plugin.
    pub cni_args: Option<Map<String, Value>>,
    /// Port mappings.
    pub port_mappings: Vec<Value>,
    /// Rates and bursts, in bits.
    pub bandwidth: Option<Value>,
    /// Gateways of the pod's default route. An empty list keeps the attachment's own.
    pub default_route: Option<Vec<IpAddr>>,
    /// Name of an IPAMClaim in the pod's namespace.
    pub ipam_claim: Option<String>,
}

/// A mistake in an annotation.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SelectionError {
    /// It has neither form.
    #[error(
        "annotation {annotation}: {why}; write \"NAME, NAMESPACE/NAME@INTERFACE\" or a JSON list of objects with \"name\""
    )]
    Form {
        /// The annotation's key.
        annotation: &'static str,
        /// What is wrong.
        why: String,
    },
    /// It has too many elements.
    #[error("annotation {annotation} names {count} networks; a pod can have at most {MAX_ELEMENTS}")]
    TooMany {
        /// The annotation's key.
        annotation: &'static str,
        /// The number of elements.
        count: usize,
    },
    /// A value of an element is wrong.
    #[error("annotation {annotation}, element {element}: {why}")]
    Element {
        /// The annotation's key.
        annotation: &'static str,
        /// Which element, from 1.
        element: usize,
        /// What is wrong.
        why: String,
    },
}

/// Parses a selection annotation. As in Multus, a blank text is one element without a name, and an empty text has no
/// elements.
///
/// # Errors
/// The text has neither form, or a value is wrong.
pub fn parse_selection(annotation: &'static str, text: &str) -> Result<Vec<Selection>, SelectionError> {
    if text.is_empty() {
        return Ok(Vec::new());
    }
    let parsed =
        if text.contains(['[', '{', '"']) { from_json(annotation, text)? } else { from_list(annotation, text)? };
    check_together(annotation, &parsed)?;
    Ok(parsed)
}

fn element_error(annotation: &'static str, index: usize) -> impl Fn(String) -> SelectionError {
    move |why| SelectionError::Element { annotation, element: index + 1, why }
}

/// `[NAMESPACE/]NAME[@INTERFACE], ...`.
fn from_list(annotation: &'static str, text: &str) -> Result<Vec<Selection>, SelectionError> {
    let element = |(index, item): (usize, &str)| from_short(item.trim()).map_err(element_error(annotation, index));
    check_count(annotation, text.split(',').count())?;
    text.split(',').enumerate().map(element).collect()
}

fn check_count(annotation: &'static str, count: usize) -> Result<(), SelectionError> {
    if count <= MAX_ELEMENTS {
        return Ok(());
    }
    Err(SelectionError::TooMany { annotation, count })
}

fn from_short(item: &str) -> Result<Selection, String> {
    let (reference, interface) = match item.split('@').map(str::trim).collect::<Vec<_>>()[..] {
        [reference] => (reference, None),
        [reference, interface] => (reference, Some(interface.to_owned())),
        _ => return Err(format!("{item:?} has more than one \"@\"")),
    };
    let (namespace, name) = match reference.split('/').map(str::trim).collect::<Vec<_>>()[..] {
        [name] => (None, name.to_owned()),
        [namespace, name] => (Some(namespace.to_owned()), name.to_owned()),
        _ => return Err(format!("{item:?} has more than one \"/\"")),
    };
    let selection = Selection { name, namespace, interface, ..Selection::default() };
    check_names(&selection)?;
    Ok(selection)
}

fn from_json(annotation: &'static str, text: &str) -> Result<Vec<Selection>, SelectionError> {
    let form = |why: String| SelectionError::Form { annotation, why };
    let value: Value = serde_json::from_str(text).map_err(|error| form(format!("not JSON: {error}")))?;
    let Value::Array(items) = value else { return Err(form("it is JSON, but not a list".to_owned())) };
    let element = |(index, item): (usize, Value)| {
        let wrong = element_error(annotation, index);
        if !item.is_object() {
            return Err(wrong(format!("{item} is not an object")));
        }
        let object = Object::from_value(item).map_err(|error| wrong(error.to_string()))?;
        from_object(&object).map_err(wrong)
    };
    check_count(annotation, items.len())?;
    items.into_iter().enumerate().map(element).collect()
}

fn from_object(object: &Object) -> Result<Selection, String> {
    let text = |key: &str| object.text(key).map(|text| text.map(ToOwned::to_owned)).map_err(|error| error.to_string());
    let selection = Selection {
        name: text("name")?.unwrap_or_default(),
        namespace: text("namespace")?,
        // The second key is the name before the specification.
        interface: text("interface")?.or(text("interfaceRequest")?),
        ips: ips(object)?,
        mac: text("mac")?,
        guid: text("infiniband-guid")?,
        device_id: text("deviceID")?,
        cni_args: object
            .object("cni-args")
            .map_err(|error| error.to_string())?
            .and_then(|args| args.as_value().as_object().cloned()),
        port_mappings: port_mappings(object)?,
        bandwidth: bandwidth(object)?,
        default_route: default_route(object)?,
        ipam_claim: text("ipam-claim-reference")?,
    };
    check_names(&selection)?;
    for (key, value, octets) in [("mac", &selection.mac, 6), ("infiniband-guid", &selection.guid, 8)] {
        if let Some(value) = value
            && !is_hardware_address(value, octets)
        {
            return Err(format!("{key} {value:?} is not an address of {octets} octets"));
        }
    }
    if selection.ipam_claim.is_some() && !selection.ips.is_empty() {
        return Err("ips and ipam-claim-reference exclude each other".to_owned());
    }
    if let Some(claim) = selection.ipam_claim.as_deref().filter(|claim| !is_subdomain(claim)) {
        return Err(format!("ipam-claim-reference {claim:?} is not a valid name of an object"));
    }
    Ok(selection)
}

fn check_names(selection: &Selection) -> Result<(), String> {
    let Selection { name, namespace, interface, .. } = selection;
    if name.is_empty() {
        return Err("it names no network".to_owned());
    }
    // The specification wants labels; the API server accepts names with dots, so networks may have them.
    if !is_subdomain(name) {
        return Err(format!("{name:?} is not a valid network name: use lower case letters, digits, \"-\" and \".\""));
    }
    if let Some(namespace) = namespace.as_deref().filter(|namespace| !is_label(namespace)) {
        return Err(format!("{namespace:?} is not a valid name of a namespace: lower case letters, digits and \"-\""));
    }
    match interface {
        Some(interface) => check_ifname(interface).map_err(|error| format!("interface {interface:?}: {error}")),
        None => Ok(()),
    }
}

fn ips(object: &Object) -> Result<Vec<String>, String> {
    let Some(ips) = object.strings("ips").map_err(|error| error.to_string())? else { return Ok(Vec::new()) };
    if ips.is_empty() {
        return Err("ips is an empty list; leave it out or name an address".to_owned());
    }
    match ips.iter().find(|ip| ip.parse::<IpAddr>().is_err() && ip.parse::<IpNet>().is_err()) {
        Some(wrong) => Err(format!("ips has {wrong:?}, which is not an address with or without a prefix length")),
        None => Ok(ips),
    }
}

fn port_mappings(object: &Object) -> Result<Vec<Value>, String> {
    let wrong = |error: crate::cni::Mistyped| error.to_string();
    let list = object.objects("portMappings").map_err(wrong)?.unwrap_or_default();
    let mapping = |item: &Object| {
        let port = |key: &str| {
            let port = item.int(key).map_err(wrong)?.unwrap_or_default();
            u16::try_from(port)
                .ok()
                .filter(|port| *port != 0)
                .ok_or_else(|| format!("portMappings: {key} {port} is not a port"))
        };
        let mut out = Map::new();
        out.insert("hostPort".to_owned(), json!(port("hostPort")?));
        out.insert("containerPort".to_owned(), json!(port("containerPort")?));
        if let Some(protocol) = item.text("protocol").map_err(wrong)? {
            if !["tcp", "udp", "sctp"].contains(&protocol.to_lowercase().as_str()) {
                return Err(format!("portMappings: protocol {protocol:?} is not one of tcp, udp, sctp"));
            }
            out.insert("protocol".to_owned(), json!(protocol));
        }
        if let Some(host) = item.text("hostIP").map_err(wrong)? {
            host.parse::<IpAddr>()
                .map_err(|_not_an_address| format!("portMappings: hostIP {host:?} is not an address"))?;
            out.insert("hostIP".to_owned(), json!(host));
        }
        Ok(Value::Object(out))
    };
    list.iter().map(mapping).collect()
}

/// Multus passes on all four numbers; a missing one is 0, which plugins interpret as "no limit".
fn bandwidth(object: &Object) -> Result<Option<Value>, String> {
    let wrong = |error: crate::cni::Mistyped| error.to_string();
    let Some(given) = object.object("bandwidth").map_err(wrong)? else { return Ok(None) };
    let mut out = Map::new();
    let mut any = false;
    for (rate, burst) in [("ingressRate", "ingressBurst"), ("egressRate", "egressBurst")] {
        let number = |key: &str| match given.int(key).map_err(wrong)? {
            None => Ok(0),
            Some(number) if number > 0 => Ok(number),
            Some(number) => Err(format!("bandwidth: {key} {number} is not a positive number")),
        };
        let (rate_bits, burst_bits) = (number(rate)?, number(burst)?);
        if rate_bits == 0 && burst_bits != 0 {
            return Err(format!("bandwidth: {burst} needs {rate}"));
        }
        any |= rate_bits != 0;
        out.insert(rate.to_owned(), json!(rate_bits));
        out.insert(burst.to_owned(), json!(burst_bits));
    }
    if any { Ok(Some(Value::Object(out))) } else { Err("bandwidth limits nothing".to_owned()) }
}

fn default_route(object: &Object) -> Result<Option<Vec<IpAddr>>, String> {
    let Some(gateways) = object.strings("default-route").map_err(|error| error.to_string())? else { return Ok(None) };
    let gateway = |text: &String| {
        text.parse::<IpAddr>()
            .map(|gateway| gateway.to_canonical())
            .map_err(|_not_an_address| format!("default-route has {text:?}, which is not an address"))
    };
    gateways.iter().map(gateway).collect::<Result<_, _>>().map(Some)
}

/// Checks rules across all elements: interface names are unique, and at most one element has the default route.
fn check_together(annotation: &'static str, all: &[Selection]) -> Result<(), SelectionError> {
    let mut names = BTreeSet::new();
    let mut default_route = None;
    for (index, selection) in all.iter().enumerate() {
        let wrong = element_error(annotation, index);
        if let Some(interface) = &selection.interface
            && !names.insert(interface)
        {
            return Err(wrong(format!("interface {interface:?} is asked for twice")));
        }
        if selection.default_route.is_some()
            && let Some(first) = default_route.replace(index + 1)
        {
            return Err(wrong(format!("element {first} has default-route already; one attachment can have it")));
        }
    }
    Ok(())
}

/// Returns whether a text is `octets` pairs of hexadecimal digits, separated by colons.
fn is_hardware_address(text: &str, octets: usize) -> bool {
    let mut count = 0;
    let good = text.split([':', '-']).all(|pair| {
        count += 1;
        pair.len() == 2 && pair.bytes().all(|byte| byte.is_ascii_hexdigit())
    });
    good && count == octets
}

/// Returns whether a text is a DNS-1123 label.
fn is_label(text: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    text.len() <= 63
        && text.bytes().all(|byte| inner(byte) || byte == b'-')
        && text.bytes().next().is_some_and(inner)
        && text.bytes().last().is_some_and(inner)
}

/// Returns whether a text is a DNS-1123 subdomain: labels separated by dots.
fn is_subdomain(text: &str) -> bool {
    text.len() <= 253 && text.split('.').all(is_label)
}
