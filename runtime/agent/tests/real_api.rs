//! The agent against a real API server, with a token that has the rights of `deploy/kubernetes/rbac.yaml` and no others.
//!
//! `WEFT_TEST_KUBECTL` is a kubectl command, `WEFT_TEST_KUBECONFIG` the kubeconfig of an administrator of a cluster that may be
//! written to. The controller manager must run, for service accounts. Without them the test is ignored.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use weft_agent::{KubernetesOptions, Options, Pace, Source};
use weft_core::agent::ask;
use weft_core::agent::health::{Health, HealthRequest};
use weft_core::agent::pod::{Definition, Pod, PodInfo, PodQuery, PodReply, PodRequest, References};
use weft_core::agent::status::{Event, EventKind, Status, StatusReply, StatusRequest};

const LONG: Option<Duration> = Some(Duration::from_secs(30));
const NODE: &str = "weft-test-node";
const SPACE: &str = "weft-test";
const STATUS: &str = "k8s.v1.cni.cncf.io/network-status";

struct Cluster {
    kubectl: Vec<String>,
    kubeconfig: String,
}

impl Cluster {
    fn run(&self, args: &[&str], stdin: &str) -> Result<String, String> {
        let mut command = Command::new(&self.kubectl[0]);
        command.args(&self.kubectl[1..]).arg("--kubeconfig").arg(&self.kubeconfig).args(args);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        child.stdin.take().unwrap().write_all(stdin.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
    }

    fn apply(&self, object: &Value) {
        wait_until(&format!("apply {object}"), || self.run(&["apply", "-f", "-"], &object.to_string()).is_ok());
    }

    fn get(&self, kind: &str, name: &str) -> Value {
        serde_json::from_str(&self.run(&["-n", SPACE, "get", kind, name, "-o", "json"], "").unwrap()).unwrap()
    }

    /// Creates the pod and returns its uid.
    fn pod(&self, name: &str) -> String {
        self.apply(&json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": name, "namespace": SPACE, "labels": {"app": "web"}, "annotations": {"k8s.v1.cni.cncf.io/networks": "a, missing"}},
            "spec": {"nodeName": NODE, "terminationGracePeriodSeconds": 0, "automountServiceAccountToken": false,
                "containers": [{"name": "c", "image": "none"}]},
        }));
        self.get("pod", name)["metadata"]["uid"].as_str().unwrap().to_owned()
    }
}

fn wait_until(what: &str, mut is: impl FnMut() -> bool) {
    let began = Instant::now();
    while !is() {
        assert!(began.elapsed() < Duration::from_secs(90), "{what}: not within 90 s");
        thread::sleep(Duration::from_millis(100));
    }
}

/// Writes a kubeconfig of the agent's service account, for the administrator's server.
fn account(cluster: &Cluster, dir: &Path) -> PathBuf {
    let mut token = String::new();
    wait_until("a token of the service account", || {
        cluster
            .run(&["-n", "kube-system", "create", "token", "weft"], "")
            .map(|text| token = text.trim().to_owned())
            .is_ok()
    });
    let view = cluster.run(&["config", "view", "--raw", "--minify", "-o", "json"], "").unwrap();
    let mut config: Value = serde_json::from_str(&view).unwrap();
    config["users"][0]["user"] = json!({"token": token});
    let path = dir.join("kubeconfig");
    std::fs::write(&path, config.to_string()).unwrap();
    path
}

fn start(cluster: &Cluster, dir: &Path) -> PathBuf {
    let socket = dir.join("agent.sock");
    let options = Options {
        socket: socket.clone(),
        host_prefix: None,
        pid_file: None,
        pace: Pace { timeout: 1_000, resend_max: 1_000, resend_timeout: 1_000 },
        kubernetes: Some(KubernetesOptions {
            node: NODE.to_owned(),
            source: Source::Kubeconfig(account(cluster, dir)),
            kubelet: dir.to_owned(),
        }),
        probes: None,
        sweep: None,
        policies: weft_agent::PolicyOptions::default(),
    };
    let state = dir.join("state");
    std::fs::create_dir_all(&state).unwrap();
    thread::spawn(move || weft_agent::run(&options, &state).unwrap());
    wait_until("the agent is ready", || {
        ask::<Health>(&socket, &HealthRequest {}, LONG).is_ok_and(|health| health.faults.is_empty())
    });
    socket
}

fn info(socket: &Path, name: &str, uid: &str) -> PodInfo {
    let references = References { namespace: "kube-system".to_owned(), ..References::default() };
    let query = PodQuery {
        namespace: SPACE.to_owned(),
        name: name.to_owned(),
        uid: uid.to_owned(),
        container_id: "c".to_owned(),
        references,
    };
    match ask::<Pod>(socket, &PodRequest::Pod(query), LONG).unwrap() {
        PodReply::Pod(info) => *info,
        other => panic!("{other:?}"),
    }
}

fn report(socket: &Path, uid: &str, text: &str) -> StatusReply {
    let message = "Add net1 [10.0.0.5/24] from weft-test/a".to_owned();
    let request = StatusRequest {
        namespace: SPACE.to_owned(),
        name: "web".to_owned(),
        uid: uid.to_owned(),
        annotation: Some(text.to_owned()),
        events: vec![Event { kind: EventKind::Normal, reason: "AddedInterface".to_owned(), message }],
    };
    ask::<Status>(socket, &request, LONG).unwrap()
}

#[test]
#[ignore = "needs a real API server: set WEFT_TEST_KUBECTL and WEFT_TEST_KUBECONFIG, and run with --ignored"]
fn the_listed_rights_are_enough_on_a_real_api_server() {
    let variable = |name: &str| std::env::var(name).unwrap_or_else(|_unset| panic!("{name} is not set"));
    let cluster = Cluster {
        kubectl: variable("WEFT_TEST_KUBECTL").split_whitespace().map(str::to_owned).collect(),
        kubeconfig: variable("WEFT_TEST_KUBECONFIG"),
    };
    let dir = tempfile::tempdir().unwrap();
    let deploy = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy");
    for file in ["kubernetes/rbac.yaml", "crds/network-attachment-definitions.yaml"] {
        let path = deploy.join(file).display().to_string();
        wait_until(file, || cluster.run(&["apply", "-f", &path], "").is_ok());
    }
    cluster.apply(
        &json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": SPACE, "labels": {"tier": "gold"}}}),
    );
    cluster.apply(&json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": NODE, "labels": {"zone": "a"}}}));
    cluster.apply(&json!({
        "apiVersion": "k8s.cni.cncf.io/v1", "kind": "NetworkAttachmentDefinition",
        "metadata": {"name": "a", "namespace": SPACE}, "spec": {"config": "{\"type\": \"weft\"}"},
    }));
    let socket = start(&cluster, dir.path());
    let uid = cluster.pod("web");
    let known = info(&socket, "web", &uid);
    assert_eq!((known.uid.as_str(), known.node.as_str()), (uid.as_str(), NODE));
    assert_eq!(known.namespace_labels.get("tier").map(String::as_str), Some("gold"));
    assert_eq!(known.node_labels.get("zone").map(String::as_str), Some("a"));
    let config = |name: &str| known.networks.get(&format!("{SPACE}/{name}")).cloned();
    assert!(
        matches!(config("a"), Some(Definition::Found { config: Some(text), .. }) if text == "{\"type\": \"weft\"}")
    );
    assert_eq!(config("missing"), Some(Definition::NotFound));
    // Multus' own text, with its four spaces.
    let text = "[{\n    \"name\": \"default-net\",\n    \"default\": true,\n    \"dns\": {}\n}]";
    assert_eq!(report(&socket, &uid, text), StatusReply::Written);
    assert_eq!(cluster.get("pod", "web")["metadata"]["annotations"][STATUS], text);
    wait_until("the event is there", || {
        let events = cluster.run(&["-n", SPACE, "get", "events", "-o", "json"], "").unwrap();
        events.contains("AddedInterface") && events.contains("Add net1 [10.0.0.5/24] from weft-test/a")
    });
    // The same name, but another pod.
    cluster.run(&["-n", SPACE, "delete", "pod", "web", "--force", "--grace-period=0"], "").unwrap();
    let next = cluster.pod("web");
    assert_ne!(next, uid);
    assert_eq!(info(&socket, "web", &next).uid, next);
    assert_eq!(report(&socket, &uid, "[]"), StatusReply::Gone);
    assert!(cluster.get("pod", "web")["metadata"]["annotations"].get(STATUS).is_none());
    cluster.run(&["delete", "namespace", SPACE, "--wait=false"], "").ok();
    cluster.run(&["delete", "node", NODE], "").ok();
}
