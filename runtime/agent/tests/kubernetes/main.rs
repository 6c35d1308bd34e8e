//! A whole agent on its socket, with an API server that hangs, refuses, forgets and rotates tokens.

#![allow(clippy::unwrap_used, clippy::panic, clippy::expect_used, reason = "tests")]

mod api;
mod own_node;

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use weft_agent::registry::Access;
use weft_agent::{KubernetesOptions, Options, Pace, PolicyOptions, ProbeAddress, Source, SweepOptions};
use weft_core::agent::health::{Health, HealthRequest};
use weft_core::agent::lease::{self, Lease};
use weft_core::agent::pod::{Definition, Pod, PodInfo, PodQuery, PodReply, PodRequest, References};
use weft_core::agent::policy::{Policy, PolicyRequest, PolicyState};
use weft_core::agent::status::{Event, EventKind, Status, StatusReply, StatusRequest};
use weft_core::agent::{AgentError, Fault, ask};

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
        Self::with(PolicyOptions::default())
    }

    /// The same with options for policies.
    fn with(policies: PolicyOptions) -> Self {
        let place = Self::not_started();
        place.start(policies);
        place
    }

    fn not_started() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let api = Api::start();
        api.put("nodes", json!({"metadata": {"name": NODE, "labels": {"zone": "a"}}}));
        api.put("nodes", json!({"metadata": {"name": "n2", "labels": {"zone": "b"}}}));
        api.put("namespaces", json!({"metadata": {"name": "team", "labels": {"tier": "gold"}}}));
        Self { socket: dir.path().join("agent.sock"), dir, api }
    }

    fn start(&self, policies: PolicyOptions) {
        self.start_as(NODE, policies);
        until("the agent is ready", || self.faults().is_some_and(|faults| faults.is_empty()));
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
        self.api.put("pods", json!({
            "metadata": {"namespace": "team", "name": name, "uid": uid, "labels": {"app": name}, "annotations": annotations},
            "spec": {"nodeName": NODE},
        }));
    }

    fn nad(&self, name: &str, config: &str, annotations: Value) {
        self.api.put(
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
fn until(what: &str, mut is: impl FnMut() -> bool) {
    let began = Instant::now();
    while !is() {
        assert!(began.elapsed() < Duration::from_secs(60), "{what}: not within a minute");
        thread::sleep(Duration::from_millis(20));
    }
}

fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

#[test]
fn one_round_trip_has_everything_an_add_needs() {
    let place = Place::new();
    place.nad("main", "{\"main\": 1}", json!({}));
    place.nad("a", "{}", json!({"k8s.v1.cni.cncf.io/resourceName": "v/nic"}));
    place.pod("web", "u1", json!({"k8s.v1.cni.cncf.io/networks": "a, missing"}));
    let checkpoint = place.dir.path().join("kubelet/device-plugins");
    std::fs::create_dir_all(&checkpoint).unwrap();
    let entries = json!([{"PodUID": "u1", "ResourceName": "v/nic", "DeviceIDs": {"0": ["2", "1"]}}, {"PodUID": "u1", "ResourceName": "v/gpu", "DeviceIDs": {"0": ["9"]}}]);
    std::fs::write(
        checkpoint.join("kubelet_internal_checkpoint"),
        json!({"Data": {"PodDeviceEntries": entries}}).to_string(),
    )
    .unwrap();
    let info = place.info("web", "u1");
    assert_eq!((info.uid.as_str(), info.node.as_str()), ("u1", NODE));
    assert_eq!(info.labels, labels(&[("app", "web")]));
    assert_eq!(info.namespace_labels, labels(&[("tier", "gold")]));
    assert_eq!(info.node_labels, labels(&[("zone", "a")]));
    assert_eq!(info.networks.keys().collect::<Vec<_>>(), ["team/a", "team/main", "team/missing"]);
    assert!(
        matches!(&info.networks["team/main"], Definition::Found { config: Some(text), .. } if text == "{\"main\": 1}")
    );
    assert_eq!(info.networks["team/missing"], Definition::NotFound);
    assert_eq!(info.devices, BTreeMap::from([("v/nic".to_owned(), vec!["1".to_owned(), "2".to_owned()])]));
    assert_eq!(info.devices_fault, None);
}

#[test]
#[allow(clippy::too_many_lines, reason = "objects of the API server, written out")]
fn devices_of_resource_claims_are_those_that_their_driver_marked() {
    let place = Place::new();
    place.nad("main", "{}", json!({}));
    place.nad("a", "{}", json!({"k8s.v1.cni.cncf.io/resourceName": "v/nic"}));
    let checkpoint = place.dir.path().join("kubelet/device-plugins");
    std::fs::create_dir_all(&checkpoint).unwrap();
    std::fs::write(checkpoint.join("kubelet_internal_checkpoint"), json!({"Data": {}}).to_string()).unwrap();
    let slice = |name: &str, generation: i64, id: &str| {
        let marks =
            json!({"k8s.cni.cncf.io/deviceID": {"string": id}, "k8s.cni.cncf.io/resourceName": {"string": "v/nic"}});
        place.api.put(
            "resourceslices",
            json!({
                "metadata": {"name": name},
                "spec": {
                    "driver": "d", "pool": {"name": "p", "generation": generation, "resourceSliceCount": 1},
                    "devices": [{"name": "marked", "attributes": marks}, {"name": "gpu"}],
                },
            }),
        );
    };
    slice("old", 1, "of-an-older-generation");
    slice("new", 2, "0000:05:00.1");
    let claim = |name: &str, devices: &[&str]| {
        let result = |device: &&str| json!({"request": "r", "driver": "d", "pool": "p", "device": device});
        let results: Vec<Value> = devices.iter().map(result).collect();
        place.api.put(
            "resourceclaims",
            json!({
                "metadata": {"namespace": "team", "name": name}, "spec": {},
                "status": {"allocation": {"devices": {"results": results}}},
            }),
        );
    };
    let pod = |spec: Value, status: Value| {
        let mut spec = spec;
        spec["nodeName"] = json!(NODE);
        spec["containers"] = json!([]);
        let annotations = json!({"k8s.v1.cni.cncf.io/networks": "a"});
        place.api.put(
            "pods",
            json!({
                "metadata": {"namespace": "team", "name": "web", "uid": "u1", "annotations": annotations},
                "spec": spec, "status": status,
            }),
        );
    };
    // One made from a template, and one named by the pod itself.
    for (spec, status) in [
        (json!({"name": "x", "resourceClaimTemplateName": "t"}), json!([{"name": "x", "resourceClaimName": "c"}])),
        (json!({"name": "x", "resourceClaimName": "c"}), json!([])),
    ] {
        pod(json!({"resourceClaims": [spec]}), json!({"resourceClaimStatuses": status}));
        claim("c", &["marked", "gpu"]);
        let info = place.info("web", "u1");
        assert_eq!(info.devices_fault, None);
        assert_eq!(info.devices, BTreeMap::from([("v/nic".to_owned(), vec!["0000:05:00.1".to_owned()])]));
    }
    claim("c", &["unheard-of"]);
    let fault = place.info("web", "u1").devices_fault.unwrap();
    assert!(fault.contains("\"unheard-of\"") && fault.contains("ResourceSlice"), "{fault}");
    // For an extended resource, every device must have the attributes.
    let mapping = json!({"containerName": "m", "requestName": "r", "resourceName": "v/nic"});
    pod(json!({}), json!({"extendedResourceClaimStatus": {"resourceClaimName": "c", "requestMappings": [mapping]}}));
    claim("c", &["marked"]);
    assert_eq!(place.info("web", "u1").devices["v/nic"], ["0000:05:00.1"]);
    claim("c", &["gpu"]);
    let fault = place.info("web", "u1").devices_fault.unwrap();
    assert!(fault.contains("\"gpu\"") && fault.contains("v/nic"), "{fault}");
}

#[test]
fn a_pod_is_known_by_its_uid_and_read_live_otherwise() {
    let place = Place::new();
    assert_eq!(place.query("web", "u1", LONG).unwrap(), PodReply::NotFound);
    place.pod("web", "u1", json!({}));
    assert_eq!(place.info("web", "u1").uid, "u1");
    // Deleted and recreated under the same name: the caller asks with the new uid at once.
    place.api.delete("pods", "team/web");
    place.pod("web", "u2", json!({}));
    assert_eq!(place.info("web", "u2").uid, "u2");
    // A runtime that still sends the old uid learns that the pod is another one now.
    assert_eq!(place.info("web", "u1").uid, "u2");
    // A static pod: the runtime has the hash of its file, the API the uid of its mirror.
    place.pod("static", "mirror", json!({"kubernetes.io/config.hash": "hash"}));
    assert_eq!(place.info("static", "hash").uid, "hash");
}

#[test]
fn an_api_server_that_hangs_stops_nobody_who_is_known_and_no_other_service() {
    let place = Place::new();
    place.nad("main", "{}", json!({}));
    place.pod("web", "u1", json!({}));
    until("the copy has the pod", || {
        place.api.state().asked.clear();
        place.info("web", "u1");
        place.api.state().asked.is_empty()
    });
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
fn a_status_is_one_write_and_is_retried_until_it_is_there() {
    let place = Place::new();
    place.pod("web", "u1", json!({}));
    assert_eq!(place.report("u1", "[1]", Duration::from_secs(20)), StatusReply::Written);
    assert_eq!(place.annotations(), [("u1".to_owned(), "[1]".to_owned())]);
    until("the event is sent", || place.api.state().written.iter().any(|(resource, _)| resource == "events"));
    place.api.change(|state| state.hangs = true);
    let late = place.report("u1", "[2]", Duration::from_millis(600));
    assert!(matches!(late, StatusReply::Later { .. }), "{late:?}");
    // It would survive the agent.
    let kept = place.dir.path().join("state/agent/status");
    assert_eq!(std::fs::read_dir(&kept).unwrap().count(), 1);
    let newer = place.report("u1", "[3]", Duration::from_millis(600));
    assert!(matches!(newer, StatusReply::Later { .. }), "{newer:?}");
    place.api.change(|state| state.hangs = false);
    until("the newest status is written", || place.annotations().iter().any(|(_, text)| text == "[3]"));
    until("nothing is left to write", || std::fs::read_dir(&kept).unwrap().count() == 0);
}

/// The caller of an older status gives up only after a newer one of the pod was written, and leaves nothing behind that
/// the next agent would write over it.
#[test]
fn an_old_status_that_times_out_is_not_kept() {
    let place = Place::new();
    place.pod("web", "u1", json!({}));
    let accepts = |token: &str| place.api.change(|state| state.token = token.to_owned());
    accepts("another");
    thread::scope(|scope| {
        // After some refusals, its next try is seconds away.
        let old = scope.spawn(|| place.report("u1", "[\"old\"]", Duration::from_secs(5)));
        thread::sleep(Duration::from_millis(3_500));
        accepts("one");
        assert_eq!(place.report("u1", "[\"new\"]", Duration::from_secs(20)), StatusReply::Written);
        let old = old.join().unwrap();
        assert!(matches!(old, StatusReply::Later { .. }), "{old:?}");
    });
    let kept = place.dir.path().join("state/agent/status");
    assert_eq!(std::fs::read_dir(kept).unwrap().count(), 0, "the next agent would write the old status");
    assert_eq!(place.annotations().last().unwrap().1, "[\"new\"]");
}

/// Without a uid, the copy may still have the pod of that name that was deleted.
#[test]
fn a_pod_without_a_uid_is_read_live() {
    let place = Place::new();
    place.nad("main", "{}", json!({}));
    place.pod("web", "u1", json!({}));
    until("the copy has the pod", || {
        place.api.state().asked.clear();
        place.info("web", "u1");
        place.api.state().asked.is_empty()
    });
    place.info("web", "");
    assert!(place.api.state().asked.contains(&("get".to_owned(), "pods".to_owned())));
}

#[test]
fn an_old_status_is_not_written_after_two_newer_ones() {
    let place = Place::new();
    place.pod("web", "u1", json!({}));
    // Unlike a hanging request, a refused one is tried again after a pause.
    let accepts = |token: &str| place.api.change(|state| state.token = token.to_owned());
    accepts("another");
    let old = place.report("u1", "[1]", Duration::from_millis(600));
    assert!(matches!(old, StatusReply::Later { .. }), "{old:?}");
    accepts("one");
    assert_eq!(place.report("u1", "[2]", Duration::from_secs(20)), StatusReply::Written);
    accepts("another");
    let newest = place.report("u1", "[3]", Duration::from_millis(600));
    assert!(matches!(newest, StatusReply::Later { .. }), "{newest:?}");
    accepts("one");
    until("the newest status is written", || place.annotations().iter().any(|(_, text)| text == "[3]"));
    let kept = place.dir.path().join("state/agent/status");
    until("nothing is left to write", || std::fs::read_dir(&kept).unwrap().count() == 0);
    assert!(place.annotations().iter().all(|(_, text)| text != "[1]"), "{:?}", place.annotations());
}

#[test]
fn another_pod_of_the_name_is_never_touched_and_a_missing_right_is_said() {
    let place = Place::new();
    place.pod("web", "u2", json!({}));
    assert_eq!(place.report("u1", "[]", Duration::from_secs(20)), StatusReply::Gone);
    assert!(place.annotations().is_empty());
    place.api.change(|state| state.forbidden.push(("patch".to_owned(), "pods/status".to_owned())));
    match place.report("u2", "[]", Duration::from_secs(20)) {
        StatusReply::Refused { message } => {
            assert!(message.contains("team/web") && message.contains("403"), "{message}")
        }
        other => panic!("{other:?}"),
    }
    place.api.change(|state| state.forbidden = vec![("get".to_owned(), "network-attachment-definitions".to_owned())]);
    place.pod("web", "u2", json!({"k8s.v1.cni.cncf.io/networks": "a"}));
    until("the definition cannot be read", || {
        matches!(place.info("web", "u2").networks.get("team/a"), Some(Definition::Failed { .. }))
    });
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
    until("the new token is used", || place.query("two", "u2", LONG).is_ok());
}

#[test]
fn a_policy_whose_digest_is_wrong_is_never_put_in_place() {
    let place = Place::new();
    let pin = format!("configmap://team/policies/rack@sha256:{}", "a".repeat(64));
    place.nad("racks", &json!({"type": "weft", "ipam": {"type": "wasm", "policy": pin}}).to_string(), json!({}));
    let state = || {
        let reply = ask::<Policy>(&place.socket, &PolicyRequest {}, LONG).unwrap();
        reply.policies.into_iter().find(|row| row.reference == pin)
    };
    let reason = |part: &str| {
        state().is_some_and(|row| matches!(&row.state, PolicyState::Failed { reason } if reason.contains(part)))
    };
    until("the ConfigMap is missed", || reason("there is no ConfigMap team/policies"));
    assert_eq!(state().unwrap().networks, ["team/racks"]);
    place.api.put(
        "configmaps",
        json!({"metadata": {"namespace": "team", "name": "policies"}, "data": {"rack": "tampered"}}),
    );
    until("the digest is found to be wrong", || reason("sha256:"));
    let pinned = place.dir.path().join("state/policies/pinned");
    // Only the reason, for the next ADD that needs it.
    let names: Vec<_> = std::fs::read_dir(pinned).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(names.iter().all(|path| path.extension().is_some_and(|end| end == "missed")), "{names:?}");
    let metrics = http(&place.dir.path().join("http.sock"), "/metrics");
    assert!(metrics.contains("state=\"failed\""), "{metrics}");
    // An error of one policy is not a fault of the node.
    assert!(ask::<Health>(&place.socket, &HealthRequest {}, LONG).unwrap().faults.is_empty());
    place.api.delete("network-attachment-definitions", "team/racks");
    until("the policy is not named any more", || state().is_none());
}

/// Everybody who may write a definition names registries. One on the node itself is asked only where the operator names
/// it, and with a trust file none without a rule.
#[test]
fn a_definition_does_not_make_the_agent_ask_servers_of_the_node() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let registry = listener.local_addr().unwrap().to_string();
    let is_asked = || listener.accept().is_ok();
    let pin = format!("oci://{registry}/net/rack:1@sha256:{}", "a".repeat(64));
    let conf = json!({"type": "weft", "ipam": {"type": "wasm", "policy": pin}}).to_string();
    let reason = |place: &Place| {
        let reply = ask::<Policy>(&place.socket, &PolicyRequest {}, LONG).unwrap();
        let row = reply.policies.into_iter().find(|row| row.reference == pin)?;
        if let PolicyState::Failed { reason } = row.state { Some(reason) } else { None }
    };
    let refused = |place: &Place, part: &str| {
        place.nad("racks", &conf, json!({}));
        until(part, || reason(place).is_some_and(|reason| reason.contains(part)));
        assert!(!is_asked(), "{part}: the registry was asked");
    };
    let place = Place::new();
    refused(&place, &format!("start the agent with --plain-http {registry}"));
    let trust = place.dir.path().join("trust.json");
    let rules = json!({"version": 1, "registries": [{"prefix": "registry.example", "unsigned": true}]});
    std::fs::write(&trust, rules.to_string()).unwrap();
    let named = |trust: Option<&Path>| {
        let access = Access { plain_http: vec![registry.clone()], ..Access::default() };
        Place::with(PolicyOptions { access, trust: trust.map(Path::to_owned), conf_dir: None })
    };
    refused(&named(Some(&trust)), "no rule in");
    // The operator has named it: it is asked.
    let place = named(None);
    place.nad("racks", &conf, json!({}));
    until("the registry is asked", is_asked);
}

#[test]
fn only_the_listed_rights_are_used_and_pods_of_other_nodes_are_never_listed() {
    let place = Place::new();
    place.pod("web", "u1", json!({"k8s.v1.cni.cncf.io/networks": "missing"}));
    place.info("web", "u1");
    place.report("u1", "[]", Duration::from_secs(20));
    until("the event is sent", || place.api.state().written.iter().any(|(resource, _)| resource == "events"));
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
