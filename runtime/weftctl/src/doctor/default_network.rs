//! The pods' default network in the installed configuration: a file of the node, or a NetworkAttachmentDefinition.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::Value;

use super::Finding;

const WHAT: &str = "default network";
/// The namespace of a default network that is not a file.
const SYSTEM: &str = "kube-system";
const REMEDY: &str = "install the pods' default network, or name another with --default-network: pods wait for it";

fn named(conf: &Path) -> Option<String> {
    let conf: Value = serde_json::from_slice(&std::fs::read(conf).ok()?).ok()?;
    Some(conf.pointer("/plugins/0/clusterNetwork")?.as_str()?.to_owned())
}

/// Checks that a file exists.
pub(super) fn file(conf: &Path) -> Option<Finding> {
    let named = named(conf).filter(|named| named.starts_with('/'))?;
    Some(match std::fs::read(&named).map(|bytes| serde_json::from_slice::<Value>(&bytes)) {
        Ok(Ok(_conf)) => Finding::ok(WHAT, named),
        Ok(Err(error)) => Finding::fail(WHAT, format!("{named}: {error}"), "correct the file"),
        Err(error) => Finding::fail(WHAT, format!("{named}: {error}"), REMEDY),
    })
}

/// Checks that a default network which is not a file is among the cluster's definitions (`NAMESPACE/NAME`).
pub(super) fn definition(conf: &Path, definitions: &BTreeSet<&str>) -> Option<Finding> {
    let named = named(conf).filter(|named| !named.starts_with('/'))?;
    let wanted = if named.contains('/') { named } else { format!("{SYSTEM}/{named}") };
    if definitions.contains(wanted.as_str()) {
        return Some(Finding::ok(WHAT, format!("NetworkAttachmentDefinition {wanted}")));
    }
    Some(Finding::fail(WHAT, format!("there is no NetworkAttachmentDefinition {wanted}"), REMEDY))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::super::State;
    use super::*;

    #[test]
    fn a_default_network_that_is_away_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let (conf, network) = (dir.path().join("00-weft.conflist"), dir.path().join("10-site.conflist"));
        let name = |name: &str| {
            let text = serde_json::json!({"plugins": [{"type": "weft-pod", "clusterNetwork": name}]});
            std::fs::write(&conf, text.to_string()).unwrap();
        };
        let none = BTreeSet::new();
        name(&network.display().to_string());
        assert!(definition(&conf, &none).is_none());
        let away = file(&conf).unwrap();
        assert!(away.state == State::Fail && away.detail.contains("10-site.conflist"), "{away:?}");
        std::fs::write(&network, "{").unwrap();
        assert_eq!(file(&conf).unwrap().state, State::Fail);
        std::fs::write(&network, "{}").unwrap();
        assert_eq!(file(&conf).unwrap().state, State::Ok);
        for (named, full) in [("main", "kube-system/main"), ("infra/main", "infra/main")] {
            name(named);
            assert!(file(&conf).is_none());
            assert_eq!(definition(&conf, &none).unwrap().state, State::Fail);
            assert_eq!(definition(&conf, &BTreeSet::from([full])).unwrap().state, State::Ok);
        }
    }
}
