//! Writes a result in the form of a version.
//!
//! | version | shape |
//! |---|---|
//! | 0.1.0, 0.2.0 | first address of each family with its routes; `dns` always |
//! | 0.3.0 to 0.4.0 | lists in a fixed order, `ips[].version`; `dns` always |
//! | 1.0.0, 1.1.0 | lists, all keys sorted; `dns` unless empty |

use serde_json::{Map, Value, json};
use weft_host_abi::types::{Dns, Route};

use super::{CniResult, Interface, Ip};
use crate::cni::text::pretty;
use crate::cni::{CniError, Version, code};

impl CniResult {
    /// Checks that the result can be expressed in this version. ADD calls this before it changes anything.
    ///
    /// # Errors
    /// Versions before 0.3.0 have no results without an address.
    pub fn check_version(&self, version: Version) -> Result<(), CniError> {
        if version.is_single_address() && self.ips.is_empty() {
            return Err(CniError::new(code::INTERNAL, "cannot convert: no valid IP addresses"));
        }
        Ok(())
    }

    /// Returns the document to print: indented by four spaces, without a newline at the end.
    ///
    /// # Errors
    /// As `check_version`.
    pub fn to_json(&self, version: Version) -> Result<String, CniError> {
        Ok(pretty(&self.to_value(version)?))
    }

    /// Like `to_json`, but returns a value: the `prevResult` of the next plugin.
    ///
    /// # Errors
    /// As `check_version`.
    pub fn to_value(&self, version: Version) -> Result<Value, CniError> {
        self.check_version(version)?;
        Ok(if version.is_single_address() {
            self.single(version)
        } else if version < Version::V1_0_0 {
            self.lists_with_versions(version)
        } else {
            self.lists(version)
        })
    }

    fn single(&self, version: Version) -> Value {
        let mut document = Fields::new().put("cniVersion", version.to_string());
        for (key, is_v4) in [("ip4", true), ("ip6", false)] {
            let Some(ip) = self.ips.iter().find(|ip| ip.address.addr().is_ipv4() == is_v4) else { continue };
            let routes = self.routes.iter().filter(|route| route.dst.addr().is_ipv4() == is_v4);
            // Routes of these versions only have a destination and a next hop.
            let routes = routes.map(|route| route_value(&Route::new(route.dst, route.gw))).collect();
            let fields = Fields::new()
                .put("ip", ip.address.to_string())
                .put_some("gateway", ip.gateway.map(|gateway| gateway.to_string()))
                .put_list("routes", routes);
            document = document.put(key, fields.0);
        }
        Value::Object(document.put("dns", dns_value(&self.dns)).0)
    }

    fn lists_with_versions(&self, version: Version) -> Value {
        let interface = |interface: &Interface| {
            let fields = Fields::new().put("name", interface.name.as_str());
            Value::Object(fields.put_text("mac", &interface.mac).put_text("sandbox", &interface.sandbox).0)
        };
        let ip = |ip: &Ip| {
            let family = if ip.address.addr().is_ipv4() { "4" } else { "6" };
            let fields = Fields::new().put("version", family).put_some("interface", ip.interface);
            Value::Object(address_fields(fields, ip).0)
        };
        let fields = Fields::new()
            .put("cniVersion", version.to_string())
            .put_list("interfaces", self.interfaces.iter().map(interface).collect())
            .put_list("ips", self.ips.iter().map(ip).collect())
            .put_list("routes", self.routes.iter().map(route_value).collect());
        Value::Object(fields.put("dns", dns_value(&self.dns)).0)
    }

    fn lists(&self, version: Version) -> Value {
        let interface = |interface: &Interface| {
            let fields = Fields::new()
                .put("name", interface.name.as_str())
                .put_text("mac", &interface.mac)
                .put_some("mtu", interface.mtu)
                .put_text("sandbox", &interface.sandbox)
                .put_text("socketPath", &interface.socket_path);
            Value::Object(fields.put_text("pciID", &interface.pci_id).0)
        };
        let ip = |ip: &Ip| Value::Object(address_fields(Fields::new().put_some("interface", ip.interface), ip).0);
        let mut fields = Fields::new()
            .put("cniVersion", version.to_string())
            .put_list("interfaces", self.interfaces.iter().map(interface).collect())
            .put_list("ips", self.ips.iter().map(ip).collect())
            .put_list("routes", self.routes.iter().map(route_value).collect());
        if !self.dns.is_empty() {
            fields = fields.put("dns", dns_value(&self.dns));
        }
        let mut document = Value::Object(fields.0);
        document.sort_all_objects();
        document
    }
}

fn address_fields(fields: Fields, ip: &Ip) -> Fields {
    fields.put("address", ip.address.to_string()).put_some("gateway", ip.gateway.map(|gateway| gateway.to_string()))
}

fn route_value(route: &Route) -> Value {
    let nonzero = |number: Option<u32>| number.filter(|number| *number != 0);
    let fields = Fields::new()
        .put("dst", route.dst.to_string())
        .put_some("gw", route.gw.map(|gw| gw.to_string()))
        .put_some("mtu", nonzero(route.mtu))
        .put_some("advmss", nonzero(route.advmss))
        .put_some("priority", nonzero(route.priority))
        .put_some("table", route.table);
    Value::Object(fields.put_some("scope", route.scope).0)
}

fn dns_value(dns: &Dns) -> Value {
    let texts = |items: &[String]| items.iter().map(|item| json!(item)).collect();
    let fields = Fields::new()
        .put_list("nameservers", texts(&dns.nameservers))
        .put_text("domain", &dns.domain)
        .put_list("search", texts(&dns.search));
    Value::Object(fields.put_list("options", texts(&dns.options)).0)
}

/// The fields of an object in insertion order; empty ones are omitted.
struct Fields(Map<String, Value>);

impl Fields {
    fn new() -> Self {
        Self(Map::new())
    }

    fn put(mut self, key: &str, value: impl Into<Value>) -> Self {
        self.0.insert(key.to_owned(), value.into());
        self
    }

    fn put_some(self, key: &str, value: Option<impl Into<Value>>) -> Self {
        match value {
            Some(value) => self.put(key, value),
            None => self,
        }
    }

    fn put_text(self, key: &str, text: &Option<String>) -> Self {
        self.put_some(key, text.as_deref().filter(|text| !text.is_empty()))
    }

    fn put_list(self, key: &str, items: Vec<Value>) -> Self {
        if items.is_empty() { self } else { self.put(key, items) }
    }
}
