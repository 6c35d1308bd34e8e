//! The network configurations of a node (`/etc/cni/net.d`), as far as the ledger's commands ask about them: which `dataDir` a
//! network has.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde_json::Value;
use weft_core::conf::scope_of;

/// `ipam.dataDir` per network; several where several plugins of one name have different ones.
#[derive(Debug, Default)]
pub(crate) struct Networks {
    data_dirs: BTreeMap<String, Vec<String>>,
}

impl Networks {
    /// Reads a directory of configurations. What cannot be read says nothing here; `weftctl doctor` names it.
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
        for plugin in plugins {
            if let Some(dir) = plugin.pointer("/ipam/dataDir").and_then(Value::as_str) {
                self.data_dirs.entry(network.to_owned()).or_default().push(dir.to_owned());
            }
        }
    }

    /// The scope of a network as its configuration has it; its name where none says otherwise.
    pub(crate) fn scope(&self, network: &str) -> String {
        scope_of(network, self.data_dirs.get(network).and_then(|dirs| dirs.first()).map(String::as_str))
    }

    /// The scope of a network whose files lie below a directory: as a configuration that means this directory writes it, or
    /// as the directory is named.
    pub(crate) fn scope_in(&self, network: &str, data_dir: &Path) -> String {
        let same = |dir: &&String| same_directory(Path::new(dir.as_str()), data_dir);
        let configured = self.data_dirs.get(network).and_then(|dirs| dirs.iter().find(same));
        match configured {
            Some(dir) => scope_of(network, Some(dir)),
            None => scope_of(network, data_dir.to_str()),
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
        assert_eq!(networks.scope_in("a", &data.path().join(".")), format!("a@{dir}"));
        assert_eq!(networks.scope_in("b", Path::new("/var/lib/cni/networks")), "b");
        assert_eq!(networks.scope_in("b", Path::new("/data/x")), "b@/data/x");
    }
}
