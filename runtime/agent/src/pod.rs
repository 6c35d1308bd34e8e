//! Service `pod`: one round trip with everything that an ADD needs to know about a
//! pod.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use futures_util::{StreamExt as _, stream};
use weft_core::agent::pod::{Definition, Pod, PodInfo, PodQuery, PodReply, PodRequest};
use weft_core::agent::{Fault, Refusal};
use weft_core::pod::references;

use crate::cluster::Cluster;
use crate::devices::Devices;
use crate::server::{Deadline, Handler};

/// The annotation of a NAD with the resource whose devices its attachments get.
const RESOURCE: &str = "k8s.v1.cni.cncf.io/resourceName";

/// The maximum number of definitions that are read at once for one pod.
const READS: usize = 8;

/// The service.
pub(crate) struct Pods {
    cluster: Rc<Cluster>,
    devices: Rc<Devices>,
}

impl Pods {
    pub(crate) fn new(cluster: Rc<Cluster>, devices: Rc<Devices>) -> Rc<Self> {
        Rc::new(Self { cluster, devices })
    }

    async fn pod(&self, query: PodQuery, deadline: Deadline) -> Result<PodReply, Refusal> {
        let PodQuery { namespace, name, uid, references: configured, .. } = query;
        if namespace.is_empty() || name.is_empty() {
            let text = "the request names no pod: K8S_POD_NAMESPACE or K8S_POD_NAME is empty";
            return Err(Refusal::new(Fault::Request, text));
        }
        let Some(pod) = self.cluster.pod(&namespace, &name, &uid, deadline).await? else {
            return Ok(PodReply::NotFound);
        };
        // It answers with the labels of a node, and its copy has that node's pods.
        if let Some(fault) = self.cluster.node_fault() {
            return Err(Refusal::new(Fault::Unavailable, fault));
        }
        let names = references(&pod.annotations, &namespace, &configured);
        let (networks, namespace_labels, node_labels) = futures_util::join!(
            self.networks(&names, deadline),
            self.cluster.namespace_labels(&namespace, deadline),
            self.cluster.node_labels(deadline),
        );
        let resources: BTreeSet<&str> = networks.values().filter_map(resource).collect();
        let (devices, devices_fault) = if resources.is_empty() {
            (BTreeMap::new(), None)
        } else {
            match self.devices.of_pod(&self.cluster, &namespace, &name, &[&pod.uid, &uid], deadline).await {
                Ok(mut all) => {
                    all.retain(|name, _ids| resources.contains(name.as_str()));
                    (all, None)
                }
                Err(error) => (BTreeMap::new(), Some(error.to_string())),
            }
        };
        Ok(PodReply::Pod(Box::new(PodInfo {
            // A static pod keeps the uid that the runtime uses.
            uid: if !uid.is_empty() && pod.has_uid(&uid) { uid } else { pod.uid.clone() },
            labels: pod.labels.clone(),
            annotations: pod.annotations.clone(),
            namespace_labels: namespace_labels?.0.clone(),
            node: self.cluster.node().to_owned(),
            node_labels: node_labels?.0.clone(),
            networks,
            devices,
            devices_fault,
        })))
    }

    /// Returns definitions by full name. An error only affects its own definition.
    async fn networks(&self, names: &BTreeSet<String>, deadline: Deadline) -> BTreeMap<String, Definition> {
        let read_definition = |full: &String| {
            let full = full.clone();
            async move {
                let (namespace, name) = full.split_once('/').unwrap_or(("", &full));
                let definition = match self.cluster.nad(namespace, name, deadline).await {
                    Ok(Some(nad)) => {
                        Definition::Found { config: nad.config.clone(), annotations: nad.annotations.clone() }
                    }
                    Ok(None) => Definition::NotFound,
                    Err(error) => Definition::Failed { message: error.chain() },
                };
                (full, definition)
            }
        };
        stream::iter(names).map(read_definition).buffer_unordered(READS).collect().await
    }

    /// Returns definitions from the copy.
    fn known(&self, names: Vec<String>) -> BTreeMap<String, Definition> {
        let known_definition = |full: String| {
            let (namespace, name) = full.split_once('/').unwrap_or(("", &full));
            let definition = match self.cluster.known_nad(namespace, name) {
                Some(nad) => Definition::Found { config: nad.config.clone(), annotations: nad.annotations.clone() },
                None if self.cluster.is_synced() => Definition::NotFound,
                None => Definition::Failed { message: "the agent has not read the definitions yet".to_owned() },
            };
            (full, definition)
        };
        names.into_iter().map(known_definition).collect()
    }
}

fn resource(definition: &Definition) -> Option<&str> {
    match definition {
        Definition::Found { annotations, .. } => {
            annotations.get(RESOURCE).map(String::as_str).filter(|name| !name.is_empty())
        }
        _ => None,
    }
}

impl Handler for Pods {
    type Service = Pod;

    async fn handle(&self, request: PodRequest, deadline: Deadline) -> Result<PodReply, Refusal> {
        match request {
            PodRequest::Pod(query) => self.pod(query, deadline).await,
            PodRequest::Networks { names } => Ok(PodReply::Networks(self.known(names))),
            PodRequest::Definitions if !self.cluster.is_synced() => {
                Err(Refusal::new(Fault::Unavailable, "the agent has not read the definitions yet"))
            }
            PodRequest::Definitions => {
                let names =
                    self.cluster.nads().into_iter().map(|((namespace, name), _nad)| format!("{namespace}/{name}"));
                Ok(PodReply::Networks(self.known(names.collect())))
            }
        }
    }
}
