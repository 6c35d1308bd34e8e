//! ADD of a pod: asks the agent, makes the list, journals it, attaches one network after the other, and reports.
//!
//! Nothing before the journal entry has a side effect. After it, any failure takes back the earlier attachments, last
//! first (R30), and only what cannot be taken back stays in the journal.

use std::path::Path;
use std::time::Duration;

use super::attachment::{PodAttachment, Progress};
use super::attachments::{Input, attachments};
use super::call::PodCall;
use super::del::{self, Scope};
use super::device_info;
use super::earlier;
use super::plugin::{self, Sandbox};
use super::record::{self, PodRecord, Unchanged};
use super::status::{Attached, added_event, failure_events, notice_event, status_text};
use crate::agent::pod::{PodInfo, PodQuery, PodReply, PodRequest};
use crate::agent::status::{Event, StatusReply, StatusRequest};
use crate::agent::{self, AgentError};
use crate::attach::{AttachError, Node};
use crate::cni::{CniError, CniResult, code};
use crate::conf::Persona;
use crate::facts::PodFacts;
use crate::netlink::{Executor, NetlinkError, netns_cookie, netns_identity};
use crate::plan::{LinkRef, Need};
use crate::store::Key;

/// How long the agent may take to answer about a pod.
const POD_LIMIT: Duration = Duration::from_secs(20);

/// How long a failed ADD waits to hand over its event.
const EVENT_LIMIT: Duration = Duration::from_millis(300);

/// The annotation with a static pod's source: any value but `api` is a file or URL of the node.
const CONFIG_SOURCE: &str = "kubernetes.io/config.source";

/// Attaches a pod to all its networks. Returns the default network's result.
///
/// # Errors
/// The first failure; all attachments are taken back.
pub fn add(node: &mut Node<'_>, call: &PodCall) -> Result<String, CniError> {
    let settings = call.settings()?;
    for warning in &settings.warnings {
        node.log(warning);
    }
    let (namespace, name) = call.pod()?;
    if let Some(file) = settings.readiness_file.as_ref().filter(|file| !file.exists()) {
        let msg = format!("the default network is not ready: {} (readinessindicatorfile) is not there", file.display());
        return Err(CniError::new(code::TRY_AGAIN, msg));
    }
    node.logger().info("asks weftctl agent for the pod");
    let info = ask_for_pod(call, namespace, name)?;
    let pod = Pod { call, namespace, name, uid: &info.uid, facts: facts(&info) };
    let list = match list(node, call, &info) {
        Ok(list) => list,
        Err(error) => {
            pod.report(None, vec![error.event()], EVENT_LIMIT).ok();
            return Err(CniError::new(error.code(), error.to_string()));
        }
    };
    attach_all(node, &pod, list)
}

/// The pod that an ADD attaches.
struct Pod<'a> {
    call: &'a PodCall,
    namespace: &'a str,
    name: &'a str,
    uid: &'a str,
    facts: PodFacts,
}

impl Pod<'_> {
    fn report(
        &self,
        annotation: Option<String>,
        events: Vec<Event>,
        limit: Duration,
    ) -> Result<StatusReply, AgentError> {
        let request = StatusRequest {
            namespace: self.namespace.to_owned(),
            name: self.name.to_owned(),
            uid: self.uid.to_owned(),
            annotation,
            events,
        };
        let socket = self.call.settings.as_ref().map_or(Path::new(agent::SOCKET), |settings| &settings.agent_socket);
        agent::ask::<agent::status::Status>(socket, &request, Some(limit))
    }

    /// Names a failed network in Multus' form.
    fn with_attachment(&self, attachment: &PodAttachment, error: &CniError) -> CniError {
        let PodAttachment { network, label, .. } = attachment;
        let place = format!("[{}/{}/{}:{label}]", self.namespace, self.name, self.uid);
        let msg = format!("{place}: error adding container to network {network:?}: {}", error.msg);
        CniError::new(error.code, msg).with_details(error.details.clone())
    }
}

/// Asks the agent for the pod, and checks that it is the one that the runtime means.
fn ask_for_pod(call: &PodCall, namespace: &str, name: &str) -> Result<PodInfo, CniError> {
    let settings = call.settings()?;
    let uid = call.arg("K8S_POD_UID");
    let query = PodQuery {
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        uid: uid.to_owned(),
        container_id: call.env.container_id.clone(),
        references: settings.references(),
    };
    let asked = agent::ask::<agent::pod::Pod>(&settings.agent_socket, &PodRequest::Pod(query), Some(POD_LIMIT));
    let info = match asked {
        Ok(PodReply::Pod(info)) => info,
        Ok(PodReply::NotFound | PodReply::Networks(_)) => {
            let msg =
                format!("pod {namespace}/{name} does not exist in the API server, so its sandbox gets no network");
            return Err(CniError::new(code::TRY_AGAIN, msg));
        }
        Err(error) => return Err(CniError::new(error.code(), error.to_string())),
    };
    let is_static = info.annotations.get(CONFIG_SOURCE).is_some_and(|source| source != "api");
    if !uid.is_empty() && uid != info.uid && !is_static {
        let msg = format!(
            "pod {namespace}/{name} has uid {}, but the runtime's pod has uid {uid}: the pod was replaced",
            info.uid
        );
        return Err(CniError::new(code::TRY_AGAIN, msg));
    }
    Ok(*info)
}

/// Returns the facts about the pod for policies.
fn facts(info: &PodInfo) -> PodFacts {
    PodFacts {
        uid: info.uid.clone(),
        labels: info.labels.clone(),
        annotations: info.annotations.clone(),
        namespace_labels: info.namespace_labels.clone(),
        node_labels: info.node_labels.clone(),
    }
}

fn list(node: &mut Node<'_>, call: &PodCall, info: &PodInfo) -> Result<Vec<PodAttachment>, super::error::PodError> {
    let settings = call.settings()?;
    let mut warnings = Vec::new();
    let runtime_config = call.runtime_config()?;
    let input = Input {
        settings,
        conf_name: &call.name,
        runtime_config: &runtime_config,
        container_id: &call.env.container_id,
        ifname: &call.env.ifname,
        args: &call.pairs,
        namespace: call.arg("K8S_POD_NAMESPACE"),
        facts: info,
        is_ours: &|kind| Persona::from_argv0(kind.as_ref()).is_ok(),
    };
    let list = attachments(&input, &mut warnings);
    for warning in warnings {
        node.log(&warning);
    }
    list
}

/// Attaches all networks, starting with the journal entry.
fn attach_all(node: &mut Node<'_>, pod: &Pod<'_>, list: Vec<PodAttachment>) -> Result<String, CniError> {
    let call = pod.call;
    let sandbox = Sandbox { facts: Some(pod.facts.clone()), ..call.sandbox() };
    let key = call.key();
    let mut record = PodRecord {
        namespace: pod.namespace.to_owned(),
        name: pod.name.to_owned(),
        uid: pod.uid.to_owned(),
        netns: sandbox.netns.clone(),
        container: netns_identity(Path::new(&sandbox.netns)).map_err(netlink_error)?,
        cookie: netns_cookie(Path::new(&sandbox.netns)),
        path: sandbox.path.clone(),
        plugin_timeout_seconds: sandbox.limit.as_secs(),
        ..PodRecord::new(list)
    };
    plugin::settle_versions(node, &sandbox, &mut record.attachments)?;
    record::insert(node, &key, &record)?;
    match run(node, pod, &sandbox, &key, &mut record) {
        Ok(document) => {
            earlier::remove_earlier_sandboxes(node, &key, &record);
            Ok(document)
        }
        Err(cause) => Err(take_back(node, pod, &sandbox, &key, record, cause)),
    }
}

fn run(
    node: &mut Node<'_>,
    pod: &Pod<'_>,
    sandbox: &Sandbox,
    key: &Key,
    record: &mut PodRecord,
) -> Result<String, CniError> {
    let mut results = Vec::with_capacity(record.attachments.len());
    for index in 0..record.attachments.len() {
        results.push(attach_one(node, pod, sandbox, key, record, index)?);
    }
    record::replace(node, key, &record.nonce, Some(record)).map_err(superseded)?;
    report(node, pod, record, &results)?;
    let version = pod.call.settings()?.version;
    results.first().ok_or_else(|| CniError::new(code::INTERNAL, "a pod without a default network"))?.to_json(version)
}

/// Attaches one network of the pod, unless a DEL came meanwhile. It is journalled before an external plugin is called, so
/// that DEL finds it whatever happens; our own plugins have their own journal entries.
fn attach_one(
    node: &mut Node<'_>,
    pod: &Pod<'_>,
    sandbox: &Sandbox,
    key: &Key,
    record: &mut PodRecord,
    index: usize,
) -> Result<CniResult, CniError> {
    let Some(attachment) = record.attachments.get_mut(index) else { return Ok(CniResult::default()) };
    let external = PodRecord::has_external(attachment);
    if external {
        name_is_free(sandbox, attachment).map_err(|error| pod.with_attachment(attachment, &error))?;
    }
    attachment.progress = Progress::Attempted;
    let counts = if external {
        record::replace(node, key, &record.nonce, Some(record))
    } else {
        record::still_counts(node, key, &record.nonce)
    };
    counts.map_err(superseded)?;
    let Some(attachment) = record.attachments.get_mut(index) else { return Ok(CniResult::default()) };
    if let Some(files) = &attachment.device_info {
        device_info::copy(files).map_err(|error| {
            let msg = format!("cannot copy the device info to {}: {error}", files.attachment.display());
            pod.with_attachment(attachment, &CniError::new(code::IO, msg))
        })?;
    }
    let added = plugin::add(node, sandbox, attachment);
    let (result, value) = added.map_err(|error| pod.with_attachment(attachment, &error))?;
    attachment.progress = Progress::Done;
    attachment.result = Some(value);
    Ok(result)
}

/// Checks that no interface of this name exists. Only the plugin would notice, and some plugins take the existing link
/// for their own: the DEL of the failed ADD would delete it (R13).
fn name_is_free(sandbox: &Sandbox, attachment: &PodAttachment) -> Result<(), CniError> {
    let link = LinkRef::container(attachment.ifname.as_str());
    let mut executor = Executor::open(Some(Path::new(&sandbox.netns))).map_err(netlink_error)?;
    let observed = executor.observe(&[Need::Link(link.clone())]).map_err(netlink_error)?;
    if observed.links.contains_key(&link) {
        let msg = format!("interface name {} already exists in the sandbox", attachment.ifname);
        return Err(CniError::new(code::INVALID_CONFIG, msg));
    }
    Ok(())
}

fn netlink_error(error: NetlinkError) -> CniError {
    AttachError::from(error).to_cni()
}

/// Writes status and events, before the ADD returns.
fn report(node: &mut Node<'_>, pod: &Pod<'_>, record: &PodRecord, results: &[CniResult]) -> Result<(), CniError> {
    let settings = pod.call.settings()?;
    let attached: Vec<Attached<'_>> = record
        .attachments
        .iter()
        .zip(results)
        .map(|(attachment, result)| Attached {
            label: &attachment.label,
            ifname: &attachment.ifname,
            is_default: attachment.is_default,
            result,
            device_info: attachment.device_info.as_ref().and_then(device_info::read),
        })
        .collect();
    let annotation = (!settings.is_system(pod.namespace)).then(|| status_text(&attached));
    let mut events: Vec<Event> = attached.iter().map(added_event).collect();
    events.extend(node.take_notices().into_iter().filter_map(notice_event));
    let limit = Duration::from_millis(settings.status_deadline_ms);
    match pod.report(annotation, events, limit) {
        Ok(StatusReply::Written) => Ok(()),
        Ok(StatusReply::Later { reason }) => {
            node.log(&format!("the status of pod {}/{} is written later: {reason}", pod.namespace, pod.name));
            Ok(())
        }
        Ok(StatusReply::Gone) => {
            let msg = format!("pod {}/{} with uid {} is gone", pod.namespace, pod.name, pod.uid);
            Err(CniError::new(code::TRY_AGAIN, msg))
        }
        Ok(StatusReply::Refused { message }) => {
            let msg = format!("cannot write the network status of pod {}/{}: {message}", pod.namespace, pod.name);
            Err(CniError::new(code::TRY_AGAIN, msg))
        }
        Err(error) => Err(CniError::new(error.code(), error.to_string())),
    }
}

fn superseded(unchanged: Unchanged) -> CniError {
    match unchanged {
        Unchanged::Superseded => {
            CniError::new(code::TRY_AGAIN, "a DEL of this sandbox came while its networks were being attached")
        }
        Unchanged::Failed(error) => error,
    }
}

/// Takes everything back. Removing again what a concurrent DEL has already removed does no harm.
fn take_back(
    node: &mut Node<'_>,
    pod: &Pod<'_>,
    sandbox: &Sandbox,
    key: &Key,
    record: PodRecord,
    cause: CniError,
) -> CniError {
    let nonce = record.nonce.clone();
    let (left, problems) = del::remove(node, sandbox, record, Scope::Attempted);
    let kept = left.is_attempted().then_some(&left);
    let problems = match record::replace(node, key, &nonce, kept) {
        Ok(()) | Err(Unchanged::Superseded) => problems,
        Err(Unchanged::Failed(error)) => problems.into_iter().chain([error]).collect(),
    };
    if let Err(error) = pod.report(None, failure_events(node.take_notices(), &cause), EVENT_LIMIT) {
        node.log(&format!("no event for pod {}/{}: {error}", pod.namespace, pod.name));
    }
    if problems.is_empty() {
        return cause;
    }
    let texts: Vec<String> = problems.iter().map(ToString::to_string).collect();
    let left = format!("not everything could be undone, DEL will try again: {}", texts.join("; "));
    let details = if cause.details.is_empty() { left } else { format!("{}; {left}", cause.details) };
    CniError { details, ..cause }
}
