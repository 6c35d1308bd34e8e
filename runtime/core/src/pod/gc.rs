//! GC: removes the pods that the runtime no longer lists, and forwards the list to other vendors' plugins.
//!
//! A runtime knows only the first interface of a pod. The forwarded list has every interface of its sandboxes.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::attachment::PodAttachment;
use super::call::PodCall;
use super::plugin;
use super::record::{self, PodRecord};
use super::{del, ready};
use crate::attach::Node;
use crate::cni::{CniError, code};

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
    let mut networks: BTreeMap<String, Network> = BTreeMap::new();
    for entry in record::all(node).map_err(|error| error.to_cni())? {
        let at = &entry.key.attachment;
        let record = match PodRecord::read(&entry) {
            Ok(record) => record,
            Err(error) => {
                problems.push(error.to_string());
                continue;
            }
        };
        let lives = valid.iter().any(|(id, ifname)| *id == at.container_id && *ifname == at.ifname);
        for attachment in record.attachments.iter().filter(|attachment| PodRecord::has_external(attachment)) {
            let network = networks.entry(attachment.network.clone()).or_insert_with(|| Network::new(attachment));
            if lives {
                network.valid.push(json!({"containerID": at.container_id, "ifname": attachment.ifname}));
            }
        }
        // This runtime does not list pods of another configuration.
        if !lives && at.network == call.name {
            let sandbox = del::sandbox_of(call, &record);
            let sandbox = plugin::Sandbox { container_id: at.container_id.clone(), ..sandbox };
            let gone = del::remove_entry(node, &sandbox, &entry.key, record);
            problems.extend(gone.err().map(|error| format!("{} {}: {error}", at.container_id, at.ifname)));
        }
    }
    if let Some(default) = ready::default_attachment(call, None).ok().filter(PodRecord::has_external) {
        networks.entry(default.network.clone()).or_insert_with(|| Network::new(&default));
    }
    let sandbox = call.sandbox();
    for network in networks.values() {
        let said = plugin::gc(node, &sandbox, &network.attachment, &Value::Array(network.valid.clone()));
        problems.extend(said.iter().map(|error| format!("network {}: {error}", network.attachment.network)));
    }
    match problems.as_slice() {
        [] => Ok(()),
        many => Err(CniError::new(code::LEFTOVERS, many.join(" / "))),
    }
}

/// A network of other vendors' plugins, with its living attachments.
struct Network {
    attachment: PodAttachment,
    valid: Vec<Value>,
}

impl Network {
    fn new(attachment: &PodAttachment) -> Self {
        Self { attachment: attachment.clone(), valid: Vec::new() }
    }
}

/// Returns the runtime's list.
fn valid(call: &PodCall) -> Result<Option<Vec<(String, String)>>, CniError> {
    let wrong = |error: crate::cni::Mistyped| CniError::new(code::INVALID_CONFIG, error.to_string());
    let Some(list) = call.conf.objects(VALID).map_err(wrong)? else { return Ok(None) };
    let one = |item: &crate::cni::Object| {
        let text = |key: &str| Ok(item.str(key).map_err(wrong)?.unwrap_or_default().to_owned());
        Ok::<_, CniError>((text("containerID")?, text("ifname")?))
    };
    list.iter().map(one).collect::<Result<_, _>>().map(Some)
}
