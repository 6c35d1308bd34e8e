//! The API server's own checks of weft's objects: the rules in `deploy/crds`, the freeze, and the agent's rights.

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use weft_kit::dhcp::wait;

use super::blocks::BOOT;
use super::check;
use super::cluster::Cluster;
use super::world::{Node, PATIENCE, Pod};

const NONCE: &str = "0123456789abcdef0123456789abcdef";
const OTHER: &str = "fedcba9876543210fedcba9876543210";
const FROZEN: &str = "the cluster ledger is frozen";

/// Returns an AddressClaim; `epoch` makes it a re-assertion.
fn claim(name: &str, address: &str, nonce: &str, epoch: Option<u64>) -> Value {
    let annotations = epoch.map(|epoch| json!({"ipam.weft.dev/epoch": epoch.to_string()}));
    json!({
        "apiVersion": "ipam.weft.dev/v1alpha1", "kind": "AddressClaim",
        "metadata": {"name": name, "annotations": annotations},
        "spec": {
            "domain": "default", "address": address, "prefix": 24,
            "owner": {"kind": "Pod", "namespace": "ns", "name": "web", "uid": "u1", "network": "storage",
                "interface": "net1", "slot": 0},
            "holders": [{"node": "a", "machine": "m", "storeID": "s", "bootID": "b", "nonce": nonce,
                "pod": "ns/web", "containerID": "c", "interface": "net1"}],
        },
    })
}

fn state(name: &str, epoch: u64, frozen: bool) -> Value {
    json!({"apiVersion": "ipam.weft.dev/v1alpha1", "kind": "LedgerState", "metadata": {"name": name},
        "spec": {"epoch": epoch, "frozen": frozen}})
}

/// Returns the API server's answer to an object.
fn answer_to(cluster: &Cluster, verb: &str, object: &Value) -> Result<String> {
    cluster.plane()?.kubectl(&[verb, "-f", "-"], &object.to_string())
}

pub(crate) fn accepts(cluster: &Cluster, what: &str, verb: &str, object: &Value) -> Result<()> {
    answer_to(cluster, verb, object).map(drop).with_context(|| format!("{what} has to be accepted"))
}

pub(crate) fn refuses(cluster: &Cluster, what: &str, (verb, object): (&str, &Value), text: &str) -> Result<()> {
    match answer_to(cluster, verb, object) {
        Ok(_said) => bail!("{what} was accepted"),
        Err(error) => {
            let said = format!("{error:#}");
            ensure!(said.contains(text), "{what}: {said}");
            Ok(())
        }
    }
}

/// Immutable fields, names that are too short, and existing names.
pub(crate) fn rules(cluster: &mut Cluster) -> Result<()> {
    let first = "default-0a000001";
    accepts(cluster, "a claim", "create", &claim(first, "10.0.0.1", NONCE, None))?;
    let cases = [
        ("a second claim of the name", "create", claim(first, "10.0.0.1", NONCE, None), "already exists"),
        ("what is no address", "create", claim("default-x", "10.0.0.300", NONCE, None), "IPv4 or IPv6"),
        ("another address", "replace", claim(first, "10.0.0.2", NONCE, None), "never change"),
        ("a short nonce", "create", claim("default-0a000009", "10.0.0.9", "abc", None), "nonce"),
        ("a second LedgerState", "create", state("other", 1, false), "called \"cluster\""),
    ];
    for (what, verb, object, text) in &cases {
        refuses(cluster, what, (verb, object), text)?;
    }
    let mut two = claim("default-0a000008", "10.0.0.8", NONCE, None);
    let second = claim("x", "10.0.0.8", OTHER, None)["spec"]["holders"][0].clone();
    two["spec"]["holders"].as_array_mut().context("holders")?.push(second);
    refuses(cluster, "a second holder", ("create", &two), "one holder")?;
    accepts(cluster, "another holder", "replace", &claim(first, "10.0.0.1", OTHER, None))?;
    let mut owner = claim(first, "10.0.0.1", OTHER, None);
    owner["spec"]["owner"]["uid"] = json!("u2");
    refuses(cluster, "another owner", ("replace", &owner), "never changes")?;
    let table = cluster.plane()?.kubectl(&["get", "addressclaims"], "")?;
    ensure!(["IP", "POD", "NODE", "10.0.0.1", "ns/web"].iter().all(|word| table.contains(word)), "{table}");
    cluster.plane()?.kubectl(&["delete", "addressclaims", "--all"], "").map(drop)
}

/// While frozen, the API server refuses every new claim and holder, except for re-assertions of this epoch.
pub(crate) fn freeze(cluster: &mut Cluster) -> Result<()> {
    let (first, second, third) = ("default-0a000001", "default-0a000002", "default-0a000003");
    let epoch = cluster.epoch()?;
    accepts(cluster, "a claim", "create", &claim(first, "10.0.0.1", NONCE, None))?;
    accepts(cluster, "a freeze", "apply", &state("cluster", epoch + 1, true))?;
    // The API server reads the state from its own copy.
    wait(PATIENCE, "the freeze", || match answer_to(cluster, "create", &claim(second, "10.0.0.2", NONCE, None)) {
        Ok(_said) => cluster.plane()?.kubectl(&["delete", "addressclaim", second], "").map(|_gone| false),
        Err(error) => Ok(format!("{error:#}").contains(FROZEN)),
    })?;
    let held = claim(first, "10.0.0.1", OTHER, None);
    refuses(cluster, "a holder while frozen", ("replace", &held), FROZEN)?;
    let wrong = claim(third, "10.0.0.3", NONCE, Some(epoch + 2));
    refuses(cluster, "a re-assertion of another epoch", ("create", &wrong), FROZEN)?;
    accepts(cluster, "a re-assertion", "create", &claim(third, "10.0.0.3", NONCE, Some(epoch + 1)))?;
    cluster.plane()?.kubectl(&["delete", "addressclaim", third], "").context("a deletion while frozen")?;
    refuses(cluster, "an older epoch", ("apply", &state("cluster", epoch, true)), "never goes back")?;
    accepts(cluster, "the thaw", "apply", &state("cluster", epoch + 1, false))?;
    let thawed = || Ok(answer_to(cluster, "create", &claim(third, "10.0.0.3", NONCE, None)).is_ok());
    wait(PATIENCE, "a claim after the thaw", thawed)?;
    cluster.plane()?.kubectl(&["delete", "addressclaims", "--all"], "").map(drop)
}

/// Every trial runs the agent with these rights. This one checks that it has no others.
pub(crate) fn rights(cluster: &mut Cluster) -> Result<()> {
    let may = |verb: &str, what: &str| -> Result<bool> {
        let user = "--as=system:serviceaccount:kube-system:weft";
        // kubectl also refuses with its exit status.
        let said = cluster.plane()?.kubectl(&["auth", "can-i", verb, what, user], "");
        Ok(said.is_ok_and(|said| said.trim() == "yes"))
    };
    let objects =
        ["addressclaims", "ledgerstates", "ledgernodes", "addresspools"].map(|name| format!("{name}.ipam.weft.dev"));
    let [claims, states, nodes, pools] = &objects;
    let expected =
        [("create", claims, true), ("delete", claims, true), ("update", states, true), ("update", nodes, true)];
    let denied =
        [("delete", states, false), ("patch", states, false), ("delete", nodes, false), ("patch", claims, false)];
    let of_pools = [("get", pools, true), ("list", pools, false), ("update", pools, false)];
    let [cells, domains] = ["addressblocks", "ledgerdomains"].map(|name| format!("{name}.ipam.weft.dev"));
    let of_cells = [("create", &cells, true), ("delete", &cells, true), ("patch", &cells, false)];
    let of_domains = [("create", &domains, true), ("update", &domains, false), ("delete", &domains, false)];
    let of_blocks = of_cells.into_iter().chain(of_domains);
    for (verb, what, right) in expected.into_iter().chain(denied).chain(of_pools).chain(of_blocks) {
        ensure!(may(verb, what)? == right, "{verb} {what}: expected {right}");
    }
    Ok(())
}

/// A cluster without weft's objects: ADD says what to apply, and works after that.
pub(crate) fn missing(cluster: &mut Cluster) -> Result<()> {
    let plane = cluster.plane()?;
    plane.kubectl(&["delete", "crd", "addressclaims.ipam.weft.dev"], "")?;
    let (node, pod) = (Node::new(cluster, 1)?, Pod::new("one")?);
    let refused = node.run("ADD", &pod)?.error();
    let left = node.leftovers()?;
    plane.apply("crds/ipam.weft.dev.yaml")?;
    cluster.established()?;
    let error = refused?;
    ensure!(format!("{error:?}").contains("deploy/crds/ipam.weft.dev.yaml"), "{error:?}");
    ensure!(left.is_empty(), "left {left:?}");
    let added = || Ok(node.run("ADD", &pod)?.result().is_ok());
    wait(PATIENCE, "an ADD with the objects", added).with_context(|| node.log())?;
    node.del(&pod)?;
    wait(PATIENCE, "no claim", || Ok(cluster.claims()?.is_empty()))
}

/// Returns a Node of a machine, as text.
fn node_object(name: &str, machine: &str, ready: &str) -> String {
    json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}, "status": {
        "nodeInfo": {"systemUUID": machine, "architecture": "", "bootID": "", "containerRuntimeVersion": "",
            "kernelVersion": "", "kubeProxyVersion": "", "kubeletVersion": "", "machineID": "",
            "operatingSystem": "", "osImage": ""},
        "conditions": [{"type": "Ready", "status": ready}]}})
    .to_string()
}

/// Neither NotReady nor a deleted Node frees anything; the taint `out-of-service` on this machine's Node does, while the
/// node is not ready, and for the boots before it. Pods that the API server still has are kept even then: static ones are
/// known under another uid.
pub(crate) fn fenced_by_taint(cluster: &mut Cluster) -> Result<()> {
    let plane = cluster.plane()?;
    let mut dead = Node::new(cluster, 7)?;
    let alive = Node::new(cluster, 8)?;
    let [plain, live, fixed, other] = ["plain", "live", "fixed", "two"].map(Pod::new);
    let (plain, live, fixed, other) = (plain?, live?, fixed?, other?);
    check::make_namespace(cluster)?;
    // The mirror of a static pod, whose own uid the API server does not know.
    check::make_pod(cluster, "fixed")?;
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "live", "namespace": "ns"},
        "spec": {"containers": [{"name": "c", "image": "i"}], "nodeName": dead.name()}});
    accepts(cluster, "a pod", "create", &pod)?;
    let uid = plane.kubectl(&["-n", "ns", "get", "pod", "live", "-o", "jsonpath={.metadata.uid}"], "")?;
    dead.add(&plain)?;
    dead.add_of(&live, ("live", &uid), &dead.conf())?;
    dead.add_of(&fixed, ("fixed", "uid-fixed"), &dead.conf())?;
    alive.add(&other)?;
    dead.kill_agent();
    let keeps = |count: usize, what: &str| -> Result<()> {
        let said = alive.run_weftctl(cluster, &["reclaim"])?;
        ensure!(cluster.count()? == count, "{what}: {} claims are left: {said}", cluster.count()?);
        Ok(())
    };
    keeps(4, "a node without a Node object")?;
    let taint = "node.kubernetes.io/out-of-service=nodeshutdown:NoExecute";
    let machine = dead.machine()?;
    let node = |ready: &str| -> Result<()> {
        let object = node_object(dead.name(), &machine, ready);
        plane.kubectl(&["replace", "--subresource=status", "-f", "-"], &object).map(drop)
    };
    let delete_pod = |name: &str| -> Result<()> {
        plane.kubectl(&["-n", "ns", "delete", "pod", name, "--force", "--grace-period=0"], "").map(drop)
    };
    plane.kubectl(&["apply", "-f", "-"], &node_object(dead.name(), &machine, "False"))?;
    node("False")?;
    keeps(4, "a node that is not ready")?;
    // Kubernetes' collector deletes the pods of a deleted Node.
    plane.kubectl(&["delete", "node", dead.name()], "")?;
    delete_pod("live")?;
    keeps(4, "a node whose Node object was deleted")?;
    accepts(cluster, "a pod", "create", &pod)?;
    let other_uid = plane.kubectl(&["-n", "ns", "get", "pod", "live", "-o", "jsonpath={.metadata.uid}"], "")?;
    ensure!(other_uid != uid, "a pod that was made again has the uid {uid}");
    plane.kubectl(&["apply", "-f", "-"], &node_object(dead.name(), &machine, "False"))?;
    plane.kubectl(&["taint", "node", dead.name(), taint], "")?;
    node("True")?;
    keeps(4, "a node that is ready")?;
    node("False")?;
    // The pod of the same name is another one.
    keeps(2, "a tainted node, with the object of one pod")?;
    ensure!(fixed.addresses()?.len() == 1, "{:?}", fixed.addresses()?);
    delete_pod("fixed")?;
    keeps(1, "a tainted node without pods")?;
    delete_pod("live")?;
    // It boots, and the taint stays.
    drop((plain, live, fixed));
    dead.reboot(BOOT)?;
    dead.start_agent()?;
    let late = Pod::new("late")?;
    wait(PATIENCE, "an ADD", || Ok(dead.add(&late).is_ok())).with_context(|| dead.log())?;
    keeps(2, "a boot under the taint")?;
    dead.del(&late)?;
    plane.kubectl(&["delete", "node", dead.name()], "")?;
    alive.del(&other)?;
    wait(PATIENCE, "no claim", || Ok(cluster.count()? == 0))
}

/// Another program's admission policy protects two claims: everything else is given back and granted, also by an agent
/// that starts.
pub(crate) fn refused(cluster: &mut Cluster) -> Result<()> {
    let mut node = Node::new(cluster, 1)?;
    let pods = ["deleted", "lost", "third"].map(Pod::new).into_iter().collect::<Result<Vec<_>>>()?;
    let mut names = Vec::new();
    for pod in &pods {
        let address: std::net::Ipv4Addr = node.add(pod)?.parse()?;
        names.push(format!("default-{:08x}", u32::from(address)));
    }
    let plane = cluster.plane()?;
    plane.kubectl(&["delete", "addressclaim", &names[1]], "")?;
    protect(cluster, &names[..2])?;
    for pod in [&pods[0], &pods[2]] {
        node.del(pod)?;
    }
    // Only the protected one is left.
    wait(PATIENCE, "the third claim given back", || Ok(cluster.claims()?.len() == 1)).with_context(|| node.log())?;
    node.kill_agent();
    node.start_agent()?;
    let late = Pod::new("late")?;
    node.add(&late)?;
    wait(PATIENCE, "both refusals in the log", || Ok(node.log().matches(" refuses ").count() >= 2))?;
    node.del(&late)?;
    plane.kubectl(&["delete", "validatingadmissionpolicybinding,validatingadmissionpolicy", "protected"], "")?;
    let free = || Ok(answer_to(cluster, "create", &claim(&names[1], "10.50.0.3", NONCE, None)).is_ok());
    wait(PATIENCE, "the end of the policy", free)?;
    plane.kubectl(&["delete", "addressclaim", &names[1]], "")?;
    // Another agent does not wait for the next try.
    node.kill_agent();
    node.start_agent()?;
    let is_back = || Ok(cluster.claims()?.len() == 1 && plane.kubectl(&["get", "addressclaim", &names[1]], "").is_ok());
    wait(PATIENCE, "the lost claim, and not the deleted one", is_back).with_context(|| node.log())?;
    node.del(&pods[1])?;
    wait(PATIENCE, "no claim", || Ok(cluster.claims()?.is_empty()))?;
    node.wait_for_nothing_left()
}

/// Lets nobody make or delete claims of these names.
fn protect(cluster: &Cluster, names: &[String]) -> Result<()> {
    let list = names.iter().map(|name| format!("'{name}'")).collect::<Vec<_>>().join(", ");
    let expression = format!("!((request.operation == 'DELETE' ? oldObject : object).metadata.name in [{list}])");
    let policy = json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicy",
        "metadata": {"name": "protected"},
        "spec": {
            "failurePolicy": "Fail",
            "matchConstraints": {"resourceRules": [{"apiGroups": ["ipam.weft.dev"], "apiVersions": ["*"],
                "operations": ["CREATE", "DELETE"], "resources": ["addressclaims"]}]},
            "validations": [{"expression": expression, "message": "this claim is protected"}],
        },
    });
    let binding = json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicyBinding",
        "metadata": {"name": "protected"},
        "spec": {"policyName": "protected", "validationActions": ["Deny"]},
    });
    accepts(cluster, "a policy", "create", &policy)?;
    accepts(cluster, "a binding", "create", &binding)?;
    let probe = claim(&names[1], "10.50.0.3", NONCE, None).to_string();
    let is_refused = || {
        let said = cluster.plane()?.kubectl(&["create", "--dry-run=server", "-f", "-"], &probe);
        Ok(said.is_err_and(|error| format!("{error:#}").contains("this claim is protected")))
    };
    wait(PATIENCE, "the policy", is_refused)
}
