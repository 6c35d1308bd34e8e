//! A whole agent on its socket, with an API server that hangs, refuses, forgets and rotates tokens.

#![allow(clippy::unwrap_used, clippy::panic, clippy::expect_used, reason = "tests")]

mod api;
mod own_node;
mod pods;
mod policies;
mod statuses;

use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use weft_agent::{KubernetesOptions, Options, Pace, PolicyOptions, ProbeAddress, Source, SweepOptions};
use weft_core::agent::health::{Health, HealthRequest};
use weft_core::agent::lease::Lease;
use weft_core::agent::pod::{Pod, PodInfo, PodQuery, PodReply, PodRequest, References};
use weft_core::agent::status::{Event, EventKind, Status, StatusReply, StatusRequest};
use weft_core::agent::{AgentError, Fault, ask, lease};

use self::api::Api;

const NODE: &str = "n1";

/// The limit of a caller that can wait.
const LONG: Option<Duration> = Some(Duration::from_secs(20));

/// An agent with its API server.
struct Place {
    dir: tempfile::TempDir,
    api: Api,
    socket: PathBuf,
}

impl Place {
    /// Starts the agent on a thread that runs until the test program ends.
    fn new() -> Self {
        Self::with_policies(PolicyOptions::default())
    }

    /// Waits until the agent answers about a pod from its copy.
    fn wait_for_copy(&self, name: &str, uid: &str) {
        wait_until("the copy has the pod", || {
            self.api.state().asked.clear();
            self.info(name, uid);
            self.api.state().asked.is_empty()
        });
    }

    /// The same with options for policies.
    fn with_policies(policies: PolicyOptions) -> Self {
        let place = Self::not_started();
        place.start(policies);
        place
    }

    fn not_started() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let api = Api::start();
        api.put_object("nodes", json!({"metadata": {"name": NODE, "labels": {"zone": "a"}}}));
        api.put_object("nodes", json!({"metadata": {"name": "n2", "labels": {"zone": "b"}}}));
        api.put_object("namespaces", json!({"metadata": {"name": "team", "labels": {"tier": "gold"}}}));
        Self { socket: dir.path().join("agent.sock"), dir, api }
    }

    fn start(&self, policies: PolicyOptions) {
        self.start_as(NODE, policies);
        wait_until("the agent is ready", || self.faults().is_some_and(|faults| faults.is_empty()));
    }

    /// Returns why the node is not ready; `None` if the agent does not answer yet.
    fn faults(&self) -> Option<Vec<String>> {
        ask::<Health>(&self.socket, &HealthRequest {}, LONG).ok().map(|health| health.faults)
    }

    /// Starts the agent under a name.
    fn start_as(&self, node: &str, policies: PolicyOptions) {
        std::fs::write(self.dir.path().join("token"), "one").unwrap();
        let kubeconfig = self.dir.path().join("kubeconfig");
        let server = format!("http://{}", self.api.address);
        let text = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "x",
            "clusters": [{"name": "c", "cluster": {"server": server}}],
            "users": [{"name": "u", "user": {"tokenFile": self.dir.path().join("token")}}],
            "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
        });
        std::fs::write(&kubeconfig, text.to_string()).unwrap();
        let options = Options {
            socket: self.socket.clone(),
            host_prefix: None,
            pid_file: None,
            pace: Pace { timeout: 1_000, resend_max: 1_000, resend_timeout: 1_000 },
            kubernetes: Some(KubernetesOptions {
                node: node.to_owned(),
                source: Source::Kubeconfig(kubeconfig),
                kubelet: self.dir.path().join("kubelet"),
            }),
            probes: Some(ProbeAddress::Unix(self.dir.path().join("http.sock"))),
            sweep: None::<SweepOptions>,
            policies,
        };
        let state = self.dir.path().join("state");
        std::fs::create_dir_all(&state).unwrap();
        thread::spawn(move || weft_agent::run(&options, &state).unwrap());
    }

    fn pod(&self, name: &str, uid: &str, annotations: Value) {
        self.api.put_object("pods", json!({
            "metadata": {"namespace": "team", "name": name, "uid": uid, "labels": {"app": name}, "annotations": annotations},
            "spec": {"nodeName": NODE},
        }));
    }

    fn nad(&self, name: &str, config: &str, annotations: Value) {
        self.api.put_object(
            "network-attachment-definitions",
            json!({
                "apiVersion": "k8s.cni.cncf.io/v1", "kind": "NetworkAttachmentDefinition",
                "metadata": {"namespace": "team", "name": name, "annotations": annotations}, "spec": {"config": config},
            }),
        );
    }

    fn query(&self, name: &str, uid: &str, limit: Option<Duration>) -> Result<PodReply, AgentError> {
        let query = PodQuery {
            namespace: "team".to_owned(),
            name: name.to_owned(),
            uid: uid.to_owned(),
            container_id: "c".to_owned(),
            references: References {
                cluster_network: Some("main".to_owned()),
                default_networks: Vec::new(),
                namespace: "team".to_owned(),
            },
        };
        ask::<Pod>(&self.socket, &PodRequest::Pod(query), limit)
    }

    fn info(&self, name: &str, uid: &str) -> PodInfo {
        match self.query(name, uid, LONG).unwrap() {
            PodReply::Pod(info) => *info,
            other => panic!("{other:?}"),
        }
    }

    fn report(&self, uid: &str, text: &str, limit: Duration) -> StatusReply {
        let request = StatusRequest {
            namespace: "team".to_owned(),
            name: "web".to_owned(),
            uid: uid.to_owned(),
            annotation: Some(text.to_owned()),
            events: vec![Event {
                kind: EventKind::Normal,
                reason: "AddedInterface".to_owned(),
                message: "Add net1 [10.0.0.5/24] from team/a".to_owned(),
            }],
        };
        ask::<Status>(&self.socket, &request, Some(limit)).unwrap()
    }

    /// Returns the written annotations, with the uid of the patch.
    fn annotations(&self) -> Vec<(String, String)> {
        let state = self.api.state();
        let patches = state.written.iter().filter(|(resource, _)| resource == "pods/status");
        patches
            .map(|(_, patch)| {
                let annotation = &patch["metadata"]["annotations"]["k8s.v1.cni.cncf.io/network-status"];
                (patch["metadata"]["uid"].as_str().unwrap().to_owned(), annotation.as_str().unwrap().to_owned())
            })
            .collect()
    }
}

/// Waits for a condition, for as long as a busy machine may take.
fn wait_until(what: &str, mut is: impl FnMut() -> bool) {
    let began = Instant::now();
    while !is() {
        assert!(began.elapsed() < Duration::from_secs(60), "{what}: not within a minute");
        thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_hanging_api_server_affects_neither_known_pods_nor_other_services() {
    let place = Place::new();
    place.nad("main", "{}", json!({}));
    place.pod("web", "u1", json!({}));
    place.wait_for_copy("web", "u1");
    place.api.change(|state| state.hangs = true);
    assert_eq!(place.info("web", "u1").uid, "u1");
    let began = Instant::now();
    match place.query("new", "u9", Some(Duration::from_millis(700))).unwrap_err() {
        AgentError::Refused { fault, message } => {
            assert_eq!(fault, Fault::Deadline, "{message}");
            assert!(message.contains("API server"), "{message}");
        }
        other => panic!("{other}"),
    }
    // This does not measure speed: without a deadline it would hang forever.
    assert!(began.elapsed() < Duration::from_secs(10));
    assert!(ask::<Lease>(&place.socket, &lease::Request::Status, LONG).is_ok());
    assert!(ask::<Health>(&place.socket, &HealthRequest {}, LONG).unwrap().faults.is_empty());
    place.api.change(|state| state.hangs = false);
    place.pod("new", "u9", json!({}));
    assert_eq!(place.info("new", "u9").uid, "u9");
}

#[test]
fn a_rotated_token_is_used_and_an_empty_file_does_no_harm() {
    let place = Place::new();
    let token = place.dir.path().join("token");
    std::fs::write(&token, "").unwrap();
    place.pod("one", "u1", json!({}));
    assert_eq!(place.info("one", "u1").uid, "u1");
    place.api.change(|state| state.token = "two".to_owned());
    std::fs::write(&token, "two").unwrap();
    place.pod("two", "u2", json!({}));
    wait_until("the new token is used", || place.query("two", "u2", LONG).is_ok());
}

#[test]
fn only_the_listed_rights_are_used_and_pods_of_other_nodes_are_never_listed() {
    let place = Place::new();
    place.pod("web", "u1", json!({"k8s.v1.cni.cncf.io/networks": "missing"}));
    place.info("web", "u1");
    place.report("u1", "[]", Duration::from_secs(20));
    wait_until("the event is sent", || place.api.state().written.iter().any(|(resource, _)| resource == "events"));
    // The API server grants exactly the rights of deploy/kubernetes/rbac.yaml: everything above worked with them.
    let asked = place.api.state().asked.clone();
    for (verb, resource) in
        [("watch", "pods"), ("list", "network-attachment-definitions"), ("patch", "pods/status"), ("create", "events")]
    {
        assert!(asked.contains(&(verb.to_owned(), resource.to_owned())), "{verb} {resource}");
    }
    let metrics = http(&place.dir.path().join("http.sock"), "/metrics");
    assert!(metrics.contains("weft_agent_objects{kind=\"namespaces\"} 1"), "{metrics}");
    assert!(http(&place.dir.path().join("http.sock"), "/livez").contains("200 OK"));
}

fn http(socket: &Path, path: &str) -> String {
    use std::io::{Read, Write};
    let mut stream = std::os::unix::net::UnixStream::connect(socket).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}
