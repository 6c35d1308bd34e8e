//! `weft-pod` as a whole program, with a stand-in for the agent: real namespaces, our own delegates and another
//! vendor's.

mod nested;
mod orphans;
mod ours;
mod status;
mod theirs;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use weft_cluster::api::{Api, Definition, Pod};
use weft_cluster::fake::{self, Rule};
use weft_cluster::pods::{PodNode, Sandbox};
use weft_cluster::standin::StandIn;
use weft_kit::cni::Reply;
use weft_kit::netns::NetNs;
use weft_kit::programs::Installation;
use weft_kit::sandbox;
use weft_kit::suite::{Need, Suite};

fn main() -> ExitCode {
    sandbox::enter();
    let ours = [Need::Sandbox, Need::Weft, Need::Weftctl];
    let theirs = [Need::Sandbox, Need::Weft];
    let beside = [Need::Sandbox, Need::Weft, Need::Weftctl, Need::Reference];
    let mut suite = Suite::new();
    suite.test("r21-r28-every-network-as-listed", &ours, || with_policies(ours::every_network));
    suite.test("r17-default-route-moves", &ours, || with_policies(ours::default_route));
    suite.test("r17-empty-list-keeps-its-own", &ours, || with_policies(ours::default_route_empty));
    suite.test("r17-several-gateways-and-families", &ours, || with_policies(ours::default_route_many));
    suite.test("r17-an-unreachable-gateway-takes-all-back", &ours, || with_policies(ours::default_route_unreachable));
    suite.test("policies-see-the-labels-of-the-api-server", &ours, || with_policies(ours::labels));
    suite.test("r30-a-failure-takes-back-those-before", &ours, || with_policies(ours::rollback));
    let failing = [Need::Sandbox, Need::Weft, Need::Weftctl, Need::WeftFailing];
    suite.test("rollback-at-every-op-of-four-networks", &failing, || {
        let weft = weft_kit::programs::weft_failing().map_err(anyhow::Error::msg)?;
        ours::rollback_at_every_op(Scene::running(&weft, Some(Installation::pristine()?.state()))?)
    });
    suite.test("r31-del-needs-the-journal-alone", &ours, || with_policies(ours::del_alone));
    suite.test("r31-a-failed-del-is-retried", &theirs, || bare(theirs::retried_del));
    suite.test("field-11-dels-of-what-was-never-added", &theirs, || bare(theirs::never_added));
    suite.test("field-12-del-gets-what-add-got", &theirs, || bare(theirs::same_conf));
    suite.test("no-agent-is-code-11-naming-the-socket", &theirs, || bare(theirs::no_agent));
    suite.test("field-3-status-beside-a-silent-agent", &theirs, || bare(theirs::silent_agent));
    suite.test("field-3-status-has-one-deadline", &ours, || with_policies(status::one_deadline));
    suite.test("status-looks-at-every-default-network", &theirs, || bare(status::every_default_network));
    suite.test("status-of-our-plugins-whatever-their-version", &ours, || with_policies(status::old_version));
    suite.test("a-network-runs-no-weft-pod", &theirs, || bare(nested::refused));
    suite.test("a-plugin-of-a-network-runs-no-weft-pod", &theirs, || bare(nested::relayed));
    suite.test("field-4-del-spares-the-namespace-of-another-pod", &theirs, || bare(theirs::other_netns));
    suite.test("a-del-before-one-of-our-networks-wins", &failing, || {
        let weft = weft_kit::programs::weft_failing().map_err(anyhow::Error::msg)?;
        orphans::del_before_ours(Scene::running(&weft, Some(Installation::pristine()?.state()))?)
    });
    suite.test("del-removes-what-a-killed-add-left", &ours, || with_policies(orphans::killed));
    suite.test("del-and-gc-need-no-entry-of-the-pod", &ours, || with_policies(orphans::without_entry));
    suite.test("gc-reaches-the-default-network-of-a-definition", &theirs, || bare(theirs::gc_of_definition));
    suite.test("r13-a-foreign-link-stays-beside-ours", &ours, || with_policies(ours::foreign_link));
    suite.test("events-of-a-fallback-and-of-a-conflict", &ours, || with_policies(ours::notices));
    suite.test("refusals-of-weft-pod-are-kept", &ours, || with_policies(theirs::kept_failures));
    suite.test("field-10-r29-the-default-network-is-waited-for", &theirs, || bare(theirs::default_not_ready));
    suite.test("field-14-status-and-gc-with-two-variables", &theirs, || bare(theirs::two_variables));
    suite.test("check-reaches-every-network", &ours, || with_policies(ours::check_all));
    suite.test("gc-expands-the-runtimes-list", &ours, || with_policies(ours::gc_expands));
    suite.test("gc-of-external-plugins-gets-all-interfaces", &theirs, || bare(theirs::gc_external));
    let with_weftctl = [&theirs[..], &[Need::Weftctl]].concat();
    suite.test("weftctl-gc-removes-a-whole-pod", &with_weftctl, || bare(theirs::gc_by_hand));
    suite.test("weftctl-detach-removes-a-whole-pod", &with_weftctl, || bare(theirs::detached_by_hand));
    suite.test("a-plugin-that-hangs-is-killed", &theirs, || bare(theirs::hanging_plugin));
    suite.test("a-del-during-add-wins", &theirs, || bare(theirs::del_during_add));
    suite.test("an-old-plugin-is-called-with-its-version", &theirs, || bare(theirs::old_plugin));
    suite.test("r13-a-foreign-link-stays", &theirs, || bare(theirs::foreign_link));
    suite.test("a-second-add-is-refused", &theirs, || bare(theirs::second_add));
    suite.test("the-status-is-refused", &theirs, || bare(theirs::status_refused));
    suite.test("beside-stock-plugins", &beside, || with_policies(ours::beside_stock));
    // They share the paths of the one sandbox.
    suite.run_threads(Some(1))
}

/// A node, an agent, a pod.
struct Scene {
    node: PodNode,
    api: StandIn,
    conf: Value,
    uid: String,
    sandbox: Sandbox,
}

fn with_policies(test: fn(Scene) -> Result<()>) -> Result<()> {
    let installation = Installation::pristine()?;
    test(Scene::new(Some(installation.state()))?)
}

fn bare(test: fn(Scene) -> Result<()>) -> Result<()> {
    test(Scene::new(None)?)
}

fn bridge(name: &str, subnet: u8, more: &Value) -> Value {
    let mut conf = json!({"cniVersion": "1.1.0", "name": name, "type": "bridge", "bridge": format!("br-{name}"),
        "isGateway": true, "ipam": {"type": "host-local", "ranges": [[{"subnet": format!("10.{subnet}.0.0/24")}]]}});
    for (key, value) in more.as_object().into_iter().flatten() {
        conf[key] = value.clone();
    }
    conf
}

/// A network of another vendor.
fn vendor(name: &str) -> Value {
    json!({"cniVersion": "1.1.0", "name": name, "type": "fake"})
}

impl Scene {
    fn new(state: Option<&Path>) -> Result<Self> {
        Self::running(&weft_kit::programs::weft().map_err(anyhow::Error::msg)?, state)
    }

    /// Uses another program instead of weft.
    fn running(weft: &Path, state: Option<&Path>) -> Result<Self> {
        let program = PathBuf::from(env!("CARGO_BIN_EXE_weft-cluster-fake"));
        fake::install(&program, Path::new("/opt/cni/bin"), &["fake", "fake-b"])?;
        let node = PodNode::running(weft, state)?;
        let api = StandIn::start(&node.scratch().join("agent.sock"))?;
        let default = match state {
            Some(_) => bridge("main", 10, &json!({"isDefaultGateway": true})),
            None => vendor("main"),
        };
        let conf = json!({"cniVersion": "1.1.0", "name": "pods", "type": "weft-pod", "agentSocket": api.socket(),
                          "confDir": node.scratch().join("net.d"), "delegates": [default]});
        let sandbox = node.sandbox("sandbox-1")?;
        Ok(Self { node, api, conf, uid: String::new(), sandbox })
    }

    fn pod(&mut self, networks: &str) -> Result<()> {
        let annotations = BTreeMap::from([("k8s.v1.cni.cncf.io/networks".to_owned(), networks.to_owned())]);
        let pod = Pod { namespace: "team".to_owned(), name: "pod-1".to_owned(), annotations, ..Pod::default() };
        self.uid = self.api.create_pod(&pod)?;
        Ok(())
    }

    /// Makes a pod with labels.
    fn labelled_pod(&mut self, networks: &str, labels: &[(&str, &str)]) -> Result<()> {
        let annotations = BTreeMap::from([("k8s.v1.cni.cncf.io/networks".to_owned(), networks.to_owned())]);
        let labels = labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        let pod = Pod { namespace: "team".to_owned(), name: "pod-1".to_owned(), annotations, labels };
        self.uid = self.api.create_pod(&pod)?;
        Ok(())
    }

    fn nad(&self, name: &str, config: &Value) -> Result<()> {
        let config = Some(config.to_string());
        self.api.put_definition(&Definition {
            namespace: "team".to_owned(),
            name: name.to_owned(),
            config,
            ..Definition::default()
        })
    }

    fn run(&self, verb: &str) -> Result<Reply> {
        let env = PodNode::env(verb, &self.sandbox, ("team", "pod-1", &self.uid));
        self.node.call(&env, &self.conf)
    }

    /// Runs an ADD that fails at an op of one of its plans.
    fn failing_add(&self, plan: usize, op: usize) -> Result<Reply> {
        let mut env = PodNode::env("ADD", &self.sandbox, ("team", "pod-1", &self.uid));
        env.insert("WEFT_FAIL_PLAN".to_owned(), Some(plan.to_string()));
        env.insert("WEFT_FAIL_AT".to_owned(), Some(op.to_string()));
        self.node.call(&env, &self.conf)
    }

    fn add(&self) -> Result<Value> {
        self.run("ADD")?.result()
    }

    fn netns(&self) -> Result<&NetNs> {
        self.sandbox.netns.as_ref().context("the sandbox is gone")
    }

    /// Returns the names of the sandbox's links, without lo.
    fn links(&self) -> Result<Vec<String>> {
        let text = self.netns()?.line("ip -o link show")?.text();
        let names = text.lines().filter_map(|line| line.split([':', '@']).nth(1)).map(|name| name.trim().to_owned());
        Ok(names.filter(|name| name != "lo").collect())
    }

    fn default_routes(&self, family: &str) -> Result<Vec<String>> {
        let text = self.netns()?.run(&["ip", family, "route", "show", "default"])?.text();
        Ok(text.lines().map(|line| line.split_whitespace().take(7).collect::<Vec<_>>().join(" ")).collect())
    }

    /// Returns everything of weft on the node: journal entries, and links of the host except lo and bridges.
    fn leftovers(&self) -> Result<Vec<String>> {
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
        left.extend(text.lines().map(|line| format!("link {line}")));
        Ok(left)
    }

    fn nothing_left(&self) -> Result<()> {
        let left = self.leftovers()?;
        ensure!(left.is_empty(), "left: {left:?}");
        Ok(())
    }
}

pub(crate) fn calls() -> Result<Vec<String>> {
    let all = fake::calls()?;
    Ok(all.iter().filter(|call| call.env("CNI_COMMAND") != "VERSION").map(fake::Call::summary).collect())
}

pub(crate) fn rules(rules: Value) -> Result<()> {
    let rules: Vec<Rule> = serde_json::from_value(rules)?;
    fake::reset(&rules)
}
