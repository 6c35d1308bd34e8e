//! The environment of a site: an OCI registry with TLS and a password, the name server that knows it, keys, and weft's
//! DaemonSet configured by the patch of `deploy/registries`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tempfile::TempDir;
use weft_cluster::kube::{CONTROL_ADDRESS, Cluster, Node, PATIENCE};
use weft_kit::dhcp::{Daemon, wait};
use weft_kit::process::{self, LIMIT, Place};
use weft_kit::programs::{repository, weftctl};
use weft_kit::registry::{self, Certificates, Minisign, Registry};
use weft_kit::sandbox;

/// The registry's name in networks.
pub(super) const REGISTRY: &str = "registry.weft.test:5000";
const HOST: &str = "registry.weft.test";
const PORT: u16 = 5000;
/// `team:secret` in Base64.
const PASSWORD: &str = "dGVhbTpzZWNyZXQ=";
/// The namespace of the DaemonSet.
const SYSTEM: &str = "kube-system";

/// The environment of a site.
pub(super) struct Site {
    dir: TempDir,
    place: Place,
    registry: Registry,
    names: Daemon,
    certificates: Certificates,
    /// The signing key.
    pub(super) team: Minisign,
    /// A key that is lost later.
    pub(super) lost: Minisign,
}

/// Runs a trial with a site, and restores the DaemonSet afterwards.
pub(super) fn with_site(cluster: &mut Cluster, trial: impl FnOnce(&mut Cluster, &Site) -> Result<()>) -> Result<()> {
    let site = Site::start(cluster)?;
    let outcome = site.configure(cluster).and_then(|()| trial(cluster, &site)).with_context(|| agents_said(cluster));
    // Before the registry ends: an agent that starts then would wait for it.
    let undone = cluster
        .kubectl()
        .run(&["delete", "net-attach-def", "-n", "default", "--all"])
        .and_then(|_said| cluster.kubectl().run(&["-n", SYSTEM, "rollout", "undo", "daemonset/weft"]))
        .and_then(|_said| rolled_out(cluster));
    match (outcome, undone) {
        (Err(trial), Err(after)) => Err(trial.context(format!("and after it: {after:#}"))),
        (outcome, undone) => outcome.and(undone),
    }
}

impl Site {
    fn start(cluster: &Cluster) -> Result<Self> {
        let dir = TempDir::new_in(sandbox::scratch()).context("scratch directory")?;
        let place = cluster.control().place();
        let certificates = Certificates::new(dir.path(), &format!("DNS:{HOST},IP:{CONTROL_ADDRESS}"))?;
        let password = registry::password(dir.path(), "team", "secret")?;
        let address = format!("{CONTROL_ADDRESS}:{PORT}");
        let registry = Registry::start_tls(&place, dir.path(), &address, &certificates, &password)?;
        let names = name_server(&place, dir.path())?;
        let (team, lost) = (Minisign::new(dir.path(), "team")?, Minisign::new(dir.path(), "lost")?);
        // Authors reach the registry by address, nodes by name.
        let auths = json!({ "auths": { &address: { "auth": PASSWORD }, REGISTRY: { "auth": PASSWORD } } });
        fs::write(dir.path().join("config.json"), auths.to_string()).context("write docker's configuration")?;
        Ok(Self { dir, place, registry, names, certificates, team, lost })
    }

    /// A file of the site.
    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Gives the DaemonSet the trust file, the authority, the password and the name server.
    fn configure(&self, cluster: &Cluster) -> Result<()> {
        let map = |name: &str, key: &str, text: &str| {
            json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": SYSTEM},
                   "data": {key: text}})
        };
        let read = |path: &Path| fs::read_to_string(path).with_context(|| format!("read {}", path.display()));
        let secret = json!({"apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/dockerconfigjson",
            "metadata": {"name": "weft-registries", "namespace": SYSTEM},
            "stringData": {".dockerconfigjson": read(&self.file("config.json"))?}});
        let ca = map("weft-registry-ca", "ca.crt", &read(Path::new(&self.certificates.ca))?);
        self.trust(cluster, None)?;
        cluster.kubectl().apply(&[ca, secret])?;
        let patch = repository().join("deploy/registries/patch.yaml").display().to_string();
        let names = json!({"spec": {"template": {"spec": {"dnsPolicy": "None", "dnsConfig": {"nameservers": [CONTROL_ADDRESS]}}}}});
        // Patch a copy first: one change of the template can be undone in one step.
        let copy = self.file("daemonset.json").display().to_string();
        let mut patched = cluster.kubectl().run(&["-n", SYSTEM, "get", "daemonset", "weft", "-o", "json"])?;
        for change in [["--patch-file", &patch], ["-p", &names.to_string()]] {
            fs::write(&copy, &patched).context("write the DaemonSet")?;
            patched =
                cluster.kubectl().run(&[&["patch", "--local", "-o", "json", "-f", &copy][..], &change].concat())?;
        }
        let patched: Value = serde_json::from_str(&patched).context("a DaemonSet")?;
        let template = json!({"spec": {"template": patched["spec"]["template"]}}).to_string();
        cluster.kubectl().run(&["-n", SYSTEM, "patch", "daemonset", "weft", "--type=merge", "-p", &template])?;
        rolled_out(cluster)
    }

    /// Writes the trust file: the lost key signs repositories below `lost`, the team's key all others.
    pub(super) fn trust(&self, cluster: &Cluster, revoked: Option<&str>) -> Result<()> {
        let document = json!({
            "version": 1,
            "keys": { "team": { "minisign": self.team.public }, "lost": { "minisign": self.lost.public, "revoked": revoked } },
            "registries": [
                { "prefix": format!("{REGISTRY}/net"), "allOf": ["team"] },
                { "prefix": format!("{REGISTRY}/net/lost"), "allOf": ["lost"] },
            ],
        });
        cluster.kubectl().apply(&[json!({"apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": "weft-trust", "namespace": SYSTEM}, "data": {"trust.json": document.to_string()}})])
    }

    /// Pushes a shipped policy like its author, and returns its reference for networks, with the digest.
    pub(super) fn push(&self, cluster: &Cluster, policy: &str, to: &str) -> Result<String> {
        self.push_version(cluster, policy, to, None)
    }

    /// The same with a version that differs from the tag.
    pub(super) fn push_version(
        &self,
        cluster: &Cluster,
        policy: &str,
        to: &str,
        version: Option<&str>,
    ) -> Result<String> {
        let node = cluster.nodes().first().context("no nodes")?;
        let component = node.file(&format!("/var/lib/weft/policies/{policy}.wasm")).display().to_string();
        let at = format!("{CONTROL_ADDRESS}:{PORT}/{to}");
        let mut arguments = vec!["push", component.as_str(), at.as_str()];
        arguments.extend(version.iter().flat_map(|version| ["--version", version]));
        let pushed: Value = serde_json::from_str(&self.weftctl(&arguments)?)?;
        let reference = pushed["reference"].as_str().context("a reference")?;
        Ok(reference.replace(&format!("{CONTROL_ADDRESS}:{PORT}"), REGISTRY))
    }

    /// Signs a policy.
    pub(super) fn sign(&self, reference: &str, key: &Minisign) -> Result<()> {
        self.weftctl(&["sign", &Self::as_author(reference), "--key", &key.secret]).map(drop)
    }

    /// Adds a signature to a policy that was made over its manifest and then altered.
    pub(super) fn sign_badly(&self, reference: &str) -> Result<()> {
        let [manifest, signature] = ["bad.json", "bad.minisig"].map(|name| self.file(name).display().to_string());
        let at = Self::as_author(reference);
        self.weftctl(&["sign", &at, "--manifest", &manifest])?;
        let path = reference.strip_prefix(&format!("oci://{REGISTRY}/")).context("a reference")?;
        let repository = path.split(':').next().unwrap_or(path);
        let comment = format!("repository={repository} digest={}", digest_of(reference)?);
        let secret = &self.team.secret;
        process::run(
            &self.place,
            &["minisign", "-S", "-W", "-s", secret, "-m", &manifest, "-x", &signature, "-t", &comment],
        )?;
        let text = fs::read_to_string(&signature).context("read a signature")?;
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        // In the second line, after the key's number: the signature itself.
        let line = lines.get_mut(1).context("a signature")?;
        let other = if line.as_bytes().get(60) == Some(&b'A') { "B" } else { "A" };
        line.replace_range(60..61, other);
        fs::write(&signature, lines.join("\n") + "\n").context("write a signature")?;
        self.weftctl(&["sign", &at, "--signature", &signature]).map(drop)
    }

    fn as_author(reference: &str) -> String {
        reference.replace(REGISTRY, &format!("{CONTROL_ADDRESS}:{PORT}"))
    }

    fn weftctl(&self, arguments: &[&str]) -> Result<String> {
        let mut command = Command::new(weftctl().map_err(anyhow::Error::msg)?);
        command.arg("--json").arg("--state-dir").arg(self.file("author")).arg("policy").args(arguments);
        command.args(["--registry-ca", &self.certificates.ca]).env("DOCKER_CONFIG", self.dir.path());
        let what = format!("weftctl policy {}", arguments.join(" "));
        Ok(process::output(&self.place, command, b"", LIMIT)?.success(&what)?.text())
    }

    /// Returns the manifest of an image according to skopeo.
    pub(super) fn manifest_by_skopeo(&self, reference: &str) -> Result<Vec<u8>> {
        let image = Self::as_author(reference.split('@').next().unwrap_or(reference)).replace("oci://", "docker://");
        let certificates = self.file("skopeo");
        fs::create_dir_all(&certificates).context("create skopeo's directory")?;
        fs::copy(&self.certificates.ca, certificates.join("ca.crt")).context("copy the authority")?;
        let (certificates, auths) =
            (certificates.display().to_string(), self.file("config.json").display().to_string());
        let argv = ["skopeo", "inspect", "--raw", "--authfile", &auths, "--cert-dir", &certificates, image.as_str()];
        Ok(process::run(&self.place, &argv)?.stdout)
    }

    /// Returns the registry's own file of a blob.
    pub(super) fn stored(&self, digest: &str) -> Result<PathBuf> {
        self.registry.stored(digest)
    }

    /// Returns how many requests the registry has answered.
    pub(super) fn requests(&self) -> usize {
        self.registry.requests()
    }

    /// Makes registry and name server stop answering: that is worse than refusing, because clients have to wait.
    pub(super) fn is_dead(&self, dead: bool) -> Result<()> {
        let signal = if dead { "STOP" } else { "CONT" };
        let line = format!("kill -{signal} {} {}", self.registry.pid(), self.names.pid());
        process::run(&Place::default(), &["sh", "-c", &line]).map(drop)
    }
}

/// Starts a name server that knows the registry.
fn name_server(place: &Place, dir: &Path) -> Result<Daemon> {
    let record = format!("--address=/{HOST}/{CONTROL_ADDRESS}");
    let listen = format!("--listen-address={CONTROL_ADDRESS}");
    let fixed = [
        "--keep-in-foreground",
        "--log-facility=-",
        "--conf-file=/dev/null",
        "--pid-file=",
        "--user=root",
        "--group=root",
        "--bind-interfaces",
        "--no-hosts",
        "--no-resolv",
    ];
    let argv: Vec<String> =
        [&["/usr/sbin/dnsmasq"], &fixed[..], &[&record, &listen]].concat().into_iter().map(str::to_owned).collect();
    let daemon = Daemon::start(place, &argv, &dir.join("dnsmasq.log"))?;
    wait(PATIENCE, "the name server", || Ok(daemon.log().contains("started"))).with_context(|| daemon.log())?;
    Ok(daemon)
}

/// Waits until every node has an agent of the current DaemonSet.
pub(super) fn rolled_out(cluster: &Cluster) -> Result<()> {
    wait(PATIENCE * 2, "the DaemonSet's change", || {
        let set = cluster.kubectl().get("daemonset", SYSTEM, "weft")?.unwrap_or_default();
        let number = |pointer: &str| set.pointer(pointer).and_then(Value::as_u64).unwrap_or(0);
        let wanted = number("/status/desiredNumberScheduled");
        Ok(number("/status/observedGeneration") >= number("/metadata/generation")
            && number("/status/updatedNumberScheduled") == wanted
            && number("/status/numberReady") == wanted
            && number("/status/numberAvailable") == wanted)
    })?;
    cluster.wait_for_weft()
}

/// Waits until the agent of a node has logged all of these words in one line since its start.
pub(super) fn agent_says(cluster: &Cluster, node: &Node, words: &[&str]) -> Result<()> {
    let mut said = String::new();
    wait(PATIENCE, "the agent's words", || {
        // It may be between two containers.
        said = agent_log(cluster, node).unwrap_or_default();
        Ok(said.lines().any(|line| words.iter().all(|word| line.contains(word))))
    })
    .with_context(|| format!("{} does not say {words:?}: {said}", node.name()))
}

fn agent_log(cluster: &Cluster, node: &Node) -> Result<String> {
    cluster.kubectl().run(&["logs", "-n", SYSTEM, &cluster.agent_of(node)?, "-c", "agent"])
}

fn agents_said(cluster: &Cluster) -> String {
    let logs = cluster.nodes().iter().map(|node| {
        let log = agent_log(cluster, node).unwrap_or_else(|error| format!("{error:#}"));
        format!("--- agent of {}\n{log}\n", node.name())
    });
    logs.collect()
}

/// The digest in a reference.
pub(super) fn digest_of(reference: &str) -> Result<&str> {
    Ok(reference.rsplit_once('@').context("a reference with a digest")?.1)
}

/// Returns the digest of bytes according to coreutils.
pub(super) fn sha256(bytes: &[u8]) -> Result<String> {
    let said =
        process::output(&Place::default(), Command::new("sha256sum"), bytes, LIMIT)?.success("sha256sum")?.text();
    let digest = said.split_whitespace().next().context("a digest")?;
    ensure!(digest.len() == 64, "sha256sum said {said:?}");
    Ok(format!("sha256:{digest}"))
}
