//! `weft-pod` as a whole program, with a stand-in for the agent, which can be silent, slow or refuse: real namespaces, our
//! own delegates and another vendor's. The suite `conformance` has the rules, with the agent and an API server.

mod nested;
mod orphans;
mod ours;
mod status;
mod theirs;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::Result;
use weft_cluster::standin::StandIn;
use weft_kit::cni::Reply;
use weft_kit::programs::{self, Installation};
use weft_kit::sandbox;
use weft_kit::suite::{Need, Suite};

fn main() -> ExitCode {
    sandbox::enter();
    let ours = [Need::Sandbox, Need::Weft, Need::Weftctl];
    let theirs = [Need::Sandbox, Need::Weft];
    let beside = [Need::Sandbox, Need::Weft, Need::Weftctl, Need::Reference];
    let mut suite = Suite::new();
    let failing = [Need::Sandbox, Need::Weft, Need::Weftctl, Need::WeftFailing];
    suite.test("rollback-at-every-op-of-four-networks", &failing, || with_failing(ours::rollback_at_every_op));
    suite.test("no-agent-is-code-11-naming-the-socket", &theirs, || run_without_state(theirs::no_agent));
    suite.test("field-3-status-beside-a-silent-agent", &theirs, || run_without_state(theirs::silent_agent));
    suite.test("field-3-status-has-one-deadline", &ours, || with_policies(status::one_deadline));
    suite.test("status-looks-at-every-default-network", &theirs, || run_without_state(status::every_default_network));
    suite.test("status-tells-the-faults-of-the-node", &theirs, || run_without_state(status::faults_of_the_node));
    suite.test("status-of-our-plugins-whatever-their-version", &ours, || with_policies(status::old_version));
    suite.test("a-network-runs-no-weft-pod", &theirs, || run_without_state(nested::refused));
    suite.test("a-plugin-of-a-network-runs-no-weft-pod", &theirs, || run_without_state(nested::relayed));
    suite.test("a-del-before-one-of-our-networks-wins", &failing, || with_failing(orphans::del_before_ours));
    suite.test("del-removes-what-a-killed-add-left", &ours, || with_policies(orphans::killed));
    suite.test("del-and-gc-need-no-entry-of-the-pod", &ours, || with_policies(orphans::without_entry));
    suite.test("a-retry-removes-the-pods-earlier-sandboxes", &ours, || with_policies(orphans::retried));
    suite.test("a-retry-calls-no-other-vendors-plugin", &ours, || with_policies(orphans::retried_with_theirs));
    suite.test("gc-reaches-the-default-network-of-a-definition", &theirs, || {
        run_without_state(theirs::gc_of_definition)
    });
    suite.test("events-of-a-fallback-and-of-a-conflict", &ours, || with_policies(ours::notices));
    suite.test("refusals-of-weft-pod-are-kept", &ours, || with_policies(theirs::kept_failures));
    let with_weftctl = [&theirs[..], &[Need::Weftctl]].concat();
    suite.test("weftctl-gc-removes-a-whole-pod", &with_weftctl, || run_without_state(theirs::gc_by_hand));
    suite.test("weftctl-detach-removes-a-whole-pod", &with_weftctl, || run_without_state(theirs::detached_by_hand));
    suite.test("a-plugin-that-hangs-is-killed", &theirs, || run_without_state(theirs::hanging_plugin));
    suite.test("a-del-during-add-wins", &theirs, || run_without_state(theirs::del_during_add));
    suite.test("an-old-plugin-is-called-with-its-version", &theirs, || run_without_state(theirs::old_plugin));
    suite.test("a-second-add-is-refused", &theirs, || run_without_state(theirs::second_add));
    suite.test("the-status-is-refused", &theirs, || run_without_state(theirs::status_refused));
    suite.test("beside-stock-plugins", &beside, || with_policies(ours::beside_stock));
    // They share the paths of the one sandbox.
    suite.run_threads(Some(1))
}

/// A node, a stand-in of the agent, a pod.
type Scene = weft_cluster::scene::Scene<StandIn>;

fn with_policies(test: fn(Scene) -> Result<()>) -> Result<()> {
    let installation = Installation::pristine()?;
    test(make_scene(&weft()?, Some(installation.state()))?)
}

fn run_without_state(test: fn(Scene) -> Result<()>) -> Result<()> {
    test(make_scene(&weft()?, None)?)
}

fn with_failing(test: fn(Scene) -> Result<()>) -> Result<()> {
    let weft = programs::weft_failing().map_err(anyhow::Error::msg)?;
    test(make_scene(&weft, Some(Installation::pristine()?.state()))?)
}

fn weft() -> Result<PathBuf> {
    programs::weft().map_err(anyhow::Error::msg)
}

/// Makes a scene with a program as weft.
fn make_scene(weft: &Path, state: Option<&Path>) -> Result<Scene> {
    static MADE: AtomicUsize = AtomicUsize::new(0);
    let number = MADE.fetch_add(1, Ordering::Relaxed);
    let agent = StandIn::start(&sandbox::scratch().join(format!("agent-{number}.sock")))?;
    Scene::new(Arc::new(agent), weft, Path::new(env!("CARGO_BIN_EXE_weft-cluster-fake")), state)
}

/// Runs an ADD that fails at an op of one of its plans.
fn failing_add(scene: &Scene, plan: usize, op: usize) -> Result<Reply> {
    let mut env = scene.env("ADD");
    env.insert("WEFT_FAIL_PLAN".to_owned(), Some(plan.to_string()));
    env.insert("WEFT_FAIL_AT".to_owned(), Some(op.to_string()));
    scene.node.call(&env, &scene.conf)
}
