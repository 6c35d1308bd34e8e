//! R38 to R41: IPAMClaims that a pod's annotation names, for virtual machines that move and sleep. The suite `cluster_ledger`
//! has more of them, with several nodes.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use weft_cluster::kube::NODE;
use weft_cluster::pods::{PodNode, Sandbox};
use weft_cluster::scene::bridge;
use weft_kit::cni::Reply;
use weft_kit::dhcp::{Daemon, PATIENCE, wait};

use crate::Scene;
use crate::field::another;

/// Where a definition's network finds the agent.
const SOCKET: &str = "/run/weft/agent.sock";
/// The claims of weft's ledger.
const ADDRESSES: &str = "/apis/ipam.weft.dev/v1alpha1/addressclaims";

/// A node whose agent serves the cluster ledger, and a network on it.
struct Site {
    scene: Scene,
    agent: Option<Daemon>,
}

/// A pod with the network.
struct Vm {
    name: &'static str,
    uid: String,
    sandbox: Sandbox,
}

impl Site {
    fn new(mut scene: Scene, subnet: u8) -> Result<Self> {
        scene.api.serve_ledger()?;
        scene.api.connect(scene.node.netns())?;
        std::fs::create_dir_all(Path::new(SOCKET).parent().context("a directory")?)?;
        scene.conf["agentSocket"] = json!(SOCKET);
        let ranges = json!([[{"subnet": format!("10.{subnet}.0.0/24")}]]);
        let ipam =
            json!({"type": "host-local", "ranges": ranges, "ledger": {"type": "kubernetes", "deadlineMs": 10_000}});
        scene.nad("storage", &bridge("storage", subnet, &json!({"ipam": ipam})))?;
        let mut site = Self { scene, agent: None };
        site.start_agent()?;
        Ok(site)
    }

    fn start_agent(&mut self) -> Result<()> {
        let place = self.scene.node.netns().place();
        self.agent = Some(self.scene.api.agent(&place, (self.scene.node.state(), Path::new(SOCKET)), NODE, &[])?);
        Ok(())
    }

    fn log(&self) -> String {
        self.agent.as_ref().map(Daemon::log).unwrap_or_default()
    }

    fn claims(&self) -> String {
        format!("/apis/k8s.cni.cncf.io/v1alpha1/namespaces/{}/ipamclaims", self.scene.namespace)
    }

    /// Makes an IPAMClaim, as the controller of virtual machines does.
    fn make(&self, name: &str) -> Result<Value> {
        let owner =
            json!({"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachine", "name": name, "uid": "uid-of-the-vm"});
        let claim = json!({"apiVersion": "k8s.cni.cncf.io/v1alpha1", "kind": "IPAMClaim",
            "metadata": {"name": name, "ownerReferences": [owner]},
            "spec": {"network": "storage", "interface": "net1"}});
        self.scene.api.rest().create(&self.claims(), &claim)
    }

    fn claim(&self, name: &str) -> Result<Value> {
        self.scene.api.rest().get(&format!("{}/{name}", self.claims()))?.context("no IPAMClaim")
    }

    /// Returns the addresses in weft's ledger.
    fn ledger(&self) -> Result<Vec<String>> {
        let list = self.scene.api.rest().get(ADDRESSES)?.context("no ledger")?;
        let items = list["items"].as_array().into_iter().flatten();
        Ok(items.map(|item| item["spec"]["address"].as_str().unwrap_or_default().to_owned()).collect())
    }

    /// Makes a pod with the network, and with an IPAMClaim.
    fn vm(&self, name: &'static str, claim: Option<&str>) -> Result<Vm> {
        let mut element = json!({"name": "storage"});
        if let Some(claim) = claim {
            element["ipam-claim-reference"] = json!(claim);
        }
        let (uid, sandbox) = another(&self.scene, name, &json!([element]).to_string())?;
        Ok(Vm { name, uid, sandbox })
    }

    fn run(&self, verb: &str, vm: &Vm) -> Result<Reply> {
        let env = PodNode::env(verb, &vm.sandbox, (&self.scene.namespace, vm.name, &vm.uid));
        self.scene.node.call(&env, &self.scene.conf)
    }

    /// Attaches a pod, and returns its address on the network. A busy server is asked again.
    fn add(&self, vm: &Vm) -> Result<String> {
        let mut reply = self.run("ADD", vm)?;
        wait(PATIENCE, "an ADD", || {
            if reply.error().is_ok_and(|error| error.code == 11) {
                reply = self.run("ADD", vm)?;
                return Ok(false);
            }
            Ok(true)
        })?;
        reply.result().with_context(|| self.log())?;
        let netns = vm.sandbox.netns.as_ref().context("a namespace")?;
        let text = netns.line("ip -j -4 address show dev net1")?.text();
        let links: Value = serde_json::from_str(&text)?;
        links.pointer("/0/addr_info/0/local").and_then(Value::as_str).map(str::to_owned).context(text)
    }

    /// Detaches a pod, and waits until the ledger knows.
    fn del(&self, vm: &Vm) -> Result<()> {
        self.run("DEL", vm)?.expect_quiet()?;
        let store = self.scene.node.state().join("weft.db").display().to_string();
        let sql = "SELECT count(*) FROM remote_addresses WHERE state = 2";
        let argv = ["sqlite3", "-cmd", ".timeout 10000", &store, sql];
        let tombstones = || -> Result<String> { Ok(self.scene.node.netns().run(&argv)?.text().trim().to_owned()) };
        wait(PATIENCE, "the drain", || Ok(tombstones()? == "0")).with_context(|| self.log())
    }

    /// Waits until the ledger has so many addresses.
    fn wait_for(&self, count: usize) -> Result<()> {
        wait(PATIENCE, "the ledger", || Ok(self.ledger()?.len() == count))
            .with_context(|| format!("{:?}\n{}", self.ledger(), self.log()))
    }

    /// Deletes an IPAMClaim; its address is free then.
    fn end(&self, name: &str) -> Result<()> {
        self.scene.api.rest().delete(&format!("{}/{name}", self.claims()))?;
        self.scene.api.weftctl(&["ledger", "reclaim"])?;
        self.wait_for(0)?;
        self.scene.nothing_left()
    }
}

/// R38: the resource; a pod that names an IPAMClaim which does not exist gets no network; with it, the status has the
/// addresses, the pod and a condition.
pub(crate) fn resource(scene: Scene) -> Result<()> {
    let site = Site::new(scene, 51)?;
    let rest = site.scene.api.rest();
    for spec in [json!({"network": "storage"}), json!({"interface": "net1"})] {
        let claim = json!({"apiVersion": "k8s.cni.cncf.io/v1alpha1", "kind": "IPAMClaim", "metadata": {"name": "half"},
                           "spec": spec});
        let (code, answer) = rest.call("POST", &site.claims(), Some(&claim))?;
        ensure!(code == 422, "{spec}: {code} {answer}");
    }
    let vm = site.vm("vm-pod", Some("vm"))?;
    let error = site.run("ADD", &vm)?.error()?;
    ensure!(error.msg.contains(&format!("{}/vm", site.scene.namespace)), "{error:?}");
    site.scene.nothing_left()?;
    ensure!(site.ledger()?.is_empty(), "{:?}", site.ledger()?);
    site.make("vm")?;
    let address = site.add(&vm)?;
    let status = site.claim("vm")?["status"].take();
    ensure!(status["ips"] == json!([format!("{address}/24")]), "{status}");
    ensure!(status["ownerPod"]["name"] == "vm-pod", "{status}");
    let condition = &status["conditions"][0];
    ensure!(condition["type"] == "IPsAllocated" && condition["status"] == "True", "{status}");
    site.del(&vm)?;
    site.end("vm")
}

/// R39: the controller's part is left as it is: weft writes the status alone, and makes and deletes no IPAMClaim.
pub(crate) fn status_alone(scene: Scene) -> Result<()> {
    let site = Site::new(scene, 52)?;
    let made = site.make("vm")?;
    let vm = site.vm("vm-pod", Some("vm"))?;
    site.add(&vm)?;
    site.del(&vm)?;
    let left = site.claim("vm")?;
    ensure!(left["spec"] == made["spec"], "{left}");
    for key in ["uid", "ownerReferences", "finalizers", "labels", "annotations", "generation"] {
        ensure!(left["metadata"][key] == made["metadata"][key], "{key}: {left}");
    }
    ensure!(left["status"]["ips"].is_array(), "{left}");
    let all = site.scene.api.rest().get(&site.claims())?.context("IPAMClaims")?;
    ensure!(all["items"].as_array().is_some_and(|all| all.len() == 1), "{all}");
    site.end("vm")
}

/// R40: the address stays while the IPAMClaim exists, whatever becomes of the pods; then it is free.
pub(crate) fn address_is_kept(scene: Scene) -> Result<()> {
    let site = Site::new(scene, 53)?;
    site.make("vm")?;
    let (first, second) = (site.vm("first", Some("vm"))?, site.vm("second", Some("vm"))?);
    let other = site.vm("other", None)?;
    let address = site.add(&first)?;
    // It starts again on this node before its first pod is gone: that one has the address.
    let error = site.run("ADD", &second)?.error()?;
    ensure!(error.code == 11 && error.msg.contains("another sandbox with IPAMClaim"), "{error:?}");
    ensure!(error.msg.contains(&address), "{error:?}");
    site.del(&first)?;
    site.scene.nothing_left()?;
    site.scene.api.weftctl(&["ledger", "reclaim"])?;
    ensure!(site.ledger()? == [address.clone()], "{:?}, not {address}", site.ledger()?);
    let elsewhere = site.add(&other)?;
    ensure!(elsewhere != address, "{address} was given to somebody else");
    let again = site.add(&second)?;
    ensure!(again == address, "the virtual machine had {address} and woke up with {again}");
    site.del(&other)?;
    site.del(&second)?;
    site.wait_for(1)?;
    site.end("vm")
}

/// R41: the ledger has lost the address, and the agent starts: it is claimed again before any is given out.
pub(crate) fn marked_again(scene: Scene) -> Result<()> {
    let mut site = Site::new(scene, 54)?;
    site.make("vm")?;
    let (vm, other) = (site.vm("vm-pod", Some("vm"))?, site.vm("other", None)?);
    // host-local gives out the lowest one that is free.
    let address = site.add(&vm)?;
    site.del(&vm)?;
    site.wait_for(1)?;
    drop(site.agent.take());
    site.scene.api.rest().delete(ADDRESSES)?;
    site.wait_for(0)?;
    site.start_agent()?;
    let elsewhere = site.add(&other)?;
    ensure!(elsewhere != address, "{address} was given to somebody else\n{}", site.log());
    ensure!(site.ledger()?.contains(&address), "{:?}, without {address}", site.ledger()?);
    site.del(&other)?;
    site.wait_for(1)?;
    site.end("vm")
}
