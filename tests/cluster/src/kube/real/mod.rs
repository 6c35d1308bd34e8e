//! A real API server with a real agent, and manually created pods: the environment of `weft-pod` without a kubelet.

mod agents;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;
use weft_kit::dhcp::{Daemon, wait};
use weft_kit::programs::repository;
use weft_kit::sandbox;

use super::PATIENCE;
use super::control::{ControlPlane, Extent, MANAGEMENT};
use super::programs::Programs;
use super::rest::Rest;
use crate::api::{Api, Definition, Event, Pod};
use crate::api_server::kubeconfig_path;

/// The node of all pods.
pub const NODE: &str = "node-1";
/// Namespace and name of a pod and a definition whose changes show how up to date the agent's copies are.
const MARKER: (&str, &str) = ("weft-test", "marker");

/// The API server and agent. They end with the value.
pub struct RealApi {
    rest: Rest,
    dir: TempDir,
    state: Mutex<State>,
    plane: ControlPlane,
    _proxy: Daemon,
}

struct State {
    agent: Option<Daemon>,
    namespaces: BTreeSet<String>,
    connected: u8,
    has_ledger: bool,
    marks: u64,
    marker_uid: String,
    restricted: bool,
}

impl RealApi {
    /// Starts etcd, an API server and an agent.
    ///
    /// # Errors
    /// A program is missing, or does not start.
    pub fn start() -> Result<Self> {
        let dir = TempDir::new_in(sandbox::scratch()).context("scratch directory")?;
        let programs = Programs::link(&dir.path().join("bin"))?;
        let plane = ControlPlane::start(dir.path(), &programs, &[NODE.to_owned()], Extent::ApiServer)?;
        plane.kubectl().apply_text(&manifest("deploy/crds/network-attachment-definitions.yaml")?)?;
        plane.kubectl().apply_text(&manifest("deploy/kubernetes/rbac.yaml")?)?;
        let socket = dir.path().join("proxy.sock");
        let kubeconfig = kubeconfig_path(dir.path(), "admin").display().to_string();
        let argv = [
            programs.path("kubectl"),
            format!("--kubeconfig={kubeconfig}"),
            "proxy".to_owned(),
            format!("--unix-socket={}", socket.display()),
        ];
        let proxy = Daemon::start(&plane.netns().place(), &argv, &dir.path().join("proxy.log"))?;
        wait(PATIENCE, "kubectl proxy", || Ok(UnixStream::connect(&socket).is_ok())).with_context(|| proxy.log())?;
        let state = State {
            agent: None,
            namespaces: BTreeSet::from(["default".to_owned(), "kube-system".to_owned()]),
            connected: 0,
            has_ledger: false,
            marks: 0,
            marker_uid: String::new(),
            restricted: false,
        };
        let api = Self { rest: Rest::new(&socket), dir, state: Mutex::new(state), plane, _proxy: proxy };
        api.prepare()?;
        api.start_agent()?;
        Ok(api)
    }

    /// Creates the node, the rights of the agent's user, and the marker objects.
    fn prepare(&self) -> Result<()> {
        self.rest.create("/api/v1/nodes", &json!({"metadata": {"name": NODE}}))?;
        self.bind("weft-agent")?;
        let (namespace, name) = MARKER;
        let uid = self.create_pod(&Pod { namespace: namespace.to_owned(), name: name.to_owned(), ..Pod::default() })?;
        self.lock().marker_uid = uid;
        let path = definitions(namespace);
        let established = || Ok(self.rest.call("GET", &path, None)?.0 == 200);
        wait(PATIENCE, "the resource of definitions", established)?;
        self.put_definition(&Definition {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            ..Definition::default()
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("agent.sock")
    }

    /// Restarts the agent, so that it forgets what it copied with rights that it no longer has.
    fn start_agent(&self) -> Result<()> {
        drop(self.lock().agent.take());
        let state = self.dir.path().join("agent");
        fs::create_dir_all(&state).context("create the agent's directory")?;
        let agent = self.agent(&self.plane.netns().place(), (&state, &self.path()), NODE, &[])?;
        self.lock().agent = Some(agent);
        Ok(())
    }

    /// Gives the agents' user a role.
    fn bind(&self, role: &str) -> Result<()> {
        let binding = json!({"metadata": {"name": format!("user-{role}")},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
            "subjects": [{"kind": "User", "apiGroup": "rbac.authorization.k8s.io", "name": "agent"}]});
        self.rest.create("/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", &binding).map(drop)
    }

    /// Returns a client of the API server with all rights.
    #[must_use]
    pub fn rest(&self) -> &Rest {
        &self.rest
    }

    /// Stops or continues the API server.
    ///
    /// # Errors
    /// It is not running.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        self.plane.signal("kube-apiserver", signal)
    }

    /// Returns the end of the agent's log.
    #[must_use]
    pub fn log(&self) -> String {
        super::tail(&self.path().with_extension("log"))
    }

    /// Sends the agent a request.
    fn ask(&self, service: &str, request: &Value) -> Result<Value> {
        let mut stream = UnixStream::connect(self.path()).context("connect to the agent")?;
        let question = json!({"v": 1, "service": service, "deadline_ms": 20_000, "request": request});
        stream.write_all(format!("{question}\n").as_bytes()).context("ask the agent")?;
        for line in BufReader::new(stream).lines() {
            let line = line.context("the agent's answer")?;
            // Empty lines are heartbeats.
            if !line.is_empty() {
                return serde_json::from_str(&line).with_context(|| line.clone());
            }
        }
        anyhow::bail!("the agent hung up")
    }

    fn mark(&self) -> String {
        let mut state = self.lock();
        state.marks += 1;
        state.marks.to_string()
    }

    fn events(&self) -> Result<Vec<Value>> {
        let list = self.rest.get("/api/v1/events")?.unwrap_or_default();
        Ok(list["items"].as_array().cloned().unwrap_or_default())
    }
}

fn manifest(path: &str) -> Result<String> {
    fs::read_to_string(repository().join(path)).with_context(|| format!("read {path}"))
}

fn definitions(namespace: &str) -> String {
    format!("/apis/k8s.cni.cncf.io/v1/namespaces/{namespace}/network-attachment-definitions")
}

fn pods(namespace: &str) -> String {
    format!("/api/v1/namespaces/{namespace}/pods")
}

impl Api for RealApi {
    fn create_pod(&self, pod: &Pod) -> Result<String> {
        if self.lock().namespaces.insert(pod.namespace.clone()) {
            self.rest.create("/api/v1/namespaces", &json!({"metadata": {"name": pod.namespace}}))?;
        }
        let object = json!({"metadata": {"name": pod.name, "annotations": pod.annotations, "labels": pod.labels},
            "spec": {"nodeName": NODE, "containers": [{"name": "main", "image": "none"}]}});
        let made = self.rest.create(&pods(&pod.namespace), &object)?;
        made.pointer("/metadata/uid").and_then(Value::as_str).map(str::to_owned).context("a pod without a uid")
    }

    fn delete_pod(&self, namespace: &str, name: &str) -> Result<()> {
        self.rest.delete(&format!("{}/{name}", pods(namespace)))
    }

    fn annotate_pod(&self, namespace: &str, name: &str, annotations: &BTreeMap<String, String>) -> Result<()> {
        let patch = json!({"metadata": {"annotations": annotations}});
        self.rest.merge(&format!("{}/{name}", pods(namespace)), &patch).map(drop)
    }

    fn annotations(&self, namespace: &str, name: &str) -> Result<Option<BTreeMap<String, String>>> {
        let Some(mut pod) = self.rest.get(&format!("{}/{name}", pods(namespace)))? else { return Ok(None) };
        let annotations = pod["metadata"]["annotations"].take();
        Ok(Some(serde_json::from_value(annotations).unwrap_or_default()))
    }

    fn put_definition(&self, definition: &Definition) -> Result<()> {
        let Definition { namespace, name, config, annotations } = definition;
        if self.lock().namespaces.insert(namespace.clone()) {
            self.rest.create("/api/v1/namespaces", &json!({"metadata": {"name": namespace}}))?;
        }
        self.delete_definition(namespace, name)?;
        let mut object = json!({"apiVersion": "k8s.cni.cncf.io/v1", "kind": "NetworkAttachmentDefinition",
                                "metadata": {"name": name, "annotations": annotations}});
        if let Some(config) = config {
            object["spec"] = json!({"config": config});
        }
        self.rest.create(&definitions(namespace), &object).map(drop)
    }

    fn delete_definition(&self, namespace: &str, name: &str) -> Result<()> {
        self.rest.delete(&format!("{}/{name}", definitions(namespace)))
    }

    fn take_events(&self) -> Result<Vec<Event>> {
        // The agent sends events in order: once this one exists, all previous ones do.
        let (mark, (namespace, name)) = (self.mark(), MARKER);
        let event = json!({"type": "Normal", "reason": "Mark", "message": mark});
        let request = json!({"namespace": namespace, "name": name, "uid": self.lock().marker_uid, "annotation": null,
                             "events": [event]});
        self.ask("status", &request)?;
        let mut events = Vec::new();
        let is_mark = |event: &&Value| event["reason"] == "Mark" && event["message"] == mark.as_str();
        wait(PATIENCE, "the agent's events", || {
            events = self.events()?;
            Ok(events.iter().any(|event| is_mark(&event)))
        })?;
        let version = |event: &Value| -> u64 {
            event
                .pointer("/metadata/resourceVersion")
                .and_then(Value::as_str)
                .and_then(|text| text.parse().ok())
                .unwrap_or(0)
        };
        events.sort_by_key(version);
        // Delete taken events, so that the list stays short.
        let namespaces: BTreeSet<&str> =
            events.iter().filter_map(|event| event.pointer("/metadata/namespace").and_then(Value::as_str)).collect();
        for namespace in namespaces {
            self.rest.delete(&format!("/api/v1/namespaces/{namespace}/events"))?;
        }
        let taken = events.iter().filter(|event| event["reason"] != "Mark");
        taken.map(|event| serde_json::from_value(event.clone()).context("an event")).collect()
    }

    fn restrict(&self, may: Option<&[String]>) -> Result<()> {
        if may.is_none() && !self.lock().restricted {
            return Ok(());
        }
        self.lock().restricted = may.is_some();
        self.plane.kubectl().apply_text(&manifest("deploy/kubernetes/rbac.yaml")?)?;
        if let Some(may) = may {
            let lacks = |right: &str| !may.iter().any(|one| one == right);
            let path = "/apis/rbac.authorization.k8s.io/v1/clusterroles/weft-agent";
            let role = self.rest.get(path)?.context("no ClusterRole weft-agent")?;
            let taken = [
                ("get pods", "pods"),
                ("get network-attachment-definitions", "network-attachment-definitions"),
                ("update pods/status", "pods/status"),
            ];
            let gone: Vec<&str> =
                taken.iter().filter(|(right, _)| lacks(right)).map(|(_, resource)| *resource).collect();
            let mut rules = role["rules"].clone();
            for rule in rules.as_array_mut().into_iter().flatten() {
                if let Some(resources) = rule["resources"].as_array_mut() {
                    resources.retain(|resource| !gone.iter().any(|gone| resource == gone));
                }
            }
            if let Some(rules) = rules.as_array_mut() {
                rules.retain(|rule| rule["resources"].as_array().is_some_and(|resources| !resources.is_empty()));
            }
            self.rest.merge(path, &json!({"rules": rules}))?;
        }
        self.start_agent()
    }

    fn give_devices(&self, podresources: &Value) -> Result<()> {
        // Without a kubelet, its checkpoint file lists the devices.
        let list = |value: &Value, key: &str| value[key].as_array().cloned().unwrap_or_default();
        let mut entries = Vec::new();
        for pod in list(podresources, "pod_resources") {
            let text = |key: &str| pod[key].as_str().unwrap_or_default().to_owned();
            let object = self.rest.get(&format!("{}/{}", pods(&text("namespace")), text("name")))?;
            // The pod does not exist, so nobody asks for its devices.
            let Some(uid) = object.as_ref().and_then(|object| object.pointer("/metadata/uid")) else { continue };
            for container in list(&pod, "containers") {
                for device in list(&container, "devices") {
                    entries.push(json!({"PodUID": uid, "ContainerName": container["name"].as_str().unwrap_or("main"),
                        "ResourceName": device["resource_name"], "DeviceIDs": {"-1": device["device_ids"]}, "AllocResp": ""}));
                }
            }
        }
        let dir = "/var/lib/kubelet/device-plugins";
        fs::create_dir_all(dir).context("create kubelet's directory")?;
        let file = json!({"Data": {"PodDeviceEntries": entries, "RegisteredDevices": {}}, "Checksum": 0});
        fs::write(format!("{dir}/kubelet_internal_checkpoint"), file.to_string()).context("write the checkpoint")
    }

    fn settle(&self) -> Result<()> {
        let (mark, (namespace, name)) = (self.mark(), MARKER);
        let patch = json!({"metadata": {"annotations": {"mark": mark}}});
        // If the agent may not read one of them, it has no copy that could be outdated.
        self.rest.merge(&format!("{}/{name}", pods(namespace)), &patch)?;
        self.rest.merge(&format!("{}/{name}", definitions(namespace)), &patch)?;
        let query = json!({"pod": {"namespace": namespace, "name": name, "uid": self.lock().marker_uid, "container_id": "",
                                   "references": [format!("{namespace}/{name}")]}});
        let full = format!("{namespace}/{name}");
        wait(PATIENCE, "the agent's copies", || {
            let answer = self.ask("pod", &query)?;
            let pod = &answer["reply"]["pod"];
            let known = |found: &Value| found.is_null() || found["annotations"]["mark"] == mark.as_str();
            let definition = &pod["networks"][&full]["found"];
            Ok(!answer["error"].is_null() || (known(pod) && known(definition)))
        })
        .with_context(|| self.log())
    }

    fn socket(&self) -> String {
        self.path().display().to_string()
    }
}
