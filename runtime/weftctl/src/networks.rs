//! The network configurations of a node (`/etc/cni/net.d`), as far as the ledger's commands need them: the `dataDir` of
//! each network.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde_json::Value;
use weft_core::conf::scope_of;

/// `ipam.dataDir` per network; several if plugins with the same network name differ.
#[derive(Debug, Default)]
pub(crate) struct Networks {
    data_dirs: BTreeMap<String, Vec<String>>,
}

impl Networks {
    /// Reads a directory of configurations. Skips unreadable files, which `weftctl doctor` reports.
    pub(crate) fn read(dir: &Path) -> Self {
        let mut networks = Self::default();
        let mut files: Vec<_> = fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
        files.sort();
        for path in files {
            if !path.extension().is_some_and(|ext| ["conf", "conflist", "json"].iter().any(|known| ext == *known)) {
                continue;
            }
            let Ok(text) = fs::read(&path) else { continue };
            if let Ok(conf) = serde_json::from_slice::<Value>(&text) {
                networks.note(&conf);
            }
        }
        networks
    }

    fn note(&mut self, conf: &Value) {
        let Some(network) = conf.get("name").and_then(Value::as_str) else { return };
        let plugins =
            conf.get("plugins").and_then(Value::as_array).map_or_else(|| vec![conf], |list| list.iter().collect());
        let dirs =
            plugins.into_iter().filter_map(|plugin| plugin.pointer("/ipam/dataDir")?.as_str().map(str::to_owned));
        self.data_dirs.entry(network.to_owned()).or_default().extend(dirs);
    }

    /// Returns the scope of a network according to its configuration; by default its name.
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
}
