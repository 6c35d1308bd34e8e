//! Whether this node has attachments. If it has some, it had a ledger that knew them, so no new ledger is made.
//!
//! The kernel shows most (`netlink`). It does not show a device of the host that was moved, nor an address that weft
//! gave out for another plugin's link. libcni's cache has those: an attachment in it counts if weft must have given out
//! one of its addresses, and a container has that address now.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::Path;

use serde_json::Value;

use crate::conf::DEFAULT_DATA_DIR;
use crate::facts::{CACHE_DIR, Cached, cached};
use crate::netlink;

/// Kinds of IPAM that only weft has.
const OURS: [&str; 4] = ["weft-ipam", "wasm", "by-label", "cluster-wide"];

/// The stock plugin whose name weft takes over, with a file for each address that it has given out.
const HOST_LOCAL: &str = "host-local";

/// Checks for attachments before a new ledger is made.
///
/// # Errors
/// The attachment that was found, or why nobody can tell.
pub fn no_attachments() -> Result<(), String> {
    let unknown = |error: netlink::NetlinkError| {
        format!("there is no ledger, and nobody can tell whether the node has attachments: {error}")
    };
    let found = match netlink::trace_of_attachment().map_err(unknown)? {
        None => in_cache(Path::new(CACHE_DIR), &|| netlink::addresses_in_use()).map_err(unknown)?,
        found => found,
    };
    found.map_or(Ok(()), |what| Err(format!("there is no ledger, and {what}")))
}

/// Looks for an attachment in libcni's cache. `in_use` is only called if there may be one.
fn in_cache(
    dir: &Path,
    in_use: &dyn Fn() -> Result<BTreeSet<IpAddr>, netlink::NetlinkError>,
) -> Result<Option<String>, netlink::NetlinkError> {
    let candidates: Vec<(Cached, Vec<IpAddr>)> = cached(dir)
        .into_iter()
        .map(|cached| {
            let ours = cached.addresses.iter().copied().filter(|address| is_ours(&cached, *address)).collect();
            (cached, ours)
        })
        .filter(|(_cached, ours): &(Cached, Vec<IpAddr>)| !ours.is_empty())
        .collect();
    if candidates.is_empty() {
        return Ok(None);
    }
    let in_use = in_use()?;
    let found = candidates.into_iter().find_map(|(cached, ours)| {
        let address = ours.into_iter().find(|address| in_use.contains(address))?;
        let Cached { network, container_id, ifname, .. } = cached;
        Some(format!("{ifname} of container {container_id} on network {network:?} uses {address}"))
    });
    Ok(found)
}

/// Returns whether weft must have given out an address of an attachment.
fn is_ours(cached: &Cached, address: IpAddr) -> bool {
    let Some(config) = &cached.config else { return false };
    let listed = config.get("plugins").and_then(Value::as_array);
    let plugins: Vec<&Value> = listed.map_or_else(|| vec![config], |list| list.iter().collect());
    plugins.into_iter().any(|plugin| gives_out(plugin, &cached.network, address))
}

fn gives_out(plugin: &Value, network: &str, address: IpAddr) -> bool {
    let text = |object: &Value, key: &str| object.get(key).and_then(Value::as_str).map(str::to_owned);
    let Some(ipam) = plugin.get("ipam").filter(|ipam| ipam.as_object().is_some_and(|ipam| !ipam.is_empty())) else {
        return false;
    };
    if text(plugin, "type").as_deref() == Some("weft") {
        return true;
    }
    match text(ipam, "type").as_deref() {
        Some(HOST_LOCAL) => {
            // Without its file, it is not the stock plugin that has given it out.
            let dir = text(ipam, "dataDir").unwrap_or_else(|| DEFAULT_DATA_DIR.to_owned());
            !Path::new(&dir).join(network).join(address.to_string()).exists()
        }
        Some(kind) => OURS.contains(&kind),
        None => false,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use serde_json::json;

    use super::*;

    fn cached_with(plugin: Value) -> Cached {
        Cached {
            network: "net".into(),
            container_id: "cid".into(),
            ifname: "eth0".into(),
            netns: None,
            addresses: vec!["10.1.0.2".parse().unwrap()],
            config: Some(json!({ "name": "net", "plugins": [plugin, { "type": "portmap" }] })),
        }
    }

    #[test]
    fn an_address_is_wefts_if_no_other_plugin_can_have_given_it_out() {
        let address = "10.1.0.2".parse().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let stock = json!({ "type": "bridge", "ipam": { "type": "host-local", "dataDir": dir.path() } });
        assert!(is_ours(&cached_with(stock.clone()), address), "the stock plugin has no file for it");
        std::fs::create_dir(dir.path().join("net")).unwrap();
        std::fs::write(dir.path().join("net/10.1.0.2"), "cid").unwrap();
        assert!(!is_ours(&cached_with(stock), address), "the stock plugin's");
        for ours in [
            json!({ "type": "weft", "ipam": { "type": "host-local" } }),
            json!({ "type": "bridge", "ipam": { "type": "weft-ipam" } }),
            json!({ "type": "host-device", "ipam": { "type": "by-label" } }),
        ] {
            assert!(is_ours(&cached_with(ours.clone()), address), "{ours}");
        }
        for other in [
            json!({ "type": "calico", "ipam": { "type": "calico-ipam" } }),
            json!({ "type": "macvlan", "ipam": { "type": "static" } }),
            json!({ "type": "macvlan", "ipam": { "type": "dhcp" } }),
            json!({ "type": "macvlan", "ipam": {} }),
            json!({ "type": "loopback" }),
        ] {
            assert!(!is_ours(&cached_with(other.clone()), address), "{other}");
        }
        let unknown = Cached { config: None, ..cached_with(json!({})) };
        assert!(!is_ours(&unknown, address));
    }

    #[test]
    fn an_attachment_of_the_cache_counts_while_its_address_is_in_use() {
        let dir = tempfile::tempdir().unwrap();
        let nobody = || Ok(BTreeSet::new());
        let asked = || panic!("nothing in the cache may be weft's");
        assert_eq!(in_cache(dir.path(), &asked).unwrap(), None);
        // {"type":"weft","ipam":{"type":"x"}}
        let config = "eyJ0eXBlIjoid2VmdCIsImlwYW0iOnsidHlwZSI6IngifX0=";
        let entry = json!({ "containerId": "cid", "ifName": "eth0", "networkName": "net", "config": config,
                            "result": { "ips": [{ "address": "10.1.0.2/24" }] } });
        std::fs::write(dir.path().join("net-cid-eth0"), entry.to_string()).unwrap();
        assert_eq!(in_cache(dir.path(), &nobody).unwrap(), None);
        let used = || Ok(BTreeSet::from(["10.1.0.2".parse().unwrap()]));
        let found = in_cache(dir.path(), &used).unwrap().unwrap();
        assert_eq!(found, "eth0 of container cid on network \"net\" uses 10.1.0.2");
    }
}
