//! The networks of a node, as far as the ledger's commands need them: in which scope each one's addresses are unique, and
//! its ranges. They are described by files (`/etc/cni/net.d`), and by NetworkAttachmentDefinitions, which the agent knows.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;
use weft_core::agent::claim::{ClaimReply, ClaimRequest, ClusterClaims};
use weft_core::agent::pod::{Definition, Pod, PodReply, PodRequest};
use weft_core::agent::{self, AgentError};
use weft_core::conf::{IpamConf, scope_of};
use weft_core::ledger::remote;
use weft_host_abi::types::Range;

use crate::policy;

/// How long the agent may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// The only ledger with pools.
const KUBERNETES: &str = r#"{"type":"kubernetes"}"#;

/// Where addresses are unique.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Unique {
    /// On the node, in this scope.
    Node(String),
    /// In a domain of a cluster ledger.
    Domain(String),
    /// In the domain of an AddressPool.
    Pool(String),
}

/// The networks of a node.
#[derive(Debug, Default)]
pub(crate) struct Networks {
    /// Several if plugins with the same network name differ.
    unique: BTreeMap<String, BTreeSet<Unique>>,
    /// `ipam.dataDir` per network, in the order of the files.
    data_dirs: BTreeMap<String, Vec<String>>,
    /// Domains of the AddressPools that were asked for.
    pools: BTreeMap<String, String>,
}

impl Networks {
    /// Reads a directory of configurations. Skips unreadable files, which `weftctl doctor` reports.
    pub(crate) fn read(dir: &Path) -> Self {
        let mut networks = Self::default();
        confs(dir).iter().for_each(|conf| networks.add_conf(conf, None));
        networks
    }

    /// Adds the definitions that the agent knows, and the domains of AddressPools.
    ///
    /// # Errors
    /// The agent does not answer, or knows no cluster.
    pub(crate) fn ask(&mut self, socket: &Path) -> Result<(), AgentError> {
        let reply = agent::ask::<Pod>(socket, &PodRequest::Definitions, Some(PATIENCE));
        if let Ok(PodReply::Networks(definitions)) = &reply {
            for (full, definition) in definitions {
                let Definition::Found { config: Some(config), .. } = definition else { continue };
                let name = full.split_once('/').map_or(full.as_str(), |(_namespace, name)| name);
                if let Ok(conf) = serde_json::from_str::<Value>(config) {
                    self.add_conf(&conf, Some(name));
                }
            }
        }
        let all: BTreeSet<Unique> = self.unique.values().flatten().cloned().collect();
        for unique in all {
            let Unique::Pool(name) = unique else { continue };
            let ask = ClaimRequest::Pool { ledger: KUBERNETES.to_owned(), name: name.clone() };
            if let Ok(ClaimReply::Pool { domain, .. }) = agent::ask::<ClusterClaims>(socket, &ask, Some(PATIENCE)) {
                self.pools.insert(name, domain);
            }
        }
        reply.map(drop)
    }

    /// Adds a configuration. `name` is the network's if the configuration has none.
    fn add_conf(&mut self, conf: &Value, name: Option<&str>) {
        let Some(network) = conf.get("name").and_then(Value::as_str).or(name) else { return };
        let plugins = policy::plugins(conf);
        let dirs = plugins.iter().filter_map(|plugin| plugin.pointer("/ipam/dataDir")?.as_str().map(str::to_owned));
        self.data_dirs.entry(network.to_owned()).or_default().extend(dirs);
        self.unique.entry(network.to_owned()).or_default().extend(unique(conf, network));
    }

    /// Returns the scopes of a network, if anybody knows it; `Some(None)` if the domain of its pool is unknown.
    pub(crate) fn scopes(&self, network: &str) -> Option<Option<BTreeSet<String>>> {
        self.unique.get(network).map(|unique| self.resolve(unique))
    }

    /// Returns the scopes of a network according to this configuration; `None` if the domain of its pool is unknown.
    pub(crate) fn scopes_in(&self, conf: &Value, network: &str) -> Option<BTreeSet<String>> {
        self.resolve(&unique(conf, network))
    }

    /// Returns every known scope.
    pub(crate) fn all_scopes(&self) -> BTreeSet<String> {
        let known = self.unique.values().flatten().filter_map(|unique| self.scope_of(unique));
        known.chain(self.pools.values().map(|domain| remote::scope(domain))).collect()
    }

    /// Returns whether a network draws on a cluster ledger.
    pub(crate) fn is_of_cluster(&self, network: &str) -> bool {
        let is_of_cluster = |unique: &Unique| !matches!(unique, Unique::Node(_));
        self.unique.get(network).is_some_and(|unique| unique.iter().any(is_of_cluster))
    }

    fn resolve(&self, unique: &BTreeSet<Unique>) -> Option<BTreeSet<String>> {
        unique.iter().map(|unique| self.scope_of(unique)).collect()
    }

    fn scope_of(&self, unique: &Unique) -> Option<String> {
        match unique {
            Unique::Node(scope) => Some(scope.clone()),
            Unique::Domain(domain) => Some(remote::scope(domain)),
            Unique::Pool(pool) => self.pools.get(pool).map(|domain| remote::scope(domain)),
        }
    }

    /// Returns the scope of a network on the node's ledger according to its configuration; by default its name.
    pub(crate) fn scope(&self, network: &str) -> String {
        scope_of(network, self.data_dirs.get(network).and_then(|dirs| dirs.first()).map(String::as_str))
    }

    /// Returns the scope of a network whose files lie below a directory, according to the network's configuration: a
    /// directory that it does not name is a copy. Without a configuration, the directory counts as the `dataDir`. If
    /// only the network's own directory is given (no `data_dir`), it counts as a copy.
    pub(crate) fn scope_in(&self, network: &str, data_dir: Option<&Path>) -> String {
        let Some(dirs) = self.data_dirs.get(network) else {
            return data_dir.map_or_else(|| network.to_owned(), |dir| scope_of(network, dir.to_str()));
        };
        let same = |dir: &&String| data_dir.is_some_and(|data_dir| same_directory(Path::new(dir.as_str()), data_dir));
        match dirs.iter().find(same) {
            Some(dir) => scope_of(network, Some(dir)),
            None => self.scope(network),
        }
    }
}

/// Returns where the addresses of a configuration are unique: for each plugin that gets addresses; by default the
/// network's name.
fn unique(conf: &Value, network: &str) -> BTreeSet<Unique> {
    let text = |object: &Value, key: &str| object.get(key).and_then(Value::as_str).map(str::to_owned);
    let of_plugin = |plugin: &Value| {
        let ipam = plugin.get("ipam");
        let ledger = plugin.get("ledger").or_else(|| ipam?.get("ledger"));
        let ledger = ledger.filter(|ledger| text(ledger, "type").is_some_and(|kind| kind != "node"));
        match (ledger, ipam) {
            (None, None) => None,
            (None, Some(ipam)) => Some(Unique::Node(scope_of(network, text(ipam, "dataDir").as_deref()))),
            (Some(ledger), _) => Some(match text(ledger, "pool") {
                Some(pool) => Unique::Pool(pool),
                None => Unique::Domain(text(ledger, "domain").unwrap_or_else(|| "default".to_owned())),
            }),
        }
    };
    let found: BTreeSet<Unique> = policy::plugins(conf).iter().filter_map(of_plugin).collect();
    if found.is_empty() { [Unique::Node(network.to_owned())].into() } else { found }
}

/// The configurations of a directory that can be read, in the order of their files' names.
fn confs(dir: &Path) -> Vec<Value> {
    let mut files: Vec<_> = fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    files.retain(|path| {
        path.extension().is_some_and(|ext| ["conf", "conflist", "json"].iter().any(|known| ext == *known))
    });
    files.sort();
    files.iter().filter_map(|path| serde_json::from_slice(&fs::read(path).ok()?).ok()).collect()
}

/// The ranges that a directory's configurations declare, each with its address domain.
pub(crate) fn ranges(dir: &Path) -> Vec<(String, Range)> {
    let plugins = confs(dir).iter().flat_map(policy::plugins).collect::<Vec<_>>();
    let read = |plugin: Value| policy::parsed(plugin, "").ok()?.ipam;
    let of_ipam = |ipam: IpamConf| {
        let ranges = ipam.range_sets.into_iter().flat_map(|set| set.ranges);
        ranges.map(|range| (ipam.scope.clone(), range)).collect::<Vec<_>>()
    };
    plugins.into_iter().filter_map(read).flat_map(of_ipam).collect()
}

fn same_directory(a: &Path, b: &Path) -> bool {
    let real = |path: &Path| fs::canonicalize(path).unwrap_or_else(|_missing| path.to_owned());
    real(a) == real(b)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scope_is_that_of_the_configuration() {
        let (confs, data) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let write = |name: &str, text: String| fs::write(confs.path().join(name), text).unwrap();
        let dir = data.path().display();
        write("10-a.conf", format!(r#"{{"name": "a", "type": "bridge", "ipam": {{"dataDir": "{dir}/"}}}}"#));
        write(
            "20-b.conflist",
            r#"{"name": "b", "plugins": [{"type": "bridge", "ipam": {}}, {"type": "portmap"}]}"#.into(),
        );
        write("30-c.conf", "not JSON".into());
        let networks = Networks::read(confs.path());
        assert_eq!(networks.scope("a"), format!("a@{dir}"));
        assert_eq!(networks.scope("b"), "b");
        assert_eq!(networks.scope("unknown"), "unknown");
        assert_eq!(networks.scope_in("a", Some(&data.path().join("."))), format!("a@{dir}"));
        assert_eq!(networks.scope_in("a", Some(Path::new("/copy"))), format!("a@{dir}"));
        assert_eq!(networks.scope_in("b", Some(Path::new("/copy"))), "b");
        assert_eq!(networks.scope_in("unknown", Some(Path::new("/var/lib/cni/networks"))), "unknown");
        assert_eq!(networks.scope_in("unknown", Some(Path::new("/data/x"))), "unknown@/data/x");
        assert_eq!(networks.scope_in("unknown", None), "unknown");
    }

    #[test]
    fn a_network_of_a_cluster_has_the_scope_of_its_domain() {
        let conf = |ledger: &str| {
            let text =
                format!(r#"{{"name": "n", "type": "weft", "ledger": {ledger}, "ipam": {{"dataDir": "/data"}}}}"#);
            serde_json::from_str::<Value>(&text).unwrap()
        };
        let scopes = |networks: &Networks, ledger: &str| {
            Some(networks.scopes_in(&conf(ledger), "n")?.into_iter().collect::<Vec<_>>().join(" "))
        };
        let mut networks = Networks::default();
        assert_eq!(networks.scopes("n"), None);
        assert_eq!(scopes(&networks, r#"{"type": "etcd", "domain": "blue"}"#).unwrap(), "cluster/blue");
        assert_eq!(scopes(&networks, r#"{"type": "kubernetes"}"#).unwrap(), "cluster/default");
        assert_eq!(scopes(&networks, r#"{"type": "node"}"#).unwrap(), "n@/data");
        let pool = r#"{"type": "kubernetes", "pool": "red"}"#;
        assert_eq!(scopes(&networks, pool), None, "only the agent knows its domain");
        networks.pools.insert("red".into(), "reds".into());
        assert_eq!(scopes(&networks, pool).unwrap(), "cluster/reds");
        // Two configurations of one name, the second without one.
        networks.add_conf(&serde_json::json!({"name": "n", "type": "bridge", "ipam": {}}), None);
        assert!(!networks.is_of_cluster("n"));
        networks.add_conf(&serde_json::json!({"plugins": [{"type": "weft", "ledger": {"type": "etcd"}}]}), Some("n"));
        let all = BTreeSet::from(["cluster/default".to_owned(), "n".to_owned()]);
        assert!(networks.is_of_cluster("n") && networks.scopes("n").unwrap().unwrap() == all);
    }
}
