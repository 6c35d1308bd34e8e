//! The multi-network rules R1 to R41, one or more trials for each, beside a real API server and a real agent: pods and
//! definitions are made by hand, `weft-pod` is executed as containerd executes it, and in `crio` as CRI-O does. Observed
//! from outside: results, calls of other vendors' plugins, objects of the API server, the kernel. `docs/weft-pod.md` has
//! the table.
//!
//! All trials share one API server and one agent. Each has a node, a sandbox and a namespace of the API server of its own.

mod claims;
mod crio;
mod definitions;
mod devices;
mod field;
mod field_node;
mod order;
mod published;
mod requests;
mod routes;
mod selection;

use std::path::Path;
use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, Result, ensure};
use serde_json::json;
use weft_cluster::api::{Api as _, Definition};
use weft_cluster::kube::RealApi;
use weft_cluster::scene::{self, calls, rules};
use weft_kit::programs::{self, Installation};
use weft_kit::sandbox;
use weft_kit::suite::{Need, Suite};

pub(crate) use weft_cluster::scene::NETWORKS;

/// A pod on a node, and the API server.
type Scene = scene::Scene<RealApi>;

/// A trial with another vendor's plugin alone.
type Trial = (&'static str, fn(Scene) -> Result<()>);

/// Trials in which another vendor's plugin writes down how it is called.
const RECORDED: &[Trial] = &[
    ("r1-the-resource-of-definitions", definitions::resource),
    ("r2-a-definition-holds-a-configuration-and-nothing-else", definitions::only_configurations),
    ("r3-names-are-those-of-objects", definitions::names),
    ("r4-the-definition-then-lists-then-files-then-failure", definitions::resolution),
    ("r5-the-definition-gives-its-name", definitions::name_of_the_network),
    ("r6-the-cni-name-may-differ", definitions::another_name),
    ("r7-both-forms-of-the-annotation", selection::both_forms),
    ("r8-private-keys-do-nothing", selection::private_keys),
    ("r9-a-name-is-required", selection::name_is_required),
    ("r10-the-namespace-is-the-pods", selection::namespace),
    ("r11-ips-need-the-capability", requests::ips),
    ("r12-a-mac-needs-the-capability", requests::mac),
    ("r13-an-interface-name-is-used-once", selection::interface),
    ("r13-a-foreign-link-stays", selection::foreign_link),
    ("r14-cni-args-reach-every-plugin", requests::cni_args),
    ("r15-port-mappings-need-the-capability", requests::port_mappings),
    ("r16-bandwidth-needs-the-capability", requests::bandwidth),
    ("r17-one-attachment-carries-the-default-route", routes::one_carrier),
    ("r18-an-infiniband-guid-needs-the-capability", requests::infiniband_guid),
    ("r19-an-ipam-claim-reference-is-handed-on", requests::ipam_claim_reference),
    ("r20-the-device-of-the-annotation", selection::device_of_the_annotation),
    ("r21-the-same-network-many-times", selection::many_times),
    ("r22-generated-names-count-positions", selection::generated_names),
    ("r23-the-status-is-the-text-of-multus", published::status_text),
    ("r23-one-write-for-a-pod", published::one_write),
    ("r24-the-status-is-about-the-first-interface", published::first_interface),
    ("r25-the-keys-of-the-status", published::keys),
    ("r26-device-info", published::device_info),
    ("r27-others-may-change-the-status", published::changed_by_others),
    ("r28-the-default-network-comes-first", order::default_network),
    ("r29-the-default-network-is-waited-for", order::not_ready),
    ("r30-the-first-failure-ends-an-add", order::first_failure),
    ("r31-a-failed-del-is-retried", order::retried_del),
    ("r32-one-after-the-other", order::one_after_the_other),
    ("r33-definitions-of-other-namespaces", order::isolation),
    ("r34-the-runtimes-requests-are-for-the-default-network", requests::runtime_config),
    ("r35-lists-give-name-and-version", order::lists),
    ("r36-devices-that-kubelet-gave", devices::of_kubelet),
    ("r37-devices-of-resource-claims", devices::of_resource_claims),
    ("r37-devices-of-extended-resources", devices::of_extended_resources),
    ("crio-gc-gives-plugins-every-interface", crio::gc_of_plugins),
    ("crio-status-until-the-node-is-ready", crio::status_until_ready),
    ("field-4-a-plugin-gets-no-other-pods-namespace", field::namespaces_of_plugins),
    ("field-10-the-default-network-is-never-replaced", field::pinned),
    ("field-11-dels-of-what-was-never-added", field::never_added),
    ("field-12-del-gets-what-add-got", field::same_conf),
    ("field-14-status-and-gc-with-two-variables", field::two_variables),
    ("field-17-the-nodes-name-is-given-never-guessed", field::node_name),
    ("field-18-a-malformed-definition-harms-its-own-pods", field::malformed),
];

/// Trials with networks of ours.
const OURS: &[Trial] = &[
    ("r11-ips-of-a-network-of-ours", requests::ips_of_ours),
    ("r12-the-mac-of-a-network-of-ours", requests::mac_of_ours),
    ("r13-a-foreign-link-stays-beside-ours", selection::foreign_link_beside_ours),
    ("r15-port-mappings-of-a-network-of-ours", requests::port_mappings_of_ours),
    ("r17-the-default-route-moves", routes::default_route_moves),
    ("r17-the-empty-list-keeps-its-own", routes::empty_list),
    ("r17-several-gateways-and-families", routes::several_gateways),
    ("r17-an-unreachable-gateway-takes-all-back", routes::unreachable_gateway),
    ("r21-r28-every-network-as-listed", selection::every_network),
    ("r30-a-failure-takes-back-those-before", order::rollback),
    ("r31-del-needs-the-journal-alone", order::del_alone),
    ("r33-a-policy-denies-by-the-pods-labels", order::denied_by_policy),
    ("r38-an-ipam-claim-and-its-status", claims::resource),
    ("r39-an-ipam-claim-is-its-controllers", claims::status_alone),
    ("r40-an-ipam-claim-keeps-its-address", claims::address_is_kept),
    ("r41-kept-addresses-are-marked-again", claims::marked_again),
    ("crio-setup-check-and-teardown", crio::pod_lifecycle),
    ("crio-check-beside-a-tentative-address", crio::tentative),
    ("crio-check-finds-what-is-wrong", crio::check_finds),
    ("crio-gc-at-its-start", crio::gc),
    ("field-1-what-no-del-comes-for-is-swept", field_node::swept),
    ("field-2-a-pod-that-is-retried-a-hundred-times", field::retried),
    ("field-4-del-whatever-the-namespaces-path", field::namespaces),
    ("field-8-the-plugin-directory-is-replaced", field_node::replaced_directory),
    ("field-15-another-program-renames-the-configuration", field_node::renamed_again_and_again),
    ("field-16-the-pods-uid-alone-decides", field_node::uid_decides),
];

fn main() -> ExitCode {
    sandbox::enter_with_processes();
    let tools = ["ip", "nft", "openssl", "sqlite3"].map(Need::Tool);
    let needs = [vec![Need::Sandbox, Need::Weft, Need::Weftctl, Need::Kubernetes], tools.into()].concat();
    let mut suite = Suite::new();
    for (name, trial) in RECORDED {
        suite.test(*name, &needs, || run(trial, None));
    }
    for (name, trial) in OURS {
        suite.test(*name, &needs, || run(trial, Some(Installation::pristine()?.state())));
    }
    let with_dhcp = [&needs[..], &[Need::Tool("dnsmasq")]].concat();
    suite.test("a-lease-that-is-over-is-an-event-of-its-pod", &with_dhcp, || {
        run(&(field_node::lease_is_over as fn(Scene) -> Result<()>), Some(Installation::pristine()?.state()))
    });
    // They share the paths of the one sandbox.
    let code = suite.run_threads(Some(1));
    // Statics are not dropped.
    API.lock().unwrap_or_else(PoisonError::into_inner).take();
    code
}

/// The API server with its agent, or why it could not be started.
static API: Mutex<Option<Result<Arc<RealApi>, String>>> = Mutex::new(None);

/// Runs a trial on a node of its own.
fn run(trial: &fn(Scene) -> Result<()>, state: Option<&Path>) -> Result<()> {
    static BEGUN: AtomicUsize = AtomicUsize::new(1);
    let mut guard = API.lock().unwrap_or_else(PoisonError::into_inner);
    let started = guard.get_or_insert_with(|| RealApi::start().map(Arc::new).map_err(|error| format!("{error:#}")));
    let api = Arc::clone(started.as_ref().map_err(|error| anyhow::anyhow!("there is no API server: {error}"))?);
    let weft = programs::weft().map_err(anyhow::Error::msg)?;
    let plugin = Path::new(env!("CARGO_BIN_EXE_weft-cluster-fake"));
    let mut scene = Scene::new(Arc::clone(&api), &weft, plugin, state)?;
    // No trial sees objects, or the agent's copies, of another one.
    scene.namespace = format!("trial-{}", BEGUN.fetch_add(1, Ordering::Relaxed));
    api.take_events()?;
    trial(scene).with_context(|| api.log())
}

/// Makes a definition.
fn put_definition(scene: &Scene, definition: Definition) -> Result<()> {
    scene.api.put_definition(&definition)
}

/// Makes the pod with networks that fail it before any plugin runs: code 7, these words in the error and in an event of the
/// pod, no status. A DEL finds nothing.
fn refused_whole(scene: &mut Scene, networks: &str, words: &str) -> Result<()> {
    rules(json!([]))?;
    scene.pod(networks)?;
    let error = scene.run("ADD")?.error().with_context(|| networks.to_owned())?;
    ensure!(error.code == 7 && error.msg.contains(words), "{networks}: {error:?}");
    ensure!(calls()?.is_empty(), "{networks}: {:?}", calls()?);
    let events = scene.api.take_events()?;
    let tells = |reason: &str| ["NoNetworkFound", "NetworksInvalid"].contains(&reason);
    let is_told = events.iter().any(|event| tells(&event.reason) && event.message.contains(words));
    ensure!(is_told && scene.status()?.is_none(), "{networks}: {events:?}");
    scene.run("DEL")?.expect_quiet()
}
