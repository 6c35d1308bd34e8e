//! The addresses that the networks of a node allocate. Two networks that allocate the same addresses on the same link,
//! each with its own ledger, cause duplicate addresses.

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::net::IpAddr;
use std::path::Path;

use ipnet::IpNet;
use serde_json::Value;
use weft_core::conf::scope_of;

/// What the scope of a domain of a cluster ledger begins with.
const CLUSTER: &str = "cluster/";

/// Suffixes of network configurations.
const SUFFIXES: [&str; 3] = ["conf", "conflist", "json"];

/// Addresses from the first to the last one.
type Span = (IpAddr, IpAddr);

/// Addresses of a network.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Pool {
    /// The file of its configuration, or the definition.
    file: String,
    plugin: String,
    network: String,
    /// The scope in which its addresses are unique.
    scope: String,
    /// The host's link that its containers share, such as `bridge cni0`.
    link: String,
    span: Span,
    /// Whether each node gives the addresses out by itself, on a link that leaves the node.
    is_per_node: bool,
}

/// The pools of a node's networks.
#[derive(Debug, Default)]
pub(crate) struct Pools(Vec<Pool>);

/// Two networks that allocate the same addresses.
#[derive(Debug)]
pub(crate) struct Clash {
    one: Pool,
    other: Pool,
}

// === impl Pools ===

impl Pools {
    /// Reads a directory of configurations, except for one file. Skips unreadable files.
    pub(crate) fn read(dir: &Path, but: Option<&Path>) -> Self {
        let mut pools = Self::default();
        let real = |path: &Path| fs::canonicalize(path).ok();
        let but = but.and_then(real);
        let mut files: Vec<_> = fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
        files.sort();
        for path in files {
            let is_conf = path.extension().is_some_and(|ext| SUFFIXES.iter().any(|known| ext == *known));
            if !is_conf || (but.is_some() && real(&path) == but) {
                continue;
            }
            let value = fs::read(&path).ok().and_then(|text| serde_json::from_slice::<Value>(&text).ok());
            if let Some(value) = value {
                pools.add_conf(&path.display().to_string(), &value);
            }
        }
        pools
    }

    /// Adds the pools of one configuration.
    pub(crate) fn add_conf(&mut self, file: &str, conf: &Value) {
        let network = text(conf, "name").unwrap_or_default();
        let plugins = conf.get("plugins").and_then(Value::as_array);
        for plugin in plugins.map_or_else(|| vec![conf], |list| list.iter().collect()) {
            let delegate = plugin.get("delegate").filter(|_| text(plugin, "type") == Some("weft")).unwrap_or(plugin);
            let (Some(link), Some(own)) = (shared_link(delegate), plugin.get("ipam")) else { continue };
            let ipam = promoted(plugin).or_else(|| promoted(own)).unwrap_or(own);
            // A cluster ledger is common to all networks of a domain.
            let cluster = [plugin, own].into_iter().filter_map(|object| object.get("ledger"));
            let mut domain = cluster
                .filter(|ledger| text(ledger, "type").is_some_and(|kind| kind != "node"))
                .map(|ledger| format!("{CLUSTER}{}", text(ledger, "domain").unwrap_or("default")));
            let scope = domain.next_back().unwrap_or_else(|| scope_of(network, text(own, "dataDir")));
            let leaves_node = matches!(text(delegate, "type"), Some("macvlan" | "ipvlan" | "vlan"));
            let is_per_node = leaves_node
                && !scope.starts_with(CLUSTER)
                && text(ipam, "type").is_none_or(|kind| kind == "host-local");
            for span in spans(ipam) {
                self.0.push(Pool {
                    is_per_node,
                    file: file.to_owned(),
                    plugin: text(plugin, "type").unwrap_or_default().to_owned(),
                    network: network.to_owned(),
                    scope: scope.clone(),
                    link: link.clone(),
                    span,
                });
            }
        }
    }

    /// Returns a text about each pool of these configurations, which all nodes have, that every node gives out by itself
    /// although the link leaves the node.
    #[cfg_attr(not(feature = "agent"), expect(dead_code, reason = "definitions are read with the agent's library"))]
    pub(crate) fn given_out_by_each_node(&self, common: &BTreeSet<String>) -> Vec<String> {
        let text = |pool: &Pool| {
            format!(
                "{}: every node gives out {} on the {} by itself, so pods of two nodes can get the same address",
                pool.file,
                span_text(pool.span),
                pool.link
            )
        };
        self.0.iter().filter(|pool| pool.is_per_node && common.contains(&pool.file)).map(text).collect()
    }

    /// Returns every pair of networks that allocate the same addresses on the same link.
    pub(crate) fn clashes(&self) -> Vec<Clash> {
        let mut clashes: Vec<Clash> = Vec::new();
        for (at, one) in self.0.iter().enumerate() {
            let clash = |other: &&Pool| {
                other.link == one.link && other.scope != one.scope && common(one.span, other.span).is_some()
            };
            for other in self.0.iter().skip(at + 1).filter(clash) {
                clashes.push(Clash { one: one.clone(), other: other.clone() });
            }
        }
        clashes
    }
}

// === impl Clash ===

impl Clash {
    /// Returns whether one of the two is in that file.
    pub(crate) fn is_about(&self, file: &str) -> bool {
        self.one.file == file || self.other.file == file
    }

    /// Returns the plugin of the second one.
    pub(crate) fn plugin(&self) -> &str {
        &self.other.plugin
    }
}

impl fmt::Display for Clash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { one, other } = self;
        let both = span_text(common(one.span, other.span).unwrap_or(one.span));
        let (here, there) = match one.network == other.network {
            true => (format!("the network {:?} in {} and", one.network, one.file), format!("in {}", other.file)),
            false => (
                format!("the networks {:?} ({})", one.network, one.file),
                format!("and {:?} ({})", other.network, other.file),
            ),
        };
        write!(
            f,
            "{here} {there} both give out {both} on the {}, and neither knows what the other gave out: an address can be given out twice; use ranges that do not overlap, or one network name (and dataDir)",
            one.link
        )
    }
}

/// Shows addresses as a subnet if they are one.
fn span_text((first, last): Span) -> String {
    let lengths = 0..=if first.is_ipv4() { 32 } else { 128 };
    let mut subnets = lengths.filter_map(|length| IpNet::new(first, length).ok());
    match subnets.find(|net| net.network() == first && net.broadcast() == last) {
        Some(net) => net.to_string(),
        None => format!("{first} to {last}"),
    }
}

/// Returns the addresses that are in both.
fn common(one: Span, other: Span) -> Option<Span> {
    let same = one.0.is_ipv4() == other.0.is_ipv4();
    let both = (one.0.max(other.0), one.1.min(other.1));
    (same && both.0 <= both.1).then_some(both)
}

fn text<'a>(object: &'a Value, key: &str) -> Option<&'a str> {
    let found = object.as_object()?.iter().find(|(name, _)| name.eq_ignore_ascii_case(key));
    found.and_then(|(_, value)| value.as_str()).filter(|text| !text.is_empty())
}

/// Returns the host's link through which all containers of a network reach each other.
fn shared_link(delegate: &Value) -> Option<String> {
    match text(delegate, "type")? {
        "bridge" => Some(format!("bridge {}", text(delegate, "bridge").unwrap_or("cni0"))),
        "macvlan" | "ipvlan" => text(delegate, "master").map(|master| format!("link {master}")),
        "vlan" => {
            let id = delegate.get("vlanId").and_then(Value::as_u64)?;
            text(delegate, "master").map(|master| format!("VLAN {id} of {master}"))
        }
        // Every pair has its own link; they share the host's routing table.
        "ptp" => Some("host (ptp)".to_owned()),
        _ => None,
    }
}

/// Returns the `ipam` of a promoted policy, if it has its own.
fn promoted(conf: &Value) -> Option<&Value> {
    let monitor = conf.get("monitor").filter(|monitor| monitor.get("promoted") == Some(&Value::Bool(true)))?;
    monitor.get("ipam")
}

/// Returns the addresses of every range in an `ipam` object, and the single ones of `static`.
fn spans(ipam: &Value) -> BTreeSet<Span> {
    let mut found = BTreeSet::new();
    found.extend(span(ipam));
    for set in ipam.get("ranges").and_then(Value::as_array).into_iter().flatten() {
        let ranges = set.get("ranges").unwrap_or(set);
        found.extend(ranges.as_array().into_iter().flatten().filter_map(span));
    }
    let single = |item: &Value| text(item, "address")?.parse::<IpNet>().ok().map(|net| (net.addr(), net.addr()));
    found.extend(ipam.get("addresses").and_then(Value::as_array).into_iter().flatten().filter_map(single));
    found
}

/// Returns the addresses of a range: its subnet, or what `rangeStart` and `rangeEnd` leave of it.
fn span(range: &Value) -> Option<Span> {
    let subnet = text(range, "subnet")?.parse::<IpNet>().ok()?;
    let end = |key| text(range, key).and_then(|text| text.parse::<IpAddr>().ok()).map(|end| end.to_canonical());
    let within = |end: IpAddr| Some(end).filter(|end| subnet.contains(end));
    let first = end("rangeStart").and_then(within).unwrap_or(subnet.network());
    Some((first, end("rangeEnd").and_then(within).unwrap_or(subnet.broadcast())))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn bridge(name: &str, bridge: &str, subnet: &str) -> Value {
        json!({"name": name, "type": "bridge", "bridge": bridge, "ipam": {"type": "host-local", "ranges": [[{"subnet": subnet}]]}})
    }

    fn clashes(confs: &[Value]) -> Vec<String> {
        let mut pools = Pools::default();
        for (at, conf) in confs.iter().enumerate() {
            pools.add_conf(&format!("{at}.conf"), conf);
        }
        pools.clashes().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn the_same_subnet_on_the_same_bridge_is_reported() {
        let weft = json!({"name": "b", "plugins": [{"type": "weft", "delegate": {"type": "bridge", "bridge": "br0"},
                          "ipam": {"type": "by-label", "ranges": [{"name": "x", "ranges": [{"subnet": "10.1.2.0/24"}]}]}}]});
        let found = clashes(&[bridge("a", "br0", "10.1.0.0/16"), weft]);
        assert_eq!(found.len(), 1);
        for part in ["\"a\" (0.conf)", "\"b\" (1.conf)", "10.1.2.0/24", "bridge br0"] {
            assert!(found[0].contains(part), "{part}: {}", found[0]);
        }
    }

    #[test]
    fn parts_of_one_subnet_clash_only_where_they_overlap() {
        let part = |name: &str, first: &str, last: &str| {
            let mut conf = bridge(name, "br0", "10.1.0.0/16");
            conf["ipam"]["ranges"][0][0]["rangeStart"] = json!(first);
            conf["ipam"]["ranges"][0][0]["rangeEnd"] = json!(last);
            conf
        };
        let one = part("a", "10.1.1.1", "10.1.1.254");
        assert!(clashes(&[one.clone(), part("b", "10.1.2.1", "10.1.2.254")]).is_empty());
        let found = clashes(&[one.clone(), part("b", "10.1.1.200", "10.1.2.254")]);
        assert!(found.len() == 1 && found[0].contains("10.1.1.200 to 10.1.1.254"), "{found:?}");
        assert_eq!(clashes(&[one.clone(), bridge("b", "br0", "10.1.0.0/16")]).len(), 1);
        let fixed = |address: &str| {
            json!({"name": "s", "type": "bridge", "bridge": "br0",
                   "ipam": {"type": "static", "addresses": [{"address": address}]}})
        };
        assert_eq!(clashes(&[one.clone(), fixed("10.1.1.7/16")]).len(), 1);
        assert!(clashes(&[one, fixed("10.1.3.7/16")]).is_empty());
    }

    #[test]
    fn a_promoted_policy_gives_out_its_own_ranges() {
        let mut beside = bridge("a", "br0", "10.1.0.0/24");
        beside["ipam"]["monitor"] = json!({"policy": "by-label", "ipam": {"ranges": [[{"subnet": "10.2.0.0/24"}]]}});
        let other = bridge("b", "br0", "10.2.0.0/24");
        assert!(clashes(&[beside.clone(), other.clone()]).is_empty(), "it gives out nothing");
        beside["ipam"]["monitor"]["promoted"] = json!(true);
        assert_eq!(clashes(&[beside.clone(), other]).len(), 1);
        assert!(clashes(&[beside, bridge("b", "br0", "10.1.0.0/24")]).is_empty());
    }

    #[test]
    fn other_links_other_subnets_and_one_set_of_books_do_not_clash() {
        assert!(clashes(&[bridge("a", "br0", "10.1.0.0/24"), bridge("b", "br1", "10.1.0.0/24")]).is_empty());
        assert!(clashes(&[bridge("a", "br0", "10.1.0.0/24"), bridge("b", "br0", "10.1.1.0/24")]).is_empty());
        assert!(clashes(&[bridge("a", "br0", "10.1.0.0/24"), bridge("a", "br0", "10.1.0.0/24")]).is_empty());
        let mut with_dir = bridge("a", "br0", "10.1.0.0/24");
        with_dir["ipam"]["dataDir"] = json!("/run/other");
        assert_eq!(clashes(&[bridge("a", "br0", "10.1.0.0/24"), with_dir]).len(), 1);
        let cluster = |name| {
            let mut conf = bridge(name, "br0", "10.1.0.0/24");
            conf["ipam"]["ledger"] = json!({"type": "kubernetes"});
            conf
        };
        assert!(clashes(&[cluster("a"), cluster("b")]).is_empty());
    }

    #[test]
    fn a_definition_for_all_nodes_needs_a_ledger_for_all_nodes() {
        let given_out = |conf: Value| {
            let mut pools = Pools::default();
            pools.add_conf("network team/lan", &conf);
            // A file may differ from node to node.
            pools.add_conf("/etc/cni/net.d/10-lan.conf", &conf);
            pools.given_out_by_each_node(&BTreeSet::from(["network team/lan".to_owned()]))
        };
        let lan =
            |kind: &str, ipam: Value| json!({"name": "lan", "type": kind, "master": "eth1", "vlanId": 7, "ipam": ipam});
        let ranges = json!([[{"subnet": "172.16.1.0/24"}]]);
        let stock = json!({"type": "host-local", "ranges": ranges});
        for kind in ["macvlan", "ipvlan", "vlan"] {
            let found = given_out(lan(kind, stock.clone()));
            assert_eq!(found.len(), 1, "{kind}");
            assert!(found[0].contains("network team/lan: every node gives out 172.16.1.0/24"), "{found:?}");
        }
        let weft =
            json!({"name": "lan", "type": "weft", "delegate": {"type": "macvlan", "master": "eth1"}, "ipam": stock});
        assert_eq!(given_out(weft.clone()).len(), 1);
        let mut shared = weft;
        shared["ledger"] = json!({"type": "kubernetes"});
        assert!(given_out(shared).is_empty());
        let inside = json!({"type": "host-local", "ranges": ranges, "ledger": {"type": "kubernetes"}});
        assert!(given_out(lan("macvlan", inside)).is_empty());
        assert!(given_out(lan("bridge", stock)).is_empty(), "a bridge of the node");
        assert!(given_out(lan("macvlan", json!({"type": "wasm", "policy": "p", "ranges": ranges}))).is_empty());
    }
}
