//! GC: removes the pods that the runtime no longer lists, and forwards the list to other vendors' plugins.
//!
//! A runtime knows only the first interface of a pod. The forwarded list has every interface of its sandboxes.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};
use weft_host_abi::types::Attachment;

use super::attachment::PodAttachment;
use super::call::PodCall;
use super::del;
use super::plugin;
use super::ready::{self, DefaultNetworks};
use super::record::{self, PodRecord};
use crate::attach::{self, AttachError, Node};
use crate::cni::{CniError, code};
use crate::store::Key;

/// The key of the runtime's list.
const VALID: &str = "cni.dev/valid-attachments";

/// Removes what belongs to no valid attachment.
///
/// # Errors
/// What could not be removed; it stays in the journal, and GC can be repeated.
pub fn gc(node: &mut Node<'_>, call: &PodCall) -> Result<(), CniError> {
    // Without the key, nothing is known about living attachments; an empty list is different: nothing lives.
    let Some(valid) = valid(call)? else { return Ok(()) };
    let mut problems = Vec::new();
    let mut pods = Vec::new();
    for entry in record::pod_entries(node).map_err(|error| error.to_cni())? {
        match PodRecord::read(&entry) {
            Ok(record) => pods.push((entry.key, record)),
            Err(error) => problems.push(error.to_string()),
        }
    }
    let default = default_network(call, &pods).filter(PodRecord::has_external);
    // A record that cannot be read may be that of any container.
    let networks = networks(&pods, &valid, &call.name, default.as_ref(), problems.is_empty());
    for (key, record) in pods {
        let at = &key.attachment;
        // This runtime does not list pods of another configuration.
        if at.network == call.name && !is_listed(&valid, at) {
            let sandbox = del::sandbox_of(call, &record);
            let (container_id, ifname) = (at.container_id.clone(), at.ifname.clone());
            let sandbox = plugin::Sandbox { container_id, ifname, ..sandbox };
            let gone = del::remove_entry(node, &sandbox, &key, record);
            problems.extend(gone.err().map(|error| format!("{} {}: {error}", at.container_id, at.ifname)));
        }
    }
    problems.extend(remove_left(node, call, &valid).map_err(|error| error.to_cni())?);
    let sandbox = call.sandbox();
    for network in networks.values() {
        let said = plugin::gc(node, &sandbox, &network.attachment, &network.list());
        problems.extend(said.iter().map(|error| format!("network {}: {error}", network.attachment.network)));
    }
    match problems.as_slice() {
        [] => Ok(()),
        many => Err(CniError::new(code::LEFTOVERS, many.join(" / "))),
    }
}

/// Returns the configuration's default network. If it is a definition, the agent knows it. The agent is asked only where no
/// record says what the default network is, for example because the store was lost.
fn default_network(call: &PodCall, pods: &[(Key, PodRecord)]) -> Option<PodAttachment> {
    let is_known = pods.iter().flat_map(|(_key, record)| &record.attachments).any(|attachment| attachment.is_default);
    let info = if is_known { None } else { ready::known_definitions(call) };
    ready::default_attachments(call, info.as_ref(), DefaultNetworks::First).ok()?.into_iter().next()
}

/// Removes what killed ADDs left of pods that have no entry.
fn remove_left(node: &mut Node<'_>, call: &PodCall, valid: &Valid) -> Result<Vec<String>, AttachError> {
    let mut problems = Vec::new();
    for pod in attach::without_entry(node)?.difference(valid) {
        let (container_id, ifname) = pod;
        let left = attach::remove_left(node, (container_id, ifname), &call.path())?;
        problems.extend(left.iter().map(|problem| format!("{container_id}: {problem}")));
    }
    Ok(problems)
}

/// A network of other vendors' plugins, with its living attachments.
struct Network {
    attachment: PodAttachment,
    valid: Valid,
}

/// Container ids with interfaces.
type Valid = BTreeSet<(String, String)>;

impl Network {
    fn new(attachment: &PodAttachment) -> Self {
        Self { attachment: attachment.clone(), valid: Valid::new() }
    }

    /// Returns the list as the plugins get it.
    fn list(&self) -> Value {
        self.valid.iter().map(|(id, ifname)| json!({"containerID": id, "ifname": ifname})).collect()
    }
}

/// Returns the networks whose plugins get GC, with everything that may live.
///
/// The runtime may list containers that the journal does not know: they ran before weft was installed, or the store was
/// lost. Their default attachments live; their other attachments are unknown, so the plugins of other networks get no GC.
fn networks(
    pods: &[(Key, PodRecord)],
    valid: &Valid,
    own: &str,
    default: Option<&PodAttachment>,
    knows_all: bool,
) -> BTreeMap<String, Network> {
    let mut networks: BTreeMap<String, Network> = BTreeMap::new();
    for (key, record) in pods {
        let at = &key.attachment;
        // Pods of another configuration stay.
        let lives = at.network != own || is_listed(valid, at);
        for attachment in record.attachments.iter().filter(|attachment| PodRecord::has_external(attachment)) {
            let network = networks.entry(attachment.network.clone()).or_insert_with(|| Network::new(attachment));
            network.attachment.is_default |= attachment.is_default;
            if lives {
                network.valid.insert((at.container_id.clone(), attachment.ifname.clone()));
            }
        }
    }
    if let Some(default) = default {
        let network = networks.entry(default.network.clone()).or_insert_with(|| Network::new(default));
        network.attachment.is_default = true;
    }
    let known: BTreeSet<&str> = pods.iter().map(|(key, _record)| key.attachment.container_id.as_str()).collect();
    if !knows_all || !valid.iter().all(|(id, _ifname)| known.contains(id.as_str())) {
        networks.retain(|_name, network| network.attachment.is_default);
    }
    for network in networks.values_mut().filter(|network| network.attachment.is_default) {
        network.valid.extend(valid.iter().cloned());
    }
    networks
}

fn is_listed(valid: &Valid, at: &Attachment) -> bool {
    valid.contains(&(at.container_id.clone(), at.ifname.clone()))
}

/// Returns the runtime's list.
fn valid(call: &PodCall) -> Result<Option<Valid>, CniError> {
    let wrong = |error: crate::cni::Mistyped| CniError::new(code::INVALID_CONFIG, error.to_string());
    let Some(list) = call.conf.objects(VALID).map_err(wrong)? else { return Ok(None) };
    let one = |item: &crate::cni::Object| {
        let text = |key: &str| Ok(item.str(key).map_err(wrong)?.unwrap_or_default().to_owned());
        Ok::<_, CniError>((text("containerID")?, text("ifname")?))
    };
    list.iter().map(one).collect::<Result<_, _>>().map(Some)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;
    use crate::store::Role;

    fn attachment(network: &str, ifname: &str, is_default: bool) -> PodAttachment {
        serde_json::from_value(json!({
            "label": network, "network": network, "ifname": ifname, "version": "1.1.0", "args": "", "is_default": is_default,
            "plugins": [{"type": "calico", "conf": "{}", "external": true}],
        }))
        .unwrap()
    }

    fn pod(conf: &str, container: &str) -> (Key, PodRecord) {
        let at = Attachment { network: conf.to_owned(), container_id: container.to_owned(), ifname: "eth0".to_owned() };
        let both = vec![attachment("main", "eth0", true), attachment("storage", "net1", false)];
        (Key { attachment: at, role: Role::Pod }, PodRecord::new(both))
    }

    fn listed(containers: &[&str]) -> Valid {
        containers.iter().map(|id| ((*id).to_owned(), "eth0".to_owned())).collect()
    }

    /// The containers of each network's list.
    fn lists(pods: &[(Key, PodRecord)], valid: &[&str], knows_all: bool) -> Vec<(String, Vec<String>)> {
        let default = attachment("main", "", true);
        let networks = networks(pods, &listed(valid), "pods", Some(&default), knows_all);
        let ids = |network: Network| network.valid.into_iter().map(|(id, _ifname)| id).collect();
        networks.into_iter().map(|(name, network)| (name, ids(network))).collect()
    }

    fn list(network: &str, containers: &[&str]) -> (String, Vec<String>) {
        (network.to_owned(), containers.iter().map(|id| (*id).to_owned()).collect())
    }

    #[test]
    fn every_interface_of_a_listed_sandbox_is_valid() {
        let pods = [pod("pods", "a"), pod("pods", "b")];
        assert_eq!(lists(&pods, &["a"], true), [list("main", &["a"]), list("storage", &["a"])]);
        assert_eq!(lists(&pods, &[], true), [list("main", &[]), list("storage", &[])]);
    }

    #[test]
    fn a_container_that_the_journal_does_not_know_lives() {
        let pods = [pod("pods", "a")];
        // It ran before weft was installed. Its other networks are unknown, so nothing is said about them.
        assert_eq!(lists(&pods, &["a", "old"], true), [list("main", &["a", "old"])]);
        assert_eq!(lists(&[], &["old"], true), [list("main", &["old"])]);
        assert_eq!(lists(&pods, &["a"], false), [list("main", &["a"])]);
    }

    #[test]
    fn pods_of_another_configuration_stay() {
        let pods = [pod("pods", "a"), pod("others", "b")];
        assert_eq!(lists(&pods, &["a"], true), [list("main", &["a", "b"]), list("storage", &["a", "b"])]);
    }
}
