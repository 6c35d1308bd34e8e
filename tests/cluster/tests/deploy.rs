//! `deploy/` as an operator uses it: the chart rendered by a real Helm, its objects accepted by a real API server, and
//! compared with the manifests.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::{LazyLock, Mutex, PoisonError};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use weft_cluster::api_server::ADMIN;
use weft_cluster::chart;
use weft_cluster::control_plane::ControlPlane;
use weft_kit::netns::NetNs;
use weft_kit::programs::repository;
use weft_kit::sandbox;
use weft_kit::suite::{Need, Suite};

/// The API server's address.
const ADDRESS: &str = "10.98.0.1";

fn main() -> ExitCode {
    sandbox::enter_with_processes();
    let needs = [Need::Sandbox, Need::Kubernetes, Need::Helm, Need::Tool("openssl")];
    let mut suite = Suite::new();
    let mut test = |name: &str, trial: fn(&Server) -> Result<()>| {
        suite.test(name, &needs, move || with_server(trial));
    };
    test("chart/says-what-the-manifests-say", same_as_the_manifests);
    test("chart/every-value-is-taken", every_value);
    test("chart/wrong-values-are-refused", wrong_values);
    test("chart/is-installed-upgraded-and-removed", life);
    let code = suite.run_threads(Some(1));
    // Statics are not dropped.
    SERVER.lock().unwrap_or_else(PoisonError::into_inner).take();
    code
}

/// An API server for all trials, in its own network.
struct Server {
    netns: NetNs,
    plane: ControlPlane,
}

static SERVER: LazyLock<Mutex<Option<Server>>> = LazyLock::new(Mutex::default);

fn with_server(trial: fn(&Server) -> Result<()>) -> Result<()> {
    let mut server = SERVER.lock().unwrap_or_else(PoisonError::into_inner);
    if server.is_none() {
        let netns = NetNs::new("api")?;
        netns.line("ip link set lo up")?;
        netns.line(&format!("ip address add {ADDRESS}/32 dev lo"))?;
        let plane = ControlPlane::start(&netns.place(), ADDRESS, &[ADMIN])?;
        *server = Some(Server { netns, plane });
    }
    let server = server.as_ref().context("no API server")?;
    trial(server).with_context(|| server.plane.log())
}

/// Objects by kind and name.
type Objects = BTreeMap<(String, String), Value>;

impl Server {
    /// Returns the API server's form of manifests, with all its defaults. Nothing is stored.
    fn objects(&self, manifests: &str) -> Result<Objects> {
        let arguments = ["apply", "--server-side", "--dry-run=server", "--output=json", "-f", "-"];
        let text = self.plane.kubectl(&arguments, manifests)?;
        let list: Value = serde_json::from_str(&text).context("kubectl prints a list")?;
        let items = list["items"].as_array().cloned().unwrap_or_else(|| vec![list]);
        items.into_iter().map(named).collect()
    }

    fn get(&self, kind: &str, name: &str) -> Result<Option<Value>> {
        let text =
            self.plane.kubectl(&["get", kind, name, "-n", "kube-system", "--ignore-not-found", "-o", "json"], "")?;
        if text.trim().is_empty() { Ok(None) } else { Ok(Some(serde_json::from_str(&text)?)) }
    }
}

/// Returns an object without the fields of the API server and of Helm.
fn named(mut object: Value) -> Result<((String, String), Value)> {
    let text = |value: &Value| value.as_str().map(str::to_owned).context("a name");
    let key = (text(&object["kind"])?, text(&object["metadata"]["name"])?);
    if let Some(object) = object.as_object_mut() {
        object.remove("status");
    }
    let metadata = object["metadata"].as_object_mut().context("metadata")?;
    for written in ["creationTimestamp", "generation", "managedFields", "resourceVersion", "uid"] {
        metadata.remove(written);
    }
    if let Some(annotations) = metadata.get_mut("annotations").and_then(Value::as_object_mut) {
        annotations.remove("helm.sh/resource-policy");
        annotations.remove("deprecated.daemonset.template.generation");
        if annotations.is_empty() {
            metadata.remove("annotations");
        }
    }
    sort(&mut object);
    Ok((key, object))
}

/// Sorts lists of objects by their text, because a patch puts its own first.
fn sort(value: &mut Value) {
    match value {
        Value::Array(list) => {
            list.iter_mut().for_each(sort);
            if list.iter().all(Value::is_object) {
                list.sort_by_key(Value::to_string);
            }
        }
        Value::Object(object) => object.values_mut().for_each(sort),
        _ => {}
    }
}

/// Concatenates manifests of `deploy/`.
fn manifests(files: &[&str]) -> Result<String> {
    let read = |file: &&str| {
        std::fs::read_to_string(repository().join("deploy").join(file)).with_context(|| format!("read {file}"))
    };
    Ok(files.iter().map(read).collect::<Result<Vec<_>>>()?.join("\n---\n"))
}

fn differences(chart: &Objects, manifests: &Objects) -> Vec<String> {
    let keys = chart.keys().chain(manifests.keys());
    let mut differences: Vec<String> = keys
        .filter(|key| chart.get(*key) != manifests.get(*key))
        .map(|key| format!("{key:?}: the chart has {:?}, the manifests have {:?}", chart.get(key), manifests.get(key)))
        .collect();
    differences.dedup();
    differences
}

/// With its defaults, the chart makes the objects of `kubernetes/` and the definition of networks; with the cluster
/// ledger, all of its objects; with the registries' objects, the DaemonSet as patched by `registries/`.
fn same_as_the_manifests(server: &Server) -> Result<()> {
    let node = ["crds/network-attachment-definitions.yaml", "kubernetes/rbac.yaml", "kubernetes/daemonset.yaml"];
    let ledger = ["crds/ipamclaims.yaml", "crds/ipam.weft.dev.yaml", "kubernetes/controller.yaml"];
    let registries = json!({"trustConfigMap": "weft-trust", "caConfigMap": "weft-registry-ca", "credentialsSecret": "weft-registries"});
    let plain = manifests(&node)?;
    let whole = manifests(&[&node[..], &ledger[..]].concat())?;
    let deploy = repository().join("deploy");
    let [daemonset, patch] =
        ["kubernetes/daemonset.yaml", "registries/patch.yaml"].map(|file| deploy.join(file).display().to_string());
    let patched =
        server.plane.kubectl(&["patch", "--local", "-f", &daemonset, "--patch-file", &patch, "-o", "json"], "")?;
    let patched = format!("{}\n---\n{patched}", manifests(&node[..2])?);
    let cases = [
        (json!({"defaultNetwork": "default"}), plain),
        (json!({"defaultNetwork": "default", "clusterLedger": true}), whole),
        (json!({"defaultNetwork": "default", "registries": registries}), patched),
    ];
    for (values, manifests) in cases {
        let (chart, manifests) = (server.objects(&chart::render(&values)?)?, server.objects(&manifests)?);
        let differences = differences(&chart, &manifests);
        ensure!(differences.is_empty(), "{values}: {differences:#?}");
        ensure!(chart.contains_key(&("DaemonSet".to_owned(), "weft".to_owned())), "{values}: {:?}", chart.keys());
    }
    Ok(())
}

/// Every value has an effect on the accepted objects.
fn every_value(server: &Server) -> Result<()> {
    let digest = format!("sha256:{}", "a".repeat(64));
    let cases = [
        (
            json!({"image": {"repository": "registry.test/weft", "tag": "1.2", "pullPolicy": "Always"}}),
            vec!["\"image\":\"registry.test/weft:1.2\"", "\"imagePullPolicy\":\"Always\""],
        ),
        (json!({"image": {"digest": digest}}), vec![digest.as_str()]),
        (
            json!({"preset": "k3s", "takeOver": ["bridge", "host-local"]}),
            vec![
                "--preset=k3s",
                "--take-over=bridge,host-local",
                "/var/lib/rancher/k3s/data/cni",
                "/run/k3s/containerd",
                "--conf-dir=/var/lib/rancher/k3s/agent/etc/cni/net.d",
            ],
        ),
        (json!({"preset": "openshift"}), vec!["/etc/kubernetes/cni/net.d", "/run/crio"]),
        (
            json!({"agent": {"hostPID": true, "http": {"address": "127.0.0.2", "port": 9999},
                          "extraArgs": ["--sweep-grace=4s"],
                          "extraEnv": [{"name": "HTTPS_PROXY", "value": "http://proxy.test:3128"}],
                          "resources": {"requests": {"cpu": "7m"}}}}),
            vec![
                "--http=127.0.0.2:9999",
                "\"hostPID\":true",
                "\"port\":9999",
                "--sweep-grace=4s",
                "http://proxy.test:3128",
                "\"cpu\":\"7m\"",
            ],
        ),
        (
            json!({"registries": {"plainHttp": ["mirror.test:5000", "10.0.0.1:80"]}}),
            vec!["--plain-http=mirror.test:5000", "--plain-http=10.0.0.1:80"],
        ),
        (json!({"registries": {"trustConfigMap": "site.trust"}}), vec!["WEFT_TRUST", "\"name\":\"site.trust\""]),
    ];
    for (mut values, parts) in cases {
        values["defaultNetwork"] = json!("10-site.conflist");
        let objects = server.objects(&chart::render(&values)?)?;
        let daemonset = objects.get(&("DaemonSet".to_owned(), "weft".to_owned())).context("a DaemonSet")?.to_string();
        for part in parts.iter().copied().chain(["--default-network=10-site.conflist"]) {
            ensure!(daemonset.contains(part), "{values}: no {part:?} in {daemonset}");
        }
        ensure!(daemonset.contains("DOCKER_CONFIG") == values.pointer("/registries/credentialsSecret").is_some());
    }
    let without = json!({"defaultNetwork": "default", "crds": false, "agent": {"sweep": false}});
    let objects = server.objects(&chart::render(&without)?)?;
    ensure!(objects.keys().all(|(kind, _name)| kind != "CustomResourceDefinition"), "{:?}", objects.keys());
    ensure!(!format!("{objects:?}").contains("--sweep"), "{objects:?}");
    Ok(())
}

/// The schema rejects wrong values before anything is rendered.
fn wrong_values(_server: &Server) -> Result<()> {
    let cases = [
        (json!({"defaultNetwork": ""}), "/defaultNetwork"),
        (json!({"preset": "k4s"}), "/preset"),
        (json!({"typo": true}), "typo"),
        (json!({"image": {"digest": "sha256:abc"}}), "/image/digest"),
        (json!({"image": {"pullPolicy": "Sometimes"}}), "/image/pullPolicy"),
        (json!({"takeOver": ["../evil"]}), "/takeOver/0"),
        (json!({"agent": {"http": {"port": 0}}}), "/agent/http/port"),
        (json!({"agent": {"extraArgs": ["sweep"]}}), "/agent/extraArgs/0"),
        (json!({"agent": {"extraEnv": [{"value": "x"}]}}), "/agent/extraEnv/0"),
        (json!({"registries": {"trustConfigMap": "Weft_Trust"}}), "/registries/trustConfigMap"),
        (json!({"registries": {"trust": {}}}), "trust"),
        (json!({"registries": {"plainHttp": ["http://mirror.test"]}}), "/registries/plainHttp/0"),
        (json!({"clusterLedger": "yes"}), "/clusterLedger"),
    ];
    chart::render(&json!({"defaultNetwork": "default"}))?;
    for (mut values, word) in cases {
        if values.get("defaultNetwork").is_none() {
            values["defaultNetwork"] = json!("default");
        }
        let refused = chart::render(&values).err().with_context(|| format!("{values} was taken"))?;
        ensure!(format!("{refused:#}").contains(word), "{values}: no {word:?} in {refused:#}");
    }
    Ok(())
}

/// A release is installed, upgraded, rolled back and removed; the definitions are kept, because their objects would be
/// deleted with them.
fn life(server: &Server) -> Result<()> {
    let place = server.netns.place();
    let kubeconfig = server.plane.kubeconfig(&ADMIN).display().to_string();
    let reach = ["--kubeconfig", kubeconfig.as_str()];
    let values = json!({"defaultNetwork": "default", "clusterLedger": true});
    let with_trust =
        json!({"defaultNetwork": "default", "clusterLedger": true, "registries": {"trustConfigMap": "weft-trust"}});
    let trusts = || -> Result<bool> {
        let daemonset = server.get("daemonset", "weft")?.context("no DaemonSet")?;
        Ok(daemonset.to_string().contains("WEFT_TRUST"))
    };
    chart::with_values(&place, "install", &values, &reach)?;
    ensure!(!trusts()? && server.get("deployment", "weft-controller")?.is_some());
    chart::with_values(&place, "upgrade", &with_trust, &reach)?;
    ensure!(trusts()?, "the upgrade did nothing");
    chart::of_release(&place, "rollback", &[&["1"], &reach[..]].concat())?;
    ensure!(!trusts()?, "the rollback did nothing");
    chart::of_release(&place, "uninstall", &reach)?;
    for kind in ["daemonset/weft", "deployment/weft-controller", "clusterrole/weft-agent", "serviceaccount/weft"] {
        let (kind, name) = kind.split_once('/').context("a name")?;
        ensure!(server.get(kind, name)?.is_none(), "{kind} {name} is left");
    }
    for name in ["network-attachment-definitions.k8s.cni.cncf.io", "addressclaims.ipam.weft.dev"] {
        ensure!(server.get("customresourcedefinition", name)?.is_some(), "{name} is gone, and its objects with it");
    }
    Ok(())
}
