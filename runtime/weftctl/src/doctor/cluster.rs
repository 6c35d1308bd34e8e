//! Checks the API server: whether it is reachable, accepts the credentials, grants what the agent needs, has the
//! resources, and whether its networks can be read.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde_json::Value;
use weft_agent::Source;
use weft_agent::inspect::{Defined, Definition, InspectError, Inspected, LEDGER, NETWORKS, inspect};
use weft_agent::keep::{FileKind, Manifest};
use weft_core::cni::{Object, Version};
use weft_core::pod::{CONF_DIR, Settings, check_definition};

use super::{DoctorArgs, Finding, default_network};
use crate::policy;
use crate::pools::Pools;

/// How many faulty networks are shown.
const NETWORKS_SHOWN: usize = 20;

const APPLY_RIGHTS: &str =
    "apply deploy/kubernetes/rbac.yaml (and rbac-ledger.yaml for the cluster ledger), or upgrade the chart";

/// Checks with these credentials, for the node of this name.
pub(super) fn check(args: &DoctorArgs, state: &Path, (source, node): (&Source, Option<&str>)) -> Vec<Finding> {
    let inspected = match inspect(source, node) {
        Ok(inspected) => inspected,
        Err(error) => return vec![Finding::fail("API server", error.to_string(), remedy(&error))],
    };
    let Inspected { version, user, denied, unreadable, undefined, node: found, definitions } = inspected;
    let mut findings = vec![Finding::ok("API server", format!("{version}, as {user}"))];
    findings.extend(node.zip(found).and_then(|(name, found)| node_object(name, found)));
    let definitions = match definitions {
        Ok(definitions) => definitions,
        Err(error) => {
            findings.push(Finding::fail("networks", error, APPLY_RIGHTS));
            Vec::new()
        }
    };
    let wants_ledger = wants_ledger(args, &definitions);
    findings.push(rights(denied, wants_ledger));
    findings.extend(config_maps(unreadable));
    findings.push(resources(undefined, wants_ledger));
    findings.extend(networks(args, state, &definitions));
    findings.extend(addresses(args, &definitions));
    findings.extend(installed_network(state, &definitions));
    findings
}

fn remedy(error: &InspectError) -> &'static str {
    match error {
        InspectError::Credentials(_) => "name a kubeconfig that can be read with --kubeconfig",
        InspectError::Unknown(_) => "the token or certificate has expired or is another cluster's: make a new one",
        InspectError::Unreachable(_) => {
            "see that the API server runs, and that this node reaches the address in the kubeconfig"
        }
        InspectError::Loop(_) => "see that the node has memory and file descriptors left",
    }
}

fn node_object(name: &str, found: Result<bool, String>) -> Option<Finding> {
    match found {
        Ok(true) => None,
        Ok(false) => Some(Finding::fail(
            "node",
            format!("there is no Node {name:?}"),
            "give the agent the name of its Node object: --node-name, or NODE_NAME of the DaemonSet",
        )),
        Err(error) => Some(Finding::warn("node", error, APPLY_RIGHTS)),
    }
}

/// Returns whether a network of the cluster or of this node uses a cluster ledger in Kubernetes.
fn wants_ledger(args: &DoctorArgs, definitions: &[Definition]) -> bool {
    let files = std::fs::read_dir(&args.conf_dir).into_iter().flatten().flatten();
    let files = files.filter_map(|file| std::fs::read_to_string(file.path()).ok());
    let mut texts = definitions.iter().filter_map(|definition| definition.config.clone()).chain(files);
    texts.any(|text| serde_json::from_str(&text).is_ok_and(|conf: Value| has_ledger(&conf)))
}

fn has_ledger(conf: &Value) -> bool {
    match conf {
        Value::Object(object) => object.iter().any(|(key, value)| {
            (key == "ledger" && value.get("type").is_some_and(|kind| kind == "kubernetes")) || has_ledger(value)
        }),
        Value::Array(list) => list.iter().any(has_ledger),
        _ => false,
    }
}

/// Without a cluster ledger, its rights are not needed.
fn rights(denied: Result<Vec<String>, String>, wants_ledger: bool) -> Finding {
    let what = "rights of the agent";
    let of_ledger = |right: &String| right.ends_with(".ipam.weft.dev") || right.contains(" ipamclaims");
    match denied {
        Err(error) => Finding::warn(what, error, APPLY_RIGHTS),
        Ok(denied) => {
            let denied: Vec<String> = denied.into_iter().filter(|right| wants_ledger || !of_ledger(right)).collect();
            if denied.is_empty() {
                return Finding::ok(what, "all granted");
            }
            Finding::fail(what, format!("not granted: {}", denied.join(", ")), APPLY_RIGHTS)
        }
    }
}

/// Networks name ConfigMaps with policies; the agent may read only those that it was given.
fn config_maps(unreadable: Result<Vec<String>, String>) -> Option<Finding> {
    let remedy = "name them in the chart's policies.configMaps, or grant `get` on them (docs/registries.md)";
    match unreadable {
        Err(error) => Some(Finding::warn("ConfigMaps with policies", error, remedy)),
        Ok(names) if names.is_empty() => None,
        Ok(names) => {
            let detail = format!("the agent may not read {}", names.join(", "));
            Some(Finding::fail("ConfigMaps with policies", detail, remedy))
        }
    }
}

fn resources(undefined: Vec<(Defined, Vec<String>)>, wants_ledger: bool) -> Finding {
    let what = "resources";
    let needed = |defined: &Defined| *defined == NETWORKS || (wants_ledger && LEDGER.contains(defined));
    let missing: Vec<String> = undefined
        .iter()
        .filter(|(defined, _versions)| needed(defined))
        .map(|((group, version, plural), versions)| match versions.as_slice() {
            [] => format!("{plural}.{group} is not there"),
            others => format!("{plural}.{group} has no version {version} (the group has {})", others.join(", ")),
        })
        .collect();
    if missing.is_empty() {
        let ledger = if wants_ledger { ", and those of the cluster ledger" } else { "" };
        return Finding::ok(what, format!("{}.{} {}{ledger}", NETWORKS.2, NETWORKS.0, NETWORKS.1));
    }
    let remedy = "`kubectl apply --server-side -f deploy/crds/`, or the chart's values crds and clusterLedger";
    Finding::fail(what, missing.join("; "), remedy)
}

/// Returns one finding for all valid networks, and one for each invalid one.
fn networks(args: &DoctorArgs, state: &Path, definitions: &[Definition]) -> Vec<Finding> {
    let files = NodeFiles::read(state);
    let faults: Vec<(&str, String)> = definitions
        .iter()
        .filter_map(|definition| Some((definition.name.as_str(), fault((args, state), definition, &files)?)))
        .collect();
    let good = definitions.len() - faults.len();
    let mut findings = vec![Finding::ok("networks", format!("{good} of {} can be used", definitions.len()))];
    findings.extend(faults.iter().take(NETWORKS_SHOWN).map(|(name, fault)| {
        let remedy = format!("`kubectl edit net-attach-def -n {}`", name.replacen('/', " ", 1));
        Finding::fail(format!("network {name}"), fault, remedy)
    }));
    if faults.len() > NETWORKS_SHOWN {
        let detail = format!("{} more cannot be used", faults.len() - NETWORKS_SHOWN);
        findings.push(Finding::fail("networks", detail, "correct those above, then look again"));
    }
    findings
}

/// Reports networks whose addresses can be given out twice: by two networks on one link, or by two nodes.
fn addresses(args: &DoctorArgs, definitions: &[Definition]) -> Vec<Finding> {
    let mut pools = Pools::read(&args.conf_dir, None);
    let mut names = BTreeSet::new();
    for definition in definitions {
        let conf = definition.config.as_deref().and_then(|config| serde_json::from_str::<Value>(config).ok());
        let Some(mut conf) = conf.filter(Value::is_object) else { continue };
        let name = format!("network {}", definition.name);
        if conf.get("name").and_then(Value::as_str).is_none_or(str::is_empty) {
            conf["name"] = definition.name.rsplit('/').next().unwrap_or_default().into();
        }
        pools.add_conf(&name, &conf);
        names.insert(name);
    }
    // `files` reports those of two files.
    let clashes = pools.clashes().into_iter().filter(|clash| names.iter().any(|name| clash.is_about(name)));
    let other_ranges = "give one of them other ranges, or both one name and one configuration";
    let one_ledger = "add \"ledger\": {\"type\": \"kubernetes\"} to the network (docs/cluster-ledger.md), or leave its \
                      spec.config empty and give each node a file with ranges of its own";
    let clashes = clashes.map(|clash| Finding::warn("networks", clash.to_string(), other_ranges));
    let per_node = pools.given_out_by_each_node(&names);
    clashes.chain(per_node.into_iter().map(|text| Finding::warn("networks", text, one_ledger))).collect()
}

/// Returns why a network cannot be used on this node.
fn fault((args, state): (&DoctorArgs, &Path), definition: &Definition, files: &NodeFiles) -> Option<String> {
    let Some(config) = definition.config.as_deref().filter(|config| !config.trim().is_empty()) else {
        let name = definition.name.rsplit('/').next().unwrap_or_default();
        // The agent's container does not see the directory, so nothing is known.
        let (dir, names) = files.networks.as_ref()?;
        let missing = || format!("it has no spec.config, and no file of {} has the name {name:?}", dir.display());
        return (!names.contains(name)).then(missing);
    };
    let conf: Value = match serde_json::from_str(config) {
        Ok(conf) => conf,
        Err(error) => return Some(format!("spec.config is not JSON: {error}")),
    };
    let plugins = conf.get("plugins").and_then(Value::as_array);
    if plugins.is_none() && conf.get("type").and_then(Value::as_str).is_none_or(str::is_empty) {
        return Some("spec.config has neither \"type\" nor \"plugins\"".to_owned());
    }
    if plugins.is_some_and(Vec::is_empty) {
        return Some("spec.config has an empty list of plugins".to_owned());
    }
    if let Some(Err(error)) =
        files.settings.as_ref().map(|settings| check_definition(settings, &definition.name, config))
    {
        return Some(error.to_string());
    }
    match policy::check_text(config.as_bytes(), state, &args.bin_dir(state)) {
        Ok(checked) => checked.problems.first().map(ToString::to_string),
        Err(error) => Some(format!("{error:#}")),
    }
}

/// What the node's files say about networks.
struct NodeFiles {
    /// The settings of the installed configuration.
    settings: Option<Settings>,
    /// The directory of networks that are files of the node, with their names; `None` if it cannot be read.
    networks: Option<(PathBuf, BTreeSet<String>)>,
}

impl NodeFiles {
    fn read(state: &Path) -> Self {
        let settings = installed_settings(state);
        let dir = settings.as_ref().map_or_else(|| PathBuf::from(CONF_DIR), |settings| settings.conf_dir.clone());
        let networks = names_in(&dir).map(|names| (dir, names));
        Self { settings, networks }
    }
}

/// Returns the settings of `weft-pod` in the installed configuration, if they can be read.
fn installed_settings(state: &Path) -> Option<Settings> {
    let text = std::fs::read(installed_conf(state)?).ok()?;
    let conf: Value = serde_json::from_slice(&text).ok()?;
    let object = Object::from_value(conf.pointer("/plugins/0")?.clone()).ok()?;
    Settings::read(&object, Version::CURRENT).ok()
}

/// Returns the names of the networks in a directory.
fn names_in(dir: &Path) -> Option<BTreeSet<String>> {
    let files = std::fs::read_dir(dir).ok()?.flatten();
    let confs = files.filter_map(|file| serde_json::from_slice::<Value>(&std::fs::read(file.path()).ok()?).ok());
    Some(confs.filter_map(|conf| conf.get("name")?.as_str().map(str::to_owned)).collect())
}

/// Returns the configuration that `weftctl install --kubernetes` made.
fn installed_conf(state: &Path) -> Option<PathBuf> {
    let manifest = Manifest::read(state).ok()??;
    manifest.files.into_iter().find(|file| file.kind == FileKind::Conf).map(|file| file.copy)
}

/// Checks the default network of the installed configuration, if it is not a file.
fn installed_network(state: &Path, definitions: &[Definition]) -> Option<Finding> {
    let names = definitions.iter().map(|definition| definition.name.as_str()).collect();
    default_network::definition(&installed_conf(state)?, &names)
}

#[cfg(test)]
mod tests {
    use super::super::State;
    use super::*;

    #[test]
    fn keys_of_the_cluster_ledger_matter_only_with_one() {
        let denied =
            || Ok(vec!["get addressclaims.ipam.weft.dev".to_owned(), "get ipamclaims.k8s.cni.cncf.io".to_owned()]);
        assert_eq!(rights(denied(), false).state, State::Ok);
        let found = rights(denied(), true);
        assert!(found.state == State::Fail && found.detail.contains("get addressclaims"), "{found:?}");
        assert_eq!(rights(Ok(vec!["list pods".to_owned()]), false).state, State::Fail);
        assert!(config_maps(Ok(Vec::new())).is_none());
        let unreadable = config_maps(Ok(vec!["team/policies".to_owned()]));
        assert!(unreadable.is_some_and(|found| found.state == State::Fail && found.detail.contains("team/policies")));
        let undefined = || LEDGER.iter().map(|defined| (*defined, Vec::new())).collect();
        assert_eq!(resources(undefined(), false).state, State::Ok);
        assert_eq!(resources(undefined(), true).state, State::Fail);
        let old = resources(vec![(NETWORKS, vec!["v1beta1".to_owned()])], false);
        assert!(old.state == State::Fail && old.detail.contains("the group has v1beta1"), "{old:?}");
        let conf = |text: &str| serde_json::from_str::<Value>(text).is_ok_and(|conf| has_ledger(&conf));
        assert!(conf(r#"{"plugins": [{"ipam": {"ledger": {"type": "kubernetes"}}}]}"#));
        assert!(!conf(r#"{"plugins": [{"ipam": {"ledger": {"type": "etcd"}}}]}"#));
    }
}
