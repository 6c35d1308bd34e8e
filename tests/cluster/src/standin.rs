//! An agent and an API server in one: answers the services `pod`, `status` and `health` from the tests'
//! data. For tests of
//! `weft-pod` alone, fast and without a cluster; the agent itself is tested with the real one.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::api::{Api, Definition, Event, Pod};

/// Its behaviour.
#[derive(Debug, Clone, Default)]
pub struct Behaviour {
    /// Accept connections and never answer.
    pub silent: bool,
    /// How long it takes to answer.
    pub delay: Duration,
    /// The status service's answer, if overridden.
    pub status: Option<Value>,
    /// What keeps the node from being ready.
    pub faults: Vec<String>,
    /// Definitions cannot be read.
    pub no_definitions: bool,
    /// Pods cannot be read.
    pub no_pods: bool,
    /// The answer of kubelet's PodResources socket; without it, the checkpoint file counts.
    pub podresources: Option<Value>,
}

#[derive(Debug, Default)]
struct State {
    pods: BTreeMap<(String, String), (String, Pod)>,
    definitions: BTreeMap<String, Definition>,
    events: Vec<Event>,
    behaviour: Behaviour,
    made: u32,
}

/// The stand-in. It ends with the value.
pub struct StandIn {
    socket: PathBuf,
    state: Arc<Mutex<State>>,
}

impl StandIn {
    /// Listens on a socket.
    ///
    /// # Errors
    /// It fails.
    pub fn start(socket: &Path) -> Result<Self> {
        std::fs::remove_file(socket).ok();
        let listener = UnixListener::bind(socket).with_context(|| format!("listen on {}", socket.display()))?;
        let state = Arc::new(Mutex::new(State::default()));
        let shared = Arc::clone(&state);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let state = Arc::clone(&shared);
                thread::spawn(move || serve(&stream, &state));
            }
        });
        Ok(Self { socket: socket.to_owned(), state })
    }

    /// Changes its behaviour.
    pub fn behave(&self, change: impl FnOnce(&mut Behaviour)) {
        change(&mut self.lock().behaviour);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for StandIn {
    fn drop(&mut self) {
        std::fs::remove_file(&self.socket).ok();
    }
}

fn serve(stream: &UnixStream, state: &Mutex<State>) {
    let mut line = String::new();
    if BufReader::new(stream).read_line(&mut line).is_err() {
        return;
    }
    let envelope: Value = serde_json::from_str(&line).unwrap_or_default();
    if state.lock().unwrap_or_else(PoisonError::into_inner).behaviour.silent {
        thread::sleep(Duration::from_secs(30));
        return;
    }
    let delay = state.lock().unwrap_or_else(PoisonError::into_inner).behaviour.delay;
    thread::sleep(delay);
    let answer = {
        let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
        match envelope.get("service").and_then(Value::as_str) {
            Some("pod") => state.pod(&envelope["request"]),
            Some("status") => state.status(&envelope["request"]),
            Some("health") => json!({"reply": {"faults": state.behaviour.faults}}),
            other => json!({"error": {"fault": "unknown-service", "message": format!("no service {other:?}")}}),
        }
    };
    let mut answer = answer;
    answer["v"] = json!(1);
    // The caller may have gone.
    (&mut (&*stream)).write_all(format!("{answer}\n").as_bytes()).ok();
}

impl State {
    fn pod(&self, request: &Value) -> Value {
        let networks: BTreeMap<&String, Value> = self
            .definitions
            .iter()
            .map(|(name, definition)| {
                let found = if self.behaviour.no_definitions {
                    json!({"failed": {"message": "network-attachment-definitions is forbidden"}})
                } else {
                    json!({"found": {"config": definition.config, "annotations": definition.annotations}})
                };
                (name, found)
            })
            .collect();
        let Some(query) = request.get("pod") else { return json!({"reply": {"networks": networks}}) };
        if self.behaviour.no_pods {
            return json!({"error": {"fault": "denied", "message": "pods is forbidden"}});
        }
        let text = |key: &str| query.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
        let Some((uid, pod)) = self.pods.get(&(text("namespace"), text("name"))) else {
            return json!({"reply": "not-found"});
        };
        let devices = match &self.behaviour.podresources {
            Some(resources) => Ok(devices_of_socket(resources, &pod.namespace, &pod.name)),
            None => devices_of_file(uid),
        };
        json!({"reply": {"pod": {
            "uid": uid,
            "labels": pod.labels,
            "annotations": pod.annotations,
            "namespace_labels": {"kubernetes.io/metadata.name": pod.namespace},
            "node": "node-1",
            "node_labels": {},
            "networks": networks,
            "devices": devices.as_ref().ok().cloned().unwrap_or_default(),
            "devices_fault": devices.err(),
        }}})
    }

    fn status(&mut self, request: &Value) -> Value {
        let text = |key: &str| request.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
        if let Some(instead) = self.behaviour.status.clone() {
            return json!({"reply": instead});
        }
        let Some((_, pod)) =
            self.pods.get_mut(&(text("namespace"), text("name"))).filter(|(uid, _)| *uid == text("uid"))
        else {
            return json!({"reply": "gone"});
        };
        if let Some(annotation) = request.get("annotation").and_then(Value::as_str) {
            pod.annotations.insert("k8s.v1.cni.cncf.io/network-status".to_owned(), annotation.to_owned());
        }
        let events = request.get("events").and_then(Value::as_array).cloned().unwrap_or_default();
        self.events.extend(events.into_iter().filter_map(|event| serde_json::from_value(event).ok()));
        json!({"reply": "written"})
    }
}

type Devices = BTreeMap<String, Vec<String>>;

/// Returns the device ids of all containers of a pod.
fn devices_of_socket(resources: &Value, namespace: &str, name: &str) -> Devices {
    let list = |value: &Value, key: &str| value[key].as_array().cloned().unwrap_or_default();
    let mut devices = Devices::new();
    let pods = list(resources, "pod_resources");
    for pod in pods.iter().filter(|pod| pod["namespace"] == namespace && pod["name"] == name) {
        for device in list(pod, "containers").iter().flat_map(|container| list(container, "devices")) {
            let ids =
                list(&device, "device_ids").iter().filter_map(|id| id.as_str().map(str::to_owned)).collect::<Vec<_>>();
            devices.entry(device["resource_name"].as_str().unwrap_or_default().to_owned()).or_default().extend(ids);
        }
    }
    devices
}

/// Returns the device ids in kubelet's checkpoint file, or why it cannot be read.
fn devices_of_file(uid: &str) -> Result<Devices, String> {
    let text = std::fs::read("/var/lib/kubelet/device-plugins/kubelet_internal_checkpoint")
        .map_err(|error| error.to_string())?;
    let file: Value = serde_json::from_slice(&text).map_err(|error| error.to_string())?;
    let mut devices = Devices::new();
    let entries = file["Data"]["PodDeviceEntries"].as_array().cloned().unwrap_or_default();
    for entry in entries.iter().filter(|entry| entry["PodUID"] == uid) {
        // By NUMA node.
        let ids = entry["DeviceIDs"].as_object().cloned().unwrap_or_default();
        let ids = ids.values().flat_map(|ids| ids.as_array().cloned().unwrap_or_default());
        let ids = ids.filter_map(|id| id.as_str().map(str::to_owned));
        devices.entry(entry["ResourceName"].as_str().unwrap_or_default().to_owned()).or_default().extend(ids);
    }
    Ok(devices)
}

impl Api for StandIn {
    fn create_pod(&self, pod: &Pod) -> Result<String> {
        let mut state = self.lock();
        state.made += 1;
        let uid = format!("00000000-0000-4000-8000-{:012}", state.made);
        state.pods.insert((pod.namespace.clone(), pod.name.clone()), (uid.clone(), pod.clone()));
        Ok(uid)
    }

    fn delete_pod(&self, namespace: &str, name: &str) -> Result<()> {
        self.lock().pods.remove(&(namespace.to_owned(), name.to_owned()));
        Ok(())
    }

    fn annotate_pod(&self, namespace: &str, name: &str, annotations: &BTreeMap<String, String>) -> Result<()> {
        if let Some((_, pod)) = self.lock().pods.get_mut(&(namespace.to_owned(), name.to_owned())) {
            pod.annotations.extend(annotations.clone());
        }
        Ok(())
    }

    fn annotations(&self, namespace: &str, name: &str) -> Result<Option<BTreeMap<String, String>>> {
        let key = (namespace.to_owned(), name.to_owned());
        Ok(self.lock().pods.get(&key).map(|(_, pod)| pod.annotations.clone()))
    }

    fn put_definition(&self, definition: &Definition) -> Result<()> {
        let name = format!("{}/{}", definition.namespace, definition.name);
        self.lock().definitions.insert(name, definition.clone());
        Ok(())
    }

    fn delete_definition(&self, namespace: &str, name: &str) -> Result<()> {
        self.lock().definitions.remove(&format!("{namespace}/{name}"));
        Ok(())
    }

    fn take_events(&self) -> Result<Vec<Event>> {
        Ok(std::mem::take(&mut self.lock().events))
    }

    fn restrict(&self, may: Option<&[String]>) -> Result<()> {
        let lacks = |right: &str| may.is_some_and(|may| !may.iter().any(|one| one == right));
        self.behave(|behaviour| {
            behaviour.no_pods = lacks("get pods");
            behaviour.no_definitions = lacks("get network-attachment-definitions");
            let refused = json!({"refused": {"message": "cannot update resource \"pods/status\""}});
            behaviour.status = lacks("update pods/status").then_some(refused);
            behaviour.podresources = None;
        });
        Ok(())
    }

    fn give_devices(&self, podresources: &Value) -> Result<()> {
        self.behave(|behaviour| behaviour.podresources = Some(podresources.clone()));
        Ok(())
    }

    fn settle(&self) -> Result<()> {
        Ok(())
    }

    fn socket(&self) -> String {
        self.socket.display().to_string()
    }
}
