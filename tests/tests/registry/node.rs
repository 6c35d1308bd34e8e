//! A node with weft, and a registry on its loopback address.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use weft_kit::cni::Reply;
use weft_kit::dhcp::{self, Daemon, PATIENCE, wait};
use weft_kit::process::{self, LIMIT};
use weft_kit::programs::Installation;
use weft_kit::registry::{self, Certificates, RecordingServer, Registry};
use weft_kit::world::{Attach, Subject, World};

/// The registry's address in its own namespace.
pub(super) const REGISTRY: &str = "127.0.0.1:5000";

/// The node.
pub(super) struct Node {
    pub(super) world: World,
    registry: Option<Registry>,
    _installation: Installation,
}

impl Node {
    /// Creates a node with a registry that requires no login.
    pub(super) fn new() -> Result<Self> {
        let mut node = Self::without_registry()?;
        node.start_registry(REGISTRY, "")?;
        Ok(node)
    }

    /// Creates a node without a registry.
    pub(super) fn without_registry() -> Result<Self> {
        let installation = Installation::new()?;
        let world = World::new(&Subject::weft(&installation))?;
        Ok(Self { world, registry: None, _installation: installation })
    }

    /// Starts the registry, with more lines in its configuration.
    pub(super) fn start_registry(&mut self, address: &str, more: &str) -> Result<()> {
        self.registry = Some(Registry::start(&self.world.host().place(), self.world.scratch(), address, more)?);
        Ok(())
    }

    /// Starts the registry with a certificate.
    pub(super) fn start_tls_registry(&mut self, address: &str, certificates: &Certificates) -> Result<()> {
        self.start_tls_registry_with(address, certificates, "")
    }

    /// Gives the node another address, 192.0.2.1, which is none of loopback.
    pub(super) fn add_address(&self) -> Result<()> {
        for line in ["link add there type bridge", "address add 192.0.2.1/24 dev there", "link set there up"] {
            self.world.host().line(&format!("ip {line}"))?;
        }
        Ok(())
    }

    /// Starts the registry with a certificate and more lines in its configuration.
    pub(super) fn start_tls_registry_with(
        &mut self,
        address: &str,
        certificates: &Certificates,
        more: &str,
    ) -> Result<()> {
        let place = self.world.host().place();
        self.registry = Some(Registry::start_tls(&place, self.world.scratch(), address, certificates, more)?);
        Ok(())
    }

    /// Starts a server that writes down what it is asked.
    pub(super) fn start_recording_server(
        &self,
        name: &str,
        address: &str,
        answer: &str,
        certificates: Option<&Certificates>,
    ) -> Result<RecordingServer> {
        RecordingServer::start(&self.world.host().place(), self.world.scratch(), name, address, answer, certificates)
    }

    /// Kills the registry.
    pub(super) fn stop_registry(&mut self) {
        self.registry = None;
    }

    /// Returns a file of this node's scratch directory.
    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.world.scratch().join(name)
    }

    /// Returns the component of a shipped policy.
    pub(super) fn shipped(&self, name: &str) -> PathBuf {
        self.world.state().join("policies").join(format!("{name}.wasm"))
    }

    /// Pushes a shipped policy, and returns its reference with the digest.
    pub(super) fn push(&self, policy: &str, to: &str, more: &[&str]) -> Result<String> {
        let file = self.shipped(policy).display().to_string();
        let pushed = self.world.weftctl(&[&["policy", "push", &file, to], more].concat())?;
        text_at(&pushed, "/reference")
    }

    /// Runs `weftctl policy` with an environment. Returns whether it succeeded, and its output.
    pub(super) fn policy(&self, environment: &[(&str, &str)], arguments: &[&str]) -> Result<(bool, String)> {
        let mut command = Command::new("/usr/local/bin/weftctl");
        command.arg("--state-dir").arg(self.world.state()).arg("policy").args(arguments);
        command.envs(environment.iter().copied());
        let output = process::output(&self.world.place()?, command, b"", LIMIT)?;
        Ok((output.status == Some(0), format!("{}{}", output.text(), output.stderr)))
    }

    /// Runs `weftctl policy`, which must succeed.
    pub(super) fn run_policy_command(&self, arguments: &[&str]) -> Result<String> {
        let (ok, text) = self.policy(&[], arguments)?;
        ensure!(ok, "weftctl policy {}: {text}", arguments.join(" "));
        Ok(text)
    }

    /// Runs `weftctl policy`, which must fail with all of these words.
    pub(super) fn refuses(&self, arguments: &[&str], words: &[&str]) -> Result<String> {
        let (ok, text) = self.policy(&[], arguments)?;
        ensure!(!ok, "weftctl policy {} succeeded: {text}", arguments.join(" "));
        for word in words {
            ensure!(text.contains(word), "weftctl policy {} does not say {word:?}: {text}", arguments.join(" "));
        }
        Ok(text)
    }

    /// Runs a program in the registry's namespace, and returns its output.
    pub(super) fn run(&self, argv: &[&str]) -> Result<Vec<u8>> {
        Ok(self.world.host().run(argv)?.stdout)
    }

    /// Returns a network whose addresses a policy decides.
    pub(super) fn conf(&self, name: &str, reference: &str) -> Value {
        // Link names are short; each network has its own bridge and range.
        let number = name.bytes().fold(7_u8, u8::wrapping_add);
        json!({
            "cniVersion": "1.1.0", "name": name, "type": "weft",
            "delegate": { "type": "bridge", "bridge": format!("br-{name}") },
            "ipam": { "type": "wasm", "policy": reference, "ranges": [[{ "subnet": format!("10.{number}.0.0/24") }]] },
        })
    }

    pub(super) fn call(&mut self, verb: &str, container: &str, conf: &Value) -> Result<Reply> {
        self.world.call(verb, &Attach::eth0(container), conf)
    }

    /// Runs ADD and DEL.
    pub(super) fn adds(&mut self, container: &str, conf: &Value) -> Result<()> {
        let result = self.call("ADD", container, conf)?.result().with_context(|| format!("ADD {container}"))?;
        let address = text_at(&result, "/ips/0/address")?;
        let seen = self.world.container(container)?.line("ip -br address show eth0")?.text();
        ensure!(seen.contains(&address), "{address} is not on eth0: {seen}");
        self.call("DEL", container, conf)?.expect_quiet()
    }

    /// Runs ADD and DEL, and returns the digest of the component that decided.
    pub(super) fn decided_by(&mut self, container: &str, conf: &Value) -> Result<String> {
        self.call("ADD", container, conf)?.result().with_context(|| format!("ADD {container}"))?;
        let why = self.world.weftctl(&["explain", &format!("cid-{container}")])?;
        self.call("DEL", container, conf)?.expect_quiet()?;
        text_at(&why, "/0/decision/digest")
    }

    /// Returns the digest of a shipped policy's component.
    pub(super) fn component(&self, policy: &str) -> Result<String> {
        Ok(format!("sha256:{}", sha256(&self.shipped(policy))?))
    }

    /// Runs an ADD that must fail with all of these words.
    pub(super) fn add_fails(&mut self, container: &str, conf: &Value, words: &[&str]) -> Result<()> {
        let error = self.call("ADD", container, conf)?.error()?;
        for word in words {
            let said = error.msg.contains(word) || error.details.contains(word);
            ensure!(said, "ADD does not say {word:?}: {error:?}");
        }
        Ok(())
    }

    /// Starts the agent on a directory of networks.
    pub(super) fn start_agent(&self) -> Result<Daemon> {
        self.start_agent_with(&[])
    }

    /// Like [`Self::start_agent`], with more arguments.
    pub(super) fn start_agent_with(&self, more: &[&str]) -> Result<Daemon> {
        let dir = self.networks().display().to_string();
        dhcp::agent(&self.world, &[&["--conf-dir", &dir], more].concat())
    }

    /// Returns the directory of the node's networks.
    pub(super) fn networks(&self) -> PathBuf {
        self.file("net.d")
    }

    /// Adds a network's configuration to the node.
    pub(super) fn write_network(&self, name: &str, conf: &Value) -> Result<()> {
        fs::create_dir_all(self.networks())?;
        Ok(fs::write(self.networks().join(format!("{name}.conf")), conf.to_string())?)
    }

    /// Runs `weftctl policy ls` with the agent, and returns the row of a reference.
    pub(super) fn listed(&self, reference: &str) -> Result<Value> {
        let socket = dhcp::socket(&self.world).display().to_string();
        let rows = self.world.weftctl(&["policy", "ls", "--agent-socket", &socket])?;
        let row = rows.as_array().into_iter().flatten().find(|row| row.get("policy") == Some(&json!(reference)));
        row.cloned().with_context(|| format!("{reference} is not in {rows}"))
    }

    /// Waits until the agent reports this for a policy: `ready`, or why it failed.
    pub(super) fn wait_for_policy(&self, agent: &Daemon, reference: &str, part: &str) -> Result<()> {
        let mut last = Value::Null;
        let waited = wait(PATIENCE, part, || {
            last = self.ask_agent()?;
            let rows = last.pointer("/reply/policies").or_else(|| last.pointer("/policies")).and_then(Value::as_array);
            let row = rows.into_iter().flatten().find(|row| row.get("reference") == Some(&json!(reference)));
            Ok(row.is_some_and(|row| row.get("state").is_some_and(|state| state.to_string().contains(part))))
        });
        waited.with_context(|| format!("the agent says {last}\n{}", agent.log()))
    }

    fn ask_agent(&self) -> Result<Value> {
        let mut stream = UnixStream::connect(dhcp::socket(&self.world)).context("connect to the agent")?;
        stream.write_all(b"{\"v\":1,\"service\":\"policy\",\"request\":{}}\n")?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        serde_json::from_str(&text).with_context(|| format!("the agent answered {text:?}"))
    }

    /// Returns the file in which the registry keeps, or kept, a blob.
    pub(super) fn stored(&self, digest: &str) -> Result<PathBuf> {
        registry::stored(&self.file("storage"), digest)
    }

    /// Writes an artifact as a layout and pushes it with skopeo: not everything in a registry was made by weftctl.
    pub(super) fn push_by_skopeo(
        &self,
        to: &str,
        config: (&str, &[u8]),
        layer: (&str, &[u8]),
        layer_notes: Value,
    ) -> Result<()> {
        let dir = self.file("handmade");
        if dir.exists() {
            fs::remove_dir_all(&dir)?;
        }
        fs::create_dir_all(dir.join("blobs/sha256"))?;
        let write_blob = |kind: &str, bytes: &[u8]| -> Result<Value> {
            let file = dir.join("blob");
            fs::write(&file, bytes)?;
            let digest = sha256(&file)?;
            fs::rename(&file, dir.join("blobs/sha256").join(&digest))?;
            Ok(json!({ "mediaType": kind, "digest": format!("sha256:{digest}"), "size": bytes.len() }))
        };
        let (config, mut layer) = (write_blob(config.0, config.1)?, write_blob(layer.0, layer.1)?);
        if layer_notes != Value::Null {
            layer["annotations"] = layer_notes;
        }
        let kind = "application/vnd.oci.image.manifest.v1+json";
        let manifest = json!({ "schemaVersion": 2, "mediaType": kind, "config": config, "layers": [layer] });
        let mut entry = write_blob(kind, manifest.to_string().as_bytes())?;
        entry["annotations"] = json!({ "org.opencontainers.image.ref.name": "it" });
        fs::write(dir.join("oci-layout"), r#"{"imageLayoutVersion": "1.0.0"}"#)?;
        fs::write(dir.join("index.json"), json!({ "schemaVersion": 2, "manifests": [entry] }).to_string())?;
        let (from, to) = (format!("oci:{}:it", dir.display()), format!("docker://{to}"));
        self.run(&["skopeo", "--insecure-policy", "copy", "--quiet", "--dest-tls-verify=false", &from, &to])?;
        Ok(())
    }
}

/// Returns a text of a JSON document.
pub(super) fn text_at(value: &Value, pointer: &str) -> Result<String> {
    let text = value.pointer(pointer).and_then(Value::as_str);
    Ok(text.with_context(|| format!("no {pointer} in {value}"))?.to_owned())
}

/// Returns a file's digest as coreutils computes it.
pub(super) fn sha256(file: &Path) -> Result<String> {
    let output = Command::new("sha256sum").arg(file).output().context("run sha256sum")?;
    let line = String::from_utf8(output.stdout)?;
    match line.split_whitespace().next() {
        Some(digest) if digest.len() == 64 => Ok(digest.to_owned()),
        _ => bail!("sha256sum said {line:?}"),
    }
}

/// Returns the digest in a reference.
pub(super) fn digest_of(reference: &str) -> Result<&str> {
    Ok(reference.rsplit_once('@').context("a reference with a digest")?.1)
}
