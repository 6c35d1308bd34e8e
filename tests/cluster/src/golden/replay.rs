//! Replays one case on a node with an API server.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::{Case, Step, Then};
use crate::api::{Api, Definition, network_status};
use crate::fake;
use crate::pods::{PodNode, Sandbox};

/// Directories of the node that a case writes to, and that are cleared before
/// it.
const CLEARED: &[&str] =
    &["/opt/cni/bin", "/etc/cni/multus", "/etc/cni/net.d", "/var/lib/cni", "/var/lib/kubelet", "/run/k8s.cni.cncf.io"];

/// Names under which the fake plugin is installed.
const FAKES: &[&str] = &["fake", "fake-b", "fake-c", "rec-bridge", "rec-macvlan"];

/// Stock plugins that the `rec-` ones call for addresses.
const STOCK: &[&str] = &["static", "host-local"];

/// The environment of a case.
pub struct Bench<'a> {
    /// The cluster.
    pub api: &'a dyn Api,
    /// The fake plugin's program.
    pub fake: PathBuf,
}

/// The outcome of each verb, with its step's number.
#[derive(Debug, Clone, Default)]
pub struct Outcome {
    /// Step number, recorded outcome, actual outcome.
    pub verbs: Vec<(usize, Then, Then)>,
}

/// Symbols for values that differ between runs.
struct Names(Vec<(String, &'static str)>);

impl Names {
    fn insert_real_values(&self, text: &str) -> String {
        self.0.iter().fold(text.to_owned(), |text, (real, name)| text.replace(name, real))
    }

    fn replace_real_values(&self, text: &str) -> String {
        self.0.iter().fold(text.to_owned(), |text, (real, name)| text.replace(real.as_str(), name))
    }

    fn fill_value(&self, value: &Value) -> Result<Value> {
        Ok(serde_json::from_str(&self.insert_real_values(&value.to_string()))?)
    }

    fn hide_value(&self, value: &Value) -> Result<Value> {
        Ok(serde_json::from_str(&self.replace_real_values(&value.to_string()))?)
    }
}

/// A running case.
struct Run<'a> {
    bench: &'a Bench<'a>,
    case: &'a Case,
    node: PodNode,
    sandbox: Sandbox,
    names: Names,
    uid: String,
}

/// Replays a case.
///
/// # Errors
/// It cannot be set up or executed. A different outcome is not an error.
pub fn replay(bench: &Bench<'_>, case: &Case) -> Result<Outcome> {
    clear()?;
    fake::install(&bench.fake, Path::new("/opt/cni/bin"), FAKES)?;
    fake::reset(&case.given.fake_rules)?;
    let reference = weft_kit::programs::reference_dir().map_err(anyhow::Error::msg)?;
    for name in STOCK {
        std::os::unix::fs::symlink(reference.join(name), Path::new("/opt/cni/bin").join(name))
            .context("link a stock plugin")?;
    }
    bench.api.restrict(case.given.kubeconfig_user_may.as_deref())?;
    for definition in &case.given.nads {
        bench.api.put_definition(definition)?;
    }
    let uid = if case.given.pod_absent { "no-such-uid".to_owned() } else { bench.api.create_pod(&case.given.pod)? };
    let node = PodNode::new(None)?;
    let id = format!("{:0>64}", case.id);
    let sandbox = node.sandbox(&id)?;
    for line in &case.given.node_prepared_with {
        node.netns().line(line)?;
    }
    for line in &case.given.sandbox_prepared_with {
        sandbox.netns.as_ref().context("no sandbox")?.line(line)?;
    }
    let second = format!("{:f>64}", case.id);
    let names =
        Names(vec![(id, "@CID@"), (second, "@CID2@"), (sandbox.path.clone(), "@NETNS@"), (uid.clone(), "@UID@")]);
    let run = Run { bench, case, node, sandbox, names, uid };
    let outcome = run.run_all();
    for definition in &case.given.nads {
        bench.api.delete_definition(&definition.namespace, &definition.name)?;
    }
    bench.api.delete_pod(&case.given.pod.namespace, &case.given.pod.name)?;
    bench.api.restrict(None)?;
    bench.api.take_events()?;
    outcome
}

fn clear() -> Result<()> {
    for dir in CLEARED {
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            let path = entry.path();
            let gone =
                if path.is_dir() && !path.is_symlink() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
            gone.with_context(|| format!("remove {}", path.display()))?;
        }
    }
    Ok(())
}

impl Run<'_> {
    fn run_all(mut self) -> Result<Outcome> {
        let given = &self.case.given;
        if !given.conf_dir_absent {
            fs::create_dir_all("/etc/cni/multus/net.d").context("create the confDir")?;
        }
        for (path, content) in &given.node_files {
            self.write(path, content)?;
        }
        self.bench.api.take_events()?;
        self.bench.api.settle()?;
        let mut outcome = Outcome::default();
        for (index, step) in self.case.steps.iter().enumerate() {
            match (&step.then, step.verb.as_str()) {
                (Some(then), verb) if verb.chars().all(|letter| letter.is_ascii_uppercase()) => {
                    let now = self.verb(step).with_context(|| format!("step {index}: {verb}"))?;
                    outcome.verbs.push((index, then.clone(), now));
                }
                (_, change) => self.change(change, step).with_context(|| format!("step {index}: {change}"))?,
            }
        }
        Ok(outcome)
    }

    fn write(&self, path: &str, content: &Value) -> Result<()> {
        let path = PathBuf::from(self.names.insert_real_values(path));
        fs::create_dir_all(path.parent().unwrap_or(Path::new("/"))).context("create a directory")?;
        let text = match content {
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        fs::write(&path, self.names.insert_real_values(&text)).with_context(|| format!("write {}", path.display()))
    }

    fn conf(&self, step: &Step) -> Result<Value> {
        let mut conf = step.multus_conf.clone().unwrap_or_else(|| self.case.given.multus_conf.clone());
        conf["agentSocket"] = Value::String(self.bench.api.socket());
        for (key, value) in &step.stdin_added {
            conf[key] = self.names.fill_value(value)?;
        }
        Ok(conf)
    }

    fn env(&self, step: &Step) -> BTreeMap<String, Option<String>> {
        let pod = &self.case.given.pod;
        let mut env = PodNode::env(&step.verb, &self.sandbox, (&pod.namespace, &pod.name, &self.uid));
        for (key, value) in &step.env_changed {
            env.insert(key.clone(), value.as_ref().map(|value| self.names.insert_real_values(value)));
        }
        env
    }

    fn verb(&mut self, step: &Step) -> Result<Then> {
        let before = fake::calls()?.len();
        let conf = if step.verb == "VERSION" { serde_json::json!({"cniVersion": "1.1.0"}) } else { self.conf(step)? };
        let env = self.env(step);
        let reply = thread::scope(|scope| -> Result<_> {
            let node = &self.node;
            let at_work = scope.spawn(move || node.call(&env, &conf));
            if let Some(during) = &step.during {
                thread::sleep(Duration::from_millis(during.after_ms));
                self.act_during(&during.verb)?;
            }
            at_work.join().map_err(|_panic| anyhow::anyhow!("the call panicked"))?
        })?;
        let calls = fake::calls()?;
        let calls: Vec<fake::Call> = calls
            .into_iter()
            .skip(before)
            .filter(|call| call.env("CNI_COMMAND") != "VERSION")
            .map(|call| Ok(serde_json::from_value(self.names.hide_value(&serde_json::to_value(call)?)?)?))
            .collect::<Result<_>>()?;
        let pod = &self.case.given.pod;
        let stdout = match reply.stdout.as_slice() {
            [] => Value::Null,
            text => self.names.hide_value(&serde_json::from_slice(text).context("stdout is no JSON document")?)?,
        };
        let kernel = match (&step.then, &self.sandbox.netns) {
            (Some(Then { kernel: Some(_), .. }), Some(netns)) => Some(super::compare::kernel(netns)?),
            _ => None,
        };
        Ok(Then {
            exit: reply.status.unwrap_or(-1),
            stdout,
            delegate_calls: calls,
            events: self.bench.api.take_events()?,
            network_status: network_status(self.bench.api, &pod.namespace, &pod.name)?.unwrap_or_default(),
            kernel,
        })
    }

    /// Executes an action during a verb.
    fn act_during(&self, verb: &str) -> Result<()> {
        let pod = &self.case.given.pod;
        match verb {
            "DEL" => {
                let env = PodNode::env("DEL", &self.sandbox, (&pod.namespace, &pod.name, &self.uid));
                let mut conf = self.case.given.multus_conf.clone();
                conf["agentSocket"] = Value::String(self.bench.api.socket());
                self.node.call(&env, &conf).map(drop)
            }
            "pod-delete" => self.bench.api.delete_pod(&pod.namespace, &pod.name),
            "pod-recreate" => {
                self.bench.api.delete_pod(&pod.namespace, &pod.name)?;
                self.bench.api.create_pod(pod).map(drop)
            }
            other => bail!("nobody knows how to do {other:?} meanwhile"),
        }
    }

    fn change(&mut self, change: &str, step: &Step) -> Result<()> {
        let text = |key: &str| step.more.get(key).and_then(Value::as_str).unwrap_or_default();
        let pod = &self.case.given.pod;
        match change {
            "nad-update" => {
                let definition: Definition = serde_json::from_value(step.more.get("nad").cloned().unwrap_or_default())?;
                self.bench.api.put_definition(&definition)?;
            }
            "nad-delete" => self.bench.api.delete_definition(text("namespace"), text("name"))?,
            "pod-delete" => self.bench.api.delete_pod(&pod.namespace, &pod.name)?,
            "pod-recreate" => {
                self.bench.api.delete_pod(&pod.namespace, &pod.name)?;
                let uid = self.bench.api.create_pod(pod)?;
                self.names.0.push((uid, "@UID2@"));
            }
            "pod-annotate" => {
                let annotations = step.more.get("annotations").cloned().unwrap_or_default();
                self.bench.api.annotate_pod(&pod.namespace, &pod.name, &serde_json::from_value(annotations)?)?;
            }
            "file-write" => self.write(text("path"), step.more.get("content").unwrap_or(&Value::Null))?,
            // Files of Multus' own cache do not exist.
            "file-remove" => drop(fs::remove_file(self.names.insert_real_values(text("path")))),
            "plugin-add" => {
                let link = Path::new("/opt/cni/bin").join(text("type"));
                std::os::unix::fs::symlink(&self.bench.fake, link).context("add a plugin")?;
            }
            "plugin-remove" => {
                fs::remove_file(Path::new("/opt/cni/bin").join(text("type"))).context("remove a plugin")?
            }
            "kubelet" => self.bench.api.give_devices(step.more.get("podresources").unwrap_or(&Value::Null))?,
            "netns-remove" => drop(self.sandbox.netns.take()),
            other => bail!("nobody knows how to do {other:?}"),
        }
        self.bench.api.settle()
    }
}
