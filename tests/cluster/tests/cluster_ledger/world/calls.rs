//! Calls of a node's plugins, as a runtime makes them.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use weft_kit::cni::{Call, Reply};
use weft_kit::process::Place;
use weft_kit::programs;

use super::{Caller, Node, PATIENCE, Pod, one_address};

impl Node {
    /// Returns the common configuration of all nodes; only the socket's path differs, because the nodes share a file
    /// system here.
    pub(crate) fn conf(&self) -> Value {
        let mut ledger = self.ledger.clone();
        ledger["socket"] = json!(self.socket());
        ledger["deadlineMs"] = json!(6000);
        json!({
            "cniVersion": "1.1.0", "name": "storage", "type": "bridge", "bridge": "storage0",
            "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.50.0.0/24"}]], "ledger": ledger},
        })
    }

    /// Returns a call as a runtime makes it.
    pub(crate) fn call(&self, verb: &str, pod: &Pod, conf: &Value) -> Call {
        let uid = format!("uid-{}", pod.container);
        self.caller().call(verb, (&pod.container, &uid), pod.netns.path(), conf)
    }

    /// Returns a call for a sandbox of a pod with this name and uid.
    pub(crate) fn call_of(&self, verb: &str, sandbox: &Pod, (name, uid): (&str, &str), conf: &Value) -> Call {
        let mut call = self.call(verb, sandbox, conf);
        call.args = Some(format!("IgnoreUnknown=1;K8S_POD_NAMESPACE=ns;K8S_POD_NAME={name};K8S_POD_UID={uid}"));
        call
    }

    /// Runs an ADD for a sandbox of a pod that must succeed, and returns the address.
    pub(crate) fn add_of(&self, sandbox: &Pod, of: (&str, &str), conf: &Value) -> Result<String> {
        one_address(&self.succeed(|| self.run_call(&self.call_of("ADD", sandbox, of, conf)))?, sandbox)
    }

    /// Runs one verb of weft, on the cluster ledger.
    pub(crate) fn run(&self, verb: &str, pod: &Pod) -> Result<Reply> {
        self.run_call(&self.call(verb, pod, &self.conf()))
    }

    /// Runs an ADD that is killed after `limit`.
    pub(crate) fn killed_add(&self, pod: &Pod, limit: Duration) -> Result<()> {
        let mut call = self.call("ADD", pod, &self.conf());
        call.limit = limit;
        ensure!(self.run_call(&call).is_err(), "weft was to be killed, and ended before");
        Ok(())
    }

    /// Returns what is needed to call weft here.
    pub(crate) fn caller(&self) -> Caller {
        let (bin, state) = (self.installation.bin().to_owned(), self.installation.state().to_owned());
        Caller { bin, place: self.netns.place(), state }
    }

    /// Returns the program and its place, for a call on a thread of its own.
    pub(crate) fn program(&self) -> (PathBuf, Place) {
        (self.installation.bin().join("bridge"), self.netns.place())
    }

    /// Runs a call of this node's weft.
    pub(crate) fn run_call(&self, call: &Call) -> Result<Reply> {
        call.run(&self.installation.bin().join("bridge"), &self.wefts_place()?)
    }

    /// Runs an ADD like a runtime: repeats it while the answer is code 11. On a busy machine an API server may take
    /// longer than an ADD waits.
    pub(crate) fn succeed(&self, add: impl Fn() -> Result<Reply>) -> Result<Value> {
        let end = Instant::now() + PATIENCE;
        loop {
            let reply = add()?;
            let is_tried_again = reply.error().is_ok_and(|error| error.code == 11) && Instant::now() < end;
            if !is_tried_again {
                return reply.result().with_context(|| self.log());
            }
        }
    }

    /// Runs an ADD that must succeed and returns the address, on which result and kernel agree.
    pub(crate) fn add(&self, pod: &Pod) -> Result<String> {
        one_address(&self.succeed(|| self.run("ADD", pod))?, pod)
    }

    /// The same with another configuration.
    pub(crate) fn add_with(&self, pod: &Pod, conf: &Value) -> Result<String> {
        one_address(&self.succeed(|| self.run_call(&self.call("ADD", pod, conf)))?, pod)
    }

    /// Runs a verb of weft as an IPAM plugin. No link is made.
    pub(crate) fn ipam(&self, verb: &str, pod: &Pod, conf: &Value) -> Result<Reply> {
        self.call(verb, pod, conf).run(&self.installation.bin().join("weft-ipam"), &self.netns.place())
    }

    /// Runs an ADD as an IPAM plugin that must succeed, and returns the address.
    pub(crate) fn ipam_add(&self, pod: &Pod, conf: &Value) -> Result<String> {
        let result = self.succeed(|| self.ipam("ADD", pod, conf))?;
        let address = result.pointer("/ips/0/address").and_then(Value::as_str).context("no address in the result")?;
        Ok(address.split('/').next().unwrap_or_default().to_owned())
    }

    /// Runs a DEL as an IPAM plugin that must succeed.
    pub(crate) fn ipam_del(&self, pod: &Pod, conf: &Value) -> Result<()> {
        self.ipam("DEL", pod, conf)?.expect_quiet()
    }

    /// Runs a DEL with another configuration that must succeed.
    pub(crate) fn del_with(&self, pod: &Pod, conf: &Value) -> Result<()> {
        self.run_call(&self.call("DEL", pod, conf))?.expect_quiet()
    }

    /// Runs an ADD of Debian's bridge and host-local, with one configuration for all nodes and this node's own
    /// directory.
    pub(crate) fn stock_add(&self, pod: &Pod) -> Result<String> {
        let dir = programs::reference_dir().map_err(anyhow::Error::msg)?;
        let data = self.installation.state().with_file_name("stock");
        let conf = json!({
            "cniVersion": "1.0.0", "name": "stock", "type": "bridge", "bridge": "stock0",
            "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.60.0.0/24"}]], "dataDir": data},
        });
        let mut call = self.call("ADD", pod, &conf);
        call.path = Some(dir.display().to_string());
        one_address(&call.run(&dir.join("bridge"), &self.netns.place())?.result()?, pod)
    }

    /// Runs a DEL that must succeed.
    pub(crate) fn del(&self, pod: &Pod) -> Result<()> {
        self.run("DEL", pod)?.expect_quiet()
    }
}
