//! Reading a result of any version: an IPAM plugin's, an external delegate's, or a `prevResult`.

use std::net::IpAddr;

use ipnet::IpNet;
use serde_json::Value;
use weft_host_abi::types::{Dns, Route};

use super::{CniResult, Interface, Ip};
use crate::cni::object::mistyped;
use crate::cni::{CniError, Mistyped, Object, Version, code, read_net};

impl CniResult {
    /// Parses a result. `fallback` is the version of a result that names none; `null` is an empty result.
    ///
    /// # Errors
    /// Code 1: its version does not exist. Code 6: it is not a result.
    pub fn from_json(value: &Value, fallback: Version) -> Result<Self, CniError> {
        let decode = |e: Mistyped| CniError::new(code::DECODE, format!("error decoding result: {e}"));
        let object = Object::from_value(value.clone()).map_err(decode)?;
        let version = match object.text("cniVersion").map_err(decode)? {
            None => fallback,
            Some(text) => Version::reconcile(text).map_err(|_not_supported| {
                CniError::new(code::INCOMPATIBLE_VERSION, format!("unsupported CNI result version {text:?}"))
            })?,
        };
        if version.is_single_address() { read_single(&object) } else { read_lists(&object) }.map_err(decode)
    }
}

/// Parses 0.1.0 and 0.2.0: one address per family, routes with their family's address.
fn read_single(object: &Object) -> Result<CniResult, Mistyped> {
    let mut result = CniResult { dns: dns(object)?, ..CniResult::default() };
    for key in ["ip4", "ip6"] {
        let Some(ip) = object.object(key)? else { continue };
        result.ips.push(Ip { address: need_net(&ip, "ip")?, gateway: addr(&ip, "gateway")?, interface: None });
        result.routes.extend(routes(&ip)?);
    }
    Ok(result)
}

/// Parses 0.3.0 and later.
fn read_lists(object: &Object) -> Result<CniResult, Mistyped> {
    let interfaces = object.objects("interfaces")?.unwrap_or_default();
    let ips = object.objects("ips")?.unwrap_or_default();
    Ok(CniResult {
        interfaces: interfaces.iter().map(interface).collect::<Result<_, _>>()?,
        ips: ips.iter().map(ip).collect::<Result<_, _>>()?,
        routes: routes(object)?,
        dns: dns(object)?,
    })
}

fn interface(object: &Object) -> Result<Interface, Mistyped> {
    let text = |key| Ok(object.text(key)?.map(ToOwned::to_owned));
    Ok(Interface {
        name: object.str("name")?.unwrap_or_default().to_owned(),
        mac: text("mac")?,
        mtu: object.u32("mtu")?.filter(|mtu| *mtu != 0),
        sandbox: text("sandbox")?,
        socket_path: text("socketPath")?,
        pci_id: text("pciID")?,
    })
}

fn ip(object: &Object) -> Result<Ip, Mistyped> {
    // A Go `int`: a negative one means no interface.
    let interface = object.i32("interface")?;
    Ok(Ip {
        address: need_net(object, "address")?,
        gateway: addr(object, "gateway")?,
        interface: interface.and_then(|index| usize::try_from(index).ok()),
    })
}

fn routes(object: &Object) -> Result<Vec<Route>, Mistyped> {
    let routes = object.objects("routes")?.unwrap_or_default();
    routes.iter().map(route).collect()
}

fn route(object: &Object) -> Result<Route, Mistyped> {
    let nonzero = |key| Ok(object.u32(key)?.filter(|number| *number != 0));
    Ok(Route {
        dst: need_net(object, "dst")?,
        gw: addr(object, "gw")?,
        mtu: nonzero("mtu")?,
        advmss: nonzero("advmss")?,
        priority: nonzero("priority")?,
        table: object.u32("table")?,
        scope: object.u32("scope")?,
    })
}

fn dns(object: &Object) -> Result<Dns, Mistyped> {
    Ok(read_dns(object)?.unwrap_or_default())
}

/// Reads `dns` of a result or configuration; `None` if it is not set. It counts as set if it has a list, even an empty
/// one, or a non-empty domain.
///
/// # Errors
/// It, or a key of it, has the wrong type.
pub fn read_dns(object: &Object) -> Result<Option<Dns>, Mistyped> {
    let Some(dns) = object.object("dns")? else { return Ok(None) };
    let lists = [dns.strings("nameservers")?, dns.strings("search")?, dns.strings("options")?];
    let domain = dns.text("domain")?.map(ToOwned::to_owned);
    if domain.is_none() && lists.iter().all(Option::is_none) {
        return Ok(None);
    }
    let [nameservers, search, options] = lists.map(Option::unwrap_or_default);
    Ok(Some(Dns { nameservers, domain, search, options }))
}

/// Reads an address; an empty text means none, as for Go's `net.IP`.
fn addr(object: &Object, key: &str) -> Result<Option<IpAddr>, Mistyped> {
    let Some(text) = object.text(key)? else { return Ok(None) };
    let addr: Option<IpAddr> = text.parse().ok();
    addr.map(|addr| Some(addr.to_canonical())).ok_or_else(|| wrong(object, key, text, "IP address"))
}

fn need_net(object: &Object, key: &str) -> Result<IpNet, Mistyped> {
    let text = object.str(key)?.unwrap_or_default();
    read_net(text).ok_or_else(|| wrong(object, key, text, "CIDR address"))
}

fn wrong(object: &Object, key: &str, text: &str, want: &'static str) -> Mistyped {
    mistyped(&object.path_text(key), &Value::String(text.to_owned()), want)
}
