//! One pod on a node, and the cluster that knows it: what the trials of `weft-pod` have in common. Calls are those of
//! containerd: its variables, and the result of ADD as `prevResult` of later verbs.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use weft_kit::cni::Reply;
use weft_kit::netns::NetNs;

use crate::api::{self, Api, Definition, Pod};
use crate::fake::{self, Rule};
use crate::pods::{PodNode, Sandbox};

/// The annotation that selects a pod's networks.
pub const NETWORKS: &str = "k8s.v1.cni.cncf.io/networks";

/// The names under which the fake plugin is installed.
pub const FAKES: &[&str] = &["fake", "fake-b"];

/// A pod, its node and its cluster.
pub struct Scene<A> {
    /// The node.
    pub node: PodNode,
    /// The cluster.
    pub api: Arc<A>,
    /// `weft-pod`'s configuration as the runtime passes it.
    pub conf: Value,
    /// The namespace of the pod and of its definitions.
    pub namespace: String,
    /// The pod's name.
    pub name: String,
    /// The pod's uid at the API server; empty before the pod is made.
    pub uid: String,
    /// Its sandbox.
    pub sandbox: Sandbox,
    /// The runtime's stored result of ADD.
    stored: Mutex<Option<Value>>,
}

/// Returns a bridge network of ours with the subnet `10.N.0.0/24`, with more keys.
#[must_use]
pub fn bridge(name: &str, subnet: u8, more: &Value) -> Value {
    let mut conf = json!({"cniVersion": "1.1.0", "name": name, "type": "bridge", "bridge": format!("br-{name}"),
        "isGateway": true, "ipam": {"type": "host-local", "ranges": [[{"subnet": format!("10.{subnet}.0.0/24")}]]}});
    for (key, value) in more.as_object().into_iter().flatten() {
        conf[key] = value.clone();
    }
    conf
}

/// Returns a network of another vendor.
#[must_use]
pub fn vendor(name: &str) -> Value {
    json!({"cniVersion": "1.1.0", "name": name, "type": "fake"})
}

/// Returns type, verb and interface of every call of the fake plugin, without VERSION.
///
/// # Errors
/// The log cannot be read.
pub fn calls() -> Result<Vec<String>> {
    Ok(plugin_calls()?.iter().map(fake::Call::summary).collect())
}

/// Returns every call of the fake plugin, without VERSION.
///
/// # Errors
/// The log cannot be read.
pub fn plugin_calls() -> Result<Vec<fake::Call>> {
    Ok(fake::calls()?.into_iter().filter(|call| call.env("CNI_COMMAND") != "VERSION").collect())
}

/// Starts a new log of the fake plugin with these rules.
///
/// # Errors
/// A rule is malformed, or a file cannot be written.
pub fn rules(rules: Value) -> Result<()> {
    let rules: Vec<Rule> = serde_json::from_value(rules)?;
    fake::reset(&rules)
}

impl<A: Api> Scene<A> {
    /// Makes a node whose state is a copy of `state`, and an empty sandbox. With policies, the default network is a bridge
    /// of ours; without, it is another vendor's. `weft` and `plugin` are the programs.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn new(api: Arc<A>, weft: &Path, plugin: &Path, state: Option<&Path>) -> Result<Self> {
        fake::install(plugin, Path::new("/opt/cni/bin"), FAKES)?;
        let node = PodNode::running(weft, state)?;
        let default = match state {
            Some(_) => bridge("main", 10, &json!({"isDefaultGateway": true})),
            None => vendor("main"),
        };
        let conf = json!({"cniVersion": "1.1.0", "name": "pods", "type": "weft-pod", "agentSocket": api.socket(),
                          "confDir": node.scratch().join("net.d"), "delegates": [default]});
        let sandbox = node.sandbox("sandbox-1")?;
        let (namespace, name) = ("team".to_owned(), "pod-1".to_owned());
        Ok(Self { node, api, conf, namespace, name, uid: String::new(), sandbox, stored: Mutex::default() })
    }

    /// Makes the pod with these networks.
    ///
    /// # Errors
    /// The API server refuses.
    pub fn pod(&mut self, networks: &str) -> Result<()> {
        self.labelled_pod(networks, &[])
    }

    /// Makes the pod with networks and labels.
    ///
    /// # Errors
    /// The API server refuses.
    pub fn labelled_pod(&mut self, networks: &str, labels: &[(&str, &str)]) -> Result<()> {
        self.annotated_pod(&[(NETWORKS, networks)], labels)
    }

    /// Makes the pod with annotations and labels. An earlier pod of that name is deleted.
    ///
    /// # Errors
    /// The API server refuses.
    pub fn annotated_pod(&mut self, annotations: &[(&str, &str)], labels: &[(&str, &str)]) -> Result<()> {
        let map = |pairs: &[(&str, &str)]| -> BTreeMap<String, String> {
            pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
        };
        let (namespace, name) = (self.namespace.clone(), self.name.clone());
        self.api.delete_pod(&namespace, &name)?;
        let pod = Pod { namespace, name, annotations: map(annotations), labels: map(labels) };
        self.uid = self.api.create_pod(&pod)?;
        Ok(())
    }

    /// Makes or replaces a definition in the pod's namespace.
    ///
    /// # Errors
    /// The API server refuses.
    pub fn nad(&self, name: &str, config: &Value) -> Result<()> {
        self.nad_text(name, Some(&config.to_string()))
    }

    /// The same with any text as `spec.config`, or without `spec`.
    ///
    /// # Errors
    /// The API server refuses.
    pub fn nad_text(&self, name: &str, config: Option<&str>) -> Result<()> {
        self.api.put_definition(&Definition {
            namespace: self.namespace.clone(),
            name: name.to_owned(),
            config: config.map(str::to_owned),
            ..Definition::default()
        })
    }

    /// Returns containerd's variables of a verb.
    #[must_use]
    pub fn env(&self, verb: &str) -> BTreeMap<String, Option<String>> {
        PodNode::env(verb, &self.sandbox, (&self.namespace, &self.name, &self.uid))
    }

    /// Runs a verb as containerd does.
    ///
    /// # Errors
    /// It cannot be run.
    pub fn run(&self, verb: &str) -> Result<Reply> {
        let mut conf = self.conf.clone();
        let stored = || self.stored.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(result) = stored().as_ref().filter(|_result| matches!(verb, "CHECK" | "DEL")) {
            conf["prevResult"] = result.clone();
        }
        let reply = self.node.call(&self.env(verb), &conf)?;
        match verb {
            "ADD" if reply.is_ok() => *stored() = Some(reply.json()?),
            "DEL" if reply.is_ok() => *stored() = None,
            _ => {}
        }
        Ok(reply)
    }

    /// Runs an ADD that must succeed, and returns the result.
    ///
    /// # Errors
    /// It fails.
    pub fn add(&self) -> Result<Value> {
        self.run("ADD")?.result()
    }

    /// Returns the pod's network-status annotation.
    ///
    /// # Errors
    /// The API server refuses, or it is not JSON.
    pub fn status(&self) -> Result<Option<Value>> {
        api::network_status(self.api.as_ref(), &self.namespace, &self.name)
    }

    /// Returns the sandbox's network namespace.
    ///
    /// # Errors
    /// It was removed.
    pub fn netns(&self) -> Result<&NetNs> {
        self.sandbox.netns.as_ref().context("the sandbox is gone")
    }

    /// Returns the names of the sandbox's links, without lo.
    ///
    /// # Errors
    /// `ip` fails.
    pub fn links(&self) -> Result<Vec<String>> {
        let text = self.netns()?.line("ip -o link show")?.text();
        let names = text.lines().filter_map(|line| line.split([':', '@']).nth(1)).map(|name| name.trim().to_owned());
        Ok(names.filter(|name| name != "lo").collect())
    }

    /// Returns the global addresses of a link in the sandbox, with prefix lengths.
    ///
    /// # Errors
    /// There is no such link.
    pub fn addresses(&self, link: &str) -> Result<Vec<String>> {
        let text = self.netns()?.run(&["ip", "-j", "address", "show", "dev", link, "scope", "global"])?.text();
        let all: Value = serde_json::from_str(&text).with_context(|| text.clone())?;
        let infos = all.as_array().into_iter().flatten().flat_map(|link| link["addr_info"].as_array()).flatten();
        // Addresses of another scope are empty objects.
        Ok(infos.filter_map(|info| Some(format!("{}/{}", info["local"].as_str()?, info["prefixlen"]))).collect())
    }

    /// Returns the sandbox's default routes of a family (`-4` or `-6`).
    ///
    /// # Errors
    /// `ip` fails.
    pub fn default_routes(&self, family: &str) -> Result<Vec<String>> {
        let text = self.netns()?.run(&["ip", family, "route", "show", "default"])?.text();
        Ok(text.lines().map(|line| line.split_whitespace().take(7).collect::<Vec<_>>().join(" ")).collect())
    }

    /// Returns everything of weft on the node: journal entries, claims, and pairs of links.
    ///
    /// # Errors
    /// `sqlite3` or `ip` fails.
    pub fn leftovers(&self) -> Result<Vec<String>> {
        let mut left = Vec::new();
        let store = self.node.state().join("weft.db");
        if store.exists() {
            let path = store.display().to_string();
            let sql = "SELECT container_id, network, ifname, role FROM journal";
            let text = self.node.netns().run(&["sqlite3", &path, sql])?.text();
            left.extend(text.lines().map(|line| format!("entry {line}")));
            let text = self.node.netns().run(&["sqlite3", &path, "SELECT scope FROM claims WHERE state = 0"])?.text();
            left.extend(text.lines().map(|line| format!("claim {line}")));
        }
        let text = self.node.netns().line("ip -o link show type veth")?.text();
        // `up0` leads to the API server.
        left.extend(text.lines().filter(|line| !line.contains(" up0@")).map(|line| format!("link {line}")));
        Ok(left)
    }

    /// Checks that nothing of weft is left on the node.
    ///
    /// # Errors
    /// What is left.
    pub fn nothing_left(&self) -> Result<()> {
        let left = self.leftovers()?;
        ensure!(left.is_empty(), "left: {left:?}");
        Ok(())
    }
}
