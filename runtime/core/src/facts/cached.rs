//! The results that the runtimes' library stores for each attachment until its DEL (libcni's `/var/lib/cni/results`).

use std::fs;
use std::net::IpAddr;
use std::path::Path;

use ipnet::IpNet;
use serde_json::Value;

/// libcni's directory.
pub const CACHE_DIR: &str = "/var/lib/cni/results";

/// An attachment of the cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cached {
    /// The network.
    pub network: String,
    /// The container.
    pub container_id: String,
    /// The interface.
    pub ifname: String,
    /// The namespace, if the result names it.
    pub netns: Option<String>,
    /// The addresses of the result.
    pub addresses: Vec<IpAddr>,
    /// The configuration with which it was added.
    pub config: Option<Value>,
}

/// Reads all of them. Skips files of other formats and attachments without a result.
#[must_use]
pub fn cached(dir: &Path) -> Vec<Cached> {
    let files = fs::read_dir(dir).into_iter().flatten().flatten();
    let documents = files.filter_map(|file| serde_json::from_slice(&fs::read(file.path()).ok()?).ok());
    documents.filter_map(|document| attachment(&document)).collect()
}

fn attachment(document: &Value) -> Option<Cached> {
    let text = |key: &str| document.get(key).and_then(Value::as_str).map(str::to_owned);
    let result = document.get("result")?;
    let ips = result.get("ips").and_then(Value::as_array).into_iter().flatten();
    let listed = ips.filter_map(|ip| ip.get("address"));
    // Results before 0.3.0.
    let old = ["/ip4/ip", "/ip6/ip"].into_iter().filter_map(|at| result.pointer(at));
    let addresses = listed.chain(old).filter_map(|text| Some(text.as_str()?.parse::<IpNet>().ok()?.addr())).collect();
    let interfaces = result.get("interfaces").and_then(Value::as_array).into_iter().flatten();
    let netns = interfaces.filter_map(|link| link.get("sandbox")?.as_str()).find(|path| !path.is_empty());
    Some(Cached {
        network: text("networkName")?,
        container_id: text("containerId")?,
        ifname: text("ifName")?,
        netns: netns.map(str::to_owned),
        addresses,
        config: document.get("config").and_then(Value::as_str).and_then(decoded),
    })
}

/// Decodes the JSON document that libcni writes as base64.
fn decoded(text: &str) -> Option<Value> {
    serde_json::from_slice(&base64(text)?).ok()
}

fn base64(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| match byte {
        b'A'..=b'Z' => Some(byte - b'A'),
        b'a'..=b'z' => Some(byte - b'a' + 26),
        b'0'..=b'9' => Some(byte - b'0' + 52),
        b'+' => Some(62),
        b'/' => Some(63),
        _ => None,
    };
    let (mut bytes, mut bits, mut count) = (Vec::with_capacity(text.len()), 0_u32, 0);
    for byte in text.trim_end_matches('=').bytes() {
        (bits, count) = ((bits << 6) | u32::from(digit(byte)?), count + 6);
        if count >= 8 {
            count -= 8;
            bytes.push(u8::try_from((bits >> count) & 0xff).ok()?);
        }
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn configurations_are_decoded() {
        for (text, want) in [("", ""), ("Zg==", "f"), ("Zm8=", "fo"), ("Zm9v", "foo"), ("Pz8/Pj4+", "???>>>")] {
            assert_eq!(base64(text).unwrap(), want.as_bytes());
        }
        assert_eq!(base64("Zm9v!"), None);
        assert_eq!(decoded("eyJhIjogMX0="), Some(serde_json::json!({"a": 1})));
    }

    #[test]
    fn results_of_all_versions_are_read_and_other_files_left_out() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(dir.path().join(name), text).unwrap();
        write(
            "net-id-eth0",
            r#"{"kind": "cniCacheV1", "containerId": "id", "ifName": "eth0", "networkName": "net", "config": "e30=",
                "result": {"ips": [{"address": "10.1.0.2/24"}, {"address": "2001:db8::2/64"}],
                           "interfaces": [{"name": "br0"}, {"name": "eth0", "sandbox": "/run/netns/x"}]}}"#,
        );
        write(
            "old-id-eth1",
            r#"{"containerId": "id", "ifName": "eth1", "networkName": "old", "result": {"ip4": {"ip": "10.2.0.2/24"}}}"#,
        );
        write("other", "{}");
        write("broken", "{");
        let mut found = cached(dir.path());
        found.sort_by(|a, b| a.network.cmp(&b.network));
        assert_eq!(found.len(), 2);
        assert_eq!(found[0].netns.as_deref(), Some("/run/netns/x"));
        assert_eq!((found[0].addresses.len(), found[0].config.clone()), (2, Some(serde_json::json!({}))));
        assert_eq!(found[1].addresses, ["10.2.0.2".parse::<IpAddr>().unwrap()]);
        assert!(cached(Path::new("/nonexistent")).is_empty());
    }
}
