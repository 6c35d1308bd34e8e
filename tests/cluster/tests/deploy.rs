//! `deploy/` as an operator uses it: the chart rendered by a real Helm, its objects accepted by a real API server, and
//! compared with the manifests.

use std::collections::BTreeMap;
use std::process::{Command, ExitCode};
use std::sync::{LazyLock, Mutex, PoisonError};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tempfile::TempDir;
use weft_cluster::api_server::ADMIN;
use weft_cluster::chart;
use weft_cluster::control_plane::ControlPlane;
use weft_kit::netns::NetNs;
use weft_kit::process::{self, LIMIT, Place};
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
    test("chart/every-preset-has-its-directories", presets);
    test("chart/wrong-values-are-refused", wrong_values);
    test("chart/is-installed-upgraded-and-removed", deployment_lifecycle);
    suite.test("alerts/fire-for-what-they-are-for-and-for-nothing-else", &[Need::Tool("promtool")], alerts);
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
    let ledger = [
        "crds/ipamclaims.yaml",
        "crds/ipam.weft.dev.yaml",
        "kubernetes/rbac-ledger.yaml",
        "kubernetes/controller.yaml",
    ];
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
        (json!({"takeOver": ["bridge", "host-local"]}), vec!["--take-over=bridge,host-local"]),
        (
            json!({"agent": {"http": {"address": "127.0.0.2", "port": 9999},
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
    let without = json!({"defaultNetwork": "default", "crds": false, "agent": {"sweep": false, "hostPID": false}});
    let objects = server.objects(&chart::render(&without)?)?;
    ensure!(objects.keys().all(|(kind, _name)| kind != "CustomResourceDefinition"), "{:?}", objects.keys());
    let text = format!("{objects:?}");
    ensure!(!text.contains("--sweep") && !text.contains("hostPID"), "{objects:?}");
    rights(server)
}

/// A plain release has no rights of the cluster ledger; the agent may read only the ConfigMaps that are named.
fn rights(server: &Server) -> Result<()> {
    let rights = |values: Value| -> Result<Vec<String>> {
        let objects = server.objects(&chart::render(&values)?)?;
        let is_role = |(kind, _name): &(String, String)| kind.ends_with("Role");
        Ok(objects.iter().filter(|(key, _)| is_role(key)).map(|((kind, _), role)| format!("{kind} {role}")).collect())
    };
    let plain = rights(json!({"defaultNetwork": "default"}))?;
    for word in ["ipam.weft.dev", "ipamclaims", "configmaps", "secrets"] {
        ensure!(!plain.iter().any(|role| role.contains(word)), "a plain release has rights on {word}: {plain:#?}");
    }
    let named = rights(json!({"defaultNetwork": "default", "policies": {"configMaps": ["default/racks"]}}))?;
    let more: Vec<&String> = named.iter().filter(|role| !plain.contains(role)).collect();
    let parts = ["Role ", "\"namespace\":\"default\"", "\"resourceNames\":[\"racks\"]", "\"verbs\":[\"get\"]"];
    ensure!(more.len() == 1 && parts.iter().all(|part| more.iter().all(|role| role.contains(part))), "{more:#?}");
    Ok(())
}

/// With every preset, the agent and the installer see the directories of that distribution.
fn presets(server: &Server) -> Result<()> {
    let (usual, k3s) = ("/etc/cni/net.d", "/var/lib/rancher/k3s/agent/etc/cni/net.d");
    let presets = [
        ("default", "/opt/cni/bin", usual, "/run/containerd"),
        ("rke2", "/opt/cni/bin", usual, "/run/k3s/containerd"),
        ("talos", "/opt/cni/bin", usual, "/run/containerd"),
        ("k3s", "/var/lib/rancher/k3s/data/cni", k3s, "/run/k3s/containerd"),
        ("gke", "/home/kubernetes/bin", usual, "/run/containerd"),
        ("openshift", "/var/lib/cni/bin", "/etc/kubernetes/cni/net.d", "/run/crio"),
    ];
    let schema: Value =
        serde_json::from_str(&std::fs::read_to_string(repository().join("deploy/helm/weft/values.schema.json"))?)?;
    let known = schema.pointer("/properties/preset/enum").and_then(Value::as_array).map_or(0, Vec::len);
    ensure!(known == presets.len(), "the schema has {known} presets, this trial {}", presets.len());
    for (preset, bin, conf, runtime) in presets {
        let objects = server.objects(&chart::render(&json!({"defaultNetwork": "default", "preset": preset}))?)?;
        let daemonset = objects.get(&("DaemonSet".to_owned(), "weft".to_owned())).context("a DaemonSet")?;
        let spec = daemonset.pointer("/spec/template/spec").context("a pod's spec")?;
        let host_path = |name: &str| {
            let mut volumes = spec["volumes"].as_array().into_iter().flatten();
            let volume = volumes.find(|volume| volume["name"] == name);
            volume.and_then(|volume| volume.pointer("/hostPath/path")).and_then(Value::as_str).unwrap_or_default()
        };
        let found = [host_path("bin"), host_path("conf"), host_path("runtime")];
        ensure!(found == [bin, conf, runtime], "{preset}: the volumes are {found:?}");
        let containers = [&spec["initContainers"][0], &spec["containers"][0]];
        for container in containers {
            for dir in [bin, conf] {
                let is_there = |mount: &Value| mount["mountPath"] == dir;
                let mounts = container["volumeMounts"].as_array();
                ensure!(mounts.is_some_and(|mounts| mounts.iter().any(is_there)), "{preset}: {dir} is not mounted");
            }
        }
        let arguments = containers.map(|container| container["args"].to_string());
        ensure!(arguments[0].contains(&format!("--preset={preset}")), "{preset}: {}", arguments[0]);
        let says_conf = arguments[1].contains(&format!("--conf-dir={conf}"));
        ensure!(says_conf == (conf != usual), "{preset}: {}", arguments[1]);
    }
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
        (json!({"policies": {"configMaps": ["racks"]}}), "/policies/configMaps/0"),
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
fn deployment_lifecycle(server: &Server) -> Result<()> {
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

/// Prometheus evaluates the alerts on the series of `tests/cluster/alerts.yaml`, and each of them fires there.
fn alerts() -> Result<()> {
    let dir = TempDir::new()?;
    let tests = std::fs::read_to_string(repository().join("tests/cluster/alerts.yaml")).context("read alerts.yaml")?;
    std::fs::write(dir.path().join("alerts.yaml"), &tests)?;
    for file in ["weft.yaml", "weft-ledger.yaml"] {
        let text = std::fs::read_to_string(repository().join("deploy/alerts").join(file)).context(file)?;
        // A rule file is what a PrometheusRule has below `spec`.
        let (_head, rules) = text.split_once("\nspec:\n").with_context(|| format!("no spec in {file}"))?;
        std::fs::write(dir.path().join(file), rules)?;
        for name in rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")) {
            ensure!(tests.contains(&format!("alertname=\"{name}\"")), "{name} of {file} fires in no test");
        }
    }
    let mut command = Command::new("promtool");
    command.args(["test", "rules", "alerts.yaml"]).current_dir(dir.path());
    process::output(&Place::default(), command, b"", LIMIT)?.success("promtool test rules").map(drop)
}
